//! How long a client may take: for a head, each step of a body, the next request, and reading a response.
//!
//! A connection waits for one thing after another. Its single timer is reset lazily, so that a busy connection hardly
//! touches it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tidegate_core::body::MinDataRate;
use tokio::time::{Instant, Sleep};

/// After this time without a request, a connection frees its buffers.
pub(in crate::entrypoint) const PARK_AFTER: Duration = Duration::from_secs(2);

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

    /// Returns true if idle connections are parked before their time is over.
    pub(in crate::entrypoint) fn parks(&self) -> bool {
        self.idle.is_none_or(|idle| idle > PARK_AFTER)
    }

    /// Returns how long a connection may stay parked: the rest of its idle time.
    pub(in crate::entrypoint) fn parked(&self) -> Option<Duration> {
        self.idle.map(|idle| idle.saturating_sub(PARK_AFTER))
    }
}

/// What a connection waits for, and until when.
#[derive(Clone, Copy, Debug)]
pub(in crate::entrypoint) struct Waiting<W> {
    /// What it waits for.
    pub(in crate::entrypoint) wait: W,
    /// A counter that changes with progress.
    pub(in crate::entrypoint) mark: u32,
    /// How long it may wait.
    pub(in crate::entrypoint) limit: Option<Duration>,
    /// Until when it may wait.
    pub(in crate::entrypoint) deadline: Option<Instant>,
    /// The client stalls in the middle of something, which needs more memory than an idle connection.
    pub(in crate::entrypoint) stalls: bool,
}

/// Why [`Clock::poll`] is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::entrypoint) enum Reached {
    /// The limit of the wait.
    Limit,
    /// The deadline.
    Deadline,
    /// [`STALLED`]. Reported once until there is progress again.
    Stalled,
}

/// The clock of one connection.
pub(in crate::entrypoint) struct Clock<W> {
    /// The current wait and its mark.
    current: Option<(W, u32)>,
    since: Instant,
    has_yielded: bool,
    timer: Option<Pin<Box<Sleep>>>,
    /// The timer wakes the task.
    is_armed: bool,
}

impl<W: Copy + PartialEq> Clock<W> {
    /// Starts the clock of a connection.
    pub(in crate::entrypoint) fn new() -> Self {
        Self { current: None, since: Instant::now(), has_yielded: false, timer: None, is_armed: false }
    }

    /// Ready when a time is reached. Must be polled after each poll of the connection, always by the same task.
    pub(in crate::entrypoint) fn poll(&mut self, waiting: Waiting<W>, cx: &mut Context<'_>) -> Poll<Reached> {
        let Waiting { wait, mark, limit, deadline, stalls } = waiting;
        if self.current != Some((wait, mark)) {
            (self.current, self.has_yielded) = (Some((wait, mark)), false);
            if limit.is_some() || stalls {
                self.since = Instant::now();
            }
        }
        let due = limit.map(|limit| self.since + limit);
        let yields = (stalls && !self.has_yielded).then(|| self.since + STALLED);
        let Some(until) = [due, yields, deadline].into_iter().flatten().min() else { return Poll::Pending };
        ready!(self.poll_timer(until, cx));
        let now = Instant::now();
        Poll::Ready(if deadline.is_some_and(|deadline| now >= deadline) {
            Reached::Deadline
        } else if due.is_some_and(|due| now >= due) {
            Reached::Limit
        } else {
            self.has_yielded = true;
            Reached::Stalled
        })
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
