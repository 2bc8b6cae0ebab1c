//! Tests of state that outlives changes of options.

use super::{Compiled, World};
use crate::snapshot::files::PANICKING;

/// Returns a configuration with two routers that share a rate limit with this burst per hour.
fn limited(burst: u32) -> String {
    with(&format!(r#""limit": {{"rateLimit": {{"average": 1, "period": "1h", "burst": {burst}}}}}"#))
}

fn with(middleware: &str) -> String {
    format!(
        r#"{{"http": {{
            "routers": {{
                "a": {{"rule": "Path(`/a`)", "service": "s", "middlewares": ["limit"]}},
                "b": {{"rule": "Path(`/b`)", "service": "s", "middlewares": ["limit"]}}
            }},
            "services": {{{}}},
            "middlewares": {{{middleware}}}
        }}}}"#,
        super::SERVICE
    )
}

/// Returns the statuses of several requests; 502 means the request passed, as the server is unreachable.
fn statuses(world: &World, compiled: &Compiled, path: &str, times: usize) -> Vec<u16> {
    (0..times).map(|_| world.status(&compiled.snapshot, "h.test", path).unwrap().as_u16()).collect()
}

#[test]
fn rate_limits_keep_their_state_when_options_change() {
    let world = World::new(&["web"]);
    let first = world.compile(&limited(1));
    assert_eq!(statuses(&world, &first, "/a", 2), [502, 429]);
    let second = world.compile_after(&limited(2), Some(&first));
    assert_eq!(statuses(&world, &second, "/b", 3), [502, 502, 429], "each router counts for itself");
    assert_eq!(statuses(&world, &second, "/a", 2), [502, 429], "one more, and no new bucket");
    // A reused instance passes its state on to the next snapshot.
    let third = world.compile_after(&limited(2), Some(&second));
    let fourth = world.compile_after(&limited(1), Some(&third));
    assert_eq!(statuses(&world, &fourth, "/a", 1), [429]);
}

#[test]
fn state_is_dropped_with_its_middleware() {
    let world = World::new(&["web"]);
    let first = world.compile(&limited(1));
    assert_eq!(statuses(&world, &first, "/a", 2), [502, 429]);
    let other = r#""limit": {"inFlightReq": {"amount": 9}}"#;
    let without = world.compile_after(&with(other), Some(&first));
    let back = world.compile_after(&limited(1), Some(&without));
    assert_eq!(statuses(&world, &back, "/a", 2), [502, 429]);
}

#[test]
fn state_outlives_invalid_options() {
    let world = World::new(&["web"]);
    let first = world.compile(&limited(1));
    assert_eq!(statuses(&world, &first, "/a", 2), [502, 429]);
    let wrong = r#""limit": {"rateLimit": {"average": -1}}"#;
    let broken = world.compile_after(&with(wrong), Some(&first));
    assert_eq!(statuses(&world, &broken, "/a", 1), [503]);
    let corrected = world.compile_after(&limited(1), Some(&broken));
    assert_eq!(statuses(&world, &corrected, "/a", 1), [429]);
}

#[test]
fn a_discarded_snapshot_does_not_change_state() {
    let world = World::new(&["web"]);
    let live = world.compile(&limited(2));
    assert_eq!(statuses(&world, &live, "/a", 1), [502]);
    drop(world.draft(&with(r#""limit": {"inFlightReq": {"amount": 9}}"#), Some(&live)));
    drop(world.draft(&limited(9), Some(&live)));
    let panics = with(&format!(r#""limit": {{"basicAuth": {{"usersFile": "{PANICKING}"}}}}"#));
    let panicking = std::panic::AssertUnwindSafe(|| world.draft(&panics, Some(&live)));
    assert!(std::panic::catch_unwind(panicking).is_err());
    assert_eq!(statuses(&world, &live, "/a", 2), [502, 429]);
    let next = world.compile_after(&limited(2), Some(&live));
    assert_eq!(statuses(&world, &next, "/a", 1), [429]);
}
