//! Tags by which a response can be purged: `Cache-Tag` and `Surrogate-Key`.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// `Cache-Tag`: tags between commas.
pub const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");
/// `Surrogate-Key`: tags between spaces.
pub const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
/// The largest size of a tag in bytes.
pub const MAX_TAG_BYTES: usize = 256;

/// A tag. Its case counts.
pub type Tag = Arc<[u8]>;

/// Reads the tags of a response, each once. `None` if there are more than `limit`, or one is longer than
/// [`MAX_TAG_BYTES`]: a response must not be stored without one of its tags.
pub fn tags(headers: &HeaderMap, limit: usize) -> Option<Vec<Tag>> {
    let by_comma =
        headers.get_all(&CACHE_TAG).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let by_space = headers
        .get_all(&SURROGATE_KEY)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| matches!(byte, b' ' | b'\t')));
    let mut tags: Vec<&[u8]> = Vec::new();
    for tag in by_comma.chain(by_space).map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty()) {
        if tags.contains(&tag) {
            continue;
        }
        if tags.len() == limit || tag.len() > MAX_TAG_BYTES {
            return None;
        }
        tags.push(tag);
    }
    Some(tags.into_iter().map(Tag::from).collect())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn tags_are_read_from_both_fields() {
        let mut headers = HeaderMap::new();
        headers.append(CACHE_TAG, HeaderValue::from_static("a, b c ,,a"));
        headers.append(SURROGATE_KEY, HeaderValue::from_static(" d  a"));
        headers.append(SURROGATE_KEY, HeaderValue::from_static("E"));
        let expected: Vec<Tag> = ["a", "b c", "d", "E"].map(|tag| Tag::from(tag.as_bytes())).to_vec();
        assert_eq!(tags(&headers, 4), Some(expected));
        assert_eq!(tags(&headers, 3), None);
        headers.append(SURROGATE_KEY, HeaderValue::from_str(&"x".repeat(257)).unwrap());
        assert_eq!(tags(&headers, 9), None);
    }
}
