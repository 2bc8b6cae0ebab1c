//! Value types shared by options, in the forms people write them.

use std::fmt;
use std::str::FromStr;
use std::time;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// A duration: Go's syntax (`1m30s`, `300ms`) or a number of seconds. Formatted like Go (`1m0s`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub time::Duration);

impl Duration {
    /// Creates a duration from seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(time::Duration::from_secs(seconds))
    }

    /// Creates a duration from milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(time::Duration::from_millis(milliseconds))
    }

    /// Returns true for zero, which most options treat as "none".
    pub fn is_zero(&self) -> bool {
        self.0.is_zero()
    }
}

impl From<Duration> for time::Duration {
    fn from(value: Duration) -> Self {
        value.0
    }
}

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a duration: expected a form like `1m30s` or a number of seconds")]
pub struct DurationError(String);

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let bad = || DurationError(text.to_owned());
        let text_trimmed = text.trim();
        if let Ok(seconds) = text_trimmed.parse::<u64>() {
            return Ok(Self::from_secs(seconds));
        }
        if text_trimmed.is_empty() {
            return Err(bad());
        }
        let mut rest = text_trimmed;
        let mut total = 0f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let factor = match &rest[..unit_end] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
            total += number * factor;
            rest = &rest[unit_end..];
        }
        time::Duration::try_from_secs_f64(total).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        let trimmed = |value: f64| {
            let text = format!("{value:.9}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        };
        if nanos < 1_000 {
            return write!(f, "{nanos}ns");
        }
        if nanos < 1_000_000 {
            return write!(f, "{}µs", trimmed(nanos as f64 / 1e3));
        }
        if nanos < 1_000_000_000 {
            return write!(f, "{}ms", trimmed(nanos as f64 / 1e6));
        }
        let seconds = self.0.as_secs();
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        let fraction = (seconds % 60) as f64 + f64::from(self.0.subsec_nanos()) / 1e9;
        write!(f, "{}s", trimmed(fraction))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Duration;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration like `1m30s`, or a number of seconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Duration, E> {
                Ok(Duration::from_secs(seconds))
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Duration, E> {
                u64::try_from(seconds)
                    .map(Duration::from_secs)
                    .map_err(|_| E::custom("a duration cannot be negative"))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A time limit in which, as in Go, zero and negative values have a special meaning: usually no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeout {
    length: Duration,
    negative: bool,
}

impl Timeout {
    /// Creates a timeout from seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self { length: Duration::from_secs(seconds), negative: false }
    }

    /// Creates a timeout from milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self { length: Duration::from_millis(milliseconds), negative: false }
    }

    /// Returns the limit; `None` if it is zero or negative.
    pub fn limit(self) -> Option<time::Duration> {
        (!self.negative && !self.length.is_zero()).then_some(self.length.0)
    }

    /// Returns true for a negative value.
    pub fn is_negative(self) -> bool {
        self.negative
    }
}

impl From<Duration> for Timeout {
    fn from(length: Duration) -> Self {
        Self { length, negative: false }
    }
}

impl FromStr for Timeout {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let text = text.trim();
        let (length, minus) = text.strip_prefix('-').map_or((text, false), |length| (length, true));
        let length: Duration = length.parse().map_err(|_| DurationError(text.to_owned()))?;
        Ok(Self { length, negative: minus && !length.is_zero() })
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.negative { "-" } else { "" }, self.length)
    }
}

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Timeout;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration like `1m30s`, or a number of seconds")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timeout, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Timeout, E> {
                Ok(Timeout::from_secs(seconds))
            }
            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Timeout, E> {
                Ok(Timeout { negative: seconds < 0, ..Timeout::from_secs(seconds.unsigned_abs()) })
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A value that must not be shown: it is formatted as `***` everywhere, including the API.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Returns the value, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns true if it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("xxxx")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// For `skip_serializing_if`: omits zero values, like Go's `omitempty`.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_formatted_as_in_go() {
        for (text, shown) in [
            ("10", "10s"),
            ("1m30s", "1m30s"),
            ("60s", "1m0s"),
            ("1h", "1h0m0s"),
            ("300ms", "300ms"),
            ("1.5s", "1.5s"),
            ("0", "0s"),
            ("1500us", "1.5ms"),
        ] {
            assert_eq!(text.parse::<Duration>().map(|d| d.to_string()), Ok(shown.to_owned()), "{text}");
        }
        for text in ["", "s", "10x", "-1s", "1m 30s", "abc"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
            assert!(text.starts_with('-') || text.parse::<Timeout>().is_err(), "{text}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "*** ***");
    }
}
