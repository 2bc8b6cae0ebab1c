//! How fast a client must send its request body: without long silences, and at a minimum rate.
//!
//! Only the time spent waiting for the client counts, so a slow server never makes a client late. Once the response has
//! started, the request is one side of a conversation rather than an upload, and may pause for as long as it likes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use tidegate_core::Body;
use tidegate_core::body::MinDataRate;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::entrypoint::http::timed_body::{TimedBody, Watch};
use crate::entrypoint::linger::Leftover;

/// Limits of the time over which a rate is averaged, which is otherwise the longest permitted stall.
const MIN_WINDOW: Duration = Duration::from_secs(5);
const MAX_WINDOW: Duration = Duration::from_secs(60);

/// Returns the time over which the rate is measured.
pub(in crate::entrypoint) fn window(min_rate: MinDataRate) -> Duration {
    min_rate.stall.unwrap_or(MAX_WINDOW).clamp(MIN_WINDOW, MAX_WINDOW)
}

/// Returns the number of bytes that `rate` requires within `time`.
pub(in crate::entrypoint) fn min_bytes(rate: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(rate) * time.as_millis() / 1000).unwrap_or(u64::MAX)
}

/// Returns the limits for a request with these headers. gRPC streams may pause at any time, so they have no minimum
/// rate.
pub(in crate::entrypoint) fn for_request(min_rate: MinDataRate, headers: &HeaderMap) -> MinDataRate {
    let is_grpc =
        || headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if min_rate.rate > 0 && is_grpc() { MinDataRate { rate: 0, ..min_rate } } else { min_rate }
}

/// Whether the response to a request is being sent, from its head to its end (HTTP/2 and HTTP/3).
#[derive(Clone, Debug, Default)]
pub(in crate::entrypoint) struct Responding(Arc<AtomicBool>);

impl Responding {
    /// Creates the state of a stream whose response has not started.
    pub(in crate::entrypoint) fn stream() -> Self {
        Self::default()
    }

    /// Records the start or the end of the response.
    pub(in crate::entrypoint) fn set(&self, under_way: bool) {
        self.0.store(under_way, Ordering::Relaxed);
    }

    fn is_under_way(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Returns a body that fails if it is too slow before its response starts, and the rest of it if it is dropped before
/// its end.
pub(in crate::entrypoint) fn with_min_rate_and_leftover(
    inner: Body,
    min_rate: MinDataRate,
    responding: Responding,
) -> (Body, Leftover) {
    let (sender, leftover) = oneshot::channel();
    (TimedBody::with_leftover(inner, RateWatch::new(min_rate, responding), sender), leftover)
}

/// Measures the rate of a request body.
struct RateWatch {
    min_rate: MinDataRate,
    responding: Responding,
    timer: Option<Pin<Box<Sleep>>>,
    /// Start of the current wait.
    waiting: Option<Instant>,
    /// Until when the current wait is included in `waited`.
    counted: Instant,
    /// When the wait becomes too long, or the rate must be checked.
    until: Instant,
    /// Time waited in this window before `counted`.
    waited: Duration,
    /// Bytes received in this window.
    bytes: u64,
    /// The time over which the rate is measured.
    window: Duration,
}

impl RateWatch {
    fn new(min_rate: MinDataRate, responding: Responding) -> Self {
        Self {
            min_rate,
            responding,
            timer: None,
            waiting: None,
            counted: Instant::now(),
            until: Instant::now(),
            waited: Duration::ZERO,
            bytes: 0,
            window: window(min_rate),
        }
    }

    /// Checks the rate at the end of a window, and starts the next one.
    fn is_fast_enough(&mut self) -> bool {
        if self.min_rate.rate == 0 || self.waited < self.window {
            return true;
        }
        let enough =
            self.bytes >= min_bytes(self.min_rate.rate, self.waited) || self.responding.is_under_way();
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        enough
    }

    /// Computes `until`. A stall counts from the start of the wait, even if that was in an earlier window.
    fn set_until(&mut self, since: Instant, now: Instant) {
        let stall = self.min_rate.stall.map(|stall| since + stall);
        let rate = (self.min_rate.rate > 0).then(|| now + self.window.saturating_sub(self.waited));
        if let Some(until) = stall.into_iter().chain(rate).min() {
            self.until = until;
        }
    }
}

impl Watch for RateWatch {
    fn on_frame(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(data) = frame.data_ref() else { return true };
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        if self.waiting.take().is_some() {
            self.waited += self.counted.elapsed();
        }
        self.is_fast_enough()
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.is_none() {
            let now = Instant::now();
            (self.waiting, self.counted) = (Some(now), now);
            self.set_until(now, now);
        }
        loop {
            if self.min_rate.stall.is_none() && self.min_rate.rate == 0 {
                return Poll::Pending;
            }
            let until = self.until;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            // The timer is reset only if it would fire late. If it fires early, it is reset then.
            if timer.deadline() > until {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if now < until {
                timer.as_mut().reset(until);
                continue;
            }
            if self.responding.is_under_way() {
                // The time starts again when the response has ended.
                (self.waiting, self.counted) = (Some(now), now);
                (self.waited, self.bytes) = (Duration::ZERO, 0);
                self.set_until(now, now);
                continue;
            }
            let since = self.waiting.unwrap_or(now);
            if self.min_rate.stall.is_some_and(|stall| now.duration_since(since) >= stall) {
                return Poll::Ready(());
            }
            self.waited += now.duration_since(self.counted);
            self.counted = now;
            if !self.is_fast_enough() {
                return Poll::Ready(());
            }
            self.set_until(since, now);
        }
    }

    fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        self.min_rate = min_rate;
        self.window = window(min_rate);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body::Body as _;
    use tidegate_core::{BodyError, Frames, Polled};
    use tokio::sync::mpsc;

    use super::*;

    struct Sent(mpsc::Receiver<usize>);

    impl Frames for Sent {
        fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
            self.0
                .poll_recv(cx)
                .map(|length| length.map(|length| Ok(Frame::data(Bytes::from(vec![0; length])))))
        }
    }

    const fn milliseconds(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    /// A body whose rate is checked every 200 ms.
    fn body(min_rate: MinDataRate, receiver: mpsc::Receiver<usize>) -> Body {
        let inner = Body::of_frames(Sent(receiver));
        let watch = RateWatch::new(min_rate, Responding::stream());
        TimedBody::watched(inner, RateWatch { window: milliseconds(200), ..watch })
    }

    /// Sends `length` bytes after each pause. Returns how many were read, and whether the body timed out.
    async fn outcome(min_rate: MinDataRate, pause: Duration, length: usize, times: usize) -> (usize, bool) {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for _ in 0..times {
                tokio::time::sleep(pause).await;
                if sender.send(length).await.is_err() {
                    return;
                }
            }
        });
        let mut body = body(min_rate, receiver);
        let mut came = 0;
        loop {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                None => return (came, false),
                Some(Ok(frame)) => came += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(error)) => {
                    assert!(matches!(error, BodyError::TimedOut));
                    return (came, true);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_steady_upload_is_not_cut() {
        let min_rate = MinDataRate { stall: Some(milliseconds(10_000)), rate: 100 };
        assert_eq!(outcome(min_rate, milliseconds(20), 10_000, 50).await, (500_000, false), "five windows");
    }

    #[tokio::test]
    async fn a_slow_or_stalled_body_is_cut() {
        let min_rate = MinDataRate { stall: Some(milliseconds(10_000)), rate: 1000 };
        let (came, cut) = outcome(min_rate, milliseconds(20), 1, 1000).await;
        assert!(cut && came < 200, "{came}");
        let silent = MinDataRate { stall: Some(milliseconds(50)), rate: 0 };
        assert_eq!(outcome(silent, milliseconds(60_000), 1000, 2).await, (0, true));
        assert_eq!(
            outcome(MinDataRate { stall: None, rate: 100 }, milliseconds(60_000), 1, 1).await,
            (0, true)
        );
        assert_eq!(
            outcome(MinDataRate { rate: 0, ..min_rate }, milliseconds(20), 1, 30).await,
            (30, false),
            "no rate"
        );
        assert_eq!(outcome(MinDataRate::default(), milliseconds(500), 1, 2).await, (2, false), "no limit");
    }

    #[tokio::test]
    async fn a_slow_reader_does_not_make_the_client_late() {
        let (sender, receiver) = mpsc::channel(100);
        let mut body = body(MinDataRate { stall: Some(milliseconds(10_000)), rate: 1000 }, receiver);
        for _ in 0..50 {
            sender.send(1).await.unwrap();
        }
        drop(sender);
        for _ in 0..50 {
            assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().is_ok());
            tokio::time::sleep(milliseconds(20)).await;
        }
        assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_none());
    }

    #[tokio::test]
    async fn a_body_may_pause_while_its_response_is_sent() {
        let (sender, receiver) = mpsc::channel(1);
        let responding = Responding::stream();
        let min_rate = MinDataRate { stall: Some(milliseconds(50)), rate: 1000 };
        let watch = RateWatch::new(min_rate, responding.clone());
        let mut body = TimedBody::watched(Body::of_frames(Sent(receiver)), watch);
        responding.set(true);
        let mut next = async |limit| {
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            tokio::time::timeout(milliseconds(limit), frame).await
        };
        assert!(next(300).await.is_err(), "six times as long as an upload may pause");
        sender.send(1).await.unwrap();
        assert!(next(10_000).await.unwrap().unwrap().is_ok());
        assert!(next(300).await.is_err());
        responding.set(false);
        assert!(matches!(next(10_000).await, Ok(Some(Err(BodyError::TimedOut)))));
    }

    #[test]
    fn the_rate_is_averaged_over_the_permitted_stall() {
        let of = |stall: Option<u64>| {
            window(MinDataRate { stall: stall.map(Duration::from_secs), rate: 1 }).as_secs()
        };
        assert_eq!([of(None), of(Some(1)), of(Some(30)), of(Some(3600))], [60, 5, 30, 60]);
        assert_eq!(min_bytes(16, Duration::from_secs(60)), 960);
        assert_eq!(min_bytes(u64::MAX, Duration::from_secs(60)), u64::MAX);
    }

    #[test]
    fn grpc_has_no_minimum_rate() {
        let min_rate = MinDataRate { stall: Some(milliseconds(60_000)), rate: 16 };
        let mut headers = HeaderMap::new();
        assert_eq!(for_request(min_rate, &headers), min_rate);
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/grpc+proto"));
        assert_eq!(for_request(min_rate, &headers), MinDataRate { rate: 0, ..min_rate });
    }
}
