//! What is remembered of one request for the access log and the metrics.
//!
//! Opened at the door, filled on the way by router, service and upstream, closed when the response body ends. It
//! exists only when somebody will read it.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

/// The record of one request.
#[derive(Debug)]
pub struct Record {
    /// When the request head had been read.
    pub started: Instant,
    fields: Mutex<Fields>,
}

/// What is filled in on the way.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    /// `name@provider` of the router.
    pub router: Option<Arc<str>>,
    /// `name@provider` of the service.
    pub service: Option<Arc<str>>,
    /// URL of the server that answered, as configured.
    pub server_url: Option<Arc<str>>,
    /// `host:port` of that server.
    pub server_addr: Option<Arc<str>>,
    /// Who the client is, as an authentication middleware found.
    pub user: Option<String>,
    /// Status of the server's answer.
    pub origin_status: Option<u16>,
    /// Length of the server's body, in bytes, when it was known.
    pub origin_size: Option<u64>,
    /// Time from sending the request to the head of the answer.
    pub origin_duration: Option<std::time::Duration>,
    /// How often the request was sent again.
    pub retries: u32,
    /// Request headers as they came in, when the log keeps any.
    pub request_headers: Option<http::HeaderMap>,
    /// Headers of the server's answer. The log sets it to an empty map when it keeps any.
    pub origin_headers: Option<http::HeaderMap>,
}

impl Record {
    /// A record that begins now.
    pub fn begin() -> Self {
        Self { started: Instant::now(), fields: Mutex::default() }
    }

    /// Fills in some fields.
    pub fn note(&self, fill: impl FnOnce(&mut Fields)) {
        fill(&mut self.fields.lock());
    }

    /// What has been filled in so far.
    pub fn fields(&self) -> Fields {
        self.fields.lock().clone()
    }
}
