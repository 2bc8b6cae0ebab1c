//! Listening sockets, one per worker and entry point, and their accept loops.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::dispatch;
use super::listener::Listener;
use super::shutdown::Phase;
use crate::handover;
use crate::worker;

/// Maximum number of unsent bytes that the system buffers per client.
const MAX_NOT_SENT: u32 = 256 * 1024;
/// Length of the accept queue of a socket.
const BACKLOG: i32 = 4096;
/// Time without data after which the system probes a peer.
const KEEP_ALIVE: Duration = Duration::from_secs(180);
/// First and longest pause after an error of the process (no file descriptors left).
const MIN_PAUSE: Duration = Duration::from_millis(10);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Why the address of an entry point is invalid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AddressError {
    /// The text is not an address.
    #[error("address `{0}` is not valid: expected [host]:port[/tcp|/udp]")]
    Form(String),
    /// The host cannot be resolved.
    #[error("address `{address}`: host `{host}` is not known")]
    UnknownHost {
        /// The address as written.
        address: String,
        /// The host in it.
        host: String,
    },
}

/// Parses `[host]:port[/tcp|/udp]`. The error names the expected form.
pub(super) fn parse_address(address: &str) -> Result<SocketAddr, AddressError> {
    let expected = || AddressError::Form(address.to_owned());
    let (place, protocol) = address.split_once('/').unwrap_or((address, "tcp"));
    if !matches!(protocol.to_ascii_lowercase().as_str(), "tcp" | "udp") {
        return Err(expected());
    }
    let (host, port) = place.rsplit_once(':').ok_or_else(expected)?;
    let port: u16 = port.parse().map_err(|_| expected())?;
    if host.is_empty() {
        return Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    (bare, port)
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| AddressError::UnknownHost { address: address.to_owned(), host: bare.to_owned() })
}

/// Binds `count` sockets to one address. Unless `share`, an address in use by another process is an error.
pub(super) fn bind(address: SocketAddr, count: usize, share: bool) -> io::Result<Vec<std::net::TcpListener>> {
    let mut address = address;
    if !share {
        // Any process of the same user may join a group, so the address is first bound without one. That socket does
        // not listen, since clients that connect to it would be reset.
        match open(address, false) {
            Ok(_) => {}
            Err(error) if is_without_ipv6(&error, address) => {
                address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
                drop(open(address, false)?);
            }
            Err(error) => return Err(error),
        }
    }
    let listen = |address| {
        let socket = open(address, true)?;
        socket.listen(BACKLOG)?;
        Ok::<std::net::TcpListener, io::Error>(socket.into())
    };
    let first = listen(address)?;
    let address = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..count {
        listeners.push(listen(address)?);
    }
    Ok(listeners)
}

/// Who uses a port.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Port {
    /// Only this process.
    Own,
    /// Other processes may have their own sockets for it.
    Shared,
    /// The supervisor that passed the socket on holds it, too.
    Passed,
}

/// A socket to accept connections from.
pub(super) struct BoundSocket {
    pub(super) socket: std::net::TcpListener,
    pub(super) port: Port,
}

/// Turns passed sockets into sockets for `count` workers.
pub(super) fn adopt(passed: &[std::net::TcpListener], count: usize) -> io::Result<Vec<BoundSocket>> {
    for socket in passed {
        set_options(&SockRef::from(socket))?;
    }
    let socket = |number: usize| {
        let socket = passed[number % passed.len()].try_clone()?;
        Ok(BoundSocket { socket, port: Port::Passed })
    };
    (0..count.max(passed.len())).map(socket).collect()
}

/// Accepts connections until the listener closes. Errors never end it.
pub(super) async fn accept_loop(listener: Arc<Listener>, socket: BoundSocket) {
    let port = socket.port;
    let socket = match TcpListener::from_std(socket.socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(entry_point = %listener.name, %error, "cannot listen");
            std::process::abort();
        }
    };
    let mut pause = MIN_PAUSE;
    loop {
        if !listener.connections.is_below_limit() {
            wait_until_below_limit(&listener).await;
        }
        let accepted = tokio::select! {
            biased;
            () = listener.shutdown.reached(Phase::Draining) => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = MIN_PAUSE;
                dispatch(&listener, stream, peer);
                listener.connections.evict_one();
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                if pause == MIN_PAUSE {
                    tracing::error!(entry_point = %listener.name, %error, "cannot accept connections: retrying");
                }
                listener.connections.close_idle();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_PAUSE);
            }
        }
    }
    // Closing the socket would reset connections in its queue, so they are accepted first. This bypasses the runtime,
    // whose readiness may be stale.
    match port {
        // A client that connects from here on would otherwise be reset, after the queue is empty.
        Port::Own => drop(handover::ignore_attempts(&socket)),
        Port::Shared => hand_over(&listener, &socket).await,
        // The next process that takes the socket serves the queue.
        Port::Passed => return,
    }
    let Ok(socket) = socket.into_std() else { return };
    loop {
        let (stream, peer) = match socket.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock && is_of_the_peer(&error) => continue,
            Err(_) => return,
        };
        let nonblocking = stream.set_nonblocking(true);
        if let Ok(stream) = nonblocking.and_then(|()| TcpStream::from_std(stream)) {
            dispatch(&listener, stream, peer);
        }
    }
}

/// Hands a port over to the processes that share it: they get new clients, and handshakes in progress are completed
/// here.
async fn hand_over(listener: &Arc<Listener>, socket: &TcpListener) {
    if let Err(error) = handover::ignore_attempts(socket) {
        tracing::debug!(entry_point = %listener.name, %error, "cannot hand the port over: clients may be reset");
        return;
    }
    let complete = tokio::time::sleep(handover::HANDSHAKES);
    tokio::pin!(complete);
    loop {
        tokio::select! {
            biased;
            () = &mut complete => return,
            accepted = socket.accept() => match accepted {
                Ok((stream, peer)) => dispatch(listener, stream, peer),
                Err(error) if is_of_the_peer(&error) => {}
                Err(_) => return,
            },
        }
    }
}

/// Waits until the number of connections is below the limit, or the listener drains.
async fn wait_until_below_limit(listener: &Listener) {
    if listener.connections.begins_to_be_full() {
        let limit = listener.connections.max();
        tracing::warn!(entry_point = %listener.name, limit, "no more connections may be open: new ones wait");
    }
    tokio::select! {
        () = listener.shutdown.reached(Phase::Draining) => {}
        () = listener.connections.wait_until_below_limit() => {}
    }
}

/// Serves a connection on this worker, or on one with clearly fewer connections.
fn dispatch(listener: &Arc<Listener>, stream: TcpStream, peer: SocketAddr) {
    let here = worker::index();
    let chosen = listener.balance.choose(here);
    let open = listener.count(chosen);
    let listener = listener.clone();
    if chosen == here {
        tokio::spawn(dispatch::serve(listener, stream, peer, open));
        return;
    }
    let Ok(stream) = stream.into_std() else { return };
    let handle = listener.balance.handle(chosen).clone();
    handle.spawn(async move {
        if let Ok(stream) = TcpStream::from_std(stream) {
            tokio::spawn(dispatch::serve(listener, stream, peer, open));
        }
    });
}

/// Returns a bound socket that does not listen yet.
fn open(address: SocketAddr, group: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    socket.set_reuse_address(true)?;
    if group {
        socket.set_reuse_port(true)?;
    }
    set_options(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets the options that connections inherit, and non-blocking mode.
fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    // Without this, the system buffers megabytes for a client that does not read.
    socket.set_tcp_notsent_lowat(MAX_NOT_SENT)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE))?;
    socket.set_nonblocking(true)
}

fn is_without_ipv6(error: &io::Error, address: SocketAddr) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        && (error.kind() == io::ErrorKind::AddrNotAvailable
            || error.kind() == io::ErrorKind::Unsupported
            || error.raw_os_error() == Some(EAFNOSUPPORT))
}

/// Address family not supported (Linux).
const EAFNOSUPPORT: i32 = 97;

fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed() {
        for (text, expected) in [
            (":80", "[::]:80"),
            ("127.0.0.1:0/tcp", "127.0.0.1:0"),
            ("[::1]:8080", "[::1]:8080"),
            ("0.0.0.0:1/TCP", "0.0.0.0:1"),
            (":53/udp", "[::]:53"),
        ] {
            assert_eq!(parse_address(text).map(|a| a.to_string()), Ok(expected.to_owned()), "{text}");
        }
        for text in ["", "80", ":x", ":70000", ":80/sctp"] {
            assert!(parse_address(text).unwrap_err().to_string().contains(&format!("`{text}`")), "{text}");
        }
    }

    #[test]
    fn an_address_in_use_is_an_error_unless_shared() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = bind(loopback, 2, false).unwrap();
        let address = first[0].local_addr().unwrap();
        assert_eq!(address, first[1].local_addr().unwrap());
        assert_eq!(bind(address, 1, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(bind(address, 1, true).unwrap().len(), 1);
    }
}
