//! All decisions of a local API, kept up to date by a task.
//!
//! The API remembers per key what it has already sent, so middlewares with the same API and key share one list: two
//! that ask separately would each miss what the other was told.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use tidegate_core::Clock;
use tokio::sync::watch;

use super::decisions::{Remediation, Set};
use super::lapi::{Lapi, LapiError};
use super::places::Places;

/// Pause after a failure as long as there has been no answer.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Maximum number of requests that wait for the first answer.
const MAX_WAITING: usize = 1024;

type Key = [u8; 32];

/// Lists by API and key.
static STREAMS: LazyLock<parking_lot::Mutex<HashMap<Key, Weak<Stream>>>> = LazyLock::new(Default::default);

/// The decisions of a local API.
#[derive(Debug)]
pub(super) struct Stream {
    set: ArcSwapOption<Set>,
    /// Number of attempts that have ended.
    attempts: watch::Sender<u64>,
    /// Number of attempts that have failed since the last success.
    failures: AtomicU64,
    /// Whether everything must be asked for, since a change may have been lost.
    is_behind: AtomicBool,
    /// Uptime in milliseconds of the next attempt.
    due: AtomicU64,
    /// Held during an attempt: several middlewares keep one list.
    fetching: tokio::sync::Mutex<()>,
    waiting: Places,
}

/// What the list says about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// What the decisions ask for.
    Known(Option<Remediation>),
    /// No attempt has ended yet.
    Starting,
    /// The last attempts, as many as given, have failed. What is known may be outdated.
    Failing(u64, Option<Remediation>),
}

impl Stream {
    fn new() -> Self {
        Self {
            set: ArcSwapOption::empty(),
            attempts: watch::Sender::new(0),
            failures: AtomicU64::new(0),
            is_behind: AtomicBool::new(true),
            due: AtomicU64::new(0),
            fetching: tokio::sync::Mutex::new(()),
            waiting: Places::default(),
        }
    }

    /// Returns the list of an API and a key.
    pub(super) fn of(lapi: &Lapi) -> Arc<Self> {
        let mut context = digest::Context::new(&digest::SHA256);
        let key = lapi.key.as_ref().map_or(&b""[..], |key| key.as_bytes());
        for part in [lapi.base.as_bytes(), key, lapi.tls.cert.as_bytes(), lapi.tls.ca.as_bytes()] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.update(&[u8::from(lapi.tls.insecure_skip_verify)]);
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        let mut streams = STREAMS.lock();
        if let Some(known) = streams.get(&id).and_then(Weak::upgrade) {
            return known;
        }
        streams.retain(|_, stream| stream.strong_count() > 0);
        let stream = Arc::new(Self::new());
        streams.insert(id, Arc::downgrade(&stream));
        stream
    }

    /// Returns what is known about an address.
    pub(super) fn find(&self, address: IpAddr, clock: &Clock) -> Listed {
        let set = self.set.load();
        let found = set.as_ref().and_then(|set| set.find(address, clock.uptime()));
        match self.failures.load(Ordering::Acquire) {
            0 if set.is_none() => Listed::Starting,
            0 => Listed::Known(found),
            failures => Listed::Failing(failures, found),
        }
    }

    /// Waits for the end of the first attempt.
    pub(super) async fn started(&self, timeout: Duration) {
        let mut attempts = self.attempts.subscribe();
        if *attempts.borrow() == 0
            && let Some(_place) = self.waiting.take(MAX_WAITING)
        {
            let _ = tokio::time::timeout(timeout, attempts.changed()).await;
        }
    }

    /// Asks now, and then after each interval. Runs until it is dropped.
    pub(super) async fn keep_fresh(self: Arc<Self>, lapi: Lapi, interval: Duration, clock: Clock) {
        loop {
            let fetching = self.fetching.lock().await;
            let pause = self.due.load(Ordering::Relaxed).saturating_sub(millis(clock.uptime()));
            if pause > 0 {
                drop(fetching);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                continue;
            }
            self.update(&lapi, &clock).await;
            let is_known = self.set.load().is_some();
            let pause = if is_known { interval } else { interval.min(FIRST_PAUSE) };
            self.due.store(millis(clock.uptime() + pause), Ordering::Relaxed);
        }
    }

    /// Asks once.
    pub(super) async fn update(&self, lapi: &Lapi, clock: &Clock) {
        let is_startup = self.is_behind.swap(true, Ordering::Relaxed);
        match lapi.stream(is_startup).await {
            Ok(delta) => {
                let before = match is_startup {
                    true => Set::default(),
                    false => self.set.load().as_deref().cloned().unwrap_or_default(),
                };
                let (set, omitted) = before.changed(&delta, clock.uptime());
                if omitted > 0 {
                    tracing::warn!(lapi = lapi.base, omitted, "CrowdSec has more decisions than are kept");
                }
                let failures = self.failures.swap(0, Ordering::AcqRel);
                if failures > 0 || self.set.load().is_none() {
                    tracing::info!(lapi = lapi.base, decisions = set.len(), "CrowdSec's decisions are known");
                }
                self.set.store(Some(Arc::new(set)));
                self.is_behind.store(false, Ordering::Relaxed);
            }
            Err(error) => self.fail(lapi, &error),
        }
        self.attempts.send_modify(|attempts| *attempts += 1);
    }

    fn fail(&self, lapi: &Lapi, error: &LapiError) {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel) + 1;
        tracing::warn!(lapi = lapi.base, %error, failures, "asking CrowdSec for decisions failed");
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
