//! Limits the number of concurrent requests per source.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use http::StatusCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_core::client_ip::{Source, SourceCriterion};
use tidegate_core::occupancy::{Limit, Occupancy, Offenders, Refusals};
use tidegate_core::values::is_default;
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, End, Guard, Middleware, Next, Prediction, Reason, Request,
    Response, boxed, reply,
};

use crate::rate_limit;

/// Traefik's `inFlightReq`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct InFlightReq {
    /// Maximum number of concurrent requests per source. A request counts until its response has been sent
    /// completely.
    #[serde(skip_serializing_if = "is_default")]
    pub amount: i64,
    /// How sources are distinguished; by the request's host if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_criterion: Option<SourceCriterion>,
}

impl Build for InFlightReq {
    const PER_ROUTER: bool = true;

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let source = Source::new(self.source_criterion.as_ref(), Source::Host)
            .map_err(|error| error.map(|text| format!("error creating requests limiter: {text}")))?;
        // Requests in flight also count against a new `amount`. Another criterion means other sources.
        let counts = context.state(&format!("counts by {:?}", self.source_criterion), Counts::default);
        let offenders = rate_limit::offenders(self.source_criterion.as_ref(), context);
        Ok(Arc::new(Limiter { amount: self.amount, source, counts, offenders }))
    }
}

struct Limiter {
    amount: i64,
    source: Source,
    counts: Arc<Counts>,
    offenders: Arc<Offenders>,
}

impl Middleware for Limiter {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let Some(permit) = self.counts.acquire(self.source.of(&request), self.amount) else {
            rate_limit::note_refusal(&self.offenders, &self.source, &request);
            return crate::ready(too_many(self.amount));
        };
        let permit = Arc::new(permit);
        if let Some(upgrade) = &mut request.context.upgrade {
            // After a protocol switch, the request counts until the connection closes.
            upgrade.hold(permit.clone());
        }
        let response = next.run(request);
        boxed(
            move || async move { response.await.map(|body| body.with_guard(Box::new(PermitGuard(permit)))) },
        )
    }

    fn limit(&self) -> Option<&dyn Limit> {
        Some(self)
    }

    fn predict(&self, request: Request) -> Prediction {
        let count = self.counts.in_flight(&self.source.of(&request));
        let note = format!("{count} of {} requests of this source are in flight", self.amount);
        if count < self.amount {
            return Prediction::passes(request).note(note);
        }
        Prediction::responds(too_many(self.amount)).note(note)
    }
}

impl Limit for Limiter {
    fn kind(&self) -> &'static str {
        "inFlightReq"
    }

    fn occupancy(&self) -> Occupancy {
        let mut counts = (0, 0);
        for shard in &self.counts.shards {
            let shard = shard.lock();
            counts.0 += shard.len() as u64;
            counts.1 += shard.values().map(|count| count.unsigned_abs()).sum::<u64>();
        }
        Occupancy { sources: Some(counts.0), in_flight: Some(counts.1), waiting: None }
    }

    fn refusals(&self) -> Option<Refusals> {
        Some(self.offenders.counted())
    }
}

fn too_many(amount: i64) -> Response {
    let body = format!("max connections reached: {amount}");
    reply::bare(StatusCode::TOO_MANY_REQUESTS, body, Reason::TooManyInFlight)
}

const SHARDS: usize = 16;

/// Requests in flight per source. Holds only sources with at least one.
#[derive(Default)]
struct Counts {
    shards: [Mutex<HashMap<String, i64, foldhash::fast::RandomState>>; SHARDS],
    hasher: foldhash::fast::RandomState,
}

impl Counts {
    fn acquire(self: &Arc<Self>, source: String, amount: i64) -> Option<Permit> {
        let mut shard = self.shard(&source).lock();
        match shard.get_mut(&source) {
            Some(count) if *count >= amount => return None,
            Some(count) => *count += 1,
            None if amount <= 0 => return None,
            None => {
                shard.insert(source.clone(), 1);
            }
        }
        Some(Permit { counts: self.clone(), source })
    }

    /// Returns the number of requests of a source that are in flight.
    fn in_flight(&self, source: &str) -> i64 {
        self.shard(source).lock().get(source).copied().unwrap_or(0)
    }

    fn release(&self, source: &str) {
        let mut shard = self.shard(source).lock();
        if let Some(count) = shard.get_mut(source) {
            *count -= 1;
            if *count == 0 {
                shard.remove(source);
            }
        }
    }

    fn shard(&self, source: &str) -> &Mutex<HashMap<String, i64, foldhash::fast::RandomState>> {
        &self.shards[self.hasher.hash_one(source) as usize % SHARDS]
    }
}

/// The permission for one request. Released on drop, so cancelled requests release it too.
struct Permit {
    counts: Arc<Counts>,
    source: String,
}

/// Holds a permit until a body ends.
struct PermitGuard(#[expect(dead_code, reason = "held until dropped")] Arc<Permit>);

impl Guard for PermitGuard {
    fn end(self: Box<Self>, _: End) {}
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.release(&self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Service, World, build_in, get, text, with_body};
    use std::io;
    use tidegate_core::{Body, ByteStream, ClientSide, Upgrade};

    fn ask(middleware: &Arc<dyn Middleware>, request: Request) -> Response {
        testing::block_on(testing::run(middleware, request, &Service(|_| Response::new(Body::full("hello")))))
    }

    #[test]
    fn a_request_counts_until_its_response_has_been_read() {
        let middleware = testing::build(InFlightReq { amount: 2, source_criterion: None });
        let first = ask(&middleware, get("http://a.test/"));
        let second = ask(&middleware, get("http://a.test/"));
        let refused = ask(&middleware, get("http://a.test/"));
        assert_eq!(refused.status(), 429);
        assert!(!refused.headers().contains_key("content-type"));
        assert_eq!(text(refused), "max connections reached: 2");
        assert_eq!(ask(&middleware, get("http://b.test/")).status(), 200, "hosts count separately");
        assert_eq!(text(first), "hello");
        assert_eq!(ask(&middleware, get("http://a.test/")).status(), 200);
        drop(second);
        assert_eq!(ask(&middleware, get("http://a.test/")).status(), 200);
    }

    #[test]
    fn requests_in_flight_count_against_a_new_amount() {
        let world = World::default();
        let limit = |amount| build_in(&world, InFlightReq { amount, source_criterion: None }).unwrap();
        let (before, first) = (limit(2), get("http://a.test/"));
        let (_first, second) = (ask(&before, first), ask(&before, get("http://a.test/")));
        let after = limit(1);
        assert_eq!(ask(&after, get("http://a.test/")).status(), 429);
        drop(second);
        assert_eq!(ask(&after, get("http://a.test/")).status(), 429, "the first is still in flight");
        assert_eq!(ask(&limit(2), get("http://a.test/")).status(), 200);
    }

    #[test]
    fn idle_sources_are_forgotten() {
        let counts = Arc::new(Counts::default());
        for n in 0..1000 {
            drop(counts.acquire(n.to_string(), 1));
        }
        assert!(counts.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn a_cancelled_request_releases_its_permit() {
        let middleware = testing::build(InFlightReq { amount: 1, source_criterion: None });
        let service = Service(|_| Response::new(Body::empty()));
        drop(testing::run(&middleware, get("http://a.test/"), &service));
        let next = Next::service(Arc::new(service));
        drop(middleware.handle(get("http://a.test/"), &next));
        assert_eq!(ask(&middleware, get("http://a.test/")).status(), 200);
    }

    struct NoSide;

    impl ClientSide for NoSide {
        fn changed(&self) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>> {
            Box::pin(std::future::ready(Err(io::ErrorKind::NotConnected.into())))
        }
    }

    #[test]
    fn an_upgraded_connection_counts_until_it_closes() {
        let middleware = testing::build(InFlightReq { amount: 1, source_criterion: None });
        let tunnel = Arc::new(Mutex::new(None));
        let kept = tunnel.clone();
        let service = Service(move |mut request: Request| {
            *kept.lock() = request.context.upgrade.take();
            Response::new(Body::empty())
        });
        let mut request = get("http://a.test/");
        request.context.upgrade = Some(Box::new(Upgrade::new(Arc::new(NoSide))));
        drop(testing::block_on(testing::run(&middleware, request, &service)));
        assert_eq!(ask(&middleware, get("http://a.test/")).status(), 429);
        tunnel.lock().take().unwrap();
        assert_eq!(ask(&middleware, get("http://a.test/")).status(), 200);
    }

    #[test]
    fn sources_are_counted_by_the_criterion() {
        let criterion =
            SourceCriterion { request_header_name: "X-User".into(), ..SourceCriterion::default() };
        let middleware = testing::build(InFlightReq { amount: 1, source_criterion: Some(criterion) });
        let from = |user: &str| with_body(http::Request::get("http://h.test/").header("X-User", user), "");
        let _first = ask(&middleware, from("a"));
        assert_eq!(ask(&middleware, from("a")).status(), 429);
        assert_eq!(ask(&middleware, from("b")).status(), 200);
    }
}
