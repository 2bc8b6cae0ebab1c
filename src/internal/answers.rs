//! Services with a fixed response: `ping`, `ready`, `noop`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use tidegate_core::{BoxFuture, Handler, Reason, Request, Response, reply};

use crate::configuration::Readiness;
use crate::service::Service;

/// `ping@internal`: the process is running.
pub(super) struct Ping {
    terminating_status: StatusCode,
    terminating: Arc<AtomicBool>,
}

impl Ping {
    /// Responds with `OK`, and with `terminating_status` during shutdown.
    pub(super) fn new(terminating_status: u16, terminating: Arc<AtomicBool>) -> Self {
        let terminating_status =
            StatusCode::from_u16(terminating_status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self { terminating_status, terminating }
    }
}

impl Handler for Ping {
    fn call<'a>(&'a self, _: Request) -> BoxFuture<'a, Response> {
        if self.terminating.load(Ordering::Relaxed) {
            return answer(self.terminating_status, reply::text_of(self.terminating_status));
        }
        answer(StatusCode::OK, "OK")
    }
}

/// `ready@internal`: every provider has delivered its first state, which is active.
pub(super) struct Ready {
    readiness: Arc<Readiness>,
    terminating: Arc<AtomicBool>,
}

impl Ready {
    pub(super) fn new(readiness: Arc<Readiness>, terminating: Arc<AtomicBool>) -> Self {
        Self { readiness, terminating }
    }
}

impl Handler for Ready {
    fn call<'a>(&'a self, _: Request) -> BoxFuture<'a, Response> {
        if self.terminating.load(Ordering::Relaxed) {
            return answer(StatusCode::SERVICE_UNAVAILABLE, "stopping");
        }
        if self.readiness.is_ready() {
            return answer(StatusCode::OK, "OK");
        }
        let waiting = self.readiness.waiting_for().join(", ");
        answer(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {waiting}"))
    }
}

/// `noop@internal`: for routers whose middlewares respond.
pub(super) struct Noop;

impl Handler for Noop {
    fn call<'a>(&'a self, _: Request) -> BoxFuture<'a, Response> {
        Box::pin(std::future::ready(reply::empty(StatusCode::IM_A_TEAPOT, Reason::OwnService)))
    }
}

macro_rules! always_up {
    ($($service:ty),*) => {$(
        impl Service for $service {
            fn is_up(&self) -> bool {
                true
            }
        }
    )*};
}
always_up!(Ping, Ready, Noop);

fn answer<'a>(status: StatusCode, text: impl Into<bytes::Bytes>) -> BoxFuture<'a, Response> {
    Box::pin(std::future::ready(reply::bare(status, text, Reason::OwnService)))
}
