//! Keys: those of accounts, which sign requests, and those of certificates.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::pki_types::PrivatePkcs8KeyDer;
use sha2::{Digest, Sha256};

use super::error::Error;
use crate::options::KeyType;

/// The key of an account. As in Traefik, new keys are RSA with 4096 bits, stored in PKCS #1.
pub(super) enum AccountKey {
    /// RSA, with its PKCS #1 form.
    Rsa(RsaKeyPair, Vec<u8>),
    /// ECDSA on P-256 or P-384, with the form that it was read from.
    Ec(EcdsaKeyPair, Curve, Vec<u8>),
}

/// A curve.
#[derive(Clone, Copy)]
pub(super) enum Curve {
    P256,
    P384,
}

impl AccountKey {
    /// Generates a key. Takes up to a few seconds of one core.
    pub(super) fn generate() -> Result<Self, Error> {
        let pkcs8 = rsa_pkcs8(KeySize::Rsa4096)?;
        let pkcs1 = pkcs1_of(&pkcs8).ok_or_else(|| Error::local("the new account key has an odd form"))?;
        Self::read(&pkcs1)
    }

    /// Reads a key in PKCS #1, PKCS #8 or SEC 1 (DER).
    pub(super) fn read(der: &[u8]) -> Result<Self, Error> {
        if let Ok(pair) = RsaKeyPair::from_der(der) {
            return Ok(Self::Rsa(pair, der.to_vec()));
        }
        if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
            let pkcs1 = pkcs1_of(der).unwrap_or_else(|| der.to_vec());
            return Ok(Self::Rsa(pair, pkcs1));
        }
        for curve in [Curve::P256, Curve::P384] {
            let algorithm = match curve {
                Curve::P256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
                Curve::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            };
            let pair = EcdsaKeyPair::from_pkcs8(algorithm, der)
                .or_else(|_| EcdsaKeyPair::from_private_key_der(algorithm, der));
            if let Ok(pair) = pair {
                return Ok(Self::Ec(pair, curve, der.to_vec()));
            }
        }
        Err(Error::local("the account's key is neither RSA nor ECDSA on P-256 or P-384"))
    }

    /// Returns the key as it is stored (DER).
    pub(super) fn der(&self) -> &[u8] {
        match self {
            Self::Rsa(_, der) | Self::Ec(_, _, der) => der,
        }
    }

    /// Returns the public key as a JSON Web Key, its members in the order of its thumbprint (RFC 7638).
    pub(super) fn jwk(&self) -> String {
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Rsa(pair, _) => {
                // RFC 8017 appendix A.1.1: modulus, exponent.
                let numbers = element(pair.public_key().as_ref()).and_then(|(_, inside, _)| {
                    let (_, modulus, rest) = element(inside)?;
                    Some((modulus, element(rest)?.1))
                });
                let (modulus, exponent) = numbers.unwrap_or_default();
                let (n, e) = (encode(without_zeros(modulus)), encode(without_zeros(exponent)));
                format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#)
            }
            Self::Ec(pair, curve, _) => {
                // Uncompressed: 4, x, y.
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let name = match curve {
                    Curve::P256 => "P-256",
                    Curve::P384 => "P-384",
                };
                format!(r#"{{"crv":"{name}","kty":"EC","x":"{}","y":"{}"}}"#, encode(x), encode(y))
            }
        }
    }

    /// Returns the thumbprint of the public key (RFC 7638).
    pub(super) fn thumbprint(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(self.jwk()))
    }

    /// Returns the name of the algorithm in a signature (RFC 7518 section 3.1).
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(..) => "RS256",
            Self::Ec(_, Curve::P256, _) => "ES256",
            Self::Ec(_, Curve::P384, _) => "ES384",
        }
    }

    /// Signs a message.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let random = SystemRandom::new();
        let failed = |_| Error::local("the account's key cannot sign");
        match self {
            Self::Rsa(pair, _) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            Self::Ec(pair, ..) => {
                pair.sign(&random, message).map(|signature| signature.as_ref().to_vec()).map_err(failed)
            }
        }
    }
}

/// The key of a new certificate.
pub(super) struct CertificateKey {
    /// Signs the certificate request.
    pub(super) pair: rcgen::KeyPair,
    /// The key in PEM, as it is stored.
    pub(super) pem: String,
}

impl CertificateKey {
    /// Generates a key of a type of Traefik's `keyType`. RSA takes up to a few seconds of one core.
    pub(super) fn generate(key_type: KeyType) -> Result<Self, Error> {
        let odd = |error: rcgen::Error| Error::local(format!("cannot make a key: {error}"));
        let rsa = |size| {
            let der = PrivatePkcs8KeyDer::from(rsa_pkcs8(size)?);
            rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_RSA_SHA256).map_err(odd)
        };
        let pair = match key_type {
            KeyType::Ec256 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(odd)?,
            KeyType::Ec384 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).map_err(odd)?,
            KeyType::Rsa2048 => rsa(KeySize::Rsa2048)?,
            KeyType::Rsa4096 => rsa(KeySize::Rsa4096)?,
            KeyType::Rsa8192 => rsa(KeySize::Rsa8192)?,
        };
        let pem = pair.serialize_pem();
        Ok(Self { pair, pem })
    }
}

fn rsa_pkcs8(size: KeySize) -> Result<Vec<u8>, Error> {
    let pair = RsaKeyPair::generate(size).map_err(|_| Error::local("cannot make an RSA key"))?;
    let der = pair.as_der().map_err(|_| Error::local("cannot write an RSA key"))?;
    Ok(der.as_ref().to_vec())
}

/// Returns the PKCS #1 key inside a PKCS #8 one (RFC 5958): version, algorithm, key.
fn pkcs1_of(pkcs8: &[u8]) -> Option<Vec<u8>> {
    let (0x30, inside, _) = element(pkcs8)? else { return None };
    let (0x02, _, rest) = element(inside)? else { return None };
    let (0x30, _, rest) = element(rest)? else { return None };
    let (0x04, key, _) = element(rest)? else { return None };
    Some(key.to_vec())
}

/// Strips the leading zeros of a DER integer.
fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

/// Returns the tag and content of the first DER element, and the rest.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_rsa_account_key_keeps_the_form_that_go_reads() {
        let pkcs8 = rsa_pkcs8(KeySize::Rsa2048).unwrap();
        let key = AccountKey::read(&pkcs8).unwrap();
        let again = AccountKey::read(key.der()).unwrap();
        assert_eq!(key.thumbprint(), again.thumbprint());
        // PKCS #1 begins with a sequence, the version, and the modulus at once.
        let (0x30, inside, _) = element(key.der()).unwrap() else { panic!("no sequence") };
        let (0x02, version, rest) = element(inside).unwrap() else { panic!("no version") };
        assert_eq!((version, rest[0]), (&[0u8][..], 0x02));
        assert_eq!(key.sign(b"x").unwrap().len(), 256);
        assert!(AccountKey::read(b"no key").is_err());
    }

    #[test]
    fn thumbprints_are_those_of_rfc_7638() {
        // The point of the example in RFC 7517 appendix A.2, checked against the hash of its canonical form.
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = AccountKey::read(&pair.serialize_der()).unwrap();
        assert!(key.jwk().starts_with(r#"{"crv":"P-256","kty":"EC","x":""#), "{}", key.jwk());
        assert_eq!((key.algorithm(), key.sign(b"x").unwrap().len()), ("ES256", 64));
    }

    #[test]
    fn certificate_keys_are_read_by_the_tls_library() {
        use rustls::pki_types::PrivateKeyDer;
        use rustls::pki_types::pem::PemObject;
        for kind in [KeyType::Ec256, KeyType::Ec384, KeyType::Rsa2048] {
            let key = CertificateKey::generate(kind).unwrap();
            let der = PrivateKeyDer::from_pem_slice(key.pem.as_bytes()).unwrap();
            assert!(rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).is_ok(), "{kind:?}");
        }
    }
}
