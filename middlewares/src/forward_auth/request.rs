//! The request to the authentication server.

use http::header::{CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use tidegate_core::{Body, Request};

/// Hop-by-hop headers.
pub(super) const HOP_HEADERS: [HeaderName; 6] = [
    http::header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    http::header::TE,
    http::header::TRAILER,
    http::header::TRANSFER_ENCODING,
    http::header::UPGRADE,
];

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const HOST_NAME: HeaderName = HeaderName::from_static("x-forwarded-host");
const METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Replaces a `User-Agent` that is not passed on. Traefik sends this value, since firewalls refuse requests
/// without one.
const DEFAULT_USER_AGENT: HeaderValue = HeaderValue::from_static("Go-http-client/1.1");

/// Headers added by earlier proxies.
const FORWARDED: [HeaderName; 11] = [
    FOR,
    HOST_NAME,
    METHOD,
    PORT,
    PROTO,
    URI,
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-forwarded-tls-client-cert"),
    HeaderName::from_static("x-forwarded-tls-client-cert-info"),
    HeaderName::from_static("x-real-ip"),
];

/// Builds requests to the authentication server.
pub(super) struct Forwarding {
    address: Uri,
    trust: Option<bool>,
    /// Headers to pass on; all when empty.
    names: Vec<HeaderName>,
}

impl Forwarding {
    pub(super) fn new(address: Uri, trust: Option<bool>, names: &[HeaderName]) -> Self {
        let mut names = names.to_vec();
        if trust == Some(true) && !names.is_empty() {
            names.extend(FORWARDED);
        }
        Self { address, trust, names }
    }

    /// Builds the request about `request`.
    pub(super) fn request(&self, request: &Request, method: Method, body: Body) -> Request {
        let mut head = http::Request::new(()).into_parts().0;
        head.method = method;
        head.uri = self.address.clone();
        head.headers = self.headers(request);
        if let Some(authority) = self.address.authority()
            && let Ok(host) = HeaderValue::from_str(without_user(authority.as_str()))
        {
            head.headers.insert(HOST, host);
        }
        Request::new(head, body, request.context.aside())
    }

    fn headers(&self, request: &Request) -> HeaderMap {
        let all = &request.head.headers;
        let mut headers = all.clone();
        for value in all.get_all(http::header::CONNECTION) {
            for name in value.to_str().unwrap_or("").split(',') {
                headers.remove(name.trim());
            }
        }
        for name in HOP_HEADERS.iter().chain([&CONTENT_LENGTH, &HOST]) {
            headers.remove(name);
        }
        if self.trust == Some(false) {
            for name in &FORWARDED {
                headers.remove(name);
            }
        }
        if !self.names.is_empty() {
            headers = self.only_listed(&headers);
        }
        // With `trustForwardHeader`, Traefik does not add a missing `User-Agent`.
        if self.trust.is_none() || !self.names.is_empty() {
            headers.entry(USER_AGENT).or_insert(DEFAULT_USER_AGENT);
        }
        match self.trust {
            Some(_) => add_missing(&mut headers, request),
            None => set_some(&mut headers, request),
        }
        headers
    }

    fn only_listed(&self, all: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in &self.names {
            if !headers.contains_key(name) {
                for value in all.get_all(name) {
                    headers.append(name, value.clone());
                }
            }
        }
        headers
    }
}

/// Adds the client and missing headers, as Traefik does when `trustForwardHeader` is set.
fn add_missing(headers: &mut HeaderMap, request: &Request) {
    let client = request.context.exchange.connection.peer.ip().to_canonical().to_string();
    let earlier: Vec<&str> = headers.get_all(FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let chain = if earlier.is_empty() { client } else { format!("{}, {client}", earlier.join(", ")) };
    set(headers, FOR, &chain);
    let mut add = |name: HeaderName, value: &str| {
        if !headers.contains_key(&name) {
            set(headers, name, value);
        }
    };
    add(METHOD, request.head.method.as_str());
    add(PROTO, if request.context.is_tls() { "https" } else { "http" });
    add(HOST_NAME, request.host());
    add(URI, target(request));
    if !headers.contains_key(PORT) {
        let port = port(request, headers);
        set(headers, PORT, &port);
    }
}

/// Overwrites some headers, as Traefik does when `trustForwardHeader` is not set.
fn set_some(headers: &mut HeaderMap, request: &Request) {
    set(headers, FOR, &request.context.exchange.connection.peer.ip().to_canonical().to_string());
    set(headers, PROTO, if request.context.is_tls() { "https" } else { "http" });
    set(headers, METHOD, request.head.method.as_str());
    set(headers, HOST_NAME, request.host());
    set(headers, URI, target(request));
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn target(request: &Request) -> &str {
    request.head.uri.path_and_query().map_or("/", |target| target.as_str())
}

fn port(request: &Request, headers: &HeaderMap) -> String {
    let host = request.host();
    if let Some((_, port)) = host.rsplit_once(':')
        && !port.is_empty()
        && port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return port.to_owned();
    }
    let proto = headers.get(PROTO).map_or(&b""[..], HeaderValue::as_bytes);
    let secure = proto == b"https" || proto == b"wss" || request.context.is_tls();
    if secure { "443" } else { "80" }.to_owned()
}

fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::with_body;

    fn asked(trust: Option<bool>, names: &[HeaderName]) -> Vec<String> {
        let builder = http::Request::post("http://h.test:99/p?q=1")
            .header("X-A", "1")
            .header("Connection", "X-Hop")
            .header("X-Hop", "1")
            .header("Te", "trailers")
            .header("Content-Length", "5")
            .header("X-Real-Ip", "9.9.9.9")
            .header("X-Forwarded-For", "8.8.8.8")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Prefix", "/pre");
        let forwarding = Forwarding::new("http://auth.test:81/x".parse().unwrap(), trust, names);
        let request = forwarding.request(&with_body(builder, "hello"), Method::GET, Body::empty());
        assert_eq!(request.head.uri, "http://auth.test:81/x");
        let mut lines: Vec<String> = request
            .head
            .headers
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    const USER_AGENT_LINE: &str = "user-agent=Go-http-client/1.1";
    const SET: [&str; 4] = [
        "host=auth.test:81",
        "x-forwarded-host=h.test:99",
        "x-forwarded-method=POST",
        "x-forwarded-uri=/p?q=1",
    ];

    fn expect(lines: Vec<String>, others: &[&str]) {
        let mut expected: Vec<String> = SET.iter().chain(others).map(|s| s.to_string()).collect();
        expected.sort();
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_request_is_described() {
        expect(
            asked(None, &[]),
            &[
                USER_AGENT_LINE,
                "x-a=1",
                "x-real-ip=9.9.9.9",
                "x-forwarded-for=127.0.0.1",
                "x-forwarded-proto=http",
                "x-forwarded-prefix=/pre",
            ],
        );
        expect(
            asked(Some(false), &[]),
            &["x-a=1", "x-forwarded-for=127.0.0.1", "x-forwarded-proto=http", "x-forwarded-port=99"],
        );
        expect(
            asked(Some(true), &[]),
            &[
                "x-a=1",
                "x-real-ip=9.9.9.9",
                "x-forwarded-for=8.8.8.8, 127.0.0.1",
                "x-forwarded-proto=https",
                "x-forwarded-port=99",
                "x-forwarded-prefix=/pre",
            ],
        );
    }

    #[test]
    fn only_listed_headers_are_passed_on() {
        let names = [HeaderName::from_static("x-a")];
        expect(
            asked(None, &names),
            &[USER_AGENT_LINE, "x-a=1", "x-forwarded-for=127.0.0.1", "x-forwarded-proto=http"],
        );
        expect(
            asked(Some(true), &names),
            &[
                USER_AGENT_LINE,
                "x-a=1",
                "x-real-ip=9.9.9.9",
                "x-forwarded-for=8.8.8.8, 127.0.0.1",
                "x-forwarded-proto=https",
                "x-forwarded-port=99",
                "x-forwarded-prefix=/pre",
            ],
        );
    }
}
