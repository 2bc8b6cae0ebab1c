//! Compiled policies: those of a middleware, or the limits of a plan.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration as StdDuration;

use tidegate_core::client_ip::{ClientIp, IpRanges};
use tidegate_core::occupancy::{self, Occupancy, PolicyState};
use tidegate_core::plan::Limits;
use tidegate_core::store::Allowance;
use tidegate_core::{BuildError, BuildErrors, Request};

use super::cost::{Cost, Moment};
use super::key::Key;
use super::options::{Exempt, Mode, OnLimit, Policy};
use super::state::State;

/// Maximum number of policies of a middleware.
const MAX_POLICIES: usize = 16;
/// Maximum time between two tokens.
const MAX_INTERVAL: StdDuration = StdDuration::from_secs(365 * 24 * 3600);
/// Maximum number of tokens in a bucket or in debt, which a double counts exactly.
const MAX_TOKENS: u64 = 1 << 50;
/// Maximum time that a request waits.
const MAX_WAIT: StdDuration = StdDuration::from_secs(3600);
const MAX_QUEUE: i64 = 1_000_000;
/// Prefix of keys of plans in Redis. The name of the plan is the hash tag: all its buckets are on one server.
const PLAN_PREFIX: &str = "tidegate:plan:";
/// Begins the names of quotas in response fields.
const QUOTA_NAME: &str = "quota-";

/// Policies that decide together.
pub struct PolicySet {
    pub(super) policies: Box<[Compiled]>,
    /// Whether responses are charged.
    pub(super) owes: bool,
    /// Begins the keys in Redis.
    prefix: String,
}

/// Where policies are written, and what they refer to.
pub(super) struct Scope<'a> {
    /// The option that lists them.
    pub(super) option: &'static str,
    pub(super) prefix: String,
    pub(super) provider: &'a str,
    /// The key of policies without one.
    pub(super) default_key: &'static str,
    /// Returns the state with this name, which outlives changes of the options.
    pub(super) state: &'a mut dyn FnMut(&str) -> Arc<State>,
}

impl PolicySet {
    pub(super) fn compile(policies: &[Policy], mut scope: Scope<'_>) -> Result<Self, BuildError> {
        let option = scope.option;
        let mut errors = BuildErrors::default();
        if policies.len() > MAX_POLICIES {
            errors.add(format!("{option}: expected at most {MAX_POLICIES}"));
        }
        let mut names = HashSet::new();
        for policy in policies {
            if !names.insert(&policy.name) {
                errors.add(format!("{option}: two are called `{}`", policy.name));
            }
        }
        let compiled = policies.iter().enumerate().map(|(at, policy)| {
            let place = format!("{option}[{at}]");
            compile(policy, &mut scope).map_err(|error| error.map(|text| format!("{place}.{text}")))
        });
        let compiled = errors.check(BuildErrors::collect(compiled));
        let prefix = scope.prefix;
        errors.made(compiled.map(|compiled| Self {
            owes: compiled.iter().any(|policy| policy.response_cost.is_some()),
            policies: compiled.into(),
            prefix,
        }))
    }

    /// Returns the key of a bucket in Redis.
    pub(super) fn shared_key(&self, policy: &Compiled, key: &str) -> String {
        format!("{}{}:{key}", self.prefix, policy.name)
    }

    /// Returns what it holds. Sources are counted if they are in this process.
    pub(super) fn occupancy(&self, is_local: bool) -> Occupancy {
        let sum = |count: fn(&State) -> u64| self.policies.iter().map(|policy| count(&policy.state)).sum();
        let sources = is_local.then(|| sum(|state| state.keys() as u64));
        let waiting = Some(sum(|state| state.waiting.load(Ordering::Relaxed)));
        Occupancy { sources, in_flight: None, waiting }
    }

    /// Returns what the policies have counted.
    pub(super) fn counted(&self) -> Vec<PolicyState> {
        self.policies.iter().map(|policy| policy.state.counted(&policy.name, policy.is_shadow)).collect()
    }
}

/// The limits of a plan. All routers share their buckets.
pub struct PlanLimits {
    set: PolicySet,
    states: LimitStates,
}

/// Buckets of a plan's limits, which outlive changes of its options.
#[derive(Clone, Default)]
pub struct LimitStates(BTreeMap<String, Arc<State>>);

impl PlanLimits {
    /// Compiles the limits of the plan with this qualified name; `None` if there are none. Policies with the name and
    /// key of an earlier one keep its buckets.
    ///
    /// # Errors
    ///
    /// All mistakes, by option.
    pub fn compile(
        plan: &str,
        limits: &[Policy],
        before: &LimitStates,
    ) -> Result<Option<Arc<Self>>, BuildError> {
        let mut errors = BuildErrors::default();
        for (at, limit) in limits.iter().enumerate() {
            if limit.name.starts_with(QUOTA_NAME) {
                errors.add(format!("limits[{at}].name: `{}`: `{QUOTA_NAME}` is for quotas", limit.name));
            }
        }
        let mut states = BTreeMap::new();
        let mut state = |name: &str| {
            let state = before.0.get(name).cloned().unwrap_or_default();
            states.insert(name.to_owned(), state.clone());
            state
        };
        let scope = Scope {
            option: "limits",
            prefix: format!("{PLAN_PREFIX}{{{plan}}}:"),
            provider: plan.rsplit_once('@').map_or("", |(_, provider)| provider),
            default_key: "consumer",
            state: &mut state,
        };
        let set = errors.check(PolicySet::compile(limits, scope));
        let set = errors.made(set)?;
        Ok((!limits.is_empty()).then(|| Arc::new(Self { set, states: LimitStates(states) })))
    }

    /// Returns the buckets, for the next version of the plan.
    pub fn states(&self) -> &LimitStates {
        &self.states
    }

    /// Returns the limits as a consumer has them.
    pub fn of_consumer(self: &Arc<Self>) -> Limits {
        let limits: Arc<dyn Any + Send + Sync> = self.clone();
        Limits::new(limits)
    }

    pub(crate) fn set(&self) -> &PolicySet {
        &self.set
    }
}

impl occupancy::Limit for PlanLimits {
    fn kind(&self) -> &'static str {
        "plan"
    }

    fn occupancy(&self) -> Occupancy {
        self.set.occupancy(true)
    }

    fn policies(&self) -> Vec<PolicyState> {
        self.set.counted()
    }
}

/// A policy that can be asked.
pub(super) struct Compiled {
    pub(super) name: Arc<str>,
    pub(super) allowance: Allowance,
    pub(super) key: Key,
    pub(super) cost: Cost,
    pub(super) response_cost: Option<Arc<Cost>>,
    pub(super) is_shadow: bool,
    pub(super) when_over: WhenOver,
    pub(super) exempt: Option<Exemption>,
    pub(super) state: Arc<State>,
}

/// What happens to a request that finds no token.
#[derive(Clone, Copy, Debug)]
pub(super) enum WhenOver {
    /// It is refused.
    Refuse,
    /// It waits, if fewer than this do.
    Queue(u64),
    /// It is refused after a delay, if fewer than `most` are being delayed.
    Tarpit { most: u64, delay: StdDuration },
}

/// Who is not limited.
pub(super) struct Exemption {
    addresses: IpRanges,
    groups: Vec<String>,
    consumers: Vec<String>,
}

impl Exemption {
    fn new(options: &Exempt, provider: &str) -> Result<Self, BuildError> {
        let addresses = IpRanges::parse(&options.addresses)
            .map_err(|error| error.map(|text| format!("exempt.addresses: {text}")))?;
        // As elsewhere, a plain name refers to an object of the same provider.
        let qualified = |name: &String| match name.contains('@') {
            true => name.clone(),
            false => format!("{name}@{provider}"),
        };
        let consumers = options.consumers.iter().map(qualified).collect();
        Ok(Self { addresses, groups: options.groups.clone(), consumers })
    }

    pub(super) fn holds(&self, request: &Request, client: &ClientIp) -> bool {
        let has_address = !self.addresses.is_empty()
            && client.address(request).is_some_and(|address| self.addresses.contains(address));
        has_address
            || request.context.identity.as_ref().is_some_and(|identity| {
                let consumer = identity.consumer.as_ref();
                self.groups.iter().any(|group| identity.is_in_group(group))
                    || consumer.is_some_and(|one| self.consumers.iter().any(|name| **name == *one.name))
            })
    }
}

fn compile(options: &Policy, scope: &mut Scope<'_>) -> Result<Compiled, BuildError> {
    let mut errors = BuildErrors::default();
    let is_name = |name: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..=64).contains(&name.len()) && name.bytes().all(allowed)
    };
    if !is_name(&options.name) {
        errors.add(format!("name: `{}`: expected letters, digits, `-`, `_` and `.`", options.name));
    }
    if options.average <= 0 {
        errors.add("average: expected 1 or more".to_owned());
    }
    if options.burst < 0 {
        errors.add("burst: expected 0 or more".to_owned());
    }
    let mode = options.mode.meaning().map_err(|error| BuildError::new(format!("mode: {error}")));
    let mode = errors.check(mode);
    let when_over = errors.check(when_over(options));
    let by_default = [scope.default_key.to_owned()];
    let key = if options.key.is_empty() { &by_default[..] } else { &options.key };
    let key = errors.check(Key::parse(key));
    let cost = |option: &str, text: &str, moment| {
        Cost::parse(text, moment).map_err(|error| error.map(|text| format!("{option}: {text}")))
    };
    let before = if options.cost.is_empty() { "1" } else { options.cost.as_str() };
    let before = errors.check(cost("cost", before, Moment::Before));
    let after = Some(options.response_cost.as_str()).filter(|text| !text.is_empty());
    let after = errors.check(after.map(|text| cost("responseCost", text, Moment::After)).transpose());
    let exempt = options.exempt.as_ref().map(|exempt| Exemption::new(exempt, scope.provider)).transpose();
    let exempt = errors.check(exempt);
    let made = key.zip(before).zip(after).zip(exempt).zip(when_over);
    let made = made.map(|((((key, cost), response_cost), exempt), when_over)| Compiled {
        name: Arc::from(options.name.as_str()),
        allowance: allowance(
            options,
            matches!(when_over, WhenOver::Queue(_)),
            &cost,
            response_cost.is_some(),
        ),
        cost,
        response_cost: response_cost.map(Arc::new),
        is_shadow: mode.flatten() == Some(Mode::Shadow),
        when_over,
        exempt,
        // A new rate does not refill buckets. Another key means other sources.
        state: (scope.state)(&format!("policy {} by {key:?}", options.name)),
        key,
    });
    errors.made(made)
}

/// Derives what happens to a request that finds no token.
fn when_over(options: &Policy) -> Result<WhenOver, BuildError> {
    let on_limit = options.on_limit.meaning();
    let on_limit = on_limit.map_err(|error| BuildError::new(format!("onLimit: {error}")))?;
    let most = || match u64::try_from(options.max_queue) {
        Ok(most) if (1..=MAX_QUEUE).contains(&options.max_queue) => Ok(most),
        _ => Err(BuildError::new(format!("maxQueue: expected a number from 1 to {MAX_QUEUE}"))),
    };
    Ok(match on_limit {
        None | Some(OnLimit::Reject) => WhenOver::Refuse,
        Some(OnLimit::Queue) => WhenOver::Queue(most()?),
        Some(OnLimit::Tarpit) => WhenOver::Tarpit { most: most()?, delay: options.max_wait.0.min(MAX_WAIT) },
    })
}

/// Derives the rate from the options.
fn allowance(options: &Policy, queues: bool, cost: &Cost, owes: bool) -> Allowance {
    let period = match options.period.0 {
        StdDuration::ZERO => 1.0,
        period => period.as_secs_f64(),
    };
    let interval = StdDuration::from_secs_f64((period / options.average.max(1) as f64).min(3.2e9))
        .clamp(StdDuration::from_nanos(1), MAX_INTERVAL);
    let burst = u64::try_from(options.burst.max(1)).unwrap_or(1).min(MAX_TOKENS);
    let ahead = if queues { options.max_wait.0.min(MAX_WAIT) } else { StdDuration::ZERO };
    // Without debts, earlier options cannot leave a bucket emptier than it can become now.
    let promised = ahead.as_secs_f64() / interval.as_secs_f64();
    let most = match cost {
        Cost::Fixed(cost) if !owes && *cost <= burst => burst as f64 + promised,
        _ => MAX_TOKENS as f64,
    };
    Allowance { interval, burst, ahead, most: most.min(MAX_TOKENS as f64) }
}
