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
        self.first(names).ok_or_else(|| {
            Error::local(format!(
                "some credentials information are missing: {} (in `credentials`, in the environment, or as {}_FILE)",
                names.join(" or "),
                names.first().unwrap_or(&"")
            ))
        })
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

    fn get(&self, name: &str) -> Option<String> {
        let given = self.given.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        if let Some((_, value)) = given {
            return Some(value.clone()).filter(|value| !value.is_empty());
        }
        if let Some(value) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
            return Some(value);
        }
        let path = std::env::var(format!("{name}_FILE")).ok().filter(|path| !path.is_empty())?;
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()).filter(|text| !text.is_empty()),
            Err(error) => {
                tracing::error!("{name}_FILE: `{path}` cannot be read: {error}");
                None
            }
        }
    }
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
}
