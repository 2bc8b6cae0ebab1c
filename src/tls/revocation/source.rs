//! A revocation list that is fetched from a URL.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::lists::{List, ListError, check_order};

/// Maximum delay after failures.
const MAX_DELAY: Duration = Duration::from_secs(600);
/// Minimum delay between two fetches.
const MIN_DELAY: Duration = Duration::from_secs(1);

/// A URL with the last good lists from it. It outlives snapshots.
pub(crate) struct Source {
    pub(crate) url: String,
    lists: ArcSwap<Vec<Arc<List>>>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// When to fetch; at once if `None`.
    due: Option<Instant>,
    failures: u32,
    /// Why the last fetch failed.
    error: Option<String>,
}

/// The state of the revocation lists from one place, for the API and metrics.
pub(crate) struct ListState {
    /// The path or the URL.
    pub(crate) place: String,
    /// When the next list is due, in Unix time; `None` if there is no list yet.
    pub(crate) next_update: Option<i64>,
    /// Number of failures to fetch it since the last success.
    pub(crate) failures: u32,
    /// Why the last fetch failed.
    pub(crate) error: Option<String>,
}

impl ListState {
    /// Returns what is wrong.
    pub(crate) fn problem(&self, now: i64) -> Option<String> {
        let place = &self.place;
        let state = match self.next_update {
            None => "no list has been fetched yet",
            Some(next_update) if next_update <= now => "the list has expired",
            Some(_) => "the last list stays in use",
        };
        match &self.error {
            Some(error) => Some(format!("revocation list {place}: {error}; {state}")),
            None if self.next_update.is_some_and(|next_update| next_update <= now) => {
                Some(format!("revocation list {place}: {state}"))
            }
            None => None,
        }
    }
}

impl Source {
    /// Returns a source that has not been fetched.
    pub(super) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), lists: ArcSwap::default(), progress: Mutex::default() }
    }

    /// Returns the last good lists; empty before the first fetch.
    pub(super) fn lists(&self) -> Arc<Vec<Arc<List>>> {
        self.lists.load_full()
    }

    /// Returns when the next list is due, in Unix time; `None` before the first fetch.
    fn next_update(&self) -> Option<i64> {
        self.lists.load().iter().map(|list| list.next_update).min()
    }

    /// Returns the state for the API and metrics.
    pub(super) fn state(&self) -> ListState {
        let next_update = self.next_update();
        let progress = self.progress.lock();
        let (failures, error) = (progress.failures, progress.error.clone());
        ListState { place: self.url.clone(), next_update, failures, error }
    }

    /// Returns the time until it is due.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.progress.lock().due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now))
    }

    /// Records the result of a fetch and when the next one is due: after `interval`, or earlier if the list expires. The
    /// last good lists stay in use if it failed.
    pub(super) fn record(&self, fetched: Result<Vec<Arc<List>>, ListError>, interval: Duration, now: i64) {
        let known = self.lists();
        let fetched = fetched.and_then(|new| check_order(&known, &new).map(|()| new));
        let mut progress = self.progress.lock();
        let wait = match fetched {
            Ok(new) => {
                (progress.failures, progress.error) = (0, None);
                let is_same = known.iter().map(|list| &list.der).eq(new.iter().map(|list| &list.der));
                let wait = new.iter().map(|list| early(list, now)).min().unwrap_or(interval).min(interval);
                if !is_same {
                    tracing::info!(url = self.url, lists = new.len(), "fetched revocation list");
                    self.lists.store(Arc::new(new));
                }
                wait
            }
            Err(error) => {
                progress.failures = progress.failures.saturating_add(1);
                let is_expired = self.next_update().is_none_or(|expires| expires <= now);
                let state = if is_expired { "no valid list" } else { "the last list stays in use" };
                tracing::warn!(url = self.url, %error, state, "cannot fetch revocation list");
                progress.error = Some(error.to_string());
                let wait = interval.min(Duration::from_secs(60));
                wait.saturating_mul(1 << progress.failures.min(6)).min(MAX_DELAY)
            }
        };
        progress.due = Some(Instant::now() + wait.max(MIN_DELAY));
    }
}

/// Returns the time until a list should be fetched again: when a tenth of its validity is left. If that is over,
/// the server has no newer list, and is asked every minute.
fn early(list: &List, now: i64) -> Duration {
    let validity = list.next_update.saturating_sub(list.this_update).max(0);
    let left = list.next_update.saturating_sub(validity / 10).saturating_sub(now);
    Duration::from_secs(u64::try_from(left).unwrap_or_default().max(60))
}
