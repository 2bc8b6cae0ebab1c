//! Copying a body as it passes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use super::collect::Pieces;
use super::{Body, BodyError, BodyErrorKind, Collected, End, Frames, MinDataRate, Polled, Unfinished};

impl Body {
    /// Returns a body that yields this one unchanged, and a copy of at most `limit` bytes that is made as it
    /// is read.
    ///
    /// Nothing is read ahead: the copy grows as the body is read, and ends with it. Check the size first if
    /// it is known: a body that declares more than `limit` bytes is copied up to the limit.
    pub fn tee(self, limit: u64) -> (Self, Tee) {
        let shared = Arc::new(Mutex::new(Shared {
            inner: Some(self),
            limit,
            kept: Kept::Growing(Pieces::default()),
            trailers: None,
            end: None,
            reader: None,
            waiter: None,
        }));
        (Self::of_frames(Passing(shared.clone())), Tee(shared))
    }
}

/// The copy of a body read by someone else: a future that resolves to how the body ended. Must not be polled
/// again after that.
///
/// Dropping it stops the copying, but not the body.
#[must_use = "nothing is copied without it"]
pub struct Tee(Arc<Mutex<Shared>>);

/// How copying a body ended.
#[derive(Debug)]
pub enum Teed {
    /// The body was read to the end.
    Complete(Collected),
    /// The body exceeds the limit and continues without being copied. Known before the body ends.
    TooLarge,
    /// The body failed.
    Failed(BodyErrorKind),
    /// The body was dropped early: its reader is gone or wants no more. The rest can still be read to get the
    /// content; it is dropped with this value.
    Dropped(Box<Unfinished>),
}

impl Future for Tee {
    type Output = Teed;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Teed> {
        let mut shared = self.0.lock();
        let teed = shared.take_outcome();
        if teed.is_none() {
            shared.waiter = Some(cx.waker().clone());
        }
        teed.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Tee {
    /// Takes the body back from its reader, whose reads fail from now on, and returns it from the start.
    ///
    /// Returns `None`, without affecting the reader, if the content is lost: the limit was exceeded, or the
    /// body failed.
    pub fn reclaim(self) -> Option<Body> {
        let mut shared = self.0.lock();
        let body = match shared.take_outcome() {
            Some(Teed::Complete(collected)) => collected.into(),
            Some(Teed::Dropped(unfinished)) => unfinished.into_body(),
            Some(Teed::TooLarge | Teed::Failed(_)) => return None,
            None => Unfinished { read: shared.kept.take(), rest: shared.inner.take()? }.into_body(),
        };
        let reader = shared.reader.take();
        drop(shared);
        if let Some(reader) = reader {
            reader.wake();
        }
        Some(body)
    }
}

impl Drop for Tee {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        shared.kept = Kept::Gone;
        shared.waiter = None;
        let rest = if shared.end.is_some() { shared.inner.take() } else { None };
        // Dropping guards of the rest may take time.
        drop(shared);
        drop(rest);
    }
}

struct Shared {
    /// The unread part. `None` once the body has ended or was reclaimed.
    inner: Option<Body>,
    limit: u64,
    kept: Kept,
    trailers: Option<HeaderMap>,
    /// How the body ended for its reader.
    end: Option<End>,
    /// The task that reads the body.
    reader: Option<Waker>,
    /// The task that waits for the copy.
    waiter: Option<Waker>,
}

enum Kept {
    Growing(Pieces),
    /// The limit was exceeded.
    TooLarge,
    /// It was taken, or is not wanted any more.
    Gone,
}

impl Kept {
    fn take(&mut self) -> Bytes {
        match std::mem::replace(self, Self::Gone) {
            Self::Growing(pieces) => pieces.join(),
            Self::TooLarge | Self::Gone => Bytes::new(),
        }
    }
}

impl Shared {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Kept::Growing(pieces) = &mut self.kept else { return };
        if let Some(data) = frame.data_ref() {
            if (pieces.len() + data.len()) as u64 > self.limit {
                self.kept = Kept::TooLarge;
            } else {
                pieces.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    /// Records how the body ended for its reader, and drops what cannot be read any more.
    fn settle(&mut self, end: End) -> Option<Body> {
        self.end = Some(end);
        let is_kept = end == End::Dropped && matches!(self.kept, Kept::Growing(_));
        if is_kept { None } else { self.inner.take() }
    }

    /// Returns the task that waits for the copy, if there is something to report.
    fn waiter(&mut self) -> Option<Waker> {
        let is_over = self.end.is_some() || matches!(self.kept, Kept::TooLarge);
        if is_over { self.waiter.take() } else { None }
    }

    fn take_outcome(&mut self) -> Option<Teed> {
        if let Kept::TooLarge = self.kept {
            return Some(Teed::TooLarge);
        }
        Some(match self.end? {
            End::Complete => {
                Teed::Complete(Collected { bytes: self.kept.take(), trailers: self.trailers.take() })
            }
            End::Failed(kind) => Teed::Failed(kind),
            End::Dropped => {
                let rest = self.inner.take().unwrap_or_default();
                Teed::Dropped(Box::new(Unfinished { read: self.kept.take(), rest }))
            }
        })
    }
}

/// The body as seen by its reader.
struct Passing(Arc<Mutex<Shared>>);

impl Frames for Passing {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let mut shared = self.0.lock();
        let Some(inner) = &mut shared.inner else {
            let reclaimed = || BodyError::Other("the body is read by somebody else".into());
            return Poll::Ready(shared.end.is_none().then(|| Err(reclaimed())));
        };
        let Poll::Ready(polled) = Pin::new(&mut *inner).poll_frame(cx) else {
            if shared.reader.as_ref().is_none_or(|reader| !reader.will_wake(cx.waker())) {
                shared.reader = Some(cx.waker().clone());
            }
            return Poll::Pending;
        };
        let is_last = inner.is_end_stream();
        let end = match &polled {
            Some(Ok(frame)) => {
                shared.keep(frame);
                (is_last || frame.is_trailers()).then_some(End::Complete)
            }
            Some(Err(error)) => Some(End::Failed(error.kind())),
            None => Some(End::Complete),
        };
        let over = end.and_then(|end| shared.settle(end));
        let waiter = shared.waiter();
        drop(shared);
        drop(over);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.0.lock();
        shared.inner.as_ref().map_or(shared.end.is_some(), |inner| inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.0.lock();
        match &shared.inner {
            Some(inner) => inner.size_hint(),
            None if shared.end.is_some() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }

    fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        self.0.lock().inner.as_mut().is_some_and(|inner| inner.set_min_rate(min_rate))
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        let Some(inner) = shared.inner.as_ref().filter(|_| shared.end.is_none()) else { return };
        let end = if inner.is_end_stream() { End::Complete } else { End::Dropped };
        let over = shared.settle(end);
        let waiter = shared.waiter();
        drop(shared);
        drop(over);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}
