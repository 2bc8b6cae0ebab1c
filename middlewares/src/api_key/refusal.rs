//! Why a request is refused, and the response that says so.

use http::StatusCode;
use http::header::HeaderValue;
use tidegate_core::{Reason, Response, reply};

use crate::auth;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has no key.
    Missing,
    /// It has several keys, or one that is too long or has a typing error.
    Malformed,
    /// No one has this key.
    Unknown,
    /// `notBefore` is in the future.
    NotYetValid,
    /// `expires` is over.
    Expired,
    /// `state` is `revoked`.
    Revoked,
    /// The client's address is not among the allowed ones.
    Address,
    /// The key lacks a required scope.
    Scope,
    /// Its consumer has a mistake, or several have the key.
    Consumer,
}

impl Refusal {
    fn reason(self) -> Reason {
        match self {
            Self::Missing => Reason::Unauthenticated,
            Self::Malformed => Reason::ApiKeyMalformed,
            Self::Unknown => Reason::ApiKeyUnknown,
            Self::NotYetValid => Reason::ApiKeyNotYetValid,
            Self::Expired => Reason::ApiKeyExpired,
            Self::Revoked => Reason::ApiKeyRevoked,
            Self::Address => Reason::ApiKeyAddress,
            Self::Scope => Reason::ApiKeyScope,
            Self::Consumer => Reason::ConsumerBroken,
        }
    }

    /// Returns the description for predictions.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Missing => "an API key is required",
            Self::Malformed => "the API key has a typing error or another form, or there are several",
            Self::Unknown => "the API key is unknown",
            Self::NotYetValid => "the API key is not valid yet",
            Self::Expired => "the API key is expired",
            Self::Revoked => "the API key is revoked",
            Self::Address => "the API key is not valid from this address",
            Self::Scope => "the API key lacks a required scope",
            Self::Consumer => {
                "the consumer of the API key has a mistake in the configuration, or several have the key"
            }
        }
    }

    /// Returns the response. It is the same for all but `Scope` and `Consumer`, which need a valid key: whoever tries keys
    /// learns nothing, not even that a stolen one is valid elsewhere.
    pub(super) fn response(self, challenge: &HeaderValue) -> Response {
        match self {
            Self::Scope => reply::status_text(StatusCode::FORBIDDEN, self.reason()),
            Self::Consumer => auth::consumer_broken(),
            _ => auth::unauthorized(challenge.clone()).because(self.reason()),
        }
    }
}
