//! Routers that operators have put in maintenance while the gateway runs.
//!
//! These switches are a part of what a snapshot is compiled from, so requests of other routers pay nothing. They
//! outlive configurations and, in the folder of `providers.lastState`, restarts. In a cluster, all members have the same:
//! `Switches::merge` takes over those of the store, which also remembers what has ended.

mod file;
mod replica;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_config::{Origin, Problem};
use tidegate_core::values;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::settings::Settings;
use replica::MAX_NAME;

pub(crate) use replica::{Entry, MAX_TEXT, Replica, ReplicaError};

/// Maximum number of addresses in `allow`.
pub(crate) const MAX_ALLOWED: usize = 100;
/// Maximum number of switches.
const MAX_SWITCHES: usize = 1_000;
/// The longest sleep before the time is looked at again: the system's clock may be set.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// One router that is switched to maintenance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Switch {
    /// When it was switched, in seconds since 1970.
    pub since: i64,
    /// When it ends by itself, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
    /// Replaces the option of the router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<values::Duration>,
    /// Replaces the option of the router, unless it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// The operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
}

impl Switch {
    /// Returns false if it has ended at this time.
    pub fn is_on(&self, now: OffsetDateTime) -> bool {
        self.until.is_none_or(|until| until > now.unix_timestamp())
    }
}

/// Switches by the qualified name of the router, as configured.
pub type SwitchMap = BTreeMap<String, Switch>;

/// Why a router cannot be switched.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// Too many routers are switched.
    #[error("too many routers are in maintenance: expected up to {MAX_SWITCHES}")]
    TooMany,
    /// The switches do not fit into the store of the cluster.
    #[error("too many routers are in maintenance: expected up to {MAX_TEXT} bytes of switches in a cluster")]
    TooLarge,
    /// The name is too long for the store of the cluster.
    #[error("the name of the router is too long for the cluster's store")]
    Name,
}

/// What [`Switches::set`] has changed.
#[derive(Debug, PartialEq)]
pub(crate) struct Replaced {
    /// The switch that the router had.
    pub(crate) before: Option<Switch>,
    /// The version of its switch in the cluster; 0 without a cluster.
    pub(crate) version: u64,
}

/// A router that another member has switched.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    /// The router.
    pub(crate) router: String,
    /// Whether it is in maintenance now.
    pub(crate) is_on: bool,
    /// Its switch; `None` if it was forgotten since it has ended.
    pub(crate) entry: Option<Entry>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that are on.
    switches: Arc<SwitchMap>,
    /// The same and what has ended, as members of a cluster merge it; empty without a cluster.
    replica: Replica,
}

/// All switches.
#[derive(Debug)]
pub struct Switches {
    state: Mutex<State>,
    /// The name of this gateway in its cluster.
    member: Option<String>,
    /// Counts changes.
    version: watch::Sender<u64>,
    /// The version that the active snapshot has.
    active: watch::Sender<u64>,
    /// `None`: a restart ends all of them.
    file: Option<PathBuf>,
    saving: tokio::sync::Mutex<()>,
}

impl Default for Switches {
    fn default() -> Self {
        Self::new(Replica::default(), None, None)
    }
}

impl Switches {
    fn new(saved: Replica, file: Option<PathBuf>, member: Option<String>) -> Self {
        let switches = Arc::new(saved.switches(OffsetDateTime::now_utc()));
        let replica = if member.is_some() { saved } else { Replica::default() };
        Self {
            state: Mutex::new(State { switches, replica }),
            member: member.map(|name| name.chars().take(MAX_NAME).collect()),
            version: watch::Sender::new(0),
            active: watch::Sender::new(0),
            file,
            saving: tokio::sync::Mutex::default(),
        }
    }

    /// Reads the switches of the last run, if the settings have a folder for them, with a problem if that fails. `member`
    /// is the name of this gateway in its cluster. Blocks.
    pub(crate) fn load(settings: &Settings, member: Option<String>) -> (Self, Option<Problem>) {
        let Some(options) = &settings.providers.last_state else {
            return (Self::new(Replica::default(), None, member), None);
        };
        let path = file::path(options);
        match file::read(&path) {
            Ok(saved) => (Self::new(saved, Some(path), member), None),
            Err(error) => {
                let message =
                    format!("providers.lastState: cannot read which routers are in maintenance: {error}");
                let problem = Problem { origin: Origin::Internal, object: None, message, excerpt: None };
                (Self::new(Replica::default(), Some(path), member), Some(problem))
            }
        }
    }

    /// Returns true if they are saved on disk, so that they survive a restart.
    pub fn is_durable(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the current switches.
    pub fn current(&self) -> Arc<SwitchMap> {
        self.state.lock().switches.clone()
    }

    /// Returns all switches as members of the cluster merge them.
    pub(crate) fn replica(&self) -> Replica {
        self.state.lock().replica.clone()
    }

    /// Switches a router for an operator; `None` ends its maintenance. It takes effect with the next snapshot, for which
    /// [`Switches::settled`] waits.
    ///
    /// # Errors
    ///
    /// Too many routers are switched.
    pub(crate) fn set(
        &self,
        router: &str,
        switch: Option<Switch>,
        operator: &str,
    ) -> Result<Replaced, SwitchError> {
        let mut state = self.state.lock();
        if switch.is_some() && state.switches.len() >= MAX_SWITCHES && !state.switches.contains_key(router) {
            return Err(SwitchError::TooMany);
        }
        let mut version = 0;
        if let Some(member) = &self.member {
            let by = operator.chars().take(MAX_NAME).collect();
            let mut switch = switch.clone();
            if let Some(switch) = &mut switch {
                switch.by = switch.by.chars().take(MAX_NAME).collect();
            }
            let entry = Entry { version: 0, origin: member.clone(), by, switch };
            let mut replica = state.replica.clone();
            version = replica.set(router, entry, OffsetDateTime::now_utc()).ok_or(SwitchError::Name)?;
            replica.encode().map_err(|_| SwitchError::TooLarge)?;
            state.replica = replica;
        }
        let mut next = SwitchMap::clone(&state.switches);
        let before = match switch {
            Some(switch) => next.insert(router.to_owned(), switch),
            None => next.remove(router),
        };
        state.switches = Arc::new(next);
        drop(state);
        self.version.send_modify(|version| *version += 1);
        Ok(Replaced { before, version })
    }

    /// Takes over what other members of the cluster have switched, and returns that.
    pub(crate) fn merge(&self, stored: &Replica) -> Vec<Change> {
        let now = OffsetDateTime::now_utc();
        let mut state = self.state.lock();
        let routers = state.replica.merge(stored);
        if routers.is_empty() {
            return Vec::new();
        }
        let next = state.replica.switches(now);
        let changes = routers.into_iter().filter_map(|router| {
            let is_on = next.contains_key(&router);
            let matters = is_on || state.switches.contains_key(&router);
            let entry = state.replica.get(&router).cloned();
            matters.then_some(Change { router, is_on, entry })
        });
        let changes = changes.collect();
        let is_other = *state.switches != next;
        state.switches = Arc::new(next);
        drop(state);
        if is_other {
            self.version.send_modify(|version| *version += 1);
        }
        changes
    }

    /// Waits until the switches are saved and active. Returns why they could not be saved.
    pub(crate) async fn settled(&self) -> Option<String> {
        let version = self.version();
        let saved = self.saved().await;
        self.active_since(version).await;
        saved
    }

    /// Waits until the active snapshot has the current switches.
    pub(crate) async fn active(&self) {
        self.active_since(self.version()).await;
    }

    async fn active_since(&self, version: u64) {
        let mut active = self.active.subscribe();
        // The sender is a field of this.
        let _ = active.wait_for(|active| *active >= version).await;
    }

    /// Saves the switches on disk. Returns why that failed.
    pub(crate) async fn saved(&self) -> Option<String> {
        self.save().await.err().map(|error| {
            tracing::error!("maintenance: the switches of routers could not be saved: {error}");
            error.to_string()
        })
    }

    async fn save(&self) -> Result<(), file::FileError> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        // One after the other, each with the newest state.
        let _saving = self.saving.lock().await;
        let switches = self.current();
        let replica = self.member.is_some().then(|| self.replica());
        let task = tokio::task::spawn_blocking(move || file::write(&path, &switches, replica));
        task.await.unwrap_or(Ok(()))
    }

    /// Returns the number of changes so far.
    pub(crate) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Records that the active snapshot has all changes up to this version.
    pub(crate) fn activated(&self, version: u64) {
        self.active.send_if_modified(|active| std::mem::replace(active, version) != version);
    }

    /// Waits until there are other switches than those of `seen`, because one was changed or has ended.
    pub(crate) async fn changed(&self, seen: u64) {
        let mut version = self.version.subscribe();
        loop {
            if *version.borrow_and_update() != seen || self.end_overdue() {
                return;
            }
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let next = self.current().values().filter_map(|switch| switch.until).min();
            let left = next.map(|until| Duration::from_secs(u64::try_from(until - now).unwrap_or(0)));
            tokio::select! {
                changed = version.changed() => if changed.is_err() { return },
                () = sleep(left) => {}
            }
        }
    }

    /// Removes the switches that have ended. Returns true if there are any.
    fn end_overdue(&self) -> bool {
        let now = OffsetDateTime::now_utc();
        let mut state = self.state.lock();
        if state.switches.values().all(|switch| switch.is_on(now)) {
            return false;
        }
        let mut left = SwitchMap::clone(&state.switches);
        left.retain(|router, switch| {
            let is_on = switch.is_on(now);
            if !is_on {
                tracing::info!(router, "the maintenance has ended: its time is over");
            }
            is_on
        });
        state.switches = Arc::new(left);
        drop(state);
        self.version.send_modify(|version| *version += 1);
        true
    }
}

async fn sleep(left: Option<Duration>) {
    match left {
        Some(left) => tokio::time::sleep(left.min(MAX_SLEEP)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
