//! Stored responses, and how an operator removes them: `/api/cache`, `/api/cache/objects` and `/api/cache/purge`.

use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use tidegate_core::caches::{
    CacheStatistics, CachedRequests, CachedResponse, ListedResponses, ResponseCache, TierStatistics,
};
use tidegate_core::{AuditEvent, Request, Response};

use super::operator::{self, Refused};
use super::parameter;
use crate::announcements::{Command, PurgeCache, describe};
use crate::internal::Surroundings;
use crate::snapshot::Snapshot;

/// Number of largest and of hottest responses of each cache that are shown if the request does not say how many.
const USUAL_LIMIT: usize = 10;
/// Maximum number that a request may ask for.
const MAX_LIMIT: usize = 100;
/// Seconds of each number of the history.
const STEP_SECONDS: u64 = 10;

/// Answers a request below `/api/cache`; `path` is the rest.
pub(super) async fn answer(
    snapshot: Arc<Snapshot>,
    around: Surroundings,
    path: String,
    request: Request,
) -> Response {
    let query = request.head.uri.query().unwrap_or("").to_owned();
    operator::respond(match (path.as_str(), &request.head.method) {
        ("", &Method::GET) => statistics(&snapshot, &query).await,
        ("/objects", &Method::GET) => objects(&snapshot, &query).await,
        ("/purge", &Method::POST) => purge(&snapshot, &around, request).await,
        ("" | "/objects" | "/purge", _) => Err(Refused::Method),
        _ => Err(Refused::UnknownPath),
    })
}

/// Returns the cache with this name, or all if it is empty.
fn caches<'s>(snapshot: &'s Snapshot, name: &str) -> Result<Vec<(&'s str, &'s dyn ResponseCache)>, Refused> {
    let all = snapshot.caches.iter().filter(|(known, _)| name.is_empty() || *known == name);
    let found: Vec<_> =
        all.filter_map(|(name, middleware)| Some((name.as_str(), middleware.cache()?))).collect();
    if found.is_empty() && !name.is_empty() {
        return Err(Refused::UnknownObject { kind: "cache", name: name.to_owned() });
    }
    Ok(found)
}

async fn statistics(snapshot: &Snapshot, query: &str) -> Result<Value, Refused> {
    let limit = match parameter(query, "limit").map(|limit| limit.parse()) {
        None => USUAL_LIMIT,
        Some(Ok(limit)) if limit <= MAX_LIMIT => limit,
        Some(_) => return Err(Refused::Ambiguous("invalid limit: expected a number from 0 to 100")),
    };
    let mut all = Vec::new();
    for (name, cache) in caches(snapshot, &parameter(query, "middleware").unwrap_or_default())? {
        let mut shown = shown(name, &cache.statistics());
        let lists =
            [("largest", ListedResponses::Largest(limit)), ("hottest", ListedResponses::Hottest(limit))];
        for (key, which) in lists.iter().filter(|_| limit > 0) {
            shown[key] = cache.list(which).await?.iter().map(object).collect();
        }
        all.push(shown);
    }
    Ok(all.into())
}

fn shown(name: &str, statistics: &CacheStatistics) -> Value {
    let recent = statistics.recent.iter().map(|(length, counted)| ((*length).to_owned(), requests(counted)));
    let history: Vec<Value> = statistics.history.iter().map(requests).collect();
    let mut shown = json!({
        "middleware": name,
        "requests": by_outcome(&statistics.requests),
        "collapsed": statistics.requests.collapsed,
        "recent": Value::Object(recent.collect()),
        "history": {"stepSeconds": STEP_SECONDS, "steps": history},
        "stored": statistics.stored,
        "memory": tier(&statistics.memory),
    });
    if let Some(disk) = &statistics.disk {
        let mut of_disk = tier(&disk.tier);
        of_disk["maxObjects"] = disk.max_objects.into();
        of_disk["path"] = disk.path.as_str().into();
        of_disk["ready"] = disk.is_ready.into();
        of_disk["problem"] = disk.problem.as_deref().into();
        of_disk["recovered"] = disk.recovered.into();
        of_disk["lost"] = disk.lost.into();
        of_disk["failures"] = disk.failures.into();
        of_disk["corrupt"] = disk.corrupt.into();
        shown["disk"] = of_disk;
    }
    shown
}

fn by_outcome(counted: &CachedRequests) -> Value {
    let pairs = counted.by_outcome.iter().map(|(outcome, number)| ((*outcome).to_owned(), (*number).into()));
    Value::Object(pairs.collect())
}

fn requests(counted: &CachedRequests) -> Value {
    json!({"requests": by_outcome(counted), "collapsed": counted.collapsed})
}

fn tier(tier: &TierStatistics) -> Value {
    json!({
        "objects": tier.objects,
        "bytes": tier.bytes,
        "maxBytes": tier.max_bytes,
        "evictions": tier.evictions,
    })
}

fn object(object: &CachedResponse) -> Value {
    json!({
        "tier": object.tier,
        "url": object.url,
        "key": object.key,
        "tags": object.tags,
        "bytes": object.bytes,
        "uses": object.uses,
        "age": object.age,
        "ttl": object.ttl,
    })
}

async fn objects(snapshot: &Snapshot, query: &str) -> Result<Value, Refused> {
    let which =
        ListedResponses::Url(parameter(query, "url").ok_or(Refused::Ambiguous("missing parameter `url`"))?);
    let mut all: Vec<Value> = Vec::new();
    for (name, cache) in caches(snapshot, &parameter(query, "middleware").unwrap_or_default())? {
        all.extend(cache.list(&which).await?.iter().map(|stored| {
            let mut shown = object(stored);
            shown["middleware"] = name.into();
            shown
        }));
    }
    Ok(all.into())
}

/// Removes what the request names, here and in the rest of the cluster, and returns how much of each cache that was.
async fn purge(snapshot: &Snapshot, around: &Surroundings, request: Request) -> Result<Value, Refused> {
    let (command, operator) = operator::read_json::<PurgeCache>(request, "purging").await?;
    let ambiguous = Refused::Ambiguous("expected one of `url`, `prefix`, `tag` and `all`");
    let which = command.which().ok_or(ambiguous)?;
    let what = describe(&which);
    let (mut purged, id) = (serde_json::Map::new(), around.announcements.next_id());
    for (name, cache) in caches(snapshot, &command.middleware)? {
        let number = cache.purge(&which, &id).await?;
        let operator = operator.name();
        tracing::info!(middleware = name, purged = what, number, operator, "cache: purged by an operator");
        purged.insert(name.to_owned(), number.into());
    }
    operator.note(AuditEvent::CachePurged, &what);
    let announced = around.announcements.announce(id, operator.name(), Command::PurgeCache(command)).await;
    operator::with_announcement(json!({"purged": purged}), &around.cluster, "purged", announced)
}
