//! Sockets that a supervisor has opened and passes on (systemd's protocol: `LISTEN_PID`, `LISTEN_FDS`, `LISTEN_FDNAMES`).
//!
//! They stay open while the gateway restarts, so clients wait instead of being refused. As in Traefik a socket belongs to
//! the entry point of its name; one that has the name of none belongs to an entry point with its port.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use listenfd::ListenFd;

/// Sockets that were passed on and have not been taken yet.
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
    /// A Unix socket, or no socket at all.
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
    /// Takes what this process was given. To be called once.
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

    /// Gives sockets without the name of an entry point to one with their port: name, port, and whether it is for UDP.
    pub(super) fn settle(&mut self, entry_points: &[(String, u16, bool)]) {
        for one in &mut self.sockets {
            if entry_points.iter().any(|(name, ..)| *name == one.name) {
                continue;
            }
            let port = one.socket.address().map(|address| address.port());
            let is_udp = matches!(one.socket, Socket::Udp(_));
            // Datagrams for a port of HTTP are HTTP/3.
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

    /// The TCP listeners of an entry point.
    pub(super) fn tcp(&mut self, entry_point: &str) -> io::Result<Vec<TcpListener>> {
        let own = self.take(|one| one.name == entry_point && matches!(one.socket, Socket::Tcp(_)));
        let listeners = own.filter_map(|one| match one.socket {
            Socket::Tcp(listener) => Some(listener.set_nonblocking(true).map(|()| listener)),
            _ => None,
        });
        listeners.collect()
    }

    /// The UDP sockets of an entry point.
    pub(super) fn udp(&mut self, entry_point: &str) -> io::Result<Vec<UdpSocket>> {
        let own = self.take(|one| one.name == entry_point && matches!(one.socket, Socket::Udp(_)));
        let sockets = own.filter_map(|one| match one.socket {
            Socket::Udp(socket) => Some(socket.set_nonblocking(true).map(|()| socket)),
            _ => None,
        });
        sockets.collect()
    }

    /// Warns of sockets that nobody has taken: clients would wait at them for ever.
    pub(super) fn warn_of_rest(&self) {
        for one in &self.sockets {
            let address = one
                .socket
                .address()
                .map_or_else(|| "not a TCP listener or UDP socket".to_owned(), |address| address.to_string());
            tracing::warn!(
                name = %one.name, address,
                "ignoring a socket from LISTEN_FDS: its name (FileDescriptorName) and port are those of no entry point"
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
