//! What a request means for the cache, before anything is looked up (RFC 9111 §4, §5.2.1).

use http::header::{AUTHORIZATION, CONNECTION, IF_MATCH, IF_UNMODIFIED_SINCE, UPGRADE};
use http::{HeaderMap, Method};

use super::directives::RequestDirectives;
use super::settings::Rules;
use crate::time::seconds;

/// Why a request passes the cache by: it is neither answered from it, nor is its response stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// The method is neither GET nor HEAD.
    Method,
    /// The request has a body, which a server may use though it is not part of the key.
    Body,
    /// The request wants another protocol.
    Upgrade,
    /// `Connection` names fields of the request, which the server will not get though `Vary` may name them.
    HopByHop,
    /// `If-Match` or `If-Unmodified-Since`, which only the server can evaluate (RFC 9111 §4.3.2).
    Precondition,
    /// `no-store` (RFC 9111 §5.2.1.5).
    NoStore,
    /// The key is too long.
    KeyTooLong,
}

impl Bypass {
    /// A word for logs and `Cache-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Body => "request-body",
            Self::Upgrade => "upgrade",
            Self::HopByHop => "hop-by-hop",
            Self::Precondition => "precondition",
            Self::NoStore => "request-no-store",
            Self::KeyTooLong => "key-too-long",
        }
    }
}

/// A request that the cache may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The method is HEAD. A stored response to GET answers it; the response to it is not stored.
    pub is_head: bool,
    /// What the client asks of caches; nothing if the rules say that this does not count.
    pub directives: RequestDirectives,
}

/// Decides whether a request takes part in caching. `has_body`: the request has content, or may have.
pub fn inspect(
    rules: &Rules,
    method: &Method,
    headers: &HeaderMap,
    has_body: bool,
) -> Result<Lookup, Bypass> {
    if *method != Method::GET && *method != Method::HEAD {
        return Err(Bypass::Method);
    }
    if has_body {
        return Err(Bypass::Body);
    }
    if headers.contains_key(UPGRADE) {
        return Err(Bypass::Upgrade);
    }
    if names_fields(headers) {
        return Err(Bypass::HopByHop);
    }
    if headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE) {
        return Err(Bypass::Precondition);
    }
    let mut directives = if rules.honour_requests {
        RequestDirectives::from_headers(headers)
    } else {
        RequestDirectives::default()
    };
    if directives.no_store {
        return Err(Bypass::NoStore);
    }
    if let Some(limit) = rules.max_stale {
        let limit = seconds(limit.as_secs());
        directives.max_stale =
            directives.max_stale.map(|wanted| wanted.min(limit)).filter(|allowed| *allowed > 0);
    }
    Ok(Lookup { is_head: *method == Method::HEAD, directives })
}

/// Whether `Connection` names fields that are removed before the request is sent (RFC 9110 §7.6.1).
fn names_fields(headers: &HeaderMap) -> bool {
    let options =
        headers.get_all(CONNECTION).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let known: [&[u8]; 4] = [b"close", b"keep-alive", b"te", b"upgrade"];
    options
        .map(<[u8]>::trim_ascii)
        .any(|option| !option.is_empty() && !known.iter().any(|known| option.eq_ignore_ascii_case(known)))
}

/// Whether a request has credentials in `Authorization` (RFC 9111 §3.5).
pub(super) fn is_authorized(headers: &HeaderMap) -> bool {
    headers.contains_key(AUTHORIZATION)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn some_requests_pass_the_cache_by() {
        let inspect_with =
            |rules: &Rules, method: Method, line: Option<(&'static str, &'static str)>, body| {
                let headers: HeaderMap = line
                    .iter()
                    .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                    .collect();
                inspect(rules, &method, &headers, body)
            };
        let strict = Rules::default();
        let inspect = |method, line, body| inspect_with(&strict, method, line, body);
        assert!(!inspect(Method::GET, None, false).unwrap().is_head);
        assert!(inspect(Method::HEAD, None, false).unwrap().is_head);
        for method in [Method::POST, Method::OPTIONS, Method::from_bytes(b"get").unwrap()] {
            assert_eq!(inspect(method, None, false), Err(Bypass::Method));
        }
        assert_eq!(inspect(Method::GET, None, true), Err(Bypass::Body));
        assert!(inspect(Method::GET, Some(("connection", "Keep-Alive, TE,")), false).is_ok());
        for (name, value, reason) in [
            ("upgrade", "websocket", Bypass::Upgrade),
            ("connection", "close, Accept-Language", Bypass::HopByHop),
            ("if-match", "*", Bypass::Precondition),
            ("if-unmodified-since", "x", Bypass::Precondition),
            ("cache-control", "no-store", Bypass::NoStore),
        ] {
            assert_eq!(inspect(Method::GET, Some((name, value)), false), Err(reason));
        }
        let of = |limit, text| {
            let rules = Rules { max_stale: limit, ..Rules::default() };
            inspect_with(&rules, Method::GET, Some(("cache-control", text)), false)
                .unwrap()
                .directives
                .max_stale
        };
        let ten = std::time::Duration::from_secs(10);
        assert_eq!(of(None, "max-stale=60"), Some(60));
        assert_eq!((of(Some(ten), "max-stale=60"), of(Some(ten), "max-stale=5")), (Some(10), Some(5)));
        assert_eq!(
            (of(Some(std::time::Duration::ZERO), "max-stale"), of(Some(ten), "no-cache")),
            (None, None)
        );
        let lax = Rules { honour_requests: false, ..Rules::default() };
        let lookup = inspect_with(&lax, Method::GET, Some(("cache-control", "no-store, max-age=0")), false);
        assert_eq!(lookup.unwrap().directives, RequestDirectives::default());
    }
}
