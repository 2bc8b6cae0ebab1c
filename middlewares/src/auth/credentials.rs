//! User names and passwords as clients send them (RFC 7617).

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{AUTHORIZATION, HeaderMap};
use tidegate_core::BuildError;

/// User name and password.
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: Vec<u8>,
}

impl Credentials {
    /// Parses the `Authorization` header. In a name that is not UTF-8, U+FFFD replaces what is not.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        const BASE64: GeneralPurpose = GeneralPurpose::new(
            &ALPHABET,
            GeneralPurposeConfig::new()
                .with_decode_allow_trailing_bits(true)
                .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
        );
        let value = headers.get(AUTHORIZATION)?.as_bytes();
        let (scheme, encoded) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let decoded = BASE64.decode(encoded).ok()?;
        let colon = memchr::memchr(b':', &decoded)?;
        let user = String::from_utf8_lossy(&decoded[..colon]).into_owned();
        Some(Self { user, password: decoded[colon + 1..].to_vec() })
    }

    /// Authenticates the whole credentials. Each part is preceded by its length, so that no two can collide.
    pub(crate) fn mac(&self, key: &hmac::Key) -> [u8; 32] {
        let mut context = hmac::Context::with_key(key);
        for part in [self.user.as_bytes(), &self.password] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut mac = [0; 32];
        mac.copy_from_slice(context.sign().as_ref());
        mac
    }
}

/// Returns a new key for [`Credentials::mac`].
pub(crate) fn random_key() -> Result<hmac::Key, BuildError> {
    let mut key = [0; 32];
    rand::fill(&mut key).map_err(|_| BuildError::new("the system's random number generator failed"))?;
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_credentials_have_different_macs() {
        let key = random_key().unwrap();
        let mac = |user: &str, password: &str| {
            Credentials { user: user.to_owned(), password: password.as_bytes().to_vec() }.mac(&key)
        };
        assert_eq!(mac("a", "b"), mac("a", "b"));
        assert_ne!(mac("ab", "c"), mac("a", "bc"));
        assert_ne!(mac("", "a"), mac("a", ""));
        let other = random_key().unwrap();
        let credentials = Credentials { user: "a".into(), password: b"b".to_vec() };
        assert_ne!(credentials.mac(&key), credentials.mac(&other), "the key is secret");
    }
}
