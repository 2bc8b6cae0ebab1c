//! Encodes operations as commands and decodes their replies.
//!
//! Operations that must be atomic are scripts. Buckets use the clock of the server, so that all gateways
//! count alike.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use sha1::{Digest, Sha1};
use tidegate_clients::redis::{Reply, encode};
use tidegate_core::store::{Bucket, MAX_KEY, MAX_VALUE, Turn};

use super::error::CommandError;

/// Maximum expiry, well below the limit of Redis.
const MAX_EXPIRY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A script, which the server caches by its digest.
struct Script {
    text: &'static str,
    digest: LazyLock<String>,
}

static TAKE: Script =
    Script { text: include_str!("bucket.lua"), digest: LazyLock::new(|| digest(include_str!("bucket.lua"))) };
static COMPARE_AND_SET: Script = Script {
    text: include_str!("compare_and_set.lua"),
    digest: LazyLock::new(|| digest(include_str!("compare_and_set.lua"))),
};

fn digest(script: &str) -> String {
    Sha1::digest(script.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An operation on a key.
pub(super) enum Operation<'a> {
    Take(&'a Bucket),
    Get,
    Set { value: &'a [u8], expiry: Duration },
    CompareAndSet { expected: Option<&'a [u8]>, value: &'a [u8], expiry: Duration },
}

impl Operation<'_> {
    /// Validates the arguments of the caller.
    pub(super) fn check(&self, key: &str) -> Result<(), CommandError> {
        let (value, expiry) = match self {
            // Keys of buckets are always short.
            Self::Take(_) => return Ok(()),
            Self::Get => (None, None),
            Self::Set { value, expiry } | Self::CompareAndSet { value, expiry, .. } => {
                (Some(value), Some(expiry))
            }
        };
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(CommandError::KeyLength(key.len()));
        }
        let expected = match self {
            Self::CompareAndSet { expected, .. } => expected.as_ref(),
            _ => None,
        };
        let mut values = value.into_iter().chain(expected);
        if let Some(value) = values.find(|value| value.is_empty() || value.len() > MAX_VALUE) {
            return Err(CommandError::ValueLength(value.len()));
        }
        match expiry {
            Some(expiry) if expiry.is_zero() => Err(CommandError::NoExpiry),
            _ => Ok(()),
        }
    }

    /// Returns true if the operation is idempotent.
    pub(super) fn is_idempotent(&self) -> bool {
        !matches!(self, Self::CompareAndSet { .. })
    }

    /// Returns the description of a failure.
    pub(super) fn failure(&self) -> &'static str {
        match self {
            Self::Take(_) => "limits in Redis cannot be counted",
            Self::Get => "values in Redis cannot be read",
            Self::Set { .. } | Self::CompareAndSet { .. } => "values in Redis cannot be written",
        }
    }

    /// Encodes the commands. With `whole`, sends the text of the script, as the server has not cached it;
    /// with `asking`, the server is importing the key.
    pub(super) fn encode(&self, key: &str, whole: bool, asking: bool) -> Bytes {
        let mut out = Vec::with_capacity(key.len() + 256);
        if asking {
            encode(&mut out, &["ASKING"]);
        }
        let mut run = |script: &'static Script, arguments: &[&[u8]]| {
            let (verb, script) =
                if whole { ("EVAL", script.text) } else { ("EVALSHA", script.digest.as_str()) };
            let head = [verb.as_bytes(), script.as_bytes(), b"1", key.as_bytes()];
            encode(&mut out, &[&head[..], arguments].concat());
        };
        match self {
            Self::Take(bucket) => {
                let micros = |time: Duration, times: u32| {
                    format!("{}", time.as_nanos() as f64 * f64::from(times) / 1e3)
                };
                let (interval, ahead) = (micros(bucket.interval, 1), micros(bucket.ahead, 1));
                let tolerance = micros(bucket.interval, bucket.burst.saturating_sub(1));
                run(&TAKE, &[interval.as_bytes(), tolerance.as_bytes(), ahead.as_bytes()]);
            }
            // Read at most one byte more than a valid value, to detect longer ones.
            Self::Get => encode(&mut out, &["GETRANGE", key, "0", &MAX_VALUE.to_string()]),
            Self::Set { value, expiry } => {
                let expiry = millis(*expiry);
                encode(&mut out, &[b"SET", key.as_bytes(), *value, b"PX", expiry.as_bytes()]);
            }
            Self::CompareAndSet { expected, value, expiry } => {
                let expiry = millis(*expiry);
                run(&COMPARE_AND_SET, &[expected.unwrap_or_default(), *value, expiry.as_bytes()]);
            }
        }
        out.into()
    }
}

fn millis(expiry: Duration) -> String {
    expiry.min(MAX_EXPIRY).as_millis().max(1).to_string()
}

/// Decodes the reply to a request for a token.
pub(super) fn decode_turn(reply: Reply) -> Result<Turn, CommandError> {
    let Reply::List(parts) = &reply else {
        return Err(CommandError::UnexpectedReply("a request for a token"));
    };
    let time = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    match parts.as_slice() {
        [Reply::Integer(1), Reply::Integer(wait)] => Ok(Turn::In(time(*wait))),
        [Reply::Integer(0), Reply::Integer(wait)] => Ok(Turn::Over(time(*wait))),
        _ => Err(CommandError::UnexpectedReply("a request for a token")),
    }
}

/// Decodes the reply to a read. Values are never empty.
pub(super) fn decode_value(reply: Reply) -> Result<Option<Bytes>, CommandError> {
    match reply {
        Reply::Nil => Ok(None),
        Reply::Bytes(value) if value.is_empty() => Ok(None),
        Reply::Bytes(value) if value.len() > MAX_VALUE => Err(CommandError::ValueTooLong),
        Reply::Bytes(value) => Ok(Some(value.into())),
        _ => Err(CommandError::UnexpectedReply("a read")),
    }
}

/// Decodes the reply to a write.
pub(super) fn decode_done(reply: Reply) -> Result<(), CommandError> {
    match reply {
        Reply::Text(text) if text == "OK" => Ok(()),
        _ => Err(CommandError::UnexpectedReply("a write")),
    }
}

/// Decodes the reply to a compare-and-set.
pub(super) fn decode_was_set(reply: Reply) -> Result<bool, CommandError> {
    match reply {
        Reply::Integer(1) => Ok(true),
        Reply::Integer(0) => Ok(false),
        _ => Err(CommandError::UnexpectedReply("a write")),
    }
}
