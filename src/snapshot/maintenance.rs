//! Routers in maintenance, by their option or because an operator has switched them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidegate_core::{BuildError, Middleware, MiddlewareInfo};
use tidegate_middlewares::maintenance::Maintenance;
use time::OffsetDateTime;

use super::attach::Attached;
use super::builder::Builder;
use crate::maintenance::{Switch, SwitchMap};

/// What stands in front of a router in maintenance is called this among its middlewares. Their names contain `@`.
pub(crate) const GATE: &str = "maintenance";

/// Kinds of middlewares that give responses their form. They apply to the response during maintenance; all others are
/// for requests that are served.
const SHAPING: [&str; 5] = ["compress", "errorPages", "errors", "headers", "requestId"];

/// A router in maintenance.
#[derive(Clone, Debug, PartialEq)]
pub struct InMaintenance {
    /// The name of the router as configured.
    pub source: String,
    /// The options in force.
    pub options: Maintenance,
    /// The switch of an operator; `None` if only the configuration says so.
    pub switch: Option<Switch>,
}

/// The routers in maintenance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MaintenanceState {
    /// By name, as they are served.
    pub active: BTreeMap<String, InMaintenance>,
    /// The configured names of routers that were split by entry point, by the names of the parts.
    pub split: BTreeMap<String, String>,
}

impl MaintenanceState {
    /// Returns the configured name of a router.
    pub fn source<'a>(&'a self, router: &'a str) -> &'a str {
        self.split.get(router).map_or(router, String::as_str)
    }
}

/// Returns the maintenance of a router, if it is in maintenance at this time.
pub(super) fn of_router(
    router: &Attached,
    switches: &SwitchMap,
    now: OffsetDateTime,
) -> Option<InMaintenance> {
    let written = router.router.maintenance.as_ref();
    let switch = switches.get(&router.source).filter(|switch| switch.is_on(now));
    if switch.is_none() && !written.is_some_and(|options| options.enabled) {
        return None;
    }
    let mut options = written.cloned().unwrap_or_default();
    options.enabled = true;
    if let Some(switch) = switch {
        // The end of the switch says more than a fixed time.
        options.retry_after = switch.retry_after.or(options.retry_after.filter(|_| switch.until.is_none()));
        if !switch.allow.is_empty() {
            options.allow.clone_from(&switch.allow);
        }
    }
    Some(InMaintenance { source: router.source.clone(), options, switch: switch.cloned() })
}

/// Builds what stands in front of the chain of a router with these middlewares.
pub(super) fn gate<'m>(
    builder: &Builder<'_>,
    maintenance: &InMaintenance,
    infos: &[MiddlewareInfo],
    middlewares: impl Iterator<Item = &'m Arc<dyn Middleware>>,
) -> Result<Arc<dyn Middleware>, BuildError> {
    let options = &builder.config.http.middlewares;
    // Options of the router, such as `access`, are none of these.
    let shapes = |name: &str| options.get(name).is_some_and(|options| SHAPING.contains(&options.kind()));
    let shaping = infos.iter().zip(middlewares).filter(|(info, _)| shapes(&info.name));
    let shaping = shaping.map(|(_, middleware)| middleware.clone()).collect();
    let until = maintenance.switch.as_ref().and_then(|switch| switch.until);
    let until = until.and_then(|until| u64::try_from(until).ok());
    let until = until.and_then(|until| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until)));
    maintenance.options.gate(until, shaping, builder.environment.clock.clone())
}
