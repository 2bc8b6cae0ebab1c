//! Users in an LDAP directory (RFC 4511).
//!
//! Middlewares see only the trait. The gateway implements it, with its own names, connections and TLS.

use std::time::Duration;

use crate::BoxFuture;
use crate::values::Secret;

/// The address of the directory, how to connect to it, and where its users and groups are.
#[derive(Clone, Debug, PartialEq)]
pub struct LdapOptions {
    /// `ldap://host:port` or `ldaps://host:port`.
    pub url: String,
    /// Whether connections to `ldap://` are encrypted by StartTLS. If the server refuses, they fail.
    pub start_tls: bool,
    /// Trusted certificates in PEM instead of the system's; empty for those.
    pub certificate_authority: String,
    /// Accepts any certificate.
    pub insecure_skip_verify: bool,
    /// The DN that searches; empty to search anonymously.
    pub bind_dn: String,
    /// Its password.
    pub bind_password: Secret,
    /// The entry below which users are.
    pub base_dn: String,
    /// The attribute with the user's name.
    pub attribute: String,
    /// Finds the user's entry, with `%s` for the name. If it is empty, the entry is `attribute=name,base_dn`.
    pub search_filter: String,
    /// How the user's groups are found.
    pub groups: LdapGroups,
    /// Maximum number of idle connections.
    pub pool_size: usize,
    /// Maximum number of connections beyond that.
    pub pool_burst: usize,
    /// Maximum age of a connection that is used again.
    pub pool_ttl: Duration,
    /// Maximum duration of a check, including the wait for a connection.
    pub timeout: Duration,
}

/// How the groups of a user are found. Empty texts mean that nothing is looked up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LdapGroups {
    /// The attribute of the user's entry with groups.
    pub attribute: String,
    /// The entry below which groups are.
    pub base_dn: String,
    /// Finds the groups, with `%s` for the user's DN and `%u` for the user's name.
    pub search_filter: String,
    /// The attribute of a group with its name.
    pub name_attribute: String,
}

/// A user whose password was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapUser {
    /// The name as the directory spells it; names are compared there without regard to case.
    pub name: String,
    /// The distinguished name.
    pub dn: String,
    /// The groups.
    pub groups: Vec<String>,
}

/// Why the directory could not decide. The text is for the operator and contains no credentials.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LdapUnavailable {
    /// What failed.
    pub reason: String,
}

/// Checks passwords at a directory.
pub trait LdapClient: Send + Sync {
    /// Returns the user if the password is right. `None` if it is wrong or empty, or if not exactly one entry has the
    /// name: these cases are not to be distinguished by clients.
    ///
    /// Takes no longer than the timeout of the options. While the server cannot be reached, it fails at once.
    fn verify<'a>(
        &'a self,
        user: &'a str,
        password: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<LdapUser>, LdapUnavailable>>;
}
