//! The switches on disk, beside the last states of providers.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Replica, ReplicaError, SwitchMap};
use crate::saved::{self, Error as SavedError};
use crate::settings::LastState;

/// Name of the file; not that of a provider's state.
const NAME: &str = "@maintenance.json";
/// The version of its format.
const VERSION: u32 = 1;

/// Why the file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error(transparent)]
    Saved(#[from] SavedError),
    #[error("{0}: {1}")]
    Format(PathBuf, serde_json::Error),
    #[error("{0}: version {1}, expected {VERSION}")]
    Version(PathBuf, u32),
    #[error("{0}: {1}")]
    Replica(PathBuf, ReplicaError),
}

/// The content of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Content {
    version: u32,
    routers: SwitchMap,
    /// What members of a cluster merge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<Replica>,
}

/// Returns the path of the file.
pub(super) fn path(options: &LastState) -> PathBuf {
    PathBuf::from(&options.directory).join(NAME)
}

/// Returns the switches; none without a file. Blocks.
pub(super) fn read(path: &Path) -> Result<Replica, FileError> {
    let Some(text) = saved::read(path)? else { return Ok(Replica::default()) };
    let content: Content =
        serde_json::from_str(&text).map_err(|error| FileError::Format(path.to_owned(), error))?;
    match (content.version, content.cluster) {
        (VERSION, Some(replica)) => {
            replica.checked().map_err(|error| FileError::Replica(path.to_owned(), error))
        }
        (VERSION, None) => Ok(Replica::from_switches(&content.routers)),
        (other, _) => Err(FileError::Version(path.to_owned(), other)),
    }
}

/// Replaces the file. Blocks.
pub(super) fn write(path: &Path, switches: &SwitchMap, cluster: Option<Replica>) -> Result<(), FileError> {
    let content = Content { version: VERSION, routers: switches.clone(), cluster };
    let text = serde_json::to_string(&content).map_err(|error| FileError::Format(path.to_owned(), error))?;
    Ok(saved::replace(path, &text)?)
}
