//! The form of a token (RFC 7515, RFC 7519) and its registered claims.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::refusal::Refusal;

/// The claims of a token.
pub(crate) type Claims = Map<String, Value>;

/// Types that a token may have unless others are configured (RFC 7519 section 5.1, RFC 9068). Others are for something
/// else, such as logging out.
const DEFAULT_TYPES: [&str; 2] = ["JWT", "at+jwt"];

/// A token whose signature is not verified yet.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    /// What is signed.
    pub(crate) message: &'a [u8],
    /// Its signature in base64url.
    pub(crate) signature: &'a str,
    /// The algorithm that the token names, which the key must allow.
    pub(crate) algorithm: Algorithm,
    /// Identifier of the key.
    pub(crate) key_id: Option<String>,
    /// Its type.
    pub(crate) typ: Option<String>,
    /// The claims.
    pub(crate) claims: Claims,
}

/// Parameters of the header that have a meaning here. Keys in the header (`jwk`, `jku`, `x5u`, `x5c`) are not read: a
/// token cannot vouch for itself.
#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: IsPresent,
    #[serde(default)]
    enc: IsPresent,
}

/// Whether a parameter is present, with any value.
#[derive(Default)]
struct IsPresent(bool);

impl<'de> Deserialize<'de> for IsPresent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

impl<'a> Token<'a> {
    /// Reads a token in compact form.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Refusal> {
        let (token, payload) = Self::envelope(text)?;
        Ok(Self { claims: decode(payload)?, ..token })
    }

    /// Reads a token in compact form except for its claims, which are returned in base64url.
    pub(super) fn envelope(text: &'a str) -> Result<(Self, &'a str), Refusal> {
        let dots = text.bytes().filter(|byte| *byte == b'.').count();
        if dots == 4 {
            return Err(Refusal::Encrypted);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(Refusal::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Refusal::Malformed)?;
        if dots != 2 {
            return Err(Refusal::Malformed);
        }
        let header: Header = decode(header)?;
        if header.enc.0 {
            return Err(Refusal::Encrypted);
        }
        if header.crit.0 {
            return Err(Refusal::Critical);
        }
        let token = Self {
            message: message.as_bytes(),
            signature,
            algorithm: algorithm(&header.alg).ok_or(Refusal::Algorithm)?,
            key_id: header.kid,
            typ: header.typ,
            claims: Claims::new(),
        };
        Ok((token, payload))
    }

    /// Returns the issuer that the token names.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, Refusal> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Refusal::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| Refusal::Malformed)
}

/// Returns the algorithm with exactly this name; `none` is not one of them.
pub(crate) fn algorithm(name: &str) -> Option<Algorithm> {
    match name {
        // RFC 9864.
        "Ed25519" => Some(Algorithm::EdDSA),
        name => name.parse().ok(),
    }
}

/// What the registered claims must say.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Accepted audiences; any if empty.
    pub(crate) audiences: Vec<String>,
    /// Accepted types; [`DEFAULT_TYPES`] if empty.
    pub(crate) types: Vec<String>,
    /// Allowed difference between clocks in seconds.
    pub(crate) leeway: f64,
    /// Whether `exp` must be present.
    pub(crate) requires_expiry: bool,
}

impl Rules {
    /// Checks type, times and audience of a token at `now`, in seconds since 1970. Returns when it expires.
    pub(crate) fn check(&self, token: &Token<'_>, now: f64) -> Result<Option<f64>, Refusal> {
        if !token.typ.as_deref().is_none_or(|typ| self.accepts_type(typ))
            || token.typ.is_none() && !self.types.is_empty()
        {
            return Err(Refusal::Type);
        }
        let expiry = date(&token.claims, "exp")?.map(|expiry| expiry + self.leeway);
        match expiry {
            Some(expiry) if now >= expiry => return Err(Refusal::Expired),
            None if self.requires_expiry => return Err(Refusal::NoExpiry),
            _ => {}
        }
        for name in ["nbf", "iat"] {
            if date(&token.claims, name)?.is_some_and(|date| date > now + self.leeway) {
                return Err(Refusal::NotYetValid);
            }
        }
        if !self.audiences.is_empty() && !self.accepts_audience(token.claims.get("aud")) {
            return Err(Refusal::Audience);
        }
        Ok(expiry)
    }

    /// Media types are compared without case, and without `application/` (RFC 7515 section 4.1.9).
    fn accepts_type(&self, typ: &str) -> bool {
        let plain = |typ: &str| {
            let lower = typ.to_ascii_lowercase();
            lower.strip_prefix("application/").map_or(lower.clone(), str::to_owned)
        };
        let typ = plain(typ);
        match self.types.is_empty() {
            true => DEFAULT_TYPES.iter().any(|known| plain(known) == typ),
            false => self.types.iter().any(|known| plain(known) == typ),
        }
    }

    fn accepts_audience(&self, audience: Option<&Value>) -> bool {
        let is_accepted =
            |value: &Value| value.as_str().is_some_and(|text| self.audiences.iter().any(|own| own == text));
        match audience {
            Some(Value::Array(audiences)) => audiences.iter().any(is_accepted),
            Some(audience) => is_accepted(audience),
            None => false,
        }
    }
}

/// Returns a date in seconds since 1970. Anything but a number is malformed.
fn date(claims: &Claims, name: &str) -> Result<Option<f64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Refusal::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!("{}.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    fn refused(header: &str) -> Refusal {
        Token::parse(&token(header, "{}")).unwrap_err()
    }

    #[test]
    fn headers_are_read_strictly() {
        for name in ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", "ES512", "RSA-OAEP"] {
            assert_eq!(refused(&format!(r#"{{"alg": "{name}"}}"#)), Refusal::Algorithm, "{name}");
        }
        for header in [r"{}", r#"{"alg": null}"#, r#"{"alg": ["RS256"]}"#, r#"{"alg": 1}"#, "[]", ""] {
            assert_eq!(refused(header), Refusal::Malformed, "{header}");
        }
        assert_eq!(refused(r#"{"alg": "RS256", "alg": "none"}"#), Refusal::Malformed);
        for value in ["[]", r#"["b64"]"#, "null", r#"["exp"]"#] {
            assert_eq!(refused(&format!(r#"{{"alg": "RS256", "crit": {value}}}"#)), Refusal::Critical);
        }
        assert_eq!(refused(r#"{"alg": "dir", "enc": "A128GCM"}"#), Refusal::Encrypted);
        assert_eq!(Token::parse("a.b.c.d.e").unwrap_err(), Refusal::Encrypted);
        let text =
            token(r#"{"alg": "Ed25519", "kid": "a", "jwk": 7, "jku": "http://evil"}"#, r#"{"iss": "i"}"#);
        let parsed = Token::parse(&text).unwrap();
        assert_eq!((parsed.algorithm, parsed.key_id.as_deref()), (Algorithm::EdDSA, Some("a")));
        assert_eq!(parsed.issuer(), Some("i"));
    }

    fn rules() -> Rules {
        Rules { audiences: vec!["a".into()], types: Vec::new(), leeway: 30.0, requires_expiry: true }
    }

    fn checked(rules: &Rules, header: &str, claims: &str) -> Result<Option<f64>, Refusal> {
        let text = token(header, claims);
        rules.check(&Token::parse(&text).unwrap(), 1000.0)
    }

    #[test]
    fn registered_claims_are_checked() {
        let rules = rules();
        for (claims, expected) in [
            (r#"{"exp": 1001, "aud": "a"}"#, Ok(Some(1031.0))),
            (r#"{"exp": 971, "aud": ["b", "a"]}"#, Ok(Some(1001.0))),
            (r#"{"exp": 970, "aud": "a"}"#, Err(Refusal::Expired)),
            (r#"{"exp": -1e300, "aud": "a"}"#, Err(Refusal::Expired)),
            (r#"{"aud": "a"}"#, Err(Refusal::NoExpiry)),
            (r#"{"exp": "2000", "aud": "a"}"#, Err(Refusal::Malformed)),
            (r#"{"exp": null, "aud": "a"}"#, Err(Refusal::Malformed)),
            (r#"{"exp": 2000, "nbf": 1031, "aud": "a"}"#, Err(Refusal::NotYetValid)),
            (r#"{"exp": 2000, "nbf": 1030, "iat": 1030, "aud": "a"}"#, Ok(Some(2030.0))),
            (r#"{"exp": 2000, "iat": 1e9, "aud": "a"}"#, Err(Refusal::NotYetValid)),
            (r#"{"exp": 2000, "nbf": [], "aud": "a"}"#, Err(Refusal::Malformed)),
            (r#"{"exp": 2000}"#, Err(Refusal::Audience)),
            (r#"{"exp": 2000, "aud": []}"#, Err(Refusal::Audience)),
            (r#"{"exp": 2000, "aud": {"a": 1}}"#, Err(Refusal::Audience)),
            (r#"{"exp": 2000, "aud": "A"}"#, Err(Refusal::Audience)),
        ] {
            assert_eq!(checked(&rules, r#"{"alg": "RS256"}"#, claims), expected, "{claims}");
        }
    }

    #[test]
    fn types_are_checked() {
        let (rules, claims) = (rules(), r#"{"exp": 2000, "aud": "a"}"#);
        let strict = Rules { types: vec!["at+jwt".into()], ..self::rules() };
        for (typ, by_default, strictly) in [
            (r#", "typ": "JWT""#, true, false),
            (r#", "typ": "application/AT+JWT""#, true, true),
            (r#", "typ": "logout+jwt""#, false, false),
            ("", true, false),
        ] {
            let header = format!(r#"{{"alg": "RS256"{typ}}}"#);
            assert_eq!(checked(&rules, &header, claims).is_ok(), by_default, "{typ}");
            assert_eq!(checked(&strict, &header, claims).is_ok(), strictly, "{typ}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-_.A-Za-z0-9=\u{e9}{}\"]{0,80}", json in "[\\[\\]{}:,\"a-z0-9 ]{0,40}") {
            let _ = Token::parse(&text);
            let _ = Token::parse(&token(&json, &json));
        }

        #[test]
        fn tokens_are_read_as_they_were_written(kid in "\\PC{0,20}", claim in "\\PC{0,20}", exp in 0_u32..) {
            let header = serde_json::json!({"alg": "ES256", "kid": kid}).to_string();
            let claims = serde_json::json!({"exp": exp, "x": claim, "aud": "a"});
            let text = token(&header, &claims.to_string());
            let parsed = Token::parse(&text).unwrap();
            prop_assert_eq!(parsed.key_id.as_deref(), Some(&*kid));
            prop_assert_eq!(Value::Object(parsed.claims.clone()), claims);
            let expected = if f64::from(exp) + 30.0 > 1000.0 { Ok(Some(f64::from(exp) + 30.0)) } else { Err(Refusal::Expired) };
            prop_assert_eq!(rules().check(&parsed, 1000.0), expected);
        }
    }
}
