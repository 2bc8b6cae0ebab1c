//! Bodies from the store, and bodies that are stored as they pass.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body::{Body as _, Frame, SizeHint};
use tidegate_cache::Timestamp;
use tidegate_cache::collapse::Leader;
use tidegate_cache::disk::{OpenObject, ReadError};
use tidegate_core::body::MinDataRate;
use tidegate_core::{Body, BodyError, Clock, Frames, Polled};
use tokio::task::JoinHandle;

use super::counters::Counters;
use super::tiers::{Finished, Writer};

/// Pieces of a stored body.
pub(super) struct Pieces {
    rest: std::vec::IntoIter<Bytes>,
    remaining: u64,
}

impl Pieces {
    pub(super) fn body(pieces: impl Iterator<Item = Bytes>) -> Body {
        let pieces: Vec<Bytes> = pieces.collect();
        if let [piece] = &pieces[..] {
            return Body::full(piece.clone());
        }
        let remaining = pieces.iter().map(|piece| piece.len() as u64).sum();
        if remaining == 0 {
            Body::empty()
        } else {
            Body::of_frames(Self { rest: pieces.into_iter(), remaining })
        }
    }
}

impl Frames for Pieces {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Polled {
        let piece = self.rest.next();
        self.remaining -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

/// A block, and the body that it was read from.
type Block = (OpenObject, Result<Option<Bytes>, ReadError>);

/// A body on disk, of which one block is in memory at a time.
pub(super) struct FromDisk {
    /// `None` while a block is read.
    object: Option<OpenObject>,
    reading: Option<JoinHandle<Block>>,
    remaining: u64,
}

impl FromDisk {
    /// `length`: bytes that are selected.
    pub(super) fn body(object: OpenObject, length: u64) -> Body {
        if length == 0 {
            return Body::empty();
        }
        Body::of_frames(Self { object: Some(object), reading: None, remaining: length })
    }
}

impl Frames for FromDisk {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        if let Some(object) = &mut self.object
            && let Some(block) = object.read_from_memory()
        {
            self.remaining = self.remaining.saturating_sub(block.len() as u64);
            return Poll::Ready(Some(Ok(Frame::data(block))));
        }
        if let Some(mut object) = self.object.take() {
            self.reading = Some(tokio::task::spawn_blocking(move || {
                let block = object.read();
                (object, block)
            }));
        }
        let Some(reading) = &mut self.reading else { return Poll::Ready(None) };
        let read = ready!(reading.poll_unpin(cx));
        self.reading = None;
        let error = match read {
            Ok((object, Ok(Some(block)))) => {
                self.remaining = self.remaining.saturating_sub(block.len() as u64);
                self.object = Some(object);
                return Poll::Ready(Some(Ok(Frame::data(block))));
            }
            Ok((_, Ok(None))) => "stored response is too short".to_owned(),
            Ok((_, Err(error))) => error.to_string(),
            Err(error) => error.to_string(),
        };
        // The client must not take what it has for a complete response.
        Poll::Ready(Some(Err(BodyError::Other(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

/// A body that is stored as it passes. It is stored when its end has passed, and not if it fails or is dropped before.
pub(super) struct Storing {
    body: Body,
    /// `None` once it is stored, or cannot be.
    job: Option<Job>,
    clock: Clock,
    counters: Arc<Counters>,
}

struct Job {
    writer: Writer,
    leader: Option<Leader>,
}

impl Storing {
    pub(super) fn body(
        body: Body,
        writer: Writer,
        leader: Option<Leader>,
        clock: Clock,
        counters: Arc<Counters>,
    ) -> Body {
        let mut storing = Self { body, job: Some(Job { writer, leader }), clock, counters };
        if storing.body.is_end_stream() {
            storing.finish();
            return storing.body;
        }
        Body::of_frames(storing)
    }

    fn finish(&mut self) {
        let Some(Job { writer, leader }) = self.job.take() else { return };
        match writer.finish() {
            Finished::Stored => stored(leader, &self.counters),
            Finished::Writing(writing) => {
                let (clock, counters) = (self.clock.clone(), self.counters.clone());
                tokio::spawn(async move {
                    match (writing.await, leader) {
                        (Ok(Ok(())), leader) => stored(leader, &counters),
                        (_, Some(leader)) => leader.not_storable(clock.wall().into()),
                        (_, None) => {}
                    }
                });
            }
            Finished::Not => {
                if let Some(leader) = leader {
                    leader.not_storable(self.now());
                }
            }
        }
    }

    /// Gives up storing, and releases those who wait for it.
    fn give_up(&mut self) {
        if let Some(leader) = self.job.take().and_then(|job| job.leader) {
            leader.not_storable(self.now());
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.wall().into()
    }
}

fn stored(leader: Option<Leader>, counters: &Counters) {
    counters.count_stored();
    if let Some(leader) = leader {
        leader.stored();
    }
}

impl Frames for Storing {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if self.job.as_mut().is_some_and(|job| !job.writer.push(data)) {
                        self.give_up();
                    }
                } else {
                    // A stored response has no trailers.
                    self.give_up();
                }
                // Not every reader polls again.
                if self.body.is_end_stream() {
                    self.finish();
                }
            }
            Some(Err(_)) => self.job = None,
            None => self.finish(),
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        self.body.set_min_rate(min_rate)
    }
}
