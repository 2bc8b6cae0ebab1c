//! Encodes operations as commands and decodes their replies.
//!
//! Operations that must be atomic are scripts. Buckets use the clock of the server, so that all gateways
//! count alike.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use sha1::{Digest, Sha1};
use tidegate_clients::redis::{Cmd, Value, cmd};
use tidegate_core::store::{Bucket, Demand, Draw, Drawn, MAX_KEY, MAX_VALUE, Turn};

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
static DRAW: Script =
    Script { text: include_str!("draw.lua"), digest: LazyLock::new(|| digest(include_str!("draw.lua"))) };
static COMPARE_AND_SET: Script = Script {
    text: include_str!("compare_and_set.lua"),
    digest: LazyLock::new(|| digest(include_str!("compare_and_set.lua"))),
};

static MEMBERS: Script = Script {
    text: include_str!("members.lua"),
    digest: LazyLock::new(|| digest(include_str!("members.lua"))),
};

fn digest(script: &str) -> String {
    Sha1::digest(script.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An operation on a key.
pub(super) enum Operation<'a> {
    Take(&'a Bucket),
    Draw(&'a [Draw]),
    Get,
    Set { value: &'a [u8], expiry: Duration },
    CompareAndSet { expected: Option<&'a [u8]>, value: &'a [u8], expiry: Duration },
    AddMember { member: &'a str, most: usize, expiry: Duration },
    Members { most: usize },
}

impl Operation<'_> {
    /// Validates the arguments of the caller.
    pub(super) fn check(&self, key: &str) -> Result<(), CommandError> {
        let (value, expiry) = match self {
            // Keys of buckets are always short.
            Self::Take(_) | Self::Draw(_) => return Ok(()),
            Self::Get | Self::Members { .. } => (None, None),
            Self::AddMember { expiry, .. } => (None, Some(expiry)),
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
            Self::Take(_) | Self::Draw(_) => "limits in Redis cannot be counted",
            Self::Get | Self::Members { .. } => "values in Redis cannot be read",
            Self::Set { .. } | Self::CompareAndSet { .. } | Self::AddMember { .. } => {
                "values in Redis cannot be written"
            }
        }
    }

    /// Encodes the command. With `whole`, sends the text of the script, as the server has not cached it.
    pub(super) fn encode(&self, key: &str, whole: bool) -> Cmd {
        let run = |script: &'static Script| {
            let (verb, script) =
                if whole { ("EVAL", script.text) } else { ("EVALSHA", script.digest.as_str()) };
            let mut command = Cmd::with_capacity(7, key.len() + script.len() + 64);
            command.arg(verb).arg(script).arg(1).arg(key);
            command
        };
        match self {
            Self::Take(bucket) => {
                let micros = |time: Duration, times: u32| {
                    format!("{}", time.as_nanos() as f64 * f64::from(times) / 1e3)
                };
                let (interval, ahead) = (micros(bucket.interval, 1), micros(bucket.ahead, 1));
                let tolerance = micros(bucket.interval, bucket.burst.saturating_sub(1));
                run(&TAKE).arg(interval).arg(tolerance).arg(ahead).take()
            }
            Self::Draw(draws) => encode_draws(draws, whole),
            // Read at most one byte more than a valid value, to detect longer ones.
            Self::Get => cmd("GETRANGE").arg(key).arg(0).arg(MAX_VALUE).take(),
            Self::Set { value, expiry } => {
                cmd("SET").arg(key).arg(*value).arg("PX").arg(millis(*expiry)).take()
            }
            Self::CompareAndSet { expected, value, expiry } => run(&COMPARE_AND_SET)
                .arg(expected.unwrap_or_default())
                .arg(*value)
                .arg(millis(*expiry))
                .take(),
            Self::AddMember { member, most, expiry } => {
                run(&MEMBERS).arg(*most).arg(*member).arg(millis(*expiry)).take()
            }
            Self::Members { most } => run(&MEMBERS).arg(*most).take(),
        }
    }
}

/// Encodes a request to several buckets.
fn encode_draws(draws: &[Draw], whole: bool) -> Cmd {
    let (verb, script) = if whole { ("EVAL", DRAW.text) } else { ("EVALSHA", DRAW.digest.as_str()) };
    let mut command = Cmd::with_capacity(3 + draws.len() * 8, script.len() + draws.len() * 160);
    command.arg(verb).arg(script).arg(draws.len());
    for draw in draws {
        command.arg(&draw.key);
    }
    for Draw { allowance, cost, demand, lifetime, .. } in draws {
        let demand = match demand {
            Demand::Shadow => 0,
            Demand::Enforce => 1,
            Demand::Charge => 2,
        };
        command.arg(allowance.interval_micros().to_string()).arg(allowance.burst).arg(*cost);
        command.arg(allowance.ahead.as_micros().to_string()).arg(allowance.most.to_string()).arg(demand);
        command.arg(lifetime.map_or(0, millis));
    }
    command
}

fn millis(expiry: Duration) -> u128 {
    expiry.min(MAX_EXPIRY).as_millis().max(1)
}

/// Decodes the reply to a request for a token.
pub(super) fn decode_turn(reply: Value) -> Result<Turn, CommandError> {
    let Value::Array(parts) = &reply else {
        return Err(CommandError::UnexpectedReply("a request for a token"));
    };
    let time = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    match parts.as_slice() {
        [Value::Int(1), Value::Int(wait)] => Ok(Turn::In(time(*wait))),
        [Value::Int(0), Value::Int(wait)] => Ok(Turn::Over(time(*wait))),
        _ => Err(CommandError::UnexpectedReply("a request for a token")),
    }
}

/// Decodes the reply to a request to several buckets: four numbers for each.
pub(super) fn decode_drawn(reply: Value, buckets: usize) -> Result<Vec<Drawn>, CommandError> {
    const UNEXPECTED: CommandError = CommandError::UnexpectedReply("a request for tokens");
    let Value::Array(parts) = reply else { return Err(UNEXPECTED) };
    let number = |part: &Value| match part {
        Value::Int(number) => Ok(u64::try_from(*number).unwrap_or(0)),
        _ => Err(UNEXPECTED),
    };
    let numbers = parts.iter().map(number).collect::<Result<Vec<u64>, _>>()?;
    let one = |numbers: &[u64]| match *numbers {
        [is_in, wait, left, full_in] => {
            let wait = Duration::from_micros(wait);
            let turn = if is_in == 1 { Turn::In(wait) } else { Turn::Over(wait) };
            Ok(Drawn { turn, left, full_in: Duration::from_micros(full_in) })
        }
        _ => Err(UNEXPECTED),
    };
    let drawn = numbers.chunks(4).map(one).collect::<Result<Vec<_>, _>>()?;
    if drawn.len() == buckets { Ok(drawn) } else { Err(UNEXPECTED) }
}

/// Decodes the reply to a read. Values are never empty.
pub(super) fn decode_value(reply: Value) -> Result<Option<Bytes>, CommandError> {
    match reply {
        Value::Nil => Ok(None),
        Value::BulkString(value) if value.is_empty() => Ok(None),
        Value::BulkString(value) if value.len() > MAX_VALUE => Err(CommandError::ValueTooLong),
        Value::BulkString(value) => Ok(Some(value.into())),
        _ => Err(CommandError::UnexpectedReply("a read")),
    }
}

/// Decodes the reply to a write.
pub(super) fn decode_done(reply: Value) -> Result<(), CommandError> {
    match reply {
        Value::Okay => Ok(()),
        _ => Err(CommandError::UnexpectedReply("a write")),
    }
}

/// Decodes the reply to a compare-and-set.
pub(super) fn decode_was_set(reply: Value) -> Result<bool, CommandError> {
    match reply {
        Value::Int(1) => Ok(true),
        Value::Int(0) => Ok(false),
        _ => Err(CommandError::UnexpectedReply("a write")),
    }
}

/// Decodes the reply to a new member of a set.
pub(super) fn decode_added(reply: Value) -> Result<(), CommandError> {
    match reply {
        Value::Int(1) => Ok(()),
        _ => Err(CommandError::UnexpectedReply("a new member")),
    }
}

/// Decodes the members of a set. Those that are not texts were not written by us.
pub(super) fn decode_members(reply: Value) -> Result<Vec<String>, CommandError> {
    let Value::Array(members) = reply else { return Err(CommandError::UnexpectedReply("a list")) };
    let text = |member: Value| match member {
        Value::BulkString(member) => String::from_utf8(member).ok(),
        _ => None,
    };
    Ok(members.into_iter().filter_map(text).collect())
}
