//! Signatures of requests (RFC 8555 section 6.2), by the account's own key.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::error::Error;
use super::key::AccountKey;

/// Who signs: a new key, or an account, which is named by its URL.
#[derive(Clone, Copy)]
pub(super) enum Signer<'a> {
    New(&'a AccountKey),
    Account(&'a AccountKey, &'a str),
}

/// Builds a flattened JSON Web Signature (RFC 7515 section 7.2.2). The payload of a POST-as-GET is empty.
pub(super) fn signed(
    signer: Signer<'_>,
    url: &str,
    nonce: Option<&str>,
    payload: &[u8],
) -> Result<Value, Error> {
    let (key, who) = match signer {
        Signer::New(key) => (key, format!(r#""jwk":{}"#, key.jwk())),
        Signer::Account(key, account) => (key, format!(r#""kid":{}"#, json!(account))),
    };
    let nonce = nonce.map(|nonce| format!(r#""nonce":{},"#, json!(nonce))).unwrap_or_default();
    let header = format!(r#"{{"alg":"{}",{who},{nonce}"url":{}}}"#, key.algorithm(), json!(url));
    let protected = BASE64_URL_SAFE_NO_PAD.encode(header);
    let payload = BASE64_URL_SAFE_NO_PAD.encode(payload);
    let signature = key.sign(format!("{protected}.{payload}").as_bytes())?;
    Ok(json!({
        "protected": protected,
        "payload": payload,
        "signature": BASE64_URL_SAFE_NO_PAD.encode(signature),
    }))
}

/// Builds the external account binding (RFC 8555 section 7.3.4).
pub(super) fn binding(key: &AccountKey, url: &str, kid: &str, hmac: &str) -> Result<Value, Error> {
    let secret = BASE64_URL_SAFE_NO_PAD
        .decode(hmac.trim_end_matches('='))
        .map_err(|error| Error::local(format!("eab.hmacEncoded is not base64url: {error}")))?;
    let header = format!(r#"{{"alg":"HS256","kid":{},"url":{}}}"#, json!(kid), json!(url));
    let protected = BASE64_URL_SAFE_NO_PAD.encode(header);
    let payload = BASE64_URL_SAFE_NO_PAD.encode(key.jwk());
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let tag = aws_lc_rs::hmac::sign(&secret, format!("{protected}.{payload}").as_bytes());
    Ok(json!({
        "protected": protected,
        "payload": payload,
        "signature": BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref()),
    }))
}

/// Builds the request to change the key of an account, signed by the new key (RFC 8555 section 7.3.5).
pub(super) fn key_change(
    old: &AccountKey,
    new: &AccountKey,
    account: &str,
    url: &str,
) -> Result<Value, Error> {
    let old: Value = serde_json::from_str(&old.jwk()).map_err(|error| Error::local(error.to_string()))?;
    let payload = json!({ "account": account, "oldKey": old }).to_string();
    signed(Signer::New(new), url, None, payload.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_names_key_or_account() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = AccountKey::read(&pair.serialize_der()).unwrap();
        let header = |signer| {
            let whole = signed(signer, "https://ca/x", Some("n"), b"").unwrap();
            assert_eq!(whole["payload"], "");
            let protected = BASE64_URL_SAFE_NO_PAD.decode(whole["protected"].as_str().unwrap()).unwrap();
            serde_json::from_slice::<Value>(&protected).unwrap()
        };
        assert_eq!(header(Signer::New(&key))["jwk"]["kty"], "EC");
        let known = header(Signer::Account(&key, "https://ca/acct/1"));
        assert_eq!(
            (&known["kid"], &known["nonce"], &known["alg"]),
            (&json!("https://ca/acct/1"), &json!("n"), &json!("ES256"))
        );
    }
}
