//! Pipes through which the kernel moves bytes from one socket to another (`splice`).
//!
//! Each worker has a limited number of them, which connections take while bytes flow, and return when they wait for
//! more. Only a receiver that accepts no more keeps one, so the limit bounds the memory of stalled connections.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Size of a pipe in bytes: what the kernel allows without privileges. If it refuses, its default of 64 KiB remains.
const SIZE: usize = 1 << 20;
/// Maximum number of pipes per worker.
const MAX_PIPES: usize = 16;
const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { free: Vec::new(), lent: 0 }) };
}

struct Pool {
    free: Vec<(OwnedFd, OwnedFd)>,
    lent: usize,
}

/// A pipe of the current worker, which gets it back if it is dropped empty.
pub(super) struct Pipe {
    /// Both ends, for reading and for writing, until it is dropped.
    ends: Option<(OwnedFd, OwnedFd)>,
    /// Bytes in it.
    held: usize,
}

/// The result of filling a pipe.
pub(super) enum Filled {
    /// It has this number of bytes.
    Bytes(usize),
    /// The socket has reached its end.
    Ended,
    /// The kernel does not move bytes from such a socket.
    Refused,
}

impl Pipe {
    /// Returns an empty pipe, or `None` if all are in use or the system has no more.
    pub(super) fn open() -> Option<Self> {
        POOL.with_borrow_mut(|pool| {
            if pool.lent >= MAX_PIPES {
                return None;
            }
            let ends = pool.free.pop().or_else(create)?;
            pool.lent += 1;
            Some(Self { ends: Some(ends), held: 0 })
        })
    }

    /// Returns whether it holds no bytes.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Fills the empty pipe with what a socket has received.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<Filled>> {
        let Some((_, write)) = &self.ends else { return Poll::Ready(Ok(Filled::Refused)) };
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || moved(from, write, SIZE)) {
                Ok(0) => return Poll::Ready(Ok(Filled::Ended)),
                Ok(length) => {
                    self.held = length;
                    return Poll::Ready(Ok(Filled::Bytes(length)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    return Poll::Ready(Ok(Filled::Refused));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Passes all bytes on to a socket.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        let Some((read, _)) = &self.ends else { return Poll::Ready(Ok(())) };
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || moved(read, to, self.held)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(length) => self.held -= length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let ends = self.ends.take().filter(|_| self.held == 0);
        // A thread that ends has no pool any more.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            pool.lent = pool.lent.saturating_sub(1);
            pool.free.extend(ends);
        });
    }
}

fn create() -> Option<(OwnedFd, OwnedFd)> {
    let ends = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
    let _ = fcntl_setpipe_size(&ends.1, SIZE);
    Some(ends)
}

fn moved(from: impl AsFd, to: impl AsFd, length: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, length, FLAGS)?)
}

/// Returns the number of pipes of this thread that no connection uses.
#[cfg(test)]
pub(super) fn idle() -> usize {
    POOL.with_borrow(|pool| pool.free.len())
}

/// Returns the number of pipes of this thread that connections use.
#[cfg(test)]
pub(super) fn lent() -> usize {
    POOL.with_borrow(|pool| pool.lent)
}
