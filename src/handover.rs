//! Stops to listen without a reset for a client that has just connected.
//!
//! The system resets clients that wait at a socket when it is closed. So a process that stops first ignores new
//! connection attempts, and accepts all who wait. A port that is shared with another process (`reusePort`) is closed
//! when handshakes in progress are complete, too: clients try again and reach the other process.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockFilter, SockRef};

/// How long clients may take to complete a TCP handshake with a process that is stopping.
pub(crate) const HANDSHAKES: Duration = Duration::from_millis(300);

// Instructions of classic BPF (linux/bpf_common.h), with constant operands.
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Offset of the flags in a TCP header, and the flags of a connection attempt.
const TCP_FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const SYN_ACK: u32 = 0x12;

/// Ignores new connection attempts to a listener, and lets handshakes in progress complete. Clients try again
/// within a second, and reach the new owner of the port if there is one.
pub(crate) fn ignore_attempts(listener: &impl AsFd) -> io::Result<()> {
    let program = [
        SockFilter::new(LOAD_BYTE, 0, 0, TCP_FLAGS),
        SockFilter::new(AND, 0, 0, SYN_ACK),
        SockFilter::new(JUMP_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    SockRef::from(listener).attach_filter(&program)
}
