//! Bodies that are stored as they pass, and sent to others meanwhile.
//!
//! The request that leads reads its body itself until another one wants it, too. From then on, a task reads it into
//! memory, and both read what is there: a client that is slow delays nobody, and one that leaves cuts off nobody.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tidegate_cache::collapse::Leader;
use tidegate_cache::{Head, Timestamp};
use tidegate_core::body::MinDataRate;
use tidegate_core::{Body, BodyError, Clock, Frames, Polled};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::counters::Counters;
use super::tiers::{Finished, Writer};

/// A response that is being stored. It is stored when its body has ended, and not if that fails or nobody reads it.
pub(super) struct Fill {
    state: Mutex<State>,
    /// Where the request that leads runs, and its connection to the server.
    runtime: Handle,
    clock: Clock,
    counters: Arc<Counters>,
}

struct State {
    source: Source,
    /// `None` once it is stored, or cannot be.
    job: Option<Job>,
    readers: usize,
    /// Readers so far.
    numbers: u64,
    /// The readers that wait for more, by their numbers.
    waiting: HashMap<u64, Waker>,
}

/// Where readers get the body from.
enum Source {
    /// The only reader polls it.
    Direct(Body),
    /// A task reads it, and readers get what it has written to the memory.
    Task(Option<AbortHandle>),
    /// It has ended.
    Complete { pieces: Vec<Bytes>, trailers: Option<HeaderMap> },
    /// It has failed. The first reader gets the error.
    Failed(Option<BodyError>),
}

struct Job {
    writer: Writer,
    leader: Option<Leader<Weak<Fill>>>,
}

impl Job {
    /// The length of the body, and what is missing of it; `None` unless both are known and in memory.
    fn expected(&mut self) -> Option<(u64, u64)> {
        self.writer.memory()?.expected()
    }
}

/// Returns a body that is stored as it is read.
pub(super) fn storing(
    mut body: Body,
    writer: Writer,
    leader: Option<Leader<Weak<Fill>>>,
    clock: Clock,
    counters: Arc<Counters>,
) -> Body {
    let is_empty = body.is_end_stream();
    let source = if is_empty { Source::Failed(None) } else { Source::Direct(std::mem::take(&mut body)) };
    let state =
        State { source, job: Some(Job { writer, leader }), readers: 1, numbers: 1, waiting: HashMap::new() };
    let fill = Arc::new(Fill { state: Mutex::new(state), runtime: Handle::current(), clock, counters });
    let mut state = fill.state.lock();
    if is_empty {
        fill.store(state.job.take());
        drop(state);
        return body;
    }
    let job = state.job.as_mut();
    let length = job.and_then(|job| {
        let (length, _) = job.expected()?;
        // A body of unknown length may turn out not to be storable when others have a part of it.
        job.leader.as_ref().inspect(|leader| leader.filling(Arc::downgrade(&fill)));
        Some(length)
    });
    drop(state);
    Body::of_frames(Reader { fill, number: 0, position: 0, length, has_trailers: false })
}

impl Fill {
    /// The head of the response, as long as others can get it.
    pub(super) fn head(&self) -> Option<Head> {
        let mut state = self.state.lock();
        let memory = state.job.as_mut()?.writer.memory()?;
        // Whoever asks after a purge gets nothing from before it.
        (!memory.is_purged()).then(|| memory.head().clone())
    }

    /// The body from its beginning, as it arrives, and its length. `None` if only the store can have it: there is not
    /// enough memory to receive it for others, or it has ended.
    pub(super) fn follow(self: &Arc<Self>) -> Option<(Body, u64)> {
        let mut state = self.state.lock();
        let memory = state.job.as_mut()?.writer.memory()?;
        let (length, _) = memory.expected()?;
        if memory.is_purged() || !memory.reserve() {
            return None;
        }
        let number = state.numbers;
        state.numbers += 1;
        state.readers += 1;
        let direct = if matches!(state.source, Source::Direct(_)) {
            std::mem::replace(&mut state.source, Source::Task(None))
        } else {
            Source::Task(None)
        };
        // The one that has polled the body learns that it does no longer.
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        if let Source::Direct(body) = direct {
            let task = self.runtime.spawn(Receiving { fill: self.clone(), body }.run());
            if let Source::Task(handle) = &mut self.state.lock().source {
                *handle = Some(task.abort_handle());
            }
        }
        wake(waiting);
        let reader =
            Reader { fill: self.clone(), number, position: 0, length: Some(length), has_trailers: false };
        Some((Body::of_frames(reader), length))
    }

    /// Stores a body that has ended, and releases those who wait for it.
    fn store(&self, job: Option<Job>) {
        let Some(Job { writer, leader }) = job else { return };
        match writer.finish() {
            Finished::Stored => stored(leader, &self.counters),
            Finished::Writing(writing) => {
                let (clock, counters) = (self.clock.clone(), self.counters.clone());
                self.runtime.spawn(async move {
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
    fn give_up(&self, job: Option<Job>) {
        if let Some(leader) = job.and_then(|job| job.leader) {
            leader.not_storable(self.now());
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.wall().into()
    }

    /// Stores what the only reader has got. `is_last`: the body has ended with it.
    fn keep(&self, state: &mut State, polled: Option<&Result<Frame<Bytes>, BodyError>>, is_last: bool) {
        match polled {
            Some(Ok(frame)) => {
                let is_kept = match (frame.data_ref(), &mut state.job) {
                    (Some(data), Some(job)) => job.writer.push(data),
                    (Some(_), None) => true,
                    // A stored response has no trailers.
                    (None, _) => false,
                };
                if !is_kept {
                    self.give_up(state.job.take());
                }
                // Not every reader polls again.
                if is_last {
                    self.store(state.job.take());
                }
            }
            Some(Err(_)) => state.job = None,
            None => self.store(state.job.take()),
        }
    }

    /// Appends what the task has read, for all readers. Returns false if there is nothing more to read.
    fn receive(&self, polled: Option<Result<Frame<Bytes>, BodyError>>, is_last: bool) -> bool {
        let mut state = self.state.lock();
        match polled {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let is_kept = state.job.as_mut().is_some_and(|job| {
                        job.writer.push(&data);
                        job.writer.memory().is_some()
                    });
                    if !is_kept {
                        let error = "response is longer than its Content-Length".to_owned();
                        state.source = Source::Failed(Some(BodyError::Other(error)));
                        self.give_up(state.job.take());
                    } else if is_last {
                        self.complete(&mut state, None);
                    }
                }
                Err(frame) => self.complete(&mut state, frame.into_trailers().ok()),
            },
            Some(Err(error)) => {
                state.source = Source::Failed(Some(error));
                state.job = None;
            }
            None => self.complete(&mut state, None),
        }
        let goes_on = matches!(state.source, Source::Task(_));
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        wake(waiting);
        goes_on
    }

    fn complete(&self, state: &mut State, trailers: Option<HeaderMap>) {
        let Some(mut job) = state.job.take() else { return };
        let pieces = match job.writer.memory() {
            Some(memory) if memory.expected().is_some_and(|(_, missing)| missing == 0) => {
                memory.seal().to_vec()
            }
            _ => {
                let error = "response is shorter than its Content-Length".to_owned();
                state.source = Source::Failed(Some(BodyError::Other(error)));
                return self.give_up(Some(job));
            }
        };
        if trailers.is_some() {
            self.give_up(Some(job))
        } else {
            self.store(Some(job))
        }
        state.source = Source::Complete { pieces, trailers };
    }
}

fn stored(leader: Option<Leader<Weak<Fill>>>, counters: &Counters) {
    counters.count_stored();
    if let Some(leader) = leader {
        leader.stored();
    }
}

fn wake(waiting: HashMap<u64, Waker>) {
    waiting.into_values().for_each(Waker::wake);
}

/// The task that reads a body for several readers.
struct Receiving {
    fill: Arc<Fill>,
    body: Body,
}

impl Receiving {
    async fn run(mut self) {
        loop {
            let polled = self.body.frame().await;
            let is_last = self.body.is_end_stream();
            if !self.fill.receive(polled, is_last) {
                return;
            }
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let mut state = self.fill.state.lock();
        if !matches!(state.source, Source::Task(_)) {
            return;
        }
        state.source = Source::Failed(None);
        let (job, waiting) = (state.job.take(), std::mem::take(&mut state.waiting));
        drop(state);
        drop(job);
        wake(waiting);
    }
}

/// The body for one of its readers.
struct Reader {
    fill: Arc<Fill>,
    number: u64,
    /// Bytes that it has got.
    position: u64,
    length: Option<u64>,
    has_trailers: bool,
}

impl Frames for Reader {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let Self { fill, number, position, has_trailers, .. } = self;
        let mut guard = fill.state.lock();
        let state = &mut *guard;
        let next = match &mut state.source {
            Source::Direct(body) => match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(polled) => {
                    let is_last = body.is_end_stream();
                    fill.keep(state, polled.as_ref(), is_last);
                    *position += length_of(polled.as_ref());
                    return Poll::Ready(polled);
                }
                Poll::Pending => None,
            },
            Source::Task(_) => {
                let memory = state.job.as_mut().and_then(|job| job.writer.memory());
                memory.and_then(|memory| memory.read(*position)).map(Frame::data).map(Ok)
            }
            Source::Complete { pieces, trailers } => match rest(pieces, *position) {
                Some(piece) => Some(Ok(Frame::data(piece))),
                None if *has_trailers => return Poll::Ready(None),
                None => {
                    *has_trailers = true;
                    return Poll::Ready(trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
                }
            },
            Source::Failed(error) => {
                let lost = || BodyError::Other("response that was being received has failed".to_owned());
                Some(Err(error.take().unwrap_or_else(lost)))
            }
        };
        if next.is_none() {
            state.waiting.insert(*number, cx.waker().clone());
            return Poll::Pending;
        }
        *position += length_of(next.as_ref());
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        match &self.fill.state.lock().source {
            Source::Direct(body) => body.is_end_stream(),
            Source::Complete { trailers, .. } => {
                self.length == Some(self.position) && (trailers.is_none() || self.has_trailers)
            }
            Source::Task(_) | Source::Failed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.fill.state.lock().source, self.length) {
            (Source::Direct(body), _) => body.size_hint(),
            (_, Some(length)) => SizeHint::with_exact(length.saturating_sub(self.position)),
            (_, None) => SizeHint::default(),
        }
    }

    fn set_min_rate(&mut self, min_rate: MinDataRate) -> bool {
        match &mut self.fill.state.lock().source {
            Source::Direct(body) => body.set_min_rate(min_rate),
            _ => false,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.fill.state.lock();
        state.waiting.remove(&self.number);
        state.readers -= 1;
        let is_alone = state.readers == 0;
        let over = match &mut state.source {
            Source::Direct(_) => {
                let source = std::mem::replace(&mut state.source, Source::Failed(None));
                Some((source, state.job.take()))
            }
            Source::Task(task) if is_alone => {
                let task = task.take();
                // What is complete but for its end is stored.
                if state.job.as_mut().and_then(Job::expected).is_some_and(|(_, missing)| missing > 0)
                    && let Some(task) = task
                {
                    task.abort();
                }
                None
            }
            _ => None,
        };
        drop(state);
        // Dropping guards of the rest may take time.
        drop(over);
    }
}

fn length_of(polled: Option<&Result<Frame<Bytes>, BodyError>>) -> u64 {
    let frame = polled.and_then(|frame| frame.as_ref().ok());
    frame.and_then(Frame::data_ref).map_or(0, |data| data.len() as u64)
}

/// The rest of the piece in which the bytes after the first `start` are.
fn rest(pieces: &[Bytes], mut start: u64) -> Option<Bytes> {
    for piece in pieces {
        let length = piece.len() as u64;
        if start < length {
            return Some(piece.slice(usize::try_from(start).ok()?..));
        }
        start -= length;
    }
    None
}
