//! Responses of the gateway, byte for byte like Traefik's.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};

use crate::{Body, Reason, Response, UpstreamError};

/// Returns a response without a body.
pub fn empty(status: StatusCode, reason: Reason) -> Response {
    let mut response = bare(status, "", reason);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// Returns a response with a body and no content type.
pub fn bare(status: StatusCode, body: impl Into<bytes::Bytes>, reason: Reason) -> Response {
    let mut response = Response::new(Body::full(body.into())).because(reason);
    *response.status_mut() = status;
    response
}

/// Returns a response whose body is the status text (`Forbidden`), without a content type.
pub fn status_text(status: StatusCode, reason: Reason) -> Response {
    bare(status, text_of(status), reason)
}

/// Returns a plain-text response with a line feed, like Go's `http.Error`: `text/plain` and `nosniff`.
pub fn error(status: StatusCode, message: &str, reason: Reason) -> Response {
    let mut response = bare(status, format!("{message}\n"), reason);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns the response for something that does not exist, like Go's `http.NotFound`.
pub fn not_found(reason: Reason) -> Response {
    error(StatusCode::NOT_FOUND, "404 page not found", reason)
}

/// Returns the response that represents a failure to reach a server, and carries it.
pub fn upstream_failure(failure: UpstreamError) -> Response {
    let reason = Reason::from(&failure);
    let response = match failure {
        UpstreamError::NoServer => error(StatusCode::SERVICE_UNAVAILABLE, "no available server", reason),
        ref other => status_text(other.status(), reason),
    };
    Response { failure: Some(Box::new(failure)), ..response }
}

/// Returns the text of a status as in Go's `http.StatusText`, plus nginx's 499.
pub fn text_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        413 => "Request Entity Too Large",
        416 => "Requested Range Not Satisfiable",
        418 => "I'm a teapot",
        499 => "Client Closed Request",
        _ => status.canonical_reason().unwrap_or(""),
    }
}
