//! A proof: a JSON Web Token that the key of its header has signed (RFC 9449 section 4.2).

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;
use tidegate_core::BuildError;

use super::target::Target;
use crate::auth::bearer::Code;
use crate::auth::remembered::Mark;
use crate::jwt::keys::{KeySet, Verdict};
use crate::jwt::token;

/// Maximum length of a proof in bytes. It has room for an RSA key of 8192 bits and its signature.
const MAX_PROOF: usize = 8 * 1024;
/// Maximum length of `jti` in bytes.
const MAX_ID: usize = 512;
/// Members of keys that are private or secret (RFC 7518 section 6).
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
/// Algorithms that proofs may have.
const ALGORITHMS: [(&str, Algorithm); 9] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
];

/// A SHA-256 hash: of a public key (RFC 7638), or of a token.
pub(crate) type Thumbprint = [u8; 32];

/// All errors in one table: the error code, and its description, which is sent to the client.
macro_rules! errors {
    ($($(#[doc = $doc:literal])+ $error:ident = $code:ident, $description:literal;)+) => {
        /// Why a token with a proof, or without one, is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum ProofError {
            $($(#[doc = $doc])+ $error,)+
        }

        impl ProofError {
            /// Returns the code for the client.
            pub(crate) fn code(self) -> Code {
                match self {
                    $(Self::$error => Code::$code,)+
                }
            }

            /// Returns the description for the client and for predictions.
            pub(crate) fn description(self) -> &'static str {
                match self {
                    $(Self::$error => $description,)+
                }
            }
        }
    };
}

errors! {
    /// The token has no `cnf.jkt`, and was presented with the scheme `DPoP`, or must have it.
    NotBound = InvalidToken, "the token is not bound to a key";
    /// The token has `cnf.jkt`, and was presented as a bearer token.
    Downgrade = InvalidToken, "the token is bound to a key: expected the scheme DPoP";
    /// The token is bound to another key.
    OtherKey = InvalidToken, "the token is bound to another key than that of the proof";
    /// There is no header `DPoP`.
    Missing = InvalidProof, "a proof is required";
    /// There are several headers `DPoP`.
    Several = InvalidProof, "the request has more than one proof";
    /// It is not a signed JWT with the required header and claims.
    Malformed = InvalidProof, "the proof is malformed";
    /// `typ` is not `dpop+jwt`.
    Type = InvalidProof, "the type of the proof is not dpop+jwt";
    /// The algorithm is symmetric, unknown, not allowed, or not that of the key.
    Algorithm = InvalidProof, "the algorithm of the proof is not allowed";
    /// `jwk` has private parts.
    PrivateKey = InvalidProof, "the key of the proof is not public";
    /// `jwk` is missing or not supported.
    Key = InvalidProof, "the key of the proof is not supported";
    /// The key has not signed it.
    Signature = InvalidProof, "the signature of the proof is invalid";
    /// `htm` is another method.
    Method = InvalidProof, "the proof is for another method";
    /// `htu` is another URL.
    Target = InvalidProof, "the proof is for another URL";
    /// `iat` is too far in the past.
    Old = InvalidProof, "the proof is too old";
    /// `iat` is too far in the future.
    Early = InvalidProof, "the proof is not valid yet";
    /// `ath` is missing or the hash of another token.
    TokenHash = InvalidProof, "the proof is not for this token";
    /// It has been used.
    Replayed = InvalidProof, "the proof has been used";
    /// `nonce` is missing, too old, or not one of ours.
    Nonce = UseNonce, "the proof needs the nonce of DPoP-Nonce";
    /// It is unknown whether it has been used.
    Unavailable = Unavailable, "proofs cannot be checked";
}

/// The algorithms that proofs may have.
pub(super) struct Algorithms {
    allowed: Vec<Algorithm>,
    /// Their names for challenges, separated by spaces.
    names: String,
}

impl Algorithms {
    /// Reads the option; empty means all.
    pub(super) fn new(names: &[String]) -> Result<Self, BuildError> {
        let mut chosen = Vec::new();
        for name in names {
            let known = ALGORITHMS.iter().find(|(known, _)| known == name);
            chosen.push(known.ok_or_else(|| {
                let all = ALGORITHMS.map(|(name, _)| name).join(", ");
                BuildError::new(format!("algorithms: `{name}` is not supported: expected {all}"))
            })?);
        }
        if chosen.is_empty() {
            chosen.extend(&ALGORITHMS);
        }
        let names: Vec<&str> = chosen.iter().map(|(name, _)| *name).collect();
        Ok(Self { names: names.join(" "), allowed: chosen.iter().map(|(_, algorithm)| *algorithm).collect() })
    }

    pub(super) fn names(&self) -> &str {
        &self.names
    }
}

/// A proof whose signature is not verified yet.
pub(super) struct Parsed<'a> {
    message: &'a [u8],
    signature: &'a str,
    algorithm: Algorithm,
    key: Map<String, Value>,
    claims: Map<String, Value>,
}

impl<'a> Parsed<'a> {
    pub(super) fn new(text: &'a str, algorithms: &Algorithms) -> Result<Self, ProofError> {
        if text.len() > MAX_PROOF {
            return Err(ProofError::Malformed);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(ProofError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(ProofError::Malformed)?;
        if payload.contains('.') {
            return Err(ProofError::Malformed);
        }
        let (mut header, claims) = (decoded(header)?, decoded(payload)?);
        if header.contains_key("crit") {
            return Err(ProofError::Malformed);
        }
        let typ = header.get("typ").and_then(Value::as_str).unwrap_or_default();
        if !typ.eq_ignore_ascii_case("dpop+jwt") {
            return Err(ProofError::Type);
        }
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(token::algorithm);
        let algorithm = algorithm.filter(|algorithm| algorithms.allowed.contains(algorithm));
        let algorithm = algorithm.ok_or(ProofError::Algorithm)?;
        let Some(Value::Object(key)) = header.remove("jwk") else { return Err(ProofError::Key) };
        if PRIVATE.iter().any(|name| key.contains_key(*name)) {
            return Err(ProofError::PrivateKey);
        }
        let proof = Self { message: message.as_bytes(), signature, algorithm, key, claims };
        let is_identified = proof.text("jti").is_some_and(|id| !id.is_empty() && id.len() <= MAX_ID);
        if is_identified { Ok(proof) } else { Err(ProofError::Malformed) }
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    pub(super) fn nonce(&self) -> Option<&str> {
        self.text("nonce")
    }

    /// Checks that the proof is for this request.
    pub(super) fn check_request(&self, method: &str, target: &Target) -> Result<(), ProofError> {
        if self.text("htm").ok_or(ProofError::Malformed)? != method {
            return Err(ProofError::Method);
        }
        let own = Target::parse(self.text("htu").ok_or(ProofError::Malformed)?);
        if own.as_ref() == Some(target) { Ok(()) } else { Err(ProofError::Target) }
    }

    /// Checks when the proof was made. All times are in seconds.
    pub(super) fn check_time(&self, now: f64, max_age: f64, leeway: f64) -> Result<(), ProofError> {
        let made = self.claims.get("iat").and_then(Value::as_f64).ok_or(ProofError::Malformed)?;
        match made - now {
            ahead if ahead > leeway => Err(ProofError::Early),
            ahead if -ahead > max_age + leeway => Err(ProofError::Old),
            _ => Ok(()),
        }
    }

    /// Checks that the proof is for this token.
    pub(super) fn check_token(&self, token: &[u8]) -> Result<(), ProofError> {
        let hash = self.text("ath").and_then(|hash| BASE64_URL_SAFE_NO_PAD.decode(hash).ok());
        match hash {
            Some(hash) if bool::from(sha256(token).as_slice().ct_eq(&hash)) => Ok(()),
            _ => Err(ProofError::TokenHash),
        }
    }

    /// Checks that the key with this thumbprint has signed the proof.
    pub(super) fn verify(&self, expected: &Thumbprint) -> Result<(), ProofError> {
        let keys = KeySet::proof(&self.key).ok_or(ProofError::Key)?;
        let own = thumbprint(&self.key).ok_or(ProofError::Key)?;
        if !bool::from(own.ct_eq(expected)) {
            return Err(ProofError::OtherKey);
        }
        match keys.verify(None, self.algorithm, self.message, self.signature) {
            Verdict::Valid => Ok(()),
            Verdict::OtherAlgorithm => Err(ProofError::Algorithm),
            Verdict::Invalid | Verdict::Unknown => Err(ProofError::Signature),
        }
    }

    /// Returns what identifies the proof among those of its key.
    pub(super) fn mark(&self, key: &Thumbprint) -> Mark {
        let id = self.text("jti").unwrap_or_default();
        let hash = sha256(&[key.as_slice(), id.as_bytes()].concat());
        let mut mark = [0; 16];
        mark.copy_from_slice(hash.get(..16).unwrap_or(&[0; 16]));
        mark
    }
}

fn decoded(part: &str) -> Result<Map<String, Value>, ProofError> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| ProofError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| ProofError::Malformed)
}

/// Returns the hash of the required members of a key, in the order of their names (RFC 7638 section 3.2).
fn thumbprint(key: &Map<String, Value>) -> Option<Thumbprint> {
    let names: &[&str] = match key.get("kty")?.as_str()? {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    let mut text = String::from("{");
    for name in names {
        let value = key.get(*name)?.as_str()?;
        // Names of curves, and base64url.
        if !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            return None;
        }
        let separator = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{separator}\"{name}\":\"{value}\""));
    }
    text.push('}');
    Some(sha256(text.as_bytes()))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_rfc_7638() {
        let key = r#"{"kty": "RSA", "alg": "RS256", "kid": "2011-04-29", "e": "AQAB",
            "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}"#;
        let key = serde_json::from_str(key).unwrap();
        assert_eq!(
            BASE64_URL_SAFE_NO_PAD.encode(thumbprint(&key).unwrap()),
            "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
        );
    }

    #[test]
    fn the_proof_of_the_rfc_is_valid() {
        // RFC 9449 section 7.1, figure 12.
        let text = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
        let token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
        let proof = Parsed::new(text, &Algorithms::new(&[]).unwrap()).unwrap();
        let target = Target::parse("https://resource.example.org/protectedresource").unwrap();
        assert_eq!(proof.check_request("GET", &target), Ok(()));
        assert_eq!(proof.check_token(token.as_bytes()), Ok(()));
        assert_eq!(proof.check_time(1_562_262_620.0, 60.0, 30.0), Ok(()));
        let key = BASE64_URL_SAFE_NO_PAD.decode("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I").unwrap();
        assert_eq!(proof.verify(&key.try_into().unwrap()), Ok(()));
    }

    #[test]
    fn urls_are_compared_after_normalisation() {
        let own = Target::parse("https://api.test/a/b%2Fc").unwrap();
        for same in [
            "HTTPS://API.test:443/a/b%2fc",
            "https://api.test/x/../a/b%2Fc",
            "https://api.test/%61/b%2Fc?q=1#f",
            "https://api.test/./a/b%2Fc",
        ] {
            assert_eq!(Target::parse(same), Some(own.clone()), "{same}");
        }
        for other in [
            "http://api.test/a/b%2Fc",
            "https://api.test:8443/a/b%2Fc",
            "https://api.test/a/b/c",
            "https://api.test/a/b%2Fc/",
            "https://api.test/A/b%2Fc",
            "https://user@api.test/a/b%2Fc",
            "https://api.test.evil/a/b%2Fc",
            "ftp://api.test/a/b%2Fc",
            "/a/b%2Fc",
            "",
        ] {
            assert_ne!(Target::parse(other), Some(own.clone()), "{other}");
        }
    }
}
