//! What a connection waits for, and for how long.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tidegate_core::body::MinDataRate;
use tokio::time::Instant;

use crate::entrypoint::clock::{Clock, Limits, PARK_AFTER, Reached, Waiting};
use crate::entrypoint::http::min_rate;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Nothing from the client.
    Nothing,
    /// A first request, for this long at most if the listener drains.
    First(Option<Duration>),
    /// The next request.
    Next,
    /// The rest of a head.
    Head,
    /// More of a body, of which so much has been received.
    Body {
        /// How slow it may be.
        min_rate: MinDataRate,
        /// Number of bytes.
        received: u64,
    },
    /// The client to read.
    Write,
}

/// What to do with a client that reached a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Close the connection, which is idle.
    Leave,
    /// Free the memory of the connection, which is idle.
    Park,
    /// Make the connection evictable: it stalls. Reported once until there is progress again.
    Yield,
    /// Let the body of the request fail: it is late with this.
    Late(&'static str),
    /// Cut the connection: the client missed the deadline for this.
    Cut(&'static str),
}

/// The deadlines of one connection.
pub(super) struct Deadlines {
    limits: Limits,
    clock: Clock<Kind>,
    /// Number of requests when the connection was last parked.
    rested: Option<u32>,
    /// When the current response must be complete.
    response: Option<Instant>,
    rate: Rate,
}

/// What is told apart by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    Park,
    Request,
    Head,
    Body,
    Write,
}

impl Deadlines {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, clock: Clock::new(), rested: None, response: None, rate: Rate::default() }
    }

    /// Begins the time of a response.
    pub(super) fn begin_response(&mut self) {
        self.response = self.limits.write.map(|limit| Instant::now() + limit);
        self.rate = Rate::default();
    }

    /// Ends the time of a response.
    pub(super) fn end_response(&mut self) {
        self.response = None;
    }

    /// Ready when a timeout is reached. `mark` changes with progress. Must be polled after each poll of the connection.
    pub(super) fn poll(&mut self, wait: Wait, mark: u32, cx: &mut Context<'_>) -> Poll<Due> {
        let awaited =
            if let Wait::Body { min_rate, received } = wait { Some((min_rate, received)) } else { None };
        if self.rate.is_below(awaited) {
            return Poll::Ready(Due::Late("a request body at the minimum rate"));
        }
        let rests = self.rested == Some(mark);
        let (kind, limit) = match wait {
            Wait::Nothing => (Kind::Nothing, None),
            Wait::First(grace) => (Kind::Request, grace.into_iter().chain(self.limits.head).min()),
            Wait::Next if rests => (Kind::Request, self.limits.parked()),
            Wait::Next if self.limits.parks() => (Kind::Park, Some(PARK_AFTER)),
            Wait::Next => (Kind::Request, self.limits.idle),
            Wait::Head => (Kind::Head, self.limits.head),
            Wait::Body { min_rate, .. } => (Kind::Body, min_rate.stall),
            Wait::Write => (Kind::Write, None),
        };
        let stalls = matches!(kind, Kind::Head | Kind::Body | Kind::Write);
        let waiting = Waiting { wait: kind, mark, limit, deadline: self.response, stalls };
        Poll::Ready(match (ready!(self.clock.poll(waiting, cx)), kind) {
            (Reached::Deadline, _) => Due::Cut("the end of a response within writeTimeout"),
            (Reached::Stalled, _) => Due::Yield,
            (Reached::Limit, Kind::Park) => {
                self.rested = Some(mark);
                Due::Park
            }
            (Reached::Limit, Kind::Head) => Due::Cut("the rest of a request head"),
            (Reached::Limit, Kind::Body) => Due::Late("more of a request body"),
            (Reached::Limit, _) => Due::Leave,
        })
    }
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
    /// Records whether we wait now, for a body of which so much has been received. Returns true at the end of a window
    /// that received too little.
    fn is_below(&mut self, awaited: Option<(MinDataRate, u64)>) -> bool {
        let awaited = awaited.filter(|(min_rate, _)| min_rate.rate > 0);
        if awaited.is_none() && self.since.is_none() {
            return false;
        }
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
