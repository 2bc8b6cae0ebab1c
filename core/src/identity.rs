//! The identity of an authenticated client.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The identity of a client. Set only by what authenticates clients, and readable by everything after that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The client's name: a user name, or the subject of a token or certificate.
    pub subject: String,
    /// Groups that the subject belongs to.
    pub groups: Vec<String>,
    /// Further attributes of the subject.
    pub labels: BTreeMap<String, String>,
    /// How the client was authenticated.
    pub method: AuthMethod,
    /// `name@provider` of the middleware or the TLS options that authenticated it.
    pub by: Arc<str>,
}

impl Identity {
    /// Creates an identity without groups and labels.
    pub fn new(subject: impl Into<String>, method: AuthMethod, by: Arc<str>) -> Self {
        Self { subject: subject.into(), groups: Vec::new(), labels: BTreeMap::new(), method, by }
    }
}

/// How a client was authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// A password (`basicAuth`, RFC 7617).
    Basic,
    /// A digest of a password (`digestAuth`, RFC 7616).
    Digest,
    /// The decision of another server (`forwardAuth`).
    Forward,
    /// A JSON Web Token (`jwt`, RFC 7519).
    Jwt,
    /// A certificate signed by a trusted authority (TLS options with `clientAuth`).
    Certificate,
}

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic => "basic",
            Self::Digest => "digest",
            Self::Forward => "forward",
            Self::Jwt => "jwt",
            Self::Certificate => "certificate",
        })
    }
}
