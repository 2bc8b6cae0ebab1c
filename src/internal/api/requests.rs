//! `/api/requests`, which does not exist in Traefik: recent requests, and what happened to one of them.

use http::StatusCode;
use serde_json::Value;
use tidegate_core::Response;

use super::{body, list, one, page, refusal};
use crate::observability::Requests;
use crate::observability::requests::select::Selection;
use crate::observability::requests::{Record, Text, json};

/// Lists the requests that the query selects, newest first: `filter` is an expression, `search` a part of host,
/// path, router or identifier, and `after` the identifier of a request that is older than all in the list.
pub(super) fn all(requests: &Requests, query: &str) -> Response {
    let value = |name: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let selection = match value("filter").as_str() {
        "" => None,
        text => match Selection::parse(text) {
            Ok(selection) => Some(selection),
            Err(error) => return refusal(StatusCode::BAD_REQUEST, &format!("invalid filter: {error}")),
        },
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
    let texts = [record.text(Text::Host), record.text(Text::Target), record.text(Text::RequestId), router];
    texts.iter().any(|text| text.to_lowercase().contains(search))
}
