//! What requests and responses cost: `5`, ``Method(`POST`) ? 5 : 1``, `Bytes(1024)`.

use std::str::FromStr as _;

use http::{HeaderMap, HeaderName, Method, StatusCode};
use tidegate_core::expression::{self, Argument, Call, Expression};
use tidegate_core::{BuildError, Request};

use crate::condition::{self, Condition, ReturnType};

/// Maximum cost of one request or response in tokens. Larger ones count as this.
pub(super) const MAX_COST: u64 = 1 << 40;
/// Maximum number of conditions in one cost.
const MAX_CONDITIONS: usize = 32;

/// How a cost is determined.
#[derive(Debug, PartialEq)]
pub(crate) enum Cost {
    Fixed(u64),
    /// One or the other.
    If(Box<(Condition<Test>, Cost, Cost)>),
    /// The number in a header; the second value if there is none.
    Header(HeaderName, u64),
    /// The number of started units of this many bytes in the response's body.
    Bytes(u64),
}

/// What conditions look at.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Test {
    Method(Method),
    HasHeader(HeaderName),
    Header(HeaderName, String),
    Path(String),
    PathPrefix(String),
    Host(String),
    Group(String),
    Status,
    BytesSent,
}

/// Whether a cost is known before the request or after the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Before,
    After,
}

/// A response that was sent.
#[derive(Debug)]
pub(super) struct Sent<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
    pub(super) bytes: u64,
}

const BEFORE: &[&str] = &["Group", "HasHeader", "Header", "Host", "Method", "Path", "PathPrefix"];
const AFTER: &[&str] = &["Bytes", "HasHeader", "Header", "Status"];

impl Cost {
    /// Parses a cost: a number, a call, or `condition ? cost : cost`.
    pub(crate) fn parse(text: &str, moment: Moment) -> Result<Self, BuildError> {
        let mut conditions = 0;
        Self::parse_part(text.trim(), moment, &mut conditions)
    }

    fn parse_part(text: &str, moment: Moment, conditions: &mut usize) -> Result<Self, BuildError> {
        let Some(question) = find_outside(text, b'?') else { return Self::parse_value(text, moment) };
        *conditions += 1;
        if *conditions > MAX_CONDITIONS {
            return Err(BuildError::new(format!("expected at most {MAX_CONDITIONS} conditions")));
        }
        let (condition, rest) = (text[..question].trim(), &text[question + 1..]);
        let Some(colon) = find_else(rest) else {
            return Err(BuildError::new(format!("`{text}`: expected `:` and the other cost")));
        };
        let test = |call: &Call| Test::from_call(call, moment);
        let condition = Condition::parse(condition, &test)?;
        let then = Self::parse_part(rest[..colon].trim(), moment, conditions)?;
        let otherwise = Self::parse_part(rest[colon + 1..].trim(), moment, conditions)?;
        Ok(Self::If(Box::new((condition, then, otherwise))))
    }

    fn parse_value(text: &str, moment: Moment) -> Result<Self, BuildError> {
        if let Ok(number) = text.parse::<u64>() {
            return Ok(Self::Fixed(number.min(MAX_COST)));
        }
        let invalid = || {
            let calls = match moment {
                Moment::Before => "Header(`X-Cost`)",
                Moment::After => "Bytes(1024), Header(`X-Cost`)",
            };
            BuildError::new(format!(
                "`{text}` is not a cost: expected a number, {calls} or `condition ? cost : cost`"
            ))
        };
        let Ok(Expression::Call(call)) = expression::parse(text) else { return Err(invalid()) };
        match (call.name.as_str(), call.arguments.as_slice(), moment) {
            ("Header", [Argument::Text(name)], _) => Ok(Self::Header(header(name)?, 1)),
            ("Header", [Argument::Text(name), Argument::Number(number)], _) => {
                Ok(Self::Header(header(name)?, *number as u64))
            }
            ("Bytes", [], Moment::After) => Ok(Self::Bytes(1)),
            ("Bytes", [Argument::Number(unit)], Moment::After) if *unit >= 1.0 => {
                Ok(Self::Bytes(*unit as u64))
            }
            _ => Err(invalid()),
        }
    }

    /// Returns the cost of a request.
    pub(crate) fn of_request(&self, request: &Request) -> u64 {
        match self {
            Self::Fixed(number) => *number,
            Self::If(parts) => {
                let (condition, then, otherwise) = &**parts;
                let holds = condition.holds(&|test| f64::from(u8::from(test.holds_for(request))));
                if holds { then.of_request(request) } else { otherwise.of_request(request) }
            }
            // A client cannot make its requests free of charge.
            Self::Header(name, other) => number_in(&request.head.headers, name).unwrap_or(*other).max(1),
            Self::Bytes(_) => 0,
        }
    }

    /// Returns the cost of a response.
    pub(super) fn of_response(&self, sent: &Sent<'_>) -> u64 {
        match self {
            Self::Fixed(number) => *number,
            Self::If(parts) => {
                let (condition, then, otherwise) = &**parts;
                let holds = condition.holds(&|test| test.measure(sent));
                if holds { then.of_response(sent) } else { otherwise.of_response(sent) }
            }
            Self::Header(name, other) => number_in(sent.headers, name).unwrap_or(*other),
            Self::Bytes(unit) => sent.bytes.div_ceil((*unit).max(1)).min(MAX_COST),
        }
    }
}

impl Test {
    fn from_call(call: &Call, moment: Moment) -> Result<(Self, ReturnType), BuildError> {
        let known = if moment == Moment::Before { BEFORE } else { AFTER };
        if !known.contains(&call.name.as_str()) {
            return Err(condition::unknown(call, known));
        }
        let texts: Vec<&str> = call
            .arguments
            .iter()
            .filter_map(|argument| match argument {
                Argument::Text(text) => Some(text.as_str()),
                Argument::Number(_) => None,
            })
            .collect();
        if texts.len() != call.arguments.len() {
            return Err(BuildError::new(format!("{} takes texts", call.name)));
        }
        let owned = str::to_owned;
        let test = match (call.name.as_str(), texts.as_slice()) {
            ("Status", []) => return Ok((Self::Status, ReturnType::Number)),
            ("Bytes", []) => return Ok((Self::BytesSent, ReturnType::Number)),
            ("Header", [name, value]) => Self::Header(header(name)?, owned(value)),
            ("HasHeader", [name]) => Self::HasHeader(header(name)?),
            ("Method", [method]) => Self::Method(
                Method::from_str(method)
                    .map_err(|_| BuildError::new(format!("Method: invalid method `{method}`")))?,
            ),
            ("Path", [path]) => Self::Path(owned(path)),
            ("PathPrefix", [path]) => Self::PathPrefix(owned(path)),
            ("Host", [host]) => Self::Host(owned(host)),
            ("Group", [group]) => Self::Group(owned(group)),
            ("Header", _) => return Err(BuildError::new("Header takes a name and a value")),
            ("Status" | "Bytes", _) => return Err(BuildError::new(format!("{} takes nothing", call.name))),
            (function, _) => return Err(BuildError::new(format!("{function} takes one text"))),
        };
        Ok((test, ReturnType::Bool))
    }

    fn holds_for(&self, request: &Request) -> bool {
        let headers = &request.head.headers;
        match self {
            Self::Method(method) => request.head.method == *method,
            Self::HasHeader(name) => headers.contains_key(name),
            Self::Header(name, value) => has(headers, name, value),
            Self::Path(path) => request.path() == path,
            Self::PathPrefix(path) => request.path().starts_with(path.as_str()),
            Self::Host(host) => {
                let given = request.host();
                let name = given.rsplit_once(':').map_or(given, |(name, _)| name);
                name.eq_ignore_ascii_case(host)
            }
            Self::Group(name) => {
                request.context.identity.as_ref().is_some_and(|identity| identity.is_in_group(name))
            }
            Self::Status | Self::BytesSent => false,
        }
    }

    fn measure(&self, sent: &Sent<'_>) -> f64 {
        let truth = |is: bool| f64::from(u8::from(is));
        match self {
            Self::Status => f64::from(sent.status.as_u16()),
            Self::BytesSent => sent.bytes as f64,
            Self::HasHeader(name) => truth(sent.headers.contains_key(name)),
            Self::Header(name, value) => truth(has(sent.headers, name, value)),
            _ => 0.0,
        }
    }
}

fn has(headers: &HeaderMap, name: &HeaderName, value: &str) -> bool {
    headers.get_all(name).iter().any(|given| given.as_bytes() == value.as_bytes())
}

fn header(name: &str) -> Result<HeaderName, BuildError> {
    HeaderName::from_str(name).map_err(|_| BuildError::new(format!("invalid header name `{name}`")))
}

fn number_in(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let text = headers.get(name)?.to_str().ok()?.trim();
    // Too large for a number is as expensive as possible.
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(MAX_COST).min(MAX_COST))
}

/// Returns the positions of a byte outside of strings.
fn outside(text: &str) -> impl Iterator<Item = (usize, u8)> {
    let mut quote = None;
    let mut escaped = false;
    text.bytes().enumerate().filter(move |(_, byte)| {
        if escaped {
            escaped = false;
            return false;
        }
        match (quote, *byte) {
            (Some(b'"'), b'\\') => escaped = true,
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'`' | b'"') => quote = Some(*byte),
            (None, _) => return true,
        }
        false
    })
}

fn find_outside(text: &str, wanted: u8) -> Option<usize> {
    outside(text).find(|(_, byte)| *byte == wanted).map(|(at, _)| at)
}

/// Returns the position of the `:` that belongs to the condition before `text`.
fn find_else(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in outside(text) {
        match byte {
            b'?' => depth += 1,
            b':' if depth == 0 => return Some(at),
            b':' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::request;

    fn before(text: &str, method: &str, header: &str) -> u64 {
        let request = request(
            http::Request::builder().method(method).uri("http://h.test/a/b").header("x-cost", header),
        );
        Cost::parse(text, Moment::Before).unwrap().of_request(&request)
    }

    fn after(text: &str, status: u16, bytes: u64) -> u64 {
        let mut headers = HeaderMap::new();
        headers.insert("x-tokens", "37".parse().unwrap());
        let sent = Sent { status: StatusCode::from_u16(status).unwrap(), headers: &headers, bytes };
        Cost::parse(text, Moment::After).unwrap().of_response(&sent)
    }

    #[test]
    fn a_request_costs_by_method_header_and_path() {
        assert_eq!(before("3", "GET", "9"), 3);
        let nested = "Method(`POST`) ? 5 : PathPrefix(`/a`) && Header(`x-cost`, `a?b:c`) ? 2 : 1";
        assert_eq!(before(nested, "POST", ""), 5);
        assert_eq!(before(nested, "GET", "a?b:c"), 2);
        assert_eq!(before(nested, "GET", "x"), 1);
        assert_eq!(before("HasHeader(`x-cost`) ? Host(`H.test`) ? 7 : 8 : 9", "GET", ""), 7);
    }

    #[test]
    fn a_client_cannot_make_its_requests_free_or_overflow() {
        let cost = |value| before("Header(`X-Cost`, 4)", "GET", value);
        assert_eq!(
            [cost("12"), cost("0"), cost("-5"), cost(""), cost("x"), cost("1e9")],
            [12, 1, 4, 4, 4, 4]
        );
        assert_eq!(cost("99999999999999999999999999"), MAX_COST);
    }

    #[test]
    fn a_response_costs_by_status_and_bytes() {
        assert_eq!(
            [after("Bytes(1024)", 200, 1025), after("Bytes()", 200, 7), after("Bytes()", 200, 0)],
            [2, 7, 0]
        );
        let cost = "Status() >= 500 ? 10 : Header(`X-Tokens`)";
        assert_eq!([after(cost, 503, 0), after(cost, 200, 0)], [10, 37]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, moment, expected) in [
            ("-1", Moment::Before, "`-1` is not a cost: expected a number, Header"),
            ("Bytes()", Moment::Before, "`Bytes()` is not a cost"),
            ("Method(`POST`) ? 5", Moment::Before, "`Method(`POST`) ? 5`: expected `:`"),
            ("Methd(`POST`) ? 5 : 1", Moment::Before, "unknown function `Methd`: did you mean `Method`?"),
            ("Status() ? 5 : 1", Moment::After, "Status returns a number"),
            ("Method(`P OST`) ? 5 : 1", Moment::Before, "Method: invalid method"),
            ("Header(`a b`)", Moment::Before, "invalid header name"),
        ] {
            let error = Cost::parse(text, moment).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let deep = "Path(`/`) ? 1 : ".repeat(100) + "1";
        assert!(Cost::parse(&deep, Moment::Before).unwrap_err().to_string().contains("at most 32"));
    }
}
