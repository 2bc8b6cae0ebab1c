//! A connection for one request: an exclusive one, or a stream of a shared one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::client::conn::http2;
use tidegate_core::{Body, Opened};

use super::http1::Http1;
use super::pool::{Shared, Streams};

/// An exclusive connection, or a stream of a shared one.
pub(super) enum Lease {
    Own { connection: Box<Http1>, opened: Option<Opened> },
    Stream { sender: http2::SendRequest<Body>, count: StreamCount, opened: Option<Opened> },
}

impl Lease {
    /// Returns when the connection was opened; `None` if it was used before.
    pub(super) fn opened(&self) -> Option<Opened> {
        match self {
            Self::Own { opened, .. } | Self::Stream { opened, .. } => *opened,
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

pub(super) fn stream_of(shared: Shared, opened: Option<Opened>) -> Lease {
    Lease::Stream { sender: shared.sender, count: StreamCount(shared.streams), opened }
}
