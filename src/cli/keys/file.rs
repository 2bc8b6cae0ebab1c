//! Keys in a file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tidegate_config::formats;
use tidegate_config::tree::Node;

use super::edit::{self, Change, Format};
use super::error::StoreError;

/// A configuration file with consumers.
pub(super) struct KeyFile {
    pub(super) path: PathBuf,
    format: Format,
    /// Whether it is that of `providers.consumers`.
    is_dedicated: bool,
}

impl KeyFile {
    /// Returns a file. `is_dedicated` is whether it is that of `providers.consumers`.
    pub(super) fn new(path: &Path, is_dedicated: bool) -> Result<Self, StoreError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let format = match extension {
            "toml" => Format::Toml,
            "yml" | "yaml" | "json" => Format::Yaml,
            _ => {
                let text =
                    format!("{}: unknown kind of file: expected .yml, .yaml, .json or .toml", path.display());
                return Err(StoreError::Text(text));
            }
        };
        // What a link points to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, format, is_dedicated })
    }

    /// Returns the tree and the text; `None` if there is no file yet.
    pub(super) fn read(&self) -> Result<(Node, Option<String>), StoreError> {
        let text = self.text()?;
        let path = self.path.display().to_string();
        let node = formats::read_large(&path, text.as_deref().unwrap_or_default().as_bytes());
        let is_template = text.as_deref().is_some_and(|text| text.contains("{{"));
        let is_dedicated = self.is_dedicated || node.as_ref().is_ok_and(edit::is_dedicated);
        if is_template && !is_dedicated {
            return Err(StoreError::Text(format!("{path}: the file is a template, which cannot be edited")));
        }
        let node = node.map_err(|problem| StoreError::Text(problem.to_string()))?;
        Ok((node, text))
    }

    /// Replaces the file by one with these changes.
    pub(super) fn apply(&self, before: Option<&str>, changes: &[Change]) -> Result<(), StoreError> {
        let mut text = before.unwrap_or_default().to_owned();
        for change in changes {
            text = edit::apply(self.format, self.is_dedicated, &text, change)
                .map_err(|error| StoreError::Text(format!("{}:{error}", self.path.display())))?;
        }
        if self.text()?.as_deref() != before {
            return Err(StoreError::Conflict(self.path.display().to_string()));
        }
        self.write(&text).map_err(|source| self.failed(source))
    }

    fn text(&self) -> Result<Option<String>, StoreError> {
        match fs::read_to_string(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, source: io::Error) -> StoreError {
        StoreError::File { path: self.path.clone(), source }
    }

    /// Writes a new file beside the old one and renames it, so that a reader sees one or the other.
    fn write(&self, text: &str) -> io::Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        // Hidden, and with another ending, so that no provider reads it.
        let temporary = self.path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let outcome = (|| {
            let mut file = File::options().write(true).create_new(true).open(&temporary)?;
            if let Ok(metadata) = fs::metadata(&self.path) {
                file.set_permissions(metadata.permissions())?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        })();
        if outcome.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        outcome
    }
}
