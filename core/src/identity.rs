//! The identity of an authenticated client.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::Consumer;

/// Claims of a token.
pub type Claims = serde_json::Map<String, serde_json::Value>;

/// The identity of a client. Set only by what authenticates clients, and readable by everything after that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The client's name: a user name, the subject of a token or certificate, or the id of an API key.
    pub subject: String,
    /// Groups that the client has according to its credential, without those of its consumer.
    pub groups: Vec<String>,
    /// Further attributes according to the credential, without those of the consumer.
    pub labels: BTreeMap<String, String>,
    /// What the credential permits.
    pub scopes: Vec<String>,
    /// All claims, if the credential is a token that has some.
    pub claims: Option<Arc<Claims>>,
    /// How the client was authenticated.
    pub method: AuthMethod,
    /// `name@provider` of the middleware or the TLS options that authenticated it.
    pub by: Arc<str>,
    /// The consumer whose credential it is, if there is one.
    pub consumer: Option<Arc<Consumer>>,
}

impl Identity {
    /// Creates an identity without groups, labels, scopes, claims and consumer.
    pub fn new(subject: impl Into<String>, method: AuthMethod, by: Arc<str>) -> Self {
        Self {
            subject: subject.into(),
            groups: Vec::new(),
            labels: BTreeMap::new(),
            scopes: Vec::new(),
            claims: None,
            method,
            by,
            consumer: None,
        }
    }

    /// Sets the consumer.
    #[must_use]
    pub fn of_consumer(self, consumer: Option<Arc<Consumer>>) -> Self {
        Self { consumer, ..self }
    }

    /// Returns all groups: those of the credential, then those of the consumer. A group of both is returned
    /// twice.
    pub fn all_groups(&self) -> impl Iterator<Item = &str> {
        let consumer = self.consumer.iter().flat_map(|consumer| &consumer.groups);
        self.groups.iter().chain(consumer).map(String::as_str)
    }

    /// Returns true if the client belongs to a group.
    pub fn is_in_group(&self, name: &str) -> bool {
        self.all_groups().any(|group| group == name)
    }

    /// Returns a label. That of the consumer is preferred to that of the credential.
    pub fn label(&self, name: &str) -> Option<&str> {
        let consumer = self.consumer.as_ref().and_then(|consumer| consumer.labels.get(name));
        consumer.or_else(|| self.labels.get(name)).map(String::as_str)
    }

    /// Returns all labels by name.
    pub fn all_labels(&self) -> BTreeMap<&str, &str> {
        let consumer = self.consumer.iter().flat_map(|consumer| &consumer.labels);
        self.labels.iter().chain(consumer).map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    /// Returns true if the credential permits a scope.
    pub fn has_scope(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope == name)
    }

    /// Returns the plan of the consumer; empty if there is none.
    pub fn plan(&self) -> &str {
        self.consumer.as_ref().map_or("", |consumer| &consumer.plan)
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
    /// A session that began at a provider (`oidc`, OpenID Connect).
    Oidc,
    /// A certificate signed by a trusted authority (TLS options with `clientAuth`).
    Certificate,
    /// An API key (`apiKey`).
    ApiKey,
    /// A token that its issuer vouches for (`oAuthIntrospection`, RFC 7662).
    Introspection,
    /// A signed request (`hmac`, RFC 9421).
    Signature,
    /// A password of a directory (`ldap`, RFC 4513).
    Ldap,
}

impl AuthMethod {
    /// All methods.
    pub const ALL: &[Self] = &[
        Self::Basic,
        Self::Digest,
        Self::Forward,
        Self::Jwt,
        Self::Certificate,
        Self::ApiKey,
        Self::Oidc,
        Self::Introspection,
        Self::Signature,
        Self::Ldap,
    ];

    /// Returns the name in expressions, in logs and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Digest => "digest",
            Self::Forward => "forward",
            Self::Jwt => "jwt",
            Self::Oidc => "oidc",
            Self::Certificate => "certificate",
            Self::ApiKey => "apiKey",
            Self::Introspection => "introspection",
            Self::Signature => "signature",
            Self::Ldap => "ldap",
        }
    }
}

impl fmt::Display for AuthMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
