//! Why a certificate could not be obtained, classified by how to react.

use std::time::Duration;

use tidegate_clients::consul::store::StoreError;

/// Failure to obtain, store or change a certificate or an account.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The kind of failure.
    pub(super) kind: Kind,
    /// The type of the authority's error, if it is one.
    pub(super) problem: Option<ProblemType>,
    /// What went wrong.
    pub(super) message: String,
    /// The names to blame; empty for all or none.
    pub(super) names: Vec<String>,
    /// The minimum time until the next attempt.
    pub(super) retry_after: Option<Duration>,
}

/// Types of an authority's errors that are handled differently (RFC 8555 section 6.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProblemType {
    /// The account is unknown.
    AccountDoesNotExist,
    /// The certificate was revoked before.
    AlreadyRevoked,
    /// The nonce was used, or is too old.
    BadNonce,
    /// A CAA record forbids the certificate.
    Caa,
    /// A name could not be looked up.
    Dns,
    /// The order was finalized before, or is not ready.
    OrderNotReady,
    /// Too many requests.
    RateLimited,
    /// The authority issues nothing for the name.
    RejectedIdentifier,
    /// The authority failed.
    ServerInternal,
    /// The authority issues nothing for names of this form.
    UnsupportedIdentifier,
    /// Any other type.
    Other,
}

impl ProblemType {
    /// Returns the type of a URN: `urn:ietf:params:acme:error:dns`.
    pub(super) fn of_urn(urn: &str) -> Self {
        match urn.rsplit(':').next().unwrap_or_default() {
            "accountDoesNotExist" => Self::AccountDoesNotExist,
            "alreadyRevoked" => Self::AlreadyRevoked,
            "badNonce" => Self::BadNonce,
            "caa" => Self::Caa,
            "dns" => Self::Dns,
            "orderNotReady" => Self::OrderNotReady,
            "rateLimited" => Self::RateLimited,
            "rejectedIdentifier" => Self::RejectedIdentifier,
            "serverInternal" => Self::ServerInternal,
            "unsupportedIdentifier" => Self::UnsupportedIdentifier,
            _ => Self::Other,
        }
    }
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The authority is unreachable or broken, for now.
    Network,
    /// The authority limits the rate.
    RateLimited,
    /// The authority refuses.
    Refused,
    /// A DNS record could not be set, or is not visible.
    Dns,
    /// A local problem.
    Local,
}

impl Error {
    /// Creates an error of this kind.
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, problem: None, message: message.into(), names: Vec::new(), retry_after: None }
    }

    pub(super) fn network(message: impl Into<String>) -> Self {
        Self::new(Kind::Network, message)
    }

    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    pub(super) fn dns(message: impl Into<String>) -> Self {
        Self::new(Kind::Dns, message)
    }

    pub(super) fn local(message: impl Into<String>) -> Self {
        Self::new(Kind::Local, message)
    }

    /// Adds a name to blame.
    pub(super) fn of(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Prefixes the message with where it happened.
    pub(super) fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::local(error.to_string())
    }
}

impl Kind {
    /// Returns a word for the log and the API.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::RateLimited => "rateLimited",
            Self::Refused => "refused",
            Self::Dns => "dns",
            Self::Local => "local",
        }
    }
}
