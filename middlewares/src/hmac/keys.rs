//! Keys that verify signatures, each with its algorithm.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm as Signing;
use tidegate_core::BuildError;
use tidegate_core::consumer::SignatureKey;
use tidegate_core::word::Vocabulary;

use super::presented::{Form, Presented};
use super::refusal::Refusal;
use crate::jwt::keys::{KeySet, Verdict};

/// Minimum length of a secret in bytes.
const MIN_SECRET: usize = 32;

/// How requests are signed (RFC 9421 section 3.3); `hmac-sha384` and `hmac-sha512` only exist in the older form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Algorithm {
    HmacSha256,
    HmacSha384,
    HmacSha512,
    RsaPssSha512,
    RsaV15Sha256,
    EcdsaP256Sha256,
    EcdsaP384Sha384,
    Ed25519,
}

impl Vocabulary for Algorithm {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("hmac-sha256", Self::HmacSha256),
        ("hmac-sha384", Self::HmacSha384),
        ("hmac-sha512", Self::HmacSha512),
        ("rsa-pss-sha512", Self::RsaPssSha512),
        ("rsa-v1_5-sha256", Self::RsaV15Sha256),
        ("ecdsa-p256-sha256", Self::EcdsaP256Sha256),
        ("ecdsa-p384-sha384", Self::EcdsaP384Sha384),
        ("ed25519", Self::Ed25519),
    ];
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(word, _)| *word == name).map(|(_, algorithm)| *algorithm)
    }

    /// Returns the hash of an HMAC.
    fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::HmacSha256 => Some(hmac::HMAC_SHA256),
            Self::HmacSha384 => Some(hmac::HMAC_SHA384),
            Self::HmacSha512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    /// Returns the algorithm of a public key.
    fn public(self) -> Option<Signing> {
        match self {
            Self::RsaPssSha512 => Some(Signing::PS512),
            Self::RsaV15Sha256 => Some(Signing::RS256),
            Self::EcdsaP256Sha256 => Some(Signing::ES256),
            Self::EcdsaP384Sha384 => Some(Signing::ES384),
            Self::Ed25519 => Some(Signing::EdDSA),
            _ => None,
        }
    }

    /// Returns true if it needs a secret.
    pub fn is_hmac(self) -> bool {
        self.hmac().is_some()
    }

    /// Returns its name in options.
    pub fn name(self) -> &'static str {
        Self::WORDS.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }
}

/// A key. Its algorithm does not depend on the request.
pub(super) enum Key {
    Secret { secret: Vec<u8>, algorithm: Option<Algorithm> },
    Public { set: KeySet, algorithm: Signing, name: &'static str },
}

impl Key {
    /// Returns a secret, which is long enough, for one algorithm; by default, for any HMAC.
    pub(super) fn secret(secret: Vec<u8>, algorithm: Option<Algorithm>) -> Option<Self> {
        let is_hmac = algorithm.is_none_or(|algorithm| algorithm.hmac().is_some());
        is_hmac.then_some(Self::Secret { secret, algorithm })
    }

    /// Returns a public key for one algorithm; by default, the key decides, and RSA is `rsa-pss-sha512`.
    pub(super) fn public(set: KeySet, algorithm: Option<Algorithm>) -> Option<Self> {
        let all = [
            Algorithm::Ed25519,
            Algorithm::EcdsaP256Sha256,
            Algorithm::EcdsaP384Sha384,
            Algorithm::RsaPssSha512,
            Algorithm::RsaV15Sha256,
        ];
        let fits = |one: &Algorithm| {
            algorithm.is_none_or(|wanted| wanted == *one) && one.public().is_some_and(|one| set.allows(one))
        };
        let own = all.into_iter().find(fits)?;
        Some(Self::Public { algorithm: own.public()?, name: own.name(), set })
    }

    /// Verifies a signature.
    pub(super) fn verify(&self, presented: &Presented) -> Result<(), Refusal> {
        let named = presented.algorithm.as_deref();
        let is_valid = match self {
            Self::Secret { secret, algorithm } => return verify(secret, *algorithm, presented),
            Self::Public { set, algorithm, name } => {
                if presented.form != Form::Message || named.is_some_and(|named| named != *name) {
                    return Err(Refusal::Algorithm);
                }
                let signature = BASE64_URL_SAFE_NO_PAD.encode(&presented.signature);
                set.verify(None, *algorithm, &presented.base, &signature) == Verdict::Valid
            }
        };
        if is_valid { Ok(()) } else { Err(Refusal::Signature) }
    }
}

/// Verifies a signature with a secret, for one algorithm or any HMAC.
fn verify(secret: &[u8], algorithm: Option<Algorithm>, presented: &Presented) -> Result<(), Refusal> {
    let used = match (presented.form, presented.algorithm.as_deref()) {
        (Form::Message, None | Some("hmac-sha256")) => Algorithm::HmacSha256,
        (Form::Cavage, Some(name)) => Algorithm::named(name).ok_or(Refusal::Algorithm)?,
        _ => return Err(Refusal::Algorithm),
    };
    let hash = used.hmac().filter(|_| algorithm.is_none_or(|own| own == used));
    let key = hmac::Key::new(hash.ok_or(Refusal::Algorithm)?, secret);
    let is_valid = hmac::verify(&key, &presented.base, &presented.signature).is_ok();
    if is_valid { Ok(()) } else { Err(Refusal::Signature) }
}

/// Verifies a signature by a key of a consumer.
pub(super) fn verify_stored(key: &SignatureKey, presented: &Presented) -> Result<(), Refusal> {
    verify(&key.secret, Algorithm::named(&key.algorithm), presented)
}

/// Returns a secret, which may be in base64.
///
/// # Errors
///
/// If it is not base64, or too short. The message contains nothing of it.
pub fn secret(text: &[u8], is_base64: bool) -> Result<Vec<u8>, BuildError> {
    let secret = match is_base64 {
        true => BASE64_STANDARD.decode(text.trim_ascii()).map_err(|_| BuildError::new("invalid base64"))?,
        false => text.to_vec(),
    };
    if secret.len() < MIN_SECRET {
        let length = secret.len();
        let message = format!("the secret has {length} bytes: expected at least {MIN_SECRET}");
        return Err(BuildError::new(message));
    }
    Ok(secret)
}
