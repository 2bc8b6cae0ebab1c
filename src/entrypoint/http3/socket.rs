//! The UDP sockets of an entry point, one per worker, and the way of datagrams to the worker that owns their
//! connection.
//!
//! The system distributes datagrams by the addresses of client and server. When a client changes its address, or another
//! process joins or leaves the port, they arrive at another worker, which passes them on by their connection ID, or at
//! another process (`siblings`).

use std::collections::VecDeque;
use std::fmt;
use std::hash::BuildHasher;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::ids::{Ids, Owner};
use super::siblings::{self, Siblings};

/// Maximum number of bytes that wait for a worker. Further datagrams are dropped, as by a full socket.
const MAX_WAITING: usize = 1024 * 1024;

/// What the workers of an entry point share to pass datagrams on.
pub(super) struct Steering {
    pub(super) ids: Ids,
    inboxes: Box<[Inbox]>,
    /// Chooses workers for new connections if the system does not.
    spread: RandomState,
    /// Whether the system does: each worker reads a socket.
    is_spread: bool,
    /// Other processes on the port.
    siblings: Option<Siblings>,
    /// Whether new clients are for other processes.
    draining: AtomicBool,
}

/// Where a datagram goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Worker(usize),
    /// To other processes.
    Siblings {
        is_new: bool,
    },
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
    pub(super) fn new(workers: usize, sockets: usize, siblings: Option<Siblings>) -> Arc<Self> {
        Arc::new(Self {
            ids: Ids::new(workers),
            inboxes: (0..workers).map(|_| Inbox::default()).collect(),
            spread: RandomState::default(),
            is_spread: sockets >= workers,
            siblings,
            draining: AtomicBool::new(false),
        })
    }

    /// Leaves new clients to other processes on the port, if there are any.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Receives what other processes pass on.
    pub(super) async fn receive_from_siblings(self: Arc<Self>, is_ipv6: bool) {
        let socket = self.siblings.as_ref().map(Siblings::receiver);
        let Some(Ok(socket)) = socket else { return };
        let Ok(socket) = tokio::net::UnixDatagram::from_std(socket) else { return };
        let mut buffer = vec![0; siblings::MAX_MESSAGE];
        while let Ok(length) = socket.recv(&mut buffer).await {
            if let Some(message) = siblings::decode(&buffer[..length], is_ipv6) {
                self.accept(&message);
            }
        }
    }

    /// Gives datagrams of another process to the workers. They are never passed on again.
    fn accept(&self, message: &siblings::Message<'_>) {
        for datagram in message.datagrams.chunks(message.stride) {
            let worker = match self.ids.owner(datagram) {
                Owner::Worker(worker) => worker,
                Owner::New if message.is_new && !self.draining.load(Ordering::Relaxed) => {
                    self.worker_of(message.client)
                }
                Owner::New | Owner::Unknown => continue,
            };
            let meta = RecvMeta {
                addr: message.client,
                len: datagram.len(),
                stride: datagram.len(),
                ecn: message.ecn,
                dst_ip: message.local,
            };
            self.inboxes[worker].put(meta, datagram);
        }
    }

    /// Returns the worker for a new connection of a client.
    fn worker_of(&self, client: SocketAddr) -> usize {
        (self.spread.hash_one(client) % self.inboxes.len() as u64) as usize
    }

    /// Returns who gets a datagram that `here` has received.
    fn target(&self, here: usize, datagram: &[u8], client: SocketAddr) -> Target {
        let has_siblings = self.siblings.is_some();
        match self.ids.owner(datagram) {
            Owner::Worker(worker) => Target::Worker(worker),
            Owner::New if has_siblings && self.draining.load(Ordering::Relaxed) => {
                Target::Siblings { is_new: true }
            }
            Owner::New if !self.is_spread => Target::Worker(self.worker_of(client)),
            Owner::Unknown if has_siblings => Target::Siblings { is_new: false },
            // The endpoint drops what is unknown.
            Owner::New | Owner::Unknown => Target::Worker(here),
        }
    }

    /// Passes on what belongs to others, and leaves the rest in `buffer`, whose length is `meta.len`.
    fn sort(&self, here: usize, buffer: &mut [u8], meta: &mut RecvMeta) {
        let stride = meta.stride.max(1);
        let (mut kept, mut at) = (0, 0);
        while at < meta.len {
            let until = |at: usize| (at + stride).min(meta.len);
            let target = self.target(here, &buffer[at..until(at)], meta.addr);
            let mut end = until(at);
            // Usually, all segments belong to one connection.
            while end < meta.len && self.target(here, &buffer[end..until(end)], meta.addr) == target {
                end = until(end);
            }
            let run = RecvMeta { len: end - at, ..*meta };
            match target {
                Target::Worker(worker) if worker == here => {
                    if kept < at {
                        buffer.copy_within(at..end, kept);
                    }
                    kept += end - at;
                }
                Target::Worker(worker) => self.inboxes[worker].put(run, &buffer[at..end]),
                Target::Siblings { is_new } => {
                    if let Some(siblings) = &self.siblings {
                        siblings.send(&run, is_new, &buffer[at..end]);
                    }
                }
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
        self.steering.ids.workers() == 1 && self.steering.siblings.is_none()
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
