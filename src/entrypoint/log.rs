//! What entry points tell the access log and the metrics of each request.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, Uri, Version};
use tidegate_core::{Connection, Record, Request};

use crate::snapshot::Route;

/// Somebody who wants to know of requests.
pub trait RequestLog: Send + Sync + 'static {
    /// A request was routed (`None`: no router takes it). Gives a record to fill in on the way when it will be
    /// read. Headers that are to be logged must be noted here: later ones are changed.
    fn begin(&self, request: &Request, route: Option<&Route>) -> Option<Arc<Record>>;

    /// A request is over. Called once for each record, on a worker: it must not block.
    fn finish(&self, finished: Finished);
}

/// A request that is over.
pub struct Finished {
    /// What was filled in on the way.
    pub record: Arc<Record>,
    /// The connection it came by.
    pub connection: Arc<Connection>,
    /// Method.
    pub method: Method,
    /// Target as it was routed.
    pub uri: Uri,
    /// HTTP version of the client.
    pub version: Version,
    /// The `Host` header.
    pub host: Option<HeaderValue>,
    /// `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// `Referer`.
    pub referer: Option<HeaderValue>,
    /// Status of the answer.
    pub status: StatusCode,
    /// Headers of the answer.
    pub response_headers: http::HeaderMap,
    /// Bytes of the answer's body that were handed to the connection.
    pub sent: u64,
    /// Length of the request's body in bytes, when it was announced.
    pub request_length: Option<u64>,
    /// False when the answer broke off.
    pub complete: bool,
}

/// A request that is being watched for a log.
pub(super) struct Entry {
    log: Arc<dyn RequestLog>,
    finished: Finished,
    pub(super) sent: u64,
}

impl Entry {
    /// Asks the log about a request.
    pub(super) fn begin(
        log: &Arc<dyn RequestLog>,
        request: &mut Request,
        route: Option<&Route>,
    ) -> Option<Box<Self>> {
        let record = log.begin(request, route)?;
        request.context.record = Some(record.clone());
        let head = &request.head;
        let header = |name| head.headers.get(name).cloned();
        let finished = Finished {
            record,
            connection: request.context.connection.clone(),
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            host: header(http::header::HOST),
            user_agent: header(http::header::USER_AGENT),
            referer: header(http::header::REFERER),
            status: StatusCode::OK,
            response_headers: http::HeaderMap::new(),
            sent: 0,
            request_length: http_body::Body::size_hint(&request.body).exact(),
            complete: false,
        };
        Some(Box::new(Self { log: log.clone(), finished, sent: 0 }))
    }

    /// Notes the head of the answer.
    pub(super) fn answered(&mut self, response: &tidegate_core::Response) {
        self.finished.status = response.status();
        self.finished.response_headers.clone_from(response.headers());
    }

    /// Closes the entry.
    pub(super) fn finish(self: Box<Self>, complete: bool) {
        let this = *self;
        this.log.finish(Finished { sent: this.sent, complete, ..this.finished });
    }
}
