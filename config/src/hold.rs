//! How requests wait for a server.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use tidegate_core::values::Duration;

/// `loadBalancer.hold`: requests wait while the service has no usable server. Written as a duration (`10s`) or with its
/// options. Not in Traefik.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// How long a request waits at most.
    pub max_wait: Duration,
    /// How many requests wait at most. Others get 503 at once.
    pub max_queue: usize,
    /// `Retry-After` of requests that have waited in vain.
    pub retry_after: Duration,
}

impl Default for Hold {
    fn default() -> Self {
        Self { max_wait: Duration::from_secs(10), max_queue: 100, retry_after: Duration::from_secs(5) }
    }
}

impl<'de> Deserialize<'de> for Hold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Hold;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration, or options")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Hold, E> {
                if text.trim().eq_ignore_ascii_case("true") {
                    return Ok(Hold::default());
                }
                let max_wait = text.parse().map_err(E::custom)?;
                Ok(Hold { max_wait, ..Hold::default() })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hold, A::Error> {
                let mut hold = Hold::default();
                while let Some(key) = map.next_key::<String>()? {
                    // Labels are in lower case.
                    match key.to_ascii_lowercase().as_str() {
                        "maxwait" => hold.max_wait = map.next_value()?,
                        "maxqueue" => hold.max_queue = map.next_value()?,
                        "retryafter" => hold.retry_after = map.next_value()?,
                        _ => {
                            let expected = "expected `maxWait`, `maxQueue` or `retryAfter`";
                            return Err(de::Error::custom(format_args!("unknown key `{key}`: {expected}")));
                        }
                    }
                }
                Ok(hold)
            }
        }

        deserializer.deserialize_any(Either)
    }
}
