//! Timeouts of an HTTP/2 client: for a header block, a frame, the next request, and reading a response.
//!
//! The HTTP library has none for stalled readers. So this clock is polled after the connection.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::entrypoint::clock::{Clock as Timer, Limits, PARK_AFTER, Reached, Waiting};
use crate::entrypoint::http2::progress::{Place, Progress};

/// How long a client may take to close the connection after GOAWAY.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What to do with a client that reached a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::entrypoint) enum Due {
    /// Shut the connection down gracefully.
    Leave,
    /// Make the connection evictable: it is idle. Reported once each time it becomes idle.
    Park,
    /// Make the connection evictable: it stalls. Reported once until there is progress again.
    Yield,
    /// Close the connection: the client missed the deadline for this.
    Cut(&'static str),
}

/// The clock of one connection.
pub(in crate::entrypoint) struct Clock {
    limits: Limits,
    /// Number of requests when the connection was last parked.
    rested: Option<u32>,
    timer: Timer<Wait>,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    Park,
    Request,
    Head,
    Frame,
    Write,
    Close,
}

impl Clock {
    /// Starts the clock of a connection.
    pub(in crate::entrypoint) fn new(limits: Limits) -> Self {
        Self { limits, rested: None, timer: Timer::new() }
    }

    /// Ready when a timeout is reached. Must be polled after each poll of the connection.
    pub(in crate::entrypoint) fn poll(&mut self, progress: &Progress, cx: &mut Context<'_>) -> Poll<Due> {
        let (wait, mark) = self.wait(progress);
        let limit = match wait {
            Wait::Nothing => None,
            Wait::Park => Some(PARK_AFTER),
            Wait::Request if self.rested == Some(mark) => self.limits.parked(),
            Wait::Request if progress.heads() > 0 => self.limits.idle,
            Wait::Request | Wait::Head => self.limits.head,
            Wait::Frame => self.limits.body,
            // Streams blocked by flow control have no timers of their own.
            Wait::Write => self.limits.write,
            Wait::Close => Some(CLOSE_TIMEOUT),
        };
        let stalls = matches!(wait, Wait::Head | Wait::Frame | Wait::Write);
        let waiting = Waiting { wait, mark, limit, deadline: None, stalls };
        Poll::Ready(match (ready!(self.timer.poll(waiting, cx)), wait) {
            (Reached::Stalled, _) => Due::Yield,
            (_, Wait::Park) => {
                self.rested = Some(mark);
                Due::Park
            }
            (_, Wait::Request | Wait::Nothing) => Due::Leave,
            (_, Wait::Head) => Due::Cut("the rest of a header block"),
            (_, Wait::Frame) => Due::Cut("the rest of a frame"),
            (_, Wait::Write) => Due::Cut("the client to read more of a response"),
            (_, Wait::Close) => Due::Cut("the client to close the connection"),
        })
    }

    /// Returns what the connection waits for, and a counter that changes with progress.
    fn wait(&self, progress: &Progress) -> (Wait, u32) {
        if progress.is_write_blocked() {
            return (Wait::Write, progress.writes());
        }
        if !progress.is_read_blocked() {
            return (Wait::Nothing, 0);
        }
        match progress.place() {
            // The time of a block runs from its start, whatever else is received.
            Place::Head => (Wait::Head, progress.heads()),
            Place::Frame => (Wait::Frame, progress.reads()),
            _ if progress.is_stalled() => (Wait::Write, progress.reads()),
            _ if progress.is_awaiting_response() => (Wait::Nothing, 0),
            Place::Closed => (Wait::Nothing, 0),
            Place::Start if progress.is_leaving() => (Wait::Close, 0),
            Place::Start => {
                let heads = progress.heads();
                let parks = self.limits.parks() && heads > 0 && self.rested != Some(heads);
                (if parks { Wait::Park } else { Wait::Request }, heads)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

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
        let mut clock = Clock::new(limits());
        assert_eq!(due(&mut clock, &progress, 20).await, Due::Leave);
        at(&progress, Place::Head);
        assert_eq!(due(&mut clock, &progress, 20).await, Due::Cut("the rest of a header block"));
        progress.read(Place::Frame, true);
        assert_eq!(due(&mut clock, &progress, 250).await, Due::Cut("the rest of a frame"));
        at(&progress, Place::Start);
        assert_eq!(due(&mut clock, &progress, 60).await, Due::Leave);
        progress.begin();
        progress.block_write(true);
        let late = Due::Cut("the client to read more of a response");
        assert_eq!(due(&mut clock, &progress, 30).await, late);
    }

    #[tokio::test]
    async fn idle_connections_are_parked_if_their_idle_time_allows() {
        let progress = Progress::default();
        progress.read(Place::Start, true);
        progress.block_read(true);
        let short = Duration::from_millis(50);
        let long = Limits { idle: Some(PARK_AFTER + short), ..limits() };
        assert_eq!(due(&mut Clock::new(long), &progress, 2000).await, Due::Park);
        assert_eq!(due(&mut Clock::new(limits()), &progress, 60).await, Due::Leave);
        assert_eq!(long.parked(), Some(short));
        let mut clock = Clock::new(long);
        assert_eq!(due(&mut clock, &progress, 2000).await, Due::Park);
        assert_eq!(due(&mut clock, &progress, 50).await, Due::Leave);
        progress.read(Place::Start, true);
        assert_eq!(due(&mut clock, &progress, 2000).await, Due::Park, "it was busy in between");
    }

    #[tokio::test]
    async fn progress_extends_the_time_of_bodies_but_not_of_heads() {
        for (place, expected) in [(Place::Frame, false), (Place::Head, true)] {
            let progress = Progress::default();
            let mut clock = Clock::new(limits());
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
    async fn without_write_timeout_a_stalled_client_is_only_evictable() {
        let progress = Progress::default();
        progress.begin();
        progress.block_write(true);
        let mut clock = Clock::new(Limits { write: None, ..limits() });
        assert_eq!(due(&mut clock, &progress, 10_000).await, Due::Yield);
        let again = std::future::poll_fn(|cx| clock.poll(&progress, cx));
        assert!(tokio::time::timeout(Duration::from_millis(200), again).await.is_err());
    }

    #[tokio::test]
    async fn no_timeout_runs_while_a_response_is_pending() {
        let progress = Progress::default();
        at(&progress, Place::Start);
        progress.begin();
        let mut clock = Clock::new(Limits { write: None, ..limits() });
        let due = std::future::poll_fn(|cx| clock.poll(&progress, cx));
        assert!(tokio::time::timeout(Duration::from_millis(100), due).await.is_err());
    }
}
