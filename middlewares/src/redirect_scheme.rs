//! Redirects to another scheme or port, usually from HTTP to HTTPS.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Request, Response,
};

use crate::location;

/// Traefik's `redirectScheme`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RedirectScheme {
    /// The scheme to redirect to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// The port to redirect to; the scheme's default port when empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port: String,
    /// Uses 301 and 308 instead of 302 and 307.
    #[serde(skip_serializing_if = "tidegate_core::values::is_default")]
    pub permanent: bool,
}

impl Build for RedirectScheme {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.scheme.is_empty() {
            return Err(BuildError::new("you must provide a target scheme"));
        }
        let port = if self.port.is_empty() || is_default_port(&self.scheme, &self.port) {
            String::new()
        } else {
            format!(":{}", self.port)
        };
        Ok(Arc::new(Redirect { scheme: self.scheme.clone(), port, permanent: self.permanent }))
    }
}

struct Redirect {
    scheme: String,
    /// With its colon, or empty.
    port: String,
    permanent: bool,
}

impl Middleware for Redirect {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let (host, port) = split_port(request.host());
        let scheme = client_scheme(&request);
        let old_port = port.filter(|port| !is_default_port(scheme, port));
        let new_port = self.port.strip_prefix(':');
        if scheme == self.scheme && old_port == new_port {
            return next.run(request);
        }
        let target = request.original_target();
        let url = format!("{}://{host}{}{target}", self.scheme, self.port);
        crate::ready(location::redirect(&url, &request.head.method, self.permanent))
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

/// Returns the client's scheme according to the entry point or a trusted proxy.
fn client_scheme(request: &Request) -> &'static str {
    let forwarded = request.head.headers.get("x-forwarded-proto").map_or(&b""[..], |value| value.as_bytes());
    let is = |name: &str| forwarded.eq_ignore_ascii_case(name.as_bytes());
    if is("http") || is("ws") {
        "http"
    } else if is("https") || is("wss") || request.context.is_tls() {
        "https"
    } else {
        "http"
    }
}

fn is_default_port(scheme: &str, port: &str) -> bool {
    matches!((scheme, port), ("http", "80") | ("https", "443"))
}

/// Splits a host, where IPv6 addresses keep their brackets, from its port.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if name.ends_with(']') || !name.contains(':') => {
            (name, Some(port).filter(|port| !port.is_empty()))
        }
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get, request};
    use http::Request as Head;
    use tidegate_core::Body;

    fn options(scheme: &str, port: &str) -> RedirectScheme {
        RedirectScheme { scheme: scheme.to_owned(), port: port.to_owned(), permanent: false }
    }

    fn location(options: RedirectScheme, request: Request) -> Option<String> {
        let response = testing::response_of(options, request, |_| Response::new(Body::empty()));
        let location = response.headers().get("location")?.to_str().unwrap().to_owned();
        assert_eq!(response.status(), 302);
        assert!(!response.headers().contains_key("content-type"));
        assert_eq!(testing::text(response), "Found");
        Some(location)
    }

    #[test]
    fn clients_are_redirected_to_the_other_scheme() {
        for (options, url, expected) in [
            (options("https", ""), "http://h.test/x?y=1", Some("https://h.test/x?y=1")),
            (options("https", ""), "http://h.test:8080/", Some("https://h.test/")),
            (options("https", "443"), "http://h.test/", Some("https://h.test/")),
            (options("https", "8443"), "http://h.test:8080/", Some("https://h.test:8443/")),
            (options("https", "8443"), "https://h.test/", Some("https://h.test:8443/")),
            (options("https", ""), "http://[::1]:80/", Some("https://[::1]/")),
            (options("https", ""), "https://h.test/", None),
            (options("https", ""), "https://h.test:443/", None),
            (options("https", "8443"), "https://h.test:8443/", None),
            (options("http", ""), "http://h.test:8080/", Some("http://h.test/")),
        ] {
            assert_eq!(location(options, get(url)).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn the_forwarded_scheme_counts() {
        for (proto, redirected) in
            [("https", false), ("WSS", false), ("http", true), ("ws", true), ("x", true)]
        {
            let request = request(Head::get("http://h.test/").header("x-forwarded-proto", proto));
            assert_eq!(location(options("https", ""), request).is_some(), redirected, "{proto}");
        }
    }

    #[test]
    fn a_scheme_is_required() {
        let error = testing::build_in(&testing::World::default(), options("", "1")).err();
        assert_eq!(error, Some(BuildError::new("you must provide a target scheme")));
    }
}
