//! One connection of the HTTP library: its requests, its deadlines, and its end.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::progress::Progress;
use super::service::HttpService;
use super::watched_stream::Watched;
use crate::entrypoint::clock::{Clock, Due, timed_out};
use crate::entrypoint::conn_limit::OpenConnection;
use crate::entrypoint::header_budget::HeaderReservation;
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http1::Stream;
use crate::entrypoint::listener::Listener;
use crate::entrypoint::shutdown::Phase;

/// The library's side of a connection.
type Library<S> = http2::Connection<TokioIo<Watched<S, OpenConnection>>, HttpService, TokioExecutor>;

/// Serves a connection until it ends, or the client or the gateway ends it early.
pub(in crate::entrypoint) fn serve<S: Stream>(
    client: Arc<ClientConnection>,
    stream: S,
    open: OpenConnection,
) -> impl Future<Output = io::Result<()>> + Send {
    let (listener, progress) = (client.listener.clone(), client.progress.clone());
    let reservation = HeaderReservation::new(listener.heads.clone());
    let stream = Watched::new(stream, progress.clone(), reservation, open);
    let service = HttpService::new(client);
    let mut connection = Box::pin(listener.http2.serve_connection(TokioIo::new(stream), service));
    async move { drive(&listener, &progress, connection.as_mut()).await }
}

/// Drives a connection. Shuts it down gracefully if the listener drains or its time is up, and closes it if the
/// client misses a deadline.
async fn drive<S: Stream>(
    listener: &Listener,
    progress: &Progress,
    mut connection: Pin<&mut Library<S>>,
) -> io::Result<()> {
    let mut clock = Clock::new(&listener.limits, &listener.connections);
    // GOAWAY loses no request.
    let mut shutdown = pin!(listener.shutdown.reached(Phase::Draining));
    let mut left = false;
    std::future::poll_fn(|cx| {
        let drains = !left && shutdown.as_mut().poll(cx).is_ready();
        loop {
            if drains && progress.heads() > 0 {
                progress.leave();
            }
            if !left && progress.is_leaving() {
                left = true;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(outcome) = poll_library(connection.as_mut(), progress, cx) {
                return Poll::Ready(outcome.map_err(io::Error::other));
            }
            let (wait, mark) = progress.wait(&listener.limits, drains);
            match clock.poll(wait, mark, cx) {
                Poll::Ready(Due::Leave) => progress.leave(),
                Poll::Ready(Due::Park) => {}
                Poll::Ready(due @ (Due::Late | Due::Cut(_))) => {
                    progress.cut();
                    let what = if let Due::Cut(what) = due { what } else { "the rest of a frame" };
                    return Poll::Ready(Err(timed_out(what)));
                }
                Poll::Pending if left || !(progress.is_leaving() || drains && progress.heads() > 0) => {
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
        }
    })
    .await
}

/// Polls the library, and again if it has output to flush.
fn poll_library<S: Stream>(
    mut connection: Pin<&mut Library<S>>,
    progress: &Progress,
    cx: &mut Context<'_>,
) -> Poll<hyper::Result<()>> {
    let polled = connection.as_mut().poll(cx);
    if polled.is_ready() || !progress.has_gathered() {
        return polled;
    }
    progress.flush(true);
    let polled = connection.poll(cx);
    progress.flush(false);
    polled
}
