//! Password hashes as `htpasswd` stores them: bcrypt, Apache's and Unix MD5, and SHA-1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

/// Maximum length of a password in bytes, so that clients cannot make the gateway hash megabytes.
const MAX_PASSWORD_LEN: usize = 4096;

/// A password hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    /// `$2a$`, `$2b$`, `$2x$` or `$2y$`.
    Bcrypt { text: String, cost: u32 },
    /// `$apr1$salt$...` or `$1$salt$...`.
    Md5Crypt { magic: String, salt: String, text: String },
    /// `{SHA}` and the base64 of the SHA-1.
    Sha1(String),
    /// Unsupported: matches no password.
    Unknown,
}

impl Hash {
    /// Recognises the kind of hash by its prefix.
    pub(crate) fn parse(text: &str) -> Self {
        if let Some(sum) = text.strip_prefix("{SHA}") {
            return Self::Sha1(sum.to_owned());
        }
        let mut parts = text.splitn(4, '$').skip(1);
        match (parts.next(), parts.next(), parts.next()) {
            (Some("2a" | "2b" | "2x" | "2y"), Some(cost), Some(_)) => {
                cost.parse().map_or(Self::Unknown, |cost| Self::Bcrypt { text: text.to_owned(), cost })
            }
            (Some(kind @ ("apr1" | "1")), Some(salt), Some(_)) => {
                Self::Md5Crypt { magic: format!("${kind}$"), salt: salt.to_owned(), text: text.to_owned() }
            }
            _ => Self::Unknown,
        }
    }

    /// Returns true when the password has this hash. Compares in constant time.
    pub(crate) fn matches(&self, password: &[u8]) -> bool {
        if password.len() > MAX_PASSWORD_LEN {
            return false;
        }
        match self {
            Self::Bcrypt { text, .. } => bcrypt::verify(password, text).unwrap_or(false),
            Self::Md5Crypt { magic, salt, text } => {
                md5_crypt(password, salt.as_bytes(), magic).as_bytes().ct_eq(text.as_bytes()).into()
            }
            Self::Sha1(sum) => {
                STANDARD.encode(Sha1::digest(password)).as_bytes().ct_eq(sum.as_bytes()).into()
            }
            Self::Unknown => false,
        }
    }

    /// Returns the cost of a check, roughly in microseconds.
    pub(crate) fn work(&self) -> u64 {
        match self {
            Self::Bcrypt { cost, .. } => 60u64.saturating_mul(1 << (*cost).min(40)),
            Self::Md5Crypt { .. } => 300,
            Self::Sha1(_) => 1,
            Self::Unknown => 0,
        }
    }
}

/// Computes Poul-Henning Kamp's MD5-based `crypt`, with either magic.
fn md5_crypt(password: &[u8], salt: &[u8], magic: &str) -> String {
    let mixin = md5(&[password, salt, password]);
    let mut first = Md5::new();
    first.update(password);
    first.update(magic);
    first.update(salt);
    for chunk in password.chunks(mixin.len()) {
        first.update(&mixin[..chunk.len()]);
    }
    let mut length = password.len();
    while length != 0 {
        // As in the original: a zero byte for each set bit, the first character for the others.
        first.update(if length & 1 == 1 { &[0][..] } else { &password[..1] });
        length >>= 1;
    }
    let mut sum: [u8; 16] = first.finalize().into();
    for round in 0..1000 {
        let odd = round % 2 == 1;
        let (start, end) = if odd { (password, &sum[..]) } else { (&sum[..], password) };
        let salt = if round % 3 == 0 { &[][..] } else { salt };
        let again = if round % 7 == 0 { &[][..] } else { password };
        sum = md5(&[start, salt, again, end]);
    }
    format!("{magic}{}${}", String::from_utf8_lossy(salt), crypt_base64(&sum))
}

fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Md5::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Encodes the digest with crypt's own alphabet and byte order.
fn crypt_base64(sum: &[u8; 16]) -> String {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const GROUPS: [[usize; 3]; 5] = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];
    let mut out = String::with_capacity(22);
    let mut push = |mut value: u32, digits: u32| {
        for _ in 0..digits {
            out.push(char::from(ALPHABET[(value & 63) as usize]));
            value >>= 6;
        }
    };
    for [a, b, c] in GROUPS {
        push(u32::from(sum[a]) << 16 | u32::from(sum[b]) << 8 | u32::from(sum[c]), 4);
    }
    push(u32::from(sum[11]), 2);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_hashes_match() {
        // From `openssl passwd`, `htpasswd` and Traefik's own tests.
        for (hash, password) in [
            ("$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/", "secret"),
            ("$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1", "secret"),
            ("$apr1$abcdefgh$L.PT565ESX4Tp2bqNs7Ie.", ""),
            ("$apr1$abcdefgh$mrVYMwgQK6eJ9c.ZSDhyP.", "a much longer password than sixteen bytes \u{e9}"),
            ("$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/", "test"),
            ("{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=", "test"),
        ] {
            assert!(Hash::parse(hash).matches(password.as_bytes()), "{hash}");
            assert!(!Hash::parse(hash).matches(b"wrong"), "{hash}");
        }
    }

    #[test]
    fn every_bcrypt_prefix_is_read() {
        let hash = bcrypt::hash("test", 4).unwrap();
        for prefix in ["$2a$", "$2b$", "$2x$", "$2y$"] {
            let hash = Hash::parse(&format!("{prefix}{}", &hash[4..]));
            assert!(matches!(hash, Hash::Bcrypt { cost: 4, .. }), "{prefix}");
            assert!(hash.matches(b"test") && !hash.matches(b"Test"), "{prefix}");
        }
    }

    #[test]
    fn an_unknown_or_broken_hash_matches_nothing() {
        for hash in ["", "plain", "$5$salt$x", "$2y$xx$", "$2y$05$short", "$apr1$", "{SHA}"] {
            for password in ["", "plain", "x"] {
                assert!(!Hash::parse(hash).matches(password.as_bytes()), "{hash} {password}");
            }
        }
        assert!(!Hash::parse("{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=").matches(&[b'a'; MAX_PASSWORD_LEN + 1]));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(hash in r"(\$|\{SHA\})?[a-z0-9$./é]{0,70}", password in ".{0,20}") {
            let _ = Hash::parse(&hash).matches(password.as_bytes());
        }
    }
}
