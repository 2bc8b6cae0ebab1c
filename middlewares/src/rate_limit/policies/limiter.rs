//! Asks the buckets of a request, and does what they say.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration as StdDuration;

use http::{HeaderMap, StatusCode};
use smallvec::SmallVec;
use tidegate_core::client_ip::ClientIp;
use tidegate_core::occupancy::{self, Occupancy, PolicyState};
use tidegate_core::store::{Allowance, Demand, Draw, Drawn, SharedStore, Turn};
use tidegate_core::values::Duration;
use tidegate_core::{
    BoxFuture, BuildContext, BuildError, Clock, End, Guard, Middleware, Next, Prediction, Reason, Request,
    Response, boxed, reply,
};

use super::super::shared::{FailureMode, Redis};
use super::Compiled;
use super::cost::Sent;
use super::fields::{self, Standing};
use super::options::HeaderForm;
use super::state::{Place, State};

/// Prefix of keys in Redis. The name of the middleware is the hash tag: all its buckets are on one server.
const PREFIX: &str = "tidegate:rate:";

/// Where buckets are.
pub(super) enum Backend {
    Local,
    Shared(Arc<SharedBuckets>),
}

/// Buckets in a store.
pub(super) struct SharedBuckets {
    store: Arc<dyn SharedStore>,
    prefix: String,
    deadline: StdDuration,
    on_failure: FailureMode,
}

impl Backend {
    pub(super) fn new(redis: Option<&Redis>, context: &BuildContext<'_>) -> Result<Self, BuildError> {
        let Some(redis) = redis else { return Ok(Self::Local) };
        let (deadline, on_failure) = redis.behaviour()?;
        Ok(Self::Shared(Arc::new(SharedBuckets {
            store: context.store(&redis.store_options(context)?)?,
            prefix: format!("{PREFIX}{{{}}}:", context.name),
            deadline,
            on_failure,
        })))
    }
}

impl SharedBuckets {
    fn key(&self, policy: &str, key: &str) -> String {
        format!("{}{policy}:{key}", self.prefix)
    }
}

/// The policies of one middleware.
pub(super) struct Policies {
    policies: Box<[Compiled]>,
    client: ClientIp,
    form: HeaderForm,
    /// Whether refusals are problems (RFC 9457).
    problem: bool,
    backend: Backend,
    clock: Clock,
    owes: bool,
}

/// What a request asks of one policy.
struct Ask<'a> {
    policy: &'a Compiled,
    key: String,
    cost: u64,
    allowance: Allowance,
    /// Its place in the queue, should it have to wait.
    place: Option<Place>,
}

type Asks<'a> = SmallVec<[Ask<'a>; 4]>;
type Outcome = SmallVec<[Drawn; 4]>;

impl Policies {
    pub(super) fn new(
        policies: Vec<Compiled>,
        client: ClientIp,
        form: HeaderForm,
        problem: bool,
        backend: Backend,
        clock: Clock,
    ) -> Self {
        let owes = policies.iter().any(|policy| policy.response_cost.is_some());
        Self { policies: policies.into(), client, form, problem, backend, clock, owes }
    }

    /// Returns what a request asks. With `counts`, exemptions are counted and places in queues taken.
    fn asks(&self, request: &Request, counts: bool) -> Asks<'_> {
        let mut asks = Asks::new();
        for policy in &self.policies {
            if policy.exempt.as_ref().is_some_and(|exempt| exempt.holds(request, &self.client)) {
                if counts {
                    policy.state.exempted.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
            let mut allowance = policy.allowance;
            let place = match policy.queue.filter(|_| counts) {
                Some(most) if !policy.is_shadow => Place::take(&policy.state, most),
                _ => None,
            };
            let is_full = policy.queue.is_some() && counts && place.is_none();
            if is_full || policy.is_shadow {
                allowance.ahead = StdDuration::ZERO;
            }
            let (key, cost) = (policy.key.of(request, &self.client), policy.cost.of_request(request));
            asks.push(Ask { policy, key, cost, allowance, place });
        }
        asks
    }

    fn now(&self) -> f64 {
        self.clock.uptime().as_nanos() as f64 / 1e3
    }

    /// Asks the buckets of this process. Without `takes`, nothing is taken.
    fn draw_here(&self, asks: &[Ask<'_>], takes: bool) -> Outcome {
        let now = self.now();
        let mut order: SmallVec<[usize; 4]> = (0..asks.len()).collect();
        // The same order as everywhere, even in a configuration that lists the policies differently.
        order.sort_unstable_by_key(|at| Arc::as_ptr(&asks[*at].policy.state));
        let mut buckets: SmallVec<[_; 4]> = SmallVec::new();
        for at in order {
            let ask = &asks[at];
            buckets.push((at, ask.policy.state.lock(&ask.key, now, ask.allowance)));
        }
        buckets.sort_unstable_by_key(|(at, _)| *at);
        let turns: SmallVec<[Turn; 4]> = buckets
            .iter()
            .map(|(at, bucket)| bucket.level.turn(asks[*at].cost, &asks[*at].allowance))
            .collect();
        let is_over = |(ask, turn): (&Ask<'_>, &Turn)| !ask.policy.is_shadow && matches!(turn, Turn::Over(_));
        let is_refused = asks.iter().zip(&turns).any(is_over);
        let each = buckets.iter_mut().zip(turns).map(|((at, bucket), turn)| {
            let ask = &asks[*at];
            let level = match turn {
                Turn::In(_) if takes && !is_refused => bucket.take(ask.cost),
                _ => bucket.level,
            };
            level.drawn(turn, &ask.allowance)
        });
        each.collect()
    }

    /// Asks the buckets in the store; `None` if they cannot be asked and requests pass without.
    async fn draw_there(
        &self,
        shared: &SharedBuckets,
        asks: &[Ask<'_>],
    ) -> Result<Option<Outcome>, Response> {
        let draw = |ask: &Ask<'_>| Draw {
            key: shared.key(&ask.policy.name, &ask.key),
            allowance: ask.allowance,
            cost: ask.cost,
            demand: if ask.policy.is_shadow { Demand::Shadow } else { Demand::Enforce },
            lifetime: None,
        };
        let draws: Vec<Draw> = asks.iter().map(draw).collect();
        match shared.store.draw(&draws, shared.deadline).await {
            Ok(drawn) => Ok(Some(drawn.into())),
            // The store has already logged the error.
            Err(_) => match shared.on_failure {
                FailureMode::Allow => Ok(None),
                FailureMode::Local => Ok(Some(self.draw_here(asks, true))),
                FailureMode::Deny => Err(reply::error(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "Could not insert/update bucket",
                    Reason::LimitUnavailable,
                )),
            },
        }
    }

    async fn admit(&self, request: Request, next: &Next) -> Response {
        let asks = self.asks(&request, true);
        let drawn = match &self.backend {
            _ if asks.is_empty() => Outcome::new(),
            Backend::Local => self.draw_here(&asks, true),
            Backend::Shared(shared) => match self.draw_there(shared, &asks).await {
                Ok(Some(drawn)) => drawn,
                Ok(None) => return next.run(request).await,
                Err(response) => return response,
            },
        };
        let standings = standings(&asks, &drawn);
        if let Some(mut response) = self.decide(&asks, &drawn) {
            fields::add(response.headers_mut(), self.form, &standings);
            return response;
        }
        let charge = self.owes.then(|| self.charge(&asks));
        wait(asks, &drawn).await;
        let mut response = next.run(request).await;
        fields::add(response.headers_mut(), self.form, &standings);
        match charge {
            Some(charge) => charge.when_sent(response),
            None => response,
        }
    }

    /// Counts the outcome. Returns the response if the request is refused.
    fn decide(&self, asks: &[Ask<'_>], drawn: &[Drawn]) -> Option<Response> {
        let mut violated: SmallVec<[&str; 4]> = SmallVec::new();
        let mut longest = StdDuration::ZERO;
        for (ask, drawn) in asks.iter().zip(drawn) {
            let Turn::Over(wait) = drawn.turn else { continue };
            let state = &ask.policy.state;
            state.offenders.note(&ask.key);
            if ask.policy.is_shadow {
                state.shadowed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            state.refused.fetch_add(1, Ordering::Relaxed);
            violated.push(&ask.policy.name);
            longest = longest.max(wait);
        }
        if !violated.is_empty() {
            return Some(fields::refusal(longest, &violated, self.problem));
        }
        for (ask, drawn) in asks.iter().zip(drawn) {
            if matches!(drawn.turn, Turn::In(_)) {
                ask.policy.state.admitted.fetch_add(1, Ordering::Relaxed);
            }
        }
        None
    }

    /// Returns what the response will be charged to.
    fn charge(&self, asks: &[Ask<'_>]) -> Charge {
        let accounts = asks.iter().filter(|ask| ask.policy.response_cost.is_some());
        Charge {
            accounts: accounts
                .map(|ask| Account {
                    state: ask.policy.state.clone(),
                    name: ask.policy.name.clone(),
                    key: ask.key.clone(),
                    allowance: ask.allowance,
                })
                .collect(),
            costs: asks.iter().filter_map(|ask| ask.policy.response_cost.clone()).collect(),
            shared: match &self.backend {
                Backend::Local => None,
                Backend::Shared(shared) => Some(shared.clone()),
            },
            clock: self.clock.clone(),
        }
    }
}

/// Returns what enforced policies say, for the client.
fn standings(asks: &[Ask<'_>], drawn: &[Drawn]) -> SmallVec<[Standing; 4]> {
    let enforced = asks.iter().zip(drawn).filter(|(ask, _)| !ask.policy.is_shadow);
    enforced
        .map(|(ask, drawn)| Standing {
            name: ask.policy.name.clone(),
            allowance: ask.allowance,
            drawn: *drawn,
        })
        .collect()
}

/// Waits until all tokens are there. Only requests that wait keep their places.
async fn wait(mut asks: Asks<'_>, drawn: &[Drawn]) {
    let mut longest = StdDuration::ZERO;
    for (ask, drawn) in asks.iter_mut().zip(drawn) {
        match drawn.turn {
            Turn::In(wait) if !wait.is_zero() => {
                ask.policy.state.queued.fetch_add(1, Ordering::Relaxed);
                longest = longest.max(wait.min(ask.allowance.ahead));
            }
            _ => drop(ask.place.take()),
        }
    }
    if !longest.is_zero() {
        tokio::time::sleep(longest).await;
    }
}

impl Middleware for Policies {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        boxed(move || self.admit(request, next))
    }

    fn limit(&self) -> Option<&dyn occupancy::Limit> {
        Some(self)
    }

    fn predict(&self, request: Request) -> Prediction {
        let asks = self.asks(&request, false);
        if matches!(self.backend, Backend::Shared(_)) && !asks.is_empty() {
            return Prediction::depends(request, "asks Redis for the buckets of its policies");
        }
        let drawn = self.draw_here(&asks, false);
        let mut notes: Vec<String> = Vec::new();
        let (mut violated, mut longest): (Vec<&str>, _) = (Vec::new(), StdDuration::ZERO);
        for policy in &self.policies {
            let asked = asks.iter().zip(&drawn).find(|(ask, _)| std::ptr::eq(ask.policy, policy));
            let Some((ask, drawn)) = asked else {
                notes.push(format!("policy `{}`: exempt", policy.name));
                continue;
            };
            let state = format!("{} of {} tokens of this key are left", drawn.left, policy.allowance.burst);
            let effect = match drawn.turn {
                Turn::In(wait) if wait.is_zero() => format!("takes {}", ask.cost),
                Turn::In(wait) => format!("takes {} and waits {}", ask.cost, Duration(wait)),
                Turn::Over(_) if policy.is_shadow => "would refuse it (shadow)".to_owned(),
                Turn::Over(wait) => {
                    violated.push(&policy.name);
                    longest = longest.max(wait);
                    "refuses it".to_owned()
                }
            };
            notes.push(format!("policy `{}`: {state}, {effect}", policy.name));
        }
        let prediction = match violated.is_empty() {
            true => Prediction::passes(request),
            false => {
                let mut response = fields::refusal(longest, &violated, self.problem);
                fields::add(response.headers_mut(), self.form, &standings(&asks, &drawn));
                Prediction::responds(response)
            }
        };
        notes.into_iter().fold(prediction, Prediction::note)
    }
}

impl occupancy::Limit for Policies {
    fn kind(&self) -> &'static str {
        "rateLimit"
    }

    fn occupancy(&self) -> Occupancy {
        let sum = |count: fn(&State) -> u64| self.policies.iter().map(|policy| count(&policy.state)).sum();
        let sources = match &self.backend {
            Backend::Local => Some(sum(|state| state.keys() as u64)),
            // Redis has those of shared limits.
            Backend::Shared(_) => None,
        };
        let waiting = Some(sum(|state| state.waiting.load(Ordering::Relaxed)));
        Occupancy { sources, in_flight: None, waiting }
    }

    fn policies(&self) -> Vec<PolicyState> {
        self.policies.iter().map(|policy| policy.state.counted(&policy.name, policy.is_shadow)).collect()
    }
}

/// A bucket that a response is charged to.
struct Account {
    state: Arc<State>,
    name: Arc<str>,
    key: String,
    allowance: Allowance,
}

/// What is charged once a response is sent.
struct Charge {
    accounts: Vec<Account>,
    costs: Vec<Arc<super::cost::Cost>>,
    shared: Option<Arc<SharedBuckets>>,
    clock: Clock,
}

impl Charge {
    /// Charges the response when its body ends, however it ends.
    fn when_sent(self, response: Response) -> Response {
        let meter = Meter {
            charge: Some(self),
            status: response.status(),
            headers: response.headers().clone(),
            bytes: 0,
        };
        response.map(|body| body.with_guard(Box::new(meter)))
    }

    fn pay(self, sent: &Sent<'_>) {
        let costs = self.costs.iter().map(|cost| cost.of_response(sent));
        let due = self.accounts.into_iter().zip(costs).filter(|(_, cost)| *cost > 0);
        let Some(shared) = self.shared else {
            let now = self.clock.uptime().as_nanos() as f64 / 1e3;
            for (account, cost) in due {
                account.state.lock(&account.key, now, account.allowance).take(cost);
            }
            return;
        };
        let draw = |(account, cost): (Account, u64)| Draw {
            key: shared.key(&account.name, &account.key),
            allowance: account.allowance,
            cost,
            demand: Demand::Charge,
            lifetime: None,
        };
        let draws: Vec<Draw> = due.map(draw).collect();
        if draws.is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Nothing waits for it. The store logs failures.
            runtime.spawn(async move {
                let _ = shared.store.draw(&draws, shared.deadline).await;
            });
        }
    }
}

/// Measures a response while it is sent.
struct Meter {
    charge: Option<Charge>,
    status: StatusCode,
    headers: HeaderMap,
    bytes: u64,
}

impl Guard for Meter {
    fn data(&mut self, length: usize) {
        self.bytes = self.bytes.saturating_add(length as u64);
    }

    fn end(mut self: Box<Self>, _: End) {
        let sent = Sent { status: self.status, headers: &self.headers, bytes: self.bytes };
        if let Some(charge) = self.charge.take() {
            charge.pay(&sent);
        }
    }
}
