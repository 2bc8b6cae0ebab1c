//! Watches files with inotify.

use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::load::Source;

/// The kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The file was closed, renamed or removed: read it now.
    Finished,
    /// The file is being written.
    Writing,
}

pub(super) struct Watcher {
    inner: Option<RecommendedWatcher>,
    signals: Option<mpsc::Receiver<Signal>>,
    watched: Vec<(PathBuf, (u64, u64))>,
}

impl Watcher {
    /// Returns a watcher that watches nothing.
    pub(super) fn none() -> Self {
        Self { inner: None, signals: None, watched: Vec::new() }
    }

    /// Watches a source, as far as it exists. Directories are watched instead of files, to detect
    /// replacements.
    pub(super) fn start(source: &Source) -> Self {
        // Excess signals can be dropped: one is enough to trigger a read.
        let (sender, signals) = mpsc::channel(64);
        let file = match source {
            Source::File(path) => Some(path.clone()),
            Source::Directory(_) => None,
        };
        let handler = move |event: notify::Result<notify::Event>| {
            if let Some(signal) = signal(&event)
                && file.as_deref().is_none_or(|file| concerns(&event, file))
            {
                let _ = sender.try_send(signal);
            }
        };
        match notify::recommended_watcher(handler) {
            Ok(inner) => {
                let mut watcher = Self { inner: Some(inner), signals: Some(signals), watched: Vec::new() };
                watcher.refresh(source);
                watcher
            }
            Err(error) => {
                tracing::warn!("cannot watch files, polling every two seconds instead: {error}");
                Self::none()
            }
        }
    }

    /// Watches new and restored directories.
    pub(super) fn refresh(&mut self, source: &Source) {
        let Some(inner) = &mut self.inner else { return };
        let (folders, mode) = match source {
            Source::Directory(path) => (vec![path.clone()], RecursiveMode::Recursive),
            Source::File(path) => {
                let real = path.canonicalize().ok();
                let parents = [Some(path.as_path()), real.as_deref()].into_iter().flatten().map(folder);
                (parents.collect(), RecursiveMode::NonRecursive)
            }
        };
        for folder in folders {
            let Some(identity) = identity(&folder) else { continue };
            let entry = (folder, identity);
            if self.watched.contains(&entry) {
                continue;
            }
            let _ = inner.unwatch(&entry.0);
            if let Err(error) = inner.watch(&entry.0, mode) {
                tracing::warn!(
                    "cannot watch {}, polling every two seconds instead: {error}",
                    entry.0.display()
                );
            }
            self.watched.retain(|(path, _)| *path != entry.0);
            self.watched.push(entry);
        }
    }

    /// Returns the next change; several simultaneous ones are combined.
    pub(super) async fn next(&mut self) -> Signal {
        let Some(signals) = &mut self.signals else { return std::future::pending().await };
        let Some(mut signal) = signals.recv().await else { return std::future::pending().await };
        while let Ok(next) = signals.try_recv() {
            if next == Signal::Finished {
                signal = next;
            }
        }
        signal
    }
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino()))
}

/// Returns false if the event is about another file in the same directory, such as a busy log.
fn concerns(event: &notify::Result<notify::Event>, file: &Path) -> bool {
    let Ok(event) = event else { return true };
    let content = EventKind::Access(AccessKind::Close(AccessMode::Write));
    if event.kind != content && !matches!(event.kind, EventKind::Modify(ModifyKind::Data(_))) {
        return true;
    }
    let is_it = |path: &PathBuf| path.file_name() == file.file_name();
    event.paths.iter().any(is_it) || file.canonicalize().is_ok_and(|real| event.paths.contains(&real))
}

fn signal(event: &notify::Result<notify::Event>) -> Option<Signal> {
    match event {
        // Events were lost.
        Err(_) => Some(Signal::Finished),
        Ok(event) if event.need_rescan() => Some(Signal::Finished),
        Ok(event) => match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_) => Some(Signal::Finished),
            EventKind::Access(_) => None,
            _ => Some(Signal::Writing),
        },
    }
}
