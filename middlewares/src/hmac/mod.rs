//! Accepts signed requests: HTTP Message Signatures (RFC 9421), and the older form of Kong and Traefik Hub.

mod authenticator;
mod cavage;
mod digest;
mod fields;
mod keys;
mod message;
mod presented;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use serde::{Deserialize, Serialize};
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::word::{Vocabulary, Word};
use tidegate_core::{Access, Build, BuildContext, BuildError, BuildErrors, Middleware};

use crate::auth::remembered::{Remembered, SharedMarks};
use crate::jwt;
use crate::jwt::keys::KeySet;
use crate::rate_limit::Redis;
use authenticator::{Authenticator, Owned};
use keys::Key;
pub use keys::{Algorithm, secret};

/// Prefix of keys of used signatures in Redis. The name of the middleware follows: routers and gateways with the same one
/// share them.
const PREFIX: &str = "tidegate:hmac:";

/// Maximum age of a signature.
const MAX_AGE: StdDuration = StdDuration::from_hours(1);
/// Maximum difference between clocks.
const MAX_SKEW: StdDuration = StdDuration::from_mins(10);
/// Maximum number of keys.
const MAX_KEYS: usize = 10_000;
/// Components that a signature covers by default.
const COMPONENTS: [&str; 4] = ["@method", "@authority", "@path", "@query"];

/// Traefik Hub's `hmac`, with RFC 9421.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Hmac {
    /// Keys that requests may be signed with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<HmacKey>,
    /// Whether keys of consumers are accepted; by default, without `keys`. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumers: Option<bool>,
    /// Whether bodies must have a signed digest.
    pub validate_digest: bool,
    /// Headers that signatures of the older form must cover. By default, the request line and `host`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub enforced_headers: Vec<String>,
    /// Components that signatures of RFC 9421 must cover. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Accepted forms, `rfc9421` and `cavage`; by default, both. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub forms: Vec<Word<AcceptedForm>>,
    /// Label of the signature that counts; by default, that of the only known key. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// How far clocks of clients may be ahead. Not in Traefik Hub.
    pub clock_skew: Duration,
    /// How long a signature counts. Not in Traefik Hub.
    pub max_age: Duration,
    /// Whether signatures must have a nonce. Not in Traefik Hub.
    #[serde(skip_serializing_if = "is_default")]
    pub require_nonce: bool,
    /// Whether a signature counts once. Not in Traefik Hub.
    pub reject_replays: bool,
    /// Maximum number of used signatures that are remembered. Not in Traefik Hub.
    pub max_remembered: usize,
    /// Remembers used signatures in Redis, together with other gateways. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// Maximum size of a body with a digest, in bytes. Not in Traefik Hub.
    pub max_body_bytes: u64,
}

/// A key: a secret, or a public key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HmacKey {
    /// The `keyid` of signatures.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The secret, of at least 32 bytes.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub key: Secret,
    /// Whether the secret is in base64. Not in Traefik Hub.
    #[serde(skip_serializing_if = "is_default")]
    pub base64_encoded: bool,
    /// Instead of a secret: a public key or certificate in PEM, a JSON Web Key, or the file with it. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub public_key: String,
    /// The algorithm; by default, that of the kind of key. Not in Traefik Hub.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub algorithm: Word<Algorithm>,
    /// The consumer that has the key: `name` of the same provider, or `name@provider`. Not in Traefik Hub.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub consumer: String,
}

/// A form of signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptedForm {
    /// HTTP Message Signatures (RFC 9421).
    Rfc9421,
    /// draft-cavage-http-signatures, as Kong and Traefik Hub read it.
    Cavage,
}

impl Vocabulary for AcceptedForm {
    const WORDS: &'static [(&'static str, Self)] = &[("rfc9421", Self::Rfc9421), ("cavage", Self::Cavage)];
}

impl Default for Hmac {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            consumers: None,
            validate_digest: true,
            enforced_headers: Vec::new(),
            components: Vec::new(),
            forms: Vec::new(),
            label: String::new(),
            clock_skew: Duration::from_secs(30),
            max_age: Duration::from_secs(300),
            require_nonce: false,
            reject_replays: true,
            max_remembered: 500_000,
            redis: None,
            max_body_bytes: 1024 * 1024,
        }
    }
}

impl Build for Hmac {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let mut errors = BuildErrors::default();
        self.check_limits(&mut errors);
        let accepts = |form: AcceptedForm| {
            self.forms.is_empty() || self.forms.iter().any(|word| word.known() == Some(form))
        };
        for (index, word) in self.forms.iter().enumerate() {
            if let Err(error) = word.meaning() {
                errors.add(format!("forms[{index}]: {error}"));
            }
        }
        let keys = errors.check(self.read_keys(context));
        let shared = self
            .redis
            .as_ref()
            .map(|redis| SharedMarks::new(format!("{PREFIX}{}:", context.name), redis, context))
            .transpose();
        let shared = errors.check(shared);
        let (keys, shared) = errors.made(keys.zip(shared))?;
        let components = match self.components.is_empty() {
            true => COMPONENTS.map(str::to_owned).to_vec(),
            false => self.components.iter().map(|name| name.to_ascii_lowercase()).collect(),
        };
        Ok(Arc::new(Authenticator {
            name: context.name.into(),
            clock: context.clock(),
            keys,
            consumers: context.consumers(),
            accepts_consumers: self.accepts_consumers(),
            shared,
            label: jwt::known(&self.label),
            components,
            headers: self.enforced_headers.iter().map(|name| name.to_ascii_lowercase()).collect(),
            accepts_message: accepts(AcceptedForm::Rfc9421),
            accepts_cavage: accepts(AcceptedForm::Cavage),
            validates_digest: self.validate_digest,
            max_body: self.max_body_bytes,
            skew: self.clock_skew.into(),
            max_age: self.max_age.into(),
            requires_nonce: self.require_nonce,
            rejects_replays: self.reject_replays || self.require_nonce,
            max_remembered: self.max_remembered,
            // Kept when options change, so that no signature counts twice.
            remembered: context.state("signatures", Remembered::new),
            concealed: Arc::new(authenticator::concealed()),
        }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<Access> {
        Some(Access::by_head().reading_body(self.validate_digest))
    }
}

impl Hmac {
    /// Returns true if keys of consumers are accepted.
    fn accepts_consumers(&self) -> bool {
        self.consumers.unwrap_or(self.keys.is_empty())
    }

    fn check_limits(&self, errors: &mut BuildErrors) {
        if StdDuration::from(self.clock_skew) > MAX_SKEW {
            errors.add(format!("clockSkew: {}: the maximum is 10m", self.clock_skew));
        }
        let max_age = StdDuration::from(self.max_age);
        if max_age > MAX_AGE || max_age < StdDuration::from_secs(1) {
            errors.add(format!("maxAge: {}: expected 1s to 1h", self.max_age));
        }
        if self.max_remembered == 0 {
            errors.add("maxRemembered: expected at least 1".into());
        }
    }

    fn read_keys(
        &self,
        context: &BuildContext<'_>,
    ) -> Result<HashMap<String, Owned, foldhash::fast::RandomState>, BuildError> {
        let mut errors = BuildErrors::default();
        let mut keys = HashMap::default();
        let fewest = usize::from(!self.accepts_consumers());
        if !(fewest..=MAX_KEYS).contains(&self.keys.len()) {
            errors.add(format!("keys: {}: expected {fewest} to {MAX_KEYS}", self.keys.len()));
        }
        for (index, options) in self.keys.iter().enumerate() {
            let key =
                options.read(context).map_err(|error| error.map(|text| format!("keys[{index}].{text}")));
            let Some(key) = errors.check(key) else { continue };
            let consumer = match options.consumer.as_str() {
                "" => None,
                name if name.contains('@') => Some(name.to_owned()),
                name => Some(format!("{name}@{}", context.provider())),
            };
            if keys.insert(options.id.clone(), Owned { key, consumer }).is_some() {
                errors.add(format!("keys[{index}].id: `{}` is listed twice", options.id));
            }
        }
        errors.made(Some(keys))
    }
}

impl HmacKey {
    /// Reads the key. Messages contain nothing of it.
    fn read(&self, context: &BuildContext<'_>) -> Result<Key, BuildError> {
        let algorithm =
            self.algorithm.meaning().map_err(|error| BuildError::new(format!("algorithm: {error}")))?;
        if self.id.is_empty() {
            return Err(BuildError::new("id: required"));
        }
        let key = match (self.key.expose(), self.public_key.trim()) {
            ("", "") => return Err(BuildError::new("key: required, or publicKey")),
            ("", text) => {
                let set = if text.starts_with('{') {
                    KeySet::jwks(format!("{{\"keys\": [{text}]}}").as_bytes(), false)
                } else if text.contains("-----BEGIN") {
                    KeySet::pem(text.as_bytes())
                } else {
                    KeySet::pem(&context.file(text)?)
                };
                Key::public(set.map_err(|error| BuildError::new(format!("publicKey: {error}")))?, algorithm)
            }
            (text, "") => {
                let secret = secret(text.as_bytes(), self.base64_encoded);
                Key::secret(secret.map_err(|error| error.map(|text| format!("key: {text}")))?, algorithm)
            }
            _ => return Err(BuildError::new("key: not possible with publicKey")),
        };
        key.ok_or_else(|| BuildError::new("algorithm: not possible with this key"))
    }
}
