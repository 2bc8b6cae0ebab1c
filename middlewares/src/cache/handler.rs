//! What happens to a request: it is answered from the store, waits for another one, or is sent.

use std::sync::Arc;

use http::header::{AUTHORIZATION, RANGE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body::Body as _;
use tidegate_cache::cache_status::{CacheStatus, Forwarded};
use tidegate_cache::collapse::{Outcome, Role};
use tidegate_cache::key::{Key, Target, Template};
use tidegate_cache::rules::{self, Bypass, Lookup, Resource, Reuse, Why};
use tidegate_cache::{Purge, Timestamp};
use tidegate_core::caches::ResponseCache;
use tidegate_core::{
    BoxFuture, Identity, Middleware, Next, Prediction, Reason, Request, Response, boxed, reply,
};

use super::answer::{self, NAME, mark};
use super::shared::Shared;
use super::tiers::{Found, Stored};

/// How often a request begins again because the one that it waited for was abandoned.
const MAX_ROUNDS: usize = 3;

pub(super) struct Caching(pub(super) Arc<Shared>);

impl Middleware for Caching {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        boxed(move || respond(&self.0, request, next))
    }

    fn cache(&self) -> Option<&dyn ResponseCache> {
        Some(self)
    }

    fn predict(&self, request: Request) -> Prediction {
        let has_body = !request.body.is_end_stream();
        let (method, headers) = (&request.head.method, &request.head.headers);
        let lookup = match rules::inspect(&self.0.rules, method, headers, has_body) {
            Ok(lookup) => lookup,
            Err(bypass) => {
                return Prediction::passes(request).note(format!("passes the cache by: {}", bypass.as_str()));
            }
        };
        let Ok(key) = key_of(&self.0, &request) else {
            return Prediction::passes(request).note("passes the cache by: key-too-long");
        };
        let now = self.0.now();
        // Predictions may block.
        let Found { matching, has_others } = self.0.tiers.peek(&key, &request.head.headers);
        let key = format!("key: {}", key.describe());
        let Some(stored) = matching else {
            let why = if has_others { "other variants are stored" } else { "nothing is stored" };
            return Prediction::passes(request).note(format!("miss: {why}")).note(key);
        };
        let what = match rules::reuse(&stored.head().policy, &lookup.directives, now) {
            Reuse::Fresh => "hit: answered from the cache",
            Reuse::Stale { revalidate: true } => {
                "stale: answered from the cache, and validated in the background"
            }
            Reuse::Stale { revalidate: false } => "stale: answered from the cache",
            Reuse::Validate(Why::Request) => {
                return Prediction::passes(request)
                    .note("miss: the request asks for the stored response to be validated")
                    .note(key);
            }
            Reuse::Validate(_) => {
                return Prediction::passes(request)
                    .note("miss: the stored response is stale and is validated")
                    .note(key);
            }
        };
        let (method, headers) = (&request.head.method, &request.head.headers);
        let answer = answer::from_store(method, headers, stored.head(), &stored.body(), now);
        Prediction::responds(answer).note(what).note(key)
    }
}

fn key_of(shared: &Shared, request: &Request) -> Result<Key, Bypass> {
    let identity = request.context.identity.as_deref().map(partition);
    // Another route may have another service, or another path to it.
    let route = request.context.exchange.route().map_or("", |route| &route.router);
    let target = Target {
        scheme: if request.context.is_tls() { "https" } else { "http" },
        authority: request.host(),
        path: request.path(),
        query: request.head.uri.query(),
        headers: &request.head.headers,
        route: route.as_bytes(),
        identity: identity.as_deref(),
    };
    shared.template.key(&target).map_err(|_| Bypass::KeyTooLong)
}

/// Clients whose identities differ share nothing: neither two with the same name from different middlewares, nor one
/// client with different groups or scopes.
fn partition(identity: &Identity) -> Vec<u8> {
    let consumer = identity.consumer.as_deref().map(|consumer| consumer.name.as_ref());
    format!(
        "{:?}",
        (
            &identity.by,
            identity.method,
            &identity.subject,
            &identity.groups,
            &identity.labels,
            &identity.scopes,
            consumer.unwrap_or("")
        )
    )
    .into_bytes()
}

/// A request that takes part in caching.
pub(super) struct Job {
    pub(super) shared: Arc<Shared>,
    pub(super) request: Request,
    pub(super) lookup: Lookup,
    pub(super) key: Key,
    /// It has waited for another one.
    pub(super) collapsed: bool,
    /// No client waits for it.
    pub(super) in_background: bool,
}

async fn respond(shared: &Arc<Shared>, mut request: Request, next: &Next) -> Response {
    let has_body = !request.body.is_end_stream();
    let lookup = rules::inspect(&shared.rules, &request.head.method, &request.head.headers, has_body);
    let lookup = lookup.and_then(|lookup| Ok((lookup, key_of(shared, &request)?)));
    let (lookup, key) = match lookup {
        Ok(found) => found,
        Err(bypass) => return pass_by(shared, request, next, bypass).await,
    };
    if !keep_query(&shared.template, &mut request.head.uri) {
        return pass_by(shared, request, next, Bypass::KeyTooLong).await;
    }
    let mut job =
        Job { shared: shared.clone(), request, lookup, key, collapsed: false, in_background: false };
    for round in 0.. {
        let now = shared.now();
        let found = shared.tiers.find(&job.key, &job.request.head.headers).await;
        let forwarded = match found.matching.as_ref().map(|stored| job.reuse(stored, now)) {
            Some(Reuse::Fresh) => return job.hit(found.matching, now),
            Some(Reuse::Stale { revalidate }) => {
                if let (true, Some(stored)) = (revalidate, &found.matching) {
                    job.revalidate(stored.clone(), next, now);
                }
                return job.hit(found.matching, now);
            }
            Some(Reuse::Validate(Why::Request)) => Forwarded::Request,
            Some(Reuse::Validate(_)) => Forwarded::Stale,
            None if found.has_others => Forwarded::VaryMiss,
            None => Forwarded::UriMiss,
        };
        if job.lookup.directives.only_if_cached {
            return not_cached(shared, forwarded);
        }
        // Whoever has waited already, and got nothing, is sent.
        if round == MAX_ROUNDS || !job.may_wait(forwarded) {
            return job.fetch(found.matching, None, forwarded, next).await;
        }
        match shared.collapser.join(&job.key, now) {
            Role::Lead(leader) => return job.fetch(found.matching, Some(leader), forwarded, next).await,
            Role::Pass(_) => return job.fetch(found.matching, None, forwarded, next).await,
            Role::Wait(waiter) => match waiter.wait(tokio::time::sleep(shared.max_wait)).await {
                Outcome::Stored => job.collapsed = true,
                outcome @ (Outcome::Failed | Outcome::Disconnected)
                    if job.is_usable_on_error(found.matching.as_ref(), outcome == Outcome::Disconnected) =>
                {
                    return job.hit(found.matching, shared.now());
                }
                Outcome::Abandoned => {}
                Outcome::NotStorable | Outcome::Failed | Outcome::Disconnected | Outcome::TimedOut => {
                    return job.fetch(found.matching, None, forwarded, next).await;
                }
            },
        }
    }
    // The loop has no other end.
    reply::status_text(StatusCode::INTERNAL_SERVER_ERROR, Reason::InternalError)
}

/// Removes the query parameters that are not part of the key. False if what is left is no target.
fn keep_query(template: &Template, uri: &mut Uri) -> bool {
    let kept = template.query(uri.query());
    if kept.as_deref() == uri.query() {
        return true;
    }
    let target = match kept {
        Some(query) => format!("{}?{query}", uri.path()),
        None => uri.path().to_owned(),
    };
    PathAndQuery::try_from(target).map(|target| *uri = Uri::from(target)).is_ok()
}

impl Job {
    /// Counts the request, and appends `Cache-Status` to its response.
    pub(super) fn mark(&self, response: &mut Response, status: &CacheStatus<'_>) {
        if !self.in_background {
            mark(response, &self.shared, status);
        }
    }

    fn reuse(&self, stored: &Stored, now: Timestamp) -> Reuse {
        rules::reuse(&stored.head().policy, &self.lookup.directives, now)
    }

    /// Whether a stored response replaces an error. `disconnected`: no server can be reached.
    pub(super) fn is_usable_on_error(&self, stored: Option<&Stored>, disconnected: bool) -> bool {
        let (now, directives) = (self.shared.now(), &self.lookup.directives);
        let without_limit = disconnected && self.shared.stale_without_server;
        stored.is_some_and(|stored| {
            rules::usable_on_error(&stored.head().policy, directives, now, without_limit)
        })
    }

    /// Whether others can use the response to this request, and it theirs.
    pub(super) fn may_wait(&self, forwarded: Forwarded) -> bool {
        let headers = &self.request.head.headers;
        // Of a range, nothing is stored; with credentials that the gateway does not know, seldom.
        let ranged = headers.contains_key(RANGE) && forwarded != Forwarded::Stale;
        let credentials = headers.contains_key(AUTHORIZATION) && self.request.context.identity.is_none();
        let waited = self.collapsed && forwarded != Forwarded::UriMiss;
        !self.shared.max_wait.is_zero() && !self.lookup.is_head && !ranged && !credentials && !waited
    }

    fn hit(&self, stored: Option<Stored>, now: Timestamp) -> Response {
        let Some(stored) = stored else { return not_cached(&self.shared, Forwarded::Miss) };
        let head = &self.request.head;
        let mut response =
            answer::from_store(&head.method, &head.headers, stored.head(), &stored.body(), now);
        let ttl = Some(stored.head().policy.time_to_live(now));
        let status =
            CacheStatus { cache: NAME, hit: true, ttl, collapsed: self.collapsed, ..CacheStatus::default() };
        self.mark(&mut response, &status);
        response
    }

    /// Validates a stored response in a task of its own, which does not depend on the client.
    fn revalidate(&self, stored: Stored, next: &Next, now: Timestamp) {
        let Role::Lead(leader) = self.shared.collapser.join(&self.key, now) else { return };
        let mut head = self.request.head.clone();
        head.method = Method::GET;
        rules::remove_conditions(&mut head.headers);
        let job = Self {
            shared: self.shared.clone(),
            request: Request::new(head, tidegate_core::Body::empty(), self.request.context.aside()),
            lookup: Lookup { is_head: false, directives: rules::RequestDirectives::default() },
            key: self.key.clone(),
            collapsed: false,
            in_background: true,
        };
        let next = next.clone();
        tokio::spawn(async move {
            let response = job.fetch(Some(stored), Some(leader), Forwarded::Stale, &next).await;
            drain(response.into_body()).await;
        });
    }
}

/// Reads a body to its end, so that it is stored.
pub(super) async fn drain(mut body: tidegate_core::Body) {
    while let Some(Ok(_)) = body.frame().await {}
}

fn not_cached(shared: &Shared, forwarded: Forwarded) -> Response {
    let mut response = reply::status_text(StatusCode::GATEWAY_TIMEOUT, Reason::NotCached);
    let status = CacheStatus {
        cache: NAME,
        forwarded: Some(forwarded),
        detail: Some("only-if-cached"),
        ..CacheStatus::default()
    };
    mark(&mut response, shared, &status);
    response
}

/// Sends a request that the cache has no part in, and invalidates what it may have changed (RFC 9111 §4.4).
async fn pass_by(shared: &Arc<Shared>, request: Request, next: &Next, bypass: Bypass) -> Response {
    let method = request.head.method.clone();
    let target = (bypass == Bypass::Method).then(|| resource_of(&request));
    let mut response = next.run(request).await;
    if let Some(target) = target
        && response.reason.is_none()
        && rules::invalidates(&method, response.status())
    {
        invalidate(shared, &target, response.headers()).await;
    }
    let forwarded = if bypass == Bypass::Method { Forwarded::Method } else { Forwarded::Bypass };
    let detail = (bypass != Bypass::Method).then(|| bypass.as_str());
    let status = CacheStatus { cache: NAME, forwarded: Some(forwarded), detail, ..CacheStatus::default() };
    mark(&mut response, shared, &status);
    response
}

fn resource_of(request: &Request) -> Resource {
    Resource {
        scheme: if request.context.is_tls() { "https" } else { "http" }.to_owned(),
        authority: request.host().to_owned(),
        path: request.path().to_owned(),
        query: request.head.uri.query().map(str::to_owned),
    }
}

async fn invalidate(shared: &Shared, target: &Resource, response: &HeaderMap) {
    for Resource { scheme, authority, path, query } in rules::invalidated(target, response) {
        let resource = shared.template.resource(&scheme, &authority, &path, query.as_deref());
        shared.tiers.purge(Purge::Resource(resource)).await;
    }
}
