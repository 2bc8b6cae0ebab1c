//! Credentials in headers and queries, which no log and no API may show.

use std::ops::Range;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// What is shown instead of a credential.
pub const REDACTED: &str = "REDACTED";

/// Where the credentials of a request were.
#[derive(Debug, Default)]
pub struct Concealed {
    /// Headers with a credential.
    pub headers: Vec<HeaderName>,
    /// Decoded name of a query parameter with a credential.
    pub parameter: Option<String>,
}

impl Concealed {
    /// Replaces the values of the headers.
    pub fn redact_headers(&self, headers: &mut HeaderMap) {
        for name in &self.headers {
            if headers.contains_key(name) {
                headers.insert(name, HeaderValue::from_static(REDACTED));
            }
        }
    }

    /// Returns the places of the parameter's values in a target, in order.
    pub fn values(&self, target: &str) -> Vec<Range<usize>> {
        let Some(name) = &self.parameter else { return Vec::new() };
        let Some(query) = target.find('?').map(|at| at + 1) else { return Vec::new() };
        let mut start = query;
        let mut values = Vec::new();
        for pair in target.get(query..).unwrap_or_default().split('&') {
            let end = start + pair.len();
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if is_encoded(key.as_bytes(), name.as_bytes()) && !value.is_empty() {
                values.push(end - value.len()..end);
            }
            start = end + 1;
        }
        values
    }

    /// Returns a target without the parameter's values; `None` if it has none.
    pub fn redacted(&self, target: &str) -> Option<String> {
        let values = self.values(target);
        let mut text = target.to_owned();
        for value in values.iter().rev() {
            text.replace_range(value.clone(), REDACTED);
        }
        (!values.is_empty()).then_some(text)
    }
}

/// Returns true if `encoded` is `plain` in form encoding.
fn is_encoded(mut encoded: &[u8], plain: &[u8]) -> bool {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for expected in plain {
        let (byte, rest) = match encoded {
            [b'%', high, low, rest @ ..] => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => (high << 4 | low, rest),
                _ => (b'%', &encoded[1..]),
            },
            [b'+', rest @ ..] => (b' ', rest),
            [byte, rest @ ..] => (*byte, rest),
            [] => return false,
        };
        if byte != *expected {
            return false;
        }
        encoded = rest;
    }
    encoded.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_values_of_the_parameter_are_replaced() {
        let concealed = Concealed { headers: Vec::new(), parameter: Some("api key".into()) };
        for (target, expected) in [
            ("/a?api+key=secret&b=1", Some("/a?api+key=REDACTED&b=1")),
            (
                "/a?x=api+key&%61pi%20key=secret&api+key=s",
                Some("/a?x=api+key&%61pi%20key=REDACTED&api+key=REDACTED"),
            ),
            ("/api+key=secret", None),
            ("/a?api+keys=1&api+ke=2&api+key", None),
            ("/a?api+key=", None),
            ("/a?%=1&%6=2&", None),
        ] {
            assert_eq!(concealed.redacted(target).as_deref(), expected, "{target}");
        }
        assert_eq!(Concealed::default().redacted("/a?b=1"), None);
    }

    #[test]
    fn headers_are_replaced_with_all_their_values() {
        let name = HeaderName::from_static("x-key");
        let concealed =
            Concealed { headers: vec![name.clone(), HeaderName::from_static("x-other")], parameter: None };
        let mut headers = HeaderMap::new();
        headers.append(&name, HeaderValue::from_static("one"));
        headers.append(&name, HeaderValue::from_static("two"));
        concealed.redact_headers(&mut headers);
        assert_eq!((headers.len(), &headers[&name]), (1, &HeaderValue::from_static(REDACTED)));
    }
}
