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

#[cfg(test)]
mod tests {
    use super::*;

    fn milliseconds(milliseconds: u64) -> Option<Duration> {
        Some(Duration::from_millis(milliseconds))
    }

    fn limits() -> Limits {
        Limits {
            head: milliseconds(20),
            body: milliseconds(250),
            rate: 0,
            idle: milliseconds(60),
            write: None,
        }
    }

    fn body(min_rate: MinDataRate) -> Wait {
        Wait::Body { min_rate, received: 0 }
    }

    /// Waits for a timeout, which must not come before `milliseconds`.
    async fn due(deadlines: &mut Deadlines, wait: Wait, milliseconds: u64) -> Due {
        let start = Instant::now();
        let due = std::future::poll_fn(|cx| deadlines.poll(wait, 1, cx)).await;
        assert!(
            start.elapsed() >= Duration::from_millis(milliseconds),
            "{due:?} after {:?}",
            start.elapsed()
        );
        due
    }

    #[tokio::test]
    async fn each_wait_has_its_own_timeout() {
        let mut deadlines = Deadlines::new(limits());
        assert_eq!(due(&mut deadlines, Wait::First(None), 20).await, Due::Leave);
        let mut draining = Deadlines::new(limits());
        assert_eq!(due(&mut draining, Wait::First(milliseconds(5)), 5).await, Due::Leave);
        assert_eq!(due(&mut deadlines, Wait::Head, 20).await, Due::Cut("the rest of a request head"));
        let min_rate = limits().min_rate();
        assert_eq!(due(&mut deadlines, body(min_rate), 250).await, Due::Late("more of a request body"));
        assert_eq!(due(&mut deadlines, Wait::Next, 60).await, Due::Leave);
        let mut deadlines = Deadlines::new(Limits { write: milliseconds(30), ..limits() });
        deadlines.begin_response();
        let late = Due::Cut("the end of a response within writeTimeout");
        assert_eq!(due(&mut deadlines, Wait::Nothing, 30).await, late);
    }

    #[tokio::test]
    async fn idle_connections_are_parked_if_their_idle_time_allows() {
        let long = Limits { idle: Some(PARK_AFTER + Duration::from_millis(50)), ..limits() };
        let mut deadlines = Deadlines::new(long);
        assert_eq!(due(&mut deadlines, Wait::Next, 2000).await, Due::Park);
        assert_eq!(due(&mut deadlines, Wait::Next, 50).await, Due::Leave);
    }

    #[tokio::test]
    async fn a_stalled_client_is_evictable_once() {
        let mut deadlines = Deadlines::new(limits());
        assert_eq!(due(&mut deadlines, Wait::Write, 10_000).await, Due::Yield);
        let again = std::future::poll_fn(|cx| deadlines.poll(Wait::Write, 1, cx));
        assert!(tokio::time::timeout(Duration::from_millis(200), again).await.is_err());
    }

    #[test]
    fn only_the_time_of_waiting_counts_for_the_rate() {
        let min_rate = MinDataRate { stall: milliseconds(5000), rate: 1000 };
        let window = min_rate::window(min_rate);
        for (received, is_below) in [(1, true), (1_000_000, false)] {
            let mut rate = Rate { waited: window, before: Some(0), since: None };
            assert!(!rate.is_below(None), "we process what was received");
            assert_eq!(rate.is_below(Some((min_rate, received))), is_below);
            assert_eq!(rate.waited, Duration::ZERO, "another window");
        }
        let mut rate = Rate { waited: window, before: Some(0), since: None };
        assert!(!rate.is_below(Some((MinDataRate { rate: 0, ..min_rate }, 1))));
    }
}
