//! Which responses may be stored, and what of them (RFC 9111 §3).

use http::header::{ACCEPT_ENCODING, AGE, CONTENT_ENCODING, CONTENT_RANGE, DATE, EXPIRES, SET_COOKIE};
use http::{HeaderMap, HeaderName, StatusCode};

use super::directives::{ResponseDirectives, Scope};
use super::freshness::{Policy, Times, is_heuristically_cacheable};
use super::settings::Rules;
use super::{conditions, fields, request, targeted};
use crate::head::Head;
use crate::key::{Variant, VaryNames, tags};

const SET_COOKIE2: HeaderName = HeaderName::from_static("set-cookie2");

/// Why a response is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStored {
    /// One that the rules exclude, an interim response, 206 or 304, one about the request and not about the resource, or an unknown status with
    /// `must-understand` (§3, §5.2.2.3).
    Status,
    /// `no-store` (§5.2.2.5), or a `Cache-Control` that is broken.
    NoStore,
    /// `private` (§5.2.2.7).
    Private,
    /// The request has `Authorization`, and the response does not permit it (§3.5).
    Authorization,
    /// Neither a lifetime nor a status that has one by default.
    NoLifetime,
    /// It would be stale at once, must not be used so, and cannot be validated.
    NotReusable,
    /// `Vary` matches no other request (§4.1), or is too long.
    Vary,
    /// `Set-Cookie`, which the rules do not allow.
    SetCookie,
    /// More tags than allowed.
    Tags,
    /// Header fields larger than allowed.
    HeadTooLarge,
}

impl NotStored {
    /// A word for logs and `Cache-Status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::NoLifetime => "no-lifetime",
            Self::NotReusable => "not-reusable",
            Self::Vary => "vary",
            Self::SetCookie => "set-cookie",
            Self::Tags => "too-many-tags",
            Self::HeadTooLarge => "head-too-large",
        }
    }
}

/// The status codes whose meaning for caches is known (§3, `must-understand`).
fn is_understood(status: StatusCode) -> bool {
    let code = status.as_u16();
    matches!(code, 200..=205 | 300..=303 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 428 | 429 | 431 | 451 | 500..=505)
}

/// The status codes that are about one request: its size, syntax, credentials, conditions, range or connection, which
/// are not part of the key. Whoever provokes one must not choose what others get. RFC 6585 forbids storing 428, 429, 431
/// and 511.
pub fn is_about_request(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        400 | 401 | 407 | 408 | 411..=413 | 416 | 417 | 421 | 425 | 426 | 428 | 429 | 431 | 511
    )
}

/// Decides whether the response to a GET is stored, and with which fields.
///
/// `request` are the fields of the request as the server has received it, as far as `Vary` may name them. The length
/// of the body is not known yet: whoever stores it compares it with `Content-Length`.
pub fn storable(
    rules: &Rules,
    request: &HeaderMap,
    status: StatusCode,
    headers: &HeaderMap,
    times: Times,
) -> Result<Head, NotStored> {
    let targeted = targeted::directives(headers, &rules.targets);
    let is_targeted = targeted.is_some();
    let directives = targeted.unwrap_or_else(|| ResponseDirectives::from_headers(headers));
    if rules.excluded.iter().any(|statuses| statuses.contains(&status.as_u16())) {
        return Err(NotStored::Status);
    }
    check_status(status, &directives)?;
    check_directives(rules, request, status, headers, &directives, is_targeted)?;
    let mut names = VaryNames::from_headers(headers).ok_or(NotStored::Vary)?;
    if headers.contains_key(CONTENT_ENCODING) {
        // Servers that compress often forget `Vary`. Clients that cannot decompress must not get it.
        names.add(ACCEPT_ENCODING);
    }
    let variant = Variant::new(&names, request).ok_or(NotStored::Vary)?;
    let tags = tags(headers, rules.max_tags).ok_or(NotStored::Tags)?;

    let policy = Policy::new(rules, status, headers, &directives, is_targeted, times);
    let mut kept = headers.clone();
    fields::remove_unstorable(&mut kept);
    for scope in [&directives.private, &directives.no_cache].into_iter().flatten() {
        if let Scope::Fields(names) = scope {
            for name in names {
                kept.remove(name);
            }
        }
    }
    if !rules.store_cookies && [SET_COOKIE, SET_COOKIE2].iter().any(|name| kept.contains_key(name)) {
        return Err(NotStored::SetCookie);
    }
    if !policy.is_reusable() && !conditions::has_validator(&kept) {
        return Err(NotStored::NotReusable);
    }
    kept.remove(AGE);
    if !kept.contains_key(DATE) {
        // RFC 9110 §6.6.1: whoever has a clock adds it.
        kept.insert(DATE, times.received.to_http_date());
    }
    let size: usize = kept.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > rules.max_head_bytes {
        return Err(NotStored::HeadTooLarge);
    }
    Ok(Head { status, headers: kept, policy, variant, tags })
}

fn check_status(status: StatusCode, directives: &ResponseDirectives) -> Result<(), NotStored> {
    let partial = matches!(status.as_u16(), 206 | 304) || is_about_request(status);
    let unknown = directives.must_understand && !is_understood(status);
    if status.is_informational() || partial || unknown { Err(NotStored::Status) } else { Ok(()) }
}

fn check_directives(
    rules: &Rules,
    request: &HeaderMap,
    status: StatusCode,
    headers: &HeaderMap,
    directives: &ResponseDirectives,
    targeted: bool,
) -> Result<(), NotStored> {
    // `must-understand` with a known status replaces `no-store` (§5.2.2.3).
    if directives.no_store && !directives.must_understand {
        return Err(NotStored::NoStore);
    }
    if directives.private == Some(Scope::Whole) {
        return Err(NotStored::Private);
    }
    let permitted = directives.public || directives.must_revalidate || directives.s_maxage.is_some();
    if request::is_authorized(request) && !permitted {
        return Err(NotStored::Authorization);
    }
    let explicit = directives.public
        || directives.private.is_some()
        || directives.max_age.is_some()
        || directives.s_maxage.is_some()
        || (!targeted && headers.contains_key(EXPIRES));
    if explicit || is_heuristically_cacheable(status) || rules.lifetime_of(status.as_u16()).is_some() {
        Ok(())
    } else {
        Err(NotStored::NoLifetime)
    }
}

/// Whether ranges can be cut from a stored response: a complete 200 (RFC 9111 §3.3, RFC 9110 §14.2).
pub(super) fn is_complete(head: &Head) -> bool {
    head.status == StatusCode::OK && !head.headers.contains_key(CONTENT_RANGE)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::time::Timestamp;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&str, &str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        };
        lines.iter().map(line).collect()
    }

    fn store_with(
        rules: &Rules,
        request: &[(&str, &str)],
        status: u16,
        response: &[(&str, &str)],
    ) -> Result<Head, NotStored> {
        let now = Timestamp::from_millis(1_767_225_600_000);
        let times = Times { requested: now, received: now };
        storable(rules, &map(request), StatusCode::from_u16(status).unwrap(), &map(response), times)
    }

    fn reason(request: &[(&str, &str)], status: u16, response: &[(&str, &str)]) -> Option<NotStored> {
        store_with(&Rules::default(), request, status, response).err()
    }

    fn of(cache_control: &str) -> Option<NotStored> {
        reason(&[], 200, &[("cache-control", cache_control)])
    }

    #[test]
    fn directives_decide() {
        assert_eq!(of("max-age=5"), None);
        assert_eq!(of("no-store, max-age=5"), Some(NotStored::NoStore));
        assert_eq!(of("private, max-age=5"), Some(NotStored::Private));
        assert_eq!(of("private=\"x\", max-age=5"), None);
        assert_eq!(of("max-age=0"), Some(NotStored::NotReusable));
        assert_eq!(of("no-cache, max-age=5"), Some(NotStored::NotReusable));
        assert_eq!(of("max-age=0, stale-while-revalidate=5"), None);
        assert_eq!(of("s-maxage=0, stale-while-revalidate=5"), Some(NotStored::NotReusable));
        let etag = ("etag", "\"a\"");
        assert_eq!(reason(&[], 200, &[("cache-control", "no-cache"), etag]), None, "it can be validated");
        assert_eq!(
            reason(&[], 200, &[("cache-control", "max-age=5"), ("age", "5")]),
            Some(NotStored::NotReusable)
        );
    }

    #[test]
    fn statuses_decide() {
        let cache = [("cache-control", "max-age=5")];
        for status in
            [200, 203, 204, 299, 301, 302, 303, 307, 308, 403, 404, 410, 499, 500, 502, 503, 504, 599]
        {
            assert_eq!(reason(&[], status, &cache), None, "{status}");
        }
        for status in [100, 103, 206, 304] {
            assert_eq!(reason(&[], status, &cache), Some(NotStored::Status), "{status}");
        }
        for status in [400, 401, 412, 416, 429, 431] {
            let lifetimes = vec![(400..=499, std::time::Duration::from_secs(5))];
            let rules = Rules { lifetimes, ..Rules::default() };
            assert_eq!(store_with(&rules, &[], status, &cache), Err(NotStored::Status), "{status}");
        }
        let understand = [("cache-control", "max-age=5, must-understand, no-store")];
        assert_eq!(reason(&[], 599, &understand), Some(NotStored::Status));
        assert_eq!(reason(&[], 200, &understand), None);
        assert_eq!(reason(&[], 302, &[("etag", "\"a\"")]), Some(NotStored::NoLifetime));
        let rules =
            Rules { lifetimes: vec![(302..=302, std::time::Duration::from_secs(5))], ..Rules::default() };
        assert!(store_with(&rules, &[], 302, &[]).is_ok());
        assert_eq!(store_with(&rules, &[], 302, &[("cache-control", "private")]), Err(NotStored::Private));
    }

    #[test]
    fn authorization_needs_permission() {
        let of = |text| reason(&[("authorization", "Basic x")], 200, &[("cache-control", text)]);
        assert_eq!(of("max-age=5"), Some(NotStored::Authorization));
        assert_eq!(of("max-age=5, proxy-revalidate"), Some(NotStored::Authorization));
        for text in ["public, max-age=5", "must-revalidate, max-age=5", "s-maxage=5"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn cookies_are_not_stored_unless_allowed_or_left_out() {
        let cookie = ("set-cookie", "a=b");
        assert_eq!(
            reason(&[], 200, &[("cache-control", "public, max-age=5"), cookie]),
            Some(NotStored::SetCookie)
        );
        let allowed = Rules { store_cookies: true, ..Rules::default() };
        let head = store_with(&allowed, &[], 200, &[("cache-control", "max-age=5"), cookie]).unwrap();
        assert!(head.headers.contains_key(SET_COOKIE));
        for text in ["max-age=5, no-cache=\"Set-Cookie\"", "max-age=5, private=set-cookie"] {
            let head = store_with(&Rules::default(), &[], 200, &[("cache-control", text), cookie]).unwrap();
            assert!(!head.headers.contains_key(SET_COOKIE), "{text}");
        }
    }

    #[test]
    fn a_targeted_field_replaces_the_others() {
        let of = |target, cache_control, expires| {
            let lines =
                [("cdn-cache-control", target), ("cache-control", cache_control), ("expires", expires)];
            store_with(&Rules::default(), &[], 200, &lines).map(|head| head.policy.lifetime)
        };
        assert_eq!(of("max-age=5", "no-store", "0"), Ok(5));
        assert_eq!(of("no-store", "max-age=5", "0"), Err(NotStored::NoStore));
        assert_eq!(of("max-age=5 x", "max-age=7", "0"), Ok(7), "an error: the field is ignored");
        let expires = Timestamp::from_millis(1_767_225_700_000).to_http_date();
        assert_eq!(
            of("must-revalidate", "max-age=7", expires.to_str().unwrap()),
            Err(NotStored::NotReusable),
            "Expires is ignored as well"
        );
    }

    #[test]
    fn limits_decide() {
        let cache = ("cache-control", "max-age=5");
        assert_eq!(reason(&[], 200, &[cache, ("vary", "*")]), Some(NotStored::Vary));
        let tags: Vec<String> = (0..129).map(|i| i.to_string()).collect();
        assert_eq!(reason(&[], 200, &[cache, ("cache-tag", &tags.join(","))]), Some(NotStored::Tags));
        assert_eq!(reason(&[], 200, &[cache, ("x", &"x".repeat(70_000))]), Some(NotStored::HeadTooLarge));
    }

    #[test]
    fn what_is_stored_has_a_date_and_no_age() {
        let head = store_with(&Rules::default(), &[], 200, &[("cache-control", "max-age=50"), ("age", "7")])
            .unwrap();
        assert_eq!(head.headers[DATE], "Thu, 01 Jan 2026 00:00:00 GMT");
        let later = Timestamp::from_millis(1_767_225_610_000);
        assert_eq!(head.response_headers(later)[AGE], "17");
        assert!(!head.headers.contains_key(AGE));
    }
}
