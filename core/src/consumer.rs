//! Known clients, and the API keys that belong to them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::RequestCounters;
use crate::client_ip::IpRanges;
use crate::plan::{Limits, Quota};
use crate::word::Vocabulary;

/// A client that the configuration knows (`http.consumers.<name>`), however it authenticates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Consumer {
    /// Qualified name: `name@provider`.
    pub name: Arc<str>,
    /// Groups that it belongs to.
    pub groups: Vec<String>,
    /// Further attributes.
    pub labels: BTreeMap<String, String>,
    /// Its plan; empty if it has none.
    pub plan: String,
    /// How much its plan lets it use; `None` for no limit.
    pub quota: Option<Quota>,
    /// How fast its plan lets it use something; `None` for no limit.
    pub limits: Option<Limits>,
    /// What counts its requests for metrics, if anything does.
    pub counters: Counters,
}

/// The counters of a consumer, which are set once. They do not distinguish consumers.
#[derive(Clone, Debug, Default)]
pub struct Counters(OnceLock<Arc<RequestCounters>>);

impl Counters {
    /// Sets the counters, unless there are some.
    pub fn set(&self, counters: Arc<RequestCounters>) {
        let _ = self.0.set(counters);
    }

    /// Returns the counters.
    pub fn get(&self) -> Option<&Arc<RequestCounters>> {
        self.0.get()
    }
}

impl PartialEq for Counters {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Counters {}

impl Consumer {
    /// Returns the name without its provider, as servers and clients know it.
    pub fn short_name(&self) -> &str {
        self.name.rsplit_once('@').map_or(&self.name, |(name, _)| name)
    }
}

/// A stored API key. The key itself is not known.
#[derive(Debug)]
pub struct ApiKey {
    /// The public part of the key that it is found by; empty for keys that were issued elsewhere.
    pub id: Box<str>,
    /// What the secret is compared with.
    pub hash: KeyHash,
    /// What the key is for, in its owner's words.
    pub label: Box<str>,
    /// When it becomes valid, in seconds since 1970.
    pub not_before: Option<i64>,
    /// When it expires, in seconds since 1970.
    pub expires: Option<i64>,
    /// Whether it is accepted.
    pub state: KeyState,
    /// The addresses that may use it; `None` for all.
    pub allowed: Option<IpRanges>,
    /// What it permits.
    pub scopes: Box<[Box<str>]>,
    /// Whose key it is.
    pub consumer: Arc<Consumer>,
    /// When it was last used. Outlives changes of the consumer.
    pub last_used: Arc<LastUsed>,
}

/// A secret that signs requests.
pub struct SignatureKey {
    /// The name of the key in signatures.
    pub id: Box<str>,
    /// The secret.
    pub secret: Box<[u8]>,
    /// The only algorithm, as the middleware calls it; any if empty.
    pub algorithm: Box<str>,
    /// Whose key it is.
    pub consumer: Arc<Consumer>,
}

impl std::fmt::Debug for SignatureKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets do not belong in logs.
        f.debug_struct("SignatureKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What the secret of an API key is compared with.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyHash {
    /// The SHA-256 of the secret, or of the whole key if it was issued elsewhere.
    Sha256([u8; 32]),
    /// A form of htpasswd (bcrypt, MD5, SHA-1) of the whole key.
    Password(Box<str>),
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Hashes do not belong in logs.
        f.write_str(match self {
            Self::Sha256(_) => "Sha256",
            Self::Password(_) => "Password",
        })
    }
}

/// Whether an API key is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyState {
    /// It is.
    #[default]
    Active,
    /// It is, but it has been replaced and will be revoked.
    Grace,
    /// It is not.
    Revoked,
}

impl Vocabulary for KeyState {
    const WORDS: &'static [(&'static str, Self)] =
        &[("active", Self::Active), ("grace", Self::Grace), ("revoked", Self::Revoked)];
}

/// When a key was last used.
#[derive(Debug, Default)]
pub struct LastUsed(AtomicI64);

impl LastUsed {
    /// Records a use, in seconds since 1970. Writes at most once a second.
    pub fn record(&self, now: i64) {
        if self.0.load(Ordering::Relaxed) != now {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    /// Returns the last use in seconds since 1970; `None` if there was none since the start.
    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }
}
