//! What a policy decides: a boolean, or an object as for OPA's Envoy plug-in.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode};
use serde_json::{Map, Value};
use tidegate_core::{Reason, Response, reply};

use crate::auth;

/// Headers that belong to a connection or to the length of a body, and the host, by which the request was routed.
const RESERVED: [HeaderName; 10] = [
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Maximum number of values of headers.
const MAX_HEADERS: usize = 100;
/// Maximum length of a decision in bytes: of the values of headers, and of the body.
const MAX_LENGTH: usize = 64 * 1024;

/// A decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Allow(Allowed),
    Deny(Denied),
}

/// How a request passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Allowed {
    /// Request headers, each with its values; without any, it is removed.
    request: Vec<(HeaderName, Vec<HeaderValue>)>,
    /// Response headers that are added.
    response: Vec<(HeaderName, Vec<HeaderValue>)>,
}

/// How a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    status: StatusCode,
    headers: Vec<(HeaderName, Vec<HeaderValue>)>,
    body: Option<Bytes>,
}

/// Why a result is not a decision. Contains no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecisionError {
    #[error("the result is neither a boolean nor an object with the boolean `allowed`")]
    Form,
    #[error("`{0}`: expected {1}")]
    Member(&'static str, &'static str),
    #[error("`{0}`: header `{1}` cannot be set by a policy")]
    Reserved(&'static str, String),
    #[error("`{0}`: invalid header `{1}`")]
    Header(&'static str, String),
    #[error("the decision is larger than {MAX_HEADERS} headers or {MAX_LENGTH} bytes")]
    TooLarge,
}

impl Decision {
    /// Reads a result; an undefined one denies the request.
    pub(super) fn read(result: Option<&Value>) -> Result<Self, DecisionError> {
        let members = match result {
            None | Some(Value::Bool(false)) => return Ok(Self::denied()),
            Some(Value::Bool(true)) => return Ok(Self::Allow(Allowed::default())),
            Some(Value::Object(members)) => members,
            Some(_) => return Err(DecisionError::Form),
        };
        let is_allowed = match (members.get("allowed"), members.get("allow")) {
            (Some(Value::Bool(allowed)), None) | (None, Some(Value::Bool(allowed))) => *allowed,
            (Some(Value::Bool(one)), Some(Value::Bool(other))) if one == other => *one,
            _ => return Err(DecisionError::Form),
        };
        let mut left = Left { headers: MAX_HEADERS, length: MAX_LENGTH };
        let headers = left.headers(members, "headers")?;
        if !is_allowed {
            return Ok(Self::Deny(Denied { status: status(members)?, headers, body: left.body(members)? }));
        }
        let mut request = headers;
        for name in left.names(members, "request_headers_to_remove")? {
            request.push((name, Vec::new()));
        }
        Ok(Self::Allow(Allowed { request, response: left.headers(members, "response_headers_to_add")? }))
    }

    /// Returns the decision against a request without further details.
    pub(super) fn denied() -> Self {
        Self::Deny(Denied { status: StatusCode::FORBIDDEN, headers: Vec::new(), body: None })
    }

    /// Adds a header for the service, which has the value of an expression; without one, it is removed.
    pub(super) fn forward(&mut self, name: &HeaderName, value: Option<&Value>) -> Result<(), DecisionError> {
        const OPTION: &str = "forwardHeaders";
        let Self::Allow(allowed) = self else { return Ok(()) };
        let value = match value {
            None | Some(Value::Null) => None,
            Some(Value::Array(elements)) => {
                let texts = elements.iter().map(|element| scalar(element).filter(|text| !text.contains(',')));
                let texts: Option<Vec<_>> = texts.collect();
                Some(texts.ok_or_else(|| DecisionError::Header(OPTION, name.to_string()))?.join(","))
            }
            Some(value) => {
                Some(scalar(value).ok_or_else(|| DecisionError::Header(OPTION, name.to_string()))?)
            }
        };
        if value.as_ref().is_some_and(|value| value.len() > MAX_LENGTH) {
            return Err(DecisionError::TooLarge);
        }
        let value = value.map(|text| header_value(OPTION, name, &text)).transpose()?;
        allowed.request.push((name.clone(), value.into_iter().collect()));
        Ok(())
    }

    /// Returns about how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        let of = |headers: &[(HeaderName, Vec<HeaderValue>)]| -> usize {
            let values = headers.iter().map(|(name, values)| {
                name.as_str().len() + values.iter().map(HeaderValue::len).sum::<usize>() + 64
            });
            values.sum()
        };
        128 + match self {
            Self::Allow(Allowed { request, response }) => of(request) + of(response),
            Self::Deny(denied) => of(&denied.headers) + denied.body.as_ref().map_or(0, Bytes::len),
        }
    }
}

impl Allowed {
    /// Changes the headers of the request. Other spellings of them are removed.
    pub(super) fn change_request(&self, headers: &mut HeaderMap) {
        for (name, values) in &self.request {
            let mut values = values.iter().cloned();
            auth::replace_exclusively(headers, name, values.next());
            for value in values {
                headers.append(name, value);
            }
        }
    }

    /// Returns true if the response gets headers.
    pub(super) fn changes_response(&self) -> bool {
        !self.response.is_empty()
    }

    /// Adds headers to the response.
    pub(super) fn change_response(&self, headers: &mut HeaderMap) {
        for (name, values) in &self.response {
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }

    /// Returns the names of the headers that the response gets.
    pub(super) fn response_headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.response.iter().map(|(name, _)| name)
    }
}

impl Denied {
    /// Returns the response to the client.
    pub(super) fn response(&self, method: &Method) -> Response {
        let reason = Reason::PolicyDenied;
        let mut response = match &self.body {
            Some(body) => {
                let length = HeaderValue::from(body.len());
                let body = if *method == Method::HEAD { Bytes::new() } else { body.clone() };
                let mut response = reply::bare(self.status, body, reason);
                let kind = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response.headers_mut().insert(CONTENT_LENGTH, length);
                response
            }
            None => reply::status_text(self.status, reason),
        };
        for (name, values) in &self.headers {
            let mut values = values.iter().cloned();
            if let Some(value) = values.next() {
                response.headers_mut().insert(name, value);
            }
            for value in values {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

/// What a decision may still contain.
struct Left {
    headers: usize,
    length: usize,
}

impl Left {
    fn take(&mut self, headers: usize, length: usize) -> Result<(), DecisionError> {
        self.headers = self.headers.checked_sub(headers).ok_or(DecisionError::TooLarge)?;
        self.length = self.length.checked_sub(length).ok_or(DecisionError::TooLarge)?;
        Ok(())
    }

    /// Reads an object of headers, each with one value or several.
    fn headers(
        &mut self,
        members: &Map<String, Value>,
        member: &'static str,
    ) -> Result<Vec<(HeaderName, Vec<HeaderValue>)>, DecisionError> {
        let object = match members.get(member) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(object)) => object,
            Some(_) => return Err(DecisionError::Member(member, "an object")),
        };
        let mut headers: Vec<(HeaderName, Vec<HeaderValue>)> = Vec::new();
        for (text, value) in object {
            let name = name(member, text)?;
            let several = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let mut values = Vec::new();
            for value in several {
                let text = scalar(value).ok_or_else(|| DecisionError::Header(member, text.clone()))?;
                self.take(1, text.len() + name.as_str().len())?;
                values.push(header_value(member, &name, &text)?);
            }
            match headers.iter_mut().find(|(other, _)| *other == name) {
                Some((_, all)) => all.extend(values),
                None => headers.push((name, values)),
            }
        }
        Ok(headers)
    }

    fn names(
        &mut self,
        members: &Map<String, Value>,
        member: &'static str,
    ) -> Result<Vec<HeaderName>, DecisionError> {
        let names = match members.get(member) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(names)) => names,
            Some(_) => return Err(DecisionError::Member(member, "a list of names")),
        };
        self.take(names.len(), 0)?;
        let names = names.iter().map(|text| match text.as_str() {
            Some(text) => name(member, text),
            None => Err(DecisionError::Member(member, "a list of names")),
        });
        names.collect()
    }

    fn body(&mut self, members: &Map<String, Value>) -> Result<Option<Bytes>, DecisionError> {
        let body = match members.get("body").or_else(|| members.get("message")) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.clone(),
            Some(_) => return Err(DecisionError::Member("body", "a string")),
        };
        self.take(0, body.len())?;
        Ok(Some(body.into()))
    }
}

fn status(members: &Map<String, Value>) -> Result<StatusCode, DecisionError> {
    let expected = || DecisionError::Member("http_status", "a status from 300 to 599");
    match members.get("http_status").or_else(|| members.get("status")) {
        None | Some(Value::Null) => Ok(StatusCode::FORBIDDEN),
        Some(status) => {
            let status = status.as_u64().and_then(|status| u16::try_from(status).ok());
            let status = status.filter(|status| (300..=599).contains(status)).ok_or_else(expected)?;
            // It has no body, and clients wait for none.
            let status = StatusCode::from_u16(status).map_err(|_| expected())?;
            if status == StatusCode::NOT_MODIFIED { Err(expected()) } else { Ok(status) }
        }
    }
}

fn name(member: &'static str, text: &str) -> Result<HeaderName, DecisionError> {
    let name: HeaderName = text.parse().map_err(|_| DecisionError::Header(member, text.to_owned()))?;
    if RESERVED.iter().any(|reserved| auth::is_same(reserved, &name)) {
        return Err(DecisionError::Reserved(member, text.to_owned()));
    }
    Ok(name)
}

/// Checks a header of the option `forwardHeaders`.
pub(super) fn forwarded_name(text: &str) -> Result<HeaderName, DecisionError> {
    name("forwardHeaders", text)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        _ => None,
    }
}

fn header_value(member: &'static str, name: &HeaderName, text: &str) -> Result<HeaderValue, DecisionError> {
    let is_plain = text.trim() == text && !text.chars().any(char::is_control);
    let value = is_plain.then(|| HeaderValue::from_bytes(text.as_bytes()).ok()).flatten();
    value.ok_or_else(|| DecisionError::Header(member, name.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> Result<Decision, DecisionError> {
        Decision::read(Some(&value))
    }

    fn allowed(value: Value) -> Allowed {
        match read(value) {
            Ok(Decision::Allow(allowed)) => allowed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_what_says_so_allows() {
        assert_eq!(Decision::read(None), Ok(Decision::denied()));
        assert_eq!(read(json!(false)), Ok(Decision::denied()));
        for value in [json!(true), json!({"allowed": true}), json!({"allow": true, "allowed": true})] {
            assert_eq!(allowed(value), Allowed::default());
        }
        for value in [
            json!("true"),
            json!(1),
            json!([true]),
            json!(null),
            json!({}),
            json!({"allowed": "true"}),
            json!({"allow": 1}),
            json!({"allowed": null, "allow": true}),
            json!({"allowed": false, "allow": true}),
            json!({"Allowed": true}),
        ] {
            assert_eq!(read(value.clone()), Err(DecisionError::Form), "{value}");
        }
    }

    #[test]
    fn requests_and_responses_get_headers() {
        let allowed = allowed(json!({
            "allowed": true,
            "headers": {"X-Role": "admin", "x-n": [1, true]},
            "request_headers_to_remove": ["X-Secret"],
            "response_headers_to_add": {"X-Policy": "a"},
        }));
        let mut headers = HeaderMap::new();
        for name in ["x-role", "x_role", "x-secret", "x.secret", "x-other"] {
            headers.append(name, HeaderValue::from_static("client"));
        }
        allowed.change_request(&mut headers);
        let values: Vec<_> = headers.get_all("x-n").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!((headers["x-role"].to_str().unwrap(), values), ("admin", vec!["1", "true"]));
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["x-n", "x-other", "x-role"]);
        let mut response = HeaderMap::new();
        allowed.change_response(&mut response);
        assert_eq!(response["x-policy"], "a");
    }

    #[test]
    fn a_denial_has_status_headers_and_body() {
        let denied = json!({"allowed": false, "http_status": 401, "body": "no",
            "headers": {"WWW-Authenticate": ["Basic", "Bearer"], "Content-Type": "text/x"}});
        let Ok(Decision::Deny(denied)) = read(denied) else { panic!("it denies") };
        let response = denied.response(&Method::GET);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let headers = response.headers();
        assert_eq!(headers.get_all("www-authenticate").iter().count(), 2);
        assert_eq!(
            (&headers["content-type"], &headers["content-length"]),
            (&"text/x".parse().unwrap(), &"2".parse().unwrap())
        );
        assert_eq!(response.reason, Some(Reason::PolicyDenied));
    }

    #[test]
    fn what_a_policy_must_not_do_is_refused() {
        let long = "x".repeat(MAX_LENGTH + 1);
        let many: Map<String, Value> =
            (0..=MAX_HEADERS).map(|index| (format!("x-{index}"), json!("v"))).collect();
        for wrong in [
            json!({"allowed": true, "headers": {"Host": "other"}}),
            json!({"allowed": true, "headers": {"Content_Length": "0"}}),
            json!({"allowed": true, "headers": {"transfer-encoding": "chunked"}}),
            json!({"allowed": true, "request_headers_to_remove": ["host"]}),
            json!({"allowed": true, "request_headers_to_remove": "x"}),
            json!({"allowed": true, "headers": {"x": "a\r\nx-admin: 1"}}),
            json!({"allowed": true, "headers": {"x": {}}}),
            json!({"allowed": true, "headers": {"x y": "1"}}),
            json!({"allowed": true, "headers": ["x"]}),
            json!({"allowed": true, "headers": {"x": long}}),
            json!({"allowed": true, "headers": many}),
            json!({"allowed": false, "body": long}),
            json!({"allowed": false, "body": {}}),
            json!({"allowed": false, "http_status": 200}),
            json!({"allowed": false, "http_status": 304}),
            json!({"allowed": false, "http_status": 600}),
            json!({"allowed": false, "http_status": "403"}),
            json!({"allowed": false, "headers": {"Content-Length": "5"}}),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
