//! Where a store on disk is kept, and how it is opened: by a task, once the configuration takes effect.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_cache::disk::{DiskLimits, DiskProblem, DiskStore};

/// How long to wait before the next attempt to open a folder.
const RETRY: Duration = Duration::from_secs(2);
/// Problems of one kind are logged this often at most.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Why a folder is not open.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("cannot open {}: {error}", path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error("{} is in use by another cache", path.display())]
    InUse { path: PathBuf },
}

/// The folders that caches of this process have open, and which.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<DiskStore>>>> = LazyLock::new(Mutex::default);

/// The store of one cache, once it is open. It outlives changes of options.
pub(super) struct DiskSlot {
    path: PathBuf,
    store: OnceLock<Arc<DiskStore>>,
    /// Why it is not open.
    problem: Mutex<Option<String>>,
}

impl DiskSlot {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, store: OnceLock::new(), problem: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The store, if it is open.
    pub(super) fn store(&self) -> Option<&Arc<DiskStore>> {
        self.store.get()
    }

    /// Why it is not open.
    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// Opens the folder, or changes the limits if it is open. Blocks.
    fn set_up(&self, name: &str, limits: DiskLimits) -> Result<(), OpenError> {
        if let Some(store) = self.store.get() {
            store.resize(limits);
            return Ok(());
        }
        let failed = |error| OpenError::Folder { path: self.path.clone(), error };
        // Two names may lead to one folder.
        std::fs::create_dir_all(&self.path).map_err(failed)?;
        let path = self.path.canonicalize().map_err(failed)?;
        let mut open = OPEN.lock();
        open.retain(|_, store| store.strong_count() > 0);
        if let Some(store) = self.store.get() {
            // A task of the previous configuration was faster.
            store.resize(limits);
            return Ok(());
        }
        if open.contains_key(&path) {
            return Err(OpenError::InUse { path });
        }
        let store = DiskStore::open(&path, limits, reporter(name.to_owned())).map_err(failed)?;
        open.insert(path, Arc::downgrade(&store));
        // Only set with the lock.
        let _ = self.store.set(store);
        Ok(())
    }
}

/// Logs problems of the store `name`, and none again for a while.
fn reporter(name: String) -> tidegate_cache::disk::Report {
    let last: Mutex<HashMap<std::mem::Discriminant<DiskProblem>, std::time::Instant>> = Mutex::default();
    Box::new(move |problem| {
        let now = std::time::Instant::now();
        let kind = std::mem::discriminant(problem);
        if last.lock().get(&kind).is_some_and(|last| now.duration_since(*last) < LOG_INTERVAL) {
            return;
        }
        last.lock().insert(kind, now);
        tracing::error!(middleware = name, "cache: {problem}");
    })
}

/// Opens the store of a slot, and tries again until it succeeds. Requests are served without it meanwhile.
pub(super) async fn open(slot: Arc<DiskSlot>, name: String, limits: DiskLimits) {
    loop {
        let (blocking, label) = (slot.clone(), name.clone());
        let opened = tokio::task::spawn_blocking(move || blocking.set_up(&label, limits)).await;
        let problem = match opened {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        let is_open = problem.is_none();
        let is_new = {
            let mut last = slot.problem.lock();
            let is_new = *last != problem;
            last.clone_from(&problem);
            is_new
        };
        if let Some(problem) = problem.filter(|_| is_new) {
            tracing::error!(middleware = name, "cache: {problem}; responses are kept in memory only");
        }
        if is_open {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}
