//! Orders the addresses of a name (RFC 8305 section 4): by destination address selection (RFC 6724 section
//! 6), then alternating between families.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};

/// Maximum number of addresses per name.
const MAX_ADDRESSES: usize = 64;

/// Sorts and deduplicates addresses. Those of one family keep the order of the answer, which name servers use
/// for balancing.
pub(super) fn sorted(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut once: Vec<IpAddr> = Vec::with_capacity(addresses.len().min(MAX_ADDRESSES));
    for address in addresses {
        if !once.contains(&address) && once.len() < MAX_ADDRESSES {
            once.push(address);
        }
    }
    let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = once.into_iter().partition(IpAddr::is_ipv4);
    if four.is_empty() || six.is_empty() {
        return if four.is_empty() { six } else { four };
    }
    let best = |family: &[IpAddr]| family.iter().map(|address| rank(*address, source(*address))).max();
    if best(&six) >= best(&four) { by_turns(six, four) } else { by_turns(four, six) }
}

fn by_turns(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut both = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let pair = (first.next(), second.next());
        both.extend(pair.0);
        both.extend(pair.1);
        if pair == (None, None) {
            return both;
        }
    }
}

/// Returns the preference of a destination by rules 1, 2, 5 and 6 of RFC 6724 section 6.
fn rank(address: IpAddr, source: Option<IpAddr>) -> (bool, bool, bool, u8) {
    let ((precedence, label), reach) = (policy(address), scope(address));
    let same_scope = source.is_some_and(|source| scope(source) == reach);
    let same_label = source.is_some_and(|source| policy(source).1 == label);
    (source.is_some(), same_scope, same_label, precedence)
}

/// Returns the source address that the system would use; `None` without a route. Sends nothing.
fn source(address: IpAddr) -> Option<IpAddr> {
    let any: SocketAddr = match address {
        IpAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect((address, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Returns precedence and label (RFC 6724 section 2.1).
fn policy(address: IpAddr) -> (u8, u8) {
    let IpAddr::V6(address) = address else { return (35, 4) };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => (50, 0),
        [0, 0, 0, 0, 0, 0xffff, ..] => (35, 4),
        [0, 0, 0, 0, 0, 0, ..] => (1, 3),
        [0x2002, ..] => (30, 2),
        [0x2001, 0, ..] => (5, 5),
        [first, ..] if first & 0xfe00 == 0xfc00 => (3, 13),
        [first, ..] if first & 0xffc0 == 0xfec0 => (1, 11),
        [0x3ffe, ..] => (1, 12),
        _ => (40, 1),
    }
}

/// Returns true for loopback and link-local addresses (RFC 6724 sections 3.1 and 3.2).
fn scope(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_alternate_and_keep_their_order() {
        let both = by_turns(vec![ip("::1"), ip("::2")], vec![ip("1.1.1.1"), ip("1.1.1.2"), ip("1.1.1.3")]);
        assert_eq!(both, ["::1", "1.1.1.1", "::2", "1.1.1.2", "1.1.1.3"].map(ip));
        let one = vec![ip("10.0.0.2"), ip("10.0.0.1"), ip("10.0.0.2")];
        assert_eq!(sorted(one), ["10.0.0.2", "10.0.0.1"].map(ip));
        let many = (0..200).map(|last| IpAddr::from([10, 0, 0, last])).collect();
        assert_eq!(sorted(many).len(), MAX_ADDRESSES);
    }

    #[test]
    fn the_preferred_family_comes_first() {
        let rank = |address: &str, source: Option<&str>| rank(ip(address), source.map(ip));
        // Addresses without a route come last.
        assert!(rank("2001:db8::1", None) < rank("192.0.2.1", Some("10.0.0.1")));
        let (global, private) = (rank("2001:db8::1", Some("2001:db8::2")), rank("fd00::1", Some("fd00::2")));
        let four = rank("192.0.2.1", Some("10.0.0.1"));
        assert!(global > four && four > private);
        // The source of a tunnel has another label.
        assert!(rank("2001:db8::1", Some("2002::1")) < four);
    }
}
