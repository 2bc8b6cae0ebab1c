//! Small commands of operators that all members of a cluster carry out: purges of caches, and switches of routers to
//! maintenance.
//!
//! The cluster's store holds a bounded, numbered list of them. Members watch it, carry out each announcement once and
//! in order, and learn when they have missed some ([`Announced`]). Request handling does not depend on it.

mod announcement;
mod consul;
mod error;
mod maintenance;
mod purge;
mod redis;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tidegate_clients::OptionError;
use tidegate_core::announced::{Announced, Mark, PurgesHandle};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::maintenance::{Replica, Switches};
use crate::observability::AuditLog;
use crate::opening::{Hold, Opening};
use crate::settings::Settings;
use announcement::{Announcement, Listing, MAX_LEN, random_id};
use error::ChannelError;
use maintenance::Follower;

pub(crate) use announcement::Command;
pub(crate) use error::AnnounceError;
pub(crate) use maintenance::SwitchMaintenance;
pub(crate) use purge::{PurgeCache, describe};

/// Announcements that wait for the store.
const MAX_WAITING: usize = 64;
/// How long an announcement is waited for.
const TIMEOUT: Duration = Duration::from_secs(5);
/// First delay after a failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// Attempts to write while others do so, too.
const MAX_ATTEMPTS: usize = 10;
/// Maximum delay between them.
const MAX_CONTENTION_DELAY: Duration = Duration::from_millis(100);

/// What carries out announcements. There is a field for each kind.
struct Handlers {
    purges: PurgesHandle,
    maintenance: Follower,
}

impl Handlers {
    /// Hands the list to each kind, which knows itself what it has done, and what it has missed.
    fn handle(&self, list: &Announced<Announcement>) {
        self.purges.publish(list.map(|one| match &one.command {
            Command::PurgeCache(purge) => purge.announced(&one.origin, &one.operator),
            // All switches are read with the list.
            Command::SwitchMaintenance(_) | Command::Unknown => None,
        }));
    }
}

/// The announcements of a cluster.
#[derive(Clone, Default)]
pub(crate) struct Announcements(Option<Arc<Inner>>);

struct Inner {
    handlers: Handlers,
    state: Mutex<State>,
    /// Set when it is started.
    running: OnceLock<(String, mpsc::Sender<Request>)>,
}

struct State {
    /// The last announcement that is known; a new series before the list is.
    known: Mark,
    /// Why the store cannot be read; empty if it can.
    error: String,
    /// Why the switches of routers in it cannot be read or replaced; empty if they can.
    switches_error: String,
    /// Clients wait for the switches of the store: those that this gateway has saved may be old.
    start: Option<Hold>,
}

/// An announcement that waits for the store.
struct Request {
    text: String,
    /// Whether the switches of this gateway are written with it.
    has_switches: bool,
    reply: oneshot::Sender<Result<u64, AnnounceError>>,
}

/// The list in the store.
enum Store {
    Consul(consul::Consul),
    Redis(redis::Redis),
}

impl Store {
    /// Creates a client without connecting; `None` without a cluster.
    fn new(settings: &Settings) -> Option<Result<Self, OptionError>> {
        let options = settings.cluster.as_ref()?;
        if let Some(place) = &options.consul {
            return Some(consul::Consul::new(place, options).map(Self::Consul));
        }
        Some(redis::Redis::new(options.redis.as_ref()?, options).map(Self::Redis))
    }

    async fn next(&mut self, known: &Mark) -> Result<Listing, ChannelError> {
        match self {
            Self::Consul(consul) => consul.next(known).await,
            Self::Redis(redis) => redis.next(known).await,
        }
    }

    /// Adds an announcement, if there is one, and merges the switches, if they are given, into those of the store. Both
    /// are one change. Returns the number of the announcement.
    async fn append(
        &mut self,
        known: &Mark,
        text: &str,
        switches: Option<&Replica>,
    ) -> Result<u64, ChannelError> {
        let mut attempts = 1;
        loop {
            let outcome = match self {
                Self::Consul(consul) => consul.append(known, text, switches).await,
                Self::Redis(redis) => redis.append(known, text, switches).await,
            };
            match outcome {
                Err(ChannelError::Contended(_)) if attempts < MAX_ATTEMPTS => attempts += 1,
                outcome => return outcome,
            }
            tokio::time::sleep(MAX_CONTENTION_DELAY.mul_f64(fastrand::f64())).await;
        }
    }

    fn endpoint(&self) -> String {
        match self {
            Self::Consul(consul) => consul.endpoint(),
            Self::Redis(redis) => redis.endpoint(),
        }
    }
}

impl Announcements {
    /// Returns those of the cluster in the settings, if there is one.
    pub(crate) fn new(settings: &Settings, audit: Option<Arc<AuditLog>>, switches: Arc<Switches>) -> Self {
        if settings.cluster.is_none() {
            return Self(None);
        }
        let handlers = Handlers {
            purges: PurgesHandle::new(purge::report(audit.clone())),
            maintenance: Follower { switches, audit },
        };
        let known = Mark { series: random_id(), ..Mark::default() };
        let state =
            Mutex::new(State { known, error: String::new(), switches_error: String::new(), start: None });
        Self(Some(Arc::new(Inner { handlers, state, running: OnceLock::new() })))
    }

    /// Returns where caches learn which purges are announced.
    pub(crate) fn purges(&self) -> PurgesHandle {
        self.0.as_ref().map(|inner| inner.handlers.purges.clone()).unwrap_or_default()
    }

    /// Begins to follow the list. `origin` is the name of this member. `opening` is held until the switches of the store
    /// are active.
    pub(crate) fn start(
        &self,
        settings: &Settings,
        origin: String,
        opening: &Arc<Opening>,
        control: &Handle,
    ) {
        let Some(inner) = &self.0 else { return };
        let (Some(reader), Some(writer)) = (Store::new(settings), Store::new(settings)) else { return };
        match (reader, writer) {
            (Ok(reader), Ok(writer)) => {
                let (requests, waiting) = mpsc::channel(MAX_WAITING);
                // Only started once.
                let _ = inner.running.set((origin, requests));
                let hold = opening.hold("switches of routers to maintenance in the cluster's store");
                inner.state.lock().start = Some(hold);
                control.spawn(watch(inner.clone(), reader));
                control.spawn(write(Arc::downgrade(inner), writer, waiting));
            }
            (Err(error), _) | (_, Err(error)) => inner.failed(&error.to_string()),
        }
    }

    /// Returns the id of the next announcement; empty without a cluster. By it, this gateway knows what it has carried
    /// out before it announces it.
    pub(crate) fn next_id(&self) -> String {
        self.0.as_ref().map(|_| random_id()).unwrap_or_default()
    }

    /// Announces a command to all members, and returns its number; `None` without a cluster.
    pub(crate) async fn announce(
        &self,
        id: String,
        operator: &str,
        command: Command,
    ) -> Option<Result<u64, AnnounceError>> {
        Some(self.0.as_ref()?.announce(id, operator, command).await)
    }

    /// Returns the number of the last announcement that is known.
    pub(crate) fn number(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.state.lock().known.number)
    }

    /// Returns why announcements, or the switches beside them, cannot be read; empty if they can.
    pub(crate) fn error(&self) -> String {
        let Some(inner) = &self.0 else { return String::new() };
        let state = inner.state.lock();
        if state.error.is_empty() { state.switches_error.clone() } else { state.error.clone() }
    }
}

impl Inner {
    async fn announce(&self, id: String, operator: &str, command: Command) -> Result<u64, AnnounceError> {
        let Some((origin, requests)) = self.running.get() else {
            return Err(AnnounceError::Store(self.state.lock().error.clone()));
        };
        let time = OffsetDateTime::from(SystemTime::now()).format(&Rfc3339).unwrap_or_default();
        let has_switches = matches!(command, Command::SwitchMaintenance(_));
        let announcement = Announcement::new(id, origin, time, operator, command);
        let text = announcement.encode().ok_or(AnnounceError::TooLong(MAX_LEN))?;
        let (reply, answer) = oneshot::channel();
        requests.try_send(Request { text, has_switches, reply }).map_err(|_| AnnounceError::TooMany)?;
        let answer = tokio::time::timeout(TIMEOUT, answer).await;
        answer.ok().and_then(Result::ok).unwrap_or(Err(AnnounceError::TimedOut(TIMEOUT)))
    }

    fn known(&self) -> Mark {
        self.state.lock().known.clone()
    }

    /// Hands a list to the handlers. Returns true if the store lacks some switches.
    fn listed(&self, mut listing: Listing) -> bool {
        let switches = listing.switches.take();
        let list = listing.decode();
        let mut state = self.state.lock();
        if !state.error.is_empty() {
            tracing::info!("the announcements of the cluster can be read again");
            state.error.clear();
        }
        let is_new = list.last != state.known;
        state.known = list.last.clone();
        drop(state);
        // Before the first list, the series is a new one.
        if is_new || self.handlers.purges.current().is_none() {
            self.handlers.handle(&list);
        }
        let switched = list.map(|one| match &one.command {
            Command::SwitchMaintenance(switch) => Some(switch.clone()),
            Command::PurgeCache(_) | Command::Unknown => None,
        });
        let followed = self.handlers.maintenance.follow(switches.as_deref(), &switched);
        let error = followed.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let mut state = self.state.lock();
        if state.switches_error != error {
            if !error.is_empty() {
                tracing::warn!("maintenance: {error}");
            }
            state.switches_error = error;
        }
        if let Some(hold) = state.start.take() {
            let switches = self.handlers.maintenance.switches.clone();
            tokio::spawn(async move {
                switches.active().await;
                drop(hold);
            });
        }
        drop(state);
        followed.unwrap_or(false)
    }

    /// Hands the next list to the handlers, and completes the switches in the store: it may have lost its data, or a
    /// gateway has switched something and was restarted before it could announce it.
    async fn follow(&self, store: &mut Store) -> Result<(), ChannelError> {
        let listing = store.next(&self.known()).await?;
        if !self.listed(listing) {
            return Ok(());
        }
        let switches = self.handlers.maintenance.switches.replica();
        match store.append(&self.known(), "", Some(&switches)).await {
            // Others have completed them, or it is tried again with the next list.
            Ok(_) | Err(ChannelError::Contended(_) | ChannelError::Switches(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Records that the store is unavailable. Logs it once.
    fn failed(&self, error: &str) {
        let mut state = self.state.lock();
        if state.error.is_empty() {
            tracing::warn!("announcements of the cluster cannot be read: {error}");
        }
        error.clone_into(&mut state.error);
    }
}

/// Follows the list.
async fn watch(inner: Arc<Inner>, mut store: Store) {
    let mut failures = 0;
    loop {
        match inner.follow(&mut store).await {
            Ok(()) => failures = 0,
            Err(error) => {
                inner.failed(&format!("{}: {error}", store.endpoint()));
                failures += 1;
                // Consul's client waits as well.
                tokio::time::sleep(pause(failures)).await;
            }
        }
    }
}

/// Writes announcements in order, each until it is written, or can never be.
async fn write(inner: std::sync::Weak<Inner>, mut store: Store, mut waiting: mpsc::Receiver<Request>) {
    while let Some(Request { text, has_switches, reply }) = waiting.recv().await {
        let (mut reply, mut failures) = (Some(reply), 0);
        loop {
            let Some(inner) = inner.upgrade() else { return };
            let switches = has_switches.then(|| inner.handlers.maintenance.switches.replica());
            let known = inner.known();
            drop(inner);
            let outcome = match store.append(&known, &text, switches.as_ref()).await {
                Ok(number) => Ok(number),
                Err(ChannelError::Switches(error)) => Err(AnnounceError::Switches(error)),
                Err(error) => Err(AnnounceError::Store(format!("{}: {error}", store.endpoint()))),
            };
            let is_done = outcome.as_ref().map_or_else(|error| !error.is_pending(), |_| true);
            if let Err(error) = &outcome
                && !is_done
                && failures == 0
            {
                tracing::warn!(%error, "an announcement waits for the cluster's store");
            }
            if let Some(reply) = reply.take() {
                // Nobody may wait any longer.
                let _ = reply.send(outcome);
            }
            if is_done {
                break;
            }
            failures += 1;
            tokio::time::sleep(pause(failures)).await;
        }
    }
}

/// Returns the delay after consecutive failures: exponential backoff with jitter.
fn pause(failures: u32) -> Duration {
    let pause = FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(MAX_DELAY);
    pause.mul_f64(0.75 + fastrand::f64() * 0.5)
}
