//! One request to the server for many clients that ask for the same at once (request collapsing, RFC 9111 §4).
//!
//! The first request for a key leads; others wait for it, up to a limit in number, and for as long as they like to. While
//! the response is received, they can be given a handle to read it. When it turns out not to be storable, all are
//! released at once, and requests for the key do not wait for a while ("hit for miss"), since they would have to be sent
//! one after the other.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::watch;

use crate::key::Key;
use crate::time::Timestamp;

/// Limits of collapsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollapseLimits {
    /// The number of requests that wait for one. Further ones are sent.
    pub waiting: usize,
    /// The number of keys that are led at once. Requests for further ones are sent without a leader.
    pub keys: usize,
    /// The number of keys that are known not to be storable.
    pub uncacheable_keys: usize,
    /// How long they are.
    pub uncacheable_for: Duration,
}

impl Default for CollapseLimits {
    fn default() -> Self {
        Self {
            waiting: 1000,
            keys: 10_000,
            uncacheable_keys: 10_000,
            uncacheable_for: Duration::from_secs(10),
        }
    }
}

/// How a request that leads has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response is stored: look it up.
    Stored,
    /// The response cannot be stored: send the request.
    NotStorable,
    /// The server has failed: send a stale response if that is allowed, or the request.
    Failed,
    /// No server can be reached: the same, for stale responses of any age.
    Disconnected,
    /// The client has left: look it up, and lead or wait again.
    Abandoned,
    /// The time to wait is over: send the request.
    TimedOut,
}

/// What is known about a request that leads. `F`: how its response is read while it is received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress<F> {
    /// The response is being received.
    Filling(F),
    /// The request has ended, or the time to wait has.
    Ended(Outcome),
}

/// What a request does.
pub enum Role<F> {
    /// It is sent to the server, and others wait for it.
    Lead(Leader<F>),
    /// It waits.
    Wait(Waiter<F>),
    /// It is sent, and nobody waits for it.
    Pass(Pass),
}

/// Why a request does not take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// The last response for the key could not be stored.
    Uncacheable,
    /// Too many requests wait already.
    TooManyWaiting,
    /// Too many keys are led.
    TooManyKeys,
}

struct Flight<F> {
    /// `None` until the response is being received.
    progress: watch::Receiver<Option<Progress<F>>>,
    waiting: Arc<AtomicUsize>,
}

struct Shared<F> {
    flights: Mutex<HashMap<Key, Flight<F>, RandomState>>,
    /// Until when requests for a key do not wait.
    uncacheable: Cache<Key, Timestamp>,
    limits: CollapseLimits,
}

/// Requests that are under way. `F`: how a response is read while it is received.
pub struct Collapser<F>(Arc<Shared<F>>);

impl<F: Clone> Collapser<F> {
    /// None is under way.
    pub fn new(limits: CollapseLimits) -> Self {
        Self(Arc::new(Shared {
            flights: Mutex::default(),
            uncacheable: Cache::new(limits.uncacheable_keys.max(1)),
            limits,
        }))
    }

    /// Decides what a request for `key` does that the store cannot answer.
    pub fn join(&self, key: &Key, now: Timestamp) -> Role<F> {
        if let Some(until) = self.0.uncacheable.get(key) {
            if now < until {
                return Role::Pass(Pass::Uncacheable);
            }
            self.0.uncacheable.remove(key);
        }
        let mut flights = self.0.flights.lock();
        let room = flights.len() < self.0.limits.keys;
        match flights.entry(key.clone()) {
            Entry::Occupied(flight) => {
                let flight = flight.get();
                // Counted under the lock, so the limit holds.
                if flight.waiting.load(Ordering::Relaxed) >= self.0.limits.waiting {
                    return Role::Pass(Pass::TooManyWaiting);
                }
                flight.waiting.fetch_add(1, Ordering::Relaxed);
                let count = Waiting(flight.waiting.clone());
                Role::Wait(Waiter { progress: flight.progress.clone(), _count: count })
            }
            Entry::Vacant(_) if !room => Role::Pass(Pass::TooManyKeys),
            Entry::Vacant(place) => {
                let (sender, progress) = watch::channel(None);
                place.insert(Flight { progress, waiting: Arc::default() });
                Role::Lead(Leader { shared: self.0.clone(), key: key.clone(), sender: Some(sender) })
            }
        }
    }

    /// A response to a request that nobody waits for cannot be stored either: requests for the key do not wait for a
    /// while longer.
    pub fn not_storable(&self, key: &Key, now: Timestamp) {
        self.0.uncacheable.insert(key.clone(), now.plus(self.0.limits.uncacheable_for));
    }

    /// A response to such a request is stored: requests for the key wait again.
    pub fn stored(&self, key: &Key) {
        self.0.uncacheable.remove(key);
    }

    /// The number of keys that are led, and of requests that wait.
    pub fn usage(&self) -> (usize, usize) {
        let flights = self.0.flights.lock();
        (flights.len(), flights.values().map(|flight| flight.waiting.load(Ordering::Relaxed)).sum())
    }
}

/// The request that others wait for. Dropping it tells them that it was abandoned.
pub struct Leader<F> {
    shared: Arc<Shared<F>>,
    key: Key,
    sender: Option<watch::Sender<Option<Progress<F>>>>,
}

impl<F> Leader<F> {
    /// The response is being received, and can be read by `fill`.
    pub fn filling(&self, fill: F) {
        if let Some(sender) = &self.sender {
            sender.send_replace(Some(Progress::Filling(fill)));
        }
    }

    /// The response is stored and can be found.
    pub fn stored(mut self) {
        self.end(Outcome::Stored);
    }

    /// The response cannot be stored. To be called as soon as its head says so.
    pub fn not_storable(mut self, now: Timestamp) {
        self.shared.uncacheable.insert(self.key.clone(), now.plus(self.shared.limits.uncacheable_for));
        self.end(Outcome::NotStorable);
    }

    /// The server has failed. The next request may lead again.
    pub fn failed(mut self) {
        self.end(Outcome::Failed);
    }

    /// No server can be reached. The next request may lead again.
    pub fn disconnected(mut self) {
        self.end(Outcome::Disconnected);
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(sender) = self.sender.take() {
            // From here on, the next request leads.
            self.shared.flights.lock().remove(&self.key);
            sender.send_replace(Some(Progress::Ended(outcome)));
        }
    }
}

impl<F> Drop for Leader<F> {
    fn drop(&mut self) {
        self.end(Outcome::Abandoned);
    }
}

/// One of those who wait.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that waits. Dropping it makes room for another.
pub struct Waiter<F> {
    progress: watch::Receiver<Option<Progress<F>>>,
    _count: Waiting,
}

impl<F: Clone> Waiter<F> {
    /// Waits until the response is being received or the leader has ended, or until `deadline` completes.
    pub async fn progress(&mut self, deadline: impl Future<Output = ()>) -> Progress<F> {
        self.wait(deadline, Option::is_some).await
    }

    /// Waits until the leader has ended, or until `deadline` completes.
    pub async fn outcome(&mut self, deadline: impl Future<Output = ()>) -> Outcome {
        match self.wait(deadline, |progress| matches!(progress, Some(Progress::Ended(_)))).await {
            Progress::Ended(outcome) => outcome,
            Progress::Filling(_) => Outcome::Abandoned,
        }
    }

    async fn wait(
        &mut self,
        deadline: impl Future<Output = ()>,
        is_enough: impl FnMut(&Option<Progress<F>>) -> bool,
    ) -> Progress<F> {
        let told = async {
            // The sender always sends before it is dropped.
            self.progress.wait_for(is_enough).await.ok().and_then(|progress| progress.clone())
        };
        tokio::select! {
            biased;
            progress = told => progress.unwrap_or(Progress::Ended(Outcome::Abandoned)),
            () = deadline => Progress::Ended(Outcome::TimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);
    const LIMITS: CollapseLimits =
        CollapseLimits { waiting: 3, keys: 2, uncacheable_keys: 10, uncacheable_for: Duration::from_secs(5) };

    fn key(name: &str) -> Key {
        Key::from_bytes(name.as_bytes())
    }

    type Collapser = super::Collapser<&'static str>;
    type Leader = super::Leader<&'static str>;

    fn lead(collapser: &Collapser, name: &str) -> Leader {
        let Role::Lead(leader) = collapser.join(&key(name), NOW) else { panic!("does not lead") };
        leader
    }

    fn wait(collapser: &Collapser, name: &str) -> Waiter<&'static str> {
        let Role::Wait(waiter) = collapser.join(&key(name), NOW) else { panic!("does not wait") };
        waiter
    }

    fn pass(collapser: &Collapser, name: &str, now: Timestamp) -> Option<Pass> {
        if let Role::Pass(reason) = collapser.join(&key(name), now) { Some(reason) } else { None }
    }

    #[test]
    fn waiters_learn_what_the_leader_says() {
        for (end, expected) in [
            (Leader::stored as fn(Leader), Outcome::Stored),
            (|leader| leader.not_storable(NOW), Outcome::NotStorable),
            (Leader::failed, Outcome::Failed),
            (Leader::disconnected, Outcome::Disconnected),
            (drop, Outcome::Abandoned),
        ] {
            let collapser = Collapser::new(LIMITS);
            let leader = lead(&collapser, "a");
            let mut waiters: Vec<_> = (0..3).map(|_| wait(&collapser, "a")).collect();
            for waiter in &mut waiters {
                assert_eq!(waiter.progress(pending()).now_or_never(), None);
            }
            leader.filling("a body");
            for waiter in &mut waiters {
                assert_eq!(waiter.progress(pending()).now_or_never(), Some(Progress::Filling("a body")));
                assert_eq!(waiter.outcome(pending()).now_or_never(), None);
            }
            end(leader);
            for mut waiter in waiters {
                assert_eq!(waiter.outcome(pending()).now_or_never(), Some(expected));
                assert_eq!(waiter.progress(pending()).now_or_never(), Some(Progress::Ended(expected)));
            }
            assert_eq!(collapser.usage(), (0, 0));
        }
    }

    #[test]
    fn waiting_is_bounded_in_number_and_time() {
        let collapser = Collapser::new(LIMITS);
        let leader = lead(&collapser, "a");
        let mut waiters: Vec<_> = (0..3).map(|_| wait(&collapser, "a")).collect();
        assert_eq!(pass(&collapser, "a", NOW), Some(Pass::TooManyWaiting));
        assert_eq!(waiters.pop().unwrap().outcome(ready(())).now_or_never(), Some(Outcome::TimedOut));
        assert_eq!(collapser.usage(), (1, 2));
        wait(&collapser, "a");
        let _other = lead(&collapser, "b");
        assert_eq!(pass(&collapser, "c", NOW), Some(Pass::TooManyKeys));
        leader.stored();
        lead(&collapser, "c");
    }

    #[test]
    fn what_cannot_be_stored_is_not_waited_for_for_a_while() {
        let collapser = Collapser::new(LIMITS);
        lead(&collapser, "a").not_storable(NOW);
        let later = |seconds| NOW.plus(Duration::from_secs(seconds));
        assert_eq!(pass(&collapser, "a", later(4)), Some(Pass::Uncacheable));
        collapser.not_storable(&key("a"), later(4));
        assert_eq!(pass(&collapser, "a", later(8)), Some(Pass::Uncacheable), "for longer");
        assert_eq!(pass(&collapser, "a", later(9)), None, "it leads again");
        collapser.not_storable(&key("a"), later(9));
        collapser.stored(&key("a"));
        assert_eq!(pass(&collapser, "a", later(9)), None);
        for i in 0..1000 {
            lead(&collapser, &i.to_string()).not_storable(NOW);
        }
        assert!(collapser.0.uncacheable.len() <= 10);
    }
}
