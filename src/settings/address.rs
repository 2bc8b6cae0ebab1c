//! Addresses of entry points: `[host]:port[/tcp|/udp]`.

use std::fmt;
use std::str::FromStr;

/// The address of an entry point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name or IP address without brackets; empty for all addresses.
    pub host: String,
    /// Port; 0 lets the system choose one.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// The protocol of an entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Address {
    /// Returns true if both cannot be listened on at once.
    pub fn clashes(&self, other: &Address) -> bool {
        let host = |address: &Address| match address.host.as_str() {
            "0.0.0.0" | "::" => String::new(),
            host => host.to_ascii_lowercase(),
        };
        self.port != 0
            && self.port == other.port
            && self.protocol == other.protocol
            && host(self) == host(other)
    }
}

/// Why an address is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address: {fault}; expected `[host]:port`, like `:80`")]
pub struct AddressError {
    text: String,
    fault: AddressFault,
}

/// The invalid part of an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum AddressFault {
    #[error("`{0}` is neither `tcp` nor `udp`")]
    Protocol(String),
    #[error("the port is missing")]
    NoPort,
    #[error("`{0}` is not a port")]
    Port(String),
    #[error("an IPv6 address stands in brackets")]
    NoBrackets,
    #[error("`{0}` is not a host")]
    Host(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let bad = |fault| AddressError { text: text.to_owned(), fault };
        let (address, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((address, protocol)) if protocol.eq_ignore_ascii_case("tcp") => (address, Protocol::Tcp),
            Some((address, protocol)) if protocol.eq_ignore_ascii_case("udp") => (address, Protocol::Udp),
            Some((_, protocol)) => return Err(bad(AddressFault::Protocol(protocol.to_owned()))),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(|| bad(AddressFault::NoPort))?;
        let port = port.parse().map_err(|_| bad(AddressFault::Port(port.to_owned())))?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(host) => host,
            None if host.contains(':') => return Err(bad(AddressFault::NoBrackets)),
            None => host,
        };
        if host.contains(['[', ']', ' ']) {
            return Err(bad(AddressFault::Host(host.to_owned())));
        }
        Ok(Self { host: host.to_owned(), port, protocol })
    }
}

/// Well-known names of ports, as in Go's net package.
const SERVICES: [(&str, u16); 15] = [
    ("domain", 53),
    ("ftp", 21),
    ("ftps", 990),
    ("gopher", 70),
    ("http", 80),
    ("https", 443),
    ("imap2", 143),
    ("imap3", 220),
    ("imaps", 993),
    ("pop3", 110),
    ("pop3s", 995),
    ("smtp", 25),
    ("submissions", 465),
    ("ssh", 22),
    ("telnet", 23),
];

/// Replaces the name of a port (`:http`) with its number; `None` if it is a number or unknown.
pub(super) fn with_number(address: &str) -> Option<String> {
    let (place, protocol) = address.split_once('/').map_or((address, None), |(place, p)| (place, Some(p)));
    let (host, name) = place.rsplit_once(':')?;
    if name.is_empty() || name.parse::<u16>().is_ok() {
        return None;
    }
    let wanted = protocol.unwrap_or("tcp").to_ascii_lowercase();
    let system = std::fs::read_to_string("/etc/services").unwrap_or_default();
    let of_system = system.lines().find_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let (first, port) = (words.next()?, words.next()?);
        let (port, protocol) = port.split_once('/')?;
        let is_it = protocol == wanted && (first == name || words.any(|alias| alias == name));
        is_it.then(|| port.parse().ok()).flatten()
    });
    let known = || SERVICES.iter().find(|(known, _)| *known == name).map(|(_, port)| *port);
    let port: u16 = of_system.or_else(known)?;
    let protocol = protocol.map(|protocol| format!("/{protocol}")).unwrap_or_default();
    Some(format!("{host}:{port}{protocol}"))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (text, host, port, protocol) in [
            (":80", "", 80, Protocol::Tcp),
            ("127.0.0.1:0/tcp", "127.0.0.1", 0, Protocol::Tcp),
            ("[::1]:443", "::1", 443, Protocol::Tcp),
            ("localhost:53/UDP", "localhost", 53, Protocol::Udp),
        ] {
            assert_eq!(text.parse(), Ok(Address { host: host.into(), port, protocol }), "{text}");
        }
        for text in ["", "80", "foo", ":x", ":70000", "::1:80", ":80/sctp", "[::1:80", "a b:80"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn ports_may_have_names() {
        for (text, expected) in [
            (":http", Some(":80")),
            ("127.0.0.1:https/tcp", Some("127.0.0.1:443/tcp")),
            (":80", None),
            (":nobody-knows", None),
            ("", None),
        ] {
            assert_eq!(with_number(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn equal_addresses_clash() {
        let clash = |a: &str, b: &str| a.parse::<Address>().expect(a).clashes(&b.parse().expect(b));
        assert!(clash(":80", "0.0.0.0:80") && clash("[::]:80", ":80"));
        assert!(!clash(":80", ":81") && !clash(":80", ":80/udp") && !clash(":0", ":0"));
    }
}
