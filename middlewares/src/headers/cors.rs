//! CORS: answers preflight requests, and tells browsers which origins may read a response.

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use regex::bytes::Regex;
use tidegate_core::{BuildError, BuildErrors, Reason, Request, Response, reply};

use super::{Headers, header_value};
use crate::pattern;

/// The validated CORS options.
pub(super) struct Cors {
    credentials: bool,
    allow_headers: Asked,
    allow_methods: Asked,
    origins: Vec<HeaderValue>,
    origin_patterns: Vec<Regex>,
    expose: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    vary: bool,
}

/// What preflight responses say about headers or methods.
enum Asked {
    Nothing,
    List(HeaderValue),
    /// What the request asked for: browsers do not treat `*` as a wildcard when there are credentials.
    Echo,
}

impl Cors {
    /// `None` when no CORS option is set.
    pub(super) fn new(options: &Headers, middleware: &str) -> Result<Option<Self>, BuildError> {
        let nothing = !options.access_control_allow_credentials
            && options.access_control_allow_headers.is_empty()
            && options.access_control_allow_methods.is_empty()
            && options.access_control_allow_origin_list.is_empty()
            && options.access_control_allow_origin_list_regex.is_empty()
            && options.access_control_expose_headers.is_empty()
            && options.access_control_max_age.is_none()
            && !options.add_vary_header;
        if nothing {
            return Ok(None);
        }
        warn_about_permissive_options(options, middleware);
        let credentials = options.access_control_allow_credentials;
        let list = |name: &str, values: &[String]| header_value(name, &values.join(","));
        let asked = |name: &str, values: &[String]| match values {
            [] => Ok(Asked::Nothing),
            _ if credentials && values.iter().any(|value| value == "*") => Ok(Asked::Echo),
            _ => list(name, values).map(Asked::List),
        };
        let exposed = &options.access_control_expose_headers;
        let means_nothing = credentials && exposed.iter().any(|name| name == "*");
        let origins = options.access_control_allow_origin_list.iter();
        let origins = origins.map(|origin| header_value("accessControlAllowOriginList", origin));
        let patterns = options.access_control_allow_origin_list_regex.iter();
        let patterns = patterns.map(|expression| {
            let pattern = pattern::compile(expression);
            pattern.map_err(|error| BuildError::new(format!("accessControlAllowOriginListRegex: {error}")))
        });
        let expose = (!exposed.is_empty() && !means_nothing)
            .then(|| list("accessControlExposeHeaders", exposed))
            .transpose();
        let asked = BuildErrors::both(
            asked("accessControlAllowHeaders", &options.access_control_allow_headers),
            asked("accessControlAllowMethods", &options.access_control_allow_methods),
        );
        let origins = BuildErrors::both(BuildErrors::collect(origins), BuildErrors::collect(patterns));
        let (((allow_headers, allow_methods), (origins, origin_patterns)), expose) =
            BuildErrors::both(BuildErrors::both(asked, origins), expose)?;
        Ok(Some(Self {
            credentials,
            allow_headers,
            allow_methods,
            origins,
            origin_patterns,
            expose,
            max_age: options.access_control_max_age.map(HeaderValue::from),
            vary: options.add_vary_header,
        }))
    }

    /// Returns the response to a preflight request; `None` for others. Preflight requests never reach
    /// services.
    pub(super) fn preflight(&self, request: &Request) -> Option<Response> {
        if request.head.method != Method::OPTIONS {
            return None;
        }
        let headers = &request.head.headers;
        let given = |name| headers.get(name).filter(|value| !value.is_empty());
        let method = given(header::ACCESS_CONTROL_REQUEST_METHOD)?;
        given(header::ORIGIN)?;
        let mut response = reply::empty(StatusCode::OK, Reason::Preflight);
        let answer = response.headers_mut();
        let asked_headers = given(header::ACCESS_CONTROL_REQUEST_HEADERS);
        for (name, asked, allowed) in [
            (header::ACCESS_CONTROL_ALLOW_HEADERS, asked_headers, &self.allow_headers),
            (header::ACCESS_CONTROL_ALLOW_METHODS, Some(method), &self.allow_methods),
        ] {
            let value = match allowed {
                Asked::Nothing => None,
                Asked::List(list) => Some(list),
                Asked::Echo => asked,
            };
            if let Some(value) = value {
                answer.insert(name, value.clone());
            }
        }
        self.add_common(answer, self.allowed_origin(headers));
        if let Some(max_age) = &self.max_age {
            answer.insert(header::ACCESS_CONTROL_MAX_AGE, max_age.clone());
        }
        Some(response)
    }

    /// Adds the CORS headers to the response to another request.
    pub(super) fn add_to(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>) {
        self.add_common(headers, origin);
        if !self.vary {
            return;
        }
        let before = headers.get(header::VARY).map_or(&b""[..], |value| value.as_bytes());
        if before == b"Origin" {
            return;
        }
        let separator: &[u8] = if before.is_empty() { b"" } else { b"," };
        if let Ok(vary) = HeaderValue::from_bytes(&[before, separator, b"Origin"].concat()) {
            headers.insert(header::VARY, vary);
        }
    }

    /// Returns the value of `Access-Control-Allow-Origin` for this request. With credentials it is never `*`
    /// but the origin itself, which is empty if the client sent none.
    pub(super) fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        const ANY: HeaderValue = HeaderValue::from_static("*");
        let none = HeaderValue::from_static("");
        let origin = headers.get(header::ORIGIN).unwrap_or(&none);
        for allowed in &self.origins {
            if allowed == origin {
                return Some(allowed.clone());
            }
            if allowed == ANY {
                return Some(if self.credentials { origin.clone() } else { ANY });
            }
        }
        self.origin_patterns.iter().any(|pattern| pattern.is_match(origin.as_bytes())).then(|| origin.clone())
    }

    fn add_common(&self, headers: &mut HeaderMap, origin: Option<HeaderValue>) {
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(expose) = &self.expose {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }
}

/// Warns of settings that work as in Traefik but allow more than most users intend.
fn warn_about_permissive_options(options: &Headers, middleware: &str) {
    if options.access_control_allow_credentials
        && options.access_control_allow_origin_list.iter().any(|origin| origin == "*")
    {
        tracing::warn!(middleware, "`*` with credentials lets every website use its visitors' cookies");
    }
    for expression in &options.access_control_allow_origin_list_regex {
        if !(expression.starts_with('^') && expression.ends_with('$')) {
            tracing::warn!(
                middleware,
                expression,
                "the expression matches any origin that contains it: anchor it with `^` and `$`"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, header};
    use crate::testing::{self, request};
    use http::Request as Head;
    use tidegate_core::{Request, Response};

    fn from(origin: &str) -> Request {
        request(Head::get("http://h.test/").header("origin", origin))
    }

    fn preflight(json: &str) -> Response {
        let head = Head::options("http://h.test/")
            .header("origin", "https://o.test")
            .header("access-control-request-method", "PUT")
            .header("access-control-request-headers", "X-1");
        answer(json, request(head))
    }

    #[test]
    fn preflight_requests_are_answered() {
        let response = preflight(
            r#"{"accessControlAllowMethods": ["GET", "PUT"], "accessControlAllowHeaders": ["*"],
                "accessControlAllowOriginList": ["https://a.test", "*"], "accessControlMaxAge": 100,
                "addVaryHeader": true, "accessControlAllowCredentials": true,
                "accessControlExposeHeaders": ["X-1", "X-2"]}"#,
        );
        assert_eq!(response.status(), 200);
        for (name, value) in [
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-headers", "X-1"),
            ("access-control-allow-methods", "GET,PUT"),
            ("access-control-allow-origin", "https://o.test"),
            ("access-control-expose-headers", "X-1,X-2"),
            ("access-control-max-age", "100"),
            ("content-length", "0"),
            ("vary", ""),
            ("x-backend", ""),
        ] {
            assert_eq!(header(&response, name), value, "{name}");
        }
        assert_eq!(testing::text(response), "");
    }

    #[test]
    fn without_credentials_a_star_stays_a_star() {
        let json = r#"{"accessControlAllowMethods": ["*"], "accessControlAllowOriginList": ["*"]}"#;
        let response = preflight(json);
        assert_eq!(header(&response, "access-control-allow-methods"), "*");
        assert_eq!(header(&response, "access-control-allow-origin"), "*");
        assert_eq!(header(&response, "access-control-allow-headers"), "");
    }

    #[test]
    fn only_allowed_origins_are_named() {
        let json = r#"{"accessControlAllowOriginList": ["https://a.test"],
            "accessControlAllowOriginListRegex": ["^https://[a-z]+\\.ok$"]}"#;
        for (origin, allowed) in [
            ("https://a.test", "https://a.test"),
            ("https://x.ok", "https://x.ok"),
            ("https://a.test.evil", ""),
            ("https://x.ok.evil", ""),
            ("http://a.test", ""),
            ("null", ""),
        ] {
            let response = answer(json, from(origin));
            assert_eq!(header(&response, "access-control-allow-origin"), allowed, "{origin}");
            assert_eq!(header(&response, "x-backend"), "b");
        }
    }

    #[test]
    fn a_star_is_never_combined_with_credentials() {
        let json = r#"{"accessControlAllowOriginList": ["*"], "accessControlAllowCredentials": true}"#;
        let with_origin = answer(json, from("https://o.test"));
        assert_eq!(header(&with_origin, "access-control-allow-origin"), "https://o.test");
        let without = answer(json, testing::get("http://h.test/"));
        assert_eq!(without.headers()["access-control-allow-origin"], "");
    }

    #[test]
    fn vary_is_extended() {
        let vary = |before: &'static str| {
            let options = super::super::tests::options(r#"{"addVaryHeader": true}"#);
            let response = testing::response_of(options, from("https://o.test"), move |_| {
                let mut response = Response::new(tidegate_core::Body::empty());
                if !before.is_empty() {
                    response.headers_mut().insert("vary", before.parse().unwrap());
                }
                response
            });
            header(&response, "vary").to_owned()
        };
        assert_eq!(vary(""), "Origin");
        assert_eq!(vary("Origin"), "Origin");
        assert_eq!(vary("Accept"), "Accept,Origin");
    }
}
