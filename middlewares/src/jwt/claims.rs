//! Claims beyond the registered ones: conditions on them, and their values as headers.

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use serde_json::Value;
use tidegate_core::BuildError;
use tidegate_core::expression::{Argument, Call};

use super::refusal::Refusal;
use super::token::Claims;
use crate::condition::{self, Condition, ReturnType};

/// Maximum length of a header value in bytes.
const MAX_VALUE: usize = 8 * 1024;

/// Names of the functions, which are Traefik Hub's.
const FUNCTIONS: &[&str] = &["Equals", "Prefix", "Contains", "SplitContains", "OneOf"];

/// A condition on claims, in Traefik Hub's language.
#[derive(Debug)]
pub(crate) struct Expression(Condition<Test>);

/// A test of one claim.
#[derive(Clone, Debug, PartialEq)]
struct Test {
    claim: String,
    function: Function,
}

#[derive(Clone, Debug, PartialEq)]
enum Function {
    Equals(String),
    Prefix(String),
    Contains(String),
    SplitContains(String, String),
    OneOf(Vec<String>),
}

impl Expression {
    /// Parses the option `claims`.
    pub(crate) fn parse(text: &str) -> Result<Self, BuildError> {
        Condition::parse(text, &|call| Test::from_call(call).map(|test| (test, ReturnType::Bool))).map(Self)
    }

    /// Returns true if the claims satisfy it. A missing claim satisfies no function.
    pub(crate) fn holds(&self, claims: &Claims) -> bool {
        self.0.holds(&|test| f64::from(u8::from(test.holds(claims))))
    }
}

impl Test {
    fn from_call(call: &Call) -> Result<Self, BuildError> {
        if !FUNCTIONS.contains(&call.name.as_str()) {
            return Err(condition::unknown(call, FUNCTIONS));
        }
        let texts = call.arguments.iter().map(|argument| match argument {
            Argument::Text(text) => text.clone(),
            Argument::Number(number) => number.to_string(),
        });
        let mut texts: Vec<String> = texts.collect();
        let wrong = |takes: &str| BuildError::new(format!("{} takes {takes}", call.name));
        let function = match (call.name.as_str(), texts.len()) {
            ("Equals", 2) => Function::Equals(texts.pop().unwrap_or_default()),
            ("Prefix", 2) => Function::Prefix(texts.pop().unwrap_or_default()),
            ("Contains", 2) => Function::Contains(texts.pop().unwrap_or_default()),
            ("SplitContains", 3) if !texts.get(1).is_none_or(String::is_empty) => {
                let value = texts.pop().unwrap_or_default();
                Function::SplitContains(texts.pop().unwrap_or_default(), value)
            }
            ("OneOf", 2..) => Function::OneOf(texts.split_off(1)),
            ("SplitContains", _) => return Err(wrong("a claim, a separator and a value")),
            ("OneOf", _) => return Err(wrong("a claim and values")),
            _ => return Err(wrong("a claim and a value")),
        };
        Ok(Self { claim: texts.swap_remove(0), function })
    }

    fn holds(&self, claims: &Claims) -> bool {
        let Some(found) = claim(claims, &self.claim) else { return false };
        let is = |value: &Value, text: &str| scalar(value).is_some_and(|scalar| scalar == text);
        match &self.function {
            Function::Equals(text) => is(found, text),
            Function::Prefix(text) => scalar(found).is_some_and(|scalar| scalar.starts_with(&**text)),
            Function::Contains(text) => match found {
                Value::Array(values) => values.iter().any(|value| is(value, text)),
                value => value.as_str().is_some_and(|value| value.contains(&**text)),
            },
            Function::SplitContains(separator, text) => {
                found.as_str().is_some_and(|value| value.split(&**separator).any(|part| part == text))
            }
            Function::OneOf(texts) => texts.iter().any(|text| is(found, text)),
        }
    }
}

/// A SHA-256 hash.
pub(crate) type Thumbprint = [u8; 32];

/// What clients must have to use a token (RFC 7800).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Binding {
    /// The hash of a certificate (RFC 8705 section 3.1).
    pub(crate) certificate: Option<Thumbprint>,
    /// The hash of a key (RFC 9449 section 6.1).
    pub(crate) key: Option<Thumbprint>,
}

/// Returns what a token is bound to. A token that is bound to anything else cannot be checked.
pub(crate) fn binding(claims: &Claims) -> Result<Binding, Refusal> {
    let Some(confirmation) = claims.get("cnf") else { return Ok(Binding::default()) };
    let hash = |name: &str| {
        let text = confirmation.get(name)?;
        let hash = text.as_str().and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok());
        Some(hash.and_then(|hash| Thumbprint::try_from(hash).ok()).ok_or(Refusal::Malformed))
    };
    match (hash("x5t#S256").transpose()?, hash("jkt").transpose()?) {
        (None, None) => Err(Refusal::OtherBinding),
        (certificate, key) => Ok(Binding { certificate, key }),
    }
}

/// Returns a claim by its name, or by the path to a nested one: `realm_access.roles`.
pub(crate) fn claim<'a>(claims: &'a Claims, name: &str) -> Option<&'a Value> {
    if let Some(found) = claims.get(name) {
        return Some(found);
    }
    let mut parts = name.split('.');
    let first = claims.get(parts.next()?)?;
    parts.try_fold(first, |value, part| value.as_object()?.get(part))
}

/// Returns the texts of a list, or a single text.
pub(crate) fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().into_iter().flatten();
    list.filter_map(Value::as_str).chain(value.as_str())
}

/// Returns the text of a string, number or boolean.
pub(crate) fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(_) | Value::Bool(_) => Some(Cow::Owned(value.to_string())),
        _ => None,
    }
}

/// Returns a claim as the value of a header; `None` if it is missing or null. The elements of an array are separated by
/// commas. What could be read as something else is refused: control characters, commas in elements, objects.
pub(crate) fn header_value(claims: &Claims, name: &str) -> Result<Option<HeaderValue>, Refusal> {
    let text = match claim(claims, name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(values)) => {
            let mut texts = Vec::with_capacity(values.len());
            for value in values {
                let text = scalar(value).filter(|text| !text.contains(',')).ok_or(Refusal::Unsendable)?;
                texts.push(text);
            }
            Cow::Owned(texts.join(","))
        }
        Some(value) => scalar(value).ok_or(Refusal::Unsendable)?,
    };
    if text.len() > MAX_VALUE || text.chars().any(char::is_control) || text.trim() != text {
        return Err(Refusal::Unsendable);
    }
    HeaderValue::from_bytes(text.as_bytes()).map(Some).map_err(|_| Refusal::Unsendable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        let json = r#"{"grp": "admin", "n": 5, "yes": true, "scope": "read write_all", "roles": ["a", "b", 3],
            "realm_access": {"roles": ["ops"]}, "https://a.test/x": "y", "a.b": "direct", "null": null,
            "evil": "x\r\nX-Admin: 1", "list": ["a,b"], "spaces": " admin"}"#;
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn expressions_are_evaluated() {
        for (text, expected) in [
            ("Equals(`grp`, `admin`)", true),
            ("Equals(`grp`, `adm`)", false),
            ("Equals(`n`, 5) && Equals(`yes`, `true`)", true),
            ("Equals(`roles`, `a`)", false),
            ("Prefix(`grp`, `adm`) && !Prefix(`missing`, ``)", true),
            ("Contains(`roles`, `a`) && Contains(`roles`, `3`) && !Contains(`roles`, `c`)", true),
            ("Contains(`realm_access.roles`, `ops`)", true),
            ("Contains(`scope`, `write`)", true),
            ("SplitContains(`scope`, ` `, `write`)", false),
            ("SplitContains(`scope`, ` `, `read`)", true),
            ("OneOf(`grp`, `user`, `admin`)", true),
            ("OneOf(`grp`, `user`) || Equals(`https://a.test/x`, `y`)", true),
            ("Equals(`a.b`, `direct`)", true),
            ("Equals(`null`, `null`) || Equals(`missing`, ``)", false),
        ] {
            assert_eq!(Expression::parse(text).unwrap().holds(&claims()), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, message) in [
            ("Equal(`a`, `b`)", "unknown function `Equal`: did you mean `Equals`?"),
            ("Equals(`a`)", "Equals takes a claim and a value"),
            ("SplitContains(`a`, ``, `b`)", "SplitContains takes a claim, a separator and a value"),
            ("OneOf(`a`)", "OneOf takes a claim and values"),
            (
                "Equals(`a`, `b`",
                "invalid expression `Equals(`a`, `b`` at column 1: the call of Equals is never closed",
            ),
        ] {
            assert_eq!(Expression::parse(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn headers_cannot_be_injected() {
        let value = |name: &str| header_value(&claims(), name);
        assert_eq!(value("grp").unwrap().unwrap(), "admin");
        assert_eq!(value("roles").unwrap().unwrap(), "a,b,3");
        assert_eq!([value("missing").unwrap(), value("null").unwrap()], [None, None]);
        for name in ["evil", "list", "realm_access", "spaces"] {
            assert_eq!(value(name), Err(Refusal::Unsendable), "{name}");
        }
    }
}
