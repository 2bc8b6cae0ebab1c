//! Errors of the decoder.

use std::fmt;

use serde::de;

use crate::origin::Origin;
use crate::suggest;
use crate::tree::{Node, Path, Step};

/// An invalid value: where it was written, at which key, and what was expected.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeError {
    origin: Option<Origin>,
    /// From the innermost key outwards, in the order of collection.
    reversed: Vec<Step>,
    steps: Vec<Step>,
    message: String,
    switched_off: bool,
    unknown_key: bool,
    missing_key: bool,
}

impl DecodeError {
    /// Returns where the invalid key or value was written.
    pub fn origin(&self) -> Origin {
        self.origin.clone().unwrap_or(Origin::Internal)
    }

    /// Returns the path of the invalid key from the decoded node: `tls.domains[0].main`. Empty for that node
    /// itself.
    pub fn path(&self) -> String {
        Path(&self.steps).to_string()
    }

    /// Returns what is wrong and what was expected, without the key.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns true when the key itself is unknown, whatever its value.
    pub fn is_unknown_key(&self) -> bool {
        self.unknown_key
    }

    /// Returns true when a required key is missing.
    pub(crate) fn is_missing_key(&self) -> bool {
        self.missing_key
    }

    /// Removes the invalid key from the decoded node. Returns false when there is no such key, so decoding
    /// again is pointless.
    pub fn remove_from(&self, node: &mut Node) -> bool {
        node.remove_steps(&self.steps)
    }

    /// Returns the path of the invalid key.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(crate) fn is_switched_off(&self) -> bool {
        self.switched_off
    }

    /// Returns the error for a struct given as `false`.
    pub(crate) fn switched_off() -> Self {
        Self { switched_off: true, ..Self::new("`false` is not allowed here: remove the key".into()) }
    }

    /// Returns the error for a key that is not in `known`.
    pub(crate) fn unknown_key(key: &str, known: &[&str]) -> Self {
        let message = format!("unknown key: {}", suggest::alternatives(key, known));
        Self { unknown_key: true, ..Self::new(message) }
    }

    /// Sets the origin, unless a more specific one is known.
    pub(crate) fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    /// Prepends a step to the path.
    pub(crate) fn under(mut self, step: Step) -> Self {
        self.reversed.push(step);
        self.steps = self.reversed.iter().rev().cloned().collect();
        self
    }

    fn new(message: String) -> Self {
        Self {
            origin: None,
            reversed: Vec::new(),
            steps: Vec::new(),
            message,
            switched_off: false,
            unknown_key: false,
            missing_key: false,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        if !self.steps.is_empty() {
            write!(f, "{}: ", Path(&self.steps))?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown_key(field, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown value `{variant}`: {}", suggest::alternatives(variant, expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing_key: true, ..Self::new(format!("`{field}` is required")) }
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("`{field}` is given twice"))
    }
}
