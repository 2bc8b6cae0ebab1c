//! Who a client is, once something has authenticated it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Who a client is. Set by what authenticates clients and by nothing else, and readable by everything behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name under which the client is known: a user name, or the subject of a token or certificate.
    pub subject: String,
    /// Groups that the subject belongs to.
    pub groups: Vec<String>,
    /// What else is known of the subject.
    pub labels: BTreeMap<String, String>,
    /// How the client has proved who it is.
    pub method: AuthMethod,
    /// `name@provider` of the middleware that has established it, or of the TLS options.
    pub by: Arc<str>,
}

impl Identity {
    /// An identity without groups and labels.
    pub fn new(subject: impl Into<String>, method: AuthMethod, by: Arc<str>) -> Self {
        Self { subject: subject.into(), groups: Vec::new(), labels: BTreeMap::new(), method, by }
    }
}

/// How a client has proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// A password (`basicAuth`, RFC 7617).
    Basic,
    /// A digest of a password (`digestAuth`, RFC 7616).
    Digest,
    /// Another server says so (`forwardAuth`).
    Forward,
    /// A certificate that a trusted authority has signed (TLS options with `clientAuth`).
    Certificate,
}

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Basic => "basic",
            Self::Digest => "digest",
            Self::Forward => "forward",
            Self::Certificate => "certificate",
        })
    }
}
