//! The time a client may take: for a head, for each step of a body, for the next request, for taking an answer.
//!
//! The HTTP library has one timer for heads that also runs on idle connections, none for bodies and none for a
//! stalled reader. So the time is kept here, beside the connection, after each time it was polled. There is one timer,
//! and it is moved lazily: a busy connection hardly touches it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tidegate_core::body::MinDataRate;
use tidegate_wire::http1::framing::Place;
use tokio::time::{Instant, Sleep};

use crate::entrypoint::http::min_rate;
use crate::entrypoint::http::protocol::Protocol;
use crate::entrypoint::http1_2::progress::Progress;

/// How long a client may take to hang up after it was told to.
const FAREWELL: Duration = Duration::from_secs(5);

/// After this time without a request a connection gives its buffers back.
const PARK: Duration = Duration::from_secs(2);

/// After this time without progress a connection may have to make room for others, however patient we are.
pub(in crate::entrypoint) const STALLED: Duration = Duration::from_secs(10);

/// How long a client may take. `None`: as long as it likes.
#[derive(Clone, Copy, Debug)]
pub(in crate::entrypoint) struct Limits {
    /// For a request head, from its first byte; for the first byte of a new connection; for an HTTP/2 header block.
    pub(in crate::entrypoint) head: Option<Duration>,
    /// Without any progress while a body is read.
    pub(in crate::entrypoint) body: Option<Duration>,
    /// Fewest bytes of a body in a second, while we wait for them; 0 for any.
    pub(in crate::entrypoint) rate: u64,
    /// Without a request.
    pub(in crate::entrypoint) idle: Option<Duration>,
    /// From the end of a request's head to the end of its answer.
    pub(in crate::entrypoint) write: Option<Duration>,
}

impl Limits {
    /// How fast a request body must come.
    pub(in crate::entrypoint) fn min_rate(&self) -> MinDataRate {
        MinDataRate { stall: self.body, rate: self.rate }
    }

    /// How long a connection may stay parked: what is left of its idle time.
    pub(in crate::entrypoint) fn parked(&self) -> Option<Duration> {
        self.idle.map(|idle| idle.saturating_sub(PARK))
    }
}

/// What to do with a client whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::entrypoint) enum Due {
    /// Part in good order.
    Leave,
    /// Put the connection aside: it is idle, and its buffers are not needed for now. HTTP/2 connections hear it once
    /// each time they become idle.
    Park,
    /// Close it when others need its room: nothing moved for a while. Comes once until something moves again.
    Yield,
    /// Close at once: it owed this.
    Cut(&'static str),
}

/// The clock of one connection.
pub(in crate::entrypoint) struct Clock {
    limits: Limits,
    protocol: Protocol,
    parks: bool,
    /// Requests that had come when the connection was last put aside.
    rested: Option<u32>,
    waiting: Wait,
    mark: u32,
    since: Instant,
    yielded: bool,
    /// The request whose answer is under way, and when it must be over (HTTP/1; streams of HTTP/2 have their own).
    answer: Option<(u32, Instant)>,
    timer: Option<Pin<Box<Sleep>>>,
    rate: Rate,
}

/// How fast a body comes, over the time in which we wait for it (HTTP/1).
struct Rate {
    /// The time over which it is measured.
    window: Duration,
    /// Since when we wait.
    since: Option<Instant>,
    /// Time that was waited in this window, without the present wait.
    waited: Duration,
    /// Which request it is.
    heads: u32,
    /// Bytes that had come when the window began.
    before: u64,
}

impl Rate {
    fn new(window: Duration) -> Self {
        Self { window, since: None, waited: Duration::ZERO, heads: 0, before: 0 }
    }

    /// Notes whether we wait now. True when a window is over in which too little came.
    fn is_below(&mut self, lowest: u64, waits: bool, progress: &Progress) -> bool {
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
        // Nobody is cut while we are busy with what came: it is looked at when we wait again.
        if !waits || self.waited < self.window {
            return false;
        }
        let came = progress.received().saturating_sub(self.before);
        let enough = came >= min_rate::least(lowest, self.waited);
        (self.before, self.waited) = (progress.received(), Duration::ZERO);
        !enough
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    Park,
    Request,
    Head,
    Body,
    Write,
    Farewell,
}

impl Wait {
    /// True when the client keeps us waiting in the middle of something, which holds more than an idle connection.
    fn is_for_a_stalled_client(self) -> bool {
        matches!(self, Self::Head | Self::Body | Self::Write)
    }
}

impl Clock {
    /// A clock that starts now.
    pub(in crate::entrypoint) fn new(limits: Limits, protocol: Protocol) -> Self {
        let parks = limits.idle.is_none_or(|idle| idle > PARK);
        Self {
            limits,
            protocol,
            parks,
            rested: None,
            waiting: Wait::Nothing,
            mark: 0,
            since: Instant::now(),
            yielded: false,
            answer: None,
            timer: None,
            rate: Rate::new(min_rate::window(limits.min_rate())),
        }
    }

    /// Ready when the client's time is up. To be polled whenever the connection was.
    pub(in crate::entrypoint) fn poll(&mut self, progress: &Progress, cx: &mut Context<'_>) -> Poll<Due> {
        let (wait, mark) = self.wait(progress);
        let too_slow = self.is_too_slow(wait, progress);
        let limit = match wait {
            Wait::Nothing => None,
            Wait::Park => Some(PARK),
            Wait::Request if self.rested == Some(mark) => self.limits.parked(),
            Wait::Request if progress.heads() > 0 => self.limits.idle,
            Wait::Request | Wait::Head => self.limits.head,
            Wait::Body if too_slow => return Poll::Ready(Due::Cut("a request body at the lowest rate")),
            Wait::Body => progress.patience().unwrap_or(self.limits.body),
            // Streams that a client's window keeps shut are not looked at one by one.
            Wait::Write => self.limits.write.filter(|_| self.protocol.is_framed()),
            Wait::Farewell => Some(FAREWELL),
        };
        let answer = self.answer_deadline(progress);
        if (wait, mark) != (self.waiting, self.mark) {
            (self.waiting, self.mark, self.yielded) = (wait, mark, false);
            if wait != Wait::Nothing {
                self.since = Instant::now();
            }
        }
        let due = limit.map(|limit| self.since + limit);
        let yields = wait.is_for_a_stalled_client() && !self.yielded;
        let yields = yields.then(|| self.since + STALLED);
        let Some(until) = earlier(earlier(due, yields), answer) else { return Poll::Pending };
        ready!(self.poll_timer(until, cx));
        let now = Instant::now();
        if answer.is_some_and(|answer| now >= answer) {
            return Poll::Ready(Due::Cut("the end of an answer within writeTimeout"));
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
            Wait::Write => Due::Cut("the client to take more of an answer"),
            Wait::Farewell => Due::Cut("the client to hang up"),
        })
    }

    /// When the answer that is under way must be over.
    fn answer_deadline(&mut self, progress: &Progress) -> Option<Instant> {
        let limit = self.limits.write.filter(|_| !self.protocol.is_framed())?;
        if !progress.is_answering() || progress.is_upgraded() {
            self.answer = None;
            return None;
        }
        let heads = progress.heads();
        let under_way = self.answer.filter(|(which, _)| *which == heads);
        let (_, deadline) = *self.answer.insert(under_way.unwrap_or_else(|| (heads, Instant::now() + limit)));
        Some(deadline)
    }

    /// Measures the rate of a body. Streams of HTTP/2 are measured one by one, and so are bodies with their own limits.
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

    /// What the client owes, and what changes when it gives some of it.
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
            // A block's time runs from its beginning, whatever else comes.
            Place::Head if self.protocol.is_framed() => (Wait::Head, progress.heads()),
            Place::Body if !self.protocol.is_framed() && progress.is_responding() => (Wait::Nothing, 0),
            Place::Body => (Wait::Body, progress.reads()),
            _ if progress.is_stalled() => (Wait::Write, progress.reads()),
            _ if progress.is_answering() => (Wait::Nothing, 0),
            Place::Head => (Wait::Head, progress.heads()),
            Place::Opaque => (Wait::Nothing, 0),
            Place::Start if progress.is_leaving() => (Wait::Farewell, 0),
            Place::Start => {
                let heads = progress.heads();
                let parks = self.parks && heads > 0 && self.rested != Some(heads);
                (if parks { Wait::Park } else { Wait::Request }, heads)
            }
        }
    }

    /// The timer is only moved when it would be late; when it is early it is moved as it fires.
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

    /// Waits until the client's time is up, which must be after `milliseconds` at least.
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
    async fn each_debt_has_its_own_time() {
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
        let late = Due::Cut("the end of an answer within writeTimeout");
        assert_eq!(due(&mut clock, &progress, 30).await, late);
    }

    #[tokio::test]
    async fn idle_connections_are_parked_when_they_may_stay_long() {
        let progress = Progress::default();
        progress.read(Place::Start, true);
        progress.block_read(true);
        let short = Duration::from_millis(50);
        let long = Limits { idle: Some(PARK + short), ..limits() };
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
    async fn progress_buys_time_for_bodies_but_not_for_heads() {
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
    async fn bodies_have_a_lowest_rate() {
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
                // In between we are busy with what came.
                progress.block_read(false);
                let due = std::future::poll_fn(|cx| clock.poll(&progress, cx));
                assert!(futures_util::FutureExt::now_or_never(due).is_none());
            }
            assert_eq!(was_cut, cut, "{each} {patience:?}");
        }
    }

    #[tokio::test]
    async fn without_write_timeout_a_stalled_client_only_makes_room() {
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
    async fn while_we_owe_an_answer_nothing_is_due() {
        let progress = Progress::default();
        at(&progress, Place::Start);
        progress.begin();
        let mut clock = Clock::new(Limits { write: None, ..limits() }, Protocol::Http1);
        let due = std::future::poll_fn(|cx| clock.poll(&progress, cx));
        assert!(tokio::time::timeout(Duration::from_millis(100), due).await.is_err());
    }
}
