//! Responses to requests whose bearer token does not let them pass (RFC 6750).

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use tidegate_core::{Reason, Response, reply};

use super::{DEFAULT_REALM, unauthorized};

/// What is wrong, in RFC 6750's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// No token, which is not an error.
    Missing,
    /// Several tokens.
    InvalidRequest,
    /// A token that is not accepted.
    InvalidToken,
    /// A token that does not permit the request.
    InsufficientScope,
    /// A proof of possession that is not accepted (RFC 9449 section 7.1).
    InvalidProof,
    /// A proof without the nonce that it needs (RFC 9449 section 9).
    UseNonce,
    /// Not the client's fault.
    Unavailable,
    /// The token's consumer is broken.
    ConsumerBroken,
}

/// Returns the response to the client. `description` is sent to it.
pub(crate) fn refusal(code: Code, description: &'static str) -> Response {
    let (status, error, reason) = match code {
        Code::Missing => return unauthorized(HeaderValue::from_static("Bearer realm=\"traefik\"")),
        Code::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request", Reason::Unauthenticated),
        Code::InvalidToken => (StatusCode::UNAUTHORIZED, "invalid_token", Reason::Unauthenticated),
        Code::InvalidProof => (StatusCode::UNAUTHORIZED, "invalid_dpop_proof", Reason::Unauthenticated),
        Code::UseNonce => (StatusCode::UNAUTHORIZED, "use_dpop_nonce", Reason::Unauthenticated),
        Code::InsufficientScope => (StatusCode::FORBIDDEN, "insufficient_scope", Reason::Forbidden),
        Code::Unavailable => return unavailable(),
        Code::ConsumerBroken => return super::consumer_broken(),
    };
    let challenge =
        format!("Bearer realm=\"{DEFAULT_REALM}\", error=\"{error}\", error_description=\"{description}\"");
    match HeaderValue::from_str(&challenge) {
        Ok(challenge) if status == StatusCode::UNAUTHORIZED => unauthorized(challenge),
        Ok(challenge) => {
            let mut response = reply::status_text(status, reason);
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            response
        }
        // Descriptions are literals without control characters.
        Err(_) => reply::status_text(status, reason),
    }
}

/// Returns the response if it is unknown who the client is.
pub(crate) fn unavailable() -> Response {
    let mut response = reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::AuthenticationUnavailable);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    response
}
