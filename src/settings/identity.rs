//! How servers learn who the client is.

use std::collections::BTreeMap;

use http::HeaderName;
use serde::{Deserialize, Serialize};
use tidegate_core::aliases::is_same;
use tidegate_core::values::{Duration, is_default};

use super::INTERNAL_ENTRY_POINT;

/// Maximum lifetime of a token.
const MAX_EXPIRY: Duration = Duration::from_secs(3600);
/// Minimum lifetime of a token, and of a generated key.
const MIN_EXPIRY: Duration = Duration::from_secs(2);

/// Headers that have another meaning.
const TAKEN: &[&str] = &[
    "host",
    "authorization",
    "proxy-authorization",
    "cookie",
    "connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "forwarded",
    "x-real-ip",
];

/// `identity`. Not in Traefik.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Identity {
    /// Sends it in headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<IdentityHeaders>,
    /// Sends it in a signed token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<IdentityToken>,
}

/// `identity.headers`: the name of the header for each part. Parts without a name are not sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IdentityHeaders {
    /// The client's name.
    pub subject: String,
    /// The qualified name of its consumer.
    pub consumer: String,
    /// Its groups, separated by commas.
    pub groups: String,
    /// The plan of its consumer.
    pub plan: String,
    /// The scopes of its credential, separated by spaces.
    pub scopes: String,
    /// How it was authenticated.
    pub method: String,
    /// Labels, each with its header.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self {
            subject: "X-Auth-Subject".into(),
            consumer: "X-Consumer-Name".into(),
            groups: "X-Consumer-Groups".into(),
            plan: "X-Consumer-Plan".into(),
            scopes: "X-Auth-Scopes".into(),
            method: "X-Auth-Method".into(),
            labels: BTreeMap::new(),
        }
    }
}

/// `identity.token`: a JSON Web Token for the server, signed with ES256.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct IdentityToken {
    /// The header that has it.
    pub header: String,
    /// The claim `iss`.
    pub issuer: String,
    /// The claim `aud`. By default, the qualified name of the service.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audience: Vec<String>,
    /// How long a token is valid.
    pub expiry: Duration,
    /// The private key in PEM (P-256), shared by gateways behind one name. By default, keys are generated.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key_file: String,
    /// How long a generated key is used.
    pub rotation: Duration,
    /// The entry point of `/.well-known/jwks.json`, the public keys.
    pub entry_point: String,
    /// Creates no router for the public keys.
    #[serde(skip_serializing_if = "is_default")]
    pub manual_routing: bool,
}

impl Default for IdentityToken {
    fn default() -> Self {
        Self {
            header: "X-Identity-Token".into(),
            issuer: "tidegate".into(),
            audience: Vec::new(),
            expiry: Duration::from_secs(60),
            key_file: String::new(),
            rotation: Duration::from_secs(24 * 3600),
            entry_point: INTERNAL_ENTRY_POINT.into(),
            manual_routing: false,
        }
    }
}

impl Identity {
    /// Returns all headers by the path of their option.
    pub(crate) fn names(&self) -> Vec<(Vec<&str>, &str)> {
        let mut names = Vec::new();
        if let Some(headers) = &self.headers {
            let parts = [
                ("subject", &headers.subject),
                ("consumer", &headers.consumer),
                ("groups", &headers.groups),
                ("plan", &headers.plan),
                ("scopes", &headers.scopes),
                ("method", &headers.method),
            ];
            let labels = headers.labels.iter().map(|(label, name)| (vec!["headers", "labels", label], name));
            let parts = parts.into_iter().map(|(part, name)| (vec!["headers", part], name));
            let given = parts.filter(|(_, name)| !name.is_empty()).chain(labels);
            names.extend(given.map(|(path, name)| (path, name.as_str())));
        }
        names.extend(self.token.iter().map(|token| (vec!["token", "header"], token.header.as_str())));
        names
    }

    /// Returns all mistakes, each with its path below `identity`.
    pub(super) fn mistakes(&self) -> Vec<(Vec<&str>, String)> {
        let mut wrong = Vec::new();
        if self.headers.is_none() && self.token.is_none() {
            wrong.push((Vec::new(), "expected `headers`, `token` or both".to_owned()));
        }
        let mut known: Vec<HeaderName> = Vec::new();
        for (path, text) in self.names() {
            let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
                wrong.push((path, format!("`{text}` is not the name of a header")));
                continue;
            };
            let is_taken = TAKEN.contains(&name.as_str())
                || ["content-", "x-forwarded-"].iter().any(|begin| name.as_str().starts_with(begin));
            if is_taken {
                wrong.push((path, format!("`{text}` has another meaning: expected a header of its own")));
            } else if known.iter().any(|other| is_same(other, &name)) {
                wrong.push((path, format!("`{text}` is used twice")));
            } else {
                known.push(name);
            }
        }
        if let Some(token) = &self.token {
            if !(MIN_EXPIRY..=MAX_EXPIRY).contains(&token.expiry) {
                let message = format!("`{}` is out of range: expected 2s to 1h", token.expiry);
                wrong.push((vec!["token", "expiry"], message));
            }
            if token.rotation < token.expiry {
                wrong.push((
                    vec!["token", "rotation"],
                    "is shorter than `expiry`: a key outlives its tokens".into(),
                ));
            }
            if token.issuer.is_empty() {
                wrong.push((vec!["token", "issuer"], "is empty: services check it".into()));
            }
        }
        wrong
    }
}
