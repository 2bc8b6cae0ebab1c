//! The keys that sign identities: generated and rotated, or from a file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use serde_json::{Value, json};

/// Length of a point of P-256 in its uncompressed form: a byte, and two coordinates.
const POINT: usize = 65;
/// Maximum size of a key file in bytes.
const MAX_FILE: usize = 64 * 1024;

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the file: {0}")]
    File(#[from] std::io::Error),
    /// The file is no private key.
    #[error("no private key on P-256 in PEM: expected `PRIVATE KEY` or `EC PRIVATE KEY`")]
    Format,
    /// The library failed.
    #[error("cannot generate a key")]
    Generate,
}

/// A key for ES256.
pub(super) struct SigningKey {
    /// `kid`: the thumbprint of the public key (RFC 7638).
    pub(super) id: Arc<str>,
    pub(super) private: EncodingKey,
    /// The public key as a JSON Web Key.
    pub(super) public: Value,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Generates a key.
    pub(super) fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self::from_pair(&pair.map_err(|_| KeyError::Generate)?)
    }

    /// Reads a key from a file.
    pub(super) fn from_file(path: &Path) -> Result<Self, KeyError> {
        let bytes = std::fs::read(path)?;
        if bytes.len() > MAX_FILE {
            return Err(KeyError::Format);
        }
        Self::from_pem(&bytes)
    }

    fn from_pem(bytes: &[u8]) -> Result<Self, KeyError> {
        let blocks = x509_parser::pem::Pem::iter_from_buffer(bytes).flatten();
        let mut keys = blocks.filter(|block| matches!(&*block.label, "PRIVATE KEY" | "EC PRIVATE KEY"));
        let der = keys.next().ok_or(KeyError::Format)?.contents;
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
        Self::from_pair(&pair.map_err(|_| KeyError::Format)?)
    }

    fn from_pair(pair: &EcdsaKeyPair) -> Result<Self, KeyError> {
        let point = pair.public_key().as_ref();
        if point.len() != POINT {
            return Err(KeyError::Format);
        }
        let (x, y) = point[1..].split_at(POINT / 2);
        let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(x), BASE64_URL_SAFE_NO_PAD.encode(y));
        // The members in the order of RFC 7638 section 3.2.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let id = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, canonical.as_bytes()));
        let private = pair.to_pkcs8v1().map_err(|_| KeyError::Generate)?;
        Ok(Self {
            public: json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": id, "use": "sig", "alg": "ES256"}),
            id: id.into(),
            private: EncodingKey::from_ec_der(private.as_ref()),
        })
    }
}

/// The keys at one time.
#[derive(Debug)]
pub(super) struct KeyRing {
    /// Signs.
    pub(super) current: Arc<SigningKey>,
    /// Signs next. Services know it already, so that they do not need to ask for it.
    pub(super) next: Option<Arc<SigningKey>>,
    /// Have signed, and verify until this time, in seconds since 1970.
    pub(super) retired: Vec<(Arc<SigningKey>, u64)>,
}

impl KeyRing {
    /// Generates two keys.
    pub(super) fn generate() -> Result<Self, KeyError> {
        let (current, next) = (SigningKey::generate()?, SigningKey::generate()?);
        Ok(Self { current: Arc::new(current), next: Some(Arc::new(next)), retired: Vec::new() })
    }

    /// Reads the key from a file.
    pub(super) fn from_file(path: &Path) -> Result<Self, KeyError> {
        Ok(Self { current: Arc::new(SigningKey::from_file(path)?), next: None, retired: Vec::new() })
    }

    /// Replaces the current key by the next one, and generates another. The replaced key verifies until then.
    pub(super) fn rotated(&self, now: u64, until: u64) -> Result<Self, KeyError> {
        let generate = || SigningKey::generate().map(Arc::new);
        let current = self.next.clone().map_or_else(generate, Ok)?;
        Ok(Self { current, next: Some(generate()?), retired: self.retire(now, until) })
    }

    /// Replaces the current key by this one.
    pub(super) fn replaced(&self, by: SigningKey, now: u64, until: u64) -> Self {
        Self { current: Arc::new(by), next: None, retired: self.retire(now, until) }
    }

    fn retire(&self, now: u64, until: u64) -> Vec<(Arc<SigningKey>, u64)> {
        let valid = self.retired.iter().filter(|(_, until)| *until > now).cloned();
        valid.chain([(self.current.clone(), until)]).collect()
    }

    /// Returns the public keys as a JSON Web Key Set (RFC 7517).
    pub(super) fn public(&self, now: u64) -> Value {
        let retired = self.retired.iter().filter(|(_, until)| *until > now).map(|(key, _)| key);
        let keys = [Some(&self.current), self.next.as_ref()].into_iter().flatten().chain(retired);
        json!({ "keys": keys.map(|key| &key.public).collect::<Vec<_>>() })
    }
}
