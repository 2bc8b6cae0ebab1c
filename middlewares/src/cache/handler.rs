//! What happens to a request: it is answered from the store, waits for another one, or is sent.

use std::pin::pin;
use std::sync::{Arc, Weak};

use http::header::{AUTHORIZATION, RANGE};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body::Body as _;
use tidegate_cache::cache_status::{CacheStatus, Forwarded};
use tidegate_cache::collapse::{Outcome, Progress, Role, Waiter};
use tidegate_cache::key::{Key, Template};
use tidegate_cache::rules::{self, Bypass, Lookup, Resource, Reuse, Why};
use tidegate_cache::{Head, Purge, Timestamp};
use tidegate_core::caches::ResponseCache;
use tidegate_core::{BoxFuture, Middleware, Next, Prediction, Reason, Request, Response, boxed, reply};

use super::answer::{self, NAME, mark};
use super::fill::Fill;
use super::key::key_of;
use super::shared::Shared;
use super::tiers::Stored;
use super::{failure, prediction};

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
        prediction::predict(&self.0, request)
    }

    fn revise(&self, request: &Request, response: &mut Response) -> Option<String> {
        prediction::revise(&self.0, request, response)
    }
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

/// What a request has waited for.
enum Waited {
    /// The response to another request answers it.
    Response(Response),
    /// That response is for other fields (`Vary`).
    Unrelated,
    /// The other request has ended.
    Ended(Outcome),
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
            Role::Wait(waiter) => match job.wait(waiter).await {
                Waited::Response(response) => return response,
                Waited::Unrelated => return job.fetch(found.matching, None, forwarded, next).await,
                Waited::Ended(Outcome::Stored) => job.collapsed = true,
                Waited::Ended(outcome @ (Outcome::Failed | Outcome::Disconnected))
                    if job.is_usable_on_error(found.matching.as_ref(), outcome == Outcome::Disconnected) =>
                {
                    return job.hit(found.matching, shared.now());
                }
                Waited::Ended(Outcome::Abandoned) => {}
                Waited::Ended(_) => {
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
        let directives = &self.lookup.directives;
        stored.is_some_and(|stored| failure::is_replaced_by(&self.shared, stored, directives, disconnected))
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

    /// Waits for the request that leads.
    async fn wait(&mut self, mut waiter: Waiter<Weak<Fill>>) -> Waited {
        let mut deadline = pin!(tokio::time::sleep(self.shared.max_wait));
        let fill = match waiter.progress(&mut deadline).await {
            Progress::Filling(fill) => fill.upgrade(),
            Progress::Ended(outcome) => return Waited::Ended(outcome),
        };
        let followed = fill.and_then(|fill| self.follow(&fill));
        match followed {
            Some(waited) => waited,
            None => Waited::Ended(waiter.outcome(deadline).await),
        }
    }

    /// A response that is being received, as it arrives. `None`: it has to be looked up when it is stored.
    fn follow(&mut self, fill: &Arc<Fill>) -> Option<Waited> {
        let (head, headers) = (fill.head()?, &self.request.head.headers);
        if !head.variant.matches(headers) {
            return Some(Waited::Unrelated);
        }
        let now = self.shared.now();
        let is_usable = rules::reuse(&head.policy, &self.lookup.directives, now) == Reuse::Fresh;
        if !is_usable || headers.contains_key(RANGE) {
            return None;
        }
        let response = if rules::is_not_modified(&head, headers) {
            answer::not_modified(&head, now)
        } else {
            let (body, length) = fill.follow()?;
            answer::from_fill(&head, body, length, now)
        };
        self.collapsed = true;
        Some(Waited::Response(self.marked_as_hit(response, &head, now)))
    }

    fn hit(&self, stored: Option<Stored>, now: Timestamp) -> Response {
        let Some(stored) = stored else { return not_cached(&self.shared, Forwarded::Miss) };
        let head = &self.request.head;
        let response = answer::from_store(&head.method, &head.headers, stored.head(), &stored.body(), now);
        self.marked_as_hit(response, stored.head(), now)
    }

    fn marked_as_hit(&self, mut response: Response, head: &Head, now: Timestamp) -> Response {
        let (ttl, collapsed) = (Some(head.policy.time_to_live(now)), self.collapsed);
        let status = CacheStatus { cache: NAME, hit: true, ttl, collapsed, ..CacheStatus::default() };
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
