//! The limits of a snapshot, for metrics and the API.

use std::sync::Arc;

use tidegate_core::Middleware;
use tidegate_core::occupancy::{Limit, Occupancy, PolicyState, Refusals, Usage};

use super::builder::Instances;
use crate::tcp;

/// A middleware that limits the clients of a router.
pub struct RouterLimit {
    /// `name@provider`.
    pub middleware: String,
    /// `name@provider`.
    pub router: String,
    instance: Instance,
}

enum Instance {
    Http(Arc<dyn Middleware>),
    Tcp(Arc<dyn tcp::Middleware>),
}

impl RouterLimit {
    /// Returns what its named policies have counted.
    pub fn policies(&self) -> Vec<PolicyState> {
        match &self.instance {
            Instance::Http(middleware) => middleware.limit().map(Limit::policies),
            Instance::Tcp(middleware) => middleware.limit().map(Limit::policies),
        }
        .unwrap_or_default()
    }

    /// Returns what it has refused, if it counts that.
    pub fn refusals(&self) -> Option<Refusals> {
        match &self.instance {
            Instance::Http(middleware) => middleware.limit().and_then(Limit::refusals),
            Instance::Tcp(middleware) => middleware.limit().and_then(Limit::refusals),
        }
    }

    /// Returns what was used of quotas.
    pub fn usage(&self) -> Vec<Usage> {
        match &self.instance {
            Instance::Http(middleware) => middleware.limit().map(Limit::usage),
            Instance::Tcp(middleware) => middleware.limit().map(Limit::usage),
        }
        .unwrap_or_default()
    }

    /// Returns its kind, and what it holds.
    pub fn occupancy(&self) -> Option<(&'static str, Occupancy)> {
        let read = |limit: &dyn Limit| (limit.kind(), limit.occupancy());
        match &self.instance {
            Instance::Http(middleware) => middleware.limit().map(read),
            Instance::Tcp(middleware) => middleware.limit().map(read),
        }
    }
}

/// Returns the limits that routers have. They all have an instance per router.
pub(super) fn limits(instances: &Instances) -> Vec<RouterLimit> {
    let http = instances.middlewares.instances().filter(|(_, middleware)| middleware.limit().is_some());
    let tcp = instances.tcp_middlewares.instances().filter(|(_, middleware)| middleware.limit().is_some());
    let http = http.map(|(key, middleware)| (key, Instance::Http(middleware.clone())));
    let tcp = tcp.map(|(key, middleware)| (key, Instance::Tcp(middleware.clone())));
    let used = http.chain(tcp).filter(|((_, router), _)| !router.is_empty());
    let limit = |((middleware, router), instance): (&(String, String), Instance)| RouterLimit {
        middleware: middleware.clone(),
        router: router.clone(),
        instance,
    };
    used.map(limit).collect()
}
