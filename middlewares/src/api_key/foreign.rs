//! Keys that others have issued, stored as hashes in the middleware's options.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha1::{Digest as _, Sha1};
use tidegate_core::{AuthMethod, BuildContext, BuildError, BuildErrors, Identity};

use super::key::{SecretHash, sha256};
use crate::auth::password::Hash;
use crate::auth::{self, UserEntry};

type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// Maximum time for trying all slow hashes, in microseconds: every unknown key costs it.
pub(super) const MAX_WORK: u64 = 10_000_000;
/// Number of bytes of a hash that name a key without a name.
const NAME_LEN: usize = 4;

/// A hash of a whole key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ForeignHash {
    Sha256(SecretHash),
    Sha1([u8; 20]),
    /// Has a salt, so it has to be tried.
    Slow(Hash),
}

impl ForeignHash {
    /// Parses `sha256:` and hexadecimal digits, the digits alone, `{SHA256}` and base64, and the forms of htpasswd.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(sum) = text.strip_prefix("{SHA256}") {
            return BASE64_STANDARD.decode(sum).ok()?.try_into().ok().map(Self::Sha256);
        }
        if let Some(sum) = text.strip_prefix("{SHA}") {
            return BASE64_STANDARD.decode(sum).ok()?.try_into().ok().map(Self::Sha1);
        }
        if let Some(sum) = hex(text.strip_prefix("sha256:").unwrap_or(text)) {
            return Some(Self::Sha256(sum));
        }
        match Hash::parse(text) {
            Hash::Bcrypt { cost, .. } if !(4..=31).contains(&cost) || text.len() != 60 => None,
            Hash::Unknown | Hash::Sha1(_) => None,
            slow => Some(Self::Slow(slow)),
        }
    }
}

/// Returns the bytes of 64 hexadecimal digits.
fn hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16))
        .map(|digit| Some(digit? as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    if digits.len() == 64 { bytes.try_into().ok() } else { None }
}

/// The keys of the options `secretValues` and `secretValuesFile`.
#[derive(Debug, Default)]
pub(super) struct ForeignKeys {
    by_sha256: HashMap<SecretHash, Arc<Identity>>,
    by_sha1: HashMap<[u8; 20], Arc<Identity>>,
    slow: Arc<[(Hash, Arc<Identity>)]>,
    /// Whether clients send their keys in base64, as Traefik Hub expects.
    is_base64: bool,
}

impl ForeignKeys {
    /// Reads the hashes, each of which may have a name in front of it: `name:hash`.
    pub(super) fn read(
        listed: &[String],
        file: &str,
        is_base64: bool,
        context: &BuildContext<'_>,
    ) -> Result<Self, BuildError> {
        let by: Arc<str> = context.name.into();
        let (mut keys, mut slow) = (Self { is_base64, ..Self::default() }, Vec::new());
        let mut errors = BuildErrors::default();
        let mut places: HashMap<String, String> = HashMap::default();
        let entries = auth::user_entries(listed, file, context)?;
        let in_file = entries.len() - listed.len();
        for (index, entry) in entries.iter().enumerate() {
            let place = match index.checked_sub(in_file) {
                Some(index) => format!("secretValues[{index}]"),
                None => format!("secretValuesFile{}", entry.place),
            };
            let (name, text) = split(entry);
            let Some(hash) = ForeignHash::parse(text) else {
                errors.add(format!("{place}: {}", wrong(text)));
                continue;
            };
            if let Some(other) = places.insert(format!("{hash:?}"), place.clone()) {
                errors.add(format!("{place}: the same key as {other}"));
                continue;
            }
            let subject = name.map_or_else(|| unnamed(text.trim()), str::to_owned);
            let identity = Arc::new(Identity::new(subject, AuthMethod::ApiKey, by.clone()));
            match hash {
                ForeignHash::Sha256(hash) => drop(keys.by_sha256.insert(hash, identity)),
                ForeignHash::Sha1(hash) => drop(keys.by_sha1.insert(hash, identity)),
                ForeignHash::Slow(hash) => slow.push((hash, identity)),
            }
        }
        let work = slow.iter().fold(0u64, |sum, (hash, _)| sum.saturating_add(hash.work()));
        if work > MAX_WORK {
            errors.add(format!(
                "the hashes take {} s to try for each unknown key: expected at most {} s: use SHA-256 for generated keys",
                work / 1_000_000,
                MAX_WORK / 1_000_000
            ));
        }
        keys.slow = slow.into();
        errors.finish().map(|()| keys)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_sha256.is_empty() && self.by_sha1.is_empty() && self.slow.is_empty()
    }

    /// Returns the text that is hashed; `None` if it is not in base64 and must be.
    pub(super) fn text<'a>(&self, sent: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        match self.is_base64 {
            true => BASE64_STANDARD.decode(sent).ok().map(Cow::Owned),
            false => Some(Cow::Borrowed(sent)),
        }
    }

    /// Finds a key by its hash. `text` is the result of [`Self::text`].
    pub(super) fn find(&self, text: &[u8]) -> Option<&Arc<Identity>> {
        let by_sha256 = if self.by_sha256.is_empty() { None } else { self.by_sha256.get(&sha256(text)) };
        let by_sha1 = if self.by_sha1.is_empty() {
            None
        } else {
            self.by_sha1.get(<[u8; 20]>::from(Sha1::digest(text)).as_slice())
        };
        by_sha256.or(by_sha1)
    }

    /// Returns the hashes that have to be tried.
    pub(super) fn slow(&self) -> &Arc<[(Hash, Arc<Identity>)]> {
        &self.slow
    }
}

/// Splits a name from a hash, which may itself begin with `sha256:`.
fn split(entry: &UserEntry) -> (Option<&str>, &str) {
    let text = entry.text.trim();
    match text.split_once(':') {
        // `htpasswd -nB ""` prints an empty name.
        Some(("", hash)) => (None, hash),
        Some((name, hash)) if name != "sha256" => (Some(name), hash),
        _ => (None, text),
    }
}

/// Returns a name for a key without one: digits of its hash's hash.
fn unnamed(hash: &str) -> String {
    let sum = sha256(hash.as_bytes());
    sum.iter().take(NAME_LEN).fold("key-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// Says what is wrong with a hash, without repeating it: it may be the key itself.
fn wrong(text: &str) -> &'static str {
    if text.contains("urn:k8s:") || text.trim_start().starts_with("k8s:") {
        return "secrets of Kubernetes are not supported: write the hash itself, or use secretValuesFile";
    }
    "invalid hash: expected bcrypt, MD5 (`$apr1$`), `{SHA}`, `{SHA256}` or `sha256:` and 64 hexadecimal digits"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    const SHA256_TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn every_form_is_read() {
        let plain = ForeignHash::Sha256(sha256(b"test"));
        assert_eq!(ForeignHash::parse(SHA256_TEST).unwrap(), plain);
        assert_eq!(ForeignHash::parse(&format!("sha256:{}", SHA256_TEST.to_uppercase())).unwrap(), plain);
        assert_eq!(
            ForeignHash::parse("{SHA256}n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=").unwrap(),
            plain
        );
        let ForeignHash::Sha1(sum) = ForeignHash::parse("{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=").unwrap() else {
            panic!("it is SHA-1")
        };
        assert_eq!(sum, <[u8; 20]>::from(Sha1::digest("test")));
        for slow in [&*bcrypt::hash("test", 4).unwrap(), "$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/"] {
            assert!(
                matches!(ForeignHash::parse(slow), Some(ForeignHash::Slow(hash)) if hash.matches(b"test"))
            );
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "secret",
            "sha256:",
            "sha256:00",
            "{SHA}",
            "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9",
            "{SHA256}qUqP5cyxm6YcTAhz05Hph5gvu9M=",
            "$2y$05$short",
            "$2y$99$D4SPFxzfWKcx1OXfVhRbvOTH/QB0Lm6AXTk8.NOmU4rPLX2t6UUuW",
            "$5$salt$x",
            &SHA256_TEST[1..],
            &format!("{SHA256_TEST}0"),
        ] {
            assert_eq!(ForeignHash::parse(text), None, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named_by_place_without_their_text() {
        let mut world = World::default();
        let lines = format!("# keys\nann:{SHA256_TEST}\nmy-secret-key\n");
        world.files.insert("/keys".into(), lines.into_bytes());
        let context = BuildContext::new("m@file", &world);
        let listed =
            ["urn:k8s:secret:a:b".to_owned(), format!("bob:sha256:{SHA256_TEST}"), SHA256_TEST.into()];
        let error = ForeignKeys::read(&listed, "/keys", false, &context).unwrap_err();
        let [line, urn, twice, again] = error.messages() else { panic!("{error}") };
        assert!(line.starts_with("secretValuesFile (/keys:3): invalid hash: expected bcrypt"), "{line}");
        assert!(urn.starts_with("secretValues[0]: secrets of Kubernetes are not supported"), "{urn}");
        assert_eq!(twice, "secretValues[1]: the same key as secretValuesFile (/keys:2)");
        assert_eq!(again, "secretValues[2]: the same key as secretValues[1]");
        assert!(!error.to_string().contains("my-secret"));
        let dear = "$2y$20$D4SPFxzfWKcx1OXfVhRbvOTH/QB0Lm6AXTk8.NOmU4rPLX2t6UUuW".to_owned();
        let error = ForeignKeys::read(&[dear], "", false, &context).unwrap_err().to_string();
        assert!(error.contains("take 62 s to try for each unknown key"), "{error}");
        assert!(ForeignKeys::read(&[], "/missing", false, &context).is_err());
    }

    #[test]
    fn names_are_optional() {
        let world = World::default();
        let context = BuildContext::new("m@file", &world);
        let read = |text: &str| ForeignKeys::read(&[text.to_owned()], "", false, &context).unwrap();
        assert_eq!(read(&format!("ann:{SHA256_TEST}")).find(b"test").unwrap().subject, "ann");
        assert_eq!(read(":{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=").find(b"test").unwrap().subject.len(), 12);
        assert_eq!(read(&format!("sha256:{SHA256_TEST}")).find(b"test").unwrap().subject.len(), 12);
        assert!(read(SHA256_TEST).find(b"Test").is_none());
    }
}
