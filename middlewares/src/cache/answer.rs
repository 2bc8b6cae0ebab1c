//! Responses that are made of stored ones.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, HeaderValue};
use http::{HeaderName, Method, StatusCode};
use tidegate_cache::cache_status::{CACHE_STATUS, CacheStatus};
use tidegate_cache::rules::{self, range};
use tidegate_cache::{Head, Timestamp};
use tidegate_core::{Body, Reason, Response, reply};

use super::body::{FromDisk, Pieces};
use super::counters::Outcome;
use super::shared::Shared;
use super::tiers::StoredBody;

/// The name of the cache in `Cache-Status`.
pub(super) const NAME: &str = "tidegate";

const X_CACHE_STATUS: HeaderName = HeaderName::from_static("x-cache-status");

/// The response to a request with `request` as its fields, from a stored body and a head, which may be newer.
pub(super) fn from_store(
    method: &Method,
    request: &HeaderMap,
    head: &Head,
    stored: &StoredBody<'_>,
    now: Timestamp,
) -> Response {
    if rules::is_not_modified(head, request) {
        return not_modified(head, now);
    }
    let mut headers = head.response_headers(now);
    let length = stored.length();
    if *method == Method::HEAD {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
        return response(head.status, headers, Body::empty());
    }
    match range::select(head, request, length) {
        range::Selected::Whole => {
            if length > 0 {
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            let body = match stored {
                StoredBody::Memory(object) => Pieces::body(object.body().iter().cloned()),
                StoredBody::Disk(object) => FromDisk::body((*object).clone(), length),
            };
            response(head.status, headers, body)
        }
        range::Selected::Part { first, last } => {
            range::partial_headers(&mut headers, first, last, length);
            let body = match stored {
                StoredBody::Memory(object) => Pieces::body(object.part(first, last)),
                StoredBody::Disk(object) => {
                    let mut part = (*object).clone();
                    part.select(first, last);
                    FromDisk::body(part, last.saturating_add(1).min(length).saturating_sub(first))
                }
            };
            response(StatusCode::PARTIAL_CONTENT, headers, body)
        }
        range::Selected::Unsatisfiable => {
            let mut response = reply::status_text(StatusCode::RANGE_NOT_SATISFIABLE, Reason::Cached);
            response.headers_mut().insert(CONTENT_RANGE, range::unsatisfied_range(length));
            response
        }
    }
}

/// The response to a request for all of a body that is being received.
pub(super) fn from_fill(head: &Head, body: Body, length: u64, now: Timestamp) -> Response {
    let mut headers = head.response_headers(now);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response(head.status, headers, body)
}

/// 304.
pub(super) fn not_modified(head: &Head, now: Timestamp) -> Response {
    response(StatusCode::NOT_MODIFIED, rules::not_modified_headers(head, now), Body::empty())
}

fn response(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body).because(Reason::Cached);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Counts what became of a request, and adds `Cache-Status` and `X-Cache-Status`.
pub(super) fn mark(response: &mut Response, shared: &Shared, status: &CacheStatus<'_>) {
    shared.counters.count(status);
    if shared.x_cache_status {
        let word = HeaderValue::from_static(Outcome::of(status).word());
        response.headers_mut().insert(X_CACHE_STATUS, word);
    }
    if shared.status_header {
        response.headers_mut().append(CACHE_STATUS, status.to_value());
    }
}
