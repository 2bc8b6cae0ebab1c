//! Fetches revocation lists while the gateway runs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tidegate_core::HttpClient;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use super::lists::{ListError, parse};
use super::source::Source;
use super::verifier::Checks;
use crate::snapshot::SnapshotHandle;
use crate::tls::TlsStore;
use crate::tls::fetch::{Limits, Message, fetch};

/// Limits of a list.
const LIMITS: Limits = Limits { time: Duration::from_secs(30), size: 16 << 20 };
/// Maximum time between two rounds.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Fetches revocation lists, and lets verifiers use them.
pub(crate) struct Refresher {
    client: Arc<dyn HttpClient>,
}

impl Refresher {
    /// Returns a refresher that uses this client. From now on, OCSP responders are asked with it, too.
    pub(crate) fn new(client: Arc<dyn HttpClient>, control: Handle, store: &TlsStore) -> Self {
        store.statuses().connect(client.clone(), control);
        Self { client }
    }

    /// Fetches the lists of the current snapshot whenever they are due. `generation` changes with each snapshot.
    pub(crate) async fn run(self, snapshots: SnapshotHandle, mut generation: watch::Receiver<u64>) {
        loop {
            let store = snapshots.load().tls.clone();
            let next = self.round(&store).await;
            drop(store);
            tokio::select! {
                changed = generation.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    /// Fetches the lists that are due, and returns the time until the next ones.
    async fn round(&self, store: &TlsStore) -> Duration {
        let checks: Vec<Arc<Checks>> = store.checks().cloned().collect();
        let now = Instant::now();
        let due = store.crl_sources().filter(|source| source.wait(now).is_zero());
        join_all(due.map(|source| self.refresh(source, &checks))).await;
        // Large lists take long to parse.
        let updating = tokio::task::spawn_blocking(move || {
            for check in checks {
                if let Err(error) = check.update() {
                    tracing::error!(%error, "cannot use revocation lists");
                }
            }
        });
        if updating.await.is_err() {
            tracing::error!("cannot use revocation lists: a verifier cannot be built");
        }
        let now = Instant::now();
        store.crl_sources().map(|source| source.wait(now)).min().unwrap_or(MAX_WAIT).min(MAX_WAIT)
    }

    async fn refresh(&self, source: &Source, checks: &[Arc<Checks>]) {
        let uses = |check: &&Arc<Checks>| check.urls.iter().any(|used| used.url == source.url);
        let users: Vec<Arc<Checks>> = checks.iter().filter(uses).cloned().collect();
        let interval = users.iter().map(|check| check.interval).min().unwrap_or(MAX_WAIT);
        let lists = match fetch(&self.client, &source.url, Message::Get, LIMITS).await {
            Err(error) => Err(ListError::from(error)),
            Ok(bytes) => {
                let parsing = tokio::task::spawn_blocking(move || {
                    let mut lists = Vec::new();
                    for check in users {
                        lists = parse(&bytes, &check.trusted.authorities, &check.trusted.roots)?;
                    }
                    Ok(lists)
                });
                parsing.await.unwrap_or(Err(ListError::Failed))
            }
        };
        source.record(lists, interval, OffsetDateTime::now_utc().unix_timestamp());
    }
}
