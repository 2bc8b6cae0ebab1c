//! Encryption of cookies and stored sessions.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, hkdf, hmac, rand};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

/// Minimum length of a secret in bytes.
pub(super) const MIN_SECRET: usize = 32;
/// Maximum number of secrets.
pub(super) const MAX_SECRETS: usize = 8;

/// Keys that are derived from secrets: the first one encrypts, all decrypt.
pub(super) struct KeyRing(Vec<Keys>);

struct Keys {
    seal: LessSafeKey,
    mac: hmac::Key,
}

/// The system's randomness failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no randomness")]
pub(super) struct NoRandomness;

impl KeyRing {
    /// Derives the keys of secrets. `None` if there is no secret.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let keys: Option<Vec<Keys>> = secrets.into_iter().map(derive).collect();
        keys.filter(|keys| !keys.is_empty()).map(Self)
    }

    /// Encrypts a text for `purpose`, as text for cookies.
    pub(super) fn seal(&self, purpose: &str, plain: &[u8]) -> Result<String, NoRandomness> {
        let keys = self.0.first().ok_or(NoRandomness)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| NoRandomness)?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from(purpose.as_bytes());
        keys.seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .map_err(|_| NoRandomness)?;
        let mut bytes = Vec::with_capacity(NONCE_LEN + sealed.len());
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Decrypts what one of the secrets has encrypted for `purpose`. `None` for anything else.
    pub(super) fn open(&self, purpose: &str, text: &str) -> Option<Vec<u8>> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        self.0.iter().find_map(|keys| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let mut sealed = sealed.to_vec();
            let plain = keys.seal.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut sealed).ok()?;
            Some(plain.to_vec())
        })
    }

    /// Returns a token that only this ring can have made for `text`.
    pub(super) fn mac(&self, text: &str) -> String {
        let tag = self.0.first().map(|keys| hmac::sign(&keys.mac, text.as_bytes()));
        tag.map(|tag| BASE64_URL_SAFE_NO_PAD.encode(tag)).unwrap_or_default()
    }

    /// Returns true if one of the secrets has made the token for `text`.
    pub(super) fn verifies(&self, text: &str, token: &str) -> bool {
        let Ok(token) = BASE64_URL_SAFE_NO_PAD.decode(token) else { return false };
        self.0.iter().any(|keys| hmac::verify(&keys.mac, text.as_bytes(), &token).is_ok())
    }
}

fn derive(secret: &[u8]) -> Option<Keys> {
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate oidc").extract(secret);
    let key: UnboundKey = extracted.expand(&[b"seal"], &AES_256_GCM).ok()?.into();
    let mac: hkdf::Okm<'_, hmac::Algorithm> = extracted.expand(&[b"mac"], hmac::HMAC_SHA256).ok()?;
    Some(Keys { seal: LessSafeKey::new(key), mac: mac.into() })
}

/// Returns a random text of `LENGTH` bytes in base64url.
pub(super) fn random<const LENGTH: usize>() -> Result<String, NoRandomness> {
    let mut bytes = [0; LENGTH];
    rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

/// Returns the SHA-256 of a text in base64url.
pub(super) fn sha256(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// Compares secrets in constant time.
pub(super) fn is_equal(one: &str, other: &str) -> bool {
    one.as_bytes().ct_eq(other.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OLD: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NEW: &[u8] = b"fedcba9876543210fedcba9876543210";

    fn ring(secrets: &[&[u8]]) -> KeyRing {
        KeyRing::new(secrets.iter().copied()).unwrap()
    }

    #[test]
    fn all_secrets_decrypt_and_the_first_encrypts() {
        let (old, both, new) = (ring(&[OLD]), ring(&[NEW, OLD]), ring(&[NEW]));
        let sealed = old.seal("a", b"text").unwrap();
        assert_eq!(both.open("a", &sealed).unwrap(), b"text");
        assert_eq!(new.open("a", &sealed), None);
        let sealed = both.seal("a", b"text").unwrap();
        assert_eq!((old.open("a", &sealed), new.open("a", &sealed).unwrap()), (None, b"text".to_vec()));
        assert!(both.verifies("x", &old.mac("x")) && !new.verifies("x", &old.mac("x")));
        assert!(!old.verifies("y", &old.mac("x")) && !old.verifies("x", ""));
    }

    #[test]
    fn changes_other_purposes_and_parts_are_refused() {
        let ring = ring(&[OLD]);
        let sealed = ring.seal("session", b"text").unwrap();
        assert_eq!(ring.open("state", &sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(ring.open("session", &sealed[..length]), None, "{length}");
            let mut changed = sealed.clone().into_bytes();
            changed[length] = if changed[length] == b'A' { b'B' } else { b'A' };
            assert_eq!(ring.open("session", std::str::from_utf8(&changed).unwrap()), None, "{length}");
        }
        assert_ne!(ring.seal("session", b"text").unwrap(), sealed);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-_A-Za-z0-9.=\u{e9}]{0,80}") {
            prop_assert_eq!(ring(&[OLD]).open("a", &text), None);
        }
    }
}
