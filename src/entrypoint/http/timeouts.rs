//! A router's own timeouts: for the request body, for the answer, and for the whole request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame};
use tidegate_core::body::MinDataRate;
use tidegate_core::{Body, End, Guard, Next, Reason, Request, Response, UpstreamError, reply};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http::min_rate::{self, Answering};
use crate::entrypoint::http::timed_body::{TimedBody, Watch};
use crate::snapshot::Timeouts;

/// How much later than the body itself its connection gives up (HTTP/1): the answer should get out.
const GRACE: Duration = Duration::from_secs(5);

/// A request with timeouts of its own.
pub(in crate::entrypoint) struct Timed {
    timeouts: Timeouts,
    deadline: Option<Instant>,
    /// Tells when the request body is over.
    body: Arc<BodyEnd>,
}

/// Prepares a request for the timeouts of its router. Without any, nothing is done.
pub(in crate::entrypoint) fn begin(
    client: &ClientConnection,
    request: &mut Request,
    timeouts: Option<&Timeouts>,
) -> Option<Timed> {
    let Some(timeouts) = timeouts else {
        if !client.protocol.is_framed() {
            client.progress.set_patience(None);
        }
        return None;
    };
    let body = Arc::new(BodyEnd::default());
    if request.body.is_end_stream() {
        body.set();
    } else {
        let inner = std::mem::take(&mut request.body);
        request.body =
            with_min_rate(client, request, inner, timeouts).with_guard(Box::new(Ending(body.clone())));
    }
    let deadline = timeouts.request.map(|limit| Instant::now() + limit);
    Some(Timed { timeouts: *timeouts, deadline, body })
}

/// Applies the router's limits on the rate of a body, or those of the entry point where the router has none.
fn with_min_rate(client: &ClientConnection, request: &Request, mut body: Body, timeouts: &Timeouts) -> Body {
    let general = min_rate::of_request(client.listener.limits.min_rate(), &request.head.headers);
    let min_rate = MinDataRate {
        stall: timeouts.request_body.or(general.stall),
        rate: timeouts.min_body_rate.unwrap_or(general.rate),
    };
    if !client.protocol.is_framed() {
        client.progress.set_patience(Some(min_rate.stall.map(|stall| stall.saturating_add(GRACE))));
    }
    if body.set_min_rate(min_rate) {
        return body;
    }
    min_rate::with_min_rate(body, min_rate, Answering::Connection(client.progress.clone()))
}

impl Timed {
    /// The answer, or one of ours when it takes too long.
    pub(in crate::entrypoint) async fn answer(self, next: &Next, request: Request) -> Response {
        let late = async {
            match self.timeouts.response {
                None => std::future::pending().await,
                Some(limit) => {
                    self.body.wait().await;
                    tokio::time::sleep(limit).await;
                }
            }
        };
        let over = async {
            match self.deadline {
                None => std::future::pending().await,
                Some(deadline) => tokio::time::sleep_until(deadline).await,
            }
        };
        let response = tokio::select! {
            biased;
            response = next.run(request) => response,
            () = late => return reply::status_text(StatusCode::GATEWAY_TIMEOUT, Reason::RouterTimeout),
            () = over => return self.missed(),
        };
        let plain =
            response.body().as_bytes().is_some() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if plain || (self.timeouts.response_body.is_none() && self.deadline.is_none()) {
            return response;
        }
        let (stall, deadline) = (self.timeouts.response_body, self.deadline);
        response.map(|inner| {
            TimedBody::watched(
                inner,
                AnswerWatch { stall, deadline, waiting: false, until: None, timer: None },
            )
        })
    }

    /// The answer when the whole request took too long: whoever still has to send is late.
    fn missed(&self) -> Response {
        match self.body.is_set() {
            true => reply::status_text(StatusCode::GATEWAY_TIMEOUT, Reason::RouterTimeout),
            false => reply::upstream_failure(UpstreamError::ClientTimeout),
        }
    }
}

/// Whether a request body is over.
#[derive(Default)]
struct BodyEnd {
    over: AtomicBool,
    notify: Notify,
}

impl BodyEnd {
    fn set(&self) {
        self.over.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    fn is_set(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// One waits at most, so the note that was left before is there.
    async fn wait(&self) {
        while !self.is_set() {
            self.notify.notified().await;
        }
    }
}

/// Notes the end of a request body.
struct Ending(Arc<BodyEnd>);

impl Guard for Ending {
    fn end(self: Box<Self>, _: End) {
        self.0.set();
    }
}

/// Cuts an answer when the server makes no progress, or at a deadline.
struct AnswerWatch {
    stall: Option<Duration>,
    deadline: Option<Instant>,
    waiting: bool,
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch for AnswerWatch {
    fn came(&mut self, _: &Frame<Bytes>) -> bool {
        self.waiting = false;
        self.deadline.is_none_or(|deadline| Instant::now() < deadline)
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waiting {
            self.waiting = true;
            self.until =
                self.stall.map(|stall| Instant::now() + stall).into_iter().chain(self.deadline).min();
        }
        let Some(until) = self.until else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }
}
