//! Keys that verify tokens, each with the algorithms that it may be used with.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

/// Maximum number of keys in a set.
const MAX_KEYS: usize = 100;
/// Maximum number of keys that are tried for one token.
const MAX_TRIED: usize = 4;
/// Minimum length of an RSA modulus in bytes (RFC 7518 section 3.3).
const MIN_MODULUS: usize = 256;
/// Maximum length of an RSA modulus in bytes, which bounds the cost of a check.
const MAX_MODULUS: usize = 1024;

const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// Why keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the secret has {0} bytes: expected at least 32 (RFC 7518 section 3.2)")]
    ShortSecret(usize),
    #[error("not a JSON Web Key Set: {0}")]
    NotJson(String),
    #[error("{0} keys: the maximum is {MAX_KEYS}")]
    TooMany(usize),
    #[error("no usable key: expected public keys for RS, PS, ES256, ES384 or EdDSA")]
    NoKey,
    #[error("not PEM: expected a public key or a certificate")]
    NotPem,
    #[error("unsupported {0}: expected `PUBLIC KEY`, `RSA PUBLIC KEY` or `CERTIFICATE`")]
    PemLabel(String),
    #[error("unsupported key: expected RSA of 2048 to 8192 bits, P-256, P-384 or Ed25519")]
    Unsupported,
}

/// A key and what it may be used for.
struct Key {
    id: Option<String>,
    /// Algorithms that the key decides on: the token's must be one of them.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The result of looking for the key of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Valid,
    Invalid,
    /// A key has the right identifier, and another algorithm.
    OtherAlgorithm,
    Unknown,
}

/// A set of keys.
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// Whether `kid` selects a key; otherwise it is ignored.
    by_id: bool,
    /// SHA-256 of the source, to recognise a set that has not changed.
    digest: [u8; 32],
}

impl KeySet {
    /// Returns the set of one secret for HS256, and for HS384 and HS512 if it is as long as their hashes.
    pub(crate) fn secret(secret: &[u8]) -> Result<Self, KeyError> {
        let algorithms = hmac_algorithms(secret.len());
        if algorithms.is_empty() {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        let key = DecodingKey::from_secret(secret).map_err(|_| KeyError::ShortSecret(0))?;
        Ok(Self { keys: vec![Key { id: None, algorithms, key }], by_id: false, digest: sha256(secret) })
    }

    /// Reads public keys and certificates in PEM.
    pub(crate) fn pem(text: &[u8]) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        for block in Pem::iter_from_buffer(text) {
            let block = block.map_err(|_| KeyError::NotPem)?;
            keys.push(from_pem(&block)?);
        }
        match keys.len() {
            0 => Err(KeyError::NotPem),
            more if more > MAX_TRIED => Err(KeyError::TooMany(more)),
            _ => Ok(Self { keys, by_id: false, digest: sha256(text) }),
        }
    }

    /// Reads a JSON Web Key Set (RFC 7517). Keys that are for something else, or unsupported, are skipped. Secrets are
    /// accepted only from files: what anyone can fetch is not secret.
    pub(crate) fn jwks(json: &[u8], allow_secrets: bool) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(json).map_err(|error| KeyError::NotJson(error.to_string()))?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeyError::TooMany(set.keys.len()));
        }
        let usable = |value| serde_json::from_value(value).ok().and_then(|jwk| from_jwk(&jwk, allow_secrets));
        let keys: Vec<Key> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() {
            return Err(KeyError::NoKey);
        }
        Ok(Self { keys, by_id: true, digest: sha256(json) })
    }

    /// Reads the public key in the header of a proof (RFC 9449). The caller checks that it has no private parts.
    pub(crate) fn proof(jwk: &serde_json::Map<String, serde_json::Value>) -> Option<Self> {
        let jwk = serde_json::from_value(serde_json::Value::Object(jwk.clone())).ok()?;
        Some(Self { keys: vec![from_jwk(&jwk, false)?], by_id: false, digest: [0; 32] })
    }

    /// Returns true if both were read from the same text.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// Returns true if a key may be used with an algorithm.
    pub(crate) fn allows(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.algorithms.contains(&algorithm))
    }

    /// Verifies the signature of `message` with the keys that have this identifier and allow this algorithm.
    pub(crate) fn verify(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &str,
    ) -> Verdict {
        let named = || self.keys.iter().filter(|key| !self.by_id || key.id.as_deref() == id || id.is_none());
        let mut tried = 0;
        for key in named().filter(|key| key.algorithms.contains(&algorithm)).take(MAX_TRIED) {
            tried += 1;
            if jsonwebtoken::crypto::verify(signature, message, &key.key, algorithm) == Ok(true) {
                return Verdict::Valid;
            }
        }
        match () {
            () if tried > 0 => Verdict::Invalid,
            () if named().next().is_some() => Verdict::OtherAlgorithm,
            () => Verdict::Unknown,
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// A secret must be as long as the hash (RFC 7518 section 3.2).
fn hmac_algorithms(length: usize) -> Vec<Algorithm> {
    [(Algorithm::HS256, 32), (Algorithm::HS384, 48), (Algorithm::HS512, 64)]
        .into_iter()
        .filter(|(_, minimum)| length >= *minimum)
        .map(|(algorithm, _)| algorithm)
        .collect()
}

/// Returns the key if it verifies signatures with a supported algorithm.
fn from_jwk(jwk: &Jwk, allow_secrets: bool) -> Option<Key> {
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    if !common.key_operations.as_ref().is_none_or(verifies) {
        return None;
    }
    let decoded = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok();
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let modulus = decoded(&rsa.n)?;
            is_modulus(&modulus).then(|| RSA.to_vec())?
        }
        AlgorithmParameters::EllipticCurve(ec) => {
            let (algorithm, length) = match ec.curve {
                EllipticCurve::P256 => (Algorithm::ES256, 32),
                EllipticCurve::P384 => (Algorithm::ES384, 48),
                _ => return None,
            };
            let is_point = decoded(&ec.x)?.len() == length && decoded(&ec.y)?.len() == length;
            is_point.then(|| vec![algorithm])?
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (decoded(&pair.x)?.len() == 32).then(|| vec![Algorithm::EdDSA])?
        }
        AlgorithmParameters::OctetKey(secret) if allow_secrets => {
            hmac_algorithms(decoded(&secret.value)?.len())
        }
        _ => return None,
    };
    // `Ed25519` (RFC 9864) is the same as `EdDSA` with this curve, and unknown to the library.
    if let Some(named) = common.key_algorithm
        && algorithms != [Algorithm::EdDSA]
    {
        let named = Algorithm::try_from(named).ok()?;
        algorithms.retain(|algorithm| *algorithm == named);
    }
    if algorithms.is_empty() {
        return None;
    }
    Some(Key { id: common.key_id.clone(), algorithms, key: DecodingKey::from_jwk(jwk).ok()? })
}

fn is_modulus(bytes: &[u8]) -> bool {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    (MIN_MODULUS..=MAX_MODULUS).contains(&(bytes.len() - zeros))
}

fn from_pem(block: &Pem) -> Result<Key, KeyError> {
    match block.label.as_str() {
        "PUBLIC KEY" => {
            let (_, info) =
                SubjectPublicKeyInfo::from_der(&block.contents).map_err(|_| KeyError::Unsupported)?;
            from_info(&info)
        }
        "CERTIFICATE" => {
            let (_, certificate) =
                X509Certificate::from_der(&block.contents).map_err(|_| KeyError::Unsupported)?;
            from_info(certificate.public_key())
        }
        "RSA PUBLIC KEY" => {
            let key = x509_parser::public_key::RSAPublicKey::from_der(&block.contents);
            let (_, key) = key.map_err(|_| KeyError::Unsupported)?;
            rsa(key.modulus, &block.contents)
        }
        other => Err(KeyError::PemLabel(other.to_owned())),
    }
}

fn rsa(modulus: &[u8], der: &[u8]) -> Result<Key, KeyError> {
    if !is_modulus(modulus) {
        return Err(KeyError::Unsupported);
    }
    Ok(Key { id: None, algorithms: RSA.to_vec(), key: DecodingKey::from_rsa_der(der) })
}

/// Reads a public key (RFC 5280 section 4.1.2.7). The curve decides on the algorithm.
fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Key, KeyError> {
    use x509_parser::public_key::PublicKey;

    let bytes: &[u8] = &info.subject_public_key.data;
    let key = |algorithm, key| Ok(Key { id: None, algorithms: vec![algorithm], key });
    match info.parsed() {
        Ok(PublicKey::RSA(parsed)) => rsa(parsed.modulus, bytes),
        Ok(PublicKey::EC(_)) => {
            let curve = info.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
            match (curve.map(|curve| curve.to_id_string()).as_deref(), bytes.len()) {
                (Some("1.2.840.10045.3.1.7"), 65) => key(Algorithm::ES256, DecodingKey::from_ec_der(bytes)),
                (Some("1.3.132.0.34"), 97) => key(Algorithm::ES384, DecodingKey::from_ec_der(bytes)),
                _ => Err(KeyError::Unsupported),
            }
        }
        // RSA keys that are only for PSS (RFC 4055).
        _ if info.algorithm.algorithm.to_id_string() == "1.2.840.113549.1.1.10" => {
            let parsed = x509_parser::public_key::RSAPublicKey::from_der(bytes);
            let (_, parsed) = parsed.map_err(|_| KeyError::Unsupported)?;
            let key = rsa(parsed.modulus, bytes)?;
            let is_pss =
                |one: &Algorithm| matches!(one, Algorithm::PS256 | Algorithm::PS384 | Algorithm::PS512);
            Ok(Key { algorithms: key.algorithms.into_iter().filter(is_pss).collect(), ..key })
        }
        _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" && bytes.len() == 32 => {
            key(Algorithm::EdDSA, DecodingKey::from_ed_der(bytes))
        }
        _ => Err(KeyError::Unsupported),
    }
}
