//! Sockets of a UDP entry point: one per worker on a shared port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

/// Requested receive buffer of a socket in bytes. The kernel may allow less.
const BUFFER_SIZE: usize = 1 << 20;

/// Binds `count` sockets to one address. Unless `share` is set, fails if another process uses the address.
pub fn bind(address: SocketAddr, count: usize, share: bool) -> io::Result<Vec<UdpSocket>> {
    let mut address = address;
    if !share {
        // Any process of the same user may join a group, so check without a group first.
        match open(address, false) {
            Ok(_) => {}
            Err(error) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && is_without_ipv6(&error) => {
                address = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
                drop(open(address, false)?);
            }
            Err(error) => return Err(error),
        }
    }
    let first = open(address, true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(open(address, true)?);
    }
    Ok(sockets)
}

fn open(address: SocketAddr, group: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(address.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED))?;
    }
    if group {
        socket.set_reuse_port(true)?;
    }
    // A smaller buffer works, but drops datagrams earlier.
    let _ = socket.set_recv_buffer_size(BUFFER_SIZE);
    let _ = socket.set_send_buffer_size(BUFFER_SIZE);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn is_without_ipv6(error: &io::Error) -> bool {
    /// Error code for an unsupported address family (Linux).
    const EAFNOSUPPORT: i32 = 97;
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || error.raw_os_error() == Some(EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_use_is_rejected_unless_shared() {
        let sockets = bind(SocketAddr::from(([127, 0, 0, 1], 0)), 2, false).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert_eq!(address, sockets[1].local_addr().unwrap());
        assert_eq!(bind(address, 1, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(bind(address, 1, true).unwrap().len(), 1);
    }
}
