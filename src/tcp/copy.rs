//! Copies bytes between a client and a server in both directions until both have finished.
//!
//! When one side has finished (sent FIN or closed TLS), the other is notified and may continue: half-closed
//! connections are supported. Bytes pass through one buffer per worker, so an idle connection holds no
//! memory. Only bytes that the receiver does not accept immediately are kept, and nothing more is read until
//! they are written. Where much flows between two sockets without TLS, the kernel moves it through a pipe
//! ([`Pipe`]), which costs less than half.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::pipe::{Filled, Pipe};

/// Maximum number of bytes per read.
const BUFFER_SIZE: usize = 64 * 1024;
/// Maximum number of bytes copied before yielding. A smaller read counts as a full one.
const MAX_COPIED: u64 = 8 * BUFFER_SIZE as u64;
/// Number of consecutive full reads after which a pipe is used.
const FULL_READS: u8 = 8;
/// A pipe that receives less at once is no longer used.
const MIN_MOVED: usize = 32 * 1024;
/// Timeout for reading what a side sent before it closed, if writes to it fail and no other limit applies.
const LAST_READ_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER_SIZE].into());
}

/// The number of bytes copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Copied {
    /// Bytes from the client.
    pub(super) sent: u64,
    /// Bytes to the client.
    pub(super) received: u64,
}

/// A stream that may be a socket whose bytes pass as they are.
pub trait Socket {
    /// Returns the socket, if whatever is read from the stream now comes from it unchanged.
    fn socket(&self) -> Option<&TcpStream>;
}

/// Copies bytes in both directions. When one side has finished, the other may continue for `delay`; `None`
/// means no limit.
///
/// A side that closes with unread bytes is reset: writes to it fail, but its last bytes can still be read. So
/// a failed write ends only its own direction. `progress` gets what has been copied since it was last called.
pub(super) async fn both_ways<C, S>(
    client: &mut C,
    server: &mut S,
    delay: Option<Duration>,
    mut progress: impl FnMut(Copied),
) -> (Copied, io::Result<()>)
where
    C: AsyncRead + AsyncWrite + Socket + Unpin,
    S: AsyncRead + AsyncWrite + Socket + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut deadline = pin!(None);
    let ended = poll_fn(|cx| {
        let before = (up.copied, down.copied);
        let (sent, received) = (up.poll(cx, client, server), down.poll(cx, server, client));
        progress(Copied { sent: up.copied - before.0, received: down.copied - before.1 });
        let (sent, received) = (sent?, received?);
        if sent.is_ready() && received.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let failed = up.failure.is_some() || down.failure.is_some();
        if let Some(delay) = delay.or(failed.then_some(LAST_READ_TIMEOUT))
            && (sent.is_ready() || received.is_ready())
        {
            if deadline.is_none() {
                deadline.set(Some(tokio::time::sleep(delay)));
            }
            if let Some(deadline) = deadline.as_mut().as_pin_mut() {
                ready!(deadline.poll(cx));
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    })
    .await;
    let failure = up.failure.or(down.failure).map_or(Ok(()), Err);
    (Copied { sent: up.copied, received: down.copied }, ended.and(failure))
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Bytes read but not yet written. Those before `at` are written.
    pending: Vec<u8>,
    at: usize,
    copied: u64,
    needs_flush: bool,
    /// Number of consecutive full reads.
    full: u8,
    /// Bytes on their way through the kernel.
    pipe: Option<Pipe>,
    state: State,
    /// Why writes to the other side fail.
    failure: Option<io::Error>,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Everything was read; the other side must be shut down.
    Ended,
    /// The other side is shut down, or writes to it fail.
    Over,
}

impl Direction {
    /// Ready once everything has been copied and the other side is shut down, or writes to it fail. Returns
    /// an error if reading fails.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Socket + Unpin,
        W: AsyncWrite + Socket + Unpin,
    {
        let mut copied = 0;
        while copied < MAX_COPIED {
            let before = self.copied;
            if let Err(error) = ready!(self.poll_drain(cx, to)) {
                self.write_failed(error);
            }
            match self.state {
                State::Open => {}
                State::Ended => {
                    match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                        // The other side is already closed.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => self.write_failed(error),
                        _ => self.state = State::Over,
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Over => return Poll::Ready(Ok(())),
            }
            let read = match (from.socket(), to.socket()) {
                // What is in the pipe comes first.
                (Some(from), Some(to)) if self.pipe.is_some() || self.full >= FULL_READS => {
                    self.poll_move(cx, from, to)?
                }
                _ => SCRATCH.with_borrow_mut(|scratch| self.poll_copy(cx, from, to, scratch))?,
            };
            copied += (self.copied - before).max(BUFFER_SIZE as u64);
            if read.is_pending() {
                if self.needs_flush {
                    if let Err(error) = ready!(Pin::new(&mut *to).poll_flush(cx)) {
                        self.write_failed(error);
                        return Poll::Ready(Ok(()));
                    }
                    self.needs_flush = false;
                }
                return Poll::Pending;
            }
        }
        // Yield to other tasks.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends this direction after a failed write.
    fn write_failed(&mut self, error: io::Error) {
        (self.pending, self.at) = (Vec::new(), 0);
        self.pipe = None;
        self.state = State::Over;
        self.failure = Some(error);
    }

    /// Moves what there is through a pipe. Pending if the socket has nothing more, or the other side accepts nothing
    /// more.
    fn poll_move(&mut self, cx: &mut Context<'_>, from: &TcpStream, to: &TcpStream) -> Poll<io::Result<()>> {
        let Some(pipe) = self.pipe.take().or_else(Pipe::open) else {
            self.full = 0;
            return Poll::Ready(Ok(()));
        };
        let pipe = self.pipe.insert(pipe);
        if pipe.is_empty() {
            match pipe.poll_fill(cx, from) {
                Poll::Ready(Ok(Filled::Bytes(length))) => {
                    self.copied += length as u64;
                    if length < MIN_MOVED {
                        self.full = 0;
                    }
                }
                other => {
                    // Another connection can use it meanwhile.
                    self.pipe = None;
                    match ready!(other)? {
                        Filled::Ended => self.state = State::Ended,
                        Filled::Refused | Filled::Bytes(_) => self.full = 0,
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
        if let Err(error) = ready!(pipe.poll_drain(cx, to)) {
            self.write_failed(error);
        } else if self.full < FULL_READS {
            self.pipe = None;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes what the other side accepts immediately. The rest is kept.
    fn poll_copy<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        scratch: &mut [u8],
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = ReadBuf::new(scratch);
        match ready!(Pin::new(from).poll_read(cx, &mut buffer)) {
            // Many clients close the connection without close_notify: accepted as the end, as in Go.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            other => other?,
        }
        let mut rest = buffer.filled();
        if rest.is_empty() {
            self.state = State::Ended;
            return Poll::Ready(Ok(()));
        }
        self.copied += rest.len() as u64;
        self.full = if rest.len() == BUFFER_SIZE { self.full.saturating_add(1) } else { 0 };
        self.needs_flush = true;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(written @ 1..)) => rest = &rest[written..],
                Poll::Ready(result) => {
                    self.write_failed(result.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                    break;
                }
                Poll::Pending => {
                    self.pending.extend_from_slice(rest);
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes the kept bytes and frees their memory.
    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while self.at < self.pending.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending[self.at..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.at += written;
        }
        if !self.pending.is_empty() {
            (self.pending, self.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;

    use super::*;

    impl Socket for DuplexStream {
        fn socket(&self) -> Option<&TcpStream> {
            None
        }
    }

    impl Socket for TcpStream {
        fn socket(&self) -> Option<&TcpStream> {
            Some(self)
        }
    }

    async fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outside = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (outside, listener.accept().await.unwrap().0)
    }

    /// A number of random bytes, and what is left of them at the other end after reads of random sizes with pauses.
    async fn exchange(stream: TcpStream, sent: &[u8], received: &mut Vec<u8>) {
        let (mut input, mut output) = stream.into_split();
        tokio::join!(
            async {
                output.write_all(sent).await.unwrap();
                output.shutdown().await.unwrap();
            },
            async {
                while input.read_buf(received).await.unwrap() > 0 {
                    tokio::task::yield_now().await;
                }
            },
        );
    }

    #[tokio::test]
    async fn bulk_between_sockets_passes_through_pipes() {
        let up: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(20_000_000).collect();
        let down: Vec<u8> = up.iter().rev().copied().collect();
        let ((client, mut inner_client), (server, mut inner_server)) = (connected().await, connected().await);
        let (mut at_server, mut at_client) = (Vec::new(), Vec::new());
        let (copied, (), ()) = tokio::join!(
            both_ways(&mut inner_client, &mut inner_server, None, |_| ()),
            exchange(client, &up, &mut at_client),
            exchange(server, &down, &mut at_server),
        );
        copied.1.unwrap();
        assert_eq!(copied.0, Copied { sent: 20_000_000, received: 20_000_000 });
        assert!(at_server == up && at_client == down);
        assert_ne!(super::super::pipe::idle(), 0, "pipes were used and returned");
    }

    #[tokio::test]
    async fn small_exchanges_use_no_pipe() {
        let ((mut client, mut inner_client), (mut server, mut inner_server)) =
            (connected().await, connected().await);
        let copying = tokio::spawn(async move {
            both_ways(&mut inner_client, &mut inner_server, None, |_| ()).await.1.unwrap();
        });
        let mut part = vec![1; 8192];
        for _ in 0..100 {
            client.write_all(&part).await.unwrap();
            server.read_exact(&mut part).await.unwrap();
            server.write_all(&part).await.unwrap();
            client.read_exact(&mut part).await.unwrap();
        }
        drop((client, server));
        copying.await.unwrap();
        assert_eq!(super::super::pipe::idle(), 0);
    }

    #[tokio::test]
    async fn what_a_receiver_has_not_taken_is_dropped_with_its_connection() {
        let ((mut client, mut inner_client), (server, mut inner_server)) =
            (connected().await, connected().await);
        let copying =
            tokio::spawn(
                async move { both_ways(&mut inner_client, &mut inner_server, None, |_| ()).await.1 },
            );
        // More than the buffers of the system hold: the pipe is full in the end.
        let part = vec![1; 1 << 20];
        while tokio::time::timeout(Duration::from_millis(200), client.write_all(&part)).await.is_ok() {}
        drop((client, server));
        let _ = copying.await.unwrap();
        assert_eq!(super::super::pipe::lent(), 0, "the pipe is not in use");
    }

    /// Runs a client and a server with a copy between them.
    async fn joined<F: Future>(
        size: usize,
        delay: Option<Duration>,
        talk: impl FnOnce(tokio::io::DuplexStream, tokio::io::DuplexStream) -> F,
    ) -> (io::Result<Copied>, F::Output) {
        let (client, mut inner_client) = duplex(size);
        let (server, mut inner_server) = duplex(size);
        let copying = async {
            let (copied, ended) = both_ways(&mut inner_client, &mut inner_server, delay, |_| ()).await;
            drop((inner_client, inner_server));
            ended.map(|()| copied)
        };
        tokio::join!(copying, talk(client, server))
    }

    #[tokio::test]
    async fn all_bytes_arrive_through_small_buffers() {
        let up: Vec<u8> = (0..300_000).map(|i| i as u8).collect();
        let down: Vec<u8> = (0..200_000).map(|i| (i * 7) as u8).collect();
        let (copied, (at_server, at_client)) = joined(1000, None, |client, server| async {
            let ((mut client_in, mut client_out), (mut server_in, mut server_out)) =
                (tokio::io::split(client), tokio::io::split(server));
            let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
            tokio::join!(
                async {
                    client_out.write_all(&up).await.unwrap();
                    client_out.shutdown().await.unwrap()
                },
                async {
                    server_out.write_all(&down).await.unwrap();
                    server_out.shutdown().await.unwrap()
                },
                async { client_in.read_to_end(&mut at_client).await.unwrap() },
                async { server_in.read_to_end(&mut at_server).await.unwrap() },
            );
            (at_server, at_client)
        })
        .await;
        assert_eq!(copied.unwrap(), Copied { sent: 300_000, received: 200_000 });
        assert!(at_server == up && at_client == down);
    }

    #[tokio::test]
    async fn half_closed_connections_continue() {
        let (copied, answer) = joined(1000, None, |mut client, mut server| async move {
            client.write_all(b"question").await.unwrap();
            client.shutdown().await.unwrap();
            let mut question = String::new();
            server.read_to_string(&mut question).await.unwrap();
            server.write_all(format!("answer to {question}").as_bytes()).await.unwrap();
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        })
        .await;
        assert_eq!(answer, "answer to question");
        assert_eq!(copied.unwrap(), Copied { sent: 8, received: 18 });
    }

    #[tokio::test]
    async fn half_closed_connections_end_after_the_delay() {
        let started = std::time::Instant::now();
        let (copied, ()) =
            joined(1000, Some(Duration::from_millis(100)), |mut client, mut server| async move {
                client.shutdown().await.unwrap();
                assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
                // The server stays silent, so the copy ends after the delay.
                assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
            })
            .await;
        assert_eq!(copied.unwrap(), Copied::default());
        assert!(started.elapsed() >= Duration::from_millis(100));
    }
}
