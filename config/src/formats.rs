//! The forms in which a configuration is written, each read into a [`Node`](crate::tree::Node).

pub mod env;
pub mod excerpt;
pub mod flags;
pub mod labels;
pub mod toml;
pub mod yaml;

use std::sync::Arc;

use crate::origin::{Origin, Problem};
use crate::tree::Node;

/// Reads a file by the ending of its name: `.toml`, or else YAML, of which JSON is a part.
///
/// `path` is only used to say where things are. The problem has an excerpt of the file.
pub fn read(path: &str, bytes: &[u8]) -> Result<Node, Problem> {
    if path.to_ascii_lowercase().ends_with(".toml") {
        toml::read(path, bytes)
    } else {
        yaml::read(path, bytes)
    }
}

/// The text of a file.
pub(crate) fn text<'a>(path: &Arc<str>, bytes: &'a [u8]) -> Result<&'a str, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        let origin = Origin::File { path: path.clone(), line: u32::try_from(line).unwrap_or(0), column: 0 };
        let message = format!("the file is not UTF-8 text: byte {} is invalid", error.valid_up_to());
        Problem { origin, object: None, message, excerpt: None }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}
