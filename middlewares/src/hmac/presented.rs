//! A signature as a request presents it, in either form.

use http::HeaderMap;

/// How a signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// RFC 9421.
    Message,
    /// draft-cavage-http-signatures, as Kong's `hmac-auth` and Traefik Hub's `hmac` read it.
    Cavage,
}

/// A signature that is not verified yet.
#[derive(Debug)]
pub(super) struct Presented {
    pub(super) form: Form,
    pub(super) key_id: String,
    /// The algorithm that the request names.
    pub(super) algorithm: Option<String>,
    /// What is signed.
    pub(super) base: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// When it was made, in seconds since 1970.
    pub(super) created: i64,
    /// Until when it counts, in seconds since 1970.
    pub(super) expires: Option<i64>,
    pub(super) nonce: Option<String>,
    /// Whether the digest of the body is signed.
    pub(super) covers_digest: bool,
}

/// Returns all values of a field, separated by commas (RFC 9421 section 2.1); `None` if there is none.
pub(super) fn combined(headers: &HeaderMap, name: &str) -> Option<Vec<u8>> {
    let mut values = headers.get_all(name).iter().map(|value| value.as_bytes().trim_ascii());
    let mut all = values.next()?.to_vec();
    for value in values {
        all.extend_from_slice(b", ");
        all.extend_from_slice(value);
    }
    Some(all)
}
