//! The last state of each provider on disk (`providers.lastState`), used when a source is unavailable at
//! startup.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_config::tls::Certificate;
use tidegate_config::{Config, ObjectOrigin, ObjectRef, Origin, Problem, Provided, RouteTest};
use tidegate_providers::{Update, Updates};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;

use crate::settings::LastState;

/// The version of the files' format.
const VERSION: u32 = 2;
/// Maximum size of a file in bytes.
const MAX_SIZE: u64 = 256 * 1024 * 1024;
/// Minimum interval between two saves.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// Key of saving problems among the states; not a valid provider name.
const PROBLEMS: &str = "@lastState";
/// Mode bits that let others write to a file or folder.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Why a state cannot be saved or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    #[error("{0}: others may write to it (mode {1:o}), expected 600")]
    Permissions(PathBuf, u32),
    #[error("{0}: {1}")]
    Format(PathBuf, serde_json::Error),
    #[error("{0}: version {1}, expected {VERSION}")]
    Version(PathBuf, u32),
    #[error("{0}: larger than {MAX_SIZE} bytes")]
    Size(PathBuf),
    #[error("{0}: its contents would not be the same when read again")]
    NotTheSame(PathBuf),
}

/// The content of a file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Saved {
    version: u32,
    saved_at: String,
    config: Config,
    origins: Vec<(ObjectRef, ObjectOrigin)>,
    problems: Vec<Problem>,
    raw: Vec<(ObjectRef, String)>,
    partial: Vec<(ObjectRef, Certificate)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tests: Vec<(Origin, RouteTest)>,
}

impl Saved {
    fn new(state: &Provided, saved_at: String) -> Self {
        let pairs = |(object, origin): (&ObjectRef, &ObjectOrigin)| (object.clone(), origin.clone());
        Self {
            version: VERSION,
            saved_at,
            config: state.config.clone(),
            origins: state.origins.iter().map(pairs).collect(),
            problems: state.problems.clone(),
            raw: state.raw.iter().map(|(object, text)| (object.clone(), text.clone())).collect(),
            partial: state
                .partial
                .iter()
                .map(|(object, partial)| (object.clone(), partial.clone()))
                .collect(),
            tests: state.tests.clone(),
        }
    }

    fn state(self) -> Provided {
        Provided {
            config: self.config,
            origins: self.origins.into_iter().collect(),
            problems: self.problems,
            raw: self.raw.into_iter().collect(),
            partial: self.partial.into_iter().collect(),
            tests: self.tests,
            ..Provided::default()
        }
    }
}

/// States by provider.
pub(crate) type States = BTreeMap<Arc<str>, Arc<Provided>>;

/// Stores states on disk.
#[derive(Clone)]
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(crate) fn new(options: &LastState) -> Self {
        Self { directory: PathBuf::from(&options.directory) }
    }

    /// Loads the last state of a provider, with a problem that it is outdated. `None` if there is none.
    /// Blocks.
    pub(crate) fn load(&self, provider: &str) -> Result<Option<Provided>, Error> {
        let path = self.path(provider);
        let Some(text) = read(&path)? else { return Ok(None) };
        let saved: Saved = serde_json::from_str(&text).map_err(|error| Error::Format(path.clone(), error))?;
        if saved.version != VERSION {
            return Err(Error::Version(path, saved.version));
        }
        let message = format!(
            "provider `{provider}` has delivered nothing since the start: serving its last known state of {} \
             (providers.lastState)",
            saved.saved_at
        );
        let mut state = saved.state();
        let origin = Origin::File { path: path.to_string_lossy().into(), line: 0, column: 0 };
        state.problems.push(Problem { origin, object: None, message, excerpt: None });
        Ok(Some(state))
    }

    /// Replaces the stored state of a provider, without objects that are only kept for a while. Blocks.
    fn save(&self, provider: &str, state: &Provided) -> Result<(), Error> {
        let state = &*state.without_kept();
        let path = self.path(provider);
        let format = |error| Error::Format(path.clone(), error);
        let now = OffsetDateTime::now_utc().truncate_to_second().format(&Rfc3339).unwrap_or_default();
        let text = serde_json::to_string(&Saved::new(state, now)).map_err(format)?;
        // What would be loaded must equal the current state.
        let again: Saved = serde_json::from_str(&text).map_err(format)?;
        if again.state() != *state {
            return Err(Error::NotTheSame(path));
        }
        replace(&path, &text)
    }

    fn path(&self, provider: &str) -> PathBuf {
        let safe = percent_encoding::utf8_percent_encode(provider, percent_encoding::NON_ALPHANUMERIC);
        self.directory.join(format!("{safe}.json"))
    }
}

/// Returns the text of a file that no one else may write to; `None` if it does not exist. Blocks.
pub(crate) fn read(path: &Path) -> Result<Option<String>, Error> {
    let failed = |error| Error::File(path.to_owned(), error);
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let facts = file.metadata().map_err(failed)?;
    let mode = facts.permissions().mode() & 0o777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(Error::Permissions(path.to_owned(), mode));
    }
    if facts.len() > MAX_SIZE {
        return Err(Error::Size(path.to_owned()));
    }
    let mut text = String::new();
    file.take(MAX_SIZE).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Replaces a file, with its folder, which only the gateway's user may read. Blocks.
pub(crate) fn replace(path: &Path, text: &str) -> Result<(), Error> {
    let failed = |error| Error::File(path.to_owned(), error);
    let beside = path.with_extension("json.new");
    let directory = path.parent().unwrap_or(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    // A leftover file may have another mode.
    let _ = fs::remove_file(&beside);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

/// Saves the newest state of each provider as it changes, one after the other, until the sender is dropped.
/// What cannot be saved is reported as a problem.
pub(crate) async fn keep(store: Store, mut newest: watch::Receiver<States>, updates: Updates) {
    let mut saved = States::new();
    let mut failures = Vec::new();
    while newest.changed().await.is_ok() {
        let states = newest.borrow_and_update().clone();
        let (own, before) = (store.clone(), saved.clone());
        let task = tokio::task::spawn_blocking(move || save_all(&own, &states, before));
        let Ok((now, problems)) = task.await else { return };
        saved = now;
        if problems != failures {
            failures.clone_from(&problems);
            let state = Arc::new(Provided { problems, ..Provided::default() });
            let update = Update { provider: Arc::from(PROBLEMS), state, ready: true };
            if updates.send(update).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(SAVE_INTERVAL).await;
    }
}

fn save_all(store: &Store, states: &States, mut saved: States) -> (States, Vec<Problem>) {
    let mut problems = Vec::new();
    for (provider, state) in states {
        if saved.get(provider).is_some_and(|known| Arc::ptr_eq(known, state)) {
            continue;
        }
        match store.save(provider, state) {
            Ok(()) => drop(saved.insert(provider.clone(), state.clone())),
            Err(error) => problems.push(Problem {
                origin: Origin::Internal,
                object: None,
                message: format!(
                    "providers.lastState: the state of provider `{provider}` could not be saved: {error}"
                ),
                excerpt: None,
            }),
        }
    }
    (saved, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &tempfile::TempDir) -> Store {
        Store { directory: folder.path().join("states") }
    }

    fn state() -> Provided {
        let config = r#"{
            "http": {
                "routers": {"r": {"rule": "Host(`h`)", "service": "s", "middlewares": ["m"], "tls": {}}},
                "services": {"s": {"loadBalancer": {"servers": [{"url": "http://127.0.0.1:1"}]}}},
                "middlewares": {"m": {"basicAuth": {"users": ["a:$apr1$x"]}}}
            },
            "tcp": {"routers": {"t": {"rule": "HostSNI(`*`)", "service": "none"}}},
            "tls": {"options": {"o": {"minVersion": "VersionTLS13"}}}
        }"#;
        let mut state = Provided { config: serde_json::from_str(config).unwrap(), ..Provided::default() };
        state.add_problems(vec![Problem {
            origin: Origin::Key("a/b".into()),
            object: Some(ObjectRef { kind: tidegate_config::Kind::Router, name: "r".into() }),
            message: "broken".into(),
            excerpt: None,
        }]);
        state
    }

    #[test]
    fn objects_that_are_only_kept_for_a_while_are_not_saved() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let mut kept = state();
        for (kind, name) in [(tidegate_config::Kind::Router, "r"), (tidegate_config::Kind::Middleware, "m")] {
            kept.kept.insert(ObjectRef { kind, name: name.into() }, "kept".into());
        }
        store.save("p", &kept).unwrap();
        let mut loaded = store.load("p").unwrap().unwrap();
        loaded.problems.pop();
        assert_eq!(loaded.config.http.routers.len() + loaded.config.http.middlewares.len(), 0);
        assert_eq!(loaded.config.http.services, state().config.http.services);
        assert_eq!((loaded.config.tcp, loaded.config.tls), (state().config.tcp, state().config.tls));
        assert_eq!(loaded.problems, [], "the problem of the router went with it");
    }

    #[test]
    fn a_saved_state_is_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        assert!(store.load("a/../b").unwrap().is_none());
        store.save("a/../b", &state()).unwrap();
        store.save("a/../b", &state()).unwrap();
        let mut loaded = store.load("a/../b").unwrap().unwrap();
        let note = loaded.problems.pop().unwrap();
        assert!(note.message.contains("last known state"), "{note}");
        assert_eq!(loaded, state());
        let mode = fs::metadata(store.path("a/../b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("states")).unwrap().count(), 1);
    }

    #[test]
    fn untrusted_files_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        store.save("p", &state()).unwrap();
        let path = store.path("p");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(store.load("p"), Err(Error::Permissions(_, 0o620))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace(&format!("\"version\":{VERSION}"), "\"version\":1")).unwrap();
        assert!(matches!(store.load("p"), Err(Error::Version(_, 1))));
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(matches!(store.load("p"), Err(Error::Format(..))));
    }
}
