//! Sockets passed on by a supervisor (systemd's protocol: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`).
//!
//! They stay open while the gateway restarts, so clients wait instead of being refused. As in Traefik, a socket belongs
//! to the entry point of the same name; without one, it belongs to an entry point with the same port.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use listenfd::ListenFd;

/// Passed sockets that no entry point has taken yet.
#[derive(Debug, Default)]
pub struct Passed {
    sockets: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    name: String,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
    /// A Unix socket or another file descriptor.
    Other,
}

impl Socket {
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Udp(socket) => socket.local_addr().ok(),
            Self::Other => None,
        }
    }
}

impl Passed {
    /// Takes the sockets passed to this process. Must be called once.
    pub fn from_environment() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut given = ListenFd::from_env();
        let mut names = names.split(':');
        let sockets = (0..given.len()).map(|index| Named {
            name: names.next().unwrap_or_default().to_owned(),
            socket: take(&mut given, index),
        });
        Self { sockets: sockets.collect() }
    }

    /// Assigns sockets that have no entry point's name to one with their port. Entry points are given as name, port,
    /// and whether they serve UDP.
    pub(super) fn assign(&mut self, entry_points: &[(String, u16, bool)]) {
        for one in &mut self.sockets {
            if entry_points.iter().any(|(name, ..)| *name == one.name) {
                continue;
            }
            let port = one.socket.address().map(|address| address.port());
            let is_udp = matches!(one.socket, Socket::Udp(_));
            // A UDP socket on the port of an HTTP entry point is for HTTP/3.
            let fits = |entry_point: &&(String, u16, bool)| {
                Some(entry_point.1) == port && (is_udp || !entry_point.2)
            };
            let candidates = || entry_points.iter().filter(fits);
            let found =
                candidates().find(|entry_point| entry_point.2 == is_udp).or_else(|| candidates().next());
            if let Some((name, ..)) = found {
                one.name.clone_from(name);
            }
        }
    }

    /// Takes the TCP listeners of an entry point.
    pub(super) fn tcp(&mut self, entry_point: &str) -> io::Result<Vec<TcpListener>> {
        let own = self.take(|one| one.name == entry_point && matches!(one.socket, Socket::Tcp(_)));
        let listeners = own.filter_map(|one| match one.socket {
            Socket::Tcp(listener) => Some(listener.set_nonblocking(true).map(|()| listener)),
            _ => None,
        });
        listeners.collect()
    }

    /// Takes the UDP sockets of an entry point.
    pub(super) fn udp(&mut self, entry_point: &str) -> io::Result<Vec<UdpSocket>> {
        let own = self.take(|one| one.name == entry_point && matches!(one.socket, Socket::Udp(_)));
        let sockets = own.filter_map(|one| match one.socket {
            Socket::Udp(socket) => Some(socket.set_nonblocking(true).map(|()| socket)),
            _ => None,
        });
        sockets.collect()
    }

    /// Warns about sockets that no entry point has taken: their clients would wait forever.
    pub(super) fn warn_of_unused(&self) {
        for one in &self.sockets {
            let address = one
                .socket
                .address()
                .map_or_else(|| "not a TCP listener or UDP socket".to_owned(), |address| address.to_string());
            tracing::warn!(
                name = %one.name, address,
                "ignoring a socket from LISTEN_FDS: no entry point has its name (FileDescriptorName) or port"
            );
        }
    }

    fn take(&mut self, wanted: impl Fn(&Named) -> bool) -> std::vec::IntoIter<Named> {
        let (own, others) = std::mem::take(&mut self.sockets).into_iter().partition(wanted);
        self.sockets = others;
        let own: Vec<Named> = own;
        own.into_iter()
    }
}

fn take(given: &mut ListenFd, index: usize) -> Socket {
    if let Ok(Some(listener)) = given.take_tcp_listener(index) {
        return Socket::Tcp(listener);
    }
    match given.take_udp_socket(index) {
        Ok(Some(socket)) => Socket::Udp(socket),
        _ => Socket::Other,
    }
}
