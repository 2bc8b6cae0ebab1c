//! `/api/statistics`, which does not exist in Traefik: rates, errors and times of the last minutes.

use std::cmp::Ordering;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};
use tidegate_core::Response;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{body, parameter, refusal};
use crate::observability::Statistics;
use crate::observability::statistics::{Numbers, Row, STEP};

/// Number of rows per kind unless the query has a `limit`.
const USUAL_LIMIT: usize = 100;
/// Maximum number of rows per kind.
const MAX_LIMIT: usize = 10_000;

/// Orders rows.
type Order = fn(&Row, &Row) -> Ordering;

/// The orders of rows by name. Numbers descend.
const ORDERS: [(&str, Order); 5] = [
    ("rate", |one, other| other.numbers.rate(0).total_cmp(&one.numbers.rate(0))),
    ("errors", |one, other| other.numbers.error_rate(0).total_cmp(&one.numbers.error_rate(0))),
    ("p50", |one, other| other.numbers.p50.cmp(&one.numbers.p50)),
    ("p99", |one, other| other.numbers.p99.cmp(&one.numbers.p99)),
    ("name", |one, other| one.name.cmp(&other.name)),
];

/// Returns the numbers of all objects, or why the query is invalid.
pub(super) fn all(statistics: &Statistics, query: &str) -> Response {
    let value = |name: &str| parameter(query, name);
    let sort_by = value("sortBy").unwrap_or_else(|| "rate".to_owned());
    let Some((_, order)) = ORDERS.iter().find(|(name, _)| *name == sort_by) else {
        let names = ORDERS.map(|(name, _)| name).join(", ");
        let message = format!("invalid sortBy `{sort_by}`: expected one of {names}");
        return refusal(StatusCode::BAD_REQUEST, &message);
    };
    let limit = match value("limit").map(|limit| (limit.parse(), limit)) {
        None => USUAL_LIMIT,
        Some((Ok(limit), _)) if (1..=MAX_LIMIT).contains(&limit) => limit,
        Some((_, limit)) => {
            let message = format!("invalid limit `{limit}`: expected a number from 1 to {MAX_LIMIT}");
            return refusal(StatusCode::BAD_REQUEST, &message);
        }
    };
    let wanted = value("name").unwrap_or_default();
    let view = statistics.view();
    let rows = |mut rows: Vec<Row>, with_history: bool| -> Value {
        rows.retain(|row| {
            wanted.is_empty() || row.name == wanted || row.service.as_deref() == Some(&*wanted)
        });
        rows.sort_by(|one, other| order(one, other).then_with(|| one.name.cmp(&other.name)));
        rows.iter().take(limit).map(|row| describe(row, with_history)).collect()
    };
    body(&json!({
        "entryPoints": rows(view.entry_points, true),
        "routers": rows(view.routers, false),
        "services": rows(view.services, false),
        "servers": rows(view.servers, false),
        "clients": rows(view.clients, false),
        "lost": view.lost,
        "countedSince": OffsetDateTime::from(view.since).format(&Rfc3339).unwrap_or_default(),
    }))
}

/// Returns the response if there are no statistics.
pub(super) fn off() -> Response {
    refusal(StatusCode::NOT_FOUND, "there are no statistics: `api.statistics.maxObjects` is 0")
}

fn describe(row: &Row, with_history: bool) -> Value {
    let mut object = Map::new();
    let mut add = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    match &row.service {
        Some(service) => {
            add("service", (&**service).into());
            add("url", row.name.as_str().into());
        }
        None => add("name", row.name.as_str().into()),
    }
    let Numbers { p50, p99, history, .. } = &row.numbers;
    let spans = |of: &dyn Fn(usize) -> f64| json!({"10s": of(0), "1m": of(1), "5m": of(2)});
    add("requestsPerSecond", spans(&|span| rounded(row.numbers.rate(span))));
    add("errorsPerSecond", spans(&|span| rounded(row.numbers.error_rate(span))));
    add("p50Ms", milliseconds(*p50));
    add("p99Ms", milliseconds(*p99));
    if with_history {
        let (requests, errors): (Vec<u32>, Vec<u32>) = history.iter().copied().unzip();
        add("history", json!({"stepSeconds": STEP, "requests": requests, "errors": errors}));
    }
    object.into()
}

fn rounded(rate: f64) -> f64 {
    (rate * 1e3).round() / 1e3
}

fn milliseconds(time: Option<Duration>) -> Value {
    time.map_or(Value::Null, |time| json!(time.as_micros() as f64 / 1e3))
}
