//! The counters of objects, which outlive the snapshots that use them.

use std::collections::BTreeSet;
use std::sync::Arc;

use tidegate_core::RequestCounters;
use tidegate_core::traffic::TrafficCounters;

use super::{Builder, Instances};
use crate::observability::metrics::{
    CarryingObject, CountedObject, OTHER_CONSUMERS, OTHER_SERVERS, Role, Transport as Carrier,
};

impl Instances {
    /// Keeps the counters of services that were reused, which did not ask for them. Those that were built have the
    /// servers that they still need.
    pub(super) fn keep_counters(&mut self, before: &Self, built: &BTreeSet<String>) {
        let names = self.services.names();
        for (object, counters) in &before.counters {
            let is_kept = match object {
                CountedObject::Router { .. } | CountedObject::Consumer(_) => false,
                CountedObject::Service(name) => names.contains(name),
                CountedObject::Server { service, .. } => names.contains(service) && !built.contains(service),
            };
            if is_kept {
                self.counters.entry(object.clone()).or_insert_with(|| counters.clone());
            }
        }
        let (tcp, udp) = (self.tcp_services.names(), self.udp_services.names());
        let is_reused = |transport: Carrier, service: &String| {
            let names = match transport {
                Carrier::Tcp => &tcp,
                Carrier::Udp => &udp,
            };
            let itself = CarryingObject { transport, role: Role::Service(service.clone()) };
            names.contains(service) && !self.traffic.contains_key(&itself)
        };
        let kept = before.traffic.iter().filter(|(object, _)| match &object.role {
            Role::Service(service) | Role::Server { service, .. } => is_reused(object.transport, service),
            Role::Router { .. } => false,
        });
        let kept: Vec<_> = kept.map(|(object, counters)| (object.clone(), counters.clone())).collect();
        self.traffic.extend(kept);
    }
}

impl Builder<'_> {
    /// Returns the counters of an object, those of the previous snapshot if it has any; `None` if metrics do not
    /// have its name.
    pub(in crate::snapshot) fn counters(&self, object: CountedObject) -> Option<Arc<RequestCounters>> {
        let metrics = self.environment.metrics.as_ref().filter(|metrics| metrics.counts(&object))?;
        let before = self.previous.and_then(|(_, before)| before.counters.get(&object).cloned());
        let mut state = self.state.borrow_mut();
        let counters =
            state.now.counters.entry(object).or_insert_with(|| before.unwrap_or_else(|| metrics.counters()));
        Some(counters.clone())
    }

    /// Lets new servers have the places of those that a service had before and that are not among `urls`.
    pub(in crate::snapshot) fn leave_servers(&self, service: &str, urls: &[&str]) {
        let Some((_, before)) = self.previous else { return };
        self.state.borrow_mut().balanced.insert(service.to_owned());
        let first = CountedObject::Server { service: service.to_owned(), url: String::new() };
        let is_leaving = |(object, _): &(&CountedObject, _)| match object {
            CountedObject::Server { service: of, url } if of == service => {
                Some(url != OTHER_SERVERS && !urls.contains(&url.as_str()))
            }
            _ => None,
        };
        let leaving = before.counters.range(first..).map_while(|one| is_leaving(&one));
        self.state.borrow_mut().leaving += leaving.filter(|is_leaving| *is_leaving).count();
    }

    /// Returns the counters of a server, as [`Self::counters`] does. Those above the limit share the counters of other
    /// servers of their service.
    pub(in crate::snapshot) fn server_counters(
        &self,
        service: &str,
        url: &str,
    ) -> Option<Arc<RequestCounters>> {
        let object = |url: &str| CountedObject::Server { service: service.to_owned(), url: url.to_owned() };
        let own = object(url);
        let metrics = self.environment.metrics.as_ref().filter(|metrics| metrics.counts(&own))?;
        let mut state = self.state.borrow_mut();
        if let Some(known) = state.now.counters.get(&own) {
            return Some(known.clone());
        }
        let before = self.previous.and_then(|(_, before)| before.counters.get(&own).cloned());
        let leaving = state.leaving;
        let Some(counters) = before.or_else(|| metrics.server_counters(leaving)) else {
            drop(state);
            return self.counters(object(OTHER_SERVERS));
        };
        state.now.counters.insert(own, counters.clone());
        Some(counters)
    }

    /// Returns the counters of a consumer, as [`Self::counters`] does. Those above the limit share the counters of other
    /// consumers. Consumers keep theirs as long as they exist.
    pub(in crate::snapshot) fn consumer_counters(&self, name: &str) -> Option<Arc<RequestCounters>> {
        let own = CountedObject::Consumer(name.to_owned());
        let metrics = self.environment.metrics.as_ref().filter(|metrics| metrics.counts(&own))?;
        let is_consumer = |object: &&CountedObject| matches!(object, CountedObject::Consumer(name) if name != OTHER_CONSUMERS);
        let before = self.previous.map(|(_, before)| &before.counters);
        let is_known = |object: &CountedObject| before.is_some_and(|before| before.contains_key(object));
        let is_full = || {
            let state = self.state.borrow();
            let new = state.now.counters.keys().filter(is_consumer).filter(|object| !is_known(object));
            let old = before.map_or(0, |before| before.keys().filter(is_consumer).count());
            new.count() + old >= metrics.max_consumers()
        };
        if !is_known(&own) && is_full() {
            return self.counters(CountedObject::Consumer(OTHER_CONSUMERS.to_owned()));
        }
        self.counters(own)
    }

    /// Returns the counters of an object's connections or sessions, as [`Self::counters`] does.
    pub(in crate::snapshot) fn traffic(
        &self,
        transport: Carrier,
        role: Role,
    ) -> Option<Arc<TrafficCounters>> {
        let object = CarryingObject { transport, role };
        let metrics = self.environment.metrics.as_ref().filter(|metrics| metrics.counts_traffic(&object))?;
        let before = self.previous.and_then(|(_, before)| before.traffic.get(&object).cloned());
        let mut state = self.state.borrow_mut();
        let counters =
            state.now.traffic.entry(object).or_insert_with(|| before.unwrap_or_else(|| metrics.traffic()));
        Some(counters.clone())
    }
}
