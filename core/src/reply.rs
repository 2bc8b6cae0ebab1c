//! Responses that the gateway makes itself, byte for byte as Traefik's users know them.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};

use crate::{Body, Reason, Response, UpstreamError};

/// A status without a body.
pub fn empty(status: StatusCode, reason: Reason) -> Response {
    let mut response = bare(status, "", reason);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// A status with a body and no content type.
pub fn bare(status: StatusCode, body: impl Into<bytes::Bytes>, reason: Reason) -> Response {
    let mut response = Response::new(Body::full(body.into())).because(reason);
    *response.status_mut() = status;
    response
}

/// A status whose body is its own text (`Forbidden`), without a content type.
pub fn status_text(status: StatusCode, reason: Reason) -> Response {
    bare(status, text_of(status), reason)
}

/// A plain-text body with a line feed, as Go's `http.Error` writes it: `text/plain` and `nosniff`.
pub fn error(status: StatusCode, message: &str, reason: Reason) -> Response {
    let mut response = bare(status, format!("{message}\n"), reason);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// The answer to a request for something that is not there, as Go's `http.NotFound` writes it.
pub fn not_found(reason: Reason) -> Response {
    error(StatusCode::NOT_FOUND, "404 page not found", reason)
}

/// The answer that stands for a failure to reach a server, which it carries.
pub fn upstream_failure(failure: UpstreamError) -> Response {
    let reason = Reason::from(&failure);
    let response = match failure {
        UpstreamError::NoServer => error(StatusCode::SERVICE_UNAVAILABLE, "no available server", reason),
        ref other => status_text(other.status(), reason),
    };
    Response { failure: Some(Box::new(failure)), ..response }
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
