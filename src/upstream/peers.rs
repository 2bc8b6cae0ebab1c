//! Keeps the connections of a server to the addresses that its name has now.
//!
//! Who is at the other end of an established connection does not change: packets to a stranger with the same address are
//! answered with a reset. So a kept connection needs no look-up of its own to be safe, and its name is looked up for
//! another reason: it may mean another server by now. While there are connections, requests have that done in the
//! background. When nobody has asked for a while, the first request waits for the answer before it uses a connection
//! that was kept.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_clients::dial::{self, Answer, LookupError, MAX_AGE};
use tokio::sync::Notify;

use super::{Endpoint, Host};

/// How old the last look-up may be when a kept connection is used without waiting for the next.
const MAX_UNCONFIRMED: u64 = 250;
/// Time that requests wait for a look-up. Kept connections are used when it takes longer: who is at their other end
/// does not change.
const PATIENCE: Duration = Duration::from_millis(500);

/// What is known of the addresses of a server's name.
#[derive(Default)]
pub(super) struct Peers {
    /// When the last look-up ended, in milliseconds of [`now`]; 0 for never.
    checked: AtomicU64,
    /// When the one that is under way began.
    began: AtomicU64,
    asking: AtomicBool,
    ended: Notify,
    /// When the newest answer was asked for. Older ones that come later are ignored.
    newest: Mutex<Option<Instant>>,
}

impl Peers {
    /// True when the name is to be looked up.
    pub(super) fn is_due(&self) -> bool {
        now().saturating_sub(self.checked.load(Ordering::Relaxed)) >= millis(MAX_AGE)
    }
}

impl Endpoint {
    /// Has the name of the server looked up, unless that is under way or it is an address.
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

    /// The same, and waits for the answer when the last one is old.
    pub(super) async fn confirm(self: &Arc<Self>, peers: &Peers) {
        self.refresh();
        let started = now();
        if started.saturating_sub(peers.checked.load(Ordering::Acquire)) < MAX_UNCONFIRMED {
            return;
        }
        let end = Duration::from_millis(peers.began.load(Ordering::Acquire)) + PATIENCE;
        let Some(rest) = end.checked_sub(Duration::from_millis(started)) else { return };
        let ended = peers.ended.notified();
        if peers.asking.load(Ordering::Acquire) {
            // It takes too long, or it has ended: either way the request goes on.
            let _ = tokio::time::timeout(rest, ended).await;
        }
    }

    async fn look_up(&self, name: &str) {
        let Some(peers) = &self.peers else { return };
        let done = Ended(peers);
        match dial::lookup(name, None).await {
            Ok(answer) => self.keep_to(&answer),
            Err(LookupError::NotFound { asked, .. }) => self.keep_only(asked, &Arc::from([])),
            // Nothing is known, and connections that exist are still to whom they were made.
            Err(LookupError::Failed { .. }) => {}
        }
        drop(done);
    }

    /// Closes kept connections to other addresses than these, and keeps no new ones.
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

/// Notes the end of a look-up, also of one whose runtime ends.
struct Ended<'a>(&'a Peers);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.checked.store(now(), Ordering::Release);
        self.0.asking.store(false, Ordering::Release);
        self.0.ended.notify_waiters();
    }
}

/// Milliseconds since shortly before the first call.
fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    millis(START.elapsed()) + MAX_UNCONFIRMED
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
