//! Security headers, and the check of the request's host.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tidegate_core::{BuildError, BuildErrors, Reason, Request, Response, reply};

use super::{Headers, header_name, header_value};

const PUBLIC_KEY_PINS: HeaderName = HeaderName::from_static("public-key-pins");
const PERMISSIONS_POLICY: HeaderName = HeaderName::from_static("permissions-policy");
/// Placeholder in a policy for a nonce, new in each response.
const NONCE: &str = "$NONCE";

/// The validated security options.
pub(super) struct Secure {
    allowed_hosts: Vec<String>,
    hosts_proxy_headers: Vec<HeaderName>,
    ssl_proxy_headers: Vec<(HeaderName, String)>,
    /// Added to every response.
    always: Vec<(HeaderName, HeaderValue)>,
    /// Added to responses over HTTPS.
    https: Vec<(HeaderName, HeaderValue)>,
    /// Policies that contain a nonce.
    with_nonce: Vec<(HeaderName, String)>,
}

impl Secure {
    /// `None` when no security option is set.
    pub(super) fn new(options: &Headers) -> Result<Option<Self>, BuildError> {
        let hosts = options.hosts_proxy_headers.iter().map(|name| header_name(name));
        let ssl =
            options.ssl_proxy_headers.iter().map(|(name, value)| Ok((header_name(name)?, value.clone())));
        let mut errors = BuildErrors::default();
        let mut secure = Self {
            allowed_hosts: if options.is_development { Vec::new() } else { options.allowed_hosts.clone() },
            hosts_proxy_headers: errors.check(BuildErrors::collect(hosts)).unwrap_or_default(),
            ssl_proxy_headers: errors.check(BuildErrors::collect(ssl)).unwrap_or_default(),
            always: Vec::new(),
            https: Vec::new(),
            with_nonce: Vec::new(),
        };
        errors.check(secure.add_transport_security(options));
        errors.check(secure.add_fixed(options));
        errors.check(secure.add_policy(header::CONTENT_SECURITY_POLICY, &options.content_security_policy));
        errors.check(secure.add_policy(
            header::CONTENT_SECURITY_POLICY_REPORT_ONLY,
            &options.content_security_policy_report_only,
        ));
        errors.finish()?;
        let is_set = options.is_development
            || options.sts_seconds.is_some()
            || options.sts_include_subdomains
            || options.sts_preload
            || options.force_sts_header
            || !secure.is_empty();
        Ok(is_set.then_some(secure))
    }

    /// Returns the response to a request for a host that is not allowed.
    pub(super) fn refusal(&self, request: &Request) -> Option<Response> {
        if self.allowed_hosts.is_empty() {
            return None;
        }
        let headers = &request.head.headers;
        let by_proxy =
            self.hosts_proxy_headers.iter().find_map(|name| headers.get(name).filter(|v| !v.is_empty()));
        let host = by_proxy.map_or(request.host().as_bytes(), |value| value.as_bytes());
        let allowed = self.allowed_hosts.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(host));
        (!allowed).then(|| reply::error(StatusCode::INTERNAL_SERVER_ERROR, "Bad Host", Reason::HostDenied))
    }

    /// Returns true when the client used HTTPS, to this gateway or to a proxy in front of it.
    pub(super) fn is_https(&self, request: &Request) -> bool {
        let headers = &request.head.headers;
        let says_so = |(name, value): &(HeaderName, String)| {
            headers.get(name).map_or(&b""[..], |found| found.as_bytes()) == value.as_bytes()
        };
        request.context.is_tls() || self.ssl_proxy_headers.iter().any(says_so)
    }

    /// Adds the security headers to a response.
    pub(super) fn add_to(&self, headers: &mut HeaderMap, is_https: bool) {
        for (name, value) in self.always.iter().chain(self.https.iter().filter(|_| is_https)) {
            headers.insert(name.clone(), value.clone());
        }
        if self.with_nonce.is_empty() {
            return;
        }
        let mut random = [0; 16];
        if rand::fill(&mut random).is_err() {
            return;
        }
        let nonce = format!("'nonce-{}'", STANDARD_NO_PAD.encode(random));
        for (name, policy) in &self.with_nonce {
            if let Ok(value) = HeaderValue::from_bytes(policy.replace(NONCE, &nonce).as_bytes()) {
                headers.insert(name.clone(), value);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.allowed_hosts.is_empty()
            && self.hosts_proxy_headers.is_empty()
            && self.ssl_proxy_headers.is_empty()
            && self.always.is_empty()
            && self.https.is_empty()
            && self.with_nonce.is_empty()
    }

    fn add_transport_security(&mut self, options: &Headers) -> Result<(), BuildError> {
        if options.is_development {
            return Ok(());
        }
        if !options.public_key.is_empty() {
            self.https.push((PUBLIC_KEY_PINS, header_value("publicKey", &options.public_key)?));
        }
        let seconds = options.sts_seconds.unwrap_or(0);
        if seconds == 0 {
            return Ok(());
        }
        let subdomains = if options.sts_include_subdomains { "; includeSubDomains" } else { "" };
        let preload = if options.sts_preload { "; preload" } else { "" };
        let value = header_value("stsSeconds", &format!("max-age={seconds}{subdomains}{preload}"))?;
        let list = if options.force_sts_header { &mut self.always } else { &mut self.https };
        list.push((header::STRICT_TRANSPORT_SECURITY, value));
        Ok(())
    }

    fn add_fixed(&mut self, options: &Headers) -> Result<(), BuildError> {
        let or = |value: &str, flag: bool, default: &str| match (value.is_empty(), flag) {
            (true, true) => default.to_owned(),
            _ => value.to_owned(),
        };
        for (name, option, value) in [
            (
                header::X_FRAME_OPTIONS,
                "customFrameOptionsValue",
                or(&options.custom_frame_options_value, options.frame_deny, "DENY"),
            ),
            (
                header::X_CONTENT_TYPE_OPTIONS,
                "contentTypeNosniff",
                or("", options.content_type_nosniff, "nosniff"),
            ),
            (
                header::X_XSS_PROTECTION,
                "customBrowserXSSValue",
                or(&options.custom_browser_xss_value, options.browser_xss_filter, "1; mode=block"),
            ),
            (header::REFERRER_POLICY, "referrerPolicy", options.referrer_policy.clone()),
            (PERMISSIONS_POLICY, "permissionsPolicy", options.permissions_policy.clone()),
        ] {
            if !value.is_empty() {
                self.always.push((name, header_value(option, &value)?));
            }
        }
        Ok(())
    }

    fn add_policy(&mut self, name: HeaderName, policy: &str) -> Result<(), BuildError> {
        if policy.is_empty() {
            return Ok(());
        }
        let value = header_value(name.as_str(), policy)?;
        if policy.contains(NONCE) {
            self.with_nonce.push((name, policy.to_owned()));
        } else {
            self.always.push((name, value));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{answer, header};
    use crate::testing::{self, get, request};
    use http::Request as Head;

    #[test]
    fn every_security_header_is_sent() {
        let response = answer(
            r#"{"frameDeny": true, "browserXssFilter": true, "contentTypeNosniff": true, "stsSeconds": 10,
                "stsIncludeSubdomains": true, "stsPreload": true, "forceSTSHeader": true,
                "contentSecurityPolicy": "a", "contentSecurityPolicyReportOnly": "b", "publicKey": "pk",
                "referrerPolicy": "same-origin", "permissionsPolicy": "x=()"}"#,
            get("http://h.test/"),
        );
        for (name, value) in [
            ("x-frame-options", "DENY"),
            ("x-xss-protection", "1; mode=block"),
            ("x-content-type-options", "nosniff"),
            ("strict-transport-security", "max-age=10; includeSubDomains; preload"),
            ("content-security-policy", "a"),
            ("content-security-policy-report-only", "b"),
            ("referrer-policy", "same-origin"),
            ("permissions-policy", "x=()"),
            ("public-key-pins", ""),
            ("x-backend", "b"),
        ] {
            assert_eq!(header(&response, name), value, "{name}");
        }
    }

    #[test]
    fn custom_values_override_the_switches() {
        let response = answer(
            r#"{"frameDeny": true, "customFrameOptionsValue": "SAMEORIGIN", "customBrowserXSSValue": "0"}"#,
            get("http://h.test/"),
        );
        assert_eq!(header(&response, "x-frame-options"), "SAMEORIGIN");
        assert_eq!(header(&response, "x-xss-protection"), "0");
    }

    #[test]
    fn transport_security_needs_https() {
        let json =
            r#"{"stsSeconds": 10, "publicKey": "pk", "sslProxyHeaders": {"X-Forwarded-Proto": "https"}}"#;
        let proxied = request(Head::get("http://h.test/").header("x-forwarded-proto", "https"));
        for (request, sts, pins) in [
            (get("http://h.test/"), "", ""),
            (get("https://h.test/"), "max-age=10", "pk"),
            (proxied, "max-age=10", "pk"),
        ] {
            let response = answer(json, request);
            assert_eq!(header(&response, "strict-transport-security"), sts);
            assert_eq!(header(&response, "public-key-pins"), pins);
        }
        let none = answer(r#"{"stsSeconds": 0}"#, get("https://h.test/"));
        assert_eq!(header(&none, "strict-transport-security"), "");
    }

    #[test]
    fn only_allowed_hosts_are_accepted() {
        let json = r#"{"allowedHosts": ["H.test"], "hostsProxyHeaders": ["X-FH"]}"#;
        assert_eq!(answer(json, get("http://h.test/")).status(), 200);
        let proxied = request(Head::get("http://bad.test/").header("x-fh", "h.test"));
        assert_eq!(answer(json, proxied).status(), 200);
        for url in ["http://bad.test/", "http://h.test:80/"] {
            let refused = answer(json, get(url));
            assert_eq!(refused.status(), 500, "{url}");
            assert_eq!(testing::text(refused), "Bad Host\n");
        }
        let lenient =
            answer(r#"{"allowedHosts": ["no.test"], "isDevelopment": true}"#, get("http://h.test/"));
        assert_eq!(lenient.status(), 200);
    }

    #[test]
    fn a_nonce_is_new_each_time() {
        let json = r#"{"contentSecurityPolicy": "script-src $NONCE"}"#;
        let policy = || header(&answer(json, get("http://h.test/")), "content-security-policy").to_owned();
        let (one, two) = (policy(), policy());
        assert!(one.starts_with("script-src 'nonce-") && one.ends_with('\''), "{one}");
        assert_eq!(one.len(), "script-src 'nonce-'".len() + 22);
        assert_ne!(one, two);
    }
}
