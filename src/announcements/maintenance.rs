//! Announced switches of routers to maintenance.
//!
//! An announcement only says that something has changed: the switches themselves are a value beside the list, which
//! members merge whenever they read the list.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_core::AuditEvent;
use tidegate_core::announced::Announced;

use crate::maintenance::{Change, Replica, ReplicaError, Switches};
use crate::observability::AuditLog;

/// Maximum length of the name of a router in bytes.
const MAX_ROUTER: usize = 1024;

/// A router has been switched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SwitchMaintenance {
    /// Qualified name of the router.
    pub(crate) router: String,
    /// Which of its switches it is.
    pub(crate) version: u64,
}

impl SwitchMaintenance {
    pub(super) fn is_valid(&self) -> bool {
        (1..=MAX_ROUTER).contains(&self.router.len())
    }
}

/// Takes over the switches of the cluster.
pub(super) struct Follower {
    pub(super) switches: Arc<Switches>,
    pub(super) audit: Option<Arc<AuditLog>>,
}

impl Follower {
    /// Takes over what is stored beside the list. Returns true if the store lacks something.
    pub(super) fn follow(
        &self,
        stored: Option<&[u8]>,
        list: &Announced<SwitchMaintenance>,
    ) -> Result<bool, ReplicaError> {
        let changes = self.switches.merge(&Replica::decode(stored)?);
        for change in &changes {
            self.report(change, list);
        }
        if !changes.is_empty() {
            let switches = self.switches.clone();
            tokio::spawn(async move { switches.saved().await });
        }
        Ok(self.switches.replica().merged_into(stored)?.is_some())
    }

    fn report(&self, Change { router, is_on, entry }: &Change, list: &Announced<SwitchMaintenance>) {
        let (version, origin, operator) =
            entry.as_ref().map_or((0, "", ""), |one| (one.version, &*one.origin, &*one.by));
        let announced = list.entries.iter().map(|one| (&one.value, one.number));
        let announcement = announced
            .filter(|(one, _)| one.router == *router && one.version == version)
            .map(|(_, number)| number);
        let announcement = announcement.min().unwrap_or(0);
        let state = if *is_on { "on" } else { "off" };
        tracing::info!(
            router,
            announcement,
            origin,
            operator,
            "maintenance: switched {state} by the cluster"
        );
        if let Some(audit) = &self.audit {
            let event = if *is_on { AuditEvent::MaintenanceOn } else { AuditEvent::MaintenanceOff };
            audit.announced_switch(event, router, (origin, operator, announcement));
        }
    }
}
