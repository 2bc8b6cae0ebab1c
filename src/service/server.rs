//! One server of a service, and what is known about how it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_config::service::PassiveHealthCheck;
use tidegate_core::ServerInfo;
use tokio::task::AbortHandle;

use super::check::Check;
use crate::upstream::Endpoint;

/// How long a server that refused a connection is avoided the first time; doubled each time that it refuses again.
const AVOID: Duration = Duration::from_millis(500);
/// The longest that it is avoided.
const MAX_AVOID: Duration = Duration::from_secs(8);
/// Response times that `leasttime` takes the mean of (Traefik's window).
const TIMES: usize = 100;
/// Response times older than this no longer speak against a server.
const FRESH: Duration = Duration::from_secs(10);
/// The share that a server starts slowly with (Envoy's `min_weight_percent`).
const LEAST_SHARE: f64 = 0.1;

/// [`Server::warm_from`] of a newcomer that has not been put into service: its share is the smallest.
const NOT_STARTED: u64 = u64::MAX;

const UNCHECKED: u8 = 0;
const UNPROVEN: u8 = 1;
const UP: u8 = 2;
const DOWN: u8 = 3;

/// How good a choice a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Nothing speaks against it.
    Good,
    /// Behind a health check and not yet checked.
    Unproven,
    /// It has just refused a connection.
    Refused,
    /// This very request was sent there before.
    Tried,
    /// It is not to be used.
    Out,
}

/// One server of a service.
pub(super) struct Server {
    endpoint: Arc<Endpoint>,
    info: Arc<ServerInfo>,
    state: AtomicU8,
    /// Until when a passive check keeps it out, in milliseconds of [`now`].
    out_until: AtomicU64,
    /// Until when it is avoided for having refused a connection.
    avoid_until: AtomicU64,
    refusals: AtomicU32,
    failures: Mutex<Failures>,
    times: Mutex<Times>,
    /// It came to a service that had servers already.
    newcomer: bool,
    /// Since when its share grows, in milliseconds of [`now`]; 0: it has its whole share.
    warm_from: AtomicU64,
    checker: Mutex<Option<(Check, AbortHandle)>>,
}

/// What a passive check remembers.
#[derive(Default)]
struct Failures {
    at: VecDeque<u64>,
    /// Times that the server was taken out, less those that it has served off since.
    taken_out: u32,
}

#[derive(Default)]
struct Times {
    last: VecDeque<u32>,
    sum: u64,
    at: u64,
}

impl Server {
    /// Creates a server of unknown state. `newcomer`: its service has served without it so far. `has_check`: it will
    /// have a health check, so it is unproven.
    pub(super) fn new(endpoint: Arc<Endpoint>, newcomer: bool, has_check: bool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let info = ServerInfo {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            url: endpoint.url().clone(),
            address: endpoint.address().clone(),
        };
        Self {
            endpoint,
            info: Arc::new(info),
            state: AtomicU8::new(if has_check { UNPROVEN } else { UNCHECKED }),
            out_until: AtomicU64::new(0),
            avoid_until: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
            failures: Mutex::default(),
            times: Mutex::default(),
            newcomer,
            warm_from: AtomicU64::new(if newcomer { NOT_STARTED } else { 0 }),
            checker: Mutex::default(),
        }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The server as exchanges know it.
    pub(super) fn info(&self) -> &Arc<ServerInfo> {
        &self.info
    }

    /// Puts a new server into service: a newcomer's slow start begins.
    pub(super) fn start(&self) {
        // A failure may have set a later time already.
        let _ = self.warm_from.compare_exchange(NOT_STARTED, now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Replaces the health check that runs by one that `start` begins, unless both do the same.
    pub(super) fn replace_check(&self, wanted: Option<Check>, start: impl FnOnce(Check) -> AbortHandle) {
        let mut checker = self.checker.lock();
        match (wanted, checker.as_ref()) {
            (Some(wanted), Some((running, _))) if wanted.is_same(running) => {}
            (Some(wanted), _) => {
                // A server that was not checked before may be in use: it stays so until a check says otherwise.
                let _ =
                    self.state.compare_exchange(UNCHECKED, UNPROVEN, Ordering::Relaxed, Ordering::Relaxed);
                let task = start(wanted.clone());
                if let Some((_, old)) = checker.replace((wanted, task)) {
                    old.abort();
                }
            }
            (None, Some(_)) => {
                if let Some((_, old)) = checker.take() {
                    old.abort();
                }
                self.state.store(UNCHECKED, Ordering::Relaxed);
            }
            (None, None) => {}
        }
    }

    /// Notes what an active check found. Gives true when that is news.
    pub(super) fn checked(&self, up: bool) -> bool {
        let now = if up { UP } else { DOWN };
        let before = self.state.swap(now, Ordering::Relaxed);
        if up {
            self.avoid_until.store(0, Ordering::Relaxed);
        }
        if up && (before == DOWN || before == UNPROVEN && self.newcomer) {
            self.warm_from.store(self::now(), Ordering::Relaxed);
        }
        before != now
    }

    /// The part of its weight that counts, when it grows to its whole within `ramp`.
    pub(super) fn share(&self, ramp: Duration) -> f64 {
        let from = self.warm_from.load(Ordering::Relaxed);
        if from == 0 || ramp.is_zero() {
            return 1.0;
        }
        let (warm, ramp) = (now().saturating_sub(from), millis(ramp));
        if warm >= ramp {
            // Unless it has begun anew in the meantime.
            let _ = self.warm_from.compare_exchange(from, 0, Ordering::Relaxed, Ordering::Relaxed);
            return 1.0;
        }
        (warm as f64 / ramp as f64).max(LEAST_SHARE)
    }

    /// True unless a check, active or passive, found it bad.
    pub(super) fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) != DOWN && self.in_time(&self.out_until)
    }

    /// How good a choice it is now.
    pub(super) fn rank(&self) -> Rank {
        let state = self.state.load(Ordering::Relaxed);
        if state == DOWN || !self.in_time(&self.out_until) {
            Rank::Out
        } else if !self.in_time(&self.avoid_until) {
            Rank::Refused
        } else if state == UNPROVEN {
            Rank::Unproven
        } else {
            Rank::Good
        }
    }

    /// Notes that it could not be connected to.
    pub(super) fn refused(&self) {
        let times = self.refusals.fetch_add(1, Ordering::Relaxed).min(8);
        let avoid = AVOID.saturating_mul(1 << times).min(MAX_AVOID);
        self.avoid_until.store(now() + millis(avoid), Ordering::Relaxed);
    }

    /// Notes that it answered.
    pub(super) fn answered(&self) {
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
            self.avoid_until.store(0, Ordering::Relaxed);
        }
    }

    /// Notes a failure that a passive check counts. Enough of them take the server out, if it `may` be.
    pub(super) fn failed(&self, options: &PassiveHealthCheck, may: impl FnOnce() -> bool) {
        let (now, window) = (now(), millis(options.failure_window.0));
        let mut failures = self.failures.lock();
        while failures.at.front().is_some_and(|at| at + window <= now) {
            failures.at.pop_front();
        }
        let wanted = options.max_failed_attempts.max(1) as usize;
        if failures.at.len() >= wanted {
            // It was to stay, as too many are out: more than that many need not be known.
            failures.at.pop_front();
        }
        failures.at.push_back(now);
        // What was under way when it was taken out says nothing new.
        if failures.at.len() < wanted || !self.in_time(&self.out_until) || !may() {
            return;
        }
        let base = options.ejection_time.map_or(window, |time| millis(time.0)).max(1);
        let most = options.max_ejection_time.map_or(base, |time| millis(time.0)).max(base);
        let served = now.saturating_sub(self.out_until.load(Ordering::Relaxed)) / base;
        let before = failures.taken_out.saturating_sub(u32::try_from(served).unwrap_or(u32::MAX));
        let time = base.saturating_mul(u64::from(before) + 1).min(most);
        failures.at.clear();
        failures.taken_out = before.saturating_add(1);
        drop(failures);
        self.out_until.store(now + time, Ordering::Relaxed);
        self.warm_from.store(now + time, Ordering::Relaxed);
        tracing::warn!(server = %self.endpoint.url(), milliseconds = time, "taken out after failed requests");
    }

    /// True while a passive check keeps it out.
    pub(super) fn is_taken_out(&self) -> bool {
        !self.in_time(&self.out_until)
    }

    /// Notes an answer: failures count only in a row.
    pub(super) fn succeeded(&self) {
        self.failures.lock().at.clear();
    }

    /// Notes the time to the head of an answer.
    pub(super) fn took(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut times = self.times.lock();
        let now = now();
        if times.at + millis(FRESH) < now {
            // It was not asked for long: what it was then does not speak for or against it.
            times.last.clear();
            times.sum = 0;
        }
        if times.last.len() == TIMES
            && let Some(oldest) = times.last.pop_front()
        {
            times.sum -= u64::from(oldest);
        }
        times.last.push_back(micros);
        times.sum += u64::from(micros);
        times.at = now;
    }

    /// Mean of the last response times in microseconds; `None` without any in the last [`FRESH`], so that a server
    /// that was slow once is tried again.
    pub(super) fn mean_time(&self) -> Option<f64> {
        let times = self.times.lock();
        if times.last.is_empty() || times.at + millis(FRESH) < now() {
            return None;
        }
        Some(times.sum as f64 / times.last.len() as f64)
    }

    /// True when the time that an atomic holds is over. No clock is read when it was never set.
    fn in_time(&self, until: &AtomicU64) -> bool {
        let until = until.load(Ordering::Relaxed);
        until == 0 || until <= now()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((_, task)) = self.checker.get_mut().take() {
            task.abort();
        }
    }
}

/// Milliseconds since the first call, plus one.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    millis(START.elapsed()) + 1
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Transport;

    fn server() -> Server {
        new_server(false)
    }

    fn new_server(newcomer: bool) -> Server {
        let transport = Transport::build(&Default::default(), &mut |_| unreachable!()).unwrap();
        Server::new(Endpoint::new("http://127.0.0.1:1", transport, 1).unwrap(), newcomer, false)
    }

    #[test]
    fn a_refusal_is_remembered_until_an_answer() {
        let server = server();
        assert_eq!(server.rank(), Rank::Good);
        server.refused();
        assert_eq!(server.rank(), Rank::Refused);
        assert!(server.is_up(), "a refusal is no verdict");
        server.answered();
        assert_eq!(server.rank(), Rank::Good);
    }

    #[test]
    fn failures_take_a_server_out() {
        let server = server();
        let options = PassiveHealthCheck { max_failed_attempts: 2, ..Default::default() };
        server.failed(&options, || true);
        assert_eq!(server.rank(), Rank::Good);
        server.failed(&options, || true);
        assert_eq!(server.rank(), Rank::Out);
        assert!(!server.is_up());
    }

    #[test]
    fn checks_decide() {
        let server = server();
        assert!(server.checked(false) && !server.checked(false));
        assert_eq!(server.rank(), Rank::Out);
        assert!(server.checked(true));
        assert_eq!(server.rank(), Rank::Good);
    }

    #[test]
    fn the_mean_is_of_the_last_hundred() {
        let server = server();
        assert_eq!(server.mean_time(), None);
        for micros in 0..200 {
            server.took(Duration::from_micros(micros));
        }
        assert_eq!(server.mean_time(), Some(149.5));
    }

    /// For how much longer it is out, in milliseconds.
    fn out(server: &Server) -> u64 {
        server.out_until.load(Ordering::Relaxed).saturating_sub(now())
    }

    #[test]
    fn a_server_that_fails_again_is_out_for_longer_up_to_the_limit() {
        let server = server();
        let options = PassiveHealthCheck {
            ejection_time: Some(tidegate_core::values::Duration::from_secs(100)),
            max_ejection_time: Some(tidegate_core::values::Duration::from_secs(250)),
            ..Default::default()
        };
        for least in [90_000, 190_000, 240_000, 240_000] {
            server.failed(&options, || true);
            assert!((least..least + 10_001).contains(&out(&server)), "{} {least}", out(&server));
            server.failed(&options, || panic!("a late failure is no new one"));
            server.out_until.store(now(), Ordering::Relaxed);
        }
    }

    #[test]
    fn a_server_that_must_stay_is_taken_out_when_it_may_be() {
        let server = server();
        let options = PassiveHealthCheck { max_failed_attempts: 2, ..Default::default() };
        for _ in 0..5 {
            server.failed(&options, || false);
        }
        assert!(!server.is_taken_out() && server.failures.lock().at.len() == 2);
        server.failed(&options, || true);
        assert!(server.is_taken_out());
    }

    #[test]
    fn the_slow_start_of_a_newcomer_begins_when_it_is_put_into_service() {
        let (server, hour) = (new_server(true), Duration::from_secs(3600));
        assert_eq!((server.share(hour), server.share(Duration::ZERO)), (LEAST_SHARE, 1.0));
        server.start();
        assert!(server.warm_from.load(Ordering::Relaxed) <= now());
        assert_eq!(server.share(hour), LEAST_SHARE);
    }

    #[test]
    fn a_server_that_is_back_starts_slowly_and_one_that_was_there_does_not() {
        let hour = Duration::from_secs(3600);
        let server = server();
        assert_eq!(server.share(hour), 1.0);
        server.checked(true);
        assert_eq!(server.share(hour), 1.0, "it was never away");
        server.checked(false);
        server.checked(true);
        assert_eq!((server.share(hour), server.share(Duration::ZERO)), (LEAST_SHARE, 1.0));
        server.warm_from.store(now().saturating_sub(millis(hour) / 2).max(1), Ordering::Relaxed);
        server.failed(&PassiveHealthCheck::default(), || true);
        assert_eq!(server.share(hour), LEAST_SHARE, "from when it will be back");
        assert_eq!(server.share(Duration::from_nanos(1)), LEAST_SHARE.max(server.share(hour)));
    }
}
