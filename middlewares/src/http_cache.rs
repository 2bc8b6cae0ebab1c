//! Traefik Hub's `httpCache`: the middleware `cache` with the option names and the meaning that Hub documents.

use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_core::values::{Duration, is_default};
use tidegate_core::{Build, BuildContext, BuildError, BuildErrors, Middleware};

use crate::cache::Cache;

/// Traefik Hub's `httpCache`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpCache {
    /// Maximum time for which a response is used, in seconds.
    pub max_ttl: u64,
    /// Leaves `X-Cache-Status` out of responses.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_cache_status_header: bool,
    /// Maximum time for which a response is used after it has become stale, in seconds, if the request allows it by
    /// `max-stale`.
    #[serde(skip_serializing_if = "is_default")]
    pub max_stale: u64,
    /// Status codes and ranges of them that are not stored, separated by commas.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub excluded_response_codes: String,
    /// Where responses are stored.
    #[serde(skip_serializing_if = "is_default")]
    pub store: Store,
}

/// Where responses are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Store {
    /// The memory.
    pub memory: Memory,
}

/// The memory for responses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Memory {
    /// Maximum size of all responses, such as `500Mi`. Empty for the default of `cache`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub limit: String,
}

impl Default for HttpCache {
    fn default() -> Self {
        Self {
            max_ttl: 300,
            disable_cache_status_header: false,
            max_stale: 0,
            excluded_response_codes: String::new(),
            store: Store::default(),
        }
    }
}

impl HttpCache {
    /// The options of `cache` with the same meaning.
    fn cache(&self) -> Result<Cache, BuildError> {
        let mut errors = BuildErrors::default();
        if self.max_ttl == 0 {
            errors.add("maxTtl: invalid number `0`: expected at least 1 second".to_owned());
        }
        let usual = Cache::default();
        let max_bytes = match self.store.memory.limit.trim() {
            "" => usual.max_bytes,
            limit => match limit.parse::<Quantity>() {
                Ok(Quantity(bytes)) => bytes,
                Err(error) => {
                    errors.add(format!("store.memory.limit: {error}"));
                    usual.max_bytes
                }
            },
        };
        let codes = self.excluded_response_codes.split(',').map(str::trim).filter(|code| !code.is_empty());
        errors.made(Some(Cache {
            max_bytes,
            max_object_bytes: usual.max_object_bytes.min(max_bytes),
            max_ttl: Some(Duration::from_secs(self.max_ttl)),
            max_stale: Some(Duration::from_secs(self.max_stale)),
            excluded_status_codes: codes.map(str::to_owned).collect(),
            status_header: false,
            x_cache_status: !self.disable_cache_status_header,
            ..usual
        }))
    }
}

impl Build for HttpCache {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        self.cache()?.build(context)
    }
}

/// A number of bytes in the form of Kubernetes: `3Gi`, `500M`, `1024`.
#[derive(Debug, PartialEq)]
struct Quantity(u64);

/// A text that is not a number of bytes.
#[derive(Debug, thiserror::Error)]
#[error("invalid size `{0}`: expected a form like `500Mi`, at least 1 byte")]
struct QuantityError(String);

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        const UNITS: [(&str, u64); 9] = [
            ("Ki", 1 << 10),
            ("Mi", 1 << 20),
            ("Gi", 1 << 30),
            ("Ti", 1 << 40),
            ("k", 1_000),
            ("M", 1_000_000),
            ("G", 1_000_000_000),
            ("T", 1_000_000_000_000),
            ("", 1),
        ];
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let bytes =
            number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        bytes.filter(|bytes| *bytes > 0).map(Self).ok_or_else(|| QuantityError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, build_in};

    #[test]
    fn options_have_the_meaning_of_those_of_the_cache() {
        let hub = HttpCache {
            max_ttl: 600,
            max_stale: 30,
            excluded_response_codes: "300-399, 404".to_owned(),
            store: Store { memory: Memory { limit: "3Gi".to_owned() } },
            ..HttpCache::default()
        };
        let expected = Cache {
            max_bytes: 3 << 30,
            max_ttl: Some(Duration::from_secs(600)),
            max_stale: Some(Duration::from_secs(30)),
            excluded_status_codes: vec!["300-399".to_owned(), "404".to_owned()],
            status_header: false,
            x_cache_status: true,
            ..Cache::default()
        };
        assert_eq!(hub.cache().unwrap(), expected);
        let quiet = HttpCache { disable_cache_status_header: true, ..hub };
        assert_eq!(quiet.cache().unwrap(), Cache { x_cache_status: false, ..expected });
        let small = HttpCache { store: Store { memory: Memory { limit: "64Ki".to_owned() } }, ..quiet };
        let small = small.cache().unwrap();
        assert_eq!((small.max_bytes, small.max_object_bytes), (65_536, 65_536));
    }

    #[test]
    fn sizes_are_read_and_mistakes_are_found_together() {
        for (text, bytes) in [("1024", 1024), ("2Ki", 2048), ("500Mi", 500 << 20), ("3G", 3_000_000_000)] {
            assert_eq!(text.parse::<Quantity>().unwrap(), Quantity(bytes));
        }
        for text in ["", "Mi", "-1", "1.5Gi", "1 Gi", "1GB", "0", "99999999999Ti"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        let wrong = HttpCache {
            max_ttl: 0,
            excluded_response_codes: "4xx".to_owned(),
            store: Store { memory: Memory { limit: "many".to_owned() } },
            ..HttpCache::default()
        };
        let error = build_in(&World::default(), wrong).err().unwrap();
        assert_eq!(error.messages().len(), 2, "{error}");
        let codes = HttpCache { excluded_response_codes: "4xx".to_owned(), ..HttpCache::default() };
        assert!(build_in(&World::default(), codes).is_err());
    }
}
