//! A UDP listener, which receives datagrams and passes them to the sessions of their clients.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use tidegate_core::traffic::OpenTraffic;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::service::Chosen;
use super::session::{BATCH, Ended, Session, with_buffer};
use crate::opening::Opening;
use crate::settings::EntryPoint;
use crate::snapshot::SnapshotHandle;
use crate::worker;

/// Maximum number of sessions per entry point, as each has its own socket. Datagrams of further clients are
/// dropped.
const MAX_SESSIONS: usize = 16 * 1024;
/// Sessions of one entry point may use one in this many file descriptors, since client addresses are easily
/// spoofed.
const DESCRIPTOR_SHARE: u64 = 8;

/// A running UDP entry point.
pub struct Listener {
    /// Its name.
    pub name: Arc<str>,
    /// Its index in the settings and in each snapshot.
    index: usize,
    timeout: Duration,
    accept_grace: Duration,
    grace: Duration,
    snapshots: SnapshotHandle,
    opening: Arc<Opening>,
    /// Whether new sessions are rejected.
    closing: CancellationToken,
    /// Whether other processes may bind to its port.
    pub(crate) is_shared: bool,
    /// Whether a supervisor also holds its socket.
    pub(crate) is_passed: bool,
    max_sessions: usize,
    open: AtomicUsize,
    changed: Notify,
}

type Sessions = Mutex<HashMap<SocketAddr, Arc<Session>, RandomState>>;

impl Listener {
    /// Returns a listener for the entry point `name` with this index in the settings.
    pub fn new(
        index: usize,
        name: &str,
        options: &EntryPoint,
        snapshots: SnapshotHandle,
        opening: Arc<Opening>,
    ) -> Self {
        let (accept_grace, grace) = options.transport.life_cycle.graces();
        Self {
            name: name.into(),
            index,
            timeout: options.udp.timeout.0,
            accept_grace,
            grace,
            snapshots,
            opening,
            closing: CancellationToken::new(),
            is_shared: false,
            is_passed: false,
            max_sessions: max_sessions(getrlimit(Resource::Nofile).current),
            open: AtomicUsize::new(0),
            changed: Notify::new(),
        }
    }

    /// Returns the number of open sessions.
    pub fn sessions(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Receives on one socket while its worker runs, regardless of errors.
    ///
    /// Until the first configuration is complete, datagrams wait in the socket's buffer; excess ones are
    /// lost.
    pub async fn serve(self: Arc<Self>, socket: std::net::UdpSocket) {
        let socket = match UdpSocket::from_std(socket) {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                tracing::error!(entry_point = %self.name, %error, "cannot receive datagrams");
                return;
            }
        };
        tokio::select! {
            () = self.opening.opened() => {}
            () = self.closing.cancelled() => return,
        }
        let sessions = Arc::<Sessions>::default();
        loop {
            let readable = tokio::select! {
                readable = socket.readable() => readable,
                // Further datagrams are for other processes.
                () = self.closing.cancelled(), if self.is_passed || self.is_shared => return,
            };
            if let Err(error) = readable {
                tracing::error!(entry_point = %self.name, %error, "cannot receive datagrams");
                return;
            }
            for _ in 0..BATCH {
                let received = with_buffer(|buffer| {
                    let (length, client) = socket.try_recv_from(buffer)?;
                    self.deliver(client, &buffer[..length], &sessions, &socket);
                    io::Result::Ok(())
                });
                if received.is_err() {
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Shuts down gracefully: accepts new sessions for `requestAcceptGraceTimeout`, then waits up to
    /// `graceTimeOut` for open ones to become idle.
    pub async fn stop(&self) {
        if !self.accept_grace.is_zero() {
            tokio::time::sleep(self.accept_grace).await;
        }
        self.closing.cancel();
        let emptied = async {
            loop {
                let changed = self.changed.notified();
                if self.sessions() == 0 {
                    return;
                }
                changed.await;
            }
        };
        if tokio::time::timeout(self.grace, emptied).await.is_err() {
            let sessions = self.sessions();
            tracing::warn!(entry_point = %self.name, sessions, "closing UDP sessions after graceTimeOut");
        }
    }

    /// Passes a datagram to the session of its client, creating one if needed.
    fn deliver(
        self: &Arc<Self>,
        client: SocketAddr,
        datagram: &[u8],
        sessions: &Arc<Sessions>,
        socket: &Arc<UdpSocket>,
    ) {
        let known = sessions.lock().get(&client).cloned();
        if let Some(session) = known {
            return session.send(datagram);
        }
        let Some(session) = self.start_session(client) else { return };
        let session = Arc::new(session);
        session.send(datagram);
        sessions.lock().insert(client, session.clone());
        let open = OpenSession::count(self.clone());
        let (sessions, socket) = (sessions.clone(), socket.clone());
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = session.run(&socket, open.0.timeout) => outcome,
                // While the socket is open, the kernel delivers datagrams to it that nobody reads.
                () = open.0.closing.cancelled(), if open.0.is_shared => Ok(Ended::Idle),
            };
            sessions.lock().remove(&client);
            let listener = open.0.clone();
            drop(open);
            match outcome {
                Ok(Ended::Idle) => {}
                Ok(Ended::Moved(unsent)) => {
                    tracing::debug!(entry_point = %listener.name, %client, "UDP session ended: the address of its server has changed");
                    for datagram in unsent {
                        listener.deliver(client, &datagram, &sessions, &socket);
                    }
                }
                Err(error) => {
                    tracing::debug!(entry_point = %listener.name, %client, %error, "UDP session ended early");
                }
            }
        });
    }

    /// Returns a session for a new client; `None` if no server is available or the limit is reached.
    fn start_session(&self, client: SocketAddr) -> Option<Session> {
        if self.closing.is_cancelled() {
            return None;
        }
        if self.sessions() >= self.max_sessions {
            tracing::debug!(entry_point = %self.name, %client, "too many UDP sessions: dropping a datagram");
            return None;
        }
        let snapshot = self.snapshots.load();
        let route = snapshot.entry_points.get(self.index)?.udp.as_ref()?;
        let Chosen { server, traffic, server_traffic } = route.service.as_ref()?.choose()?;
        tracing::debug!(router = %route.name, server = server.address(), %client, "UDP session started");
        let counted = OpenTraffic::open(worker::index(), [route.traffic.clone(), traffic, server_traffic]);
        Some(Session::new(client, server, counted))
    }
}

/// Returns the maximum number of sessions for this limit of file descriptors (`None` means unlimited).
fn max_sessions(descriptors: Option<u64>) -> usize {
    let share = descriptors.and_then(|limit| usize::try_from(limit / DESCRIPTOR_SHARE).ok());
    share.unwrap_or(MAX_SESSIONS).clamp(1, MAX_SESSIONS)
}

/// An open session, counted until dropped.
struct OpenSession(Arc<Listener>);

impl OpenSession {
    fn count(listener: Arc<Listener>) -> Self {
        listener.open.fetch_add(1, Ordering::Relaxed);
        Self(listener)
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_use_only_a_share_of_the_descriptors() {
        assert_eq!(max_sessions(Some(1024)), 128);
        assert_eq!(max_sessions(Some(0)), 1);
        assert_eq!(max_sessions(Some(10_000_000)), MAX_SESSIONS);
        assert_eq!(max_sessions(None), MAX_SESSIONS);
    }
}
