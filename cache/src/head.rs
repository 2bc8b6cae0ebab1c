//! The head of a stored response, and what is known about it.

use bytes::BytesMut;
use http::header::AGE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::key::{Tag, Variant};
use crate::rules::Policy;
use crate::time::Timestamp;

/// The head of a stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The fields that may be stored; `Age` is in the policy.
    pub headers: HeaderMap,
    /// When and how it may be used.
    pub policy: Policy,
    /// Which requests it is for.
    pub variant: Variant,
    /// Names for a purge.
    pub tags: Vec<Tag>,
}

impl Head {
    /// The fields of a response from the cache at `now`: the stored ones and `Age` (RFC 9111 §4, §5.1).
    pub fn response_headers(&self, now: Timestamp) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.insert(AGE, HeaderValue::from(self.policy.age(now)));
        headers
    }

    /// The same without anything that others own: the fields of a response that was received are pieces of the buffer
    /// that it was read into, and would keep all of it.
    #[must_use]
    pub(crate) fn compact(self) -> Self {
        let length = self.headers.values().map(HeaderValue::len).sum();
        let mut values = BytesMut::with_capacity(length);
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            values.extend_from_slice(value.as_bytes());
            let copy = HeaderValue::from_maybe_shared(values.split().freeze());
            let mut copy = copy.unwrap_or_else(|_| value.clone());
            copy.set_sensitive(value.is_sensitive());
            headers.append(name.clone(), copy);
        }
        Self { headers, ..self }
    }

    /// Approximate size in memory in bytes.
    pub fn size(&self) -> usize {
        let fields: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 112).sum();
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 80).sum();
        size_of::<Self>() + fields + tags + self.variant.size()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::rules::{Rules, Times, storable};

    /// A buffer that says when it is freed.
    struct Buffer(Arc<AtomicBool>);

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            b"max-age=50 and much more"
        }
    }

    impl Drop for Buffer {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_compact_head_keeps_no_buffer() {
        let freed = Arc::new(AtomicBool::new(false));
        let mut headers = HeaderMap::new();
        let value = Bytes::from_owner(Buffer(freed.clone())).slice(..10);
        headers.insert("cache-control", HeaderValue::from_maybe_shared(value).unwrap());
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static(""));
        let now = Timestamp::from_millis(1_767_225_600_000);
        let times = Times { requested: now, received: now };
        let head = storable(&Rules::default(), &HeaderMap::new(), StatusCode::OK, &headers, times).unwrap();
        let compact = head.clone().compact();
        assert_eq!(compact, head);
        drop((head, headers));
        assert!(freed.load(Ordering::Relaxed));
        assert_eq!(compact.headers["cache-control"], "max-age=50");
    }
}
