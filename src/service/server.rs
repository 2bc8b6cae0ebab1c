//! One server of a service and its health.

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

/// How long a server is avoided after it first refuses a connection; doubled on each further refusal.
const INITIAL_AVOID: Duration = Duration::from_millis(500);
/// Maximum time that it is avoided.
const MAX_AVOID: Duration = Duration::from_secs(8);
/// Number of response times that `leasttime` averages, as in Traefik.
const MAX_TIMES: usize = 100;
/// Maximum age of response times; older ones are ignored.
const MAX_TIME_AGE: Duration = Duration::from_secs(10);
/// Initial share of a server in slow start (Envoy's `min_weight_percent`).
const MIN_SHARE: f64 = 0.1;

/// [`Server::warm_from`] of a newcomer that is not live yet: its share is the minimum.
const NOT_STARTED: u64 = u64::MAX;

const UNCHECKED: u8 = 0;
const UNPROVEN: u8 = 1;
const UP: u8 = 2;
const DOWN: u8 = 3;

/// The preference of a server; lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// Usable.
    Good,
    /// Has a health check that has not completed yet.
    Unproven,
    /// Recently refused a connection.
    Refused,
    /// Already tried for this request.
    Tried,
    /// Unusable.
    Out,
}

/// One server of a service.
pub(super) struct Server {
    endpoint: Arc<Endpoint>,
    info: Arc<ServerInfo>,
    state: AtomicU8,
    /// End of its ejection by a passive check, in milliseconds of [`now`].
    ejected_until: AtomicU64,
    /// Until when it is avoided because it refused a connection.
    avoid_until: AtomicU64,
    refusals: AtomicU32,
    failures: Mutex<Failures>,
    times: Mutex<Times>,
    /// Whether its service already had servers.
    newcomer: bool,
    /// Start of its slow start, in milliseconds of [`now`]; 0 if it has its full share.
    warm_from: AtomicU64,
    checker: Mutex<Option<(Check, AbortHandle)>>,
}

/// The state of a passive check.
#[derive(Default)]
struct Failures {
    at: VecDeque<u64>,
    /// Number of ejections, reduced while it serves without failures.
    ejections: u32,
}

#[derive(Default)]
struct Times {
    last: VecDeque<u32>,
    sum: u64,
    at: u64,
}

impl Server {
    /// Returns a server of unknown health. `newcomer` means that its service is already live without it;
    /// `has_check` that it will have a health check, so it is unproven.
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
            ejected_until: AtomicU64::new(0),
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

    /// Returns the server's description for exchanges.
    pub(super) fn info(&self) -> &Arc<ServerInfo> {
        &self.info
    }

    /// Makes a new server live: starts the slow start of a newcomer.
    pub(super) fn start(&self) {
        // A failure may already have set a later time.
        let _ = self.warm_from.compare_exchange(NOT_STARTED, now(), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Replaces the running health check by one that `start` spawns, unless both are equivalent.
    pub(super) fn replace_check(&self, wanted: Option<Check>, start: impl FnOnce(Check) -> AbortHandle) {
        let mut checker = self.checker.lock();
        match (wanted, checker.as_ref()) {
            (Some(wanted), Some((running, _))) if wanted.is_same(running) => {}
            (Some(wanted), _) => {
                // A server without a check before may be in use: keep using it until a check fails.
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

    /// Records the result of an active check. Returns true if the state has changed.
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

    /// Returns the effective share of its weight for a slow start of duration `ramp`.
    pub(super) fn share(&self, ramp: Duration) -> f64 {
        let from = self.warm_from.load(Ordering::Relaxed);
        if from == 0 || ramp.is_zero() {
            return 1.0;
        }
        let (warm, ramp) = (now().saturating_sub(from), millis(ramp));
        if warm >= ramp {
            // Unless it has restarted meanwhile.
            let _ = self.warm_from.compare_exchange(from, 0, Ordering::Relaxed, Ordering::Relaxed);
            return 1.0;
        }
        (warm as f64 / ramp as f64).max(MIN_SHARE)
    }

    /// Returns true unless an active or passive check has failed.
    pub(super) fn is_up(&self) -> bool {
        self.state.load(Ordering::Relaxed) != DOWN && self.in_time(&self.ejected_until)
    }

    /// Returns its current rank.
    pub(super) fn rank(&self) -> Rank {
        let state = self.state.load(Ordering::Relaxed);
        if state == DOWN || !self.in_time(&self.ejected_until) {
            Rank::Out
        } else if !self.in_time(&self.avoid_until) {
            Rank::Refused
        } else if state == UNPROVEN {
            Rank::Unproven
        } else {
            Rank::Good
        }
    }

    /// Returns its state by name.
    pub(super) fn state_name(&self) -> &'static str {
        match self.rank() {
            Rank::Good | Rank::Tried => "up",
            Rank::Unproven => "unproven",
            Rank::Refused => "refused",
            Rank::Out => "down",
        }
    }

    /// Records a failure to connect.
    pub(super) fn refused(&self) {
        let times = self.refusals.fetch_add(1, Ordering::Relaxed).min(8);
        let avoid = INITIAL_AVOID.saturating_mul(1 << times).min(MAX_AVOID);
        self.avoid_until.store(now() + millis(avoid), Ordering::Relaxed);
    }

    /// Records a response.
    pub(super) fn answered(&self) {
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
            self.avoid_until.store(0, Ordering::Relaxed);
        }
    }

    /// Records a failure for the passive check. Ejects the server after enough failures if `may` allows it.
    pub(super) fn failed(&self, options: &PassiveHealthCheck, may: impl FnOnce() -> bool) {
        let (now, window) = (now(), millis(options.failure_window.0));
        let mut failures = self.failures.lock();
        while failures.at.front().is_some_and(|at| at + window <= now) {
            failures.at.pop_front();
        }
        let wanted = options.max_failed_attempts.max(1) as usize;
        if failures.at.len() >= wanted {
            // It was not ejected because too many servers are: bound the list.
            failures.at.pop_front();
        }
        failures.at.push_back(now);
        // Requests in flight at the time of the ejection do not count again.
        if failures.at.len() < wanted || !self.in_time(&self.ejected_until) || !may() {
            return;
        }
        let base = options.ejection_time.map_or(window, |time| millis(time.0)).max(1);
        let most = options.max_ejection_time.map_or(base, |time| millis(time.0)).max(base);
        let served = now.saturating_sub(self.ejected_until.load(Ordering::Relaxed)) / base;
        let before = failures.ejections.saturating_sub(u32::try_from(served).unwrap_or(u32::MAX));
        let time = base.saturating_mul(u64::from(before) + 1).min(most);
        failures.at.clear();
        failures.ejections = before.saturating_add(1);
        drop(failures);
        self.ejected_until.store(now + time, Ordering::Relaxed);
        self.warm_from.store(now + time, Ordering::Relaxed);
        tracing::warn!(server = %self.endpoint.url(), milliseconds = time, "ejected after failed requests");
    }

    /// Returns true while it is ejected by a passive check.
    pub(super) fn is_taken_out(&self) -> bool {
        !self.in_time(&self.ejected_until)
    }

    /// Records a successful response: only consecutive failures count.
    pub(super) fn succeeded(&self) {
        self.failures.lock().at.clear();
    }

    /// Records the time to the head of a response.
    pub(super) fn took(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut times = self.times.lock();
        let now = now();
        if times.at + millis(MAX_TIME_AGE) < now {
            // The previous times are too old to be meaningful.
            times.last.clear();
            times.sum = 0;
        }
        if times.last.len() == MAX_TIMES
            && let Some(oldest) = times.last.pop_front()
        {
            times.sum -= u64::from(oldest);
        }
        times.last.push_back(micros);
        times.sum += u64::from(micros);
        times.at = now;
    }

    /// Returns the mean of the last response times in microseconds; `None` if there are none within
    /// [`MAX_TIME_AGE`], so that a server that was slow is tried again.
    pub(super) fn mean_time(&self) -> Option<f64> {
        let times = self.times.lock();
        if times.last.is_empty() || times.at + millis(MAX_TIME_AGE) < now() {
            return None;
        }
        Some(times.sum as f64 / times.last.len() as f64)
    }

    /// Returns true if the time in an atomic is over. Does not read the clock if it was never set.
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

/// Returns the milliseconds since the first call, plus one.
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
    fn a_server_that_refuses_connections_is_avoided_until_it_responds() {
        let server = server();
        assert_eq!(server.rank(), Rank::Good);
        server.refused();
        assert_eq!(server.rank(), Rank::Refused);
        assert!(server.is_up(), "a refused connection does not mark it down");
        server.answered();
        assert_eq!(server.rank(), Rank::Good);
    }

    #[test]
    fn failed_requests_eject_a_server() {
        let server = server();
        let options = PassiveHealthCheck { max_failed_attempts: 2, ..Default::default() };
        server.failed(&options, || true);
        assert_eq!(server.rank(), Rank::Good);
        server.failed(&options, || true);
        assert_eq!(server.rank(), Rank::Out);
        assert!(!server.is_up());
    }

    #[test]
    fn active_checks_mark_a_server_up_or_down() {
        let server = server();
        assert!(server.checked(false) && !server.checked(false));
        assert_eq!(server.rank(), Rank::Out);
        assert!(server.checked(true));
        assert_eq!(server.rank(), Rank::Good);
    }

    #[test]
    fn the_mean_time_covers_the_last_hundred_responses() {
        let server = server();
        assert_eq!(server.mean_time(), None);
        for micros in 0..200 {
            server.took(Duration::from_micros(micros));
        }
        assert_eq!(server.mean_time(), Some(149.5));
    }

    /// Returns the remaining time of the ejection in milliseconds.
    fn out(server: &Server) -> u64 {
        server.ejected_until.load(Ordering::Relaxed).saturating_sub(now())
    }

    #[test]
    fn repeated_ejections_last_longer_up_to_the_limit() {
        let server = server();
        let options = PassiveHealthCheck {
            ejection_time: Some(tidegate_core::values::Duration::from_secs(100)),
            max_ejection_time: Some(tidegate_core::values::Duration::from_secs(250)),
            ..Default::default()
        };
        for least in [90_000, 190_000, 240_000, 240_000] {
            server.failed(&options, || true);
            assert!((least..least + 10_001).contains(&out(&server)), "{} {least}", out(&server));
            server.failed(&options, || panic!("a late failure must not count"));
            server.ejected_until.store(now(), Ordering::Relaxed);
        }
    }

    #[test]
    fn a_server_is_ejected_once_the_limit_allows_it() {
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
    fn slow_start_of_a_new_server_begins_when_it_is_live() {
        let (server, hour) = (new_server(true), Duration::from_secs(3600));
        assert_eq!((server.share(hour), server.share(Duration::ZERO)), (MIN_SHARE, 1.0));
        server.start();
        assert!(server.warm_from.load(Ordering::Relaxed) <= now());
        assert_eq!(server.share(hour), MIN_SHARE);
    }

    #[test]
    fn only_servers_that_were_down_start_slowly() {
        let hour = Duration::from_secs(3600);
        let server = server();
        assert_eq!(server.share(hour), 1.0);
        server.checked(true);
        assert_eq!(server.share(hour), 1.0, "it was never down");
        server.checked(false);
        server.checked(true);
        assert_eq!((server.share(hour), server.share(Duration::ZERO)), (MIN_SHARE, 1.0));
        server.warm_from.store(now().saturating_sub(millis(hour) / 2).max(1), Ordering::Relaxed);
        server.failed(&PassiveHealthCheck::default(), || true);
        assert_eq!(server.share(hour), MIN_SHARE, "slow start begins when the ejection ends");
        assert_eq!(server.share(Duration::from_nanos(1)), MIN_SHARE.max(server.share(hour)));
    }
}
