//! Signed requests to a certificate authority, and the keys of accounts that must have signed them.

use std::path::Path;

use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;

use super::backend::Seen;

/// The public key of an account.
pub struct PublicKey {
    /// The name of its algorithm in signatures.
    pub algorithm: &'static str,
    bytes: Vec<u8>,
}

impl PublicKey {
    /// Reads the key of the account of the resolver `le` in an `acme.json`.
    pub fn stored(path: &Path) -> Self {
        let whole: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let key = BASE64_STANDARD.decode(whole["le"]["Account"]["PrivateKey"].as_str().unwrap()).unwrap();
        if let Ok(pair) = RsaKeyPair::from_der(&key) {
            return Self { algorithm: "RS256", bytes: pair.public_key().as_ref().to_vec() };
        }
        for (algorithm, signing) in
            [("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING), ("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING)]
        {
            if let Ok(pair) = EcdsaKeyPair::from_pkcs8(signing, &key) {
                return Self { algorithm, bytes: pair.public_key().as_ref().to_vec() };
            }
        }
        panic!("the account's key is neither RSA nor ECDSA");
    }

    /// Fails unless this key has signed the request.
    pub fn check(&self, signed: &Signed) {
        assert_eq!(signed.header["alg"], self.algorithm, "{}", signed.header);
        let valid = match self.algorithm {
            "RS256" => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.bytes)
                .verify(signed.message.as_bytes(), &signed.signature),
            "ES256" => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.bytes)
                .verify(signed.message.as_bytes(), &signed.signature),
            _ => UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, &self.bytes)
                .verify(signed.message.as_bytes(), &signed.signature),
        };
        assert!(valid.is_ok(), "a foreign key has signed {}", signed.header);
    }
}

/// A signed request.
pub struct Signed {
    /// What is signed beside the payload.
    pub header: Value,
    /// The payload; null for a POST-as-GET.
    pub payload: Value,
    message: String,
    signature: Vec<u8>,
}

impl Signed {
    /// Reads the signed requests among those that an authority has received.
    pub fn all(seen: &[Seen]) -> Vec<Self> {
        seen.iter().filter(|seen| seen.method() == "POST").map(Self::read).collect()
    }

    fn read(seen: &Seen) -> Self {
        let whole: Value = serde_json::from_slice(&seen.body).expect("a signature in JSON");
        let text = |name: &str| whole[name].as_str().unwrap();
        let decoded = |name: &str| BASE64_URL_SAFE_NO_PAD.decode(text(name)).unwrap();
        Self {
            header: serde_json::from_slice(&decoded("protected")).unwrap(),
            payload: serde_json::from_slice(&decoded("payload")).unwrap_or_default(),
            message: format!("{}.{}", text("protected"), text("payload")),
            signature: decoded("signature"),
        }
    }

    /// Returns true if it registers a key: all others name an account.
    pub fn registers(&self) -> bool {
        self.header["kid"].is_null()
    }
}
