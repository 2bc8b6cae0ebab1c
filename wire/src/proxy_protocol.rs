//! The PROXY protocol, versions 1 and 2: a load balancer tells who the client of a connection is.
//!
//! Whether the peer may send a header is decided before [`parse`] is called. Source: HAProxy's
//! `proxy-protocol.txt`, sections 2.1 (version 1) and 2.2 (version 2).

mod write;

pub use write::{UnknownVersion, Version};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First bytes of version 2.
const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// First bytes of version 1.
const V1_SIGNATURE: &[u8] = b"PROXY ";
/// Maximum length of a version 1 line, including the line end.
const MAX_V1_LEN: usize = 107;
/// Maximum length of a version 2 body: enough for the addresses and many TLVs.
const MAX_V2_BODY_LEN: usize = 4096;

/// The result of parsing the first bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// No header: the bytes belong to the client's protocol.
    Absent,
    /// Possibly a header: more bytes are needed.
    Partial,
    /// A header of `length` bytes.
    Header {
        /// Length, in bytes.
        length: usize,
        /// Source and destination; `None` for health checks of the balancer and unknown families.
        addresses: Option<(SocketAddr, SocketAddr)>,
    },
    /// It starts like a header but is invalid.
    Malformed(HeaderError),
}

/// Why a header is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Version 1: no line end within 107 bytes.
    #[error("line is too long")]
    LineTooLong,
    /// Version 1: a bare line feed, or bytes that are not text.
    #[error("line does not end in CR LF")]
    LineEnd,
    /// Version 1: wrong number of fields.
    #[error("expected two addresses and two ports")]
    FieldCount,
    /// Version 1: an address of another family, or an invalid value.
    #[error("family, address or port is not valid")]
    Field,
    /// Version 2: another version.
    #[error("version is not 2")]
    Version,
    /// Version 2: a body of more than 4096 bytes.
    #[error("header is too long")]
    TooLong,
    /// Version 2: neither LOCAL nor PROXY.
    #[error("command is unknown")]
    Command,
    /// Version 2: an unknown family.
    #[error("address family is unknown")]
    Family,
    /// Version 2: too short for both addresses.
    #[error("header is shorter than its addresses")]
    TooShort,
}

/// Parses a header at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    if starts(bytes, V2_SIGNATURE) {
        return if bytes.len() < 16 { Parsed::Partial } else { parse_v2(bytes) };
    }
    if starts(bytes, V1_SIGNATURE) {
        return if bytes.len() < V1_SIGNATURE.len() { Parsed::Partial } else { parse_v1(bytes) };
    }
    Parsed::Absent
}

/// Returns true when one is a prefix of the other.
fn starts(bytes: &[u8], signature: &[u8]) -> bool {
    let length = bytes.len().min(signature.len());
    bytes[..length] == signature[..length]
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let window = &bytes[..bytes.len().min(MAX_V1_LEN)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if bytes.len() >= MAX_V1_LEN {
            Parsed::Malformed(HeaderError::LineTooLong)
        } else {
            Parsed::Partial
        };
    };
    let Some(line) = window[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok()) else {
        return Parsed::Malformed(HeaderError::LineEnd);
    };
    let header = |addresses| Parsed::Header { length: end + 1, addresses };
    let mut fields = line.split(' ').skip(1);
    let family = fields.next();
    if family == Some("UNKNOWN") {
        return header(None);
    }
    let fields: Vec<&str> = fields.take(5).collect();
    let [source, destination, source_port, destination_port] = fields[..] else {
        return Parsed::Malformed(HeaderError::FieldCount);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            Some("TCP4") => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            Some("TCP6") => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        if digits { text.parse::<u16>().ok() } else { None }
    };
    let read = || {
        let from = SocketAddr::new(address(source)?, port(source_port)?);
        Some((from, SocketAddr::new(address(destination)?, port(destination_port)?)))
    };
    read().map_or(Parsed::Malformed(HeaderError::Field), |found| header(Some(found)))
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let (version_command, family) = (bytes[12], bytes[13]);
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if version_command >> 4 != 2 {
        return Parsed::Malformed(HeaderError::Version);
    }
    if length > MAX_V2_BODY_LEN {
        return Parsed::Malformed(HeaderError::TooLong);
    }
    let Some(body) = bytes.get(16..16 + length) else { return Parsed::Partial };
    let header = |addresses| Parsed::Header { length: 16 + length, addresses };
    match version_command & 0x0f {
        0 => return header(None),
        1 => {}
        _ => return Parsed::Malformed(HeaderError::Command),
    }
    let found = match family {
        0x11 => v4(body),
        0x21 => v6(body),
        // Unspecified, UDP and Unix sockets are accepted: the peer remains the client.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => return header(None),
        _ => return Parsed::Malformed(HeaderError::Family),
    };
    found.map_or(Parsed::Malformed(HeaderError::TooShort), |found| header(Some(found)))
}

fn v4(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let address = |at: usize| -> Option<IpAddr> {
        Some(IpAddr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?))
    };
    Some((SocketAddr::new(address(0)?, port(body, 8)?), SocketAddr::new(address(4)?, port(body, 10)?)))
}

fn v6(body: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let address = |at: usize| -> Option<IpAddr> {
        Some(IpAddr::from(<[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?))
    };
    Some((SocketAddr::new(address(0)?, port(body, 32)?), SocketAddr::new(address(16)?, port(body, 34)?)))
}

fn port(body: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn version_1_headers_are_parsed() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\nGET /";
        let expected = (SocketAddr::from(([192, 0, 2, 1], 5000)), SocketAddr::from(([198, 51, 100, 2], 443)));
        assert_eq!(parse(line), Parsed::Header { length: 44, addresses: Some(expected) });
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Parsed::Header { length: 15, addresses: None });
        assert!(matches!(
            parse(b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n"),
            Parsed::Header { addresses: Some(_), .. }
        ));
        for garbage in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 70000\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 ::1 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY SCTP 1.2.3.4 5.6.7.8 1 2\r\n",
        ] {
            assert!(matches!(parse(garbage.as_bytes()), Parsed::Malformed(_)), "{garbage}");
        }
        assert!(matches!(parse("PROXY ".repeat(20).as_bytes()), Parsed::Malformed(_)));
    }

    #[test]
    fn version_2_headers_are_parsed() {
        let body = [192, 0, 2, 1, 198, 51, 100, 2, 0x13, 0x88, 1, 0xbb, 9, 9];
        let parsed = parse(&v2(0x21, 0x11, &body));
        let expected = (SocketAddr::from(([192, 0, 2, 1], 5000)), SocketAddr::from(([198, 51, 100, 2], 443)));
        assert_eq!(parsed, Parsed::Header { length: 30, addresses: Some(expected) });
        assert_eq!(parse(&v2(0x20, 0, &[])), Parsed::Header { length: 16, addresses: None });
        assert!(matches!(parse(&v2(0x21, 0x11, &body[..11])), Parsed::Malformed(_)));
        assert!(matches!(parse(&v2(0x31, 0x11, &body)), Parsed::Malformed(_)));
        assert!(matches!(parse(&v2(0x21, 0x11, &[0; 5000])), Parsed::Malformed(_)));
        assert_eq!(parse(&v2(0x21, 0x11, &body)[..20]), Parsed::Partial);
    }

    #[test]
    fn other_protocols_and_prefixes() {
        assert_eq!(parse(b""), Parsed::Partial);
        assert_eq!(parse(b"PRO"), Parsed::Partial);
        assert_eq!(parse(b"PROPFIND / HTTP/1.1"), Parsed::Absent);
        assert_eq!(parse(b"GET / HTTP/1.1"), Parsed::Absent);
        assert_eq!(parse(&[0x16, 3, 1]), Parsed::Absent);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_exceed_the_input(
            start in prop_oneof![Just(V2_SIGNATURE.to_vec()), Just(V1_SIGNATURE.to_vec()), Just(Vec::new())],
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [start, rest].concat();
            if let Parsed::Header { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
