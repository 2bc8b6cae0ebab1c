//! What all resolvers serve together, and what the API reports of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::certificate::{Certificate, Facts};
use super::handshakes::Handshakes;

/// A certificate that a resolver offers.
#[derive(Clone)]
pub(super) struct Offer {
    pub(super) certificate: Arc<Certificate>,
    pub(super) facts: Arc<Facts>,
    /// Time from which it is to be replaced.
    pub(super) fresh_until: OffsetDateTime,
    /// Whether it is for clients whose name fits no other.
    pub(super) default: bool,
}

/// The report on one certificate, or on one that is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Its names; none if the report is on the whole resolver.
    pub names: Vec<String>,
    /// Name of the resolver.
    pub resolver: String,
    /// Its issuer; empty while there is none.
    pub issuer: String,
    /// When it expires.
    pub not_after: Option<OffsetDateTime>,
    /// Time of the renewal or the next attempt; `None` if it is not used.
    pub next: Option<OffsetDateTime>,
    /// Why the last attempt failed; empty if it did not.
    pub error: String,
}

impl Row {
    /// Reports what keeps a whole resolver from working.
    pub(super) fn of_resolver(resolver: &str, error: String) -> Self {
        let resolver = resolver.to_owned();
        Self { names: Vec::new(), resolver, issuer: String::new(), not_after: None, next: None, error }
    }

    /// Returns the error with its names and resolver; `None` if there is none.
    pub fn problem(&self) -> Option<String> {
        let Self { names, resolver, error, .. } = self;
        let about = if names.is_empty() { String::new() } else { format!("{}: ", names.join(", ")) };
        (!error.is_empty()).then(|| format!("certificate resolver {resolver}: {about}{error}"))
    }
}

/// The state of one resolver, in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    /// Certificates in use.
    pub held: u64,
    /// Certificates that are wanted, and have not been obtained.
    pub missing: u64,
    /// Certificates that are not used anymore.
    pub unused: u64,
    /// Orders that have failed since the start, and failures to reach the authority.
    pub failures: u64,
    /// When the last one failed.
    pub last_failure: Option<OffsetDateTime>,
}

/// The certificates and reports of all resolvers.
pub(crate) struct Shared {
    handshakes: Arc<dyn Handshakes>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    offers: BTreeMap<Arc<str>, Vec<Offer>>,
    rows: BTreeMap<Arc<str>, Vec<Row>>,
    /// Number of failures, and the time of the last one.
    failures: BTreeMap<Arc<str>, (u64, OffsetDateTime)>,
    /// By name: when its last certificate is to be replaced.
    fresh: HashMap<String, OffsetDateTime>,
}

impl Shared {
    pub(super) fn new(handshakes: Arc<dyn Handshakes>) -> Arc<Self> {
        Arc::new(Self { handshakes, state: Mutex::default(), changes: watch::Sender::new(0) })
    }

    /// Replaces the certificates of a resolver, and serves them.
    pub(super) fn offer(&self, resolver: &Arc<str>, offers: Vec<Offer>) {
        let mut state = self.state.lock();
        state.offers.insert(resolver.clone(), offers);
        let mut all: Vec<Offer> = state.offers.values().flatten().cloned().collect();
        // The one that expires last wins.
        all.sort_by_key(|offer| std::cmp::Reverse(offer.facts.not_after));
        state.fresh.clear();
        for offer in &all {
            for name in &offer.facts.names {
                let fresh = state.fresh.entry(name.clone()).or_insert(offer.fresh_until);
                *fresh = (*fresh).max(offer.fresh_until);
            }
        }
        let default = all.iter().find(|offer| offer.default).map(|offer| &*offer.certificate);
        let certificates: Vec<&Certificate> = all.iter().map(|offer| &*offer.certificate).collect();
        // Under the lock, so that the last change is the last one published.
        self.handshakes.publish(&certificates, default);
        drop(state);
        self.changes.send_modify(|version| *version += 1);
    }

    /// True if there is a certificate for this name that need not be replaced yet.
    pub(super) fn is_fresh(&self, name: &str, now: OffsetDateTime) -> bool {
        let state = self.state.lock();
        let fresh = |name: &str| state.fresh.get(name).is_some_and(|until| *until > now);
        let is_wildcard = name.starts_with("*.");
        fresh(name)
            || !is_wildcard && name.split_once('.').is_some_and(|(_, rest)| fresh(&format!("*.{rest}")))
    }

    /// Replaces the reports of a resolver.
    pub(super) fn tell(&self, resolver: &Arc<str>, rows: Vec<Row>) {
        self.state.lock().rows.insert(resolver.clone(), rows);
    }

    /// Returns the reports of all resolvers.
    pub(crate) fn rows(&self) -> Vec<Row> {
        self.state.lock().rows.values().flatten().cloned().collect()
    }

    /// Counts a failure of a resolver.
    pub(super) fn failed(&self, resolver: &Arc<str>, now: OffsetDateTime) {
        let mut state = self.state.lock();
        let (number, last) = state.failures.entry(resolver.clone()).or_insert((0, now));
        (*number, *last) = (*number + 1, now);
    }

    /// Returns the state of each resolver in numbers.
    pub(crate) fn numbers(&self) -> BTreeMap<Arc<str>, Numbers> {
        let state = self.state.lock();
        let mut all: BTreeMap<Arc<str>, Numbers> = BTreeMap::new();
        for (resolver, rows) in &state.rows {
            let numbers = all.entry(resolver.clone()).or_default();
            for row in rows.iter().filter(|row| !row.names.is_empty()) {
                match (row.not_after, row.next) {
                    (None, _) => numbers.missing += 1,
                    (Some(_), Some(_)) => numbers.held += 1,
                    (Some(_), None) => numbers.unused += 1,
                }
            }
        }
        for (resolver, (failures, last)) in &state.failures {
            let numbers = all.entry(resolver.clone()).or_default();
            (numbers.failures, numbers.last_failure) = (*failures, Some(*last));
        }
        all
    }

    /// Returns a watch that changes with the served certificates.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
