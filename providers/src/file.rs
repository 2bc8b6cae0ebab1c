//! Files and folders.

use serde::{Deserialize, Serialize};

/// Traefik's `providers.file`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// One file.
    pub filename: String,
    /// Or all files of a folder.
    pub directory: String,
    /// Follow changes.
    pub watch: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { filename: String::new(), directory: String::new(), watch: true }
    }
}
