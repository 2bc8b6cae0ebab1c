//! The test vectors of Project Wycheproof for JSON Web Signatures: keys, tokens, and whether each is valid.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::keys::{KeySet, Verdict};
use super::token::Token;

/// The vectors of `json_web_signature_test.json` (github.com/C2SP/wycheproof, `testvectors_v1`), without comments.
const VECTORS: &str = include_str!("../../testdata/wycheproof-jws.json");
/// Vectors with another result here, and why.
const DIFFERENT: [(u32, &str); 8] = [
    (346, "the key is for PS256 and the token is signed with PS384: keys decide about the algorithm"),
    (347, "the library has no ES512, which the key calls `ES521`"),
    (350, "as 346"),
    (351, "as 347"),
    (367, "equal to 357, which is valid: the padding that it is about is lost"),
    (370, "as 367"),
    (372, "valid only for decoders that skip other characters, which RFC 4648 section 3.3 forbids"),
    (373, "as 372"),
];

#[derive(Deserialize)]
struct Group {
    key: serde_json::Value,
    /// Number, result, and the token.
    tokens: Vec<(u32, String, String)>,
}

/// Returns true if a token has a valid signature, whether or not its payload consists of claims.
fn is_valid(key: &serde_json::Value, text: &str) -> bool {
    let set = serde_json::json!({ "keys": [key] }).to_string();
    let (Ok(keys), Ok((token, payload))) = (KeySet::jwks(set.as_bytes(), true), Token::envelope(text)) else {
        return false;
    };
    let verdict = keys.verify(token.key_id.as_deref(), token.algorithm, token.message, token.signature);
    matches!(verdict, Verdict::Valid) && BASE64_URL_SAFE_NO_PAD.decode(payload).is_ok()
}

#[test]
fn signatures_are_accepted_and_refused_as_the_vectors_say() {
    let groups: Vec<Group> = serde_json::from_str(VECTORS).unwrap();
    let mut tested = 0;
    let mut different = Vec::new();
    for Group { key, tokens } in &groups {
        for (number, result, token) in tokens {
            tested += 1;
            if is_valid(key, token) != (result == "valid") {
                different.push(*number);
            }
        }
    }
    assert_eq!(tested, 401);
    assert_eq!(different, DIFFERENT.map(|(number, _)| number));
}
