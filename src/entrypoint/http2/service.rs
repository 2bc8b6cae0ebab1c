//! Requests and responses between the HTTP library and the gateway.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::EXPECT;
use http::{Method, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tidegate_core::body::MinDataRate;
use tidegate_core::{Body, BodyError, BoxFuture, boxed};
use tokio::time::{Instant, Sleep};

use crate::entrypoint::http::body::{OpenResponse, SentBody};
use crate::entrypoint::http::client_connection::ClientConnection;
use crate::entrypoint::http::min_rate::{self, Responding};
use crate::entrypoint::http::{ReceivedRequest, advertise, begin_tunnel, respond, tunnel, upgrade};
use crate::entrypoint::linger::{self, Leftover};

/// Handles the requests of one HTTP/2 connection.
#[derive(Clone)]
pub(super) struct HttpService(Arc<ClientConnection>);

impl HttpService {
    /// Creates the service for a connection.
    pub(super) fn new(client: Arc<ClientConnection>) -> Self {
        Self(client)
    }
}

/// The response did not start within `writeTimeout`; its stream is reset (HTTP/2).
#[derive(Debug, thiserror::Error)]
#[error("no response within writeTimeout")]
pub(super) struct WriteTimeout;

impl hyper::service::Service<hyper::Request<Incoming>> for HttpService {
    type Response = Response<ResponseBody>;
    type Error = WriteTimeout;
    // Boxed, so that an idle connection does not reserve the memory of a request.
    type Future = BoxFuture<'static, Result<Self::Response, WriteTimeout>>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let client = self.0.clone();
        let open = OpenResponse::new(client.progress.clone());
        let deadline = client.listener.limits.write.map(|limit| Instant::now() + limit);
        boxed(move || async move {
            let mut timer = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
            let mut serving = pin!(handle_stream(&client, request, open, deadline));
            // Polled in one place only, so that it is inlined into this future.
            std::future::poll_fn(|cx| match (serving.as_mut().poll(cx), &mut timer) {
                (Poll::Ready(response), _) => Poll::Ready(Ok(response)),
                (Poll::Pending, Some(timer)) => timer.as_mut().poll(cx).map(|()| Err(WriteTimeout)),
                (Poll::Pending, None) => Poll::Pending,
            })
            .await
        })
    }
}

/// Handles the request of an HTTP/2 stream.
async fn handle_stream(
    client: &ClientConnection,
    request: hyper::Request<Incoming>,
    open: OpenResponse,
    deadline: Option<Instant>,
) -> Response<ResponseBody> {
    let is_head = request.method() == Method::HEAD;
    let (head, incoming) = request.into_parts();
    let mut head = Box::new(head);
    let min_rate = min_rate::for_request(client.listener.limits.min_rate(), &head.headers);
    let (body, upload) = request_body(incoming, min_rate);
    let (responding, mut leftover) = upload.unzip();
    let waits = leftover.is_some() && head.headers.contains_key(EXPECT);
    let mut upgrade = head.extensions.remove::<OnUpgrade>().map(upgrade::of_library);
    let tunnel = head.method == Method::CONNECT && begin_tunnel(&mut head);
    if let Some(upgrade) = upgrade.as_mut().filter(|_| tunnel) {
        // The connection counts as busy while the tunnel is open.
        upgrade.hold(Arc::new(OpenResponse::new(client.progress.clone())));
    }
    // The library cannot send informational responses.
    let arrived = ReceivedRequest { head, body, interim: None, upgrade };
    let (mut response, closing) = respond(client, arrived).await;
    if tunnel {
        response = tunnel::connect_response(response);
    }
    advertise(client, &mut response);
    if let Some(leftover) = &mut leftover
        && response.status().is_redirection()
        && !waits
    {
        Box::pin(linger::drain_before(leftover)).await;
    }
    // Clients continue to send after a success, and some stop reading: only a reset reaches them.
    let leftover = leftover.filter(|_| !response.status().is_success());
    let headless = is_head || response.status() == StatusCode::NOT_MODIFIED;
    let (head, body) = response.into_parts();
    let mut body = ResponseBody::new(SentBody::new(body, closing), open, headless);
    body.bind(responding, leftover, deadline);
    Response::from_parts(*head, body)
}

/// A response body as the HTTP library reads it (HTTP/2).
pub(super) struct ResponseBody {
    body: SentBody,
    open: OpenResponse,
    /// What few responses need; boxed, because this body is moved several times.
    framed: Option<Box<Framed>>,
}

/// What ties an HTTP/2 response to its request.
struct Framed {
    /// Tells the request body that the response has started.
    responding: Option<Responding>,
    /// The rest of the request body, which the client may still be sending after the response.
    leftover: Option<Leftover>,
    /// When the response must be complete.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    /// Creates a body whose end completes `open`. If `headless`, nothing of `body` is sent after the head.
    fn new(body: SentBody, open: OpenResponse, headless: bool) -> Self {
        let mut this = Self { body, open, framed: None };
        if !this.body.is_end_stream() && !headless {
            this.open.set_stalled(true);
        }
        this
    }

    /// Ties the response to its request: `responding` is set until the response ends, then `leftover` is discarded. The
    /// response fails at `deadline`.
    fn bind(
        &mut self,
        responding: Option<Responding>,
        leftover: Option<Leftover>,
        deadline: Option<Instant>,
    ) {
        let deadline = deadline.filter(|_| !self.body.is_end_stream());
        if responding.is_none() && leftover.is_none() && deadline.is_none() {
            return;
        }
        if let Some(responding) = &responding {
            responding.set(true);
        }
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        self.framed = Some(Box::new(Framed { responding, leftover, deadline }));
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let deadline = this.framed.as_mut().and_then(|framed| framed.deadline.as_mut());
        if deadline.is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            this.body.fail(&BodyError::TimedOut);
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        }
        let polled = this.body.poll_frame(cx);
        this.open.set_stalled(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let framed = self.framed.take();
        if let Some(responding) = framed.as_ref().and_then(|framed| framed.responding.as_ref()) {
            responding.set(false);
        }
        if self.open.is_cut() {
            self.body.fail(&BodyError::TimedOut);
        }
        if let Some(leftover) = framed.and_then(|framed| framed.leftover) {
            linger::drain_behind(leftover);
        }
    }
}

/// Returns the body of a request of HTTP/2. The response then has to report when it is under way, and the rest of the
/// body can be drained.
fn request_body(incoming: Incoming, min_rate: MinDataRate) -> (Body, Option<(Responding, Leftover)>) {
    if incoming.is_end_stream() {
        return (Body::empty(), None);
    }
    let responding = Responding::stream();
    let (body, leftover) =
        min_rate::with_min_rate_and_leftover(Body::incoming(incoming), min_rate, responding.clone());
    (body, Some((responding, leftover)))
}
