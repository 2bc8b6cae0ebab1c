//! What becomes of objects while they are compiled.

use tidegate_core::reference::Reference;

use crate::router::{Rule, RuleError};
use crate::tls::DEFAULT_OPTIONS;

/// What became of one object.
#[derive(Clone, Default)]
pub(super) struct Outcome {
    /// Errors: it does not serve.
    pub(super) errors: Vec<String>,
    /// Position among the errors of the one about the rule.
    pub(super) rule_error: Option<usize>,
    /// Warnings: it serves.
    pub(super) warnings: Vec<String>,
}

/// Rules by their text, for the next snapshot to take over.
pub(super) type Rules = foldhash::HashMap<String, Result<Rule, RuleError>>;

/// The name of the TLS options that a router refers to.
pub(super) fn options_name(options: &Reference) -> &str {
    if options.is_empty() { DEFAULT_OPTIONS } else { options.as_str() }
}
