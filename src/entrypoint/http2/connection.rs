//! One connection of the HTTP library: its requests, its deadlines, and its end.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate_core::BoxFuture;
use tokio::time::Sleep;

use super::clock::{Clock, Due};
use super::progress::Progress;
use super::service::HttpService;
use super::watched_stream::Watched;
use crate::entrypoint::clock::FIRST_REQUEST_GRACE;
use crate::entrypoint::conn_limit::OpenConnection;
use crate::entrypoint::header_budget::HeaderReservation;
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http1::Stream;
use crate::entrypoint::listener::Listener;
use crate::entrypoint::shutdown::Phase;

/// The library's side of a connection.
type Library<S> = http2::Connection<TokioIo<Watched<S, OpenConnection>>, HttpService, TokioExecutor>;

/// Serves a connection until it ends.
///
/// # Errors
/// If the client or the gateway ends it early.
pub(in crate::entrypoint) async fn serve<S: Stream>(
    client: Arc<ClientConnection>,
    stream: S,
    open: OpenConnection,
) -> io::Result<()> {
    let (listener, progress) = (client.listener.clone(), client.progress.clone());
    let reservation = HeaderReservation::new(listener.heads.clone());
    let stream = Watched::new(stream, progress.clone(), reservation, open);
    let service = HttpService::new(client);
    let mut connection = Box::pin(listener.http2.serve_connection(TokioIo::new(stream), service));
    drive(&listener, &progress, connection.as_mut()).await
}

/// Drives a connection. Shuts it down gracefully if the listener drains or its time is up, and closes it if the
/// client misses a deadline.
async fn drive<S: Stream>(
    listener: &Listener,
    progress: &Progress,
    mut connection: Pin<&mut Library<S>>,
) -> io::Result<()> {
    let mut driver = Driver {
        listener,
        progress,
        clock: Clock::new(listener.limits),
        first_request: None,
        idle: None,
        stalled: None,
    };
    // GOAWAY loses no request.
    let mut shutdown = pin!(listener.shutdown.reached(Phase::Draining));
    let mut left = false;
    std::future::poll_fn(|cx| {
        let drains = !left && shutdown.as_mut().poll(cx).is_ready();
        if drains {
            driver.poll_first_request(cx);
        }
        loop {
            if drains && progress.heads() > 0 {
                progress.leave();
            }
            driver.poll_idle(cx);
            if driver.poll_stalled(cx).is_ready() {
                return Poll::Ready(Err(cut(progress, "a stalled client at the connection limit")));
            }
            if !left && progress.is_leaving() {
                left = true;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(outcome) = driver.poll_connection(connection.as_mut(), cx) {
                return Poll::Ready(outcome.map_err(io::Error::other));
            }
            match driver.poll_clock(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if left || !(progress.is_leaving() || drains && progress.heads() > 0) => {
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
    })
    .await
}

/// A pending eviction, and the progress counter when it was requested.
type Waiting<'a> = Option<(u32, BoxFuture<'a, ()>)>;

/// The state of [`drive`].
struct Driver<'a> {
    listener: &'a Listener,
    progress: &'a Progress,
    clock: Clock,
    /// The time for a first request while the listener drains.
    first_request: Option<Pin<Box<Sleep>>>,
    /// Eviction of an idle connection, which is shut down gracefully.
    idle: Waiting<'a>,
    /// Eviction of a stalled client, which is closed.
    stalled: Waiting<'a>,
}

impl Driver<'_> {
    /// Shuts down a connection that sends no request within the grace period.
    fn poll_first_request(&mut self, cx: &mut Context<'_>) {
        if self.progress.heads() > 0 {
            return;
        }
        let wait =
            self.first_request.get_or_insert_with(|| Box::pin(tokio::time::sleep(FIRST_REQUEST_GRACE)));
        if wait.as_mut().poll(cx).is_ready() {
            self.progress.leave();
        }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) {
        let Some((heads, evicted)) = &mut self.idle else { return };
        if *heads != self.progress.heads() {
            self.idle = None;
        } else if evicted.as_mut().poll(cx).is_ready() {
            self.idle = None;
            self.progress.leave();
        }
    }

    /// Ready when the connection must be closed.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((moves, evicted)) = &mut self.stalled else { return Poll::Pending };
        if *moves != self.progress.moves() {
            self.stalled = None;
            return Poll::Pending;
        }
        evicted.as_mut().poll(cx)
    }

    /// Polls the connection, and again if it has output to flush.
    fn poll_connection<C: Future>(
        &self,
        mut connection: Pin<&mut C>,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        let polled = connection.as_mut().poll(cx);
        if polled.is_ready() || !self.progress.has_gathered() {
            return polled;
        }
        self.progress.flush(true);
        let polled = connection.poll(cx);
        self.progress.flush(false);
        polled
    }

    /// Polls the clock. Ready if the connection must be polled again.
    ///
    /// # Errors
    /// If the client missed a deadline.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let connections = &self.listener.connections;
        match ready!(self.clock.poll(self.progress, cx)) {
            Due::Leave => self.progress.leave(),
            Due::Park => self.idle = Some((self.progress.heads(), Box::pin(connections.evicted()))),
            Due::Yield => {
                self.stalled = Some((self.progress.moves(), Box::pin(connections.evicted_when_full())));
            }
            Due::Cut(what) => return Poll::Ready(Err(cut(self.progress, what))),
        }
        Poll::Ready(Ok(()))
    }
}

/// Returns the error of a client that missed a deadline.
fn cut(progress: &Progress, what: &str) -> io::Error {
    progress.cut();
    io::Error::new(io::ErrorKind::TimedOut, format!("timed out waiting for {what}"))
}
