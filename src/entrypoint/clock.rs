//! How long a client may take: for a head, each step of a body, the next request, and reading a response.
//!
//! A connection waits for one thing after another. Its single timer is reset lazily, so that a busy connection hardly
//! touches it. A connection that waits for long may be evicted when others need its place.

use std::io;
use std::mem::{Discriminant, discriminant};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tidegate_core::BoxFuture;
use tidegate_core::body::MinDataRate;
use tokio::time::{Instant, Sleep};

use crate::entrypoint::conn_limit::ConnectionLimit;
use crate::entrypoint::http::min_rate;

/// How long a client may take to close the connection after GOAWAY.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// After this time without a request, a connection frees its buffers and may be evicted.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// After this time without progress, a connection may be evicted, whatever the other timeouts are.
pub(in crate::entrypoint) const STALLED: Duration = Duration::from_secs(10);

/// How long a draining listener waits for the first request of a connection, which may be in flight.
pub(in crate::entrypoint) const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(5);

/// How long a client may take; `None` for no limit.
#[derive(Clone, Copy, Debug)]
pub(in crate::entrypoint) struct Limits {
    /// For a request head, from its first byte; for the first byte of a new connection; for an HTTP/2 header block.
    pub(in crate::entrypoint) head: Option<Duration>,
    /// Without progress while a body is read.
    pub(in crate::entrypoint) body: Option<Duration>,
    /// Minimum number of bytes of a body per second while we wait for them; 0 for no minimum.
    pub(in crate::entrypoint) rate: u64,
    /// Without a request.
    pub(in crate::entrypoint) idle: Option<Duration>,
    /// From the end of a request's head to the end of its response.
    pub(in crate::entrypoint) write: Option<Duration>,
}

impl Limits {
    /// Returns the minimum rate of request bodies.
    pub(in crate::entrypoint) fn min_rate(&self) -> MinDataRate {
        MinDataRate { stall: self.body, rate: self.rate }
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::entrypoint) enum Wait {
    /// Nothing from the client.
    Nothing,
    /// A first request, which has little time if the listener drains.
    First {
        /// The listener drains.
        drains: bool,
    },
    /// The next request.
    Next,
    /// The rest of a head.
    Head,
    /// More of a body or frame, of which so much has been received.
    Body {
        /// How slow it may be.
        min_rate: MinDataRate,
        /// Number of bytes.
        received: u64,
    },
    /// The client to read, within this time.
    Write(Option<Duration>),
    /// The client to close the connection.
    Close,
}

/// What to do with a client that reached a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::entrypoint) enum Due {
    /// End the connection gracefully: it is idle.
    Leave,
    /// Free the buffers of the connection, which is idle. Reported once each time it becomes idle.
    Park,
    /// Let the body fail: the client is late with it.
    Late,
    /// Close the connection: the client missed the deadline for this.
    Cut(&'static str),
}

/// The clock of one connection.
pub(in crate::entrypoint) struct Clock<'a> {
    limits: &'a Limits,
    connections: &'a ConnectionLimit,
    /// The current wait, with a counter that changes with progress.
    current: Option<(Discriminant<Wait>, u32)>,
    /// Start of the current wait.
    since: Instant,
    /// Resolves when others need the place of the connection, which has waited for long.
    eviction: Option<BoxFuture<'a, ()>>,
    /// When the current response must be complete.
    response: Option<Instant>,
    rate: Rate,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer wakes the task.
    is_armed: bool,
}

impl<'a> Clock<'a> {
    /// Starts the clock of a connection.
    pub(in crate::entrypoint) fn new(limits: &'a Limits, connections: &'a ConnectionLimit) -> Self {
        Self {
            limits,
            connections,
            current: None,
            since: Instant::now(),
            eviction: None,
            response: None,
            rate: Rate::default(),
            timer: None,
            is_armed: false,
        }
    }

    /// Begins the time of a response (HTTP/1; HTTP/2 has one for each stream).
    pub(in crate::entrypoint) fn begin_response(&mut self) {
        self.response = self.limits.write.map(|limit| Instant::now() + limit);
        self.rate = Rate::default();
    }

    /// Ends the time of a response.
    pub(in crate::entrypoint) fn end_response(&mut self) {
        self.response = None;
    }

    /// Ready when a timeout is reached. `mark` changes with progress. Must be polled after each poll of the connection,
    /// always by the same task.
    pub(in crate::entrypoint) fn poll(&mut self, wait: Wait, mark: u32, cx: &mut Context<'_>) -> Poll<Due> {
        if self.rate.is_below(wait) {
            return Poll::Ready(Due::Late);
        }
        let current = Some((discriminant(&wait), mark));
        if self.current != current {
            (self.current, self.eviction) = (current, None);
            if wait != Wait::Nothing {
                self.since = Instant::now();
            }
        }
        loop {
            if let Some(eviction) = &mut self.eviction
                && eviction.as_mut().poll(cx).is_ready()
            {
                self.eviction = None;
                let stalled = Due::Cut("a stalled client at the connection limit");
                return Poll::Ready(if wait == Wait::Next { Due::Leave } else { stalled });
            }
            let due = self.limit(wait).map(|limit| self.since + limit);
            let evictable = self.evictable_after(wait).map(|time| self.since + time);
            let until = [due, evictable, self.response].into_iter().flatten().min();
            let Some(until) = until else { return Poll::Pending };
            ready!(self.poll_timer(until, cx));
            let now = Instant::now();
            if self.response.is_some_and(|deadline| now >= deadline) {
                return Poll::Ready(Due::Cut("the end of a response within writeTimeout"));
            }
            if due.is_some_and(|due| now >= due) {
                return Poll::Ready(missed(wait));
            }
            if wait == Wait::Next {
                self.eviction = Some(Box::pin(self.connections.evicted()));
                return Poll::Ready(Due::Park);
            }
            self.eviction = Some(Box::pin(self.connections.evicted_when_full()));
        }
    }

    /// Returns how long this wait may last.
    fn limit(&self, wait: Wait) -> Option<Duration> {
        match wait {
            Wait::Nothing => None,
            Wait::First { drains } => {
                self.limits.head.into_iter().chain(drains.then_some(FIRST_REQUEST_GRACE)).min()
            }
            Wait::Next => self.limits.idle,
            Wait::Head => self.limits.head,
            Wait::Body { min_rate, .. } => min_rate.stall,
            Wait::Write(limit) => limit,
            Wait::Close => Some(CLOSE_TIMEOUT),
        }
    }

    /// Returns after how long the connection may be evicted, if it may not yet.
    fn evictable_after(&self, wait: Wait) -> Option<Duration> {
        match wait {
            _ if self.eviction.is_some() => None,
            Wait::Next => Some(PARK_AFTER),
            // A client that stalls in the middle of something needs more memory than an idle connection.
            Wait::Head | Wait::Body { .. } | Wait::Write(_) => Some(STALLED),
            Wait::Nothing | Wait::First { .. } | Wait::Close => None,
        }
    }

    /// Ready at `until`. The timer is reset only if it would fire late; if it fires early, it is reset then.
    fn poll_timer(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        } else if self.is_armed && !timer.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            self.is_armed = timer.as_mut().poll(cx).is_pending();
            if self.is_armed {
                return Poll::Pending;
            }
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

/// Returns what to do when a wait has lasted too long.
fn missed(wait: Wait) -> Due {
    match wait {
        Wait::Nothing | Wait::First { .. } | Wait::Next => Due::Leave,
        Wait::Body { .. } => Due::Late,
        Wait::Head => Due::Cut("the rest of a request head"),
        Wait::Write(_) => Due::Cut("the client to read more of a response"),
        Wait::Close => Due::Cut("the client to close the connection"),
    }
}

/// Returns the error of a client that missed the deadline for `what`.
pub(in crate::entrypoint) fn timed_out(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("timed out waiting for {what}"))
}

/// The rate of a body over the time we wait for it.
#[derive(Default)]
struct Rate {
    /// Start of the current wait.
    since: Option<Instant>,
    /// Time waited in this window before the current wait.
    waited: Duration,
    /// Bytes received before the window.
    before: Option<u64>,
}

impl Rate {
    /// Records whether we wait for a body. Returns true at the end of a window that received too little.
    fn is_below(&mut self, wait: Wait) -> bool {
        let awaited = match wait {
            Wait::Body { min_rate, received } if min_rate.rate > 0 => Some((min_rate, received)),
            _ if self.since.is_none() => return false,
            _ => None,
        };
        let now = Instant::now();
        if let Some(since) = self.since.take() {
            self.waited += now.duration_since(since);
        }
        // While we process what was received, the client is not late. The rate is checked at the next wait.
        let Some((min_rate, received)) = awaited else { return false };
        self.since = Some(now);
        let before = *self.before.get_or_insert(received);
        if self.waited < min_rate::window(min_rate) {
            return false;
        }
        let is_enough = received.saturating_sub(before) >= min_rate::min_bytes(min_rate.rate, self.waited);
        (self.before, self.waited) = (Some(received), Duration::ZERO);
        !is_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entrypoint::conn_limit::ConnectionLimiter;

    fn milliseconds(milliseconds: u64) -> Option<Duration> {
        Some(Duration::from_millis(milliseconds))
    }

    fn limits() -> Limits {
        Limits {
            head: milliseconds(20),
            body: milliseconds(250),
            rate: 0,
            idle: milliseconds(60),
            write: milliseconds(30),
        }
    }

    fn body() -> Wait {
        Wait::Body { min_rate: limits().min_rate(), received: 0 }
    }

    /// Waits for a timeout, which must not come before `milliseconds`.
    async fn due(clock: &mut Clock<'_>, (wait, mark): (Wait, u32), milliseconds: u64) -> Due {
        let start = Instant::now();
        let due = std::future::poll_fn(|cx| clock.poll(wait, mark, cx)).await;
        assert!(
            start.elapsed() >= Duration::from_millis(milliseconds),
            "{due:?} after {:?}",
            start.elapsed()
        );
        due
    }

    #[tokio::test]
    async fn each_wait_has_its_own_timeout() {
        let (limits, connections) = (limits(), ConnectionLimiter::new().connections(0, 1));
        let mut clock = Clock::new(&limits, &connections);
        assert_eq!(due(&mut clock, (Wait::First { drains: false }, 0), 20).await, Due::Leave);
        assert_eq!(due(&mut clock, (Wait::Head, 0), 20).await, Due::Cut("the rest of a request head"));
        assert_eq!(due(&mut clock, (body(), 0), 250).await, Due::Late);
        assert_eq!(due(&mut clock, (Wait::Next, 1), 60).await, Due::Leave);
        let late = Due::Cut("the client to read more of a response");
        assert_eq!(due(&mut clock, (Wait::Write(milliseconds(30)), 1), 30).await, late);
        clock.begin_response();
        let late = Due::Cut("the end of a response within writeTimeout");
        assert_eq!(due(&mut clock, (Wait::Nothing, 0), 30).await, late);
        clock.end_response();
        let due = std::future::poll_fn(|cx| clock.poll(Wait::Nothing, 0, cx));
        assert!(tokio::time::timeout(Duration::from_millis(100), due).await.is_err());
    }

    #[tokio::test]
    async fn idle_connections_are_parked_if_their_idle_time_allows() {
        let connections = ConnectionLimiter::new().connections(0, 1);
        let long = Limits { idle: Some(PARK_AFTER + Duration::from_millis(50)), ..limits() };
        let mut clock = Clock::new(&long, &connections);
        let start = Instant::now();
        assert_eq!(due(&mut clock, (Wait::Next, 1), 1000).await, Due::Park);
        assert_eq!(due(&mut clock, (Wait::Next, 1), 0).await, Due::Leave);
        assert!(start.elapsed() >= PARK_AFTER + Duration::from_millis(50), "{:?}", start.elapsed());
        assert_eq!(due(&mut clock, (Wait::Next, 2), 1000).await, Due::Park, "it was busy in between");
    }

    #[tokio::test]
    async fn progress_extends_the_time_of_bodies_but_not_of_heads() {
        for (wait, expected) in [(body(), false), (Wait::Head, true)] {
            let (limits, connections) = (limits(), ConnectionLimiter::new().connections(0, 1));
            let mut clock = Clock::new(&limits, &connections);
            let start = Instant::now();
            let (mut cut, mut reads) = (false, 0);
            while start.elapsed() < Duration::from_millis(400) && !cut {
                reads += 1;
                let mark = if wait == Wait::Head { 0 } else { reads };
                let due = std::future::poll_fn(|cx| clock.poll(wait, mark, cx));
                cut = tokio::time::timeout(Duration::from_millis(5), due).await.is_ok();
            }
            assert_eq!(cut, expected, "{wait:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_stalls_without_a_limit_is_evicted_at_the_limit_of_connections() {
        let workers = crate::worker::Workers::start(1).unwrap();
        let (limits, connections) = (limits(), ConnectionLimiter::new().connections(16, 1));
        let mut clock = Clock::new(&limits, &connections);
        let stalled = std::future::poll_fn(|cx| clock.poll(Wait::Write(None), 0, cx));
        let mut stalled = std::pin::pin!(stalled);
        assert!(tokio::time::timeout(STALLED + Duration::from_millis(200), stalled.as_mut()).await.is_err());
        let _open: Vec<_> = (0..16).map(|_| connections.take(workers.balance().count(0))).collect();
        connections.close_idle();
        assert_eq!(stalled.await, Due::Cut("a stalled client at the connection limit"));
    }

    #[test]
    fn only_the_time_of_waiting_counts_for_the_rate() {
        let min_rate = MinDataRate { stall: milliseconds(5000), rate: 1000 };
        let window = min_rate::window(min_rate);
        for (received, is_below) in [(1, true), (1_000_000, false)] {
            let mut rate = Rate { waited: window, before: Some(0), since: None };
            assert!(!rate.is_below(Wait::Nothing), "we process what was received");
            assert_eq!(rate.is_below(Wait::Body { min_rate, received }), is_below);
            assert_eq!(rate.waited, Duration::ZERO, "another window");
        }
        let mut rate = Rate { waited: window, before: Some(0), since: None };
        assert!(!rate.is_below(Wait::Body { min_rate: MinDataRate { rate: 0, ..min_rate }, received: 1 }));
    }
}
