//! Why a request is refused, and the response that says so.

use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use tidegate_core::{Reason, Response, reply};

use crate::auth;
use crate::auth::bearer;
use crate::auth::remembered::RememberedError;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("a signature is required")]
    Missing,
    #[error("the request has more than one signature by known keys")]
    Several,
    #[error("the signature, or a field that describes it, is malformed")]
    Malformed,
    #[error("the signature has a form or a component that is not supported")]
    Unsupported,
    #[error("the key is unknown")]
    UnknownKey,
    #[error("the algorithm is not that of the key")]
    Algorithm,
    #[error("the signature does not cover a required component")]
    NotCovered,
    #[error("a covered component is missing, or ambiguous")]
    NoComponent,
    #[error("the signature does not say when it was made")]
    NoTime,
    #[error("the signature is too old")]
    Expired,
    #[error("the signature is from the future")]
    NotYetValid,
    #[error("the signature has no nonce")]
    NoNonce,
    #[error("the signature is invalid")]
    Signature,
    #[error("the digest of the body is missing, not covered, or of an unknown algorithm")]
    NoDigest,
    #[error("the body does not have the signed digest")]
    Digest,
    #[error("the body is too large to be compared with its digest")]
    BodyTooLarge,
    #[error("the body could not be read")]
    BodyBroken,
    #[error("the signature has been used before")]
    Replayed,
    #[error("too many signatures are remembered")]
    Full,
    #[error("used signatures cannot be looked up in Redis")]
    NoStore,
    #[error("the consumer of the key is not defined or has a mistake, or several have the key")]
    NoConsumer,
}

impl From<RememberedError> for Refusal {
    fn from(error: RememberedError) -> Self {
        match error {
            RememberedError::Known => Self::Replayed,
            RememberedError::Full => Self::Full,
            RememberedError::Unavailable => Self::NoStore,
        }
    }
}

impl Refusal {
    /// Returns the response to the client, which does not learn how close it was.
    pub(super) fn response(self) -> Response {
        const CHALLENGE: HeaderValue = HeaderValue::from_static("Signature realm=\"traefik\"");
        match self {
            Self::Several | Self::Malformed | Self::BodyBroken => {
                let mut response = reply::status_text(StatusCode::BAD_REQUEST, Reason::Unauthenticated);
                response.headers_mut().insert(WWW_AUTHENTICATE, CHALLENGE);
                response
            }
            Self::BodyTooLarge => reply::status_text(StatusCode::PAYLOAD_TOO_LARGE, Reason::RequestTooLarge),
            Self::Full | Self::NoStore => bearer::unavailable(),
            Self::NoConsumer => auth::consumer_broken(),
            _ => auth::unauthorized(CHALLENGE),
        }
    }
}
