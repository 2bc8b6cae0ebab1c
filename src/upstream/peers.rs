//! Keeps connections of a server only to the current addresses of its name.
//!
//! The peer of an established connection does not change: another host that gets the address resets the
//! connection. So a kept connection is safe without a lookup, but its name may refer to another server by
//! now. While there are connections, requests trigger lookups in the background. If the last lookup is old,
//! the first request waits for the answer before it uses a kept connection.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_clients::dial::{self, Answer, LookupError, MAX_AGE};
use tokio::sync::Notify;

use super::{Endpoint, Host};

/// Maximum age of the last lookup in milliseconds to use a kept connection without waiting for the next
/// lookup.
const MAX_UNCONFIRMED: u64 = 250;
/// Maximum time that requests wait for a lookup. After it, kept connections are used anyway, as their peer
/// does not change.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(500);

/// The state of lookups of a server's name.
#[derive(Default)]
pub(super) struct Peers {
    /// When the last lookup ended, in milliseconds of [`now`]; 0 for never.
    checked: AtomicU64,
    /// When the current lookup started.
    began: AtomicU64,
    asking: AtomicBool,
    ended: Notify,
    /// When the query of the newest answer was sent. Older answers that arrive later are ignored.
    newest: Mutex<Option<Instant>>,
}

impl Peers {
    /// Returns true if a lookup is due.
    pub(super) fn is_due(&self) -> bool {
        now().saturating_sub(self.checked.load(Ordering::Relaxed)) >= millis(MAX_AGE)
    }
}

impl Endpoint {
    /// Starts a lookup of the server's name, unless one is in progress or the host is an IP address.
    pub(super) fn refresh(self: &Arc<Self>) {
        if let Some(peers) = &self.peers
            && let Host::Name(name) = &self.target.host
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !peers.asking.swap(true, Ordering::AcqRel)
        {
            peers.began.store(now(), Ordering::Release);
            let (endpoint, name) = (self.clone(), Arc::<str>::from(name.as_str()));
            runtime.spawn(async move { endpoint.look_up(&name).await });
        }
    }

    /// Like [`Self::refresh`], but waits for the answer if the last one is old.
    pub(super) async fn confirm(self: &Arc<Self>, peers: &Peers) {
        self.refresh();
        let started = now();
        if started.saturating_sub(peers.checked.load(Ordering::Acquire)) < MAX_UNCONFIRMED {
            return;
        }
        let end = Duration::from_millis(peers.began.load(Ordering::Acquire)) + LOOKUP_TIMEOUT;
        let Some(rest) = end.checked_sub(Duration::from_millis(started)) else { return };
        let ended = peers.ended.notified();
        if peers.asking.load(Ordering::Acquire) {
            // The request continues after a timeout, too.
            let _ = tokio::time::timeout(rest, ended).await;
        }
    }

    async fn look_up(&self, name: &str) {
        let Some(peers) = &self.peers else { return };
        let done = Ended(peers);
        match dial::lookup(name, None).await {
            Ok(answer) => self.keep_to(&answer),
            Err(LookupError::NotFound { asked, .. }) => self.keep_only(asked, &Arc::from([])),
            // The lookup is inconclusive, and existing connections still have the same peer.
            Err(LookupError::Failed { .. }) => {}
        }
        drop(done);
    }

    /// Closes kept connections to other addresses, and does not keep new ones to them.
    pub(super) fn keep_to(&self, answer: &Answer) {
        self.keep_only(answer.asked(), answer.addresses());
    }

    fn keep_only(&self, asked: Instant, addresses: &Arc<[IpAddr]>) {
        let Some(peers) = &self.peers else { return };
        let mut newest = peers.newest.lock();
        if newest.is_some_and(|newest| newest >= asked) {
            return;
        }
        *newest = Some(asked);
        for pool in &self.pools {
            let gone = pool.lock().keep_only(addresses);
            drop(gone);
        }
        peers.checked.store(now(), Ordering::Release);
    }
}

/// Records the end of a lookup on drop, even if its runtime shuts down.
struct Ended<'a>(&'a Peers);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.checked.store(now(), Ordering::Release);
        self.0.asking.store(false, Ordering::Release);
        self.0.ended.notify_waiters();
    }
}

/// Returns the milliseconds since shortly before the first call.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    millis(START.elapsed()) + MAX_UNCONFIRMED
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
