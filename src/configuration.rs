//! Keeps the newest state of every provider, and compiles a snapshot when one has changed.
//!
//! Changes are applied at once, even a few in a row. Those that arrive while a snapshot is compiled are part
//! of the next one. Under continuous changes, each snapshot is followed by a pause of a few times its compile
//! time, at most `providers.providersThrottleDuration`, so that a flood of changes uses only a part of one
//! core.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_config::merge::merge;
use tidegate_config::{Origin, Problem, Provided};
use tidegate_providers::Update;
use tidegate_providers::throttle::Throttle;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::observability::metrics::{ProviderState, Providers};
use crate::opening::Opening;
use crate::saved::{States, Store};
use crate::snapshot::{Compiled, Effects, Environment, Snapshot, SnapshotHandle, compile};

/// Interval at which files named in a configuration are checked.
const FILE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The pause after a snapshot as a multiple of its compile time, and the maximum of deferred pauses.
const PAUSE_FACTOR: u32 = 3;
const MAX_DEFERRED_PAUSE: Duration = Duration::from_secs(2);
/// Key of startup problems among the states; not a valid provider name.
const STARTUP_PROBLEMS: &str = "@start";
/// Maximum number of queued updates.
pub(crate) const QUEUE: usize = 256;

/// Which providers have delivered and are active.
#[derive(Default)]
pub struct Readiness {
    waiting: Mutex<Option<BTreeSet<Arc<str>>>>,
    updates: Mutex<BTreeMap<Arc<str>, LastUpdate>>,
}

/// The last update of a provider.
struct LastUpdate {
    at: OffsetDateTime,
    /// Number of problems of its state.
    problems: usize,
    /// When a state that is not active yet arrived.
    pending: Option<Instant>,
    /// How long the last state that changed anything took to become active.
    delay: Option<Duration>,
}

impl Readiness {
    /// Waits for these providers.
    pub fn expect(&self, providers: impl IntoIterator<Item = Arc<str>>) {
        *self.waiting.lock() = Some(providers.into_iter().collect());
    }

    /// Returns true when every expected provider has delivered once and its state is active.
    pub fn is_ready(&self) -> bool {
        self.waiting.lock().as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// Returns the providers that have not delivered yet.
    pub fn waiting_for(&self) -> Vec<Arc<str>> {
        self.waiting.lock().iter().flatten().cloned().collect()
    }

    /// Records that a provider has sent a state, which `changes` something or not.
    fn updated(&self, provider: &Arc<str>, problems: usize, changes: bool) {
        let mut updates = self.updates.lock();
        let before = updates.get(provider);
        let pending = before.and_then(|before| before.pending);
        let last = LastUpdate {
            at: OffsetDateTime::now_utc(),
            problems,
            pending: pending.or_else(|| changes.then(Instant::now)),
            delay: before.and_then(|before| before.delay),
        };
        updates.insert(provider.clone(), last);
    }

    /// Records that all states that have been sent are active.
    fn activated(&self) {
        for update in self.updates.lock().values_mut() {
            if let Some(arrived) = update.pending.take() {
                update.delay = Some(arrived.elapsed());
            }
        }
    }

    fn applied<'a>(&self, providers: impl Iterator<Item = &'a Arc<str>>) {
        if let Some(waiting) = self.waiting.lock().as_mut() {
            for provider in providers {
                waiting.remove(provider);
            }
        }
    }
}

impl Providers for Readiness {
    fn states(&self) -> Vec<ProviderState> {
        let waiting: BTreeSet<Arc<str>> = self.waiting_for().into_iter().collect();
        let updates = self.updates.lock();
        let names: BTreeSet<&Arc<str>> = waiting.iter().chain(updates.keys()).collect();
        let state = |name: &Arc<str>| {
            let last = updates.get(name);
            ProviderState {
                name: name.clone(),
                is_ready: !waiting.contains(name),
                updated: last.map(|last| last.at.unix_timestamp()),
                problems: last.map_or(0, |last| last.problems),
                delay: last.and_then(|last| last.delay),
            }
        };
        names.into_iter().map(state).collect()
    }
}

/// Compiles configurations one after the other, including all blocking work.
pub struct Compiler {
    environment: Environment,
    current: Mutex<Compiled>,
    logged: Mutex<BTreeSet<Problem>>,
}

impl Compiler {
    /// Creates a compiler with the first snapshot, that of `states`, and returns its effects.
    pub fn new(environment: Environment, states: &BTreeMap<Arc<str>, Arc<Provided>>) -> (Self, Effects) {
        let (compiled, effects) = compile(OffsetDateTime::now_utc(), merged(states), 0, None, &environment);
        let compiler = Self { environment, current: Mutex::new(compiled), logged: Mutex::default() };
        compiler.log(&compiler.snapshot());
        (compiler, effects)
    }

    /// Returns the newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.lock().snapshot.clone()
    }

    /// Compiles and keeps the next snapshot. Apply its effects once it is active. Blocks.
    fn next(&self, states: &BTreeMap<Arc<str>, Arc<Provided>>) -> (Arc<Snapshot>, Effects) {
        let mut current = self.current.lock();
        let generation = current.snapshot.generation + 1;
        let (now, previous) = (OffsetDateTime::now_utc(), Some(&*current));
        let (compiled, effects) = compile(now, merged(states), generation, previous, &self.environment);
        let snapshot = compiled.snapshot.clone();
        *current = compiled;
        drop(current);
        self.log(&snapshot);
        (snapshot, effects)
    }

    /// Logs each problem once, and again if it recurs.
    fn log(&self, snapshot: &Snapshot) {
        let now: BTreeSet<Problem> = snapshot.report.problems.iter().cloned().collect();
        let mut logged = self.logged.lock();
        for problem in now.difference(&logged) {
            // Without excerpts, which are for `check`.
            tracing::error!("{problem}");
        }
        *logged = now;
    }
}

fn merged(states: &BTreeMap<Arc<str>, Arc<Provided>>) -> Provided {
    merge(states.iter().map(|(name, state)| (&**name, &**state)))
}

/// The first states of all providers, which clients wait for.
pub(crate) struct FirstStates {
    /// Opens when they are complete, or the timeout has expired.
    pub(crate) opening: Arc<Opening>,
    /// The timeout.
    pub(crate) limit: Duration,
    /// When the timeout expires; `None`: never.
    pub(crate) until: Option<Instant>,
    /// The providers that had not delivered by then, and still have not.
    pub(crate) late: BTreeSet<Arc<str>>,
    /// Problems with their last states on disk.
    pub(crate) unreadable: Vec<Problem>,
    /// Whether the timeout has expired.
    pub(crate) expired: bool,
}

impl FirstStates {
    /// Resolves when the timeout has expired with states missing.
    async fn overdue(&self) {
        match self.until {
            Some(until) if !self.expired && !self.opening.is_open() => tokio::time::sleep_until(until).await,
            _ => std::future::pending().await,
        }
    }

    /// Returns the problems while states are missing.
    fn problems(&self) -> Provided {
        let problem = |provider: &Arc<str>| Problem {
            origin: Origin::Internal,
            object: None,
            message: format!(
                "provider `{provider}` had delivered nothing {:?} after the start (providers.startTimeout): \
                 requests are answered without what it configures",
                self.limit
            ),
            excerpt: None,
        };
        let problems = self.late.iter().map(problem).chain(self.unreadable.iter().cloned()).collect();
        Provided { problems, ..Provided::default() }
    }
}

/// The last states of providers on disk.
pub(crate) struct LastStates {
    /// The store.
    pub(crate) store: Store,
    /// The providers whose states are stored.
    pub(crate) kept: BTreeSet<Arc<str>>,
    /// Sends states to be saved.
    pub(crate) newest: watch::Sender<States>,
    /// The stored states in use, of providers that have not delivered since the start.
    pub(crate) restored: States,
}

impl LastStates {
    /// Loads the stored state of a late provider.
    async fn load(&self, provider: &Arc<str>) -> Result<Option<Provided>, Problem> {
        if !self.kept.contains(provider) {
            return Ok(None);
        }
        let (store, name) = (self.store.clone(), provider.clone());
        let loaded = tokio::task::spawn_blocking(move || store.load(&name)).await;
        loaded.unwrap_or(Ok(None)).map_err(|error| {
            let message =
                format!("providers.lastState: cannot read the last state of provider `{provider}`: {error}");
            Problem { origin: Origin::Internal, object: None, message, excerpt: None }
        })
    }

    /// Returns the state to use instead of one that contains only an error of its source.
    fn instead_of(&self, provider: &str, state: &Provided) -> Option<Arc<Provided>> {
        let mut kept = Provided::clone(self.restored.get(provider)?);
        kept.problems.extend(state.problems.iter().filter(|problem| problem.object.is_none()).cloned());
        Some(Arc::new(kept))
    }

    /// Sends the states of these providers to be saved.
    fn save(&self, states: &States, delivered: &BTreeSet<Arc<str>>) {
        let kept = |provider: &Arc<str>| self.kept.contains(provider) && delivered.contains(provider);
        let now: States = states
            .iter()
            .filter(|(provider, _)| kept(provider))
            .map(|(provider, state)| (provider.clone(), state.clone()))
            .collect();
        self.newest.send_if_modified(|newest| {
            let same = newest.len() == now.len()
                && newest.iter().zip(&now).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1));
            if !same {
                *newest = now;
            }
            !same
        });
    }
}

/// The state of the configuration loop.
pub(crate) struct Loop {
    pub(crate) compiler: Arc<Compiler>,
    pub(crate) snapshots: SnapshotHandle,
    pub(crate) readiness: Arc<Readiness>,
    /// The newest active generation.
    pub(crate) generation: watch::Sender<u64>,
    /// Maximum pause between two snapshots.
    pub(crate) throttle: Duration,
    pub(crate) states: BTreeMap<Arc<str>, Arc<Provided>>,
    pub(crate) first: FirstStates,
    /// The last states on disk; `None` if disabled.
    pub(crate) last: Option<LastStates>,
}

impl Loop {
    /// Applies updates until all senders are dropped.
    pub(crate) async fn run(mut self, mut updates: mpsc::Receiver<Update>) {
        let mut retired: Vec<Arc<Snapshot>> = Vec::new();
        let mut throttle = Throttle::new(PAUSE_FACTOR, MAX_DEFERRED_PAUSE.min(self.throttle));
        let mut delivered = BTreeSet::new();
        let switches = self.compiler.environment.maintenance.clone();
        // The version of the switches that was compiled last.
        let mut switched = 0;
        loop {
            let mut changed = tokio::select! {
                update = updates.recv() => match update {
                    Some(update) => self.record(update, &mut delivered),
                    None => return,
                },
                () = self.first.overdue() => {
                    self.go_without(&mut delivered).await;
                    true
                }
                () = switches.changed(switched) => true,
                () = tokio::time::sleep(FILE_POLL_INTERVAL) => {
                    retire(&mut retired);
                    self.files_changed().await
                }
            };
            if changed {
                // What arrives during the pause belongs to the same change.
                while let Ok(Some(update)) = tokio::time::timeout_at(throttle.next(), updates.recv()).await {
                    self.record(update, &mut delivered);
                }
            }
            while let Ok(update) = updates.try_recv() {
                changed |= self.record(update, &mut delivered);
            }
            if changed {
                let begun = Instant::now();
                switched = switches.version();
                retired.extend(self.apply(switched).await);
                self.readiness.activated();
                throttle.spent(begun.elapsed(), self.throttle);
                retire(&mut retired);
            }
            if self.first.expired && !self.first.opening.is_open() {
                for what in self.first.opening.held_by() {
                    tracing::warn!("serving clients without the {what}: providers.startTimeout is over");
                }
                self.first.opening.open_anyway();
            }
            self.delivered(&delivered);
            if let Some(last) = &self.last {
                last.save(&self.states, &self.own(&delivered));
            }
        }
    }

    /// Records that the states of these providers are active.
    fn delivered(&self, providers: &BTreeSet<Arc<str>>) {
        if self.readiness.is_ready() {
            return;
        }
        self.readiness.applied(providers.iter());
        if self.readiness.is_ready() {
            let http = &self.compiler.snapshot().report.config.http;
            let (routers, services) = (http.routers.len(), http.services.len());
            tracing::info!(routers, services, "ready: every provider has delivered");
            if let Some(audit) = &self.compiler.environment.audit {
                audit.complete();
            }
            self.first.opening.open();
        }
    }

    /// Continues without the missing states, or with stored ones, and reports that as long as they are
    /// missing.
    async fn go_without(&mut self, delivered: &mut BTreeSet<Arc<str>>) {
        self.first.expired = true;
        let mut late = self.readiness.waiting_for();
        late.retain(|provider| !delivered.contains(provider));
        for provider in late {
            let loaded = match &self.last {
                Some(last) => last.load(&provider).await,
                None => Ok(None),
            };
            match (loaded, &mut self.last) {
                (Ok(Some(state)), Some(last)) => {
                    let state = Arc::new(state);
                    last.restored.insert(provider.clone(), state.clone());
                    self.states.insert(provider.clone(), state);
                    delivered.insert(provider);
                    continue;
                }
                (Err(problem), _) => self.first.unreadable.push(problem),
                _ => {}
            }
            self.first.late.insert(provider);
        }
        self.note_late();
    }

    /// Returns the providers whose states are not stored ones.
    fn own(&self, delivered: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        let restored =
            |provider: &Arc<str>| self.last.as_ref().is_some_and(|last| last.restored.contains_key(provider));
        delivered.iter().filter(|provider| !restored(provider)).cloned().collect()
    }

    fn note_late(&mut self) {
        self.states.insert(Arc::from(STARTUP_PROBLEMS), Arc::new(self.first.problems()));
    }

    /// Records an update. Returns true if it changes anything.
    fn record(&mut self, update: Update, delivered: &mut BTreeSet<Arc<str>>) -> bool {
        let Update { provider, mut state, ready } = update;
        let problems = state.problems.len();
        if let Some(last) = &mut self.last {
            if ready {
                last.restored.remove(&provider);
            } else if let Some(kept) = last.instead_of(&provider, &state) {
                state = kept;
            }
        }
        let known = self.states.get(&provider);
        let same = known.is_some_and(|known| Arc::ptr_eq(known, &state) || *known == state);
        self.readiness.updated(&provider, problems, !same);
        if !same {
            self.states.insert(provider.clone(), state);
        }
        let in_time = !ready || !self.first.late.remove(&provider);
        if !in_time {
            self.note_late();
        }
        if ready {
            delivered.insert(provider);
        }
        !same || !in_time
    }

    async fn files_changed(&self) -> bool {
        let compiler = self.compiler.clone();
        tokio::task::spawn_blocking(move || compiler.environment.files.changed()).await.unwrap_or(false)
    }

    /// Compiles, swaps, and applies the effects. Returns the replaced snapshot. The new one has the switches of
    /// maintenance up to version `switched`.
    async fn apply(&self, switched: u64) -> Option<Arc<Snapshot>> {
        let (compiler, states) = (self.compiler.clone(), self.states.clone());
        let switches = compiler.environment.maintenance.clone();
        let (next, effects) = match tokio::task::spawn_blocking(move || compiler.next(&states)).await {
            Ok(next) => next,
            Err(error) => {
                tracing::error!("the configuration could not be compiled, the last one stays: {error}");
                return None;
            }
        };
        let generation = next.generation;
        let old = self.snapshots.load();
        self.snapshots.store(next);
        effects.apply();
        switches.activated(switched);
        self.generation.send_replace(generation);
        tracing::debug!(generation, "configuration applied");
        Some(old)
    }
}

/// Drops snapshots that no request uses. They are kept until then so that no worker has to deallocate one.
fn retire(retired: &mut Vec<Arc<Snapshot>>) {
    let (held, free): (Vec<_>, Vec<_>) =
        std::mem::take(retired).into_iter().partition(|snapshot| Arc::strong_count(snapshot) > 1);
    *retired = held;
    if !free.is_empty() {
        tokio::task::spawn_blocking(move || drop(free));
    }
}
