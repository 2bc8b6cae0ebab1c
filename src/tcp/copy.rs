//! Carries bytes both ways between a client and a server until both have finished.
//!
//! When one side has finished (sent FIN, or closed TLS), the other is told so and may go on: a half-closed connection
//! stays one. Bytes pass through one buffer of the worker, so a connection that is silent holds no memory here; only
//! what the receiving side does not take at once is kept, and nothing more is read before it is gone.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes that are read at once.
const BUFFER: usize = 64 * 1024;
/// Reads in a row before others get their turn.
const TURNS: usize = 8;
/// Time to read what a side has sent before it closed, once it takes nothing more and no other limit applies.
const MAX_LAST_WORDS: Duration = Duration::from_secs(5);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// What was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// Bytes from the client.
    pub(super) sent: u64,
    /// Bytes to the client.
    pub(super) received: u64,
}

/// Carries bytes both ways. When one side has finished, the other may go on for `delay`; `None`: for as long as it
/// likes.
///
/// A side that closes with bytes unread is reset: writes to it fail, while its last bytes are still to be read. So a failed write
/// ends its own direction only.
pub(super) async fn both_ways<C, S>(
    client: &mut C,
    server: &mut S,
    delay: Option<Duration>,
) -> (Carried, io::Result<()>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut deadline = pin!(None);
    let ended = poll_fn(|cx| {
        let sent = up.poll(cx, client, server)?;
        let received = down.poll(cx, server, client)?;
        if sent.is_ready() && received.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let failed = up.failure.is_some() || down.failure.is_some();
        if let Some(delay) = delay.or(failed.then_some(MAX_LAST_WORDS))
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
    (Carried { sent: up.carried, received: down.carried }, ended.and(failure))
}

/// One direction.
#[derive(Default)]
struct Direction {
    /// Read, and not yet taken by the other side; what lies before `at` has been.
    waiting: Vec<u8>,
    at: usize,
    carried: u64,
    needs_flush: bool,
    state: State,
    /// Why the other side takes no more.
    failure: Option<io::Error>,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Everything was read; the other side is to be told.
    Ended,
    /// The other side has been told, or takes no more.
    Over,
}

impl Direction {
    /// Ready when everything has been carried and the other side knows that no more will come, or takes no more. Fails when
    /// nothing more can be read.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURNS {
            if let Err(error) = ready!(self.poll_empty(cx, to)) {
                self.refused(error);
            }
            match self.state {
                State::Open => {}
                State::Ended => {
                    match ready!(Pin::new(&mut *to).poll_shutdown(cx)) {
                        // A side that has hung up already needs no telling.
                        Err(error) if error.kind() != io::ErrorKind::NotConnected => self.refused(error),
                        _ => self.state = State::Over,
                    }
                    return Poll::Ready(Ok(()));
                }
                State::Over => return Poll::Ready(Ok(())),
            }
            let read = SCRATCH.with_borrow_mut(|scratch| self.poll_carry(cx, from, to, scratch))?;
            if read.is_pending() {
                if self.needs_flush {
                    if let Err(error) = ready!(Pin::new(&mut *to).poll_flush(cx)) {
                        self.refused(error);
                        return Poll::Ready(Ok(()));
                    }
                    self.needs_flush = false;
                }
                return Poll::Pending;
            }
        }
        // There may be more, but others wait too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends this direction: the other side takes no more.
    fn refused(&mut self, error: io::Error) {
        (self.waiting, self.at) = (Vec::new(), 0);
        self.state = State::Over;
        self.failure = Some(error);
    }

    /// Reads once and hands on what the other side takes at once. The rest waits.
    fn poll_carry<R, W>(
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
            // Many clients end TLS by closing the connection: taken for the end that it is, as by Go.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            other => other?,
        }
        let mut rest = buffer.filled();
        if rest.is_empty() {
            self.state = State::Ended;
            return Poll::Ready(Ok(()));
        }
        self.carried += rest.len() as u64;
        self.needs_flush = true;
        while !rest.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(written @ 1..)) => rest = &rest[written..],
                Poll::Ready(refused) => {
                    self.refused(refused.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into()));
                    break;
                }
                Poll::Pending => {
                    self.waiting.extend_from_slice(rest);
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Hands on what waits, and gives its memory back.
    fn poll_empty<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while self.at < self.waiting.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting[self.at..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.at += written;
        }
        if !self.waiting.is_empty() {
            (self.waiting, self.at) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// A client and a server, joined by the copying between them.
    async fn joined<F: Future>(
        size: usize,
        delay: Option<Duration>,
        talk: impl FnOnce(tokio::io::DuplexStream, tokio::io::DuplexStream) -> F,
    ) -> (io::Result<Carried>, F::Output) {
        let (client, mut inner_client) = duplex(size);
        let (server, mut inner_server) = duplex(size);
        let copying = async {
            let (carried, ended) = both_ways(&mut inner_client, &mut inner_server, delay).await;
            drop((inner_client, inner_server));
            ended.map(|()| carried)
        };
        tokio::join!(copying, talk(client, server))
    }

    #[tokio::test]
    async fn everything_arrives_both_ways_through_small_buffers() {
        let up: Vec<u8> = (0..300_000).map(|i| i as u8).collect();
        let down: Vec<u8> = (0..200_000).map(|i| (i * 7) as u8).collect();
        let (carried, (at_server, at_client)) = joined(1000, None, |client, server| async {
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
        assert_eq!(carried.unwrap(), Carried { sent: 300_000, received: 200_000 });
        assert!(at_server == up && at_client == down);
    }

    #[tokio::test]
    async fn a_half_closed_connection_goes_on() {
        let (carried, answer) = joined(1000, None, |mut client, mut server| async move {
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
        assert_eq!(carried.unwrap(), Carried { sent: 8, received: 18 });
    }

    #[tokio::test]
    async fn the_other_side_is_cut_after_the_delay() {
        let started = std::time::Instant::now();
        let (carried, ()) =
            joined(1000, Some(Duration::from_millis(100)), |mut client, mut server| async move {
                client.shutdown().await.unwrap();
                assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
                // Nothing comes: the copying ends by itself.
                assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
            })
            .await;
        assert_eq!(carried.unwrap(), Carried::default());
        assert!(started.elapsed() >= Duration::from_millis(100));
    }
}
