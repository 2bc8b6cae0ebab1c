//! Parses the TLS ClientHello: the server name and protocols that a client requests, in plain text.
//!
//! Sources: RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3, RFC 7301 section 3.1.

/// First byte of a TLS record with a handshake message.
pub const HANDSHAKE_RECORD: u8 = 0x16;
/// Maximum length of a ClientHello with its records. The largest in use have about 2 KiB.
pub const MAX_HELLO: usize = 16 * 1024;

/// Length of a record's header.
const RECORD_HEADER: usize = 5;
/// Length of a handshake message's header.
const MESSAGE_HEADER: usize = 4;
/// The only handshake message that a client may start with.
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// The relevant contents of a ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server name in lower case, without a trailing dot; empty if none was sent.
    pub server_name: String,
    /// The protocols (ALPN), in the client's order.
    pub protocols: Vec<Vec<u8>>,
}

/// The result of parsing the first bytes of a TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The start of a ClientHello: more bytes are needed.
    Partial,
    /// A complete ClientHello.
    Hello(Hello),
    /// Not a ClientHello.
    Malformed(HelloError),
}

/// Why bytes are not a ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum HelloError {
    /// A record of another type or version.
    NoHandshake,
    /// A record that is empty, or longer than a ClientHello may be.
    RecordLength,
    /// A message other than a ClientHello.
    OtherMessage,
    /// More than [`MAX_HELLO`] bytes.
    TooLong,
    /// A field that extends beyond the message.
    Truncated,
}

impl HelloError {
    /// Returns the error as text.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoHandshake => "not a handshake record",
            Self::RecordLength => "invalid record length",
            Self::OtherMessage => "the first message is not a ClientHello",
            Self::TooLong => "the ClientHello is too long",
            Self::Truncated => "the ClientHello is truncated",
        }
    }
}

/// Parses a ClientHello at the start of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(length) = length_of(&message) {
            match length {
                Err(why) => return Parsed::Malformed(why),
                Ok(length) if message.len() >= MESSAGE_HEADER + length => {
                    let body = &message[MESSAGE_HEADER..MESSAGE_HEADER + length];
                    let hello = read_body(body);
                    return hello.map_or(Parsed::Malformed(HelloError::Truncated), Parsed::Hello);
                }
                Ok(_) => {}
            }
        }
        let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) else {
            let starts = rest.first().is_none_or(|kind| *kind == HANDSHAKE_RECORD);
            return if starts { Parsed::Partial } else { Parsed::Malformed(HelloError::NoHandshake) };
        };
        if header[0] != HANDSHAKE_RECORD || header[1] != 3 {
            return Parsed::Malformed(HelloError::NoHandshake);
        }
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > MAX_HELLO {
            return Parsed::Malformed(HelloError::RecordLength);
        }
        let Some((content, after)) = after.split_at_checked(length) else { return Parsed::Partial };
        message.extend_from_slice(content);
        rest = after;
    }
}

/// Returns the declared length of the message; `None` if its header is incomplete.
fn length_of(message: &[u8]) -> Option<Result<usize, HelloError>> {
    let header = message.first_chunk::<MESSAGE_HEADER>()?;
    if header[0] != CLIENT_HELLO {
        return Some(Err(HelloError::OtherMessage));
    }
    let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
    Some(if length > MAX_HELLO { Err(HelloError::TooLong) } else { Ok(length) })
}

fn read_body(body: &[u8]) -> Option<Hello> {
    let mut body = Reader(body);
    // Version and random.
    body.take(2 + 32)?;
    body.short_list()?;
    // Cipher suites and compression methods.
    body.list()?;
    body.short_list()?;
    let mut hello = Hello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(body.list()?);
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.list()?;
        match kind {
            SERVER_NAME => hello.server_name = server_name(content)?,
            ALPN => hello.protocols = protocols(content)?,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(content: &[u8]) -> Option<String> {
    let mut names = Reader(Reader(content).list()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?;
        let name = names.list()?;
        if kind == [0] {
            let name = std::str::from_utf8(name).ok()?.trim().to_ascii_lowercase();
            return Some(name.strip_suffix('.').map(str::to_owned).unwrap_or(name));
        }
    }
    Some(String::new())
}

fn protocols(content: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut names = Reader(Reader(content).list()?);
    let mut all = Vec::new();
    while !names.0.is_empty() {
        all.push(names.short_list()?.to_vec());
    }
    Some(all)
}

/// A cursor over the rest of the message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// Reads a field prefixed with its length in two bytes.
    fn list(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.number()?);
        self.take(length)
    }

    /// Reads a field prefixed with its length in one byte.
    fn short_list(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// Returns the first bytes of a real client.
    fn hello_of(name: &str, protocols: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = rustls::RootCertStore::empty();
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_sni = !name.is_empty();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let asked = if name.is_empty() { "unnamed.test" } else { name };
        let name = asked.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// Splits the message into records of `size` bytes.
    fn cut(bytes: &[u8], size: usize) -> Vec<u8> {
        let records = bytes[RECORD_HEADER..].chunks(size);
        records
            .flat_map(|part| {
                let length = (part.len() as u16).to_be_bytes();
                [&[HANDSHAKE_RECORD, 3, 1, length[0], length[1]], part].concat()
            })
            .collect()
    }

    #[test]
    fn name_and_protocols_are_read() {
        let bytes = hello_of("Db.Example.Test", &["postgresql", "h2"]);
        let expected = Hello {
            server_name: "db.example.test".into(),
            protocols: vec![b"postgresql".to_vec(), b"h2".to_vec()],
        };
        assert_eq!(parse(&bytes), Parsed::Hello(expected.clone()));
        assert_eq!(parse(&cut(&bytes, 7)), Parsed::Hello(expected));
        assert_eq!(parse(&hello_of("", &[])), Parsed::Hello(Hello::default()));
    }

    #[test]
    fn every_prefix_is_partial() {
        for bytes in [hello_of("a.test", &["h2"]), cut(&hello_of("a.test", &[]), 11)] {
            for end in 0..bytes.len() {
                assert_eq!(parse(&bytes[..end]), Parsed::Partial, "{end}");
            }
            assert!(matches!(parse(&[&bytes[..], &[1, 2, 3]].concat()), Parsed::Hello(_)));
        }
    }

    #[test]
    fn other_bytes_are_malformed() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            &[0x16, 2, 1, 0, 5, 1, 0, 0, 1, 0],
            &[0x16, 3, 1, 0, 0],
            &[0x16, 3, 1, 0xff, 0xff],
            &[0x16, 3, 1, 0, 4, 2, 0, 0, 1],
            &[0x16, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
            &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3],
        ] {
            assert!(matches!(parse(bytes), Parsed::Malformed(_)), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            parse(&bytes);
            parse(&[&[HANDSHAKE_RECORD, 3, 1, 0, 200, 1, 0, 0, 190][..], &bytes].concat());
        }

        #[test]
        fn a_changed_hello_never_panics(at in 0usize..500, to in any::<u8>()) {
            let mut bytes = hello_of("a.test", &["h2"]);
            let at = at % bytes.len();
            bytes[at] = to;
            parse(&bytes);
        }
    }
}
