//! Datagrams between gateways that share a port (`reusePort`).
//!
//! The system distributes datagrams among the sockets of all processes, and again differently whenever one joins or
//! leaves. So a process that receives a datagram of an unknown connection passes it on to the others. One that stops
//! passes on new clients, too. The processes meet in Unix sockets with abstract names, which exist in the same network
//! namespace as the port.
//!
//! Any local process could send such messages. They can do no more than datagrams from the network: what is in them is
//! authenticated by QUIC, and a client address that is wrong is not believed until it has responded.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::udp::{EcnCodepoint, RecvMeta};

/// Maximum number of processes on a port.
const MAX_PROCESSES: usize = 8;
/// For how long a process counts as absent.
const ABSENCE: Duration = Duration::from_millis(100);
/// Length of what precedes the datagrams of a message: flags, stride, port and addresses.
const HEAD: usize = 1 + 4 + 2 + 16 + 16;
/// Flag of datagrams that may begin a connection. The two bits above are those of congestion notification.
const NEW: u8 = 1;
/// Minimum length of a datagram that is passed on (RFC 9000 section 10.3).
const MIN_DATAGRAM: usize = 21;
/// Maximum length of a message in bytes: datagrams that were received at once.
pub(super) const MAX_MESSAGE: usize = 128 * 1024;

/// The other processes on the port of an entry point.
pub(super) struct Siblings {
    socket: UnixDatagram,
    others: Vec<UnixAddress>,
    presence: Mutex<Presence>,
}

/// Which others do not exist, as far as known.
struct Presence {
    since: Instant,
    /// A bit for each.
    absent: u8,
}

/// Datagrams of one client that a sibling has received.
#[derive(Debug, PartialEq)]
pub(super) struct Message<'a> {
    /// The client.
    pub(super) client: SocketAddr,
    /// The address that it has sent them to.
    pub(super) local: Option<IpAddr>,
    pub(super) ecn: Option<EcnCodepoint>,
    /// Whether they may begin a connection.
    pub(super) is_new: bool,
    /// Length of each but the last, in bytes.
    pub(super) stride: usize,
    pub(super) datagrams: &'a [u8],
}

impl Siblings {
    /// Meets the other processes on this address.
    ///
    /// # Errors
    /// If there are too many, or the system has no abstract names.
    pub(super) fn meet(port: SocketAddr) -> io::Result<Self> {
        let name = |number| UnixAddress::from_abstract_name(format!("tidegate-http3-{port}-{number}"));
        let mut own = None;
        let mut others = Vec::new();
        for number in 0..MAX_PROCESSES {
            let address = name(number)?;
            if own.is_none()
                && let Ok(socket) = UnixDatagram::bind_addr(&address)
            {
                own = Some(socket);
            } else {
                others.push(address);
            }
        }
        let socket = own.ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, others, presence: Mutex::new(Presence { since: Instant::now(), absent: 0 }) })
    }

    /// Returns another handle of the socket, to receive messages from.
    pub(super) fn receiver(&self) -> io::Result<UnixDatagram> {
        self.socket.try_clone()
    }

    /// Passes datagrams on to all others. They are lost if there are none, or if these do not keep up.
    pub(super) fn send(&self, meta: &RecvMeta, is_new: bool, datagrams: &[u8]) {
        let mut presence = self.presence.lock();
        if presence.since.elapsed() >= ABSENCE {
            *presence = Presence { since: Instant::now(), absent: 0 };
        }
        let all = (1u16 << self.others.len()) - 1;
        if u16::from(presence.absent) == all {
            return;
        }
        let message = encode(meta, is_new, datagrams);
        for (index, other) in self.others.iter().enumerate() {
            if presence.absent & 1 << index == 0
                && let Err(error) = self.socket.send_to_addr(&message, other)
                && error.kind() == io::ErrorKind::ConnectionRefused
            {
                presence.absent |= 1 << index;
            }
        }
    }
}

fn encode(meta: &RecvMeta, is_new: bool, datagrams: &[u8]) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let mut message = Vec::with_capacity(HEAD + datagrams.len());
    let ecn = meta.ecn.map_or(0, |ecn| ecn as u8);
    message.push((ecn << 1) | if is_new { NEW } else { 0 });
    message.extend_from_slice(&u32::try_from(meta.stride).unwrap_or(u32::MAX).to_be_bytes());
    message.extend_from_slice(&meta.addr.port().to_be_bytes());
    message.extend_from_slice(&octets(meta.addr.ip()));
    message.extend_from_slice(&octets(meta.dst_ip.unwrap_or(Ipv6Addr::UNSPECIFIED.into())));
    message.extend_from_slice(datagrams);
    message
}

/// Decodes a message for a socket of this family. Returns `None` if it is malformed.
pub(super) fn decode(message: &[u8], is_ipv6: bool) -> Option<Message<'_>> {
    let (flags, rest) = message.split_first()?;
    let (stride, rest) = rest.split_first_chunk::<4>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (client, rest) = rest.split_first_chunk::<16>()?;
    let (local, datagrams) = rest.split_first_chunk::<16>()?;
    let stride = usize::try_from(u32::from_be_bytes(*stride)).ok()?;
    // IPv6 sockets have IPv4 addresses in mapped form.
    let form = |octets: [u8; 16]| {
        let ip = Ipv6Addr::from(octets);
        match (is_ipv6, ip.to_ipv4_mapped()) {
            (true, _) => Some(IpAddr::V6(ip)),
            (false, Some(ip)) => Some(IpAddr::V4(ip)),
            (false, None) => None,
        }
    };
    if stride < MIN_DATAGRAM || datagrams.is_empty() {
        return None;
    }
    Some(Message {
        client: SocketAddr::new(form(*client)?, u16::from_be_bytes(*port)),
        local: form(*local).filter(|ip| !ip.is_unspecified()),
        ecn: EcnCodepoint::from_bits((flags >> 1) & 3),
        is_new: flags & NEW != 0,
        stride,
        datagrams,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_what_is_known_of_their_datagrams() {
        for (client, local, is_ipv6) in [
            ("192.0.2.1:443", Some("192.0.2.2"), false),
            ("192.0.2.1:443", None, false),
            ("[2001:db8::1]:1", Some("2001:db8::2"), true),
            ("[::ffff:192.0.2.1]:1", Some("::ffff:192.0.2.2"), true),
        ] {
            let meta = RecvMeta {
                addr: client.parse().unwrap(),
                len: 3,
                stride: 1200,
                ecn: Some(EcnCodepoint::Ce),
                dst_ip: local.map(|ip| ip.parse().unwrap()),
            };
            let bytes = encode(&meta, true, b"abc");
            let message = decode(&bytes, is_ipv6).unwrap();
            assert_eq!((message.client, message.local), (meta.addr, meta.dst_ip));
            assert_eq!((message.ecn, message.is_new, message.stride), (meta.ecn, true, 1200));
            assert_eq!(message.datagrams, b"abc");
            for length in 0..=HEAD {
                assert_eq!(decode(&bytes[..length], is_ipv6), None);
            }
            assert_eq!(decode(&encode(&RecvMeta { stride: 0, ..meta }, true, b"abc"), is_ipv6), None);
        }
    }

    #[test]
    fn processes_on_one_port_meet() {
        let port: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let meta = RecvMeta { addr: port, stride: 1200, ..RecvMeta::default() };
        let first = Siblings::meet(port).unwrap();
        first.send(&meta, false, b"nobody hears this");
        let second = Siblings::meet(port).unwrap();
        second.send(&meta, false, b"hello");
        let mut bytes = [0; 100];
        let length = first.receiver().unwrap().recv(&mut bytes).unwrap();
        assert_eq!(decode(&bytes[..length], false).unwrap().datagrams, b"hello");
        let elsewhere = Siblings::meet("127.0.0.2:1".parse().unwrap()).unwrap();
        elsewhere.send(&meta, false, b"hello");
        assert!(first.receiver().unwrap().recv(&mut bytes).is_err(), "another port");
        let more: Vec<_> = (2..MAX_PROCESSES).map(|_| Siblings::meet(port).unwrap()).collect();
        assert!(Siblings::meet(port).is_err());
        drop(more);
    }
}
