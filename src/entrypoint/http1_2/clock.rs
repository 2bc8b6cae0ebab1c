//! Timeouts of a client: for a head, each step of a body, the next request, and reading a response.
//!
//! The HTTP library has one timer for heads, which also runs on idle connections, and none for bodies or stalled
//! readers. So this clock is polled after the connection. Its single timer is reset lazily, so that a busy connection
//! hardly touches it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tidegate_core::body::MinDataRate;
use tidegate_wire::http1::framing::Place;
use tokio::time::{Instant, Sleep};

use crate::entrypoint::http::min_rate;
use crate::entrypoint::http::protocol::Protocol;
use crate::entrypoint::http1_2::progress::Progress;

/// How long a client may take to close the connection after `Connection: close` or GOAWAY.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// After this time without a request, a connection frees its buffers.
const PARK_AFTER: Duration = Duration::from_secs(2);

/// After this time without progress, a connection may be evicted, whatever the other timeouts are.
pub(in crate::entrypoint) const STALLED: Duration = Duration::from_secs(10);

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

    /// Returns how long a connection may stay parked: the rest of its idle time.
    pub(in crate::entrypoint) fn parked(&self) -> Option<Duration> {
        self.idle.map(|idle| idle.saturating_sub(PARK_AFTER))
    }
}

/// What to do with a client that reached a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::entrypoint) enum Due {
    /// Shut the connection down gracefully.
    Leave,
    /// Park the connection: it is idle and needs no buffers for now. Reported once each time an HTTP/2 connection
    /// becomes idle.
    Park,
    /// Make the connection evictable: it stalls. Reported once until there is progress again.
    Yield,
    /// Close the connection: the client missed the deadline for this.
    Cut(&'static str),
}

/// The clock of one connection.
pub(in crate::entrypoint) struct Clock {
    limits: Limits,
    protocol: Protocol,
    parks: bool,
    /// Number of requests when the connection was last parked.
    rested: Option<u32>,
    waiting: Wait,
    mark: u32,
    since: Instant,
    yielded: bool,
    /// The request that is being handled, and the deadline of its response (HTTP/1; HTTP/2 has one per stream).
    response: Option<(u32, Instant)>,
    timer: Option<Pin<Box<Sleep>>>,
    rate: Rate,
}

/// The rate of a body over the time we wait for it (HTTP/1).
struct Rate {
    /// The time over which the rate is measured.
    window: Duration,
    /// Start of the current wait.
    since: Option<Instant>,
    /// Time waited in this window before the current wait.
    waited: Duration,
    /// Number of the request.
    heads: u32,
    /// Bytes received before the window.
    before: u64,
}

impl Rate {
    fn new(window: Duration) -> Self {
        Self { window, since: None, waited: Duration::ZERO, heads: 0, before: 0 }
    }

    /// Records whether we wait now. Returns true at the end of a window that received too little.
    fn is_below(&mut self, min_rate: u64, waits: bool, progress: &Progress) -> bool {
        if !waits && self.since.is_none() {
            return false;
        }
        let now = Instant::now();
        if let Some(since) = self.since.take() {
            self.waited += now.duration_since(since);
        }
        self.since = waits.then_some(now);
        if self.heads != progress.heads() {
            (self.heads, self.before, self.waited) = (progress.heads(), progress.received(), Duration::ZERO);
        }
        // While we process what was received, the client is not late. The rate is checked at the next wait.
        if !waits || self.waited < self.window {
            return false;
        }
        let received = progress.received().saturating_sub(self.before);
        let enough = received >= min_rate::min_bytes(min_rate, self.waited);
        (self.before, self.waited) = (progress.received(), Duration::ZERO);
        !enough
    }
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    Park,
    Request,
    Head,
    Body,
    Write,
    Close,
}

impl Wait {
    /// Returns true if the client stalls in the middle of something, which needs more memory than an idle connection.
    fn is_for_a_stalled_client(self) -> bool {
        matches!(self, Self::Head | Self::Body | Self::Write)
    }
}

impl Clock {
    /// Starts the clock of a connection.
    pub(in crate::entrypoint) fn new(limits: Limits, protocol: Protocol) -> Self {
        let parks = limits.idle.is_none_or(|idle| idle > PARK_AFTER);
        Self {
            limits,
            protocol,
            parks,
            rested: None,
            waiting: Wait::Nothing,
            mark: 0,
            since: Instant::now(),
            yielded: false,
            response: None,
            timer: None,
            rate: Rate::new(min_rate::window(limits.min_rate())),
        }
    }

    /// Ready when a timeout is reached. Must be polled after each poll of the connection.
    pub(in crate::entrypoint) fn poll(&mut self, progress: &Progress, cx: &mut Context<'_>) -> Poll<Due> {
        let (wait, mark) = self.wait(progress);
        let too_slow = self.is_too_slow(wait, progress);
        let limit = match wait {
            Wait::Nothing => None,
            Wait::Park => Some(PARK_AFTER),
            Wait::Request if self.rested == Some(mark) => self.limits.parked(),
            Wait::Request if progress.heads() > 0 => self.limits.idle,
            Wait::Request | Wait::Head => self.limits.head,
            Wait::Body if too_slow => return Poll::Ready(Due::Cut("a request body at the minimum rate")),
            Wait::Body => progress.patience().unwrap_or(self.limits.body),
            // Streams blocked by flow control have no timers of their own.
            Wait::Write => self.limits.write.filter(|_| self.protocol.is_framed()),
            Wait::Close => Some(CLOSE_TIMEOUT),
        };
        let response = self.response_deadline(progress);
        if (wait, mark) != (self.waiting, self.mark) {
            (self.waiting, self.mark, self.yielded) = (wait, mark, false);
            if wait != Wait::Nothing {
                self.since = Instant::now();
            }
        }
        let due = limit.map(|limit| self.since + limit);
        let yields = wait.is_for_a_stalled_client() && !self.yielded;
        let yields = yields.then(|| self.since + STALLED);
        let Some(until) = earlier(earlier(due, yields), response) else { return Poll::Pending };
        ready!(self.poll_timer(until, cx));
        let now = Instant::now();
        if response.is_some_and(|deadline| now >= deadline) {
            return Poll::Ready(Due::Cut("the end of a response within writeTimeout"));
        }
        if due.is_none_or(|due| now < due) {
            self.yielded = true;
            return Poll::Ready(Due::Yield);
        }
        if wait == Wait::Park {
            self.rested = Some(mark);
        }
        Poll::Ready(match wait {
            Wait::Park => Due::Park,
            Wait::Request | Wait::Nothing => Due::Leave,
            Wait::Head => Due::Cut("the rest of a request head"),
            Wait::Body => Due::Cut("more of a request body"),
            Wait::Write => Due::Cut("the client to read more of a response"),
            Wait::Close => Due::Cut("the client to close the connection"),
        })
    }

    /// Returns the deadline of the current response.
    fn response_deadline(&mut self, progress: &Progress) -> Option<Instant> {
        let limit = self.limits.write.filter(|_| !self.protocol.is_framed())?;
        if !progress.is_awaiting_response() || progress.is_upgraded() {
            self.response = None;
            return None;
        }
        let heads = progress.heads();
        let current = self.response.filter(|(which, _)| *which == heads);
        let (_, deadline) = *self.response.insert(current.unwrap_or_else(|| (heads, Instant::now() + limit)));
        Some(deadline)
    }

    /// Measures the rate of a body. HTTP/2 streams and bodies with limits of their router are measured elsewhere.
    fn is_too_slow(&mut self, wait: Wait, progress: &Progress) -> bool {
        if self.protocol.is_framed() || self.limits.rate == 0 {
            return false;
        }
        if progress.patience().is_some() {
            self.rate.since = None;
            return false;
        }
        self.rate.is_below(self.limits.rate, wait == Wait::Body, progress)
    }

    /// Returns what the connection waits for, and a counter that changes with progress.
    fn wait(&self, progress: &Progress) -> (Wait, u32) {
        if progress.is_upgraded() {
            return (Wait::Nothing, 0);
        }
        if progress.is_write_blocked() {
            return (Wait::Write, progress.writes());
        }
        if !progress.is_read_blocked() {
            return (Wait::Nothing, 0);
        }
        match progress.place() {
            // The time of a block runs from its start, whatever else is received.
            Place::Head if self.protocol.is_framed() => (Wait::Head, progress.heads()),
            Place::Body if !self.protocol.is_framed() && progress.is_responding() => (Wait::Nothing, 0),
            Place::Body => (Wait::Body, progress.reads()),
            _ if progress.is_stalled() => (Wait::Write, progress.reads()),
            _ if progress.is_awaiting_response() => (Wait::Nothing, 0),
            Place::Head => (Wait::Head, progress.heads()),
            Place::Opaque => (Wait::Nothing, 0),
            Place::Start if progress.is_leaving() => (Wait::Close, 0),
            Place::Start => {
                let heads = progress.heads();
                let parks = self.parks && heads > 0 && self.rested != Some(heads);
                (if parks { Wait::Park } else { Wait::Request }, heads)
            }
        }
    }

    /// Ready at `until`. The timer is reset only if it would fire late; if it fires early, it is reset then.
    fn poll_timer(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let milliseconds = |milliseconds| Some(Duration::from_millis(milliseconds));
        Limits {
            head: milliseconds(20),
            body: milliseconds(250),
            rate: 0,
            idle: milliseconds(60),
            write: milliseconds(30),
        }
    }

    /// Waits for a timeout, which must not come before `milliseconds`.
    async fn due(clock: &mut Clock, progress: &Progress, milliseconds: u64) -> Due {
        let start = Instant::now();
        let due = std::future::poll_fn(|cx| clock.poll(progress, cx)).await;
        assert!(
            start.elapsed() >= Duration::from_millis(milliseconds),
            "{due:?} after {:?}",
            start.elapsed()
        );
        due
    }

    fn at(progress: &Progress, place: Place) {
        progress.read(place, false);
        progress.block_read(true);
    }

    #[tokio::test]
    async fn each_wait_has_its_own_timeout() {
        let progress = Progress::default();
        at(&progress, Place::Start);
        let mut clock = Clock::new(limits(), Protocol::Http1);
        assert_eq!(due(&mut clock, &progress, 20).await, Due::Leave);
        at(&progress, Place::Head);
        assert_eq!(due(&mut clock, &progress, 20).await, Due::Cut("the rest of a request head"));
        progress.read(Place::Body, true);
        assert_eq!(due(&mut clock, &progress, 250).await, Due::Cut("more of a request body"));
        at(&progress, Place::Start);
        assert_eq!(due(&mut clock, &progress, 60).await, Due::Leave);
        progress.begin();
        progress.block_write(true);
        let late = Due::Cut("the end of a response within writeTimeout");
        assert_eq!(due(&mut clock, &progress, 30).await, late);
    }

    #[tokio::test]
    async fn idle_connections_are_parked_if_their_idle_time_allows() {
        let progress = Progress::default();
        progress.read(Place::Start, true);
        progress.block_read(true);
        let short = Duration::from_millis(50);
        let long = Limits { idle: Some(PARK_AFTER + short), ..limits() };
        assert_eq!(due(&mut Clock::new(long, Protocol::Http1), &progress, 2000).await, Due::Park);
        assert_eq!(due(&mut Clock::new(limits(), Protocol::Http1), &progress, 60).await, Due::Leave);
        assert_eq!(long.parked(), Some(short));
        let mut clock = Clock::new(long, Protocol::Http2);
        assert_eq!(due(&mut clock, &progress, 2000).await, Due::Park);
        assert_eq!(due(&mut clock, &progress, 50).await, Due::Leave);
        progress.read(Place::Start, true);
        assert_eq!(due(&mut clock, &progress, 2000).await, Due::Park, "it was busy in between");
    }

    #[tokio::test]
    async fn progress_extends_the_time_of_bodies_but_not_of_heads() {
        for (place, expected) in [(Place::Body, false), (Place::Head, true)] {
            let progress = Progress::default();
            let mut clock = Clock::new(limits(), Protocol::Http2);
            let start = Instant::now();
            let mut cut = false;
            while start.elapsed() < Duration::from_millis(400) && !cut {
                at(&progress, place);
                let step = tokio::time::sleep(Duration::from_millis(5));
                let due = std::future::poll_fn(|cx| clock.poll(&progress, cx));
                cut = matches!(
                    futures_util::future::select(Box::pin(due), Box::pin(step)).await,
                    futures_util::future::Either::Left(_)
                );
            }
            assert_eq!(cut, expected, "{place:?}");
        }
    }

    #[tokio::test]
    async fn bodies_below_the_minimum_rate_are_cut() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let limits = Limits { body: seconds(60), rate: 1000, ..limits() };
        for (each, patience, cut) in [(1, None, true), (10_000, None, false), (1, Some(seconds(90)), false)] {
            let progress = Progress::default();
            progress.set_patience(patience);
            let mut clock =
                Clock { rate: Rate::new(Duration::from_millis(100)), ..Clock::new(limits, Protocol::Http1) };
            let mut was_cut = false;
            for _ in 0..30 {
                at(&progress, Place::Body);
                progress.add_received(each);
                let due = std::future::poll_fn(|cx| clock.poll(&progress, cx));
                was_cut |= tokio::time::timeout(Duration::from_millis(20), due).await.is_ok();
                // In between we process what was received.
                progress.block_read(false);
                let due = std::future::poll_fn(|cx| clock.poll(&progress, cx));
                assert!(futures_util::FutureExt::now_or_never(due).is_none());
            }
            assert_eq!(was_cut, cut, "{each} {patience:?}");
        }
    }

    #[tokio::test]
    async fn without_write_timeout_a_stalled_client_is_only_evictable() {
        let stalled = async |protocol| {
            let progress = Progress::default();
            progress.begin();
            progress.block_write(true);
            let mut clock = Clock::new(Limits { write: None, ..limits() }, protocol);
            assert_eq!(due(&mut clock, &progress, 10_000).await, Due::Yield);
            let again = std::future::poll_fn(|cx| clock.poll(&progress, cx));
            assert!(tokio::time::timeout(Duration::from_millis(200), again).await.is_err());
        };
        tokio::join!(stalled(Protocol::Http1), stalled(Protocol::Http2));
    }

    #[tokio::test]
    async fn no_timeout_runs_while_a_response_is_pending() {
        let progress = Progress::default();
        at(&progress, Place::Start);
        progress.begin();
        let mut clock = Clock::new(Limits { write: None, ..limits() }, Protocol::Http1);
        let due = std::future::poll_fn(|cx| clock.poll(&progress, cx));
        assert!(tokio::time::timeout(Duration::from_millis(100), due).await.is_err());
    }
}
