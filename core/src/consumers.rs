//! The directory of consumers: which credential belongs to whom.
//!
//! A directory is immutable. Middlewares keep a [`ConsumersHandle`] and load the current directory for each
//! request, so a change of a consumer rebuilds nothing else.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use foldhash::HashMapExt as _;

use crate::consumer::{ApiKey, Consumer, KeyHash, SignatureKey};

type HashMap<K, V> = foldhash::HashMap<K, V>;

/// A credential of a consumer, and where it was written in the consumer's options.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The option: `credentials.apiKeys[0]`.
    pub path: String,
    /// The credential.
    pub kind: CredentialKind,
}

/// What a client proves.
#[derive(Clone, Debug)]
pub enum CredentialKind {
    /// An API key.
    ApiKey(Arc<ApiKey>),
    /// A key that signs requests (`hmac`).
    Signature(Arc<SignatureKey>),
    /// A claim of a token (`jwt`).
    Token(Claim),
    /// A claim of a login (`oidc`).
    Login(Claim),
    /// A user of `basicAuth` or `digestAuth`.
    BasicUser(Box<str>),
    /// A user whom an authentication server names (`forwardAuth`).
    ForwardUser(Box<str>),
    /// A certificate's common name.
    CommonName(Box<str>),
    /// A certificate's alternative name. Host names are in lower case.
    AlternativeName(Box<str>),
    /// The SHA-256 of a certificate.
    Fingerprint([u8; 32]),
}

impl fmt::Display for CredentialKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey(key) if key.id.is_empty() => f.write_str("API key"),
            Self::ApiKey(key) => write!(f, "API key `{}`", key.id),
            Self::Signature(key) => write!(f, "key `{}` of signatures", key.id),
            Self::Token(claim) => write!(f, "token with {claim}"),
            Self::Login(claim) => write!(f, "login with {claim}"),
            Self::BasicUser(user) => write!(f, "user `{user}` of basicAuth"),
            Self::ForwardUser(user) => write!(f, "user `{user}` of forwardAuth"),
            Self::CommonName(name) => write!(f, "certificate with common name `{name}`"),
            Self::AlternativeName(name) => write!(f, "certificate with alternative name `{name}`"),
            Self::Fingerprint(_) => f.write_str("certificate with this fingerprint"),
        }
    }
}

/// A claim with the value that it must have, and who must have issued the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The claim `iss`; empty for tokens without one.
    pub issuer: Box<str>,
    /// Name of the claim.
    pub name: Box<str>,
    /// Its value.
    pub value: Box<str>,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { issuer, name, value } = self;
        write!(f, "claim `{name}` = `{value}` of issuer `{issuer}`")
    }
}

/// The consumer with a credential cannot be identified: it has a mistake, or another one has the credential, too.
/// Requests with the credential get 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the client's consumer has a mistake in the configuration, or shares this credential with another one"
)]
pub struct ConsumerBroken;

/// A consumer and its credentials, ready to be listed in a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The consumer.
    pub consumer: Arc<Consumer>,
    /// Its credentials.
    pub credentials: Vec<Credential>,
    /// Whether it has a mistake: its credentials identify no one, but are known.
    pub is_broken: bool,
}

/// A credential that more than one consumer has, or one consumer twice. Requests with it get 503.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The later consumer, and the option.
    pub consumer: (Arc<str>, String),
    /// The first consumer, and the option.
    pub other: (Arc<str>, String),
    /// What the credential is. Contains no secret.
    pub credential: String,
}

/// Owner of a credential; `None` if it is contested, or if its owner is broken.
type Owner = Option<Arc<Consumer>>;
/// The owner of a client's credential, if there is one.
type Found = Result<Option<Arc<Consumer>>, ConsumerBroken>;

/// The claims of one issuer: by name, then by value.
type Claims = HashMap<Box<str>, HashMap<Box<str>, Owner>>;

/// Which credential belongs to which consumer.
#[derive(Debug, Default)]
pub struct Consumers {
    version: u64,
    is_empty: bool,
    by_name: HashMap<Arc<str>, Arc<Consumer>>,
    keys: HashMap<Box<str>, Option<Arc<ApiKey>>>,
    /// Keys by their ids that identify no one, so that only those who have them learn that.
    broken_keys: HashMap<Box<str>, Vec<Arc<ApiKey>>>,
    foreign_keys: HashMap<[u8; 32], Option<Arc<ApiKey>>>,
    /// Keys that are not found by hash: each has to be tried.
    password_keys: HashMap<Box<str>, Option<Arc<ApiKey>>>,
    broken_password_keys: Vec<Arc<ApiKey>>,
    signature_keys: HashMap<Box<str>, Option<Arc<SignatureKey>>>,
    broken_signature_keys: HashMap<Box<str>, Vec<Arc<SignatureKey>>>,
    tokens: HashMap<Box<str>, Claims>,
    logins: HashMap<Box<str>, Claims>,
    basic_users: HashMap<Box<str>, Owner>,
    forward_users: HashMap<Box<str>, Owner>,
    common_names: HashMap<Box<str>, Owner>,
    alternative_names: HashMap<Box<str>, Owner>,
    fingerprints: HashMap<[u8; 32], Owner>,
}

impl Consumers {
    /// Lists consumers with their credentials. A credential that occurs twice identifies no one, and is
    /// returned as a conflict.
    pub fn new(entries: &[Arc<Entry>]) -> (Self, Vec<Conflict>) {
        static VERSION: AtomicU64 = AtomicU64::new(1);
        let version = VERSION.fetch_add(1, Ordering::Relaxed);
        let by_name = HashMap::with_capacity(entries.len());
        let mut all = Self { version, is_empty: entries.is_empty(), by_name, ..Self::default() };
        let mut contested = Vec::new();
        for entry in entries {
            if !entry.is_broken {
                all.by_name.insert(entry.consumer.name.clone(), entry.consumer.clone());
            }
            for credential in &entry.credentials {
                if !all.add(entry, &credential.kind) {
                    contested.push((&entry.consumer.name, credential));
                }
            }
        }
        let conflicts = if contested.is_empty() { Vec::new() } else { conflicts(entries, &contested) };
        (all, conflicts)
    }

    /// Returns a number that no other directory has, for what is derived from this one. 0 if it was always empty.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Returns true if there are no consumers.
    pub fn is_empty(&self) -> bool {
        self.version == 0 || self.is_empty
    }

    /// Returns the consumer with this qualified name, if it has no mistake.
    pub fn get(&self, name: &str) -> Option<&Arc<Consumer>> {
        self.by_name.get(name)
    }

    /// Returns the API keys with this id that identify no one.
    pub fn broken_keys(&self, id: &str) -> &[Arc<ApiKey>] {
        self.broken_keys.get(id).map_or(&[], Vec::as_slice)
    }

    /// Returns the API key with this id.
    pub fn key(&self, id: &str) -> Option<&Arc<ApiKey>> {
        self.keys.get(id)?.as_ref()
    }

    /// Returns the API keys that have an id and are not contested.
    pub fn keys(&self) -> impl Iterator<Item = &Arc<ApiKey>> {
        self.keys.values().flatten()
    }

    /// Returns the API key issued elsewhere that has this SHA-256.
    pub fn foreign_key(&self, sha256: &[u8; 32]) -> Result<Option<&Arc<ApiKey>>, ConsumerBroken> {
        self.foreign_keys.get(sha256).map(|key| key.as_ref().ok_or(ConsumerBroken)).transpose()
    }

    /// Returns the API keys issued elsewhere that are stored as password hashes.
    pub fn password_keys(&self) -> impl Iterator<Item = &Arc<ApiKey>> {
        self.password_keys.values().flatten()
    }

    /// Returns those that identify no one.
    pub fn broken_password_keys(&self) -> &[Arc<ApiKey>] {
        &self.broken_password_keys
    }

    /// Returns the key of signatures with this id.
    pub fn signature_key(&self, id: &str) -> Option<&Arc<SignatureKey>> {
        self.signature_keys.get(id)?.as_ref()
    }

    /// Returns the keys of signatures with this id that identify no one.
    pub fn broken_signature_keys(&self, id: &str) -> &[Arc<SignatureKey>] {
        self.broken_signature_keys.get(id).map_or(&[], Vec::as_slice)
    }

    /// Returns the owner of a verified token. `claim` returns the text of a claim.
    ///
    /// # Errors
    ///
    /// If the owner is broken, or its claims are those of several consumers.
    pub fn by_token<'c>(&self, issuer: &str, claim: impl Fn(&str) -> Option<&'c str>) -> Found {
        owner_by_claims(&self.tokens, issuer, claim)
    }

    /// Returns whom a provider of logins has authenticated; see [`Self::by_token`].
    pub fn by_login<'c>(&self, issuer: &str, claim: impl Fn(&str) -> Option<&'c str>) -> Found {
        owner_by_claims(&self.logins, issuer, claim)
    }

    /// Returns the consumer with this user name of `basicAuth`, `digestAuth` or `ldap`.
    pub fn by_basic_user(&self, user: &str) -> Found {
        owner(&self.basic_users, user)
    }

    /// Returns the consumer with this user name of an authentication server.
    pub fn by_forward_user(&self, user: &str) -> Found {
        owner(&self.forward_users, user)
    }

    /// Returns true if certificates can identify consumers.
    pub fn has_certificates(&self) -> bool {
        !(self.common_names.is_empty() && self.alternative_names.is_empty() && self.fingerprints.is_empty())
    }

    /// Returns the owner of a verified certificate: by fingerprint, then by alternative names, then by common
    /// name.
    ///
    /// # Errors
    ///
    /// If the owner is broken, or its alternative names are those of several consumers.
    pub fn by_certificate<'n>(
        &self,
        fingerprint: &[u8; 32],
        alternative_names: impl IntoIterator<Item = &'n str>,
        common_name: Option<&str>,
    ) -> Found {
        if let Some(found) = self.fingerprints.get(fingerprint) {
            return sound(found);
        }
        let alternative_names = alternative_names.into_iter();
        let mut names = alternative_names.filter_map(|name| self.alternative_names.get(&*normal_name(name)));
        if let Some(first) = names.next() {
            return if names.all(|next| next == first) { sound(first) } else { Err(ConsumerBroken) };
        }
        common_name.map_or(Ok(None), |name| owner(&self.common_names, name))
    }

    /// Adds a credential. Returns false if it is taken.
    fn add(&mut self, entry: &Entry, credential: &CredentialKind) -> bool {
        let owner = (!entry.is_broken).then_some(&entry.consumer);
        let claim = |map: &mut HashMap<Box<str>, Claims>, claim: &Claim| {
            let of_issuer = map.entry(claim.issuer.clone()).or_default();
            put(of_issuer.entry(claim.name.clone()).or_default(), claim.value.clone(), owner).is_new
        };
        match credential {
            CredentialKind::ApiKey(key) => self.add_key(key, entry.is_broken),
            CredentialKind::Signature(key) => self.add_signature_key(key, entry.is_broken),
            CredentialKind::Token(token) => claim(&mut self.tokens, token),
            CredentialKind::Login(login) => claim(&mut self.logins, login),
            CredentialKind::BasicUser(user) => put(&mut self.basic_users, user.clone(), owner).is_new,
            CredentialKind::ForwardUser(user) => put(&mut self.forward_users, user.clone(), owner).is_new,
            CredentialKind::CommonName(name) => put(&mut self.common_names, name.clone(), owner).is_new,
            CredentialKind::AlternativeName(name) => {
                put(&mut self.alternative_names, name.clone(), owner).is_new
            }
            CredentialKind::Fingerprint(hash) => put(&mut self.fingerprints, *hash, owner).is_new,
        }
    }

    fn add_signature_key(&mut self, key: &Arc<SignatureKey>, is_broken: bool) -> bool {
        let put = put(&mut self.signature_keys, key.id.clone(), (!is_broken).then_some(key));
        if is_broken || !put.is_new {
            let broken = self.broken_signature_keys.entry(key.id.clone()).or_default();
            broken.extend(put.displaced.into_iter().chain([key.clone()]));
        }
        put.is_new
    }

    fn add_key(&mut self, key: &Arc<ApiKey>, is_broken: bool) -> bool {
        let sound = (!is_broken).then_some(key);
        let (put, broken) = match &key.hash {
            _ if !key.id.is_empty() => {
                let put = put(&mut self.keys, key.id.clone(), sound);
                let is_sound = put.is_new && !is_broken;
                (put, (!is_sound).then(|| self.broken_keys.entry(key.id.clone()).or_default()))
            }
            KeyHash::Sha256(hash) => (put(&mut self.foreign_keys, *hash, sound), None),
            KeyHash::Password(hash) => {
                let put = put(&mut self.password_keys, hash.clone(), sound);
                let is_sound = put.is_new && !is_broken;
                (put, (!is_sound).then_some(&mut self.broken_password_keys))
            }
        };
        if let Some(broken) = broken {
            broken.extend(put.displaced.into_iter().chain([key.clone()]));
        }
        put.is_new
    }
}

/// Brings an alternative name into the form in which names are compared: host names in lower case.
pub fn normal_name(name: &str) -> Cow<'_, str> {
    let is_host_name = !name.contains(['@', '/']);
    match is_host_name && name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    }
}

/// What adding a value has done.
struct Put<V> {
    is_new: bool,
    /// The value that was there.
    displaced: Option<Arc<V>>,
}

/// Adds a value under a key; `None` if it is known to be broken. If there is one already, both are.
fn put<K: Eq + Hash, V>(map: &mut HashMap<K, Option<Arc<V>>>, key: K, value: Option<&Arc<V>>) -> Put<V> {
    let mut is_new = false;
    let held = map.entry(key).or_insert_with(|| {
        is_new = true;
        value.cloned()
    });
    Put { is_new, displaced: if is_new { None } else { held.take() } }
}

fn sound(owner: &Owner) -> Found {
    owner.clone().map(Some).ok_or(ConsumerBroken)
}

fn owner<K: Borrow<str> + Eq + Hash>(map: &HashMap<K, Owner>, key: &str) -> Found {
    map.get(key).map_or(Ok(None), sound)
}

fn owner_by_claims<'c>(
    map: &HashMap<Box<str>, Claims>,
    issuer: &str,
    claim: impl Fn(&str) -> Option<&'c str>,
) -> Found {
    let Some(of_issuer) = map.get(issuer) else { return Ok(None) };
    let mut found = of_issuer.iter().filter_map(|(name, values)| values.get(claim(name)?));
    let Some(first) = found.next() else { return Ok(None) };
    if found.all(|next| next == first) { sound(first) } else { Err(ConsumerBroken) }
}

/// Finds the first owner of each contested credential.
fn conflicts(entries: &[Arc<Entry>], contested: &[(&Arc<str>, &Credential)]) -> Vec<Conflict> {
    let mut first: HashMap<Identifier, (Arc<str>, String)> = HashMap::new();
    let wanted: foldhash::HashSet<Identifier> =
        contested.iter().map(|(_, credential)| Identifier::of(&credential.kind)).collect();
    for entry in entries {
        for credential in &entry.credentials {
            let identifier = Identifier::of(&credential.kind);
            if wanted.contains(&identifier) {
                let place = || (entry.consumer.name.clone(), credential.path.clone());
                first.entry(identifier).or_insert_with(place);
            }
        }
    }
    let conflict = |(consumer, credential): &(&Arc<str>, &Credential)| {
        let other = first.get(&Identifier::of(&credential.kind))?.clone();
        let consumer = (Arc::clone(consumer), credential.path.clone());
        Some(Conflict { consumer, other, credential: credential.kind.to_string() })
    };
    contested.iter().filter_map(conflict).collect()
}

/// What distinguishes a credential from others.
#[derive(PartialEq, Eq, Hash)]
struct Identifier(&'static str, Vec<u8>);

impl Identifier {
    fn of(credential: &CredentialKind) -> Self {
        let claim = |Claim { issuer, name, value }: &Claim| format!("{issuer}\0{name}\0{value}").into_bytes();
        match credential {
            CredentialKind::ApiKey(key) => match &key.hash {
                _ if !key.id.is_empty() => Self("id", key.id.as_bytes().to_vec()),
                KeyHash::Sha256(hash) => Self("sha256", hash.to_vec()),
                KeyHash::Password(hash) => Self("password", hash.as_bytes().to_vec()),
            },
            CredentialKind::Signature(key) => Self("signature", key.id.as_bytes().to_vec()),
            CredentialKind::Token(token) => Self("token", claim(token)),
            CredentialKind::Login(login) => Self("login", claim(login)),
            CredentialKind::BasicUser(user) => Self("basic", user.as_bytes().to_vec()),
            CredentialKind::ForwardUser(user) => Self("forward", user.as_bytes().to_vec()),
            CredentialKind::CommonName(name) => Self("cn", name.as_bytes().to_vec()),
            CredentialKind::AlternativeName(name) => Self("san", name.as_bytes().to_vec()),
            CredentialKind::Fingerprint(hash) => Self("fingerprint", hash.to_vec()),
        }
    }
}

/// The current directory, shared by everything that identifies consumers.
#[derive(Clone, Debug, Default)]
pub struct ConsumersHandle(Arc<ArcSwap<Consumers>>);

impl ConsumersHandle {
    /// Returns the current directory, for one request. Takes no lock.
    pub fn load(&self) -> Guard<Arc<Consumers>> {
        self.0.load()
    }

    /// Replaces the directory.
    pub fn store(&self, next: Arc<Consumers>) {
        self.0.store(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer::KeyState;

    fn consumer(name: &str) -> Arc<Consumer> {
        Arc::new(Consumer { name: name.into(), ..Consumer::default() })
    }

    fn key(id: &str, hash: KeyHash, consumer: &Arc<Consumer>) -> CredentialKind {
        CredentialKind::ApiKey(Arc::new(ApiKey {
            id: id.into(),
            hash,
            label: "".into(),
            not_before: None,
            expires: None,
            state: KeyState::Active,
            allowed: None,
            scopes: Box::default(),
            consumer: consumer.clone(),
            last_used: Arc::default(),
        }))
    }

    fn entry(name: &str, make: impl Fn(&Arc<Consumer>) -> Vec<CredentialKind>) -> Arc<Entry> {
        let consumer = consumer(name);
        let kinds = make(&consumer).into_iter().enumerate();
        let credentials = kinds.map(|(at, kind)| Credential { path: format!("[{at}]"), kind }).collect();
        Arc::new(Entry { consumer, credentials, is_broken: false })
    }

    fn name(owner: Found) -> Option<String> {
        owner.unwrap().map(|consumer| consumer.name.to_string())
    }

    fn claim(issuer: &str, name: &str, value: &str) -> Claim {
        Claim { issuer: issuer.into(), name: name.into(), value: value.into() }
    }

    #[test]
    fn each_kind_of_credential_finds_its_consumer() {
        let a = entry("a@file", |consumer| {
            vec![
                key("k1", KeyHash::Sha256([1; 32]), consumer),
                key("", KeyHash::Sha256([2; 32]), consumer),
                key("", KeyHash::Password("$2y$x".into()), consumer),
                CredentialKind::Token(claim("https://i", "sub", "s")),
                CredentialKind::Token(claim("", "azp", "app")),
                CredentialKind::Login(claim("https://i", "sub", "l")),
                CredentialKind::BasicUser("u".into()),
                CredentialKind::ForwardUser("f".into()),
                CredentialKind::CommonName("cn".into()),
                CredentialKind::AlternativeName("a.example".into()),
                CredentialKind::Fingerprint([3; 32]),
            ]
        });
        let (all, conflicts) = Consumers::new(&[a]);
        let a = Some("a@file".to_owned());
        assert_eq!(conflicts, []);
        assert_eq!(all.key("k1").map(|key| key.consumer.name.to_string()), a);
        assert!(all.foreign_key(&[2; 32]).unwrap().is_some() && all.foreign_key(&[1; 32]).unwrap().is_none());
        assert_eq!(all.password_keys().count(), 1);
        let sub = |value: &'static str| move |name: &str| (name == "sub").then_some(value);
        assert_eq!(name(all.by_token("https://i", sub("s"))), a);
        assert_eq!(name(all.by_token("", sub("s"))), None, "another issuer");
        assert_eq!(name(all.by_token("https://i", sub("l"))), None, "that is a login");
        assert_eq!(name(all.by_token("", |name| (name == "azp").then_some("app"))), a);
        assert_eq!(name(all.by_login("https://i", sub("l"))), a);
        assert_eq!((name(all.by_basic_user("u")), name(all.by_basic_user("f"))), (a.clone(), None));
        assert_eq!((name(all.by_forward_user("f")), name(all.by_forward_user("u"))), (a.clone(), None));
        assert_eq!(name(all.by_certificate(&[3; 32], [], None)), a);
        assert_eq!(name(all.by_certificate(&[0; 32], ["x", "A.Example"], Some("x"))), a);
        assert_eq!(name(all.by_certificate(&[0; 32], [], Some("cn"))), a);
        assert_eq!(name(all.by_certificate(&[0; 32], [], Some("CN"))), None);
    }

    #[test]
    fn a_broken_consumer_is_known_by_its_credentials() {
        let make = |consumer: &Arc<Consumer>| {
            vec![
                key("k", KeyHash::Sha256([1; 32]), consumer),
                key("", KeyHash::Sha256([2; 32]), consumer),
                key("", KeyHash::Password("$2y$x".into()), consumer),
                CredentialKind::BasicUser("u".into()),
                CredentialKind::Token(claim("i", "sub", "s")),
                CredentialKind::Fingerprint([3; 32]),
            ]
        };
        let broken = Entry { is_broken: true, ..Entry::clone(&entry("a@file", make)) };
        let (all, conflicts) = Consumers::new(&[Arc::new(broken)]);
        assert!(conflicts.is_empty() && !all.is_empty() && all.get("a@file").is_none());
        assert!(all.key("k").is_none() && all.password_keys().next().is_none());
        assert_eq!((all.broken_keys("k").len(), all.broken_keys("x").len()), (1, 0));
        assert_eq!(all.broken_password_keys().len(), 1);
        assert_eq!(all.foreign_key(&[2; 32]).err(), Some(ConsumerBroken));
        assert_eq!(all.by_basic_user("u"), Err(ConsumerBroken));
        assert_eq!(all.by_token("i", |_| Some("s")), Err(ConsumerBroken));
        assert_eq!(all.by_certificate(&[3; 32], [], None), Err(ConsumerBroken));
        assert_eq!(all.by_basic_user("x"), Ok(None));
    }

    #[test]
    fn a_contested_credential_identifies_no_one() {
        let make = |consumer: &Arc<Consumer>| {
            vec![
                key("k", KeyHash::Sha256([1; 32]), consumer),
                key("", KeyHash::Password("$2y$x".into()), consumer),
                CredentialKind::BasicUser("u".into()),
                CredentialKind::CommonName(consumer.name.as_ref().into()),
            ]
        };
        let (all, conflicts) =
            Consumers::new(&[entry("a@file", make), entry("b@file", make), entry("c@file", make)]);
        assert!(all.key("k").is_none() && all.password_keys().next().is_none());
        assert_eq!(all.broken_keys("k").len(), 3);
        assert_eq!(all.broken_password_keys().len(), 3);
        assert_eq!(all.by_basic_user("u"), Err(ConsumerBroken));
        assert_eq!(name(all.by_certificate(&[0; 32], [], Some("b@file"))), Some("b@file".to_owned()));
        assert_eq!(conflicts.len(), 6, "{conflicts:?}");
        assert!(conflicts.iter().all(|one| *one.other.0 == *"a@file" && one.consumer.1 == one.other.1));
        assert_eq!(conflicts[0].credential, "API key `k`");
    }

    #[test]
    fn claims_and_names_of_several_consumers_identify_no_one() {
        let a = entry("a@file", |_| {
            vec![
                CredentialKind::Token(claim("i", "sub", "s")),
                CredentialKind::AlternativeName("a".into()),
                CredentialKind::CommonName("n".into()),
            ]
        });
        let b = entry("b@file", |_| {
            vec![
                CredentialKind::Token(claim("i", "azp", "s")),
                CredentialKind::AlternativeName("b".into()),
                CredentialKind::Fingerprint([1; 32]),
            ]
        });
        let (all, _) = Consumers::new(&[a, b]);
        assert_eq!(all.by_token("i", |_| Some("s")), Err(ConsumerBroken));
        assert_eq!(name(all.by_token("i", |name| (name == "azp").then_some("s"))), Some("b@file".into()));
        assert_eq!(all.by_certificate(&[0; 32], ["a", "b"], Some("n")), Err(ConsumerBroken));
        assert_eq!(name(all.by_certificate(&[1; 32], ["a"], Some("n"))), Some("b@file".into()));
    }
}
