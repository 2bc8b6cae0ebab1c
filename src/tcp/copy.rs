//! Copies bytes between a client and a server in both directions until both have finished.
//!
//! When one side has finished (sent FIN or closed TLS), the other is notified and may continue: half-closed
//! connections are supported. Bytes pass through one buffer per worker, so an idle connection holds no
//! memory. Only bytes that the receiver does not accept immediately are kept, and nothing more is read until
//! they are written.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Maximum number of bytes per read.
const BUFFER_SIZE: usize = 64 * 1024;
/// Maximum number of reads before yielding.
const MAX_READS: usize = 8;
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
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
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
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..MAX_READS {
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
            let read = SCRATCH.with_borrow_mut(|scratch| self.poll_copy(cx, from, to, scratch))?;
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
        self.state = State::Over;
        self.failure = Some(error);
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

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
