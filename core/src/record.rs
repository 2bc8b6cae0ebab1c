//! What is remembered of one request for the access log and the metrics.
//!
//! Opened at the door, filled on the way by router, service and upstream, closed when the response body ends. It
//! exists only when somebody will read it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Maximum number of failed attempts that are remembered of one request.
const MAX_FAILED: usize = 16;

/// The record of one request.
#[derive(Debug)]
pub struct Record {
    /// When the request head had been read.
    pub started: Instant,
    fields: Mutex<Fields>,
}

/// What is filled in on the way. Service, server and origin belong to one attempt: that which was answered, or the last.
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
    /// When the request was sent to the server.
    pub asked: Option<Instant>,
    /// Status of the server's answer.
    pub origin_status: Option<u16>,
    /// Length of the server's body, in bytes, when it was known.
    pub origin_size: Option<u64>,
    /// Time from sending the request to the head of the answer, or to the failure.
    pub origin_duration: Option<Duration>,
    /// How often the request was sent again.
    pub retries: u32,
    /// The attempts whose answers the client did not get, oldest first, at most 16.
    pub failed: Vec<Failed>,
    /// The record of the request for the page that replaced the answer (`errors`).
    pub error_page: Option<Arc<Record>>,
    /// Request headers as they came in, when the log keeps any.
    pub request_headers: Option<http::HeaderMap>,
    /// Headers of the server's answer. The log sets it to an empty map when it keeps any.
    pub origin_headers: Option<http::HeaderMap>,
}

/// An attempt that was followed by another one.
#[derive(Clone, Debug)]
pub struct Failed {
    /// `name@provider` of the service.
    pub service: Option<Arc<str>>,
    /// URL of the server, as configured.
    pub server_url: Option<Arc<str>>,
    /// `host:port` of the server.
    pub server_addr: Option<Arc<str>>,
    /// Status of the answer, which may be one of the gateway when the server gave none.
    pub status: u16,
    /// Time from sending the request to the head of the answer, or to the failure.
    pub duration: Option<Duration>,
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

    /// Notes the service that gets the request, in place of an earlier one and its server.
    pub fn note_service(&self, name: &Arc<str>) {
        self.note(|fields| {
            fields.clear_attempt();
            fields.service = Some(name.clone());
        });
    }

    /// Notes the server that gets the request, in place of an earlier one and its answer.
    pub fn note_server(&self, url: &Arc<str>, address: &Arc<str>, asked: Option<Instant>) {
        self.note(|fields| {
            fields.clear_attempt();
            fields.server_url = Some(url.clone());
            fields.server_addr = Some(address.clone());
            fields.asked = asked;
        });
    }

    /// Notes that the answer `status` is discarded because another attempt follows.
    pub fn note_failed(&self, status: u16) {
        self.note(|fields| fields.fail(status));
    }

    /// Notes that the answer `status` is discarded and the request sent again.
    pub fn note_retry(&self, status: u16) {
        self.note(|fields| {
            fields.fail(status);
            fields.retries += 1;
        });
    }

    /// Notes that a page replaces the answer with this status and length. Returns the record for the page's request.
    pub fn note_error_page(&self, status: u16, size: Option<u64>) -> Arc<Self> {
        let page = Arc::new(Self::begin());
        self.note(|fields| {
            match fields.error_page.replace(page.clone()) {
                // A page in place of a page.
                Some(replaced) => fields.push_failed(replaced.fields().into_failed(status)),
                None if fields.server_url.is_some() => {
                    fields.origin_status.get_or_insert(status);
                    fields.origin_size = fields.origin_size.or(size).or(Some(0));
                }
                None => {}
            }
        });
        page
    }

    /// Notes the length of the body that a server sent with the answer that the client gets.
    pub fn note_size(&self, bytes: u64) {
        let page = self.fields.lock().error_page.clone();
        page.as_deref().unwrap_or(self).note(|fields| fields.origin_size = Some(bytes));
    }
}

impl Fields {
    /// Forgets server and answer of the attempt before.
    fn clear_attempt(&mut self) {
        self.server_url = None;
        self.server_addr = None;
        self.asked = None;
        self.origin_status = None;
        self.origin_size = None;
        self.origin_duration = None;
        if let Some(headers) = &mut self.origin_headers {
            headers.clear();
        }
    }

    fn fail(&mut self, status: u16) {
        self.error_page = None;
        if self.service.is_some() {
            let failed = self.clone().into_failed(status);
            self.push_failed(failed);
        }
        self.service = None;
        self.clear_attempt();
    }

    fn into_failed(self, status: u16) -> Failed {
        Failed {
            service: self.service,
            server_url: self.server_url,
            server_addr: self.server_addr,
            status: self.origin_status.unwrap_or(status),
            duration: self.origin_duration,
        }
    }

    fn push_failed(&mut self, failed: Failed) {
        if self.failed.len() < MAX_FAILED {
            self.failed.push(failed);
        }
    }
}
