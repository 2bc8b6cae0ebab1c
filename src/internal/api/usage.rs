//! What consumers have used of their quotas: `/api/usage`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use http::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use tidegate_core::occupancy::Usage;
use tidegate_core::{Body, Reason, Response};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::snapshot::Snapshot;

/// One quota and what was used of it.
struct Row {
    used: Usage,
    /// The plan that the consumer has now, and its limit of this unit.
    plan: String,
    limit: Option<u64>,
}

/// Returns the usage of all consumers, or of one, in JSON or as CSV.
pub(super) fn usage(snapshot: &Snapshot, consumer: Option<&str>, as_csv: bool) -> Response {
    let rows = rows(snapshot, consumer);
    if !as_csv {
        return super::body(&rows.iter().map(json_of).collect());
    }
    let mut text = String::from("consumer,key,plan,unit,used,limit,start,end\r\n");
    for Row { used, plan, limit } in &rows {
        let limit = limit.map(|limit| limit.to_string()).unwrap_or_default();
        let _ = write!(
            text,
            "{},{},{},{},{},{limit},{},{}\r\n",
            quoted(&used.consumer),
            quoted(&used.key),
            quoted(plan),
            used.unit,
            used.used,
            time_text(used.start),
            time_text(used.end)
        );
    }
    let mut response = Response::new(Body::full(text)).because(Reason::OwnService);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8"));
    response
}

fn rows(snapshot: &Snapshot, consumer: Option<&str>) -> Vec<Row> {
    // Routers that use one file show the same.
    let all: BTreeSet<Usage> = snapshot.limits.iter().flat_map(|limit| limit.usage()).collect();
    // A plain name is that of the consumers of all providers.
    let is_named = |used: &Usage, wanted: &str| {
        used.consumer == wanted || used.consumer.rsplit_once('@').is_some_and(|(name, _)| name == wanted)
    };
    let wanted = all.into_iter().filter(|used| consumer.is_none_or(|wanted| is_named(used, wanted)));
    wanted
        .map(|used| {
            let known = snapshot.consumers.get(&used.consumer);
            let quota = known.and_then(|consumer| consumer.quota.as_ref());
            let limit = quota.filter(|quota| quota.unit.name() == used.unit).map(|quota| quota.limit);
            Row { plan: known.map(|consumer| consumer.plan.clone()).unwrap_or_default(), limit, used }
        })
        .collect()
}

fn json_of(row: &Row) -> Value {
    let Row { used, plan, limit } = row;
    json!({
        "consumer": used.consumer,
        "key": used.key,
        "plan": plan,
        "unit": used.unit,
        "used": used.used,
        "limit": limit,
        "start": time_text(used.start),
        "end": time_text(used.end),
        "store": &*used.store,
    })
}

/// Quotes a field (RFC 4180). A leading character that starts a formula is made harmless.
fn quoted(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if guard.is_empty() && !text.contains([',', '"', '\r', '\n']) {
        return text.to_owned();
    }
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

fn time_text(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}
