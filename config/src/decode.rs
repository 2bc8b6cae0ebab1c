//! The decoder: deserialises any type from a [`Node`], with the same rules for labels and files.
//!
//! Keys of structs ignore case; numbers and booleans are parsed from text; text splits at commas where a list
//! is expected; `true` where a struct is expected means its defaults. Every error names the key and its
//! origin.

mod config;
mod error;
mod reader;

use serde::Deserialize;
use serde::de::DeserializeOwned;

pub use config::{decode_config, decode_consumers};
pub use error::DecodeError;

use crate::tree::Node;
use reader::Reader;

/// Decodes a value from a node.
///
/// As in Traefik, an optional struct given as `false` (`tls: false`) is left out.
pub fn decode<T: DeserializeOwned>(node: &Node) -> Result<T, DecodeError> {
    match decode_once(node) {
        Err(error) if error.is_switched_off() => without_switched_off(node.clone(), error),
        outcome => outcome,
    }
}

fn decode_once<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<T, DecodeError> {
    T::deserialize(Reader::new(node)).map_err(|error| error.at(&node.origin))
}

/// Serde cannot turn a `false` inside an `Option` into `None` once it expects the struct, so the key is
/// removed and everything is decoded again. This is rare, and each pass removes one key.
fn without_switched_off<T: DeserializeOwned>(
    mut node: Node,
    mut error: DecodeError,
) -> Result<T, DecodeError> {
    while node.remove_steps(error.steps()) {
        match decode_once(&node) {
            Err(next) if next.is_switched_off() => error = next,
            outcome => return outcome,
        }
    }
    Err(error)
}
