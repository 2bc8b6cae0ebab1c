//! The `Cache-Status` response field (RFC 9211).

use std::fmt::Write;

use http::{HeaderName, HeaderValue};

/// `Cache-Status`. A cache appends its own to those of caches closer to the server (RFC 9211 §2).
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Why a request was forwarded (RFC 9211 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The cache was configured, or had reasons, not to handle it.
    Bypass,
    /// The method requires it.
    Method,
    /// Nothing is stored for the key.
    UriMiss,
    /// Something is stored, but not for this request's fields.
    VaryMiss,
    /// Nothing usable is stored.
    Miss,
    /// A fresh response is stored, but the request asks for more.
    Request,
    /// A stale response is stored.
    Stale,
    /// Only a part is stored.
    Partial,
}

impl Forwarded {
    /// The token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

/// How a cache has handled a request (RFC 9211 §2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStatus<'a> {
    /// The name of the cache.
    pub cache: &'a str,
    /// Answered from the store, without the server.
    pub hit: bool,
    /// Why it was forwarded.
    pub forwarded: Option<Forwarded>,
    /// The status of the server's response, if it is not that of the response.
    pub forwarded_status: Option<u16>,
    /// How much longer the response is fresh in seconds; negative if it is stale.
    pub ttl: Option<i64>,
    /// The response was stored.
    pub stored: bool,
    /// The request waited for the response to another one.
    pub collapsed: bool,
    /// The key. Left out if it has characters that the field cannot have.
    pub key: Option<&'a str>,
    /// A word for what the parameters cannot say.
    pub detail: Option<&'a str>,
}

impl CacheStatus<'_> {
    /// The value of the field, a list of one member.
    pub fn to_value(&self) -> HeaderValue {
        let mut text = String::with_capacity(64);
        push_string_or_token(&mut text, self.cache);
        if self.hit {
            text.push_str("; hit");
        }
        if let (Some(reason), false) = (self.forwarded, self.hit) {
            text.push_str("; fwd=");
            text.push_str(reason.as_str());
            if let Some(status) = self.forwarded_status {
                write!(text, "; fwd-status={status}").unwrap_or_default();
            }
        }
        if let Some(ttl) = self.ttl {
            write!(text, "; ttl={ttl}").unwrap_or_default();
        }
        if self.stored {
            text.push_str("; stored");
        }
        if self.collapsed {
            text.push_str("; collapsed");
        }
        if let Some(key) = self.key.filter(|key| is_printable(key)) {
            text.push_str("; key=");
            push_string(&mut text, key);
        }
        if let Some(detail) = self.detail.filter(|detail| is_printable(detail)) {
            text.push_str("; detail=");
            push_string_or_token(&mut text, detail);
        }
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("cache"))
    }
}

fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
}

fn push_string(text: &mut String, content: &str) {
    text.push('"');
    for character in content.chars().filter(|character| (' '..='~').contains(character)) {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

fn push_string_or_token(text: &mut String, content: &str) {
    let token = content.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*')
        && content.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
    if token { text.push_str(content) } else { push_string(text, content) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_written_in_order() {
        let status = CacheStatus { cache: "tidegate", hit: true, ttl: Some(376), ..CacheStatus::default() };
        assert_eq!(status.to_value(), "tidegate; hit; ttl=376");
        let status = CacheStatus {
            cache: "my cache",
            forwarded: Some(Forwarded::Stale),
            forwarded_status: Some(304),
            ttl: Some(-5),
            stored: true,
            collapsed: true,
            key: Some("https://a/\"b\\"),
            detail: Some("no-store"),
            ..CacheStatus::default()
        };
        assert_eq!(
            status.to_value(),
            "\"my cache\"; fwd=stale; fwd-status=304; ttl=-5; stored; collapsed; key=\"https://a/\\\"b\\\\\"; detail=no-store"
        );
    }

    #[test]
    fn values_never_break_the_field() {
        let status = CacheStatus {
            cache: "a\r\nb\u{e9}",
            key: Some("a\r\nX: y"),
            detail: Some("ü"),
            ..CacheStatus::default()
        };
        assert_eq!(status.to_value(), "\"ab\"");
    }
}
