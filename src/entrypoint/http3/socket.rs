//! The UDP sockets of an entry point, one per worker, and the way of datagrams to the worker that owns their
//! connection.
//!
//! The system distributes datagrams by the addresses of client and server. When a client changes its address, or another
//! process joins or leaves the port, they arrive at another worker, which passes them on by their connection ID.

use std::collections::VecDeque;
use std::fmt;
use std::hash::BuildHasher;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::ids::{Ids, Owner};

/// Maximum number of bytes that wait for a worker. Further datagrams are dropped, as by a full socket.
const MAX_WAITING: usize = 1024 * 1024;

/// What the workers of an entry point share to pass datagrams on.
pub(super) struct Steering {
    pub(super) ids: Ids,
    inboxes: Box<[Inbox]>,
    /// Chooses workers for new connections where fewer sockets than workers are read; `None` if the system does.
    spread: Option<RandomState>,
}

/// Datagrams that other workers have received for one worker.
#[derive(Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    /// Number of entries, which is read without the lock.
    count: AtomicUsize,
    waker: AtomicWaker,
}

#[derive(Default)]
struct Waiting {
    datagrams: VecDeque<(RecvMeta, Bytes)>,
    bytes: usize,
}

impl Steering {
    /// Creates the steering for `workers` workers, of which the first `sockets` read a socket.
    pub(super) fn new(workers: usize, sockets: usize) -> Arc<Self> {
        Arc::new(Self {
            ids: Ids::new(workers),
            inboxes: (0..workers).map(|_| Inbox::default()).collect(),
            spread: (sockets < workers).then(RandomState::default),
        })
    }

    /// Returns the worker for a datagram that `here` has received.
    fn worker(&self, here: usize, datagram: &[u8], client: SocketAddr) -> usize {
        match (self.ids.owner(datagram), &self.spread) {
            (Owner::Worker(worker), _) => worker,
            (Owner::New, Some(spread)) => {
                usize::try_from(spread.hash_one(client) % self.inboxes.len() as u64).unwrap_or(here)
            }
            // The endpoint drops what is unknown.
            (Owner::New | Owner::Unknown, _) => here,
        }
    }

    /// Passes on what belongs to other workers, and leaves the rest in `buffer`, whose length is `meta.len`.
    fn sort(&self, here: usize, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let (mut kept, mut at) = (0, 0);
        while at < meta.len {
            let until = |at: usize| (at + stride).min(meta.len);
            let worker = self.worker(here, &buffer[at..until(at)], meta.addr);
            let mut end = until(at);
            // Usually, all segments belong to one connection.
            while end < meta.len && self.worker(here, &buffer[end..until(end)], meta.addr) == worker {
                end = until(end);
            }
            if worker == here {
                if kept < at {
                    buffer.copy_within(at..end, kept);
                }
                kept += end - at;
            } else {
                self.inboxes[worker].put(RecvMeta { len: end - at, ..*meta }, &buffer[at..end]);
            }
            at = end;
        }
        meta.len = kept;
    }
}

impl Inbox {
    fn put(&self, meta: RecvMeta, bytes: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.bytes + bytes.len() > MAX_WAITING {
            return;
        }
        waiting.bytes += bytes.len();
        waiting.datagrams.push_back((meta, Bytes::copy_from_slice(bytes)));
        self.count.store(waiting.datagrams.len(), Ordering::Release);
        drop(waiting);
        self.waker.wake();
    }

    /// Moves datagrams into `buffers`, and returns their number.
    fn take(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        if self.count.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let mut waiting = self.waiting.lock();
        let mut taken = 0;
        for (buffer, slot) in buffers.iter_mut().zip(metas) {
            let Some((mut meta, bytes)) = waiting.datagrams.pop_front() else { break };
            waiting.bytes -= bytes.len();
            // All workers have buffers of one size.
            meta.len = bytes.len().min(buffer.len());
            buffer[..meta.len].copy_from_slice(&bytes[..meta.len]);
            *slot = meta;
            taken += 1;
        }
        self.count.store(waiting.datagrams.len(), Ordering::Release);
        taken
    }
}

/// The socket of one worker.
pub(super) struct WorkerSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    steering: Arc<Steering>,
    /// Index of the worker.
    here: usize,
    /// Whether this worker reads the socket, or only what others pass on.
    reads: bool,
}

impl WorkerSocket {
    /// Wraps a socket of the runtime.
    pub(super) fn new(
        socket: Arc<dyn AsyncUdpSocket>,
        steering: Arc<Steering>,
        here: usize,
        reads: bool,
    ) -> Self {
        Self { socket, steering, here, reads }
    }

    /// Returns true if there is nobody to pass datagrams on to.
    fn is_alone(&self) -> bool {
        self.steering.ids.workers() == 1
    }
}

impl fmt::Debug for WorkerSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerSocket").field("worker", &self.here).finish_non_exhaustive()
    }
}

impl AsyncUdpSocket for WorkerSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if self.is_alone() {
            return self.socket.poll_recv(cx, buffers, metas);
        }
        let inbox = &self.steering.inboxes[self.here];
        inbox.waker.register(cx.waker());
        // Neither what is passed on nor what the socket has may hold the other up.
        let half = if self.reads { buffers.len().div_ceil(2) } else { buffers.len() };
        let taken = inbox.take(&mut buffers[..half], metas);
        let (buffers, metas) = (&mut buffers[taken..], &mut metas[taken..]);
        if self.reads
            && !buffers.is_empty()
            && let Poll::Ready(received) = self.socket.poll_recv(cx, buffers, metas)
        {
            let received = received?;
            for (buffer, meta) in buffers.iter_mut().zip(metas).take(received) {
                self.steering.sort(self.here, buffer, meta);
            }
            return Poll::Ready(Ok(taken + received));
        }
        if taken > 0 { Poll::Ready(Ok(taken)) } else { Poll::Pending }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
