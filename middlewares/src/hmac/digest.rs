//! The digest of a body: `Content-Digest` (RFC 9530), and `Digest` (RFC 3230).

use aws_lc_rs::digest::{Algorithm, SHA256, SHA512, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;

use super::fields;
use super::presented::Form;
use super::refusal::Refusal;

/// Digests that a body must have.
pub(super) struct Expected(Vec<(&'static Algorithm, Vec<u8>)>);

impl Expected {
    /// Reads the fields. Unknown algorithms are ignored, as long as another one is known.
    pub(super) fn read(headers: &HeaderMap, form: Form) -> Result<Self, Refusal> {
        let mut all = Vec::new();
        if let Some(text) = fields::joined(headers, "content-digest")? {
            all.extend(fields::byte_sequences(&text)?);
        }
        if form == Form::Cavage
            && let Some(text) = fields::joined(headers, "digest")?
        {
            for part in text.split(',') {
                let (name, value) = part.trim().split_once('=').ok_or(Refusal::Malformed)?;
                let value = BASE64_STANDARD.decode(value).map_err(|_| Refusal::Malformed)?;
                all.push((name.to_ascii_lowercase(), value));
            }
        }
        let known = all.into_iter().filter_map(|(name, value)| match name.as_str() {
            "sha-256" => Some((&SHA256, value)),
            "sha-512" => Some((&SHA512, value)),
            _ => None,
        });
        let known: Vec<_> = known.collect();
        if known.is_empty() { Err(Refusal::NoDigest) } else { Ok(Self(known)) }
    }

    /// Returns true if a body has all of them.
    pub(super) fn fits(&self, body: &[u8]) -> bool {
        self.0.iter().all(|(algorithm, expected)| digest(algorithm, body).as_ref() == expected.as_slice())
    }
}
