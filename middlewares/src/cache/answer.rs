//! Responses that are made of stored ones.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use tidegate_cache::cache_status::{CACHE_STATUS, CacheStatus};
use tidegate_cache::memory::Object;
use tidegate_cache::rules::{self, range};
use tidegate_cache::{Head, Timestamp};
use tidegate_core::{Body, Reason, Response, reply};

use super::body::Pieces;

/// The name of the cache in `Cache-Status`.
pub(super) const NAME: &str = "tidegate";

/// The response to a request with `request` as its fields, from a stored body and a head, which may be newer.
pub(super) fn from_store(
    method: &Method,
    request: &HeaderMap,
    head: &Head,
    object: &Object,
    now: Timestamp,
) -> Response {
    if rules::is_not_modified(head, request) {
        return response(StatusCode::NOT_MODIFIED, rules::not_modified_headers(head, now), Body::empty());
    }
    let mut headers = head.response_headers(now);
    let length = object.length();
    if *method == Method::HEAD {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        return response(head.status, headers, Body::empty());
    }
    match range::select(head, request, length) {
        range::Selected::Whole => {
            if length > 0 {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            response(head.status, headers, Pieces::body(object.body().iter().cloned()))
        }
        range::Selected::Part { first, last } => {
            range::partial_headers(&mut headers, first, last, length);
            response(StatusCode::PARTIAL_CONTENT, headers, Pieces::body(object.part(first, last)))
        }
        range::Selected::Unsatisfiable => {
            let mut response = reply::status_text(StatusCode::RANGE_NOT_SATISFIABLE, Reason::Cached);
            response.headers_mut().insert(CONTENT_RANGE, range::unsatisfied_range(length));
            response
        }
    }
}

fn response(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body).because(Reason::Cached);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Appends `Cache-Status`.
pub(super) fn mark(response: &mut Response, enabled: bool, status: &CacheStatus<'_>) {
    if enabled {
        response.headers_mut().append(CACHE_STATUS, status.to_value());
    }
}
