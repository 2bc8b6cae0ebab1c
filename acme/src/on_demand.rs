//! Certificates on demand: obtained at the first handshake, for names that `onDemand.ask` allows.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::client::{Http, Message};
use super::names::refuse;
use crate::options;

/// Maximum time that a handshake waits; its own timeout is ten seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// Timeout of `onDemand.ask`.
const ASK: Duration = Duration::from_secs(5);
/// How long a decision is cached.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Maximum number of cached decisions.
const MAX_NAMES: usize = 10_000;
const HOUR: Duration = Duration::from_secs(3600);

/// An allowed name that a handshake asked for.
pub(super) struct Demand(pub(super) String);

/// Obtains certificates for names that are not configured, if `onDemand.ask` allows them.
pub struct OnDemand {
    /// The URL to ask; `None` if no name is allowed.
    ask: Option<(options::OnDemand, Http)>,
    demands: mpsc::Sender<Demand>,
    changes: watch::Receiver<u64>,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    /// Whether a name is allowed, and since when this is known.
    known: HashMap<String, (bool, Instant)>,
    /// When new names were allowed within the last hour.
    passed: Vec<Instant>,
}

impl OnDemand {
    pub(super) fn new(
        options: Option<options::OnDemand>,
        demands: mpsc::Sender<Demand>,
        changes: watch::Receiver<u64>,
    ) -> Self {
        let ask = options.map(|options| (options, Http::plain(ASK)));
        Self { ask, demands, changes, answers: Mutex::default() }
    }

    /// Waits until there is a certificate for the name (`is_there` returns true), or obtaining one has failed.
    pub async fn wait_for(&self, name: &str, is_there: &(dyn Fn() -> bool + Sync)) {
        if refuse(name, false).is_some() || !name.contains('.') || !self.is_allowed(name).await {
            return;
        }
        let mut changes = self.changes.clone();
        let waiting = async {
            if self.demands.send(Demand(name.to_owned())).await.is_err() {
                return;
            }
            while !is_there() && changes.changed().await.is_ok() {}
        };
        let _ = tokio::time::timeout(PATIENCE, waiting).await;
    }

    /// Returns true if names may be allowed.
    pub(super) fn is_on(&self) -> bool {
        self.ask.is_some()
    }

    /// Checks again whether a name with a certificate is allowed.
    pub(super) async fn is_still_allowed(&self, name: &str) -> bool {
        self.ask(name).await
    }

    async fn is_allowed(&self, name: &str) -> bool {
        if let Some((allowed, since)) = self.answers.lock().known.get(name)
            && since.elapsed() < REMEMBERED
        {
            return *allowed;
        }
        if !self.has_room() {
            tracing::warn!(name, "more new names in an hour than onDemand.limit allows");
            return false;
        }
        let allowed = self.ask(name).await;
        let mut answers = self.answers.lock();
        if answers.known.len() >= MAX_NAMES {
            answers.known.retain(|_, (_, since)| since.elapsed() < REMEMBERED);
            if answers.known.len() >= MAX_NAMES {
                answers.known.clear();
            }
        }
        answers.known.insert(name.to_owned(), (allowed, Instant::now()));
        if allowed {
            answers.passed.push(Instant::now());
        }
        allowed
    }

    fn has_room(&self) -> bool {
        let mut answers = self.answers.lock();
        answers.passed.retain(|at| at.elapsed() < HOUR);
        self.ask.as_ref().is_some_and(|(options, _)| answers.passed.len() < options.limit as usize)
    }

    async fn ask(&self, name: &str) -> bool {
        let Some((options, http)) = &self.ask else { return false };
        let Ok(mut url) = url::Url::parse(&options.ask) else { return false };
        url.query_pairs_mut().append_pair("domain", name);
        match http.send(Method::GET, url.as_str(), Message::default()).await {
            Ok(answer) => answer.status == StatusCode::OK,
            Err(error) => {
                tracing::error!(name, %error, "onDemand.ask cannot be asked");
                false
            }
        }
    }
}
