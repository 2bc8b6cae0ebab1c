//! Built-in functions of Rego that the evaluator lacks, or that it does not limit. Where OPA has an error, the result is
//! undefined.

use std::net::IpAddr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ipnet::IpNet;
use regorus::{Engine, Value};

/// Maximum number of elements of a range.
const MAX_RANGE: i64 = 100_000;
/// Maximum length of a token in bytes.
const MAX_TOKEN: usize = 64 * 1024;

/// A function, which returns `None` for what OPA has an error for.
type Function = fn(&[Value]) -> Option<Value>;

/// Adds the functions. They take precedence over those of the evaluator.
pub(super) fn add(engine: &mut Engine) {
    let functions: [(&str, u8, Function); 6] = [
        ("io.jwt.decode", 1, decode_token),
        ("net.cidr_contains", 2, cidr_contains),
        ("net.cidr_is_valid", 1, cidr_is_valid),
        ("numbers.range", 2, |given| range(given.first()?, given.get(1)?, 1)),
        ("numbers.range_step", 3, |given| {
            range(given.first()?, given.get(1)?, integer(given.get(2)?).filter(|step| *step > 0)?)
        }),
        ("bits.lsh", 2, shift),
    ];
    for (name, arguments, function) in functions {
        let call = move |given: Vec<Value>| Ok(function(&given).unwrap_or(Value::Undefined));
        // It fails only for a name that is already taken.
        drop(engine.add_extension(name.to_owned(), arguments, Box::new(call)));
    }
}

fn text(value: &Value) -> Option<&str> {
    value.as_string().ok().map(|text| &**text)
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().ok()
}

/// Reads a token without verifying it: header, claims, and the signature in hexadecimal.
fn decode_token(given: &[Value]) -> Option<Value> {
    let token = text(given.first()?).filter(|token| token.len() <= MAX_TOKEN)?;
    let mut parts = token.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let mut object = || {
        let object: serde_json::Value = serde_json::from_slice(&parts.next()??).ok()?;
        object.is_object().then(|| Value::from(object))
    };
    let (header, claims) = (object()?, object()?);
    let signature = parts.next()??;
    let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.next().is_none().then(|| Value::from(vec![header, claims, Value::from(signature)]))
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn cidr_contains(given: &[Value]) -> Option<Value> {
    let outer: IpNet = text(given.first()?)?.parse().ok()?;
    let inner = network(text(given.get(1)?)?)?;
    Some(Value::from(outer.contains(&inner)))
}

fn cidr_is_valid(given: &[Value]) -> Option<Value> {
    Some(Value::from(text(given.first()?)?.parse::<IpNet>().is_ok()))
}

/// Returns the integers from one to another, both included.
fn range(from: &Value, to: &Value, step: i64) -> Option<Value> {
    let (from, to) = (integer(from)?, integer(to)?);
    let distance = to.checked_sub(from)?;
    let count = distance.checked_abs()?.checked_div(step)?;
    if count >= MAX_RANGE {
        return None;
    }
    let numbers = (0..=count).map(|index| Value::from(from + distance.signum() * index * step));
    Some(Value::from(numbers.collect::<Vec<_>>()))
}

fn shift(given: &[Value]) -> Option<Value> {
    let (number, by) = (integer(given.first()?)?, u32::try_from(integer(given.get(1)?)?).ok()?);
    let shifted = number.checked_mul(2_i64.checked_pow(by)?)?;
    Some(Value::from(shifted))
}
