//! The client's address: that of the connection, or what trusted proxies say.

use std::net::IpAddr;

use http::HeaderName;
use tidegate_core::Request;
use tidegate_core::client_ip::IpRanges;
use tidegate_core::forwarded::{self, X_FORWARDED_FOR};

const X_REAL_IP: &str = "x-real-ip";

/// How the client's address is determined.
#[derive(Debug)]
pub(super) struct Client {
    header: HeaderName,
    proxies: IpRanges,
}

impl Client {
    pub(super) fn new(header: HeaderName, proxies: IpRanges) -> Self {
        Self { header, proxies }
    }

    /// Returns the client's address. `None` if a trusted proxy says something that is not an address.
    ///
    /// The entry point has already removed `X-Forwarded-For` and `X-Real-Ip` of peers that it does not trust. With
    /// `forwardedHeadersTrustedIPs`, the peer must be in that list as well, and other headers count only then.
    pub(super) fn address(&self, request: &Request) -> Option<IpAddr> {
        let peer = request.context.exchange.connection.peer.ip().to_canonical();
        let is_believed = match self.proxies.is_empty() {
            true => self.header == X_FORWARDED_FOR || self.header == X_REAL_IP,
            false => self.proxies.contains(peer),
        };
        if !is_believed {
            return Some(peer);
        }
        for entry in forwarded::entries(&request.head.headers, &self.header).rev() {
            if entry.is_empty() {
                continue;
            }
            match forwarded::parse_entry(entry) {
                Some(address) if self.proxies.contains(address) => {}
                address => return address,
            }
        }
        Some(peer)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use tidegate_core::{Connection, Context};

    use super::*;
    use crate::testing;

    fn address(proxies: &[&str], header: &str, peer: &str, value: &str) -> Option<String> {
        let client = Client::new(header.parse().unwrap(), IpRanges::parse(proxies).unwrap());
        let mut request = testing::request(http::Request::get("http://h.test/").header(header, value));
        let peer = SocketAddr::new(peer.parse().unwrap(), 4000);
        request.context = Context::new(Arc::new(Connection::plain(peer)));
        client.address(&request).map(|address| address.to_string())
    }

    #[test]
    fn only_trusted_proxies_say_who_the_client_is() {
        let (header, cloud) = ("x-forwarded-for", "cf-connecting-ip");
        for (proxies, header, peer, value, expected) in [
            (&[][..], header, "10.0.0.1", "", Some("10.0.0.1")),
            // What the entry point has left.
            (&[], header, "10.0.0.1", "9.9.9.9, 203.0.113.1", Some("203.0.113.1")),
            (&["10.0.0.0/8"], header, "192.0.2.9", "203.0.113.1", Some("192.0.2.9")),
            (&["10.0.0.0/8"], header, "10.0.0.1", "9.9.9.9, 203.0.113.1:50, 10.0.0.2", Some("203.0.113.1")),
            (&["10.0.0.0/8"], header, "10.0.0.1", "10.0.0.3, 10.0.0.2", Some("10.0.0.1")),
            (&["10.0.0.0/8"], header, "::ffff:10.0.0.1", "::ffff:203.0.113.1", Some("203.0.113.1")),
            (&["10.0.0.0/8"], header, "10.0.0.1", "9.9.9.9, unknown", None),
            (&[], cloud, "192.0.2.9", "203.0.113.1", Some("192.0.2.9")),
            (&["192.0.2.0/24"], cloud, "192.0.2.9", "203.0.113.1", Some("203.0.113.1")),
            (&["192.0.2.0/24"], cloud, "198.51.100.9", "203.0.113.1", Some("198.51.100.9")),
        ] {
            assert_eq!(
                address(proxies, header, peer, value).as_deref(),
                expected,
                "{proxies:?} {peer} {value}"
            );
        }
    }
}
