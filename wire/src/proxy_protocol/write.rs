//! Writes PROXY protocol headers.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::V2_SIGNATURE;

/// Version 2 with the command PROXY or LOCAL.
const PROXY: u8 = 0x21;
const LOCAL: u8 = 0x20;
/// Address families for TCP.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// An unsupported version number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown proxyProtocol version: {0}")]
pub struct UnknownVersion(pub u8);

impl TryFrom<u8> for Version {
    type Error = UnknownVersion;

    fn try_from(number: u8) -> Result<Self, UnknownVersion> {
        match number {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            other => Err(UnknownVersion(other)),
        }
    }
}

impl Version {
    /// Returns the header for a connection from `addresses.0` to `addresses.1`; without them, for a
    /// connection of the gateway itself (a health check).
    pub fn header(self, addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
        let addresses = addresses.map(|(source, destination)| same_family(source, destination));
        match self {
            Self::V1 => v1(addresses),
            Self::V2 => v2(addresses),
        }
    }
}

/// Converts both addresses to IPv4 if possible, otherwise both to IPv6.
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
    let mut bytes = V2_SIGNATURE.to_vec();
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
    use crate::proxy_protocol::{Parsed, parse};

    #[test]
    fn written_headers_can_be_parsed() {
        for (peer, local, from, to) in [
            ("[::ffff:192.0.2.1]:5000", "[::ffff:10.0.0.1]:443", "192.0.2.1:5000", "10.0.0.1:443"),
            ("[2001:db8::1]:5000", "[::1]:443", "[2001:db8::1]:5000", "[::1]:443"),
            ("192.0.2.1:5", "[2001:db8::1]:443", "[::ffff:192.0.2.1]:5", "[2001:db8::1]:443"),
        ] {
            for version in [Version::V1, Version::V2] {
                let header = version.header(Some((peer.parse().unwrap(), local.parse().unwrap())));
                let addresses = Some((from.parse().unwrap(), to.parse().unwrap()));
                assert_eq!(parse(&header), Parsed::Header { length: header.len(), addresses }, "{peer}");
            }
        }
    }

    #[test]
    fn the_gateways_own_connections_are_local() {
        assert_eq!(Version::V1.header(None), b"PROXY UNKNOWN\r\n");
        for version in [Version::V1, Version::V2] {
            let header = version.header(None);
            assert_eq!(parse(&header), Parsed::Header { length: header.len(), addresses: None });
        }
        assert_eq!(Version::try_from(3).unwrap_err().to_string(), "unknown proxyProtocol version: 3");
    }
}
