//! Asks for a user name and password, and checks them at an LDAP directory (RFC 4511, RFC 4513).

mod checker;

use std::sync::Arc;
use std::time::Duration as StdDuration;

use http::header::{HeaderName, HeaderValue};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use tidegate_core::ldap::{LdapGroups, LdapOptions};
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::{Access, Build, BuildContext, BuildError, BuildErrors, Middleware};

use crate::auth::credentials::random_key;
use crate::auth::{self, DEFAULT_REALM};
use checker::Checker;

/// Maximum number of connections.
const MAX_CONNECTIONS: usize = 1000;
/// Maximum timeout of a check.
const MAX_TIMEOUT: StdDuration = StdDuration::from_mins(1);
/// Maximum time for which right passwords are not checked again.
const MAX_CACHE_TTL: StdDuration = StdDuration::from_hours(1);

/// Traefik Hub's `ldap`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Ldap {
    /// The server: `ldaps://host:port` or `ldap://host:port`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Encrypts connections to `ldap://` by StartTLS.
    #[serde(rename = "startTLS", skip_serializing_if = "is_default")]
    pub start_tls: bool,
    /// Trusted certificates instead of the system's, as PEM or the file with it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub certificate_authority: String,
    /// Accepts any certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_skip_verify: bool,
    /// The DN that searches users and groups.
    #[serde(rename = "bindDN", skip_serializing_if = "String::is_empty")]
    pub bind_dn: String,
    /// Its password.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub bind_password: Secret,
    /// Connections that are kept.
    pub conn_pool: ConnPool,
    /// The entry below which users are.
    #[serde(rename = "baseDN", skip_serializing_if = "String::is_empty")]
    pub base_dn: String,
    /// The attribute with the user's name, which its DN begins with in bind mode.
    pub attribute: String,
    /// Finds the user's entry, with `%s` for the name. Without it, the DN is `attribute=name,baseDN` (bind mode).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub search_filter: String,
    /// How the user's groups are found. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Groups>,
    /// Sends the user's name to the service.
    pub forward_username: bool,
    /// The header for it.
    pub forward_username_header: String,
    /// Leaves the password in the request to the service.
    #[serde(skip_serializing_if = "is_default")]
    pub forward_authorization: bool,
    /// Sends `WWW-Authenticate` with 401, so that browsers ask for a password.
    #[serde(skip_serializing_if = "is_default")]
    pub www_authenticate_header: bool,
    /// Shown by browsers; `traefik` when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub www_authenticate_header_realm: String,
    /// How long right passwords are not checked again; 0 always checks them. Not in Traefik Hub.
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: Duration,
    /// Maximum duration of a check. Not in Traefik Hub.
    pub timeout: Duration,
}

/// Connections that are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ConnPool {
    /// Maximum number of idle connections.
    pub size: usize,
    /// Maximum number of connections beyond that.
    pub burst: usize,
    /// Maximum age of a connection that is used again.
    pub ttl: Duration,
}

/// How the user's groups are found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Groups {
    /// The attribute of the user's entry with groups, such as `memberOf`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub attribute: String,
    /// Finds groups, with `%s` for the user's DN and `%u` for the user's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub search_filter: String,
    /// The entry below which groups are; by default that of users.
    #[serde(rename = "baseDN", skip_serializing_if = "String::is_empty")]
    pub base_dn: String,
    /// The attribute of a group with its name; `cn` by default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name_attribute: String,
}

impl Default for ConnPool {
    fn default() -> Self {
        Self { size: 10, burst: 5, ttl: Duration::from_secs(60) }
    }
}

impl Default for Ldap {
    fn default() -> Self {
        Self {
            url: String::new(),
            start_tls: false,
            certificate_authority: String::new(),
            insecure_skip_verify: false,
            bind_dn: String::new(),
            bind_password: Secret::default(),
            conn_pool: ConnPool::default(),
            base_dn: String::new(),
            attribute: "cn".to_owned(),
            search_filter: String::new(),
            groups: None,
            forward_username: true,
            forward_username_header: "Username".to_owned(),
            forward_authorization: false,
            www_authenticate_header: false,
            www_authenticate_header_realm: String::new(),
            cache_ttl: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Build for Ldap {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let mut errors = BuildErrors::default();
        self.check(&mut errors);
        let options = errors.check(self.directory(context));
        let challenge = errors.check(self.challenge());
        let header = errors.check(self.header());
        let ((options, challenge), header) = errors.made(options.zip(challenge).zip(header))?;
        Ok(Arc::new(Checker {
            name: context.name.into(),
            directory: context.ldap(&options)?,
            challenge,
            header,
            keeps_authorization: self.forward_authorization,
            consumers: context.consumers(),
            clock: context.clock(),
            key: random_key()?,
            known: Cache::new(checker::CACHE_CAPACITY),
            ttl: self.cache_ttl.into(),
        }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        let header = self.header().ok().flatten();
        Some(
            Access::by_head()
                .vouching(move |name| header.as_ref().is_some_and(|own| auth::is_same(own, name))),
        )
    }
}

impl Ldap {
    fn check(&self, errors: &mut BuildErrors) {
        let mut check = |is_right: bool, message: &str| {
            if !is_right {
                errors.add(message.to_owned());
            }
        };
        check(!self.url.is_empty(), "url: required, such as `ldaps://ldap.example.org:636`");
        check(!self.base_dn.is_empty(), "baseDN: required: the entry below which users are");
        check(is_attribute(&self.attribute), "attribute: invalid name of an attribute");
        // A bind with a DN and without a password is anonymous.
        check(
            self.bind_dn.is_empty() == self.bind_password.is_empty(),
            "bindPassword: bindDN and bindPassword are required together",
        );
        let ConnPool { size, burst, .. } = self.conn_pool;
        check(size > 0, "connPool.size: must be at least 1");
        check(
            size.saturating_add(burst) <= MAX_CONNECTIONS,
            "connPool: the maximum of size and burst together is 1000",
        );
        let timeout = StdDuration::from(self.timeout);
        check(!timeout.is_zero() && timeout <= MAX_TIMEOUT, "timeout: must be more than 0 and at most 1m");
        check(StdDuration::from(self.cache_ttl) <= MAX_CACHE_TTL, "cacheTTL: the maximum is 1h");
        let Some(groups) = &self.groups else { return };
        check(
            !groups.attribute.is_empty() || !groups.search_filter.is_empty(),
            "groups: expected attribute, searchFilter or both",
        );
        for (option, name) in [("attribute", &groups.attribute), ("nameAttribute", &groups.name_attribute)] {
            let is_right = name.is_empty() || is_attribute(name);
            check(is_right, &format!("groups.{option}: invalid name of an attribute"));
        }
    }

    fn directory(&self, context: &BuildContext<'_>) -> Result<LdapOptions, BuildError> {
        let authority = match self.certificate_authority.trim() {
            "" => String::new(),
            pem if pem.contains("-----BEGIN") => pem.to_owned(),
            path => String::from_utf8_lossy(&context.file(path)?).into_owned(),
        };
        let or = |text: &str, otherwise: &str| {
            if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
        };
        let groups = self.groups.as_ref().map(|groups| LdapGroups {
            attribute: groups.attribute.clone(),
            base_dn: or(&groups.base_dn, &self.base_dn),
            search_filter: groups.search_filter.clone(),
            name_attribute: or(&groups.name_attribute, "cn"),
        });
        Ok(LdapOptions {
            url: self.url.clone(),
            start_tls: self.start_tls,
            certificate_authority: authority,
            insecure_skip_verify: self.insecure_skip_verify,
            bind_dn: self.bind_dn.clone(),
            bind_password: self.bind_password.clone(),
            base_dn: self.base_dn.clone(),
            attribute: self.attribute.clone(),
            search_filter: self.search_filter.clone(),
            groups: groups.unwrap_or_default(),
            pool_size: self.conn_pool.size,
            pool_burst: self.conn_pool.burst,
            pool_ttl: self.conn_pool.ttl.into(),
            timeout: self.timeout.into(),
        })
    }

    fn challenge(&self) -> Result<Option<HeaderValue>, BuildError> {
        let realm = match self.www_authenticate_header_realm.as_str() {
            "" => DEFAULT_REALM,
            realm => realm,
        };
        let is_quotable = !realm.contains(['"', '\\']);
        let value = HeaderValue::from_str(&format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        match value {
            Ok(value) if is_quotable => Ok(self.www_authenticate_header.then_some(value)),
            _ => Err(BuildError::new(
                "wwwAuthenticateHeaderRealm: quotes, backslashes and control characters are not allowed",
            )),
        }
    }

    fn header(&self) -> Result<Option<HeaderName>, BuildError> {
        if !self.forward_username {
            return Ok(None);
        }
        let name = &self.forward_username_header;
        let invalid = |_| BuildError::new(format!("forwardUsernameHeader: invalid header name `{name}`"));
        name.parse().map(Some).map_err(invalid)
    }
}

/// Returns true for the name or number of an attribute (RFC 4512 section 2.5).
fn is_attribute(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.;_".contains(&byte))
}

#[cfg(test)]
mod tests;
