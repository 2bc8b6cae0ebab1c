//! Named policies: several limits with keys of several parts that decide together.
//!
//! All buckets that a request needs are asked at once, and a refused request takes nothing from any of them.

pub(crate) mod backend;
mod charge;
pub(crate) mod cost;
pub(crate) mod engine;
pub(crate) mod fields;
mod key;
mod limiter;
mod options;
mod set;
mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tidegate_core::client_ip::ClientIp;
use tidegate_core::{BuildContext, BuildError, BuildErrors, Middleware};

use super::{MAX_JITTER, RateLimit};
use backend::Backend;
use engine::Engine;
use limiter::Policies;
pub use options::{Exempt, HeaderForm, Mode, OnLimit, Policy};
use set::Scope;
pub use set::{LimitStates, PlanLimits, PolicySet};

/// Prefix of keys in Redis. The name of the middleware is the hash tag: all its buckets are on one server.
const PREFIX: &str = "tidegate:rate:";

/// Builds the policies of a middleware.
pub(super) fn build(
    options: &RateLimit,
    context: &BuildContext<'_>,
) -> Result<Arc<dyn Middleware>, BuildError> {
    let mut errors = BuildErrors::default();
    let scope = Scope {
        option: "policies",
        prefix: format!("{PREFIX}{{{}}}:", context.name),
        provider: context.provider(),
        default_key: "client.ip",
        state: &mut |name| context.state(name, state::State::default),
    };
    let set = errors.check(PolicySet::compile(&options.policies, scope));
    let headers = options.headers.meaning();
    let headers = errors.check(headers.map_err(|error| BuildError::new(format!("headers: {error}"))));
    let strategy = options.source_criterion.as_ref().and_then(|source| source.ip_strategy.as_ref());
    let client = errors.check(strategy.map_or_else(|| Ok(ClientIp::default()), ClientIp::new));
    let backend = errors.check(Backend::new(options.redis.as_ref(), context));
    let made = set.zip(headers).zip(client).zip(backend);
    let made = made.map(|(((set, headers), client), backend)| {
        let engine = Engine {
            client,
            form: headers.unwrap_or(HeaderForm::Ietf),
            problem: options.problem,
            jitter: options.retry_after_jitter.0.min(MAX_JITTER),
            backend,
            clock: context.clock(),
        };
        Arc::new(Policies { set, engine }) as Arc<dyn Middleware>
    });
    errors.made(made)
}
