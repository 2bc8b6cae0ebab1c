//! Route files in YAML and TOML: one file or a directory, watched (Traefik's `providers.file`).
//!
//! A file that cannot be read keeps its last good content and does not affect the others. Changes are
//! detected through inotify, and by polling every two seconds where inotify does not work (NFS, overlays,
//! mounts).

mod load;
mod merge;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tidegate_clients::OptionError;
use tokio::time::Instant;

use crate::{Describe, Error, Provider, Session};
use load::{Content, Loaded, Loader, Source};
use watch::{Signal, Watcher};

/// Poll interval, in addition to inotify.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Pause after the last write before a file that was not closed is read.
const WRITE_PAUSE: Duration = Duration::from_millis(50);
/// Time until a missing file counts as removed: editors rename the old file before they write the new one.
const REMOVAL_DELAY: Duration = Duration::from_millis(100);

/// Options of `providers.file`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// Read all `.yml`, `.yaml` and `.toml` files in this directory, recursively. Excludes `filename`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub directory: String,
    /// Read this file.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// Follow changes.
    pub watch: bool,
    /// Log the rendered template of each file.
    pub debug_log_generated_template: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: String::new(),
            filename: String::new(),
            watch: true,
            debug_log_generated_template: false,
        }
    }
}

impl Describe for Options {
    fn place(&self) -> String {
        format!("{}{}", self.directory, self.filename)
    }
}

/// Builds the provider.
pub fn build(options: Options) -> Result<File, Error> {
    let source = match (options.directory.as_str(), options.filename.as_str()) {
        ("", "") => {
            let message = "expected `filename` or `directory`";
            return Err(OptionError::new("file", message).into());
        }
        (directory, "") => Source::Directory(PathBuf::from(directory)),
        ("", filename) => Source::File(PathBuf::from(filename)),
        _ => {
            let message = "`directory` and `filename` cannot be combined";
            return Err(OptionError::new("directory", message).into());
        }
    };
    let content = Content::Routes { log_templates: options.debug_log_generated_template };
    Ok(File { source, content, watch: options.watch })
}

/// Builds a provider of one file that has consumers only.
pub(crate) fn of_consumers(filename: &str, watch: bool) -> File {
    File { source: Source::File(PathBuf::from(filename)), content: Content::Consumers, watch }
}

/// The file provider.
#[derive(Clone, Debug)]
pub struct File {
    source: Source,
    content: Content,
    watch: bool,
}

impl Provider for File {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        Run::new(self, session).run().boxed()
    }
}

struct Run {
    session: Session,
    /// `None` while it runs on a blocking thread.
    loader: Option<Loader>,
    watch: bool,
    source: Source,
}

impl Run {
    fn new(file: &File, session: Session) -> Self {
        let loader = Loader::new(file.source.clone(), file.content);
        Self { session, loader: Some(loader), watch: file.watch, source: file.source.clone() }
    }

    async fn run(self) -> Result<(), Error> {
        // Watch before the first read, so that no change is missed.
        let watcher = if self.watch { Watcher::start(&self.source) } else { Watcher::none() };
        self.follow(watcher).await
    }

    async fn follow(mut self, mut watcher: Watcher) -> Result<(), Error> {
        let mut due = self.load(false).await?;
        let mut quiet: Option<Instant> = None;
        let mut first_unread: Option<Instant> = None;
        let mut poll = tokio::time::interval_at(Instant::now() + POLL_INTERVAL, POLL_INTERVAL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let next = [due, quiet].into_iter().flatten().min();
            let mut calm = true;
            tokio::select! {
                signal = watcher.next() => match signal {
                    Signal::Finished => {}
                    Signal::Writing => {
                        // Wait for a pause, but not indefinitely.
                        let now = Instant::now();
                        let limit = *first_unread.get_or_insert(now) + WRITE_PAUSE * 10;
                        quiet = Some((now + WRITE_PAUSE).min(limit));
                        continue;
                    }
                },
                () = sleep_until(next) => {}
                _ = poll.tick(), if self.watch => {
                    watcher.refresh(&self.source);
                    calm = false;
                }
                () = self.session.reload_asked() => {}
            }
            (quiet, first_unread) = (None, None);
            due = self.load(!calm).await?;
        }
    }

    /// Reads changed files and delivers the result. Returns when to check again.
    async fn load(&mut self, careful: bool) -> Result<Option<Instant>, Error> {
        let Some(mut loader) = self.loader.take() else {
            return Err(Error::Source("internal error: files are already being read".into()));
        };
        let work = tokio::task::spawn_blocking(move || {
            let loaded = loader.load(careful);
            (loader, loaded)
        });
        let (loader, loaded) =
            work.await.map_err(|error| Error::source(format!("cannot read files: {error}")))?;
        self.loader = Some(loader);
        let Loaded { state, unsettled, found } = loaded;
        if found {
            self.session.deliver(state).await?;
        } else {
            self.session.deliver_incomplete(state).await?;
        }
        Ok(unsettled.then(|| Instant::now() + REMOVAL_DELAY))
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use tidegate_config::{Origin, Provided};
    use tokio::sync::mpsc;

    use super::*;
    use crate::{Handle, Update};

    struct Running {
        handle: Handle,
        updates: mpsc::Receiver<Update>,
        last: Arc<Provided>,
    }

    impl Running {
        fn start(options: Options) -> Self {
            Self::of(Arc::new(build(options).expect("valid options")))
        }

        fn of(provider: Arc<dyn Provider>) -> Self {
            let (sender, updates) = mpsc::channel(16);
            Self { handle: crate::start("file", provider, sender), updates, last: Arc::default() }
        }

        fn directory(path: &Path) -> Self {
            Self::start(Options { directory: path.display().to_string(), ..Options::default() })
        }

        /// Waits for a state that matches a condition.
        async fn until(&mut self, wanted: impl Fn(&Provided) -> bool) -> Arc<Provided> {
            let wait = async {
                while !wanted(&self.last) {
                    self.last = self.updates.recv().await.expect("an update").state;
                }
            };
            let done = tokio::time::timeout(Duration::from_secs(20), wait).await;
            assert!(done.is_ok(), "never as wanted; last: {:?}", self.last);
            self.last.clone()
        }

        async fn first(&mut self) -> Arc<Provided> {
            self.last = self.updates.recv().await.expect("an update").state;
            self.last.clone()
        }
    }

    fn rules(state: &Provided) -> Vec<&str> {
        state.config.http.routers.values().map(|router| router.rule.as_str()).collect()
    }

    fn route(name: &str, rule: &str) -> String {
        format!("http:\n  routers:\n    {name}:\n      rule: {rule}\n      service: s\n")
    }

    #[tokio::test]
    async fn a_directory_is_read_and_watched() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.yml"), route("a", "A")).expect("written");
        fs::create_dir(at("sub")).expect("made");
        fs::write(at("sub/b.toml"), "[http.routers.b]\nrule = \"B\"\nservice = \"s\"\n").expect("written");
        fs::write(at("ignored.txt"), "{").expect("written");
        let mut running = Running::directory(folder.path());
        let state = running.first().await;
        assert_eq!(rules(&state), ["A", "B"]);
        let origin = state.origins.values().next().expect("an origin");
        assert!(
            matches!(&origin.origin, Origin::File { path, line: 3, .. } if path.ends_with("a.yml")),
            "{origin:?}"
        );
        fs::write(at("sub/c.yaml"), route("c", "C")).expect("written");
        running.until(|state| rules(state) == ["A", "B", "C"]).await;
        // An atomic replacement.
        fs::write(at("a.tmp"), route("a", "A2")).expect("written");
        fs::rename(at("a.tmp"), at("a.yml")).expect("renamed");
        running.until(|state| rules(state) == ["A2", "B", "C"]).await;
        fs::remove_file(at("sub/c.yaml")).expect("removed");
        running.until(|state| rules(state) == ["A2", "B"]).await;
        fs::write(at("a.yml"), "").expect("written");
        running.until(|state| rules(state) == ["B"]).await;
    }

    #[tokio::test]
    async fn a_broken_file_keeps_its_last_good_content() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.yml"), route("a", "A")).expect("written");
        fs::write(at("b.yml"), route("b", "B")).expect("written");
        let mut running = Running::directory(folder.path());
        running.first().await;
        fs::write(at("a.yml"), "http:\n  routers: [\n").expect("written");
        let state = running.until(|state| !state.problems.is_empty()).await;
        assert_eq!(rules(&state), ["A", "B"]);
        let shown = state.problems[0].to_string();
        assert!(shown.contains("a.yml") && shown.contains("last good content"), "{shown}");
        fs::write(at("b.yml"), route("b", "B2")).expect("written");
        running.until(|state| rules(state) == ["A", "B2"]).await;
        fs::write(at("a.yml"), [0xff, 0xfe]).expect("written");
        running.until(|state| state.problems.iter().any(|problem| problem.message.contains("UTF-8"))).await;
        fs::write(at("a.yml"), route("a", "A3")).expect("written");
        let state = running.until(|state| rules(state) == ["A3", "B2"]).await;
        assert_eq!(state.problems, []);
    }

    #[tokio::test]
    async fn the_first_of_two_files_wins() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("b.yml"), route("r", "late")).expect("written");
        fs::write(folder.path().join("a.yml"), route("r", "early")).expect("written");
        let state = Running::directory(folder.path()).first().await;
        assert_eq!(rules(&state), ["early"]);
        assert_eq!(state.problems.len(), 1);
        assert_eq!(state.problems[0].object, None, "the first one is not broken by it");
        assert!(state.problems[0].to_string().contains("a.yml"), "{}", state.problems[0]);
    }

    #[tokio::test]
    async fn templates_and_symlinks_are_read_and_reloads_work() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let template = "http:\n  routers:\n{{- range $i, $e := until 2 }}\n    r{{ $i }}: {rule: \"R{{ $e }}\", service: s}\n{{- end }}\n";
        // As Kubernetes mounts a ConfigMap.
        fs::create_dir(at("..1")).expect("made");
        fs::write(at("..1/r.yml"), template).expect("written");
        fs::create_dir(at("..2")).expect("made");
        fs::write(at("..2/r.yml"), route("x", "X")).expect("written");
        std::os::unix::fs::symlink("..1", at("..data")).expect("linked");
        std::os::unix::fs::symlink("..data/r.yml", at("r.yml")).expect("linked");
        let mut running = Running::directory(folder.path());
        assert_eq!(rules(&*running.first().await), ["R0", "R1"]);
        std::os::unix::fs::symlink("..2", at("..data_tmp")).expect("linked");
        fs::rename(at("..data_tmp"), at("..data")).expect("renamed");
        running.until(|state| rules(state) == ["X"]).await;
        fs::write(at("bad.yml"), "a\n{{ nosuch }}\n").expect("written");
        let state = running.until(|state| !state.problems.is_empty()).await;
        let shown = state.problems[0].to_string();
        assert!(shown.contains("bad.yml:2") && shown.contains("nosuch"), "{shown}");
        assert_eq!(&**running.handle.name(), "file");
    }

    #[tokio::test]
    async fn without_watch_only_a_reload_reads_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("r.yml");
        fs::write(&file, route("r", "old")).expect("written");
        let mut running = Running::start(Options {
            filename: file.display().to_string(),
            watch: false,
            ..Options::default()
        });
        assert_eq!(rules(&*running.first().await), ["old"]);
        fs::write(&file, route("r", "new")).expect("written");
        running.handle.reload();
        running.until(|state| rules(state) == ["new"]).await;
    }

    /// A file system without change notifications, such as NFS.
    struct Silent(File);

    impl Provider for Silent {
        fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
            Run::new(&self.0, session).follow(Watcher::none()).boxed()
        }
    }

    #[tokio::test]
    async fn changes_without_notifications_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.yml"), route("a", "A")).expect("written");
        let options = Options { directory: folder.path().display().to_string(), ..Options::default() };
        let mut running = Running::of(Arc::new(Silent(build(options).expect("options"))));
        assert_eq!(rules(&*running.first().await), ["A"]);
        fs::write(at("b.yml"), route("b", "B")).expect("written");
        running.until(|state| rules(state) == ["A", "B"]).await;
        // Same length as before.
        fs::write(at("b.yml"), route("b", "C")).expect("written");
        running.until(|state| rules(state) == ["A", "C"]).await;
        fs::remove_file(at("a.yml")).expect("removed");
        running.until(|state| rules(state) == ["C"]).await;
    }

    #[tokio::test]
    async fn a_missing_file_is_reported_until_it_exists() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("r.yml");
        let mut running =
            Running::start(Options { filename: file.display().to_string(), ..Options::default() });
        let state = running.first().await;
        assert!(state.problems[0].to_string().contains("r.yml"), "{:?}", state.problems);
        fs::write(&file, route("r", "R")).expect("written");
        running.until(|state| rules(state) == ["R"] && state.problems.is_empty()).await;
    }

    #[tokio::test]
    async fn a_file_that_is_moved_away_stays_in_force() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("r.yml"), route("r", "old")).expect("written");
        let filename = at("r.yml").display().to_string();
        let mut running = Running::start(Options { filename, ..Options::default() });
        running.first().await;
        fs::rename(at("r.yml"), at("elsewhere")).expect("renamed");
        let state = running.until(|state| !state.problems.is_empty()).await;
        assert_eq!(rules(&state), ["old"]);
        let shown = state.problems[0].to_string();
        assert!(shown.contains("r.yml: cannot read the file") && shown.contains("last good"), "{shown}");
        fs::write(at("r.yml"), route("r", "new")).expect("written");
        running.until(|state| rules(state) == ["new"] && state.problems.is_empty()).await;
    }

    #[tokio::test]
    async fn a_directory_that_is_moved_away_stays_in_force() {
        let outer = tempfile::tempdir().expect("a folder");
        let at = |name: &str| outer.path().join(name);
        fs::create_dir_all(at("routes/sub")).expect("made");
        fs::write(at("routes/a.yml"), route("a", "A")).expect("written");
        fs::write(at("routes/sub/b.yml"), route("b", "B")).expect("written");
        let mut running = Running::directory(&at("routes"));
        assert_eq!(rules(&*running.first().await), ["A", "B"]);
        fs::rename(at("routes"), at("elsewhere")).expect("renamed");
        let state = running.until(|state| !state.problems.is_empty()).await;
        assert_eq!(rules(&state), ["A", "B"]);
        let shown = state.problems[0].to_string();
        assert!(shown.contains("routes: cannot read the folder"), "{shown}");
        // When the directory is back, files missing from it are removed.
        fs::remove_file(at("elsewhere/a.yml")).expect("removed");
        fs::rename(at("elsewhere"), at("routes")).expect("renamed");
        running.until(|state| rules(state) == ["B"] && state.problems.is_empty()).await;
        fs::remove_dir_all(at("routes/sub")).expect("removed");
        running.until(|state| rules(state).is_empty() && state.problems.is_empty()).await;
    }

    #[test]
    fn conflicting_options_are_rejected() {
        let both = Options { directory: "a".into(), filename: "b".into(), ..Options::default() };
        assert!(build(both).is_err());
        assert!(build(Options::default()).is_err());
    }
}
