//! Sessions of logins, for the API: which there are, and how an operator ends them.

use crate::BoxFuture;
use crate::store::StoreError;

/// A middleware with sessions.
pub trait Sessions: Send + Sync {
    /// Returns the sessions that it knows, at most `most` of them.
    fn list(&self, most: usize) -> BoxFuture<'_, Result<SessionList, StoreError>>;

    /// Ends sessions that have begun until now, and returns whose they were: the subject.
    fn end<'a>(&'a self, which: &'a WhichSessions) -> BoxFuture<'a, Result<String, EndError>>;
}

/// The sessions that a middleware knows.
#[derive(Clone, Debug)]
pub struct SessionList {
    /// Where they are.
    pub place: SessionPlace,
    /// The names of the providers of identities.
    pub providers: Vec<String>,
    /// The sessions, the latest first.
    pub sessions: Vec<SessionInfo>,
    /// Whether there are more.
    pub has_more: bool,
}

/// Where sessions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionPlace {
    /// In the cookies of browsers. Those that this process has seen recently are known.
    Cookies,
    /// In Redis, where all gateways find them.
    Redis,
}

/// A session, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// What it is ended by. It opens nothing.
    pub key: String,
    /// Name of the provider of identities.
    pub provider: String,
    /// The provider's identifier of the user.
    pub subject: String,
    /// The name of the user.
    pub user: String,
    /// Qualified name of the consumer; `None` if the user is none.
    pub consumer: Option<String>,
    /// When the user signed in, in seconds since 1970.
    pub began: i64,
    /// When it was last extended, in seconds since 1970.
    pub extended: i64,
    /// When it ends unless it is extended, in seconds since 1970.
    pub ends: i64,
}

/// Which sessions end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichSessions {
    /// The one with this key.
    One(String),
    /// All of a user, known or not.
    Subject {
        /// Name of the provider; may be empty if there is one only.
        provider: String,
        /// The provider's identifier of the user.
        subject: String,
    },
}

/// Why sessions were not ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// No session with this key is known.
    #[error("session not found")]
    UnknownSession,
    /// The middleware has no such provider, or several and none was named.
    #[error("provider not found: `{0}`")]
    UnknownProvider(String),
    /// The store of sessions does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}
