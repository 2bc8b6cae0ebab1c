//! Tells when route files may have changed: by the system's notices at once, and by looking every two seconds for
//! places that give no notices (network file systems, links to elsewhere).

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::Place;
use super::content::Folder;

/// Time between looks at the files themselves.
const POLL: Duration = Duration::from_secs(2);
/// How long a file that is being written must be still before it is read.
const STILL: Duration = Duration::from_millis(40);
/// How long reading is put off at most while a file keeps changing.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a notice says about when to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notice {
    /// A file is complete: closed, moved or removed.
    Complete,
    /// A file is being written.
    Writing,
}

/// A watch on one place.
pub(super) struct Watch {
    notices: mpsc::Receiver<Notice>,
    /// Ends the notices when dropped.
    _watcher: Option<notify::RecommendedWatcher>,
}

impl Watch {
    /// Begins to watch. Where the system gives no notices, only looking is left, which is said in the log.
    pub(super) fn on(place: &Place) -> Self {
        let (sender, notices) = mpsc::channel(64);
        let watcher = begin(place, sender).map_err(|error| {
            tracing::warn!(provider = "file", "no notices of changes, looking every {POLL:?} instead: {error}");
        });
        Self { notices, _watcher: watcher.ok() }
    }

    /// Resolves when files may have changed and are not being written.
    pub(super) async fn changed(&mut self, folder: &Folder) {
        loop {
            let notice = tokio::select! {
                notice = self.notices.recv() => notice,
                () = tokio::time::sleep(POLL) => {
                    if folder.is_stale() {
                        return;
                    }
                    continue;
                }
            };
            match notice {
                Some(Notice::Complete) => {
                    // What came with it belongs to the same change.
                    while self.notices.try_recv().is_ok() {}
                    return;
                }
                Some(Notice::Writing) => return self.still().await,
                // No watcher: only looking is left.
                None => {
                    tokio::time::sleep(POLL).await;
                    if folder.is_stale() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the writing has ended.
    async fn still(&mut self) {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let quiet = (tokio::time::Instant::now() + STILL).min(end);
            match tokio::time::timeout_at(quiet, self.notices.recv()).await {
                Ok(Some(Notice::Writing)) if tokio::time::Instant::now() < end => {}
                _ => return,
            }
        }
    }
}

fn begin(place: &Place, sender: mpsc::Sender<Notice>) -> notify::Result<notify::RecommendedWatcher> {
    let (folder, mode, file) = match place {
        Place::Folder(path) => (path.clone(), RecursiveMode::Recursive, None),
        // The folder and not the file: a file that is replaced is another file.
        Place::File(path) => (parent(path), RecursiveMode::NonRecursive, path.file_name().map(ToOwned::to_owned)),
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let Some(notice) = notice_of(event.kind) else { return };
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            file.as_deref().is_none_or(|file| file == name || name.to_string_lossy().starts_with(".."))
        };
        if event.paths.iter().any(ours) {
            // A full queue means that a reading is due anyway.
            let _ = sender.try_send(notice);
        }
    })?;
    watcher.watch(&folder, mode)?;
    Ok(watcher)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn notice_of(kind: EventKind) -> Option<Notice> {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Name(_)) => Some(Notice::Complete),
        EventKind::Access(_) => None,
        _ => Some(Notice::Writing),
    }
}
