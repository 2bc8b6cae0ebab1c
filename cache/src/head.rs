//! The head of a stored response, and what is known about it.

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

    /// Approximate size in memory in bytes.
    pub fn size(&self) -> usize {
        let fields: usize =
            self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 112).sum();
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 80).sum();
        size_of::<Self>() + fields + tags + self.variant.size()
    }
}
