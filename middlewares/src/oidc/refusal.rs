//! The reasons for refusing a request or a login, and the responses to the client.

use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use tidegate_core::{Reason, Response};

use super::page;
use crate::auth;

/// Why a request or a login is refused. The texts contain nothing of tokens, cookies and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no session, and the request cannot start a login.
    NoSession,
    /// The claims do not permit the request.
    Claims,
    /// Its consumer has a mistake, or its claims are those of several.
    Consumer,
    /// The header against forged requests is missing or wrong.
    Csrf,
    /// The host cannot be part of a URL.
    Host,
    /// Browsers would not keep the cookies.
    Insecure,
    /// The host does not get the cookies of the session's domain.
    OtherDomain,
    /// The login has not begun in this browser, or too long ago.
    State,
    /// The login is complete already.
    Replayed,
    /// The answer is from another provider.
    OtherProvider,
    /// The provider refuses: `access_denied`.
    Denied,
    /// The provider reports an error.
    ProviderError,
    /// The provider does not accept the code.
    Code,
    /// The token is invalid.
    Token,
    /// The token lacks the claim with the name.
    NoName,
    /// A claim cannot be sent in a header.
    Unsendable,
    /// The session is too long for cookies.
    TooLong,
    /// The provider is not available.
    Unavailable,
    /// The store is not available.
    NoStore,
}

impl Refusal {
    /// Returns the text for people and for predictions.
    pub(super) fn description(self) -> &'static str {
        match self {
            Self::NoSession => "a session is required",
            Self::Claims => "your account does not permit this",
            Self::Consumer => "your account is not configured correctly",
            Self::Csrf => "the header against forged requests is missing or wrong",
            Self::Host => "the host is invalid",
            Self::Insecure => "signing in requires HTTPS",
            Self::OtherDomain => "this host does not belong to the domain of the session",
            Self::State => "this sign-in is too old, or has begun in another browser",
            Self::Replayed => "this sign-in is already complete",
            Self::OtherProvider => "the answer is from another provider",
            Self::Denied => "the provider has denied access",
            Self::ProviderError => "the provider reports an error",
            Self::Code => "the provider does not accept this sign-in",
            Self::Token => "the provider's token is invalid",
            Self::NoName => "the provider's token does not name you",
            Self::Unsendable => "a claim of the provider's token cannot be sent to the service",
            Self::TooLong => "the session is too long",
            Self::Unavailable => "the provider is unavailable",
            Self::NoStore => "the sessions are unavailable",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NoSession => StatusCode::UNAUTHORIZED,
            Self::Claims | Self::Csrf | Self::Denied => StatusCode::FORBIDDEN,
            Self::TooLong => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable | Self::NoStore | Self::Consumer => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    fn reason(self) -> Reason {
        match self {
            Self::NoSession => Reason::Unauthenticated,
            Self::Claims | Self::Csrf => Reason::Forbidden,
            Self::Consumer => Reason::ConsumerBroken,
            Self::Unavailable | Self::NoStore => Reason::AuthenticationUnavailable,
            _ => Reason::SignInRefused,
        }
    }

    /// Returns the response. `again` is where the user can try again.
    pub(super) fn response(self, again: Option<&str>) -> Response {
        if self == Self::NoSession {
            let challenge = HeaderValue::from_static("Cookie realm=\"traefik\"");
            let mut response = auth::unauthorized(challenge);
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            return response;
        }
        let title = match self.status() {
            StatusCode::FORBIDDEN => "Forbidden",
            _ if self == Self::Consumer => "Service unavailable",
            _ => "Sign-in failed",
        };
        let mut response = page::message(self.status(), title, self.description(), again, self.reason());
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
