//! `acme.json`: the storage in a file, as Traefik reads and writes it.
//!
//! It is replaced as a whole, so a full disk or a kill leaves the old one. Beside it, `acme.json.state` holds what has
//! failed, so that a restart does not begin again at once; it may be deleted.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_core::BoxFuture;

use super::backoff::RetryState;
use super::error::Error;
use super::storage::{Change, Storage, Stored};

/// Maximum size of a file, in bytes.
const LARGEST: u64 = 256 << 20;

/// The content of a file, by resolver.
pub(super) type Whole = BTreeMap<String, Stored>;
type State = BTreeMap<String, RetryState>;

/// A storage in a file.
#[derive(Clone)]
pub(crate) struct FileStorage(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// Metadata of the files when each resolver last checked for changes.
    seen: Mutex<HashMap<String, [Stamp; 2]>>,
}

type Stamp = Option<(i64, i64, u64, u64)>;

impl FileStorage {
    /// Creates a storage in this file. Nothing is read yet.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Inner { path: path.into(), seen: Mutex::default() }))
    }

    /// Reads the file, and creates it if it is missing. Blocks.
    pub(crate) fn read(&self) -> Result<Whole, Error> {
        let inner = &self.0;
        let shown = inner.path.display();
        let file = match File::open(&inner.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                replace(&inner.path, b"")
                    .map_err(|error| Error::local(format!("cannot create {shown}: {error}")))?;
                return Ok(Whole::new());
            }
            Err(error) => return Err(Error::local(format!("cannot read {shown}: {error}"))),
        };
        let metadata = file.metadata().map_err(|error| Error::local(format!("{shown}: {error}")))?;
        if metadata.is_dir() {
            return Err(Error::local(format!(
                "{shown} is a directory: expected a file (Docker makes a directory where the file of a mount is missing)"
            )));
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(Error::local(format!(
                "permissions {mode:o} for {shown} are too open, please use 600"
            )));
        }
        parse(file).map_err(|error| Error::local(format!("{shown} cannot be used: {error}")))
    }

    /// Changes the data of a resolver. Blocks.
    pub(crate) fn write_change(&self, resolver: &str, change: Change) -> Result<(), Error> {
        let path = &self.0.path;
        let _lock = lock(path);
        let mut whole = self.read()?;
        whole.entry(resolver.to_owned()).or_default().apply(change);
        save(path, &whole)
    }

    /// Reads the file, which must exist. Blocks.
    pub(super) fn read_existing(&self) -> Result<Whole, Error> {
        match self.0.path.is_file() {
            true => self.read(),
            false => Err(Error::local(format!("{} is not there", self.0.path.display()))),
        }
    }

    /// Replaces the data of a resolver. Blocks.
    pub(super) fn keep(&self, resolver: &str, content: Stored) -> Result<(), Error> {
        let path = &self.0.path;
        let _lock = lock(path);
        let mut whole = self.read()?;
        whole.insert(resolver.to_owned(), content);
        save(path, &whole)
    }

    /// Reads the retry state of all resolvers. Blocks.
    pub(crate) fn read_state(&self) -> State {
        let path = self.state_path();
        match File::open(&path).map(parse) {
            Ok(Ok(state)) => state,
            Ok(Err(error)) => {
                tracing::warn!("{} cannot be read and is begun anew: {error}", path.display());
                State::new()
            }
            Err(_) => State::new(),
        }
    }

    /// Changes the retry state of a resolver. Blocks.
    pub(crate) fn write_state(
        &self,
        resolver: &str,
        change: impl FnOnce(&mut RetryState),
    ) -> Result<(), Error> {
        let _lock = lock(&self.0.path);
        let mut state = self.read_state();
        change(state.entry(resolver.to_owned()).or_default());
        save(&self.state_path(), &state)
    }

    fn state_path(&self) -> PathBuf {
        let mut path = self.0.path.clone().into_os_string();
        path.push(".state");
        path.into()
    }

    fn stamps(&self) -> [Stamp; 2] {
        [self.0.path.clone(), self.state_path()].map(|path| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.mtime(), meta.mtime_nsec(), meta.len(), meta.ino()))
        })
    }

    fn note(&self, resolver: &str) {
        self.0.seen.lock().insert(resolver.to_owned(), self.stamps());
    }

    async fn run<T: Send + 'static>(&self, what: impl FnOnce(&Self) -> T + Send + 'static) -> Option<T> {
        let storage = self.clone();
        tokio::task::spawn_blocking(move || what(&storage)).await.ok()
    }
}

impl Storage for FileStorage {
    fn load<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, Result<Stored, Error>> {
        Box::pin(async move {
            let name = resolver.to_owned();
            let read = self.run(move |storage| {
                storage.note(&name);
                storage.read().map(|mut whole| whole.remove(&name).unwrap_or_default())
            });
            read.await.unwrap_or_else(|| Err(Error::local("reading the storage failed")))
        })
    }

    fn change<'a>(&'a self, resolver: &'a str, change: Change) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let name = resolver.to_owned();
            let written = self.run(move |storage| storage.write_change(&name, change));
            written.await.unwrap_or_else(|| Err(Error::local("writing the storage failed")))
        })
    }

    fn retry_state<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, RetryState> {
        Box::pin(async move {
            let state = self.run(|storage| storage.read_state()).await;
            state.and_then(|mut state| state.remove(resolver)).unwrap_or_default()
        })
    }

    fn keep_ledger<'a>(
        &'a self,
        resolver: &'a str,
        retry_state: &'a RetryState,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let (name, retry_state) = (resolver.to_owned(), retry_state.clone());
            let written = self.run(move |storage| {
                storage.write_state(&name, |old| {
                    old.names = retry_state.names;
                })
            });
            written.await.unwrap_or_else(|| Err(Error::local("writing the storage failed")))
        })
    }

    fn take_renewals<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            let name = resolver.to_owned();
            let taken = self.run(move |storage| {
                if storage.read_state().get(&name).is_none_or(|retry_state| retry_state.renew.is_empty()) {
                    return Vec::new();
                }
                let mut taken = Vec::new();
                let written =
                    storage.write_state(&name, |retry_state| taken = std::mem::take(&mut retry_state.renew));
                written.map(|()| taken).unwrap_or_default()
            });
            taken.await.unwrap_or_default()
        })
    }

    fn is_changed<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let name = resolver.to_owned();
            let looked = self.run(move |storage| {
                let now = storage.stamps();
                storage.0.seen.lock().insert(name, now).is_some_and(|before| before != now)
            });
            looked.await.unwrap_or(false)
        })
    }
}

/// Reads JSON; an empty file holds nothing.
fn parse<T: DeserializeOwned + Default>(file: File) -> io::Result<T> {
    let mut text = Vec::new();
    file.take(LARGEST).read_to_end(&mut text)?;
    if text.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    Ok(serde_json::from_slice(&text)?)
}

fn save(path: &Path, content: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(content).map_err(|error| Error::local(error.to_string()))?;
    replace(path, &text).map_err(|error| {
        Error::local(format!("cannot write {}, what it held before is untouched: {error}", path.display()))
    })
}

/// Locks out other processes until it is dropped. Locks the folder, because the file is replaced.
fn lock(path: &Path) -> Option<File> {
    let folder = File::open(folder_of(path)).ok()?;
    folder.lock().ok()?;
    Some(folder)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Replaces a file atomically, even if the power fails.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    // The target of a link, not the link, is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut beside = path.clone().into_os_string();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    let old = fs::metadata(path).ok();
    // A new file gets the owner of the one beside it: a command may run as another user.
    let owner = old.clone().or_else(|| fs::metadata(path.with_extension("")).ok());
    let written = write_beside(&beside, content, owner.as_ref()).and_then(|()| fs::rename(&beside, path));
    match written {
        Ok(()) => File::open(folder_of(path))?.sync_all(),
        Err(error) => {
            let _ = fs::remove_file(&beside);
            // A file that is a mount itself cannot be replaced, only overwritten.
            let is_mounted = matches!(
                error.kind(),
                io::ErrorKind::ResourceBusy
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
            );
            if is_mounted && old.is_some() { fill(path, content).map_err(|_| error) } else { Err(error) }
        }
    }
}

fn write_beside(path: &Path, content: &[u8], old: Option<&fs::Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    if let Some(old) = old {
        // A command that runs as root must not take the file away from its owner.
        let _ = std::os::unix::fs::chown(path, Some(old.uid()), Some(old.gid()));
    }
    file.write_all(content)?;
    file.sync_all()
}

/// Overwrites a file. Allocates the space first, so that a full disk does no harm.
fn fill(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let missing = usize::try_from((content.len() as u64).saturating_sub(length)).unwrap_or(0);
    let room = (&file).seek_to(length).and_then(|mut file| {
        // JSON may end in spaces.
        file.write_all(&vec![b' '; missing])?;
        file.sync_all()
    });
    if let Err(error) = room {
        let _ = file.set_len(length);
        return Err(error);
    }
    io::Seek::rewind(&mut file)?;
    file.write_all(content)?;
    file.sync_all()?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

/// Moves to a place and gives itself back.
trait SeekTo: Sized {
    fn seek_to(self, place: u64) -> io::Result<Self>;
}

impl SeekTo for &File {
    fn seek_to(mut self, place: u64) -> io::Result<Self> {
        io::Seek::seek(&mut self, io::SeekFrom::Start(place))?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use crate::storage::Domain;

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    use super::*;
    use crate::key::AccountKey;
    use crate::managed::ManagedCertificate;
    use crate::storage::{StoredAccount, StoredCertificate};

    fn certificate(main: &str, content: &str) -> StoredCertificate {
        let domain = Domain { main: main.to_owned(), sans: Vec::new() };
        StoredCertificate {
            domain,
            certificate: content.to_owned(),
            store: "default".into(),
            ..Default::default()
        }
    }

    #[test]
    fn resolvers_share_a_file_that_only_its_owner_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        let storage = FileStorage::new(&path);
        assert_eq!(storage.read().unwrap(), Whole::new());
        let account = StoredAccount { email: "a@b.c".into(), ..StoredAccount::default() };
        storage.write_change("one", Change::Account(account)).unwrap();
        for content in ["old", "new"] {
            let change = Change::Certificate { new: certificate("a.test", content), instead_of: vec![] };
            storage.write_change("two", change).unwrap();
        }
        let whole = FileStorage::new(&path).read().unwrap();
        assert_eq!(whole["one"].account.as_ref().unwrap().email, "a@b.c");
        assert_eq!(whole["two"].certificates.as_ref().unwrap(), &[certificate("a.test", "new")]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_others_read_or_that_is_broken_is_refused_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        let storage = FileStorage::new(&path);
        fs::write(&path, "{").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let message = storage.read().unwrap_err().message;
        assert_eq!(message, format!("permissions 644 for {} are too open, please use 600", path.display()));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(
            storage.write_change("x", Change::Remove(vec![])).unwrap_err().message.contains("cannot be used")
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "{");
    }

    #[test]
    fn a_file_in_a_folder_that_cannot_be_written_is_filled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, "a longer text than what comes").unwrap();
        fill(&path, b"short").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "short");
        fill(&path, b"and longer again").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "and longer again");
    }

    /// Written by Traefik 3.7.15 with an authority that was thrown away afterwards.
    const TRAEFIK: &str = include_str!("fixtures/traefik-acme.json");

    #[test]
    fn what_traefik_wrote_is_taken_over_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        replace(&path, TRAEFIK.as_bytes()).unwrap();
        let storage = FileStorage::new(&path);
        let whole = storage.read().unwrap();
        let account = whole["le"].account.as_ref().unwrap();
        let key = BASE64_STANDARD.decode(&account.private_key).unwrap();
        let key = AccountKey::read(&key).unwrap();
        assert_eq!((key.algorithm(), account.email.as_str()), ("RS256", "a@b.test"));
        assert_eq!(BASE64_STANDARD.encode(key.der()), account.private_key);
        let certificates = whole["le"].certificates.clone().unwrap();
        for certificate in &certificates {
            let held =
                ManagedCertificate::read(certificate.clone(), 2160, time::OffsetDateTime::now_utc()).unwrap();
            assert!(held.facts.covers(&certificate.domain.main));
        }
        storage
            .write_change("le", Change::Certificate { new: certificate("new.test", ""), instead_of: vec![] })
            .unwrap();
        storage.write_change("le", Change::Remove(vec![certificate("new.test", "").domain])).unwrap();
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(json(&fs::read_to_string(&path).unwrap()), json(TRAEFIK), "nothing is added or lost");
    }

    #[test]
    fn links_stay_links() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, b"x").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), "x");
    }

    #[test]
    fn what_has_failed_outlives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let storage = FileStorage::new(folder.path().join("acme.json"));
        storage.write_state("r", |retry_state| retry_state.begin(&["a.test".to_owned()], 1000)).unwrap();
        assert_eq!(storage.read_state()["r"].names["a.test"].attempts, [1000]);
        fs::write(storage.state_path(), "nonsense").unwrap();
        assert!(storage.read_state().is_empty());
    }
}
