//! `dashboard@internal`: a page that shows the data of the API.

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use tidegate_core::{Body, BoxFuture, Handler, Reason, Request, Response, reply};

use crate::service::Service;
use crate::settings::Api as Options;

/// Allows only our own files, and forbids framing.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
/// Characters to escape in a path. Prefixes from `stripPrefix` are not escaped, those of proxies may be.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
const PAGE: &str = include_str!("dashboard/index.html");

/// Lists script modules by name.
macro_rules! modules {
    ($($name:literal)*) => {
        &[$(($name, "text/javascript; charset=utf-8", include_str!(concat!("dashboard/", $name)))),*]
    };
}

/// Style and icon: name, media type, content.
const ASSETS: &[(&str, &str, &str)] = &[
    ("style.css", "text/css; charset=utf-8", include_str!("dashboard/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("dashboard/icon.svg")),
];
/// The script: a module for each page, and what they share.
const MODULES: &[(&str, &str, &str)] = modules![
    "api.js"
    "caches.js"
    "certificates.js"
    "consumers.js"
    "dom.js"
    "explain.js"
    "limits.js"
    "lists.js"
    "main.js"
    "maintenance.js"
    "object.js"
    "operator.js"
    "options.js"
    "overview.js"
    "pages.js"
    "parts.js"
    "picture.js"
    "request.js"
    "requests.js"
    "router.js"
    "sessions.js"
    "statistics.js"
];

/// The service. Expects paths without `/dashboard`.
pub(super) struct Dashboard {
    title: String,
    base: String,
}

impl Dashboard {
    /// Creates a dashboard for the API at this base path.
    pub(super) fn new(options: &Options) -> Self {
        let base = options.base().to_owned();
        let title = if options.dashboard_name.is_empty() { "Tidegate" } else { &options.dashboard_name };
        Self { title: escape(title), base }
    }

    /// Handles what `api@internal` serves besides the API: redirects to the dashboard, and the dashboard.
    pub(super) fn beside_api(&self, path: &str, request: &Request) -> Option<Response> {
        if request.head.method != Method::GET {
            return None;
        }
        if path == "/" || path.is_empty() || path == "/dashboard" {
            let prefix = stripped_prefix(&request.head.headers);
            return Some(found(&format!("{prefix}{}/dashboard/", self.base)));
        }
        let file = path.strip_prefix("/dashboard/")?;
        Some(self.file(file, &stripped_prefix(&request.head.headers)))
    }

    /// Returns a file, or the page for the API below this prefix.
    fn file(&self, path: &str, prefix: &str) -> Response {
        let mut response = match path.trim_start_matches('/') {
            "" => {
                let base = escape(&format!("{prefix}{}", self.base));
                let page = PAGE.replace("{base}", &base).replace("{title}", &self.title);
                of("text/html; charset=utf-8", page)
            }
            name => match ASSETS.iter().chain(MODULES).find(|(file, ..)| *file == name) {
                Some((_, media, content)) => of(media, *content),
                None => reply::not_found(Reason::OwnService),
            },
        };
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }
}

impl Handler for Dashboard {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        let response = match request.head.method {
            Method::GET | Method::HEAD => {
                // The stripped prefix is the location of the page; the API is next to it.
                let prefix = stripped_prefix(&request.head.headers);
                self.file(request.path(), prefix.strip_suffix("/dashboard").unwrap_or(""))
            }
            _ => reply::empty(StatusCode::METHOD_NOT_ALLOWED, Reason::OwnService),
        };
        Box::pin(std::future::ready(response))
    }
}

impl Service for Dashboard {
    fn is_up(&self) -> bool {
        true
    }
}

/// Returns the path that middlewares and trusted proxies removed, escaped and without a trailing slash. Empty
/// if a browser would not interpret it as a path on the same host.
fn stripped_prefix(headers: &HeaderMap) -> String {
    let mut all = String::new();
    for value in headers.get_all("x-forwarded-prefix") {
        for part in value.as_bytes().split(|byte| *byte == b',') {
            all += &percent_encode(part.trim_ascii(), PATH).to_string();
            all.truncate(all.trim_end_matches('/').len());
        }
    }
    if all.starts_with('/') && !all.starts_with("//") { all } else { String::new() }
}

fn of(media: &'static str, content: impl Into<bytes::Bytes>) -> Response {
    let mut response = Response::new(Body::full(content)).because(Reason::OwnService);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Returns a redirect without a body.
fn found(location: &str) -> Response {
    let Ok(value) = HeaderValue::from_str(location) else {
        return reply::empty(StatusCode::BAD_REQUEST, Reason::OwnService);
    };
    let mut response = reply::empty(StatusCode::FOUND, Reason::OwnService);
    response.headers_mut().insert(LOCATION, value);
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}
