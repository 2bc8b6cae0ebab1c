//! A duration that may be unlimited.

use serde::{Deserialize, Serialize};
use tidegate_core::values::Duration;

/// A duration; negative means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// At most this long.
    Limited(Duration),
    /// Unlimited; the value is kept for display.
    Endless(Duration),
}

impl Delay {
    /// Returns the limit, if there is one.
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
