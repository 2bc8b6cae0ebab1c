//! Requests to the server, and what their responses change in the store.

use std::sync::{Arc, Weak};

use http::{HeaderMap, Method, StatusCode};
use tidegate_cache::cache_status::{CacheStatus, Forwarded};
use tidegate_cache::collapse::Leader;
use tidegate_cache::rules::{self, Freshened, HeadUpdate, NotStored, Times};
use tidegate_cache::{Head, Timestamp};
use tidegate_core::{Body, Next, Request, Response, Stage};

use super::answer::{self, NAME};
use super::failure::{is_disconnected, is_failed};
use super::fill::{self, Fill};
use super::handler::{Job, drain};
use super::tiers::{Epochs, Stored};

/// What is known about a request that is sent.
struct Sent {
    /// The fields that the client has sent, conditions and ranges included.
    client: HeaderMap,
    /// The fields that the server has got, for `Vary`.
    server: HeaderMap,
    method: Method,
    /// Where the cache is in the chain.
    stage: Stage,
    epochs: Epochs,
    requested: Timestamp,
    forwarded: Forwarded,
    collapsed: bool,
    /// Others could have waited for it, or it for others.
    may_wait: bool,
}

impl Sent {
    fn status(&self) -> CacheStatus<'static> {
        let forwarded = Some(self.forwarded);
        CacheStatus { cache: NAME, forwarded, collapsed: self.collapsed, ..CacheStatus::default() }
    }
}

impl Job {
    /// Sends the request. `stored`: what is validated by it. `leader`: those who wait for it.
    pub(super) async fn fetch(
        mut self,
        stored: Option<Stored>,
        leader: Option<Leader<Weak<Fill>>>,
        forwarded: Forwarded,
        next: &Next,
    ) -> Response {
        let may_wait = self.may_wait(forwarded);
        let client = self.request.head.headers.clone();
        let headers = &mut self.request.head.headers;
        let validates = match &stored {
            Some(stored) => rules::validate(headers, &[stored.head()]),
            None => false,
        };
        // A range of what is not stored is left to the server: all of it may be much more than the client wants.
        let ranged = stored.is_none() && client.contains_key(http::header::RANGE);
        if !ranged && !validates && !self.lookup.is_head {
            rules::remove_conditions(headers);
        }
        let sent = Sent {
            client,
            server: headers.clone(),
            method: self.request.head.method.clone(),
            stage: self.request.context.exchange.stage(),
            epochs: self.shared.tiers.epochs(),
            requested: self.shared.now(),
            forwarded,
            collapsed: self.collapsed,
            may_wait,
        };
        let again = validates.then(|| (self.request.head.clone(), self.request.context.clone()));
        let body = std::mem::replace(&mut self.request.body, Body::empty());
        let mut request = Request::new(self.request.head.clone(), body, self.request.context.clone());
        // What is stored can be sent at once, so the request does not wait for a server.
        request.context.has_substitute |= self.is_usable_on_error(stored.as_ref(), true);
        let mut response = next.run(request).await;
        let disconnected = is_disconnected(&response);
        if let Some(stored) = &stored
            && let Some(response) = self.instead_of_error(&sent, stored, &response, disconnected)
        {
            match leader {
                Some(leader) if disconnected => leader.disconnected(),
                Some(leader) => leader.failed(),
                None => {}
            }
            return response;
        }
        if let (StatusCode::NOT_MODIFIED, Some((mut head, context)), Some(stored)) =
            (response.status(), again, &stored)
        {
            if rules::select(&[stored.head()], response.headers()).is_some() {
                return self.freshened(&sent, stored, leader, response.headers());
            }
            // It is about something else, so what is stored must not be used.
            rules::remove_conditions(&mut head.headers);
            response = next.run(Request::new(head, Body::empty(), context)).await;
        }
        if sent.method == Method::HEAD {
            self.after_head(&sent, stored, response)
        } else {
            self.after_get(sent, stored, leader, response)
        }
    }

    /// A stored response in place of an error (RFC 5861 §4), or while no server can be reached (RFC 9111 §4.2.4). If
    /// the stored response forbids that, the client gets the error, which says more than 504 (§5.2.2.2).
    fn instead_of_error(
        &self,
        sent: &Sent,
        stored: &Stored,
        response: &Response,
        disconnected: bool,
    ) -> Option<Response> {
        if !is_failed(response) || !self.is_usable_on_error(Some(stored), disconnected) {
            return None;
        }
        let (head, now) = (stored.head(), self.shared.now());
        let policy = &head.policy;
        let mut instead = self.replace_by(sent, head, stored, now);
        let forwarded_status = Some(response.status().as_u16());
        let ttl = Some(policy.time_to_live(now));
        self.mark(&mut instead, &CacheStatus { forwarded_status, ttl, ..sent.status() });
        Some(instead)
    }

    /// The stored response, which replaces the one to the request.
    fn replace_by(&self, sent: &Sent, head: &Head, stored: &Stored, now: Timestamp) -> Response {
        self.request.context.exchange.replace_at(sent.stage);
        answer::from_store(&sent.method, &sent.client, head, &stored.body(), now)
    }

    /// The stored response with the fields of a 304.
    fn freshened(
        &self,
        sent: &Sent,
        stored: &Stored,
        leader: Option<Leader<Weak<Fill>>>,
        not_modified: &HeaderMap,
    ) -> Response {
        let now = self.shared.now();
        let times = Times { requested: sent.requested, received: now };
        let (head, kept) =
            match rules::freshen(&self.shared.rules, &sent.server, stored.head(), not_modified, times) {
                Freshened::Updated(head) => {
                    (head.clone(), self.shared.tiers.update(stored, *head, sent.epochs))
                }
                Freshened::Unstorable(head, _) => {
                    self.shared.tiers.remove(stored);
                    (head, false)
                }
            };
        match leader {
            Some(leader) if kept => leader.stored(),
            Some(leader) => leader.not_storable(now),
            None => {}
        }
        let mut response = self.replace_by(sent, &head, stored, now);
        let ttl = Some(head.policy.time_to_live(now));
        let status = CacheStatus { forwarded_status: Some(304), ttl, stored: kept, ..sent.status() };
        self.mark(&mut response, &status);
        response
    }

    /// A response to HEAD says whether what is stored is still the same.
    fn after_head(&self, sent: &Sent, stored: Option<Stored>, mut response: Response) -> Response {
        let mut updated = false;
        if let (Some(stored), None) = (stored, response.reason) {
            let times = Times { requested: sent.requested, received: self.shared.now() };
            let (rules, old) = (&self.shared.rules, stored.head());
            let (status, headers) = (response.status(), response.headers());
            match rules::update_by_head(rules, &sent.server, old, status, headers, times) {
                HeadUpdate::Updated(head) => {
                    updated = self.shared.tiers.update(&stored, *head, sent.epochs);
                }
                HeadUpdate::Invalid => {
                    self.shared.tiers.remove(&stored);
                }
                HeadUpdate::Unrelated => {}
            }
        }
        self.mark(&mut response, &CacheStatus { stored: updated, ..sent.status() });
        response
    }

    fn after_get(
        &self,
        sent: Sent,
        stored: Option<Stored>,
        leader: Option<Leader<Weak<Fill>>>,
        mut response: Response,
    ) -> Response {
        let now = self.shared.now();
        let times = Times { requested: sent.requested, received: now };
        let storable = match response.reason {
            None => rules::storable(
                &self.shared.rules,
                &sent.server,
                response.status(),
                response.headers(),
                times,
            )
            .map_err(NotStored::as_str)
            .and_then(|head| if self.is_identified_later() { Err("identity") } else { Ok(head) })
            .and_then(|head| if self.is_used_enough() { Ok(head) } else { Err("min-uses") }),
            Some(reason) => Err(reason.name()),
        };
        match storable {
            Ok(head) => self.store(sent, head, leader, response),
            Err(detail) => {
                // Neither an error nor a refusal of this one request says anything about what is stored.
                let unrelated =
                    rules::is_error(response.status()) || rules::is_about_request(response.status());
                if let Some(stored) = stored.filter(|_| !unrelated) {
                    self.shared.tiers.remove(&stored);
                }
                let failed = response.reason.is_some() || unrelated;
                match leader {
                    Some(leader) if failed => leader.failed(),
                    Some(leader) => leader.not_storable(now),
                    None if failed || !sent.may_wait => {}
                    None => self.shared.collapser.not_storable(&self.key, now),
                }
                let status = CacheStatus { detail: Some(detail), ..sent.status() };
                self.mark(&mut response, &status);
                response
            }
        }
    }

    /// Whether a middleware behind the cache has found out who the client is: it may have decided by this, and others
    /// would not be asked.
    fn is_identified_later(&self) -> bool {
        let context = &self.request.context;
        let known = |identity| {
            let before = [&context.identity, &context.connection().identity];
            before.into_iter().flatten().any(|before| Arc::ptr_eq(before, identity))
        };
        context.exchange.identity().is_some_and(|identity| !known(identity))
    }

    /// Counts a use, and returns whether there were as many as a response needs to be stored.
    fn is_used_enough(&self) -> bool {
        let uses = self.shared.uses.as_ref();
        uses.is_none_or(|(counter, needed)| counter.count(&self.key) >= *needed)
    }

    /// Passes a response on, and stores it as it passes.
    fn store(
        &self,
        sent: Sent,
        head: Head,
        leader: Option<Leader<Weak<Fill>>>,
        mut response: Response,
    ) -> Response {
        let now = self.shared.now();
        let ttl = Some(head.policy.time_to_live(now));
        // The client's conditions were not sent.
        let not_modified =
            rules::is_not_modified(&head, &sent.client).then(|| rules::not_modified_headers(&head, now));
        let writer = match self.shared.tiers.write(self.key.clone(), head, sent.epochs) {
            Ok(writer) => writer,
            Err(_) => {
                if let Some(leader) = leader {
                    leader.not_storable(now);
                }
                let status = CacheStatus { detail: Some("too-large"), ..sent.status() };
                self.mark(&mut response, &status);
                return response;
            }
        };
        if leader.is_none() {
            self.shared.collapser.stored(&self.key);
        }
        let (clock, counters) = (self.shared.clock.clone(), self.shared.counters.clone());
        let mut response = response.map(|body| fill::storing(body, writer, leader, clock, counters));
        let status = CacheStatus { ttl, stored: true, ..sent.status() };
        if let Some(headers) = not_modified {
            let body = std::mem::take(&mut response.body);
            tokio::spawn(drain(body));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.headers_mut() = headers;
        }
        self.mark(&mut response, &status);
        response
    }
}
