//! Whether the stores that this process uses can be reached, for metrics.
//!
//! Providers, certificate resolvers, the cluster and limits each have clients of their own. Clients of one endpoint
//! share its state here, and it is forgotten with the last of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// A system with several endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Agents of Consul.
    Consul,
    /// Redis servers and sentinels.
    Redis,
}

/// System and endpoint.
type Key = (System, String);

static KNOWN: Mutex<BTreeMap<Key, Weak<PeerState>>> = Mutex::new(BTreeMap::new());

/// The state of one endpoint.
#[derive(Debug, Default)]
pub struct PeerState {
    is_up: AtomicBool,
    /// Unix time in seconds; 0 for never.
    succeeded: AtomicU64,
    failed: AtomicU64,
    failures: AtomicU64,
}

/// What is known about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The endpoint as configured.
    pub endpoint: String,
    /// Whether the last attempt succeeded; `None` before the first.
    pub is_up: Option<bool>,
    /// When an attempt last succeeded, in Unix time.
    pub succeeded: Option<u64>,
    /// When an attempt last failed, in Unix time.
    pub failed: Option<u64>,
    /// Number of failures.
    pub failures: u64,
}

impl PeerState {
    /// Returns the state of an endpoint, which its clients share.
    pub fn of(system: System, endpoint: &str) -> Arc<Self> {
        let mut known = KNOWN.lock();
        known.retain(|_, state| state.strong_count() > 0);
        let entry = known.entry((system, endpoint.to_owned())).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let state = Arc::default();
            *entry = Arc::downgrade(&state);
            state
        })
    }

    /// Records the outcome of an attempt to reach it.
    pub fn record(&self, succeeded: bool) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.is_up.store(succeeded, Ordering::Relaxed);
        if succeeded {
            self.succeeded.store(now, Ordering::Relaxed);
        } else {
            self.failed.store(now, Ordering::Relaxed);
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn observed(&self, endpoint: &str) -> Observed {
        let time = |at: &AtomicU64| Some(at.load(Ordering::Relaxed)).filter(|at| *at > 0);
        let (succeeded, failed) = (time(&self.succeeded), time(&self.failed));
        Observed {
            endpoint: endpoint.to_owned(),
            is_up: succeeded.or(failed).map(|_| self.is_up.load(Ordering::Relaxed)),
            succeeded,
            failed,
            failures: self.failures.load(Ordering::Relaxed),
        }
    }
}

/// Returns the endpoints of a system that are in use, in the order of their names.
pub fn observed(system: System) -> Vec<Observed> {
    let known = KNOWN.lock();
    let in_use = known.iter().filter(|((of, _), _)| *of == system);
    in_use.filter_map(|((_, endpoint), state)| Some(state.upgrade()?.observed(endpoint))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_one_endpoint_share_its_state() {
        let find = || observed(System::Redis).into_iter().find(|one| one.endpoint == "shared.test:1");
        let (one, other) =
            (PeerState::of(System::Redis, "shared.test:1"), PeerState::of(System::Redis, "shared.test:1"));
        let new = find().unwrap();
        assert_eq!((new.is_up, new.succeeded, new.failed, new.failures), (None, None, None, 0));
        one.record(false);
        other.record(true);
        let later = find().unwrap();
        assert_eq!((later.is_up, later.failures), (Some(true), 1));
        assert!(later.succeeded >= later.failed && later.failed.is_some());
        drop((one, other));
        assert_eq!(find(), None, "it is forgotten with its clients");
    }
}
