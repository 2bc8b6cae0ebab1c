//! The functions of templates: those of Go, common ones of sprig, and Traefik's `normalize`.

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::arguments::{Args, Outcome, int, text};
use super::function_error::FunctionError;
use super::limits::{MAX_INDENT, MAX_ITEMS, MAX_TEXT, MAX_UNIQUE};
use super::value::Value;
use super::{Dialect, sprig};

/// Replaces runs of characters other than letters and digits by `-`, except at the ends (Traefik's
/// `normalize`).
pub fn normalize(name: &str) -> String {
    let parts: Vec<&str> =
        name.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()).collect();
    parts.join("-")
}

/// Returns true if there is a function with this name.
pub(super) fn exists(name: &str) -> bool {
    // Called without arguments, as only the existence matters.
    matches!(name, "and" | "or") || find(name, &[], Dialect::File).is_some()
}

/// Calls a function. The piped argument is last.
pub(super) fn call(name: &str, arguments: &[Value], dialect: Dialect) -> Outcome {
    match find(name, arguments, dialect) {
        Some(Ok(value)) if too_long(&value) => Err(FunctionError::ResultTooLong),
        Some(outcome) => outcome,
        None => Err(FunctionError::Unknown),
    }
}

fn find(name: &str, arguments: &[Value], dialect: Dialect) -> Option<Outcome> {
    let args = Args(arguments);
    text_function(name, args, dialect)
        .or_else(|| regex_function(name, args))
        .or_else(|| list_function(name, args))
        .or_else(|| table_function(name, args))
        .or_else(|| number_function(name, args))
        .or_else(|| general_function(name, args, dialect))
        .or_else(|| sprig::call(name, args))
}

fn too_long(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text.len() > MAX_TEXT)
}

fn text_function(name: &str, args: Args<'_>, dialect: Dialect) -> Option<Outcome> {
    Some(match name {
        "normalize" => args.text(0).map(|value| normalize(&value).into()),
        "upper" => args.text(0).map(|value| value.to_uppercase().into()),
        "lower" => args.text(0).map(|value| value.to_lowercase().into()),
        "title" => args.text(0).map(|value| title(&value).into()),
        "untitle" => args.text(0).map(|value| untitle(&value).into()),
        "trim" => args.text(0).map(|value| value.trim().into()),
        "nospace" => args.text(0).map(|value| value.split_whitespace().collect::<String>().into()),
        "quote" => text(each(args, |value| format!("{value:?}"))),
        "squote" => text(each(args, |value| format!("'{value}'"))),
        "b64enc" => args.text(0).map(|value| STANDARD.encode(value).into()),
        "b64dec" => args.text(0).and_then(|value| {
            let bytes = STANDARD.decode(value.trim())?;
            Ok(Value::Text(String::from_utf8(bytes)?))
        }),
        "trimAll" => two(args, |cut, value| Ok(value.trim_matches(|c| cut.contains(c)).into())),
        "trimSuffix" => two(args, |suffix, value| Ok(value.strip_suffix(suffix).unwrap_or(value).into())),
        "trimPrefix" => two(args, |prefix, value| Ok(value.strip_prefix(prefix).unwrap_or(value).into())),
        "hasPrefix" => two(args, |prefix, value| Ok(Value::Bool(value.starts_with(prefix)))),
        "hasSuffix" => two(args, |suffix, value| Ok(Value::Bool(value.ends_with(suffix)))),
        "contains" => two(args, |part, value| Ok(Value::Bool(value.contains(part)))),
        "split" if dialect == Dialect::File => two(args, |value, separator| Ok(cut(value, separator))),
        "split" => two(args, |separator, value| {
            let parts = value.split(separator).enumerate();
            Ok(Value::Map(parts.map(|(index, part)| (format!("_{index}"), part.into())).collect()))
        }),
        "splitList" => two(args, |separator, value| Ok(cut(value, separator))),
        "replace" => (|| {
            let (old, new, value) = (args.text(0)?, args.text(1)?, args.text(2)?);
            let found = value.matches(&*old).count();
            within(value.len() + found.saturating_mul(new.len()))?;
            text(value.replace(&old, &new))
        })(),
        "repeat" => (|| {
            let (count, value) = (args.int(0)?, args.text(1)?);
            let count = usize::try_from(count).map_err(|_| FunctionError::NegativeCount)?;
            within(count.saturating_mul(value.len()))?;
            text(value.repeat(count))
        })(),
        "trunc" => (|| text(truncated(args.int(0)?, &args.text(1)?)))(),
        "substr" => (|| text(substring(args.int(0)?, args.int(1)?, &args.text(2)?)))(),
        "indent" | "nindent" => (|| {
            let (count, value) = (args.int(0)?, args.text(1)?);
            let count = usize::try_from(count).ok().filter(|count| *count <= MAX_INDENT);
            let count = count.ok_or(FunctionError::Indent)?;
            within(value.len() + count.saturating_mul(1 + value.matches('\n').count()))?;
            let spaces = " ".repeat(count);
            let start = if name == "nindent" { "\n" } else { "" };
            text(format!("{start}{spaces}{}", value.replace('\n', &format!("\n{spaces}"))))
        })(),
        _ => return None,
    })
}

fn regex_function(name: &str, args: Args<'_>) -> Option<Outcome> {
    Some(match name {
        "regexMatch" | "mustRegexMatch" => {
            two(args, |pattern, value| Ok(Value::Bool(regex(pattern)?.is_match(value))))
        }
        "regexFind" => {
            two(args, |pattern, value| text(regex(pattern)?.find(value).map_or("", |found| found.as_str())))
        }
        "regexReplaceAll" | "regexReplaceAllLiteral" => (|| {
            let (pattern, value, by) = (args.text(0)?, args.text(1)?, args.text(2)?);
            let pattern = regex(&pattern)?;
            let replaced = if name == "regexReplaceAll" {
                pattern.replace_all(&value, by.as_str())
            } else {
                pattern.replace_all(&value, regex::NoExpand(&by))
            };
            text(replaced)
        })(),
        _ => return None,
    })
}

fn list_function(name: &str, args: Args<'_>) -> Option<Outcome> {
    Some(match name {
        "list" => Ok(Value::List(args.0.to_vec())),
        "until" => args.int(0).and_then(|end| range(0, end, if end < 0 { -1 } else { 1 })),
        "untilStep" => (|| range(args.int(0)?, args.int(1)?, args.int(2)?))(),
        "first" => args.list(0).map(|list| list.first().cloned().unwrap_or(Value::Nil)),
        "last" => args.list(0).map(|list| list.last().cloned().unwrap_or(Value::Nil)),
        "rest" => args.list(0).map(|list| Value::List(list.get(1..).unwrap_or_default().to_vec())),
        "initial" => args.list(0).map(|list| Value::List(list[..list.len().saturating_sub(1)].to_vec())),
        "reverse" => args.list(0).map(|list| Value::List(list.iter().rev().cloned().collect())),
        "compact" => args
            .list(0)
            .map(|list| Value::List(list.iter().filter(|value| value.is_true()).cloned().collect())),
        "uniq" => args.list(0).and_then(unique),
        "sortAlpha" => args.list(0).map(|list| {
            let mut list: Vec<String> = list.iter().map(ToString::to_string).collect();
            list.sort();
            Value::List(list.into_iter().map(Value::Text).collect())
        }),
        "append" | "push" => (|| Ok(Value::List([args.list(0)?, &[args.get(1)?.clone()]].concat())))(),
        "prepend" => (|| Ok(Value::List([&[args.get(1)?.clone()][..], args.list(0)?].concat())))(),
        "concat" => (0..args.0.len())
            .map(|index| args.list(index))
            .collect::<Result<Vec<_>, _>>()
            .map(|lists| Value::List(lists.concat())),
        "has" => (|| Ok(Value::Bool(args.list(1)?.contains(args.get(0)?))))(),
        "without" => args.list(0).map(|list| {
            Value::List(list.iter().filter(|value| !args.0[1..].contains(value)).cloned().collect())
        }),
        "join" => (|| {
            let separator = args.text(0)?;
            let parts: Vec<String> = match args.get(1)? {
                Value::List(list) => list.iter().map(ToString::to_string).collect(),
                other => vec![other.to_string()],
            };
            text(parts.join(&separator))
        })(),
        _ => return None,
    })
}

/// Calls a function on tables, or on both tables and lists.
fn table_function(name: &str, args: Args<'_>) -> Option<Outcome> {
    Some(match name {
        "dict" => {
            let pairs = args.0.chunks(2).map(|pair| {
                (pair[0].to_string(), pair.get(1).cloned().unwrap_or_else(|| Value::Text(String::new())))
            });
            Ok(Value::Map(pairs.collect()))
        }
        "get" => (|| Ok(args.map(0)?.get(&args.text(1)?).cloned().unwrap_or_else(|| "".into())))(),
        "hasKey" => (|| Ok(Value::Bool(args.map(0)?.contains_key(&args.text(1)?))))(),
        "keys" => args.map(0).map(|map| Value::List(map.keys().cloned().map(Value::Text).collect())),
        "values" => args.map(0).map(|map| Value::List(map.values().cloned().collect())),
        "index" => (|| {
            args.0
                .get(1..)
                .unwrap_or_default()
                .iter()
                .try_fold(args.get(0)?.clone(), |value, key| index(&value, key))
        })(),
        "len" => args.get(0).and_then(|value| {
            let length = match value {
                Value::Text(text) => text.len(),
                Value::List(list) => list.len(),
                Value::Map(map) => map.len(),
                other => return Err(FunctionError::NoLength { kind: other.kind() }),
            };
            Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
        }),
        _ => return None,
    })
}

fn number_function(name: &str, args: Args<'_>) -> Option<Outcome> {
    let fold = |step: fn(i64, i64) -> Option<i64>| -> Outcome {
        let mut total = args.int(0)?;
        for position in 1..args.0.len() {
            let next = args.int(position)?;
            total = step(total, next).ok_or(FunctionError::Overflow)?;
        }
        Ok(Value::Int(total))
    };
    Some(match name {
        "add" => fold(i64::checked_add),
        "add1" => {
            args.int(0).and_then(|value| value.checked_add(1).map(Value::Int).ok_or(FunctionError::TooLarge))
        }
        "sub" => fold(i64::checked_sub),
        "mul" => fold(i64::checked_mul),
        "div" => fold(i64::checked_div),
        "mod" => fold(i64::checked_rem),
        "max" => fold(|a, b| Some(a.max(b))),
        "min" => fold(|a, b| Some(a.min(b))),
        "int" | "int64" | "atoi" => args.int(0).map(Value::Int),
        "float64" => args.text(0).map(|value| Value::Float(value.trim().parse().unwrap_or(0.0))),
        "not" => args.get(0).map(|value| Value::Bool(!value.is_true())),
        "eq" => args.get(0).and_then(|first| {
            let others = args.0.get(1..).filter(|others| !others.is_empty());
            let others = others.ok_or(FunctionError::NotTwoArguments)?;
            Ok(Value::Bool(
                others.iter().any(|other| order(first, other) == Some(Ordering::Equal) || first == other),
            ))
        }),
        "ne" => (|| {
            let (a, b) = (args.get(0)?, args.get(1)?);
            Ok(Value::Bool(order(a, b) != Some(Ordering::Equal) && a != b))
        })(),
        "lt" => compare(args, Ordering::is_lt),
        "le" => compare(args, Ordering::is_le),
        "gt" => compare(args, Ordering::is_gt),
        "ge" => compare(args, Ordering::is_ge),
        _ => return None,
    })
}

fn general_function(name: &str, args: Args<'_>, dialect: Dialect) -> Option<Outcome> {
    Some(match name {
        "env" => args.text(0).map(|name| environment(&name).into()),
        "expandenv" => args.text(0).map(|value| expand(&value).into()),
        "default" => (|| {
            let value = args.0.get(1).unwrap_or(&Value::Nil);
            Ok(if value.is_true() { value.clone() } else { args.get(0)?.clone() })
        })(),
        "coalesce" => Ok(args.0.iter().find(|value| value.is_true()).cloned().unwrap_or(Value::Nil)),
        "empty" => args.get(0).map(|value| Value::Bool(!value.is_true())),
        "ternary" => (|| {
            let chosen = if args.get(2)?.is_true() { args.get(0) } else { args.get(1) };
            chosen.cloned()
        })(),
        "toString" => text(args.0.iter().map(ToString::to_string).collect::<String>()),
        "print" => text(printed(args.0)),
        "println" => text(spaced(args.0) + "\n"),
        "cat" => text(spaced(args.0)),
        "printf" => args.text(0).and_then(|format| text(printf(&format, &args.0[1..], dialect)?)),
        "fail" => args.text(0).and_then(|message| Err(FunctionError::Failed(message))),
        "required" => (|| {
            let value = args.last()?;
            if value.is_true() { Ok(value.clone()) } else { Err(FunctionError::Failed(args.text(0)?)) }
        })(),
        "toJson" => args.get(0).map(|value| json(value).to_string().into()),
        _ => return None,
    })
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

fn two(args: Args<'_>, function: impl Fn(&str, &str) -> Outcome) -> Outcome {
    function(&args.text(0)?, &args.text(1)?)
}

fn within(length: usize) -> Result<(), FunctionError> {
    if length > MAX_TEXT { Err(FunctionError::ResultTooLong) } else { Ok(()) }
}

fn cut(value: &str, separator: &str) -> Value {
    if separator.is_empty() {
        return Value::List(value.chars().map(|c| c.to_string().into()).collect());
    }
    Value::List(value.split(separator).map(Value::from).collect())
}

fn title(value: &str) -> String {
    let mut start = true;
    value
        .chars()
        .map(|c| {
            let upper = if start { c.to_uppercase().next().unwrap_or(c) } else { c };
            start = !(c.is_alphanumeric() || c == '_' || c == '\'');
            upper
        })
        .collect()
}

fn untitle(value: &str) -> String {
    let mut chars = value.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

fn truncated(count: i64, value: &str) -> String {
    let length = value.chars().count();
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX).min(length);
    if count >= 0 {
        value.chars().take(wanted).collect()
    } else {
        value.chars().skip(length - wanted).collect()
    }
}

fn substring(start: i64, end: i64, value: &str) -> String {
    let start = usize::try_from(start).unwrap_or(0);
    let end = usize::try_from(end).unwrap_or(usize::MAX);
    value.chars().skip(start).take(end.saturating_sub(start)).collect()
}

fn regex(pattern: &str) -> Result<regex::Regex, FunctionError> {
    Ok(regex::RegexBuilder::new(pattern).size_limit(1 << 20).build()?)
}

fn range(start: i64, end: i64, step: i64) -> Outcome {
    if step == 0 {
        return Ok(Value::List(Vec::new()));
    }
    let count = end.checked_sub(start).and_then(|length| length.checked_div(step)).unwrap_or(i64::MAX);
    if count > MAX_ITEMS {
        return Err(FunctionError::TooManyItems);
    }
    let mut list = Vec::new();
    let mut value = start;
    while if step > 0 { value < end } else { value > end } {
        list.push(Value::Int(value));
        value = value.saturating_add(step);
    }
    Ok(Value::List(list))
}

fn unique(list: &[Value]) -> Outcome {
    if list.len() > MAX_UNIQUE {
        return Err(FunctionError::TooManyToCompare);
    }
    let mut out: Vec<Value> = Vec::new();
    for value in list {
        if !out.contains(value) {
            out.push(value.clone());
        }
    }
    Ok(Value::List(out))
}

fn index(value: &Value, key: &Value) -> Outcome {
    match value {
        Value::Map(map) => Ok(map.get(&key.to_string()).cloned().unwrap_or(Value::Nil)),
        Value::List(list) => {
            let position = int(key)?;
            let item = usize::try_from(position).ok().and_then(|position| list.get(position));
            item.cloned().ok_or(FunctionError::OutOfRange { position, length: list.len() })
        }
        Value::Nil => Ok(Value::Nil),
        other => Err(FunctionError::NotIndexable { kind: other.kind() }),
    }
}

#[expect(clippy::cast_precision_loss, reason = "as precise as a template needs")]
fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b),
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn compare(args: Args<'_>, holds: fn(Ordering) -> bool) -> Outcome {
    let (a, b) = (args.get(0)?, args.get(1)?);
    let order = order(a, b).ok_or(FunctionError::NotComparable { left: a.kind(), right: b.kind() })?;
    Ok(Value::Bool(holds(order)))
}

fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Expands `$NAME` and `${NAME}`.
fn expand(value: &str) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        (out, rest) = match braced {
            Some((name, behind)) => (out + &environment(name), behind),
            None => {
                let length =
                    after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
                (out + &environment(&after[..length]), &after[length..])
            }
        };
    }
    out + rest
}

/// Converts each argument except nil to text, changes it, and joins the results with spaces.
fn each(args: Args<'_>, change: fn(String) -> String) -> String {
    let given = args.0.iter().filter(|value| **value != Value::Nil);
    given.map(|value| change(value.to_string())).collect::<Vec<_>>().join(" ")
}

/// Formats like Go's `Sprint`: with a space between two arguments if neither is text.
fn printed(values: &[Value]) -> String {
    let mut out = String::new();
    let mut after_text = true;
    for value in values {
        let is_text = matches!(value, Value::Text(_));
        if !is_text && !after_text {
            out.push(' ');
        }
        out.push_str(&value.to_string());
        after_text = is_text;
    }
    out
}

fn spaced(values: &[Value]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn printf(format: &str, values: &[Value], dialect: Dialect) -> Result<String, FunctionError> {
    let mut out = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let flags = after.find(|c: char| !matches!(c, '0'..='9' | '-' | '.' | '+')).unwrap_or(after.len());
        let verb = after[flags..].chars().next().ok_or(FunctionError::UnfinishedFormat)?;
        rest = &after[flags + verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        let value = values.next().ok_or(FunctionError::NoValue { verb })?;
        let shown = match verb {
            's' | 'v' | 'd' | 't' => value.to_string(),
            'q' => format!("{:?}", value.to_string()),
            'x' => format!("{:x}", int(value)?),
            'f' => format!("{:.6}", value.to_string().parse::<f64>().unwrap_or(0.0)),
            verb => return Err(FunctionError::UnsupportedVerb { verb }),
        };
        if dialect == Dialect::Rule && shown.contains('`') && format.contains('`') {
            return Err(FunctionError::Backtick { value: shown });
        }
        out.push_str(&padded(&shown, &after[..flags]));
    }
    out.push_str(rest);
    Ok(out)
}

/// Applies a width like `5`, `-5` or `05`.
fn padded(shown: &str, flags: &str) -> String {
    let width = flags.split('.').next().unwrap_or("").trim_start_matches(['-', '+']);
    let width = width.parse::<usize>().unwrap_or(0).min(1000);
    let missing = width.saturating_sub(shown.chars().count());
    if flags.starts_with('-') {
        format!("{shown}{}", " ".repeat(missing))
    } else if flags.starts_with('0') {
        format!("{}{shown}", "0".repeat(missing))
    } else {
        format!("{}{shown}", " ".repeat(missing))
    }
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Nil => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Float(value) => (*value).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(list) => list.iter().map(json).collect(),
        Value::Map(map) => map.iter().map(|(key, value)| (key.clone(), json(value))).collect(),
    }
}
