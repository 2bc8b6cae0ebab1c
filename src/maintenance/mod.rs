//! Routers that operators have put in maintenance while the gateway runs.
//!
//! These switches are a part of what a snapshot is compiled from, so requests of other routers pay nothing. They
//! outlive configurations and, in the folder of `providers.lastState`, restarts. Whatever else switches routers, such as
//! another gateway through a shared store, calls [`Switches::set`].

mod file;

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
}

/// All switches.
#[derive(Debug)]
pub struct Switches {
    state: Mutex<Arc<SwitchMap>>,
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
        Self::new(SwitchMap::new(), None)
    }
}

impl Switches {
    fn new(switches: SwitchMap, file: Option<PathBuf>) -> Self {
        Self {
            state: Mutex::new(Arc::new(switches)),
            version: watch::Sender::new(0),
            active: watch::Sender::new(0),
            file,
            saving: tokio::sync::Mutex::default(),
        }
    }

    /// Reads the switches of the last run, if the settings have a folder for them, with a problem if that fails.
    /// Blocks.
    pub(crate) fn load(settings: &Settings) -> (Self, Option<Problem>) {
        let Some(options) = &settings.providers.last_state else { return (Self::default(), None) };
        let path = file::path(options);
        match file::read(&path) {
            Ok(switches) => (Self::new(switches, Some(path)), None),
            Err(error) => {
                let message =
                    format!("providers.lastState: cannot read which routers are in maintenance: {error}");
                let problem = Problem { origin: Origin::Internal, object: None, message, excerpt: None };
                (Self::new(SwitchMap::new(), Some(path)), Some(problem))
            }
        }
    }

    /// Returns true if they survive a restart.
    pub fn is_durable(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the current switches.
    pub fn current(&self) -> Arc<SwitchMap> {
        self.state.lock().clone()
    }

    /// Switches a router; `None` ends its maintenance. Returns the former switch. It takes effect with the next snapshot,
    /// for which [`Switches::settled`] waits.
    ///
    /// # Errors
    ///
    /// Too many routers are switched.
    pub fn set(&self, router: &str, switch: Option<Switch>) -> Result<Option<Switch>, SwitchError> {
        let mut state = self.state.lock();
        if switch.is_some() && state.len() >= MAX_SWITCHES && !state.contains_key(router) {
            return Err(SwitchError::TooMany);
        }
        let mut next = SwitchMap::clone(&state);
        let before = match switch {
            Some(switch) => next.insert(router.to_owned(), switch),
            None => next.remove(router),
        };
        *state = Arc::new(next);
        drop(state);
        self.version.send_modify(|version| *version += 1);
        Ok(before)
    }

    /// Waits until the switches are saved and active. Returns why they could not be saved.
    pub(crate) async fn settled(&self) -> Option<String> {
        let version = *self.version.borrow();
        let saved = self.save().await.err().map(|error| {
            tracing::error!("maintenance: the switches of routers could not be saved: {error}");
            error.to_string()
        });
        let mut active = self.active.subscribe();
        // The sender is a field of this.
        let _ = active.wait_for(|active| *active >= version).await;
        saved
    }

    async fn save(&self) -> Result<(), file::FileError> {
        let Some(path) = self.file.clone() else { return Ok(()) };
        // One after the other, each with the newest state.
        let _saving = self.saving.lock().await;
        let switches = self.current();
        let task = tokio::task::spawn_blocking(move || file::write(&path, &switches));
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
        if state.values().all(|switch| switch.is_on(now)) {
            return false;
        }
        let mut left = SwitchMap::clone(&state);
        left.retain(|router, switch| {
            let is_on = switch.is_on(now);
            if !is_on {
                tracing::info!(router, "the maintenance has ended: its time is over");
            }
            is_on
        });
        *state = Arc::new(left);
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
