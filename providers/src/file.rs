//! Route files: one file, or all files of a folder, followed as they change.
//!
//! A file that cannot be read as a whole keeps its last good content; an object in it that is broken keeps its last
//! good version. Both are reported with file and line.

mod content;
mod watch;

use std::path::PathBuf;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{Error, Provider, Session};
use content::Folder;
use watch::Watch;

/// Traefik's `providers.file`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// One file. Exclusive with `directory`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filename: String,
    /// All `.yml`, `.yaml` and `.toml` files of a folder and its folders.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub directory: String,
    /// Follow changes.
    pub watch: bool,
    /// Log each file as it is once its template has been evaluated, at level `DEBUG`.
    pub debug_log_generated_template: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { filename: String::new(), directory: String::new(), watch: true, debug_log_generated_template: false }
    }
}

/// The provider.
#[derive(Debug)]
pub struct File {
    place: Place,
    options: Options,
}

/// What is read.
#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Folder(PathBuf),
}

impl File {
    /// Checks the options: exactly one of `filename` and `directory`.
    pub fn new(options: Options) -> Result<Self, Error> {
        let place = match (options.filename.is_empty(), options.directory.is_empty()) {
            (false, true) => Place::File(PathBuf::from(&options.filename)),
            (true, false) => Place::Folder(PathBuf::from(&options.directory)),
            (true, true) => {
                let message = "expected a file, or a folder in `providers.file.directory`".into();
                return Err(Error::Option { option: "providers.file.filename", message });
            }
            (false, false) => {
                let message = "`filename` and `directory` exclude each other".into();
                return Err(Error::Option { option: "providers.file.directory", message });
            }
        };
        Ok(Self { place, options })
    }
}

impl Provider for File {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        self.follow(session).boxed()
    }
}

impl File {
    async fn follow(&self, mut session: Session) -> Result<(), Error> {
        let mut watch = self.options.watch.then(|| Watch::on(&self.place));
        let mut folder = Folder::new(self.place.clone(), self.options.debug_log_generated_template);
        loop {
            // Reading and parsing may take a while: not on a thread that others wait for.
            let (back, state) = tokio::task::spawn_blocking(move || {
                let state = folder.read();
                (folder, state)
            })
            .await
            .map_err(|error| Error::Source(format!("reading the route files failed: {error}")))?;
            folder = back;
            if let Some(state) = state {
                session.deliver(state).await?;
            }
            match &mut watch {
                Some(watch) => tokio::select! {
                    () = watch.changed(&folder) => {}
                    () = session.reload_asked() => folder.forget(),
                },
                None => {
                    session.reload_asked().await;
                    folder.forget();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
