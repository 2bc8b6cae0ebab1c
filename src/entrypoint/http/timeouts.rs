//! Timeouts of a router: for the request body, the response and the whole request.

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
use crate::entrypoint::http::min_rate;
use crate::entrypoint::http::timed_body::{TimedBody, Watch};
use crate::snapshot::Timeouts;

/// A request whose router has timeouts.
pub(in crate::entrypoint) struct TimedRequest {
    timeouts: Timeouts,
    deadline: Option<Instant>,
    /// Reports the end of the request body.
    body: Arc<BodyEnd>,
}

/// Applies the timeouts of a router to a request. Returns `None` if there are none.
pub(in crate::entrypoint) fn begin(
    client: &ClientConnection,
    request: &mut Request,
    timeouts: Option<&Timeouts>,
) -> Option<TimedRequest> {
    let timeouts = timeouts?;
    let body = Arc::new(BodyEnd::default());
    if request.body.is_end_stream() {
        body.set();
    } else {
        let inner = std::mem::take(&mut request.body);
        request.body =
            with_min_rate(client, request, inner, timeouts).with_guard(Box::new(EndGuard(body.clone())));
    }
    let deadline = timeouts.request.map(|limit| Instant::now() + limit);
    Some(TimedRequest { timeouts: *timeouts, deadline, body })
}

/// Applies the router's limits to the rate of a body, or those of the entry point if the router has none.
fn with_min_rate(client: &ClientConnection, request: &Request, mut body: Body, timeouts: &Timeouts) -> Body {
    let general = min_rate::for_request(client.listener.limits.min_rate(), &request.head.headers);
    let min_rate = MinDataRate {
        stall: timeouts.request_body.or(general.stall),
        rate: timeouts.min_body_rate.unwrap_or(general.rate),
    };
    body.set_min_rate(min_rate);
    body
}

impl TimedRequest {
    /// Runs the chain. Returns its response, or an error response if it takes too long.
    pub(in crate::entrypoint) async fn run(self, next: &Next, request: Request) -> Response {
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
                Some(deadline) => {
                    tokio::time::sleep_until(deadline).await;
                    // Before the request is dropped, which ends its body.
                    self.body.is_set()
                }
            }
        };
        let response = tokio::select! {
            biased;
            response = next.run(request) => response,
            () = late => return reply::status_text(StatusCode::GATEWAY_TIMEOUT, Reason::RouterTimeout),
            is_sent = over => return deadline_response(is_sent),
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
                ResponseWatch { stall, deadline, waiting: false, until: None, timer: None },
            )
        })
    }
}

/// Returns the response to a request past its deadline: 504, or the client's timeout if its body is incomplete.
fn deadline_response(is_sent: bool) -> Response {
    if is_sent {
        reply::status_text(StatusCode::GATEWAY_TIMEOUT, Reason::RouterTimeout)
    } else {
        reply::upstream_failure(UpstreamError::ClientTimeout)
    }
}

/// Whether a request body has ended.
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

    /// Waits for the end. For one waiter only, which `notify_one` wakes even if it comes later.
    async fn wait(&self) {
        while !self.is_set() {
            self.notify.notified().await;
        }
    }
}

/// Records the end of a request body.
struct EndGuard(Arc<BodyEnd>);

impl Guard for EndGuard {
    fn end(self: Box<Self>, _: End) {
        self.0.set();
    }
}

/// Fails a response body that stalls, or reaches its deadline.
struct ResponseWatch {
    stall: Option<Duration>,
    deadline: Option<Instant>,
    waiting: bool,
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Watch for ResponseWatch {
    fn on_frame(&mut self, _: &Frame<Bytes>) -> bool {
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
