//! What limits hold and have counted: `/api/limits`.

use serde_json::{Value, json};
use tidegate_core::occupancy::{Offender, PolicyState};

use crate::snapshot::{RouterLimit, Snapshot};

/// Returns the limits of all routers, ordered by router and middleware.
pub(super) fn limits(snapshot: &Snapshot) -> Value {
    let mut limits: Vec<&RouterLimit> = snapshot.limits.iter().collect();
    limits.sort_by_key(|limit| (&limit.router, &limit.middleware));
    limits.into_iter().filter_map(limit).collect()
}

fn limit(limit: &RouterLimit) -> Option<Value> {
    let (kind, held) = limit.occupancy()?;
    let policies: Vec<Value> = limit.policies().iter().map(policy).collect();
    Some(json!({
        "router": limit.router,
        "middleware": limit.middleware,
        "type": kind,
        "sources": held.sources,
        "inFlight": held.in_flight,
        "waiting": held.waiting,
        "policies": policies,
    }))
}

fn policy(counted: &PolicyState) -> Value {
    let offender = |one: &Offender| json!({"key": one.key, "refused": one.refused});
    json!({
        "name": &*counted.name,
        "mode": if counted.is_shadow { "shadow" } else { "enforce" },
        "keys": counted.keys,
        "waiting": counted.waiting,
        "admitted": counted.admitted,
        "refused": counted.refused,
        "shadow": counted.shadowed,
        "queued": counted.queued,
        "exempt": counted.exempted,
        "offenders": counted.offenders.iter().map(offender).collect::<Vec<_>>(),
    })
}
