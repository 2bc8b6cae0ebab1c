//! The limits of a snapshot, for metrics and the API.

use std::sync::Arc;

use tidegate_core::Middleware;
use tidegate_core::occupancy::{Limit, Occupancy, PolicyState, Refusals, Usage};
use tidegate_middlewares::rate_limit::policies::PlanLimits;

use super::builder::Instances;
use super::consumers::Directory;
use crate::tcp;

/// A middleware that limits the clients of a router, or a plan that limits its consumers.
pub struct ActiveLimit {
    /// `name@provider`; empty for a plan.
    pub middleware: String,
    /// `name@provider`; empty for a plan.
    pub router: String,
    /// `name@provider`; empty for a middleware.
    pub plan: String,
    instance: Instance,
}

enum Instance {
    Http(Arc<dyn Middleware>),
    Tcp(Arc<dyn tcp::Middleware>),
    Plan(Arc<PlanLimits>),
}

impl ActiveLimit {
    /// Returns what its named policies have counted.
    pub fn policies(&self) -> Vec<PolicyState> {
        match &self.instance {
            Instance::Http(middleware) => middleware.limit().map(Limit::policies),
            Instance::Tcp(middleware) => middleware.limit().map(Limit::policies),
            Instance::Plan(limits) => Some(limits.policies()),
        }
        .unwrap_or_default()
    }

    /// Returns what it has refused, if it counts that.
    pub fn refusals(&self) -> Option<Refusals> {
        match &self.instance {
            Instance::Http(middleware) => middleware.limit().and_then(Limit::refusals),
            Instance::Tcp(middleware) => middleware.limit().and_then(Limit::refusals),
            Instance::Plan(_) => None,
        }
    }

    /// Returns what was used of quotas.
    pub fn usage(&self) -> Vec<Usage> {
        match &self.instance {
            Instance::Http(middleware) => middleware.limit().map(Limit::usage),
            Instance::Tcp(middleware) => middleware.limit().map(Limit::usage),
            Instance::Plan(limits) => Some(limits.usage()),
        }
        .unwrap_or_default()
    }

    /// Returns its kind, and what it holds.
    pub fn occupancy(&self) -> Option<(&'static str, Occupancy)> {
        let read = |limit: &dyn Limit| (limit.kind(), limit.occupancy());
        match &self.instance {
            Instance::Http(middleware) => middleware.limit().map(read),
            Instance::Tcp(middleware) => middleware.limit().map(read),
            Instance::Plan(limits) => Some(read(&**limits)),
        }
    }
}

/// Returns the limits that routers have, with an instance for each, and those of plans.
pub(super) fn limits(instances: &Instances, consumers: &Directory) -> Vec<ActiveLimit> {
    let http = instances.middlewares.instances().filter(|(_, middleware)| middleware.limit().is_some());
    let tcp = instances.tcp_middlewares.instances().filter(|(_, middleware)| middleware.limit().is_some());
    let http = http.map(|(key, middleware)| (key, Instance::Http(middleware.clone())));
    let tcp = tcp.map(|(key, middleware)| (key, Instance::Tcp(middleware.clone())));
    let used = http.chain(tcp).filter(|((_, router), _)| !router.is_empty());
    let limit = |((middleware, router), instance): (&(String, String), Instance)| ActiveLimit {
        middleware: middleware.clone(),
        router: router.clone(),
        plan: String::new(),
        instance,
    };
    let of_plan = |(plan, limits): (&String, &Arc<PlanLimits>)| ActiveLimit {
        middleware: String::new(),
        router: String::new(),
        plan: plan.clone(),
        instance: Instance::Plan(limits.clone()),
    };
    used.map(limit).chain(consumers.limits().map(of_plan)).collect()
}
