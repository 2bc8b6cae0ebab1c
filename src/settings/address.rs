//! Addresses of entry points: `[host]:port[/tcp|/udp]`.

use std::fmt;
use std::str::FromStr;

/// Where an entry point listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name or IP address without brackets; empty for all addresses of the machine.
    pub host: String,
    /// Port; 0 lets the system choose one.
    pub port: u16,
    /// What is spoken below.
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
    /// True when both cannot be listened on at once.
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

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| format!("`{text}` is no address: {why}; expected `[host]:port`, like `:80`");
        let (address, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((address, protocol)) if protocol.eq_ignore_ascii_case("tcp") => (address, Protocol::Tcp),
            Some((address, protocol)) if protocol.eq_ignore_ascii_case("udp") => (address, Protocol::Udp),
            Some((_, protocol)) => return Err(bad(&format!("`{protocol}` is neither `tcp` nor `udp`"))),
        };
        let (host, port) = address.rsplit_once(':').ok_or_else(|| bad("the port is missing"))?;
        let port = port.parse().map_err(|_| bad(&format!("`{port}` is no port")))?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(host) => host,
            None if host.contains(':') => return Err(bad("an IPv6 address stands in brackets")),
            None => host,
        };
        if host.contains(['[', ']', ' ']) {
            return Err(bad(&format!("`{host}` is no host")));
        }
        Ok(Self { host: host.to_owned(), port, protocol })
    }
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
    fn the_same_place_clashes() {
        let clash = |a: &str, b: &str| a.parse::<Address>().expect(a).clashes(&b.parse().expect(b));
        assert!(clash(":80", "0.0.0.0:80") && clash("[::]:80", ":80"));
        assert!(!clash(":80", ":81") && !clash(":80", ":80/udp") && !clash(":0", ":0"));
    }
}
