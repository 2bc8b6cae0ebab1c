//! Responses that the gateway makes itself, byte for byte as Traefik's users know them.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};

use crate::{Body, Response, UpstreamError};

/// A status without a body.
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// A status with a body and no content type.
pub fn bare(status: StatusCode, body: impl Into<bytes::Bytes>) -> Response {
    let mut response = Response::new(Body::full(body.into()));
    *response.status_mut() = status;
    response
}

/// A status whose body is its own text (`Forbidden`), without a content type.
pub fn status_text(status: StatusCode) -> Response {
    bare(status, text_of(status))
}

/// A plain-text body with a line feed, as Go's `http.Error` writes it: `text/plain` and `nosniff`.
pub fn error(status: StatusCode, message: &str) -> Response {
    let mut response = bare(status, format!("{message}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The answer to a request that no router takes.
pub fn not_found() -> Response {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

/// The answer that stands for a failure to reach a server; it carries the failure as an extension.
pub fn upstream_failure(failure: UpstreamError) -> Response {
    let mut response = match failure {
        UpstreamError::NoServer => error(StatusCode::SERVICE_UNAVAILABLE, "no available server"),
        ref other => status_text(other.status()),
    };
    response.extensions_mut().insert(failure);
    response
}

/// The text of a status as Go's `http.StatusText` has it, with nginx's 499 beside.
pub fn text_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        413 => "Request Entity Too Large",
        416 => "Requested Range Not Satisfiable",
        418 => "I'm a teapot",
        499 => "Client Closed Request",
        _ => status.canonical_reason().unwrap_or(""),
    }
}
