//! Variables of DNS providers: from the settings, the environment, or a file that the environment names.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Patience;
use crate::error::Error;

/// Looks up variables.
pub(super) struct Variables<'a> {
    /// Variables of the settings, whose names may have lost their case.
    given: &'a BTreeMap<String, String>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(given: &'a BTreeMap<String, String>) -> Self {
        Self { given }
    }

    /// Returns the value of the first of these names that is set.
    pub(super) fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }

    /// Like [`Self::first`], but returns an error that names the missing variables.
    pub(super) fn required(&self, names: &[&str]) -> Result<String, Error> {
        self.first(names).ok_or_else(|| missing(&[names]))
    }

    /// Returns a duration given in seconds.
    pub(super) fn seconds(&self, names: &[&str], default: u64) -> Result<Duration, Error> {
        let Some(text) = self.first(names) else { return Ok(Duration::from_secs(default)) };
        let parsed = text.parse::<tidegate_core::values::Duration>();
        parsed
            .map(|duration| duration.0)
            .map_err(|error| Error::local(format!("{}: {error}", names.join(" or "))))
    }

    /// Returns a number.
    pub(super) fn number(&self, names: &[&str], default: u32) -> Result<u32, Error> {
        let Some(text) = self.first(names) else { return Ok(default) };
        text.trim()
            .parse()
            .map_err(|_| Error::local(format!("{}: `{text}` is not a number", names.join(" or "))))
    }

    /// Returns true for `true` and `1`.
    pub(super) fn is_true(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|value| matches!(value.as_str(), "true" | "TRUE" | "True" | "1" | "t" | "T"))
    }

    /// Returns the timeouts of a provider whose variables have this prefix.
    pub(super) fn patience(&self, prefix: &str, timeout: u64, interval: u64) -> Result<Patience, Error> {
        Ok(Patience {
            timeout: self.seconds(&[&format!("{prefix}_PROPAGATION_TIMEOUT")], timeout)?,
            interval: self
                .seconds(&[&format!("{prefix}_POLLING_INTERVAL")], interval)?
                .max(Duration::from_millis(100)),
        })
    }

    /// Returns a variable of the settings, or else of the environment: itself, or the content of a file.
    fn get(&self, name: &str) -> Option<String> {
        let file = format!("{name}_FILE");
        if let Some(value) = self.given(name) {
            return Some(value.clone()).filter(|value| !value.is_empty());
        }
        if let Some(path) = self.given(&file).filter(|path| !path.is_empty()) {
            return content(&file, path);
        }
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        set(name).or_else(|| content(&file, &set(&file)?))
    }

    fn given(&self, name: &str) -> Option<&String> {
        let found = self.given.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    }
}

/// Reads the file that a variable names.
fn content(name: &str, path: &str) -> Option<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()).filter(|text| !text.is_empty()),
        Err(error) => {
            tracing::error!("{name}: `{path}` cannot be read: {error}");
            None
        }
    }
}

/// Returns the error for variables that are not set, each with its alternatives.
pub(super) fn missing(variables: &[&[&str]]) -> Error {
    let names: Vec<String> = variables.iter().map(|names| names.join(" or ")).collect();
    let first = variables.first().and_then(|names| names.first()).unwrap_or(&"");
    Error::local(format!(
        "some credentials information are missing: {} (in `credentials`, in the environment, or as {first}_FILE)",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_wins_whatever_its_case() {
        let given = BTreeMap::from([
            ("cf_dns_api_token".to_owned(), "secret".to_owned()),
            ("X_TTL".to_owned(), "7".to_owned()),
            ("X_POLLING_INTERVAL".to_owned(), "soon".to_owned()),
        ]);
        let variables = Variables::new(&given);
        assert_eq!(variables.first(&["NOT_SET_HERE", "CF_DNS_API_TOKEN"]).as_deref(), Some("secret"));
        assert_eq!(variables.number(&["X_TTL"], 1), Ok(7));
        assert!(variables.patience("X", 60, 2).unwrap_err().message.contains("X_POLLING_INTERVAL"));
        assert!(variables.required(&["NOT_SET_HERE"]).unwrap_err().message.contains("NOT_SET_HERE_FILE"));
    }

    #[test]
    fn a_resolver_may_name_a_file_of_its_own() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\r\n").unwrap();
        let given = BTreeMap::from([
            ("NOT_SET_TOKEN_FILE".to_owned(), file.path().display().to_string()),
            ("NOT_SET_KEY_FILE".to_owned(), "/nowhere".to_owned()),
        ]);
        let variables = Variables::new(&given);
        assert_eq!(variables.first(&["NOT_SET_TOKEN"]).as_deref(), Some("secret"));
        assert_eq!(variables.first(&["NOT_SET_KEY"]), None);
    }
}
