//! Failures of servers, and when a stored response replaces them.

use tidegate_cache::rules::{self, RequestDirectives};
use tidegate_core::{Reason, Response, UpstreamError};

use super::shared::Shared;
use super::tiers::Stored;

/// Whether a stored response may be sent instead of a failure, to a request with these directives. `disconnected`: no
/// server can be reached.
pub(super) fn is_replaced_by(
    shared: &Shared,
    stored: &Stored,
    directives: &RequestDirectives,
    disconnected: bool,
) -> bool {
    let without_limit = disconnected && shared.stale_without_server;
    rules::usable_on_error(&stored.head().policy, directives, shared.now(), without_limit)
}

/// Whether a response is a failure that `stale-if-error` covers (RFC 5861 §4).
pub(super) fn is_failed(response: &Response) -> bool {
    response.failure.is_some() || rules::is_error(response.status())
}

/// Whether a response says that no server has taken the request: none is usable, connecting failed, or each connection
/// was closed without a response. Servers that have taken it and fail are left to `staleIfError`.
pub(super) fn is_disconnected(response: &Response) -> bool {
    // When `failover` has no usable service, no connection has failed: only the reason says it.
    response.reason == Some(Reason::NoServer)
        || response.failure.as_deref().is_some_and(UpstreamError::is_unsent)
}
