//! `dashboard@internal`: a page that shows what the API says.

use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use tidegate_core::{Body, BoxFuture, Handler, Request, Response, reply};

use crate::service::Service;
use crate::settings::Api as Options;

/// Nothing but our own files, and no page may frame ours.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";
const PAGE: &str = include_str!("dashboard/index.html");

/// The files beside the page: name, media type, content.
const FILES: [(&str, &str, &str); 3] = [
    ("style.css", "text/css; charset=utf-8", include_str!("dashboard/style.css")),
    ("main.js", "text/javascript; charset=utf-8", include_str!("dashboard/main.js")),
    ("icon.svg", "image/svg+xml", include_str!("dashboard/icon.svg")),
];

/// The service. It expects paths without `/dashboard`.
pub(super) struct Dashboard {
    page: String,
    base: String,
}

impl Dashboard {
    /// A dashboard for the API at this base path.
    pub(super) fn new(options: &Options) -> Self {
        let base = options.base_path.trim_end_matches('/').to_owned();
        let title = if options.dashboard_name.is_empty() { "Tidegate" } else { &options.dashboard_name };
        let page = PAGE.replace("{title}", &escape(title)).replace("{base}", &escape(&base));
        Self { page, base }
    }

    /// What `api@internal` serves beside the API: the redirect of its root, and the dashboard itself.
    pub(super) fn beside_api(&self, path: &str, request: &Request) -> Option<Response> {
        if request.head.method != Method::GET {
            return None;
        }
        if path == "/" || path.is_empty() {
            let prefix = request.head.headers.get("x-forwarded-prefix").and_then(|value| value.to_str().ok());
            let prefix = prefix.unwrap_or("").trim_end_matches('/');
            return Some(found(&format!("{prefix}{}/dashboard/", self.base)));
        }
        path.strip_prefix("/dashboard/").map(|path| self.file(path))
    }

    fn file(&self, path: &str) -> Response {
        let mut response = match path.trim_start_matches('/') {
            "" => of("text/html; charset=utf-8", self.page.clone()),
            name => match FILES.iter().find(|(file, ..)| *file == name) {
                Some((_, media, content)) => of(media, *content),
                None => reply::not_found(),
            },
        };
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }
}

impl Handler for Dashboard {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        let response = match request.head.method {
            Method::GET | Method::HEAD => self.file(request.path()),
            _ => reply::empty(StatusCode::METHOD_NOT_ALLOWED),
        };
        Box::pin(std::future::ready(response))
    }
}

impl Service for Dashboard {
    fn is_up(&self) -> bool {
        true
    }
}

fn of(media: &'static str, content: impl Into<bytes::Bytes>) -> Response {
    let mut response = Response::new(Body::full(content));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A redirect without a body.
fn found(location: &str) -> Response {
    let Ok(value) = HeaderValue::from_str(location) else { return reply::empty(StatusCode::BAD_REQUEST) };
    let mut response = reply::empty(StatusCode::FOUND);
    response.headers_mut().insert(LOCATION, value);
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}
