//! Functions of sprig on paths, fractions and tables.

use std::collections::BTreeMap;

use super::arguments::{Args, Outcome};
use super::function_error::FunctionError;
use super::value::Value;

/// Maximum number of decimals for rounding.
const MAX_DECIMALS: i64 = 15;

/// Calls a function; `None` if it is not one of these.
pub(super) fn call(name: &str, args: Args<'_>) -> Option<Outcome> {
    Some(match name {
        "base" => args.text(0).map(|path| base(&path).into()),
        "dir" => args.text(0).map(|path| directory(&path).into()),
        "ext" => args.text(0).map(|path| {
            let last = path.rsplit('/').next().unwrap_or("");
            last.rfind('.').map_or("", |dot| &last[dot..]).into()
        }),
        "initials" => args.text(0).map(|value| {
            value.split_whitespace().filter_map(|word| word.chars().next()).collect::<String>().into()
        }),
        "regexQuoteMeta" => args.text(0).map(|value| {
            let quoted = value.chars().flat_map(|c| {
                let special = r"\.+*?()|[]{}^$".contains(c);
                special.then_some('\\').into_iter().chain([c])
            });
            quoted.collect::<String>().into()
        }),
        "ceil" => number(args, 0).map(|value| Value::Float(value.ceil())),
        "floor" => number(args, 0).map(|value| Value::Float(value.floor())),
        "round" => round(args),
        "any" => Ok(Value::Bool(args.0.iter().any(Value::is_true))),
        "all" => Ok(Value::Bool(args.0.iter().all(Value::is_true))),
        "pick" | "omit" => args.map(0).map(|map| {
            let named = |key: &String| args.0[1..].iter().any(|name| name.to_string() == *key);
            let kept = map.iter().filter(|(key, _)| named(key) == (name == "pick"));
            Value::Map(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
        }),
        // As in sprig, invalid JSON is nil.
        "fromJson" => args.text(0).map(|text| serde_json::from_str(&text).map_or(Value::Nil, of_json)),
        "kindOf" => args.get(0).map(|value| {
            let kind = match value {
                Value::Nil => "invalid",
                Value::Bool(_) => "bool",
                Value::Int(_) => "int",
                Value::Float(_) => "float64",
                Value::Text(_) => "string",
                Value::List(_) => "slice",
                Value::Map(_) => "map",
            };
            kind.into()
        }),
        _ => return None,
    })
}

/// Returns the last element of a path, like Go's `path.Base`.
fn base(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" if path.is_empty() => ".",
        "" => "/",
        path => path.rsplit('/').next().unwrap_or(path),
    }
}

/// Returns the directory of a path, like Go's `path.Dir`.
fn directory(path: &str) -> String {
    let before = path.rfind('/').map_or("", |end| &path[..=end]);
    let rooted = before.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in before.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "as Go's float64 has it")]
fn number(args: Args<'_>, index: usize) -> Result<f64, FunctionError> {
    match args.get(index)? {
        Value::Int(value) => Ok(*value as f64),
        Value::Float(value) => Ok(*value),
        _ => Ok(args.text(index)?.trim().parse().unwrap_or(0.0)),
    }
}

/// Rounds to a number of decimals, with an optional threshold for rounding up.
fn round(args: Args<'_>) -> Outcome {
    let (value, decimals) = (number(args, 0)?, args.int(1)?);
    let up_from = if args.0.len() > 2 { number(args, 2)? } else { 0.5 };
    let decimals = i32::try_from(decimals.clamp(-MAX_DECIMALS, MAX_DECIMALS)).unwrap_or(0);
    let power = 10f64.powi(decimals);
    let digits = value * power;
    let rounded = if digits.fract() >= up_from { digits.ceil() } else { digits.floor() };
    Ok(Value::Float(rounded / power))
}

fn of_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => {
            number.as_i64().map_or_else(|| Value::Float(number.as_f64().unwrap_or(0.0)), Value::Int)
        }
        serde_json::Value::String(text) => Value::Text(text),
        serde_json::Value::Array(list) => Value::List(list.into_iter().map(of_json).collect()),
        serde_json::Value::Object(map) => {
            let pairs = map.into_iter().map(|(key, value)| (key, of_json(value)));
            Value::Map(pairs.collect::<BTreeMap<_, _>>())
        }
    }
}
