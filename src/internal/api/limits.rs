//! What limits hold and have counted: `/api/limits`.

use serde_json::{Value, json};
use tidegate_core::occupancy::{Offender, PolicyState};

use crate::snapshot::{ActiveLimit, Snapshot};

/// Returns the limits of plans and routers, ordered by plan, router and middleware.
pub(super) fn limits(snapshot: &Snapshot) -> Value {
    let mut limits: Vec<&ActiveLimit> = snapshot.limits.iter().collect();
    limits.sort_by_key(|limit| (&limit.plan, &limit.router, &limit.middleware));
    limits.into_iter().filter_map(limit).collect()
}

fn limit(limit: &ActiveLimit) -> Option<Value> {
    let (kind, held) = limit.occupancy()?;
    let policies: Vec<Value> = limit.policies().iter().map(policy).collect();
    let refusals = limit.refusals();
    Some(json!({
        "router": limit.router,
        "middleware": limit.middleware,
        "plan": limit.plan,
        "type": kind,
        "sources": held.sources,
        "inFlight": held.in_flight,
        "waiting": held.waiting,
        "refused": refusals.as_ref().map(|refusals| refusals.refused),
        "offenders": refusals.as_ref().map(|refusals| offenders(&refusals.offenders)),
        "policies": policies,
    }))
}

fn offenders(offenders: &[Offender]) -> Value {
    offenders.iter().map(|one| json!({"key": one.key, "refused": one.refused})).collect()
}

fn policy(counted: &PolicyState) -> Value {
    json!({
        "name": &*counted.name,
        "mode": if counted.is_shadow { "shadow" } else { "enforce" },
        "keys": counted.keys,
        "waiting": counted.waiting,
        "admitted": counted.admitted,
        "refused": counted.refused,
        "shadow": counted.shadowed,
        "queued": counted.queued,
        "tarpit": counted.tarpitted,
        "exempt": counted.exempted,
        "offenders": offenders(&counted.offenders),
    })
}
