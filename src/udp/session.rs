//! The session of one client of a UDP entry point: a socket to its server, and an idle timeout.
//!
//! Since an address may be reassigned, the name of a server is looked up again while datagrams pass. A
//! session ends when its server loses the address; the next datagram of the client starts another one.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use parking_lot::Mutex;
use socket2::SockRef;
use tidegate_clients::dial::{self, Answer, LookupError};
use tidegate_core::traffic::OpenTraffic;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::service::Server;
use crate::upstream::Host;

/// Maximum size of a datagram.
pub(super) const MAX_DATAGRAM: usize = 65_535;
/// Maximum number of datagrams forwarded before yielding.
pub(super) const BATCH: usize = 64;
/// Maximum number of datagrams kept during a lookup.
const MAX_WAITING: usize = 16;
/// Timeout for a lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Age in milliseconds of the last confirmed lookup after which a datagram triggers another one.
const CONFIRM_INTERVAL: u64 = 100;
/// Age in milliseconds of the last confirmed lookup after which datagrams wait for the next one.
const MAX_UNCONFIRMED: u64 = 250;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_DATAGRAM].into());
}

/// Runs a function with the worker's buffer, which fits any datagram.
pub(super) fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|buffer| work(buffer))
}

/// A session.
pub(super) struct Session {
    client: SocketAddr,
    server: Arc<Server>,
    counted: OpenTraffic,
    /// Set once the server's address is known.
    socket: OnceLock<UdpSocket>,
    waiting: Mutex<Vec<Vec<u8>>>,
    /// When the last lookup confirmed the address, in milliseconds of [`now`]; [`u64::MAX`] if the server is
    /// an IP address.
    confirmed: AtomicU64,
    doubted: Notify,
    /// Time of the last datagram, in milliseconds of [`now`].
    last: AtomicU64,
    refused: Notify,
}

/// Why a session ended.
pub(super) enum Ended {
    /// The session was idle for too long.
    Idle,
    /// The name of the server resolves to another address. These datagrams were not sent.
    Moved(Vec<Vec<u8>>),
}

impl Session {
    /// Returns a session of a client with a server, to be driven by [`Self::run`].
    pub(super) fn new(client: SocketAddr, server: Arc<Server>, counted: OpenTraffic) -> Self {
        let session = Self {
            client,
            server,
            counted,
            socket: OnceLock::new(),
            waiting: Mutex::default(),
            confirmed: AtomicU64::new(now()),
            doubted: Notify::new(),
            last: AtomicU64::new(now()),
            refused: Notify::new(),
        };
        if let Host::Address(ip) = session.server.host {
            session.confirmed.store(u64::MAX, Ordering::Relaxed);
            // `run` handles errors, as it tries again.
            if let Ok(socket) = open(SocketAddr::new(ip, session.server.port)) {
                let _ = session.socket.set(socket);
            }
        }
        session
    }

    /// Sends a datagram to the server. Drops it if it cannot be sent immediately.
    pub(super) fn send(&self, datagram: &[u8]) {
        self.touch();
        if self.unconfirmed() >= CONFIRM_INTERVAL {
            self.doubted.notify_one();
        }
        if let Some(socket) = self.usable() {
            return self.send_on(socket, datagram);
        }
        let mut waiting = self.waiting.lock();
        match self.usable() {
            Some(socket) => self.send_on(socket, datagram),
            None if waiting.len() < MAX_WAITING => waiting.push(datagram.to_vec()),
            None => {}
        }
    }

    /// Returns the socket if the server's address is known and confirmed recently.
    fn usable(&self) -> Option<&UdpSocket> {
        self.socket.get().filter(|_| self.unconfirmed() < MAX_UNCONFIRMED)
    }

    /// Returns the time since the last confirmed lookup in milliseconds.
    fn unconfirmed(&self) -> u64 {
        now().saturating_sub(self.confirmed.load(Ordering::Relaxed))
    }

    /// Forwards replies to the client until the session is idle for `timeout`, the server refuses datagrams,
    /// or its name no longer has the address.
    pub(super) async fn run(&self, entry: &UdpSocket, timeout: Duration) -> io::Result<Ended> {
        let socket = match self.socket.get() {
            Some(socket) => socket,
            None => self.connect().await?,
        };
        let peer = socket.peer_addr()?.ip();
        let mut look_up: Option<BoxFuture<'_, Result<Answer, LookupError>>> = None;
        loop {
            let silence = Duration::from_millis(now().saturating_sub(self.last.load(Ordering::Relaxed)));
            if silence >= timeout {
                return Ok(Ended::Idle);
            }
            tokio::select! {
                ready = socket.readable() => {
                    ready?;
                    self.forward_replies(socket, entry)?;
                }
                () = self.refused.notified() => {
                    self.server.refused();
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                Some(outcome) = OptionFuture::from(look_up.as_mut()) => {
                    look_up = None;
                    if self.has_lost(peer, &outcome) {
                        return Ok(Ended::Moved(std::mem::take(&mut *self.waiting.lock())));
                    }
                    if outcome.is_ok() {
                        self.confirm(socket);
                    }
                }
                () = self.doubted.notified(), if look_up.is_none() => look_up = Some(self.look_up()),
                () = tokio::time::sleep(timeout - silence) => {}
            }
        }
    }

    fn is_named(&self) -> bool {
        matches!(self.server.host, Host::Name(_))
    }

    fn look_up(&self) -> BoxFuture<'_, Result<Answer, LookupError>> {
        match &self.server.host {
            Host::Name(name) => dial::lookup(name, None).boxed(),
            Host::Address(_) => std::future::pending().boxed(),
        }
    }

    /// Returns true if the name has another address or none. A failed lookup is inconclusive: datagrams wait
    /// for the next one.
    fn has_lost(&self, peer: IpAddr, outcome: &Result<Answer, LookupError>) -> bool {
        match outcome {
            Ok(answer) => !answer.addresses().contains(&peer),
            Err(LookupError::NotFound { .. }) => true,
            Err(LookupError::Failed { .. }) => false,
        }
    }

    /// Records that the name has the address, and sends the datagrams that waited for this.
    fn confirm(&self, socket: &UdpSocket) {
        let mut waiting = self.waiting.lock();
        self.confirmed.store(now(), Ordering::Relaxed);
        for datagram in waiting.drain(..) {
            self.send_on(socket, &datagram);
        }
    }

    fn forward_replies(&self, socket: &UdpSocket, entry: &UdpSocket) -> io::Result<()> {
        for _ in 0..BATCH {
            let carried = with_buffer(|buffer| {
                let length = socket.try_recv(buffer)?;
                self.touch();
                // Replies that cannot be sent immediately are dropped.
                if SockRef::from(entry).send_to(&buffer[..length], &self.client.into()).is_ok() {
                    self.counted.send_datagram(length);
                }
                Ok(())
            });
            match carried {
                Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => break,
                other => other?,
            }
        }
        Ok(())
    }

    async fn connect(&self) -> io::Result<&UdpSocket> {
        let addresses = match &self.server.host {
            Host::Address(ip) => vec![*ip],
            Host::Name(name) => {
                let found = tokio::time::timeout(LOOKUP_TIMEOUT, dial::lookup(name, None)).await;
                let found =
                    found.map_err(|_| io::Error::other(format!("lookup of `{name}` timed out")))??;
                self.server.candidates(found.addresses())
            }
        };
        let mut opened = Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
        for address in addresses {
            opened = open(SocketAddr::new(address, self.server.port));
            if opened.is_ok() {
                break;
            }
        }
        let opened = opened?;
        let socket = self.socket.get_or_init(|| opened);
        if self.is_named() {
            self.confirm(socket);
        }
        Ok(socket)
    }

    fn send_on(&self, socket: &UdpSocket, datagram: &[u8]) {
        // Bypasses the runtime, which learns that a new socket is writable only later.
        let sent = SockRef::from(socket).send(datagram);
        if sent.is_ok() {
            self.counted.receive_datagram(datagram.len());
        }
        if sent.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            // The kernel reports the refusal only once, so notify `run`.
            self.refused.notify_one();
        }
    }

    fn touch(&self) {
        self.last.store(now(), Ordering::Relaxed);
    }
}

fn open(server: SocketAddr) -> io::Result<UdpSocket> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    UdpSocket::from_std(socket)
}

/// Returns the milliseconds since the first call.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}
