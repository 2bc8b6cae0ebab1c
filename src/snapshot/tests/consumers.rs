//! Tests of the directory of consumers.

use std::sync::Arc;

use tidegate_config::decode::decode_config;
use tidegate_config::formats::yaml;
use tidegate_config::{Kind, Provided};

use super::{World, status_of};
use crate::snapshot::Compiled;
use crate::snapshot::report::Status;

fn state(consumers: &str) -> Provided {
    let text = format!(
        "http:\n  routers:\n    r: {{rule: Path(`/`), service: s}}\n  services:\n    s: {{loadBalancer: {{servers: \
         [{{url: 'http://127.0.0.1:1'}}]}}}}\n  plans: {{gold: {{}}, free: {{}}}}\n  consumers:\n{consumers}"
    );
    decode_config(&yaml::read("c.yml", text.as_bytes()).unwrap())
}

fn key(id: &str, digit: char) -> String {
    format!("{{id: {id}, sha256: '{}'}}", digit.to_string().repeat(64))
}

fn problems(compiled: &Compiled) -> Vec<String> {
    compiled.snapshot.report.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_directory_becomes_current_with_its_effects_and_never_before() {
    let world = World::new(&["web"]);
    let handle = world.environment.consumers.clone();
    let first = world.compile_state(&state("    a: {plan: gold, credentials: {basicAuth: [ann]}}\n"), None);
    let owner = || handle.load().by_basic_user("ann").unwrap().map(|consumer| consumer.plan.clone());
    assert_eq!(owner().as_deref(), Some("gold@file"));
    let changed = state("    a: {plan: free, credentials: {basicAuth: [ann]}}\n");
    let (draft, effects) = world.draft_state(&changed, Some(&first));
    assert_eq!(draft.snapshot.consumers.by_basic_user("ann").unwrap().unwrap().plan, "free@file");
    drop(effects);
    assert_eq!(owner().as_deref(), Some("gold@file"), "a discarded draft changes nothing");
    let second = world.compile_state(&changed, Some(&first));
    assert_eq!(owner().as_deref(), Some("free@file"));
    // What has not changed is the same object: routes, services and an equal directory.
    assert!(Arc::ptr_eq(&first.snapshot.services["s@file"], &second.snapshot.services["s@file"]));
    let third = world.compile_state(&changed, Some(&second));
    assert!(Arc::ptr_eq(&second.snapshot.consumers, &third.snapshot.consumers));
    world.compile_state(&Provided::default(), Some(&third));
    assert!(handle.load().is_empty());
}

#[test]
fn two_consumers_with_one_key_are_reported_at_both_places() {
    let world = World::new(&["web"]);
    let (one, other) = (key("k", '1'), key("own", '2'));
    let compiled = world.compile_state(
        &state(&format!(
            "    a:\n      credentials:\n        apiKeys:\n        - {one}\n    b:\n      credentials:\n        apiKeys:\n        \
             - {other}\n        - {one}\n    c: {{plan: free}}\n"
        )),
        None,
    );
    let directory = world.environment.consumers.load();
    assert!(directory.key("k").is_none(), "it identifies no one");
    assert_eq!(directory.broken_keys("k").len(), 2, "but it is known");
    assert_eq!(&*directory.key("own").unwrap().consumer.name, "b@file");
    assert_eq!(
        problems(&compiled),
        [
            "c.yml:11: consumer a@file: credentials.apiKeys[0]: API key `k` is also that of consumer `b@file` (c.yml:16): \
             requests with it get 503",
            "c.yml:16: consumer b@file: credentials.apiKeys[1]: API key `k` is also that of consumer `a@file` (c.yml:11): \
             requests with it get 503",
        ]
    );
    assert_eq!(status_of(&compiled, Kind::Consumer, "a@file"), Status::Warning);
    assert_eq!(status_of(&compiled, Kind::Consumer, "c@file"), Status::Enabled);
}

#[test]
fn a_consumer_with_mistakes_identifies_no_one_and_the_others_do() {
    let world = World::new(&["web"]);
    let compiled = world.compile_state(
        &state("    a: {groups: [''], credentials: {basicAuth: [ann]}}\n    b: {credentials: {basicAuth: [bob]}}\n"),
        None,
    );
    let directory = world.environment.consumers.load();
    assert!(directory.by_basic_user("ann").is_err() && directory.by_basic_user("bob").unwrap().is_some());
    assert_eq!(problems(&compiled), ["c.yml:8: consumer a@file: groups[0]: is empty"]);
    assert_eq!(status_of(&compiled, Kind::Consumer, "a@file"), Status::Disabled);
}

#[test]
fn a_consumer_with_an_undefined_plan_identifies_no_one_until_the_plan_is_defined() {
    let world = World::new(&["web"]);
    let consumers = "    a: {plan: glod, credentials: {basicAuth: [ann]}}\n    b: {plan: 'gold@file', credentials: {basicAuth: [bob]}}\n";
    let with = |plans: &str| {
        let text = format!("http:\n  plans: {plans}\n  consumers:\n{consumers}");
        decode_config(&yaml::read("c.yml", text.as_bytes()).unwrap())
    };
    let first = world.compile_state(&with("{gold: {groups: [paying]}}"), None);
    assert_eq!(
        problems(&first),
        ["c.yml:4: consumer a@file: plan: `glod@file` is not defined: expected one of `http.plans`"]
    );
    let groups = |user: &str| {
        let owner = world.environment.consumers.load().by_basic_user(user);
        owner.map(|consumer| consumer.unwrap().groups.join(" ")).ok()
    };
    assert_eq!((groups("ann"), groups("bob").as_deref()), (None, Some("paying")));
    // A change of a plan changes its consumers.
    let second = world.compile_state(&with("{gold: {groups: [rich]}, glod: {}}"), Some(&first));
    assert_eq!(problems(&second), Vec::<String>::new());
    assert_eq!((groups("ann").as_deref(), groups("bob").as_deref()), (Some(""), Some("rich")));
    // A plan with a mistake is none.
    let third = world.compile_state(&with("{gold: {groups: ['']}, glod: {}}"), Some(&second));
    assert_eq!(groups("bob"), None);
    let told = problems(&third).join("; ");
    assert!(told.contains("c.yml:2: plan gold@file: groups[0]: is empty"), "{told}");
    assert!(told.contains("consumer b@file: plan: `gold@file` is not defined"), "{told}");
}

#[test]
fn a_plan_with_changed_limits_keeps_their_buckets() {
    let world = World::new(&["web"]);
    let with = |limits: &str| {
        let text = format!(
            "http:\n  plans:\n    gold:\n      limits: {limits}\n  consumers:\n    a: {{plan: gold, credentials: {{basicAuth: [ann]}}}}\n"
        );
        decode_config(&yaml::read("c.yml", text.as_bytes()).unwrap())
    };
    let states = |compiled: &Compiled| {
        let limit = compiled.snapshot.limits.iter().find(|limit| limit.plan == "gold@file");
        limit.map(|limit| limit.policies().into_iter().map(|one| one.name.to_string()).collect::<Vec<_>>())
    };
    let first = world.compile_state(&with("[{name: rps, average: 1}]"), None);
    assert_eq!((problems(&first).len(), states(&first)), (0, Some(vec!["rps".to_owned()])));
    let limits = || {
        world
            .environment
            .consumers
            .load()
            .by_basic_user("ann")
            .ok()
            .flatten()
            .and_then(|one| one.limits.clone())
    };
    let before = limits().unwrap();
    // Nothing has changed: the same limits.
    let again = world.compile_state(&with("[{name: rps, average: 1}]"), Some(&first));
    assert_eq!(limits(), Some(before.clone()));
    let second =
        world.compile_state(&with("[{name: rps, average: 2}, {name: rpm, average: 9}]"), Some(&again));
    assert_eq!(states(&second), Some(vec!["rps".to_owned(), "rpm".to_owned()]));
    assert_ne!(limits(), Some(before));
    let wrong = world.compile_state(&with("[{name: rps, average: 0}]"), Some(&second));
    let told = problems(&wrong).join("; ");
    assert!(told.contains("c.yml:4: plan gold@file: limits[0].average: expected 1 or more"), "{told}");
    assert_eq!((limits(), states(&wrong)), (None, None));
}
