//! Asks the buckets of a request, and does what they say: for the policies of a middleware, and for the limits of plans.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration as StdDuration;

use smallvec::SmallVec;
use tidegate_core::client_ip::ClientIp;
use tidegate_core::store::{Allowance, Demand, Draw, Drawn, Turn};
use tidegate_core::values::Duration;
use tidegate_core::{Clock, Request, Response};

use super::super::shared::FailureMode;
use super::backend::{Backend, SharedBuckets};
use super::charge::{Account, Charge};
use super::fields::{self, Standing};
use super::options::HeaderForm;
use super::set::{Compiled, PolicySet, WhenOver};
use super::state::Place;

/// How a middleware asks policies.
pub(crate) struct Engine {
    pub(crate) client: ClientIp,
    pub(crate) form: HeaderForm,
    /// Whether refusals are problems (RFC 9457).
    pub(crate) problem: bool,
    /// Maximum random time that is added to `Retry-After`.
    pub(crate) jitter: StdDuration,
    pub(crate) backend: Backend,
    pub(crate) clock: Clock,
}

/// What a request asks of one policy.
pub(crate) struct Ask<'a> {
    policy: &'a Compiled,
    key: String,
    cost: u64,
    allowance: Allowance,
    /// Its place in the queue, should it have to wait.
    place: Option<Place>,
}

pub(crate) type Asks<'a> = SmallVec<[Ask<'a>; 4]>;
type Outcome = SmallVec<[Drawn; 4]>;

/// Why a request is not admitted.
pub(crate) enum NotAdmitted {
    /// A policy refuses it.
    Refused(Response),
    /// The store cannot be asked.
    Unavailable,
}

/// A request that is admitted.
#[derive(Default)]
pub(crate) struct Admitted {
    standings: SmallVec<[Standing; 4]>,
    charge: Option<Charge>,
}

/// What would happen to a request.
pub(crate) struct Predicted {
    /// What each policy says.
    pub(crate) notes: Vec<String>,
    pub(crate) verdict: Foreseen,
}

/// The verdict of a prediction.
pub(crate) enum Foreseen {
    Admitted,
    Refused(Response),
    /// Only the store knows.
    Shared,
}

impl Engine {
    /// Returns what a request asks. With `counts`, exemptions are counted and places in queues taken.
    pub(crate) fn asks<'s>(&self, set: &'s PolicySet, request: &Request, counts: bool) -> Asks<'s> {
        let mut asks = Asks::new();
        for policy in &set.policies {
            if policy.exempt.as_ref().is_some_and(|exempt| exempt.holds(request, &self.client)) {
                if counts {
                    policy.state.exempted.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
            let mut allowance = policy.allowance;
            let queue = match policy.when_over {
                WhenOver::Queue(most) => Some(most),
                WhenOver::Refuse | WhenOver::Tarpit { .. } => None,
            };
            let place = match queue.filter(|_| counts) {
                Some(most) if !policy.is_shadow => Place::take(&policy.state, most),
                _ => None,
            };
            let is_full = queue.is_some() && counts && place.is_none();
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
        set: &PolicySet,
        asks: &[Ask<'_>],
    ) -> Result<Option<Outcome>, NotAdmitted> {
        let draw = |ask: &Ask<'_>| Draw {
            key: set.shared_key(ask.policy, &ask.key),
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
                FailureMode::Deny => Err(NotAdmitted::Unavailable),
            },
        }
    }

    /// Decides what happens to a request with these asks, and returns when it may go on.
    pub(crate) async fn admit(&self, set: &PolicySet, asks: Asks<'_>) -> Result<Admitted, NotAdmitted> {
        let drawn = match &self.backend {
            _ if asks.is_empty() => return Ok(Admitted::default()),
            Backend::Local => self.draw_here(&asks, true),
            Backend::Shared(shared) => match self.draw_there(shared, set, &asks).await? {
                Some(drawn) => drawn,
                None => return Ok(Admitted::default()),
            },
        };
        let standings = standings(&asks, &drawn);
        if let Some(mut response) = self.decide(&asks, &drawn) {
            fields::add(response.headers_mut(), self.form, &standings);
            tarpit(asks, &drawn).await;
            return Err(NotAdmitted::Refused(response));
        }
        let charge = set.owes.then(|| self.charge(set, &asks));
        wait(asks, &drawn).await;
        Ok(Admitted { standings, charge })
    }

    /// Completes the response to an admitted request.
    pub(crate) fn finish(&self, admitted: Admitted, mut response: Response) -> Response {
        fields::add(response.headers_mut(), self.form, &admitted.standings);
        match admitted.charge {
            Some(charge) => charge.when_sent(response),
            None => response,
        }
    }

    /// Returns what would happen to a request. Takes and counts nothing.
    pub(crate) fn predict(&self, set: &PolicySet, request: &Request) -> Predicted {
        let asks = self.asks(set, request, false);
        if matches!(self.backend, Backend::Shared(_)) && !asks.is_empty() {
            return Predicted { notes: Vec::new(), verdict: Foreseen::Shared };
        }
        let drawn = self.draw_here(&asks, false);
        let mut notes: Vec<String> = Vec::new();
        let (mut violated, mut longest): (Vec<&str>, _) = (Vec::new(), StdDuration::ZERO);
        for policy in &set.policies {
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
                    match policy.when_over {
                        WhenOver::Tarpit { delay, .. } => format!("refuses it after {}", Duration(delay)),
                        WhenOver::Refuse | WhenOver::Queue(_) => "refuses it".to_owned(),
                    }
                }
            };
            notes.push(format!("policy `{}`: {state}, {effect}", policy.name));
        }
        if violated.is_empty() {
            return Predicted { notes, verdict: Foreseen::Admitted };
        }
        let mut response = fields::refusal(longest, &violated, self.problem);
        fields::add(response.headers_mut(), self.form, &standings(&asks, &drawn));
        Predicted { notes, verdict: Foreseen::Refused(response) }
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
            return Some(fields::refusal(jittered(longest, self.jitter), &violated, self.problem));
        }
        for (ask, drawn) in asks.iter().zip(drawn) {
            if matches!(drawn.turn, Turn::In(_)) {
                ask.policy.state.admitted.fetch_add(1, Ordering::Relaxed);
            }
        }
        None
    }

    /// Returns what the response will be charged to.
    fn charge(&self, set: &PolicySet, asks: &[Ask<'_>]) -> Charge {
        let accounts = asks.iter().filter(|ask| ask.policy.response_cost.is_some());
        Charge {
            accounts: accounts
                .map(|ask| Account {
                    state: ask.policy.state.clone(),
                    key: ask.key.clone(),
                    shared_key: set.shared_key(ask.policy, &ask.key),
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

/// Delays the response to a request that was refused, if a policy that refused it has a place left for that.
async fn tarpit(mut asks: Asks<'_>, drawn: &[Drawn]) {
    let mut places: SmallVec<[Place; 4]> = SmallVec::new();
    let mut longest = StdDuration::ZERO;
    for (ask, drawn) in asks.iter_mut().zip(drawn) {
        // Others may wait in its place.
        drop(ask.place.take());
        let WhenOver::Tarpit { most, delay } = ask.policy.when_over else { continue };
        if ask.policy.is_shadow || !matches!(drawn.turn, Turn::Over(_)) {
            continue;
        }
        if let Some(place) = Place::take(&ask.policy.state, most) {
            ask.policy.state.tarpitted.fetch_add(1, Ordering::Relaxed);
            places.push(place);
            longest = longest.max(delay);
        }
    }
    if !longest.is_zero() {
        tokio::time::sleep(longest).await;
    }
}

/// Adds a random time of at most `jitter`, so that refused clients do not all return at once.
pub(crate) fn jittered(wait: StdDuration, jitter: StdDuration) -> StdDuration {
    if jitter.is_zero() {
        return wait;
    }
    wait.saturating_add(jitter.mul_f64(fastrand::f64()))
}
