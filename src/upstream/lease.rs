//! A connection for one request: an exclusive one, or a stream of a shared one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::client::conn::http2;
use tidegate_core::Body;

use super::pool::{Own, Shared, Streams};

/// An exclusive connection, or a stream of a shared one.
pub(super) enum Lease {
    Own { own: Own, reused: bool },
    Stream { sender: http2::SendRequest<Body>, count: StreamCount, reused: bool },
}

impl Lease {
    /// Returns true if the connection was used before.
    pub(super) fn reused(&self) -> bool {
        match self {
            Self::Own { reused, .. } | Self::Stream { reused, .. } => *reused,
        }
    }
}

/// Counts one stream of a shared connection until dropped.
pub(super) struct StreamCount(pub(super) Arc<Streams>);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn stream_of(shared: Shared, reused: bool) -> Lease {
    Lease::Stream { sender: shared.sender, count: StreamCount(shared.streams), reused }
}
