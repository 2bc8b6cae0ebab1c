//! One server of a service, and what is known about how it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_config::service::{PassiveHealthCheck, ServerHealthCheck};
use tidegate_core::BuildError;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::health::Check;
use crate::upstream::{Endpoint, Transport};

/// How long a server that refused a connection is avoided the first time; doubled each time that it refuses again.
const AVOID: Duration = Duration::from_millis(500);
/// The longest that it is avoided.
const MAX_AVOID: Duration = Duration::from_secs(8);
/// Response times that `leasttime` takes the mean of (Traefik's window).
const TIMES: usize = 100;

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
    id: u64,
    state: AtomicU8,
    /// Until when a passive check keeps it out, in milliseconds of [`now`].
    out_until: AtomicU64,
    /// Until when it is avoided for having refused a connection.
    avoid_until: AtomicU64,
    refusals: AtomicU32,
    failures: Mutex<VecDeque<u64>>,
    times: Mutex<Times>,
    checker: Mutex<Option<(Check, AbortHandle)>>,
}

#[derive(Default)]
struct Times {
    last: VecDeque<u32>,
    sum: u64,
    at: u64,
}

impl Server {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            endpoint,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            state: AtomicU8::new(UNCHECKED),
            out_until: AtomicU64::new(0),
            avoid_until: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
            failures: Mutex::default(),
            times: Mutex::default(),
            checker: Mutex::default(),
        }
    }

    pub(super) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// What `Attempts` knows it by.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Starts to check the server actively, or stops to. A check that is the same as before goes on.
    pub(super) fn check(
        self: &Arc<Self>,
        options: Option<&ServerHealthCheck>,
        transport: &Arc<Transport>,
        control: &Handle,
    ) -> Result<(), BuildError> {
        let wanted = options.map(|options| Check::build(options, &self.endpoint, transport)).transpose()?;
        let mut checker = self.checker.lock();
        match (wanted, checker.as_ref()) {
            (Some(wanted), Some((running, _))) if wanted.is_same(running) => {}
            (Some(wanted), _) => {
                // A server that was not checked before may be in use: it stays so until a check says otherwise.
                let _ =
                    self.state.compare_exchange(UNCHECKED, UNPROVEN, Ordering::Relaxed, Ordering::Relaxed);
                let task = control.spawn(wanted.clone().run(Arc::downgrade(self)));
                if let Some((_, old)) = checker.replace((wanted, task.abort_handle())) {
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
        Ok(())
    }

    /// Notes what an active check found. Gives true when that is news.
    pub(super) fn checked(&self, up: bool) -> bool {
        let now = if up { UP } else { DOWN };
        let before = self.state.swap(now, Ordering::Relaxed);
        if up {
            self.avoid_until.store(0, Ordering::Relaxed);
        }
        before != now
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

    /// Notes a failure that a passive check counts. Enough of them take the server out for the window.
    pub(super) fn failed(&self, options: &PassiveHealthCheck) {
        let (now, window) = (now(), millis(options.failure_window.0));
        let mut failures = self.failures.lock();
        while failures.front().is_some_and(|at| at + window <= now) {
            failures.pop_front();
        }
        failures.push_back(now);
        if failures.len() >= options.max_failed_attempts.max(1) as usize {
            failures.clear();
            self.out_until.store(now + window, Ordering::Relaxed);
            tracing::warn!(server = %self.endpoint.url(), "taken out after failed requests");
        }
    }

    /// Notes an answer: failures count only in a row.
    pub(super) fn succeeded(&self) {
        self.failures.lock().clear();
    }

    /// Notes the time to the head of an answer.
    pub(super) fn took(&self, time: Duration) {
        let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let mut times = self.times.lock();
        if times.last.len() == TIMES
            && let Some(oldest) = times.last.pop_front()
        {
            times.sum -= u64::from(oldest);
        }
        times.last.push_back(micros);
        times.sum += u64::from(micros);
        times.at = now();
    }

    /// Mean of the last response times in microseconds; `None` without any in the last `fresh`, so that a server
    /// that was slow once is tried again.
    pub(super) fn mean_time(&self, fresh: Duration) -> Option<f64> {
        let times = self.times.lock();
        if times.last.is_empty() || times.at + millis(fresh) < now() {
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

    fn server() -> Server {
        let transport = Transport::build(&Default::default(), &mut |_| unreachable!()).unwrap();
        Server::new(Endpoint::new("http://127.0.0.1:1", transport, 1).unwrap())
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
        server.failed(&options);
        assert_eq!(server.rank(), Rank::Good);
        server.failed(&options);
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
        assert_eq!(server.mean_time(Duration::from_secs(9)), None);
        for micros in 0..200 {
            server.took(Duration::from_micros(micros));
        }
        assert_eq!(server.mean_time(Duration::from_secs(9)), Some(149.5));
    }
}
