//! Writes the header of the PROXY protocol, which tells a server who its client really is.
//!
//! Source: HAProxy's `proxy-protocol.txt`, sections 2.1 and 2.2. What is read stands in `src/entrypoint/proxy_protocol.rs`.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use tidegate_core::{BuildError, Connection};

/// First bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 and the command PROXY, or LOCAL.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
/// Address families with streams.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

impl Version {
    /// The version of this number.
    pub(super) fn new(number: u8) -> Result<Self, BuildError> {
        match number {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            other => Err(BuildError::new(format!("unknown proxyProtocol version: {other}"))),
        }
    }

    /// The header for a client's connection; without one, for a connection of our own (a health check).
    pub(super) fn header(self, client: Option<&Connection>) -> Vec<u8> {
        let addresses = client.map(|client| same_family(client.peer, client.local));
        match self {
            Self::V1 => v1(addresses),
            Self::V2 => v2(addresses),
        }
    }
}

/// Both addresses as IPv4 when both are, else both as IPv6.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let (from, to) = if from.is_ipv4() && to.is_ipv4() { (from, to) } else { (wide(from), wide(to)) };
    (SocketAddr::new(from, source.port()), SocketAddr::new(to, destination.port()))
}

fn wide(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        v6 => v6,
    }
}

fn v1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let Some((from, to)) = addresses else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    let mut line = String::new();
    let _ = write!(line, "PROXY {family} {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port());
    line.into_bytes()
}

fn v2(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let Some((from, to)) = addresses else {
        bytes.extend([LOCAL, 0, 0, 0]);
        return bytes;
    };
    let mut body = Vec::with_capacity(36);
    for address in [from, to] {
        match address.ip() {
            IpAddr::V4(v4) => body.extend(v4.octets()),
            IpAddr::V6(v6) => body.extend(v6.octets()),
        }
    }
    body.extend(from.port().to_be_bytes());
    body.extend(to.port().to_be_bytes());
    bytes.extend([PROXY, if from.is_ipv4() { TCP4 } else { TCP6 }, 0]);
    bytes.extend(u8::try_from(body.len()));
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entrypoint::proxy_protocol::{Parsed, parse};

    fn connection(peer: &str, local: &str) -> Connection {
        let mut connection = Connection::plain(peer.parse().unwrap());
        connection.local = local.parse().unwrap();
        connection
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for (peer, local, from, to) in [
            ("[::ffff:192.0.2.1]:5000", "[::ffff:10.0.0.1]:443", "192.0.2.1:5000", "10.0.0.1:443"),
            ("[2001:db8::1]:5000", "[::1]:443", "[2001:db8::1]:5000", "[::1]:443"),
            ("192.0.2.1:5", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:5", "[2001:db8::1]:443"),
        ] {
            for version in [Version::V1, Version::V2] {
                let header = version.header(Some(&connection(peer, local)));
                let addresses = Some((from.parse().unwrap(), to.parse().unwrap()));
                assert_eq!(parse(&header), Parsed::Header { length: header.len(), addresses }, "{peer}");
            }
        }
    }

    #[test]
    fn connections_of_our_own_say_so() {
        assert_eq!(Version::V1.header(None), b"PROXY UNKNOWN\r\n");
        for version in [Version::V1, Version::V2] {
            let header = version.header(None);
            assert_eq!(parse(&header), Parsed::Header { length: header.len(), addresses: None });
        }
        assert_eq!(Version::new(3).unwrap_err().to_string(), "unknown proxyProtocol version: 3");
    }
}
