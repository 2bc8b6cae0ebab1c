//! What is said about an error, and the forms without a file.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, StatusCode};
use minijinja::value::Value;
use tidegate_core::{Body, Exchange, Reason, Response, reply};

use super::Asked;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The names of values in templates.
pub(super) const NAMES: &str = "status, title, detail, code, method, host, path, requestId, retryAfter";

/// What is said about an error. None of it helps to guess credentials or shows how the gateway is configured.
pub(super) struct Details<'a> {
    status: StatusCode,
    code: &'static str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    request_id: Option<&'a str>,
    /// In seconds.
    retry_after: Option<u64>,
}

impl<'a> Details<'a> {
    /// Collects what is known about an error.
    pub(super) fn new(
        response: &Response,
        reason: Reason,
        asked: &'a Asked,
        exchange: Option<&'a Exchange>,
    ) -> Self {
        let retry_after = response.headers().get(RETRY_AFTER);
        Self {
            status: response.status(),
            code: reason.public().name(),
            method: asked.method.as_str(),
            host: asked.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(""),
            path: asked.uri.path(),
            request_id: exchange.and_then(Exchange::request_id),
            retry_after: retry_after.and_then(|value| value.to_str().ok()?.parse().ok()),
        }
    }

    /// Returns details of an error that has all of them, to try a template with.
    pub(super) fn sample() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: Reason::NoServer.name(),
            method: "GET",
            host: "example.com",
            path: "/",
            request_id: Some("0"),
            retry_after: Some(1),
        }
    }

    fn title(&self) -> &'static str {
        reply::text_of(self.status)
    }

    /// Returns a sentence for the person in front of the client.
    fn detail(&self) -> &'static str {
        match self.status.as_u16() {
            400 => "The request is not valid.",
            401 => "You need to sign in, or your credentials are not valid.",
            403 => "You do not have permission to access this.",
            404 => "Nothing was found at this address.",
            408 => "The request took too long to arrive.",
            413 => "The request is too large.",
            414 => "The address is too long.",
            421 => "This address needs another connection.",
            429 => "There were too many requests. Please try again later.",
            431 => "The request has too many or too long header fields.",
            502 => "The server behind this address could not be reached, or its response is not valid.",
            503 => "The service is not available at the moment. Please try again later.",
            504 => "The server behind this address did not respond in time.",
            500..=599 => "Something went wrong.",
            _ => "The request was refused.",
        }
    }

    /// Returns the values of a template.
    pub(super) fn values(&self) -> Value {
        minijinja::context! {
            status => self.status.as_u16(),
            title => self.title(),
            detail => self.detail(),
            code => self.code,
            method => self.method,
            host => self.host,
            path => self.path,
            requestId => self.request_id.unwrap_or(""),
            retryAfter => self.retry_after,
        }
    }
}

/// A form without a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BuiltIn {
    Problem,
    Html,
    Text,
}

impl BuiltIn {
    /// What `Accept` can choose, by media type. Clients that accept everything get the first one.
    pub(super) const OFFERED: [(&'static str, Self); 4] = [
        ("text/plain", Self::Text),
        ("text/html", Self::Html),
        ("application/problem+json", Self::Problem),
        ("application/json", Self::Problem),
    ];

    /// Returns the value of `Content-Type`.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Problem => "application/problem+json",
            Self::Html => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
        }
    }

    /// Returns the body.
    pub(super) fn render(self, details: &Details<'_>) -> Bytes {
        match self {
            Self::Problem => problem(details),
            Self::Html => html(details),
            Self::Text => text(details),
        }
    }
}

/// Problem details (RFC 9457).
fn problem(details: &Details<'_>) -> Bytes {
    let mut problem = serde_json::json!({
        "type": "about:blank",
        "title": details.title(),
        "status": details.status.as_u16(),
        "detail": details.detail(),
        "instance": details.path,
        "code": details.code,
    });
    if let Some(id) = details.request_id {
        problem["requestId"] = id.into();
    }
    if let Some(seconds) = details.retry_after {
        problem["retryAfter"] = seconds.into();
    }
    problem.to_string().into()
}

fn text(details: &Details<'_>) -> Bytes {
    let mut text = format!("{} {}: {}", details.status.as_u16(), details.title(), details.detail());
    // Writing to a string cannot fail, here and below.
    let _ = write!(text, " [{}", details.code);
    if let Some(id) = details.request_id {
        let _ = write!(text, ", request {id}");
    }
    text.push_str("]\n");
    text.into()
}

fn html(details: &Details<'_>) -> Bytes {
    let (status, title) = (details.status.as_u16(), details.title());
    let mut facts = format!("<code>{}</code>", details.code);
    if let Some(id) = details.request_id {
        let _ = write!(facts, " · request <code>{}</code>", escaped(id));
    }
    let retry = details.retry_after.map_or_else(String::new, |seconds| {
        let unit = if seconds == 1 { "second" } else { "seconds" };
        format!("<p>Try again in {seconds} {unit}.</p>\n")
    });
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{status} {title}</title>\n\
         <style>body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:20vh auto 0;padding:0 1rem}}\
         h1{{font-size:1.5rem}}small{{opacity:.7}}</style>\n\
         <main>\n<h1>{status} {title}</h1>\n<p>{}</p>\n{retry}<small>{facts}</small>\n</main>\n</html>\n",
        details.detail(),
    )
    .into()
}

/// Escapes text for HTML.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Turns an error into a response that consists of trailers only, which is what gRPC clients read.
pub(super) fn into_grpc(response: &mut Response, reason: Reason) {
    let status = response.status();
    let message = format!("{} ({})", reply::text_of(status), reason.public().name());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.remove(CONTENT_LENGTH);
    headers.insert(GRPC_STATUS, HeaderValue::from(grpc_code(status)));
    if let Ok(message) = HeaderValue::try_from(message) {
        headers.insert(GRPC_MESSAGE, message);
    }
    response.body = Body::empty();
}

/// Returns the gRPC status for an HTTP status, as gRPC clients would conclude it, but more precise where the gateway
/// knows more: a timeout is a deadline, and a limit an exhausted resource.
fn grpc_code(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 | 431 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        413 | 429 => 8,
        502 | 503 => 14,
        408 | 504 => 4,
        _ => 2,
    }
}
