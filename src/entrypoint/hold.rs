//! Holds new connections while the first configuration is incomplete: their router, certificate or TCP service is not
//! known yet.
//!
//! The bytes of a held client stay in the system's buffer. Only the first ones are peeked at: `/ping` is served at
//! once, and clients that are too slow or have disconnected are closed.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use tidegate_wire::proxy_protocol::{self, Parsed};
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::conn_limit::SILENCE;
use super::http::protocol::{PREFACE, TLS_HANDSHAKE};
use super::listener::Listener;
use super::shutdown::Phase;

/// Maximum number of bytes to peek at.
const MAX_PEEK: usize = 2048;
/// How long a client may send nothing if there is no `readTimeout`: a TCP client may wait for its server.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
/// Length of the longest HTTP method that is recognized.
const MAX_METHOD: usize = 20;
/// Paths that are served without the configuration of any provider.
pub(super) const EARLY: [&str; 2] = ["/ping", "/ready"];

/// How a connection leaves the hold.
pub(super) enum Held {
    /// Clients are now served.
    Served(TcpStream),
    /// The client requests one of [`EARLY`] over HTTP/1.
    Early(TcpStream),
}

/// Holds a connection until clients are served. Returns `None` if the connection is closed.
pub(super) async fn hold(
    listener: &Listener,
    stream: TcpStream,
    peer: SocketAddr,
) -> io::Result<Option<Held>> {
    let expects_header = listener.trusts_proxy(peer.ip());
    let accepted = Instant::now();
    let mut opened = pin!(listener.opening.opened());
    let mut seen = Seen::Nothing;
    let mut looks = true;
    loop {
        let limit = match seen {
            Seen::Nothing | Seen::Other => Some(listener.limits.body.unwrap_or(FIRST_BYTE_TIMEOUT)),
            Seen::Part => listener.limits.head,
            Seen::Whole | Seen::Early => None,
        };
        let late = async {
            match limit {
                Some(limit) => tokio::time::sleep_until(accepted + limit).await,
                None => std::future::pending().await,
            }
        };
        let silent = matches!(seen, Seen::Nothing);
        let readiness = tokio::select! {
            biased;
            () = &mut opened => break,
            () = listener.shutdown.reached(Phase::ClosingIdle), if silent => return Ok(None),
            () = evicted_silent(listener, accepted), if silent => return Ok(None),
            readiness = stream.ready(Interest::READABLE), if looks => readiness?,
            () = late => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "timed out waiting for the client"));
            }
        };
        let Some(now) = peek(&stream, expects_header)? else { continue };
        seen = now;
        if matches!(seen, Seen::Early) && listener.early {
            return Ok(Some(Held::Early(reregister(stream)?)));
        }
        if has_gone(&seen, readiness) {
            return Ok(None);
        }
        // Once the client has closed its side, the socket stays ready.
        looks = !readiness.is_read_closed();
    }
    Ok(Some(Held::Served(reregister(stream)?)))
}

/// Resolves when a connection that has sent nothing is evicted.
async fn evicted_silent(listener: &Listener, accepted: Instant) {
    tokio::time::sleep_until(accepted + SILENCE).await;
    listener.connections.evicted().await;
}

/// Registers a stream again: its readiness was cleared although its bytes were not read.
fn reregister(stream: TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.into_std()?)
}

/// Returns true if the client has disconnected. One that has only closed its side may belong to a TCP router, unless it
/// speaks HTTP or TLS.
fn has_gone(seen: &Seen, readiness: Ready) -> bool {
    readiness.is_write_closed() || readiness.is_read_closed() && !matches!(seen, Seen::Other)
}

/// Peeks at the bytes received, and clears the readiness. Returns `None` if this must be repeated.
fn peek(stream: &TcpStream, expects_header: bool) -> io::Result<Option<Seen>> {
    let mut window = [0; MAX_PEEK];
    let length = match stream.peek(&mut window).now_or_never() {
        Some(Ok(length)) => length,
        Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Some(Err(error)) => return Err(error),
        // The task has used up its budget.
        None => return Ok(None),
    };
    let used_up =
        stream.try_io(Interest::READABLE, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
    debug_assert!(used_up.is_err());
    Ok(Some(classify(&window[..length], length == MAX_PEEK, expects_header)))
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Seen {
    Nothing,
    /// An incomplete request head or ClientHello.
    Part,
    /// A complete request head or ClientHello, or one that exceeds [`MAX_PEEK`].
    Whole,
    /// A request for one of [`EARLY`].
    Early,
    /// Something else.
    Other,
}

fn classify(mut bytes: &[u8], full: bool, expects_header: bool) -> Seen {
    if bytes.is_empty() {
        return Seen::Nothing;
    }
    if expects_header {
        match proxy_protocol::parse(bytes) {
            Parsed::Absent => {}
            Parsed::Partial => return Seen::Part,
            Parsed::Malformed(_) => return Seen::Whole,
            Parsed::Header { length, .. } => bytes = &bytes[length..],
        }
    }
    let whole = |is_whole: bool| if is_whole || full { Seen::Whole } else { Seen::Part };
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        let length =
            bytes.get(3..5).map(|length| 5 + usize::from(u16::from_be_bytes([length[0], length[1]])));
        return whole(length.is_some_and(|length| bytes.len() >= length));
    }
    if bytes.starts_with(PREFACE) || (!bytes.is_empty() && PREFACE.starts_with(bytes)) {
        return whole(bytes.len() >= PREFACE.len());
    }
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    let Some((b' ', target)) = bytes[method..].split_first() else {
        // This may be the start of a method.
        let is_method = (1..=MAX_METHOD).contains(&method) && method == bytes.len();
        return if is_method { Seen::Part } else { Seen::Other };
    };
    if method == 0 || method > MAX_METHOD || !target.first().is_none_or(|first| b"/h*".contains(first)) {
        return Seen::Other;
    }
    let Some(end) = target.iter().position(|byte| matches!(byte, b' ' | b'\r' | b'\n')) else {
        return whole(false);
    };
    if is_early(&target[..end]) {
        return Seen::Early;
    }
    whole(target.windows(4).any(|four| four == b"\r\n\r\n") || target.windows(2).any(|two| two == b"\n\n"))
}

/// Returns true for a target that starts like one of [`EARLY`]. The router decides.
fn is_early(target: &[u8]) -> bool {
    let path = match target.strip_prefix(b"http://") {
        None => target,
        Some(rest) => &rest[rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len())..],
    };
    EARLY.iter().any(|early| path.starts_with(early.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_classified() {
        for (bytes, seen) in [
            (&b""[..], Seen::Nothing),
            (b"GE", Seen::Part),
            (b"GET", Seen::Part),
            (b"GET /pi", Seen::Part),
            (b"GET /ping", Seen::Part),
            (b"GET /ping HT", Seen::Early),
            (b"HEAD http://h/ready?x HTTP/1.1\r\n", Seen::Early),
            (b"GET /x?/ping HTTP/1.1\r\nHost: h\r\n", Seen::Part),
            (b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n", Seen::Whole),
            (b"PRI * HT", Seen::Part),
            (PREFACE, Seen::Whole),
            (b"\x16\x03\x01\x00\x02a", Seen::Part),
            (b"\x16\x03\x01\x00\x02ab", Seen::Whole),
            (b"\x16\x03", Seen::Part),
            (b"EHLO mail\r\n", Seen::Other),
            (b"PING\r\n", Seen::Other),
            (b"\0\0", Seen::Other),
            (b"GET \0", Seen::Other),
        ] {
            assert_eq!(classify(bytes, false, false), seen, "{}", bytes.escape_ascii());
        }
        assert_eq!(classify(b"GET /long", true, false), Seen::Whole);
    }

    #[test]
    fn first_bytes_after_a_proxy_header_are_classified() {
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
        for (rest, seen) in
            [(&b""[..], Seen::Other), (b"GET /ping HTTP/1.1\r\n", Seen::Early), (b"\x16", Seen::Part)]
        {
            assert_eq!(classify(&[header, rest].concat(), false, true), seen, "{}", rest.escape_ascii());
        }
        assert_eq!(classify(b"PROXY TCP4 192", false, true), Seen::Part);
        assert_eq!(
            classify(header, false, false),
            Seen::Other,
            "the PROXY header of an untrusted peer is not parsed"
        );
    }
}
