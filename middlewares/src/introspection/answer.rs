//! What the server says about a token (RFC 7662 section 2.2).

use http::header::CONTENT_TYPE;
use serde::Deserialize;
use serde_json::Value;

use super::refusal::Refusal;
use crate::api_client::ApiResponse;
use crate::jwt::claims::{self, Binding, Thumbprint};
use crate::jwt::token::Claims;

/// Why an answer is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    #[error("the content type of the answer is not JSON")]
    ContentType,
    #[error("the answer is not an object with the boolean `active`")]
    Form,
}

/// An answer.
#[derive(Debug)]
pub(super) enum Answer {
    Active(Claims),
    Inactive,
}

/// The one member that every answer has. Two of them are an error.
#[derive(Deserialize)]
struct Activity {
    active: bool,
}

impl Answer {
    /// Reads a response with status 200.
    pub(super) fn read(response: &ApiResponse) -> Result<Self, AnswerError> {
        let kind = response.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(AnswerError::ContentType);
        }
        let Activity { active } = serde_json::from_slice(&response.body).map_err(|_| AnswerError::Form)?;
        match active {
            true => serde_json::from_slice(&response.body).map(Self::Active).map_err(|_| AnswerError::Form),
            false => Ok(Self::Inactive),
        }
    }
}

/// What an answer must say.
#[derive(Debug)]
pub(super) struct Rules {
    /// Accepted audiences; any if empty.
    pub(super) audiences: Vec<String>,
    /// The issuer; any if `None`.
    pub(super) issuer: Option<String>,
    /// Allowed difference between clocks in seconds.
    pub(super) leeway: f64,
}

impl Rules {
    /// Checks the times, issuer and audience at `now`, in seconds since 1970. Returns `exp`, and the key that clients
    /// must have.
    pub(super) fn check(
        &self,
        claims: &Claims,
        now: f64,
    ) -> Result<(Option<f64>, Option<Thumbprint>), Refusal> {
        let expiry = date(claims, "exp")?;
        if expiry.is_some_and(|expiry| now >= expiry + self.leeway) {
            return Err(Refusal::Expired);
        }
        for name in ["nbf", "iat"] {
            if date(claims, name)?.is_some_and(|date| date > now + self.leeway) {
                return Err(Refusal::NotYetValid);
            }
        }
        // RFC 7662 leaves `iss` to the server.
        if let (Some(own), Some(issuer)) = (&self.issuer, claims.get("iss"))
            && issuer.as_str() != Some(own)
        {
            return Err(Refusal::Issuer);
        }
        let is_accepted = |audience: &str| self.audiences.iter().any(|own| own == audience);
        if !self.audiences.is_empty()
            && !claims.get("aud").is_some_and(|found| claims::texts(found).any(is_accepted))
        {
            return Err(Refusal::Audience);
        }
        // Whoever presents a bound token must prove that it has the key (RFC 9449, RFC 8705).
        let kind = claims.get("token_type").and_then(Value::as_str);
        let is_bound = kind.is_some_and(|kind| kind.eq_ignore_ascii_case("DPoP"));
        match claims::binding(claims) {
            Ok(Binding { certificate: None, key }) if key.is_some() || !is_bound => Ok((expiry, key)),
            _ => Err(Refusal::Type),
        }
    }
}

/// Returns a date in seconds since 1970. A server that says something else is not understood.
fn date(claims: &Claims, name: &str) -> Result<Option<f64>, Refusal> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Refusal::Unavailable),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;

    fn read(kind: &'static str, body: &'static str) -> Result<Answer, AnswerError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Answer::read(&ApiResponse { status: StatusCode::OK, headers, body: body.into() })
    }

    #[test]
    fn answers_are_read_strictly() {
        for kind in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(
                matches!(read(kind, r#"{"active": true, "sub": "a"}"#), Ok(Answer::Active(claims)) if claims["sub"] == "a")
            );
        }
        assert!(matches!(read("application/json", r#"{"active": false, "sub": "a"}"#), Ok(Answer::Inactive)));
        for kind in
            ["text/html", "text/plain", "application/token-introspection+jwt", "", "application/jsonx"]
        {
            assert_eq!(read(kind, r#"{"active": true}"#).unwrap_err(), AnswerError::ContentType, "{kind}");
        }
        for body in [
            "",
            "{}",
            "true",
            "[true]",
            r#"{"active": "true"}"#,
            r#"{"active": 1}"#,
            r#"{"active": null}"#,
            r#"{"Active": true}"#,
            r#"{"active": true, "active": false}"#,
            r#"{"active": false, "active": true}"#,
            r#"{"active": true"#,
            r#"{"active": true} {}"#,
        ] {
            assert_eq!(read("application/json", body).unwrap_err(), AnswerError::Form, "{body}");
        }
    }

    #[test]
    fn claims_are_checked() {
        let rules = Rules { audiences: vec!["api".into()], issuer: Some("i".into()), leeway: 30.0 };
        for (claims, expected) in [
            (r#"{"aud": "api"}"#, Ok(None)),
            (r#"{"aud": ["b", "api"], "exp": 1001, "iss": "i"}"#, Ok(Some(1001.0))),
            (r#"{"aud": "api", "exp": 971}"#, Ok(Some(971.0))),
            (r#"{"aud": "api", "exp": 970}"#, Err(Refusal::Expired)),
            (r#"{"aud": "api", "exp": "soon"}"#, Err(Refusal::Unavailable)),
            (r#"{"aud": "api", "nbf": 1030, "iat": 1030}"#, Ok(None)),
            (r#"{"aud": "api", "nbf": 1031}"#, Err(Refusal::NotYetValid)),
            (r#"{"aud": "api", "iat": 1031}"#, Err(Refusal::NotYetValid)),
            (r#"{"aud": "api", "iss": "j"}"#, Err(Refusal::Issuer)),
            (r#"{"aud": "api", "iss": ["i"]}"#, Err(Refusal::Issuer)),
            (r#"{"aud": "API"}"#, Err(Refusal::Audience)),
            ("{}", Err(Refusal::Audience)),
            (r#"{"aud": "api", "token_type": "DPoP"}"#, Err(Refusal::Type)),
            (r#"{"aud": "api", "cnf": {"x5t#S256": "x"}}"#, Err(Refusal::Type)),
            (r#"{"aud": "api", "cnf": {"jkt": "x"}}"#, Err(Refusal::Type)),
            (r#"{"aud": "api", "cnf": {}}"#, Err(Refusal::Type)),
            (r#"{"aud": "api", "cnf": null}"#, Err(Refusal::Type)),
        ] {
            let claims = serde_json::from_str(claims).unwrap();
            assert_eq!(rules.check(&claims, 1000.0), expected.map(|expiry| (expiry, None)), "{claims:?}");
        }
    }
}
