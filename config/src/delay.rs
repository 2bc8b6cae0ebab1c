//! A length of time that may have no end.

use serde::{Deserialize, Serialize};
use tidegate_core::values::Duration;

/// A length of time that may be negative, which means without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// At most this long.
    Limited(Duration),
    /// For ever; the length is only kept to be shown.
    Endless(Duration),
}

impl Delay {
    /// The limit; `None` when there is none.
    pub fn limit(self) -> Option<std::time::Duration> {
        match self {
            Self::Limited(limit) => Some(limit.0),
            Self::Endless(_) => None,
        }
    }
}

impl Default for Delay {
    fn default() -> Self {
        Self::Limited(Duration::default())
    }
}

impl Serialize for Delay {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Limited(limit) => limit.serialize(serializer),
            Self::Endless(length) => serializer.collect_str(&format_args!("-{length}")),
        }
    }
}

impl<'de> Deserialize<'de> for Delay {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let read = |text: &str| text.parse().map_err(serde::de::Error::custom);
        match text.trim().strip_prefix('-') {
            Some(length) => read(length).map(Self::Endless),
            None => read(&text).map(Self::Limited),
        }
    }
}
