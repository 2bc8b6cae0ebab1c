//! The format of API keys that Tidegate issues: `tg_<id>_<secret><checksum>`.
//!
//! The prefix lets scanners find keys in code and logs, the identifier selects the stored hash, and the checksum, a
//! CRC-32 of all that is in front of it, detects typing errors without a lookup. Stored is the SHA-256 of the secret,
//! without the checksum: the secret has 256 random bits, so a slow hash would add nothing.

use std::fmt;

use aws_lc_rs::{digest, rand};
use tidegate_core::values::Secret;

/// The prefix of keys by default.
pub const PREFIX: &str = "tg";
/// Length of the identifier, in characters.
pub const ID_LEN: usize = 12;
/// Length of the secret, in characters: 256 bits.
pub const SECRET_LEN: usize = 43;
/// Length of the checksum, in characters.
pub const CHECKSUM_LEN: usize = 6;
/// Maximum length of the prefix.
pub const MAX_PREFIX: usize = 32;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The SHA-256 of a secret.
pub type SecretHash = [u8; 32];

/// Why a text is not a key in this format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFormatError {
    /// The parts have other lengths or characters.
    #[error("expected `<prefix>_<id>_<secret><checksum>`")]
    Form,
    /// The parts have the right lengths, and the checksum is that of another key: a typing error.
    #[error("the checksum is wrong: the key has a typing error")]
    Checksum,
}

/// Why a key could not be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewKeyError {
    /// The prefix has other characters, or is too long.
    #[error("invalid prefix: expected 1 to {MAX_PREFIX} letters, digits and underscores")]
    Prefix,
    /// The system has no random numbers.
    #[error("the system's random number generator failed")]
    Random,
}

/// A key in this format, as a client sends it. `Debug` shows only the identifier.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ApiKey<'a> {
    id: &'a str,
    secret: &'a str,
}

impl<'a> ApiKey<'a> {
    /// Parses a key and verifies its checksum.
    pub fn parse(text: &'a str) -> Result<Self, KeyFormatError> {
        let (front, tail) = text.rsplit_once('_').ok_or(KeyFormatError::Form)?;
        let (prefix, id) = front.rsplit_once('_').ok_or(KeyFormatError::Form)?;
        let is_plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_prefix(prefix) || !is_id(id) || tail.len() != SECRET_LEN + CHECKSUM_LEN || !is_plain(tail) {
            return Err(KeyFormatError::Form);
        }
        // All of it is ASCII by now.
        let (signed, sum) = text.split_at_checked(text.len() - CHECKSUM_LEN).ok_or(KeyFormatError::Form)?;
        let (secret, _) = tail.split_at_checked(SECRET_LEN).ok_or(KeyFormatError::Form)?;
        if sum.as_bytes() != checksum(signed) {
            return Err(KeyFormatError::Checksum);
        }
        Ok(Self { id, secret })
    }

    /// Returns the identifier, which is not secret.
    pub fn id(&self) -> &'a str {
        self.id
    }

    /// Returns the secret.
    pub fn secret(&self) -> &'a str {
        self.secret
    }
}

impl fmt::Debug for ApiKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A key that was just created: the only moment at which its text is known.
#[derive(Debug)]
pub struct NewKey {
    /// The whole key, for the client.
    pub text: Secret,
    /// Its identifier.
    pub id: String,
    /// The hash of its secret, to be stored.
    pub hash: SecretHash,
}

impl NewKey {
    /// Creates a key from random numbers of the operating system.
    pub fn generate(prefix: &str) -> Result<Self, NewKeyError> {
        if !is_prefix(prefix) {
            return Err(NewKeyError::Prefix);
        }
        let (id, secret) = (random_text::<ID_LEN>()?, random_text::<SECRET_LEN>()?);
        let signed = format!("{prefix}_{id}_{secret}");
        let sum = checksum(&signed);
        let text = format!("{signed}{}", String::from_utf8_lossy(&sum));
        let hash = sha256(secret.as_bytes());
        Ok(Self { text: Secret::from(text.as_str()), id, hash })
    }
}

/// Returns true for a valid identifier.
pub fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Returns true for a valid prefix.
fn is_prefix(text: &str) -> bool {
    (1..=MAX_PREFIX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Returns the SHA-256.
pub fn sha256(text: &[u8]) -> SecretHash {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
    sum
}

/// Returns random characters, each of which is equally likely.
fn random_text<const LEN: usize>() -> Result<String, NewKeyError> {
    /// The largest multiple of the number of characters: bytes from here on are discarded.
    const LIMIT: u8 = 62 * 4;
    let (mut text, mut bytes) = (String::with_capacity(LEN), [0; 64]);
    while text.len() < LEN {
        rand::fill(&mut bytes).map_err(|_| NewKeyError::Random)?;
        let digits = bytes.iter().filter(|byte| **byte < LIMIT);
        let digits = digits.map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        text.extend(digits.take(LEN - text.len()));
    }
    Ok(text)
}

/// Returns the checksum of a text: its CRC-32 (ISO-HDLC, as in zip) to the base of 62.
fn checksum(text: &str) -> [u8; CHECKSUM_LEN] {
    let mut crc = u32::MAX;
    for byte in text.bytes() {
        crc = (crc >> 8) ^ CRC_TABLE[usize::from(crc as u8 ^ byte)];
    }
    let (mut rest, mut out) = (!crc, [b'0'; CHECKSUM_LEN]);
    for digit in out.iter_mut().rev() {
        *digit = ALPHABET[(rest % 62) as usize];
        rest /= 62;
    }
    out
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u32, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Returns a key with another identifier and a valid checksum.
    pub(in crate::api_key) fn with_id(key: &str, id: &str) -> String {
        let parsed = ApiKey::parse(key).unwrap();
        let signed = format!("{PREFIX}_{id}_{}", parsed.secret());
        let sum = checksum(&signed);
        format!("{signed}{}", std::str::from_utf8(&sum).unwrap())
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_checksum_is_that_of_zip() {
        // 0xCBF43926 is the check value of CRC-32/ISO-HDLC.
        let digits = checksum("123456789")
            .iter()
            .fold(0u64, |sum, digit| sum * 62 + ALPHABET.iter().position(|one| one == digit).unwrap() as u64);
        assert_eq!(digits, 0xCBF4_3926);
    }

    #[test]
    fn new_keys_are_valid_and_differ() {
        let mut seen = HashSet::new();
        for _ in 0..200 {
            let new = NewKey::generate(PREFIX).unwrap();
            let text = new.text.expose().to_owned();
            assert_eq!(text.len(), 2 + 1 + ID_LEN + 1 + SECRET_LEN + CHECKSUM_LEN);
            let key = ApiKey::parse(&text).unwrap();
            assert_eq!((key.id(), sha256(key.secret().as_bytes())), (&*new.id, new.hash));
            assert!(seen.insert(new.id.clone()) && seen.insert(text.clone()));
            let shown = format!("{new:?} {key:?}");
            assert!(!shown.contains(&text[16..]), "{shown}");
        }
        assert_eq!(NewKey::generate("").unwrap_err(), NewKeyError::Prefix);
        assert_eq!(NewKey::generate("a-b").unwrap_err(), NewKeyError::Prefix);
        assert_eq!(NewKey::generate(&"a".repeat(MAX_PREFIX + 1)).unwrap_err(), NewKeyError::Prefix);
    }

    #[test]
    fn every_character_occurs() {
        let text: String = (0..100).map(|_| random_text::<SECRET_LEN>().unwrap()).collect();
        let seen: HashSet<u8> = text.bytes().collect();
        assert_eq!(seen.len(), 62);
    }

    #[test]
    fn a_known_key_stays_valid() {
        // Checksum and hash by zlib and sha256sum.
        let text = "tg_0123456789ab_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg2gjZLT";
        let key = ApiKey::parse(text).unwrap();
        assert_eq!(key.id(), "0123456789ab");
        assert_eq!(
            hex(&sha256(key.secret().as_bytes())),
            "71d84b1859bad11abcb3dfd9353c8d1873aafd883ffaf6f2c9df7cbcfc3e1850"
        );
    }

    proptest! {
        #[test]
        fn a_changed_character_is_detected(prefix in "[a-z]{1,4}(_[a-z]{1,4})?", at: prop::sample::Index, to in "[0-9A-Za-z_]") {
            let new = NewKey::generate(&prefix).unwrap();
            let text = new.text.expose();
            prop_assert!(ApiKey::parse(text).is_ok());
            let mut changed: Vec<char> = text.chars().collect();
            let at = at.index(changed.len());
            let to = to.chars().next().unwrap();
            prop_assume!(changed[at] != to);
            changed[at] = to;
            let changed: String = changed.into_iter().collect();
            prop_assert!(ApiKey::parse(&changed).is_err());
        }

        #[test]
        fn swapped_neighbours_are_detected(at: prop::sample::Index) {
            let new = NewKey::generate(PREFIX).unwrap();
            let mut swapped = new.text.expose().as_bytes().to_vec();
            let at = at.index(swapped.len() - 1);
            prop_assume!(swapped[at] != swapped[at + 1]);
            swapped.swap(at, at + 1);
            prop_assert!(ApiKey::parse(std::str::from_utf8(&swapped).unwrap()).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}|[a-z_é]{0,5}_[0-9A-Za-zé]{11,13}_[0-9A-Za-zé]{48,50}") {
            if let Ok(key) = ApiKey::parse(&text) {
                prop_assert!(is_id(key.id()));
            }
        }

        #[test]
        fn a_valid_key_has_one_spelling(before in "[ \t\n]{0,2}", after in "[ \t\n=]{0,2}") {
            prop_assume!(!before.is_empty() || !after.is_empty());
            let new = NewKey::generate(PREFIX).unwrap();
            let text = format!("{before}{}{after}", new.text.expose());
            prop_assert_eq!(ApiKey::parse(&text), Err(KeyFormatError::Form));
        }
    }
}
