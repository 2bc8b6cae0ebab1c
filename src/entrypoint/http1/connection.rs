//! One connection: reads a head, has the request handled, writes the response, and begins again.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Method, Version};
use tidegate_core::{Body, BodyError, BoxFuture, Reason, Response, boxed};
use tidegate_wire::http1::request::RequestHead;
use tidegate_wire::http1::server::{Event, Phase};
use tidegate_wire::http1::{Error, Refusal};

use super::io::{Io, Shared, Stream};
use super::request::RequestBody;
use super::response::{self, Progress, ResponseError};
use crate::entrypoint::clock::{Clock, Due, Wait, timed_out};
use crate::entrypoint::conn_limit::OpenConnection;
use crate::entrypoint::http::body::SentBody;
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http::closing::Closing;
use crate::entrypoint::http::upgrade::{self, GiveStream};
use crate::entrypoint::http::{ReceivedRequest, advertise, respond};
use crate::entrypoint::linger::Linger;
use crate::entrypoint::listener::Listener;
use crate::entrypoint::prefixed::Prefixed;
use crate::entrypoint::shutdown;

/// Serves a connection until it ends, or the client or the gateway ends it early.
pub(in crate::entrypoint) fn serve<S: Stream>(
    client: Arc<ClientConnection>,
    stream: S,
    open: OpenConnection,
) -> impl Future<Output = io::Result<()>> + Send {
    // Outside of the future, which would keep room for what is moved from it.
    let shared = Shared::new(stream, &client.listener);
    let open = Arc::new(open);
    async move {
        let listener = client.listener.clone();
        let mut connection = Connection {
            listener: &listener,
            shared,
            client,
            state: State::Reading,
            trailers: false,
            upgrade: None,
            heads: 0,
            is_leaving: false,
            clock: Clock::new(&listener.limits, &listener.connections),
            open,
        };
        // HTTP/1 has no message that ends a connection: see `Phase::ClosingIdle`.
        let mut closing_idle = pin!(listener.shutdown.reached(shutdown::Phase::ClosingIdle));
        let mut is_watched = false;
        std::future::poll_fn(|cx| {
            if !is_watched {
                // Its waker stays registered; whether the phase is reached is looked up.
                is_watched = closing_idle.as_mut().poll(cx).is_pending();
            }
            connection.poll(cx)
        })
        .await
    }
}

/// The handling of a request.
type Handling = BoxFuture<'static, (Response, Option<Closing>)>;

/// What a connection does.
enum State {
    /// It waits for a head, once the last response is written.
    Reading,
    Handling(Handling),
    Responding(SentBody),
    /// The response is in the output, and the rest of the request may be on its way.
    Completing,
    /// The response has failed. What there is of it is written.
    Aborting,
    /// It ends once everything is written. `true` if the client may still be sending.
    Ending(bool),
    Lingering(Linger),
}

/// What follows a step. It sets the state itself, which is large.
enum Step {
    Next,
    Over,
}

struct Connection<'a, S: Stream> {
    listener: &'a Listener,
    client: Arc<ClientConnection>,
    shared: Arc<Shared<S>>,
    state: State,
    /// The client of the current request accepts trailers.
    trailers: bool,
    /// Takes the stream if the current request changes the protocol.
    upgrade: Option<GiveStream>,
    /// Number of requests.
    heads: u32,
    /// The connection ends with the current request.
    is_leaving: bool,
    clock: Clock<'a>,
    /// Counts the connection, also after an upgrade.
    open: Arc<OpenConnection>,
}

impl<S: Stream> Connection<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_leaving && self.listener.shutdown.has_reached(shutdown::Phase::ClosingIdle) {
            self.is_leaving = true;
            self.shared.lock().codec.close_after_response();
        }
        loop {
            match self.poll_state(cx) {
                Poll::Ready(Ok(Step::Next)) => {}
                Poll::Ready(Ok(Step::Over)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => ready!(self.poll_clock(cx))?,
            }
        }
    }

    fn poll_state(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Step>> {
        match &mut self.state {
            State::Reading => self.poll_head(cx),
            State::Handling(_) => self.poll_handling(cx),
            State::Responding(body) => {
                let polled = response::poll(&self.shared, body, self.trailers, cx);
                match ready!(polled) {
                    Ok(Progress::Complete) => self.state = State::Completing,
                    Ok(Progress::Gone) => return Poll::Ready(Ok(Step::Over)),
                    Err(ResponseError::Io(error)) => return Poll::Ready(Err(error)),
                    Err(error) => {
                        tracing::debug!(%error, "response is cut");
                        body.fail(&BodyError::Other(error.to_string()));
                        self.state = State::Aborting;
                    }
                }
                Poll::Ready(Ok(Step::Next))
            }
            State::Completing => self.poll_completion(cx),
            State::Aborting => {
                ready!(self.shared.lock().poll_drain(cx))?;
                Poll::Ready(Err(io::Error::other("response cut")))
            }
            State::Ending(expects) => {
                let expects = *expects;
                ready!(self.shared.lock().poll_shutdown(cx))?;
                self.state = State::Lingering(Linger::new(expects));
                Poll::Ready(Ok(Step::Next))
            }
            State::Lingering(linger) => {
                linger.poll(self.shared.lock().stream()?, cx).map(|()| Ok(Step::Over))
            }
        }
    }

    /// Reads a head, but not before the last response is written.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Step>> {
        let read = {
            let mut io = self.shared.lock();
            ready!(io.poll_drain(cx))?;
            loop {
                match io.codec.poll() {
                    Ok(Some(Event::Head(head))) => {
                        io.begin_body(head.framing.has_body());
                        break Ok(head);
                    }
                    Ok(_) => {}
                    Err(error) => break Err(error),
                }
                if !io.reserve_head() {
                    break Err(io.codec.refuse_large());
                }
                let leaves = self.is_leaving && self.heads > 0 && io.codec.phase() == Phase::Idle;
                if leaves || io.codec.is_closed() {
                    self.state = State::Ending(false);
                    return Poll::Ready(Ok(Step::Next));
                }
                if ready!(io.poll_read(cx))? == 0 {
                    io.codec.end_input();
                }
            }
        };
        match read {
            Ok(head) => self.begin(head),
            Err(error) => self.state = self.refuse(&error),
        }
        Poll::Ready(Ok(Step::Next))
    }

    /// Writes the response to a malformed head.
    fn refuse(&self, error: &Error) -> State {
        let mut io = self.shared.lock();
        tracing::debug!(%error, "malformed request");
        let Some(response) = io.codec.refusal(error) else { return State::Ending(false) };
        io.output.head.extend_from_slice(response);
        self.listener.count_refused(match error.refusal() {
            Refusal::TooLarge => Reason::HeadTooLarge,
            Refusal::TargetTooLong => Reason::TargetTooLong,
            _ => Reason::MalformedRequest,
        });
        State::Ending(true)
    }

    /// Begins to handle a request.
    fn begin(&mut self, received: RequestHead) {
        self.heads = self.heads.wrapping_add(1);
        self.clock.begin_response();
        self.trailers = received.options.accepts_trailers;
        let body = if received.framing.has_body() {
            Body::of_frames(RequestBody::new(self.shared.clone(), received.framing))
        } else {
            Body::empty()
        };
        let head = received.parts;
        let may_change = received.options.upgrade && head.version == Version::HTTP_11;
        let upgrade = (may_change || head.method == Method::CONNECT).then(upgrade::pending);
        let (mut upgrade, give) = upgrade.unzip();
        if let Some(upgrade) = &mut upgrade {
            upgrade.hold(self.open.clone());
        }
        self.upgrade = give;
        let request = ReceivedRequest { head, body, interim: Some(self.shared.clone()), upgrade };
        let client = self.client.clone();
        self.state = State::Handling(boxed(move || respond(client, request)));
    }

    fn poll_handling(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Step>> {
        let State::Handling(handling) = &mut self.state else { return Poll::Pending };
        self.shared.lock().begin_poll(cx);
        let polled = handling.as_mut().poll(cx);
        let mut io = self.shared.lock();
        io.end_poll();
        let Poll::Ready((mut response, closing)) = polled else {
            // Informational responses.
            ready!(io.poll_drain(cx))?;
            return io.poll_gone(cx).map_ok(|()| Step::Over);
        };
        advertise(&self.client, &mut response);
        let mut body = SentBody::new(response.body, closing);
        if io.codec.phase() == Phase::Body && !io.body.is_open && !io.discard(cx) {
            io.codec.close_after_response();
        }
        io.begin_response(&response.head, &body);
        if io.codec.is_sending() {
            self.state = State::Responding(body);
        } else {
            drop(io);
            body.complete();
            self.state = State::Completing;
        }
        Poll::Ready(Ok(Step::Next))
    }

    /// Writes the end of a response, and decides what follows.
    fn poll_completion(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Step>> {
        let mut io = self.shared.lock();
        ready!(io.poll_drain(cx))?;
        self.clock.end_response();
        if io.codec.phase() == Phase::Body {
            if io.body.is_open {
                return Poll::Pending;
            }
            if !io.discard(cx) {
                self.state = State::Ending(true);
                return Poll::Ready(Ok(Step::Next));
            }
        }
        if io.codec.is_switching() {
            if let (Ok(Some(Event::Upgraded(first))), Some(give)) = (io.codec.poll(), self.upgrade.take())
                && let Some(stream) = io.take_stream()
            {
                // The other side may have given up.
                let _ = give.send(Box::new(Prefixed::new(first.to_vec(), stream)));
            }
            return Poll::Ready(Ok(Step::Over));
        }
        let has_failed = io.body.has_failed;
        io.held.release();
        let is_over = has_failed || io.codec.is_closed();
        self.state = if is_over { State::Ending(has_failed) } else { State::Reading };
        Poll::Ready(Ok(Step::Next))
    }

    /// Returns what the connection waits for, and a counter that changes with progress.
    fn wait(&self, io: &Io<S>) -> (Wait, u32) {
        match &self.state {
            // The time of the response limits it.
            _ if io.is_write_blocked => (Wait::Write(None), io.writes),
            State::Reading if io.codec.phase() == Phase::Head => (Wait::Head, self.heads),
            State::Reading if self.heads > 0 => (Wait::Next, self.heads),
            State::Reading => (Wait::First { drains: self.is_leaving }, u32::from(self.is_leaving)),
            State::Handling(_) | State::Completing if io.body.is_awaited => {
                let min_rate = io.body.limits.unwrap_or(self.listener.limits.min_rate());
                (Wait::Body { min_rate, received: io.received }, io.reads)
            }
            _ => (Wait::Nothing, 0),
        }
    }

    /// Ready when the connection must be polled again.
    ///
    /// # Errors
    /// If the connection must be closed.
    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut io = self.shared.lock();
            let (wait, mark) = self.wait(&io);
            let what = match ready!(self.clock.poll(wait, mark, cx)) {
                Due::Park => {
                    io.park();
                    continue;
                }
                Due::Leave => {
                    self.state = State::Ending(false);
                    return Poll::Ready(Ok(()));
                }
                // Its reader, and not the client, lets it wait.
                Due::Late if io.has_input(cx) => {
                    io.body.is_awaited = false;
                    continue;
                }
                Due::Late if io.body.limits.is_some() => {
                    io.fail_late_body();
                    return Poll::Ready(Ok(()));
                }
                Due::Late => "more of a request body",
                Due::Cut(what) => what,
            };
            drop(io);
            self.client.progress.cut();
            if let State::Responding(body) = &mut self.state {
                body.fail(&BodyError::TimedOut);
            }
            return Poll::Ready(Err(timed_out(what)));
        }
    }
}

impl<S: Stream> Drop for Connection<'_, S> {
    fn drop(&mut self) {
        // The body of a request may outlive the connection.
        drop(self.shared.lock().take_stream());
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use tokio::net::TcpStream;
    use tokio_rustls::server::TlsStream;

    use super::*;

    /// What an idle connection needs besides buffers, which it does not have.
    fn size<S: Stream, F>(_: impl Fn(Arc<ClientConnection>, S, OpenConnection) -> F) -> usize {
        size_of::<F>() + size_of::<Shared<S>>()
    }

    #[test]
    fn idle_connections_are_small() {
        let plain = size(serve::<Prefixed<TcpStream>>);
        let secured = size(serve::<TlsStream<Prefixed<TcpStream>>>);
        assert!(plain <= 1152 && secured <= 2368, "{plain} {secured}");
    }
}
