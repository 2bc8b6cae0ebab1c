//! How a listener stops: it drains, and then closes idle connections.

use std::sync::atomic::{AtomicU8, Ordering};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// A phase of the shutdown. Each includes the previous one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No more connections are accepted. Open ones finish their requests, and responses announce the end.
    Draining,
    /// Idle HTTP/1 connections are closed. This comes shortly after [`Phase::Draining`], so that a request in flight
    /// gets a response instead of a reset.
    ClosingIdle,
}

/// The phase that a listener has reached, if any.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    /// The number of phases entered, which each request looks at.
    entered: AtomicU8,
    draining: CancellationToken,
    closing_idle: CancellationToken,
}

impl Shutdown {
    /// Enters a phase.
    pub(super) fn enter(&self, phase: Phase) {
        self.entered.fetch_max(phase as u8 + 1, Ordering::Release);
        self.draining.cancel();
        if phase == Phase::ClosingIdle {
            self.closing_idle.cancel();
        }
    }

    /// Resolves when a phase is reached.
    pub(super) fn reached(&self, phase: Phase) -> WaitForCancellationFuture<'_> {
        self.token(phase).cancelled()
    }

    /// Returns true if a phase is reached.
    pub(super) fn has_reached(&self, phase: Phase) -> bool {
        self.entered.load(Ordering::Acquire) > phase as u8
    }

    fn token(&self, phase: Phase) -> &CancellationToken {
        match phase {
            Phase::Draining => &self.draining,
            Phase::ClosingIdle => &self.closing_idle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other() {
        let shutdown = Shutdown::default();
        assert!(!shutdown.has_reached(Phase::Draining));
        shutdown.enter(Phase::Draining);
        assert!(shutdown.has_reached(Phase::Draining) && !shutdown.has_reached(Phase::ClosingIdle));
        let shutdown = Shutdown::default();
        shutdown.enter(Phase::ClosingIdle);
        assert!(shutdown.has_reached(Phase::Draining) && shutdown.has_reached(Phase::ClosingIdle));
    }
}
