//! Plans: what consumers with the same contract have in common.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_core::{BuildError, BuildErrors};

/// Maximum length in bytes of names, groups and values, which may become headers.
const MAX_TEXT: usize = 1024;

/// `http.plans.<name>`. Not in Traefik.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Plan {
    /// Groups that its consumers belong to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Labels of its consumers. Their own are preferred.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Plan {
    /// Validates the options.
    ///
    /// # Errors
    ///
    /// All mistakes, by option.
    pub fn check(&self) -> Result<(), BuildError> {
        let mut errors = BuildErrors::default();
        for (at, group) in self.groups.iter().enumerate() {
            errors.extend(text_error(&format!("groups[{at}]"), group));
        }
        for (label, value) in &self.labels {
            errors.extend(text_error("labels", label));
            errors.extend(text_error(&format!("labels.{label}"), value));
        }
        errors.finish()
    }
}

/// Returns what is wrong with a text that may become part of a header.
pub(crate) fn text_error(path: &str, text: &str) -> Option<String> {
    match text {
        "" => Some(format!("{path}: is empty")),
        _ if text.len() > MAX_TEXT => Some(format!("{path}: longer than {MAX_TEXT} bytes")),
        _ if text.chars().any(char::is_control) => {
            Some(format!("{path}: control characters are not allowed"))
        }
        _ => None,
    }
}
