//! Recorded requests as JSON, for the API.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tidegate_core::{MiddlewareInfo, Origin};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Record, Requests, Text, Try};
use crate::observability::access_log::protocol;

/// Describes a request in a list.
pub(crate) fn summary(requests: &Requests, record: &Record) -> Map<String, Value> {
    let mut object = Map::new();
    let mut add = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    let time = OffsetDateTime::from(requests.time_of(record.started)).format(&Rfc3339).unwrap_or_default();
    add("id", format!("{:x}", record.id).into());
    add("time", time.into());
    add("entryPoint", requests.entry_point(record.entry_point).into());
    add("method", record.method.as_str().into());
    add("host", record.text(Text::Host).into());
    add("path", record.text(Text::Target).into());
    add("protocol", protocol(record.version).into());
    if let Some(client) = client(record) {
        add("client", client.into());
    }
    add("status", record.status.into());
    add("origin", origin(record).into());
    if let Some(reason) = record.reason {
        add("reason", reason.name().into());
    }
    if let Some(aborted) = record.aborted {
        add("abortedBy", aborted.name().into());
    }
    if let Some(route) = &record.route {
        add("router", (&*route.router).into());
        add("service", (&*route.service).into());
    }
    if let Some(server) = record.server() {
        add("server", (&*server.url).into());
    }
    add("retries", record.retries.into());
    add("durationMs", milliseconds(record.duration));
    object
}

/// Describes a request completely.
pub(crate) fn detail(requests: &Requests, record: &Record) -> Value {
    let mut object = summary(requests, record);
    let mut add = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    for (name, text) in [
        ("requestId", Text::RequestId),
        ("claimedUser", Text::User),
        ("identity", Text::Subject),
        ("consumer", Text::Consumer),
    ] {
        if !record.text(text).is_empty() {
            add(name, record.text(text).into());
        }
    }
    if let Some(trace) = record.trace {
        add("traceId", trace.trace_id_hex().into());
    }
    if let Some(reason) = record.reason {
        add("description", reason.description().into());
    }
    if let Some((version, cipher)) = record.tls {
        add(
            "tls",
            json!({"version": version, "cipher": cipher, "serverName": record.text(Text::ServerName)}),
        );
    }
    if let Some(route) = &record.route {
        let reached = |(place, one): (usize, &MiddlewareInfo)| json!({"name": &*one.name, "reached": place < record.middlewares});
        let all: Vec<Value> = route.middlewares.iter().enumerate().map(reached).collect();
        add("middlewares", all.into());
        add("reachedService", record.reached_service.into());
    }
    add("attempts", record.attempts.iter().map(|one| attempt(record, one)).collect());
    let headers = record.text(Text::Headers);
    let headers: Vec<&str> = headers.lines().collect();
    if !headers.is_empty() {
        add("headers", headers.into());
    }
    add("receivedBytes", record.received.into());
    add("sentBytes", record.sent.into());
    add("timings", timings(record));
    object.into()
}

/// Describes the times of a request, in milliseconds after its head except for the first.
fn timings(record: &Record) -> Value {
    let mut object = Map::new();
    let mut add = |name: &str, time: Option<Duration>| {
        if let Some(time) = time {
            object.insert(name.to_owned(), milliseconds(time));
        }
    };
    add("connectionAgeMs", Some(record.started.saturating_duration_since(record.accepted)));
    add("routedMs", record.routed);
    add("sentToServerMs", record.attempts.first().map(|first| after(record, first)));
    add("responseStartedMs", record.answered);
    add("endedMs", Some(record.duration));
    object.into()
}

/// Returns the time from the request head to an attempt.
fn after(record: &Record, attempt: &Try) -> Duration {
    attempt.sent.saturating_duration_since(record.started)
}

fn attempt(record: &Record, attempt: &Try) -> Value {
    let mut object = Map::new();
    let mut add = |name: &str, value: Value| drop(object.insert(name.to_owned(), value));
    add("service", (&*attempt.service).into());
    if let Some(server) = &attempt.server {
        add("server", (&*server.url).into());
    }
    add("afterMs", milliseconds(after(record, attempt)));
    if let Some(connected) = attempt.connected {
        add("connectMs", milliseconds(connected));
    }
    if let Some(secured) = attempt.secured {
        add("tlsMs", milliseconds(secured));
    }
    if let Some(took) = attempt.took {
        add("tookMs", milliseconds(took));
    }
    if let Some(status) = attempt.status {
        add("status", status.into());
    }
    add("replaced", attempt.replaced.into());
    object.into()
}

/// Returns who responded: `client`, `gateway`, `middleware:<name>` or `server:<url>`.
pub(super) fn origin(record: &Record) -> String {
    let name = record.origin.map_or("", Origin::name);
    let detail = match record.origin {
        Some(Origin::Middleware) => {
            let middlewares = record.route.as_ref().map_or(&[][..], |route| &route.middlewares);
            let responded = record.middleware.and_then(|index| middlewares.get(usize::from(index)));
            responded.map(|middleware| &*middleware.name)
        }
        Some(Origin::Server) => record.server().map(|server| &*server.url),
        _ => None,
    };
    detail.map_or(name.to_owned(), |detail| format!("{name}:{detail}"))
}

/// Returns the client's address: the forwarded one if its sender is trusted, or else that of the peer.
pub(super) fn client(record: &Record) -> Option<String> {
    match &*record.text(Text::Client) {
        "" => record.peer.map(|peer| peer.ip().to_canonical().to_string()),
        forwarded => Some(forwarded.to_owned()),
    }
}

fn milliseconds(time: Duration) -> Value {
    // Microseconds are precise enough.
    json!((time.as_secs_f64() * 1e6).round() / 1e3)
}
