//! One client of a UDP entry point: a socket to its server, and the silence since the last datagram.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

use super::service::Server;
use crate::upstream::{Host, resolve};

/// The largest datagram there is.
pub(super) const MAX_DATAGRAM: usize = 65_535;
/// Datagrams that are carried before others get their turn.
pub(super) const BATCH: usize = 64;
/// Datagrams that wait while the name of a server is looked up.
const WAITING: usize = 16;
/// Time for that.
const LOOK_UP: Duration = Duration::from_secs(10);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; MAX_DATAGRAM].into());
}

/// Lends a buffer of the worker, large enough for any datagram.
pub(super) fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|buffer| work(buffer))
}

/// A session.
pub(super) struct Session {
    client: SocketAddr,
    server: Arc<Server>,
    /// Set when the server's address is known.
    socket: OnceLock<UdpSocket>,
    waiting: Mutex<Vec<Vec<u8>>>,
    /// When the last datagram passed, in milliseconds of [`now`].
    last: AtomicU64,
    refused: Notify,
}

impl Session {
    /// A session of a client with a server. [`Self::run`] has to be called too.
    pub(super) fn new(client: SocketAddr, server: Arc<Server>) -> Self {
        let session = Self {
            client,
            server,
            socket: OnceLock::new(),
            waiting: Mutex::default(),
            last: AtomicU64::new(now()),
            refused: Notify::new(),
        };
        if let Host::Address(ip) = session.server.host {
            // An error is met again by whoever runs the session.
            if let Ok(socket) = open(SocketAddr::new(ip, session.server.port)) {
                let _ = session.socket.set(socket);
            }
        }
        session
    }

    /// Sends a datagram to the server. What cannot be sent at once is lost, as UDP allows.
    pub(super) fn send(&self, datagram: &[u8]) {
        self.touch();
        if let Some(socket) = self.socket.get() {
            return self.hand_on(socket, datagram);
        }
        let mut waiting = self.waiting.lock();
        match self.socket.get() {
            Some(socket) => self.hand_on(socket, datagram),
            None if waiting.len() < WAITING => waiting.push(datagram.to_vec()),
            None => {}
        }
    }

    /// Carries replies to the client until there was silence for `timeout`, or the server refuses.
    pub(super) async fn run(&self, entry: &UdpSocket, timeout: Duration) -> io::Result<()> {
        let socket = match self.socket.get() {
            Some(socket) => socket,
            None => self.connect().await?,
        };
        loop {
            let silence = Duration::from_millis(now().saturating_sub(self.last.load(Ordering::Relaxed)));
            if silence >= timeout {
                return Ok(());
            }
            tokio::select! {
                ready = socket.readable() => {
                    ready?;
                    self.carry_replies(socket, entry)?;
                }
                () = self.refused.notified() => return Err(io::ErrorKind::ConnectionRefused.into()),
                () = tokio::time::sleep(timeout - silence) => {}
            }
        }
    }

    fn carry_replies(&self, socket: &UdpSocket, entry: &UdpSocket) -> io::Result<()> {
        for _ in 0..BATCH {
            let carried = with_buffer(|buffer| {
                let length = socket.try_recv(buffer)?;
                self.touch();
                // What cannot be sent at once is lost, as UDP allows.
                let _ = SockRef::from(entry).send_to(&buffer[..length], &self.client.into());
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
        let address = match &self.server.host {
            Host::Address(ip) => SocketAddr::new(*ip, self.server.port),
            Host::Name(name) => {
                let found = tokio::time::timeout(LOOK_UP, resolve(name)).await;
                let found =
                    found.map_err(|_| io::Error::other(format!("`{name}` is not found in time")))??;
                let ip = found.first().ok_or_else(|| io::Error::other(format!("`{name}` has no address")))?;
                SocketAddr::new(*ip, self.server.port)
            }
        };
        let opened = open(address)?;
        let mut waiting = self.waiting.lock();
        let socket = self.socket.get_or_init(|| opened);
        for datagram in waiting.drain(..) {
            self.hand_on(socket, &datagram);
        }
        Ok(socket)
    }

    fn hand_on(&self, socket: &UdpSocket, datagram: &[u8]) {
        // The system itself is asked: the runtime knows of a new socket only after a while that it can be written to.
        let sent = SockRef::from(socket).send(datagram);
        if sent.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            // The system tells only one of us that nobody is there.
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

/// Milliseconds since the first call.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}
