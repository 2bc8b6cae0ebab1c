//! Signed tokens, an issuer of them, and a gateway that asks for them.

use std::io::Write;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{Answer, Backend, Gateway, get_with};

/// The issuer of valid tokens.
pub const ISSUER: &str = "https://issuer.test";
/// A secret for HS512.
pub const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Keys of an issuer, and those of somebody else.
pub struct Keys {
    pub rsa: RsaKeyPair,
    pub p256: EcdsaKeyPair,
    pub p384: EcdsaKeyPair,
    pub ed: Ed25519KeyPair,
}

impl Keys {
    pub fn generate() -> Self {
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    pub fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa: &dyn RsaEncoding = match algorithm {
            "RS256" => &RSA_PKCS1_SHA256,
            "RS384" => &RSA_PKCS1_SHA384,
            "RS512" => &RSA_PKCS1_SHA512,
            "PS256" => &RSA_PSS_SHA256,
            "PS384" => &RSA_PSS_SHA384,
            "PS512" => &RSA_PSS_SHA512,
            "ES256" => return self.p256.sign(&random, message).unwrap().as_ref().to_vec(),
            "ES384" => return self.p384.sign(&random, message).unwrap().as_ref().to_vec(),
            "EdDSA" | "Ed25519" => return self.ed.sign(message).as_ref().to_vec(),
            other => {
                let with =
                    |algorithm| hmac::sign(&hmac::Key::new(algorithm, SECRET), message).as_ref().to_vec();
                return match other {
                    "HS256" => with(hmac::HMAC_SHA256),
                    "HS384" => with(hmac::HMAC_SHA384),
                    "HS512" => with(hmac::HMAC_SHA512),
                    _ => panic!("{other}"),
                };
            }
        };
        let mut signature = vec![0; self.rsa.public_modulus_len()];
        self.rsa.sign(rsa, &random, message, &mut signature).unwrap();
        signature
    }

    pub fn jwk(&self, kind: &str, id: &str) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let point = |key: &EcdsaKeyPair, curve: &str| {
            let bytes = &key.public_key().as_ref()[1..];
            let (x, y) = bytes.split_at(bytes.len() / 2);
            json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y), "kid": id})
        };
        match kind {
            "RS" => {
                let key = self.rsa.public_key();
                let n = text(key.modulus().big_endian_without_leading_zero());
                let e = text(key.exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "n": n, "e": e, "kid": id, "use": "sig"})
            }
            "P-256" => point(&self.p256, kind),
            "P-384" => point(&self.p384, kind),
            _ => json!({"kty": "OKP", "crv": "Ed25519", "x": text(self.ed.public_key().as_ref()), "kid": id}),
        }
    }

    /// The RSA key, which is called `rsa`, and the others.
    pub fn jwks(&self) -> String {
        let keys = [
            self.jwk("RS", "rsa"),
            self.jwk("P-256", "p256"),
            self.jwk("P-384", "p384"),
            self.jwk("Ed25519", "ed"),
            json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode(SECRET), "kid": "oct"}),
            json!({"kty": "future", "kid": "unknown"}),
            json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "tiny"}),
        ];
        json!({ "keys": keys }).to_string()
    }

    pub fn rsa_pem(&self) -> String {
        pem(AsDer::<PublicKeyX509Der<'_>>::as_der(self.rsa.public_key()).unwrap().as_ref())
    }
}

/// A public key in PEM.
pub fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// The issuer's keys.
pub static OWN: LazyLock<Keys> = LazyLock::new(Keys::generate);
/// Somebody else's keys.
pub static FOREIGN: LazyLock<Keys> = LazyLock::new(Keys::generate);

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of a valid token, with changes; null removes one.
pub fn claims(changes: &Value) -> Value {
    let mut claims =
        json!({"iss": ISSUER, "aud": "api", "sub": "ann", "exp": now() + 300, "groups": ["ops"]});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

/// Header and claims of a token.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |part: &Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
    format!("{}.{}", part(header), part(claims))
}

/// A token that is signed with this algorithm, whatever its header says.
pub fn signed_by(keys: &Keys, algorithm: &str, header: &Value, claims: &Value) -> String {
    let message = unsigned(header, claims);
    let signature = keys.sign(algorithm, message.as_bytes());
    format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

/// A token of the issuer for RS256 with these changes of its claims.
pub fn token(changes: &Value) -> String {
    signed_by(&OWN, "RS256", &json!({"alg": "RS256", "kid": "rsa"}), &claims(changes))
}

/// A stand-in for the issuer's server, whose keys change.
pub struct Issuer {
    pub server: Backend,
    keys: Arc<Mutex<String>>,
}

impl Issuer {
    pub fn start() -> Self {
        let keys = Arc::new(Mutex::new(OWN.jwks()));
        let body = keys.clone();
        let server = Backend::with(move |_, stream| {
            let body = body.lock().unwrap().clone();
            let status = if body.is_empty() { "503 Service Unavailable" } else { "200 OK" };
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).is_ok()
        });
        Self { server, keys }
    }

    /// Replaces the keys; none means that the server fails.
    pub fn publish(&self, keys: &str) {
        keys.clone_into(&mut self.keys.lock().unwrap());
    }
}

/// Routes with a `jwt` with these options.
pub fn routes(options: &str, url: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}}
  middlewares:
    m: {{jwt: {{{options}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
    )
}

/// A gateway with the middleware in front of a service.
pub struct Protected {
    pub gateway: Gateway,
    pub service: Backend,
}

impl Protected {
    pub fn new(options: &str) -> Self {
        let service = Backend::echo("a");
        let gateway = Gateway::with(&[], &routes(options, &service.url()));
        assert_eq!(gateway.problems(), Vec::<String>::new());
        Self { gateway, service }
    }

    /// Keys of a JWKS server, and an audience.
    pub fn remote(issuer: &Issuer, more: &str) -> Self {
        let url = issuer.server.url();
        Self::new(&format!("jwksUrl: '{url}/keys', issuer: '{ISSUER}', audience: [api]{more}"))
    }

    pub fn send(&self, token: &str) -> Answer {
        get_with(self.gateway.web(), "h", "/", &format!("Authorization: Bearer {token}\r\n"))
    }

    /// Checks that a token is refused, with what the client learns, and that the service saw nothing.
    #[track_caller]
    pub fn refuses(&self, token: &str, why: &str) {
        let before = self.service.seen().len();
        let answer = self.send(token);
        let challenge = answer.header("www-authenticate").unwrap_or_default().to_owned();
        assert_eq!(answer.status, 401, "{challenge}");
        assert_eq!(
            challenge,
            format!("Bearer realm=\"traefik\", error=\"invalid_token\", error_description=\"{why}\"")
        );
        assert_eq!(self.service.seen().len(), before);
    }

    #[track_caller]
    pub fn accepts(&self, token: &str) {
        let answer = self.send(token);
        assert_eq!(answer.status, 200, "{:?}", answer.header("www-authenticate"));
    }
}

pub const UNKNOWN: &str = "the key of the token is unknown";
pub const ALGORITHM: &str = "the algorithm of the token is not allowed";
pub const SIGNATURE: &str = "the signature of the token is invalid";

/// Why the last request was refused.
pub fn reason(gateway: &Gateway) -> String {
    let text = gateway.api("/api/requests?per_page=1&filter=entryPoint%20!%3D%20%22traefik%22");
    let records: Value = serde_json::from_str(&text).unwrap();
    records[0]["reason"].as_str().unwrap_or_default().to_owned()
}
