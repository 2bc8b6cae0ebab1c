//! Requests that change something: they need an operator who has signed in.

use http::header::{CONTENT_TYPE, HeaderName, ORIGIN};
use http::{HeaderMap, StatusCode};
use tidegate_core::Request;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is refused before it is read.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOperator {
    #[error("the request is from another site")]
    OtherSite,
    #[error("expected the content type application/json")]
    NotJson,
    #[error("{0} requires an operator who has signed in: protect the API with a login (api.middlewares)")]
    NoLogin(&'static str),
}

impl NotOperator {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::OtherSite | Self::NoLogin(_) => StatusCode::FORBIDDEN,
        }
    }
}

/// Checks that an operator wants this, and not a page of another site in the operator's browser.
///
/// `action` is what the operator does, for the message.
pub(super) fn check(request: &Request, action: &'static str) -> Result<(), NotOperator> {
    let headers = &request.head.headers;
    if !is_same_site(headers, request.host()) {
        return Err(NotOperator::OtherSite);
    }
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media = media.split(';').next().unwrap_or("").trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(NotOperator::NotJson);
    }
    // Only a middleware or a verified certificate can have set it.
    if request.context.identity.is_none() {
        return Err(NotOperator::NoLogin(action));
    }
    Ok(())
}

/// Returns true for requests of the dashboard, and of programs that are not browsers.
fn is_same_site(headers: &HeaderMap, host: &str) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin";
    }
    // Browsers send it with every POST, and leave out the header above without TLS.
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => {
            let origin = origin.to_str().unwrap_or("");
            let own = origin.split_once("://").map_or("", |(_, own)| own);
            !own.is_empty() && own.eq_ignore_ascii_case(host)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_own_site_and_programs_may_change_something() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            is_same_site(&headers, "gw.test:8080")
        };
        assert!(with(&[]));
        assert!(with(&[("origin", "http://gw.test:8080")]));
        assert!(with(&[("origin", "https://GW.test:8080"), ("sec-fetch-site", "same-origin")]));
        for origin in [
            "null",
            "",
            "http://gw.test",
            "http://evil.test:8080",
            "http://gw.test:8080.evil.test",
            "gw.test:8080",
        ] {
            assert!(!with(&[("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!with(&[("origin", "http://gw.test:8080"), ("sec-fetch-site", site)]), "{site}");
        }
        assert!(!with(&[("origin", "http://gw.test:8080"), ("origin", "http://evil.test")]));
    }
}
