//! `/api/requests`, which does not exist in Traefik: recent requests, and what happened to one of them.

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use tidegate_core::{Body, Reason, Response};

use super::{body, list, one, page, parameter, refusal};
use crate::observability::Requests;
use crate::observability::requests::live::{Format, Live, MAX_RATE, Wanted};
use crate::observability::requests::select::Selection;
use crate::observability::requests::{Record, Text, json};

/// Number of requests per second that a stream has at most, unless the query has a `rate`.
const USUAL_RATE: u32 = 100;

/// Lists the requests that the query selects, newest first: `filter` is an expression, `search` a part of host,
/// path, router or identifier, and `after` the identifier of a request that is older than all in the list.
pub(super) fn all(requests: &Requests, query: &str) -> Response {
    let value = |name: &str| parameter(query, name).unwrap_or_default();
    let selection = match selection(&value("filter")) {
        Ok(selection) => selection,
        Err(refused) => return *refused,
    };
    let mut records = requests.all();
    let after = value("after");
    if let Some(known) = records.iter().find(|record| format!("{:x}", record.id) == after) {
        let ended = known.ended();
        records.retain(|record| record.ended() > ended);
    }
    let search = value("search").to_lowercase();
    records.retain(|record| {
        (search.is_empty() || contains(record, &search))
            && selection.as_ref().is_none_or(|selection| selection.selects(requests, record))
    });
    page(&list::Query::parse(query), records, |record| Some(json::summary(requests, record).into()))
}

/// Sends the requests that the query selects as they end: `filter` is an expression, and `rate` the maximum number per
/// second. `wants_events` is whether the client accepts server-sent events.
pub(super) fn stream(live: &Live, query: &str, wants_events: bool) -> Response {
    let value = |name: &str| parameter(query, name).unwrap_or_default();
    let selection = match selection(&value("filter")) {
        Ok(selection) => selection,
        Err(refused) => return *refused,
    };
    let rate = match (value("rate").as_str(), value("rate").parse()) {
        ("", _) => USUAL_RATE,
        (_, Ok(rate)) if (1..=MAX_RATE).contains(&rate) => rate,
        (rate, _) => {
            let message = format!("invalid rate `{rate}`: expected a number from 1 to {MAX_RATE}");
            return refusal(StatusCode::BAD_REQUEST, &message);
        }
    };
    let (format, kind) = match wants_events {
        true => (Format::Events, "text/event-stream"),
        false => (Format::Lines, "application/x-ndjson"),
    };
    match live.follow(Wanted { selection, format, rate }) {
        Ok(stream) => {
            let mut response = Response::new(Body::of_frames(stream)).because(Reason::OwnService);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

/// Compiles a filter; `None` if it is empty. The error is the response.
fn selection(filter: &str) -> Result<Option<Selection>, Box<Response>> {
    if filter.is_empty() {
        return Ok(None);
    }
    Selection::parse(filter)
        .map(Some)
        .map_err(|error| Box::new(refusal(StatusCode::BAD_REQUEST, &format!("invalid filter: {error}"))))
}

/// Describes one request, by its identifier.
pub(super) fn detail(requests: &Requests, id: &str) -> Response {
    let found: Option<Value> = requests.find(id).map(|record| json::detail(requests, &record));
    one(found, "request", id)
}

/// Returns the response if no requests are kept.
pub(super) fn off() -> Response {
    refusal(
        StatusCode::NOT_FOUND,
        "no requests are kept: `api.requests.size` or `api.requests.maxMemory` is too small",
    )
}

/// Describes what is kept.
pub(super) fn state(requests: &Requests) -> Response {
    body(&serde_json::json!({"kept": requests.all().len(), "missed": requests.missed()}))
}

fn contains(record: &Record, search: &str) -> bool {
    let router = record.route.as_ref().map_or("", |route| &*route.router);
    let texts =
        [record.text(Text::Host), record.text(Text::Target), record.text(Text::RequestId), router.into()];
    texts.iter().any(|text| text.to_lowercase().contains(search))
}
