//! Sets and removes headers of requests and responses, handles CORS and adds security headers.

mod cors;
mod secure;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, BuildErrors, Middleware, Next, Prediction, Request, Response,
    boxed,
};

use cors::Cors;
use secure::Secure;

/// Traefik's `headers`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Headers {
    /// Request headers to set; an empty value removes the header. `Host` changes the host of the request.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub custom_request_headers: BTreeMap<String, String>,
    /// Response headers to set; an empty value removes the header.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub custom_response_headers: BTreeMap<String, String>,
    /// CORS: the page may send cookies and other credentials.
    #[serde(skip_serializing_if = "is_default")]
    pub access_control_allow_credentials: bool,
    /// CORS: request headers that a page may set. `*` with credentials allows whatever is requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_control_allow_headers: Vec<String>,
    /// CORS: methods that a page may use. `*` with credentials allows whatever is requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_control_allow_methods: Vec<String>,
    /// CORS: origins of pages that may read the response. `*` allows all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_control_allow_origin_list: Vec<String>,
    /// CORS: the same as expressions in Go's syntax. They are not anchored: add `^` and `$`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_control_allow_origin_list_regex: Vec<String>,
    /// CORS: response headers that a page may read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub access_control_expose_headers: Vec<String>,
    /// CORS: seconds for which browsers may cache the response to a preflight request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_control_max_age: Option<i64>,
    /// Adds `Vary: Origin` to responses.
    #[serde(skip_serializing_if = "is_default")]
    pub add_vary_header: bool,
    /// Allowed hosts, with their port if any; requests for others get 500.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_hosts: Vec<String>,
    /// Request headers that may hold the host the client requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts_proxy_headers: Vec<String>,
    /// Request headers whose values show that the client used HTTPS.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ssl_proxy_headers: BTreeMap<String, String>,
    /// `max-age` of `Strict-Transport-Security`, in seconds; 0 sends none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sts_seconds: Option<i64>,
    /// Adds `includeSubDomains` to it.
    #[serde(skip_serializing_if = "is_default")]
    pub sts_include_subdomains: bool,
    /// Adds `preload` to it.
    #[serde(skip_serializing_if = "is_default")]
    pub sts_preload: bool,
    /// Sends it over HTTP too.
    #[serde(rename = "forceSTSHeader", skip_serializing_if = "is_default")]
    pub force_sts_header: bool,
    /// `X-Frame-Options: DENY`
    #[serde(skip_serializing_if = "is_default")]
    pub frame_deny: bool,
    /// `X-Frame-Options` with this value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub custom_frame_options_value: String,
    /// `X-Content-Type-Options: nosniff`
    #[serde(skip_serializing_if = "is_default")]
    pub content_type_nosniff: bool,
    /// `X-XSS-Protection: 1; mode=block`
    #[serde(skip_serializing_if = "is_default")]
    pub browser_xss_filter: bool,
    /// `X-XSS-Protection` with this value.
    #[serde(rename = "customBrowserXSSValue", skip_serializing_if = "String::is_empty")]
    pub custom_browser_xss_value: String,
    /// `Content-Security-Policy`. `$NONCE` becomes `'nonce-…'` with a new random value for each response.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content_security_policy: String,
    /// `Content-Security-Policy-Report-Only`, likewise.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub content_security_policy_report_only: String,
    /// `Public-Key-Pins`, over HTTPS.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub public_key: String,
    /// `Referrer-Policy`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub referrer_policy: String,
    /// `Permissions-Policy`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub permissions_policy: String,
    /// Disables `allowedHosts`, `stsSeconds` and `publicKey`.
    #[serde(skip_serializing_if = "is_default")]
    pub is_development: bool,
    /// Deprecated in Traefik and without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_policy: Option<String>,
    /// Deprecated in Traefik and without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssl_redirect: Option<bool>,
    /// Deprecated in Traefik and without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssl_temporary_redirect: Option<bool>,
    /// Deprecated in Traefik and without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssl_host: Option<String>,
    /// Deprecated in Traefik and without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssl_force_host: Option<bool>,
}

impl Headers {
    /// Returns the deprecated options that are set.
    fn deprecated_options(&self) -> Vec<&'static str> {
        let set = |option: Option<bool>| option == Some(true);
        let given = |option: &Option<String>| option.as_ref().is_some_and(|text| !text.is_empty());
        [
            (given(&self.feature_policy), "featurePolicy"),
            (set(self.ssl_redirect), "sslRedirect"),
            (set(self.ssl_temporary_redirect), "sslTemporaryRedirect"),
            (given(&self.ssl_host), "sslHost"),
            (set(self.ssl_force_host), "sslForceHost"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect()
    }
}

impl Build for Headers {
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let ignored = self.deprecated_options();
        for option in &ignored {
            tracing::warn!(
                middleware = context.name,
                option,
                "this option has no effect, as in Traefik: remove it"
            );
        }
        let lists =
            BuildErrors::both(edits(&self.custom_request_headers), edits(&self.custom_response_headers));
        let own = BuildErrors::both(Secure::new(self), Cors::new(self, context.name));
        let ((secure, cors), (request, response)) = BuildErrors::both(own, lists)?;
        let nothing = secure.is_none() && cors.is_none() && request.is_empty() && response.is_empty();
        if nothing && ignored.is_empty() {
            return Err(BuildError::new("headers configuration not valid"));
        }
        if cors.is_none() && secure.is_none() && response.is_empty() {
            return Ok(Arc::new(RequestOnly(request)));
        }
        Ok(Arc::new(All { request, response, cors, secure }))
    }
}

/// Headers to set, or to remove when there is no value.
type Edits = Vec<(HeaderName, Option<HeaderValue>)>;

fn edits(headers: &BTreeMap<String, String>) -> Result<Edits, BuildError> {
    BuildErrors::collect(headers.iter().map(|(name, value)| {
        let value = if value.is_empty() { None } else { Some(header_value(name, value)?) };
        Ok((header_name(name)?, value))
    }))
}

fn header_name(name: &str) -> Result<HeaderName, BuildError> {
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| BuildError::new(format!("invalid header name `{name}`")))
}

/// Returns the value for the header or option `name`.
fn header_value(name: &str, value: &str) -> Result<HeaderValue, BuildError> {
    HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| BuildError::new(format!("{name}: control characters are not allowed in `{value}`")))
}

fn edit(headers: &mut HeaderMap, edits: &Edits) {
    for (name, value) in edits {
        match value {
            Some(value) => {
                headers.insert(name.clone(), value.clone());
            }
            None => {
                headers.remove(name);
            }
        }
    }
}

fn edit_request(request: &mut Request, edits: &Edits) {
    for (name, value) in edits {
        match value {
            Some(value) => {
                request.head.headers.insert(name.clone(), value.clone());
            }
            // A request needs a host: removing it has no effect, as in Traefik.
            None if name == HOST => {}
            None => {
                request.head.headers.remove(name);
                if name == "x-forwarded-for" {
                    request.context.omit_forwarded_for = true;
                }
            }
        }
    }
}

/// Changes only request headers, so it need not wait for the response.
struct RequestOnly(Edits);

impl Middleware for RequestOnly {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        edit_request(&mut request, &self.0);
        next.run(request)
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

struct All {
    request: Edits,
    response: Edits,
    cors: Option<Cors>,
    secure: Option<Secure>,
}

impl Middleware for All {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if let Some(answer) = self.cors.as_ref().and_then(|cors| cors.preflight(&request)) {
            return crate::ready(answer);
        }
        edit_request(&mut request, &self.request);
        let origin = self.cors.as_ref().and_then(|cors| cors.allowed_origin(&request.head.headers));
        if let Some(refusal) = self.secure.as_ref().and_then(|secure| secure.refusal(&request)) {
            return crate::ready(self.finish(refusal, origin));
        }
        let is_https = self.secure.as_ref().is_some_and(|secure| secure.is_https(&request));
        let response = next.run(request);
        boxed(move || async move {
            let mut response = response.await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                // As in Traefik: these headers belong to the protocol switch.
                return response;
            }
            if let Some(secure) = &self.secure {
                secure.add_to(response.headers_mut(), is_https);
            }
            self.finish(response, origin)
        })
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

impl All {
    fn finish(&self, mut response: Response, origin: Option<HeaderValue>) -> Response {
        edit(response.headers_mut(), &self.response);
        if let Some(cors) = &self.cors {
            cors.add_to(response.headers_mut(), origin);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get, request};
    use http::Request as Head;
    use tidegate_core::Body;

    pub(super) fn options(json: &str) -> Headers {
        serde_json::from_str(json).unwrap()
    }

    pub(super) fn answer(json: &str, request: Request) -> Response {
        testing::response_of(options(json), request, |_| {
            let mut response = Response::new(Body::full("reached"));
            response.headers_mut().insert("x-backend", HeaderValue::from_static("b"));
            response
        })
    }

    /// Returns the value of a response header, or an empty string.
    pub(super) fn header<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn request_headers_are_set_and_removed() {
        let json = r#"{"customRequestHeaders": {"X-Req": "v", "X-Del": "", "Host": "over.test", "X-Forwarded-For": ""}}"#;
        let sent = Head::get("http://h.test/")
            .header("x-del", "1")
            .header("x-req", "old")
            .header("x-forwarded-for", "1.1.1.1");
        let seen = testing::request_after(options(json), request(sent));
        assert_eq!(seen.head.headers["x-req"], "v");
        assert_eq!(seen.host(), "over.test");
        assert!(!seen.head.headers.contains_key("x-del"));
        assert!(!seen.head.headers.contains_key("x-forwarded-for"));
        assert!(seen.context.omit_forwarded_for);
    }

    #[test]
    fn response_headers_are_set_and_removed() {
        let response =
            answer(r#"{"customResponseHeaders": {"X-Res": "w", "X-Backend": ""}}"#, get("http://h.test/"));
        assert_eq!(header(&response, "x-res"), "w");
        assert_eq!(header(&response, "x-backend"), "");
    }

    #[test]
    fn nothing_configured_is_an_error() {
        for (json, expected) in [
            ("{}", Some("headers configuration not valid")),
            (r#"{"frameDeny": false}"#, Some("headers configuration not valid")),
            (r#"{"sslRedirect": true}"#, None),
            (r#"{"customRequestHeaders": {"a b": "1"}}"#, Some("invalid header name `a b`")),
        ] {
            let error = testing::build_in(&testing::World::default(), options(json)).err();
            assert_eq!(error.map(|e| e.to_string()).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn options_keep_their_names_and_order() {
        let json = concat!(
            r#"{"accessControlMaxAge":0,"stsSeconds":10,"stsIncludeSubdomains":true,"forceSTSHeader":true,"#,
            r#""browserXssFilter":true,"customBrowserXSSValue":"0","sslRedirect":false}"#
        );
        assert_eq!(serde_json::to_string(&options(json)).unwrap(), json);
    }
}
