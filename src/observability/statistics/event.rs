//! What a worker keeps of a request that has ended.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tidegate_core::{Attempt, RouteInfo, ServerInfo};

/// A request that has ended.
pub(super) struct Event {
    pub(super) entry_point: u16,
    pub(super) client: Option<IpAddr>,
    pub(super) outcome: Outcome,
    pub(super) routes: SmallVec<[Arc<RouteInfo>; 1]>,
    pub(super) attempts: SmallVec<[Hit; 1]>,
}

/// What became of a request, or of one attempt at a server.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    pub(super) is_error: bool,
    /// Until the head of the response; `None` if there was none.
    pub(super) time: Option<Duration>,
}

/// One attempt at a server.
pub(super) struct Hit {
    pub(super) service: Arc<str>,
    pub(super) server: Option<Arc<ServerInfo>>,
    pub(super) outcome: Outcome,
}

impl Hit {
    pub(super) fn new(attempt: &Attempt) -> Self {
        let status = attempt.status();
        Self {
            service: attempt.service.clone(),
            server: attempt.server.clone(),
            outcome: Outcome {
                is_error: status.is_none_or(|status| status >= 500),
                time: status.and_then(|_| attempt.took()),
            },
        }
    }
}
