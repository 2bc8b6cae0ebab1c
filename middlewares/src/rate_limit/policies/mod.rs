//! Named policies: several limits with keys of several parts that decide together.
//!
//! All buckets that a request needs are asked at once, and a refused request takes nothing from any of them.

pub(crate) mod cost;
pub(crate) mod fields;
mod key;
mod limiter;
mod options;
mod state;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration as StdDuration;

use tidegate_core::client_ip::{ClientIp, IpRanges};
use tidegate_core::store::Allowance;
use tidegate_core::{BuildContext, BuildError, BuildErrors, Middleware, Request};

use super::RateLimit;
use cost::{Cost, Moment};
use key::Key;
use limiter::{Backend, Policies};
pub use options::{Exempt, HeaderForm, Mode, OnLimit, Policy};
use state::State;

/// Maximum number of policies of a middleware.
const MAX_POLICIES: usize = 16;
/// Maximum time between two tokens.
const MAX_INTERVAL: StdDuration = StdDuration::from_secs(365 * 24 * 3600);
/// Maximum number of tokens in a bucket or in debt, which a double counts exactly.
const MAX_TOKENS: u64 = 1 << 50;
/// Maximum time that a request waits.
const MAX_WAIT: StdDuration = StdDuration::from_secs(3600);
const MAX_QUEUE: i64 = 1_000_000;

/// A policy that can be asked.
struct Compiled {
    name: Arc<str>,
    allowance: Allowance,
    key: Key,
    cost: Cost,
    response_cost: Option<Arc<Cost>>,
    is_shadow: bool,
    /// How many requests may wait; `None` if none may.
    queue: Option<u64>,
    exempt: Option<Exemption>,
    state: Arc<State>,
}

/// Who is not limited.
struct Exemption {
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

    fn holds(&self, request: &Request, client: &ClientIp) -> bool {
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

/// Builds the policies of a middleware.
pub(super) fn build(
    options: &RateLimit,
    context: &BuildContext<'_>,
) -> Result<Arc<dyn Middleware>, BuildError> {
    let mut errors = BuildErrors::default();
    if options.policies.len() > MAX_POLICIES {
        errors.add(format!("policies: expected at most {MAX_POLICIES}"));
    }
    let mut names = HashSet::new();
    for policy in &options.policies {
        if !names.insert(&policy.name) {
            errors.add(format!("policies: two are called `{}`", policy.name));
        }
    }
    let compiled = options.policies.iter().enumerate().map(|(at, policy)| {
        let place = format!("policies[{at}]");
        compile(policy, context).map_err(|error| error.map(|text| format!("{place}.{text}")))
    });
    let compiled = errors.check(BuildErrors::collect(compiled));
    let headers = options.headers.meaning();
    let headers = errors.check(headers.map_err(|error| BuildError::new(format!("headers: {error}"))));
    let strategy = options.source_criterion.as_ref().and_then(|source| source.ip_strategy.as_ref());
    let client = errors.check(strategy.map_or_else(|| Ok(ClientIp::default()), ClientIp::new));
    let backend = errors.check(Backend::new(options.redis.as_ref(), context));
    let made = compiled.zip(headers).zip(client).zip(backend);
    let made = made.map(|(((policies, headers), client), backend)| {
        let form = headers.unwrap_or(HeaderForm::Ietf);
        let policies = Policies::new(policies, client, form, options.problem, backend, context.clock());
        Arc::new(policies) as Arc<dyn Middleware>
    });
    errors.made(made)
}

fn compile(options: &Policy, context: &BuildContext<'_>) -> Result<Compiled, BuildError> {
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
    let word =
        |option: &str, error: tidegate_core::word::UnknownWord| BuildError::new(format!("{option}: {error}"));
    let mode = errors.check(options.mode.meaning().map_err(|error| word("mode", error)));
    let on_limit = errors.check(options.on_limit.meaning().map_err(|error| word("onLimit", error)));
    let queue = (on_limit.flatten() == Some(OnLimit::Queue)).then_some(options.max_queue);
    if queue.is_some_and(|most| !(1..=MAX_QUEUE).contains(&most)) {
        errors.add(format!("maxQueue: expected a number from 1 to {MAX_QUEUE}"));
    }
    let key = errors.check(Key::parse(&options.key));
    let cost = |option: &str, text: &str, moment| {
        Cost::parse(text, moment).map_err(|error| error.map(|text| format!("{option}: {text}")))
    };
    let before = if options.cost.is_empty() { "1" } else { options.cost.as_str() };
    let before = errors.check(cost("cost", before, Moment::Before));
    let after = Some(options.response_cost.as_str()).filter(|text| !text.is_empty());
    let after = errors.check(after.map(|text| cost("responseCost", text, Moment::After)).transpose());
    let exempt = options.exempt.as_ref().map(|exempt| Exemption::new(exempt, context.provider())).transpose();
    let exempt = errors.check(exempt);
    let made =
        key.zip(before).zip(after).zip(exempt).map(|(((key, cost), response_cost), exempt)| Compiled {
            name: Arc::from(options.name.as_str()),
            allowance: allowance(options, queue.is_some(), &cost, response_cost.is_some()),
            cost,
            response_cost: response_cost.map(Arc::new),
            is_shadow: mode.flatten() == Some(Mode::Shadow),
            queue: queue.and_then(|most| u64::try_from(most).ok()),
            exempt,
            // A new rate does not refill buckets. Another key means other sources.
            state: context.state(&format!("policy {} by {key:?}", options.name), State::default),
            key,
        });
    errors.made(made)
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
