//! Why a certificate could not be obtained, by what is to be done about it.

use std::fmt;
use std::time::Duration;

/// Why something failed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Error {
    /// Of what kind.
    pub(super) kind: Kind,
    /// What was wrong, for people.
    pub(super) message: String,
    /// The names that are to blame; empty when all are, or none.
    pub(super) names: Vec<String>,
    /// Not before this much time has passed.
    pub(super) retry_after: Option<Duration>,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The authority cannot be reached, or speaks nonsense: it will come back.
    Network,
    /// It wants less.
    RateLimited,
    /// It says no.
    Refused,
    /// A DNS record could not be set or is not seen.
    Dns,
    /// Something on our side.
    Local,
}

impl Error {
    /// An error of this kind.
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), names: Vec::new(), retry_after: None }
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

    /// The same, with the name that is to blame.
    pub(super) fn of(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// The same, with where it happened in front.
    pub(super) fn at(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Kind {
    /// One word for the log and the API.
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
