//! Tests of what is kept, with containers that come and go.

use std::collections::BTreeMap;

use tidegate_config::Origin;
use tidegate_config::decode::decode_config;
use tidegate_config::formats::labels;

use super::super::{Said, merge};
use super::*;

/// Returns what the labels of a container define, each below `traefik.http.`.
fn part(container: &str, pairs: &[(&str, &str)]) -> Provided {
    let pairs: BTreeMap<String, &str> =
        pairs.iter().map(|(key, value)| (format!("traefik.http.{key}"), *value)).collect();
    let origin = |label: &str| Origin::Label { container: container.into(), label: label.into() };
    let (node, _) =
        labels::read(pairs.iter().map(|(key, value)| (key.as_str(), *value)), &["traefik"], origin);
    decode_config(&node)
}

/// A shop with a password and a server.
fn shop(container: &str, more: &[(&str, &str)]) -> Provided {
    let own = [
        ("routers.shop.rule", "Host(`shop`)"),
        ("routers.shop.middlewares", "pw"),
        ("routers.shop.service", "shop"),
        ("middlewares.pw.basicauth.users", "a:x"),
        ("services.shop.loadbalancer.servers[0].url", "http://10.0.0.1"),
    ];
    part(container, &[&own[..], more].concat())
}

/// Containers with their group, name, definition and whether they wait.
type Containers<'a> = [(&'a str, &'a str, &'a Provided, bool)];

/// A provider whose containers change.
struct Provider {
    keeper: Keeper,
    state: Provided,
}

impl Provider {
    fn new() -> Self {
        let keeper = Keeper::new(Duration::from_secs(30)).unwrap();
        Self { keeper, state: Provided::default() }
    }

    fn set(&mut self, containers: &Containers<'_>) -> &Provided {
        let said = containers.iter().filter(|one| !one.3).map(|one| Said { part: one.2, serves: true });
        let mut state = merge(said, &self.state);
        let member = |one: &(&'_ str, &'_ str, &'_ Provided, bool)| (one.0.to_owned(), one.1.to_owned());
        let names: Vec<_> = containers.iter().map(member).collect();
        let members = std::iter::zip(containers, &names);
        let members: Vec<_> =
            members.map(|(one, (group, name))| Member { group, name, part: one.2, waits: one.3 }).collect();
        self.keeper.complete(&members, &self.state, &mut state);
        self.state = state;
        &self.state
    }

    fn routers(&self) -> Vec<&str> {
        self.state.config.http.routers.keys().map(String::as_str).collect()
    }

    fn kept(&self) -> Vec<String> {
        self.state.kept.keys().map(|object| format!("{} {}", object.kind, object.name)).collect()
    }

    fn servers(&self, service: &str) -> usize {
        self.state.config.http.services[service].load_balancer.as_ref().unwrap().servers.len()
    }
}

#[tokio::test(start_paused = true)]
async fn routes_stay_without_servers_until_the_time_is_over() {
    let shop = shop("shop-1", &[]);
    let mut provider = Provider::new();
    provider.set(&[("shop", "shop-1", &shop, false)]);
    assert_eq!((provider.kept().len(), provider.servers("shop")), (0, 1));
    provider.set(&[]);
    assert_eq!(provider.kept(), ["router shop", "service shop", "middleware pw"]);
    assert_eq!(provider.servers("shop"), 0);
    assert_eq!(provider.state.config.http.routers["shop"].middlewares, ["pw"]);
    assert!(
        provider.state.kept.values().all(|note| note.starts_with("kept until 2")),
        "{:?}",
        provider.state.kept
    );
    assert_eq!(provider.state.problems, []);
    let before = provider.state.clone();
    tokio::time::advance(Duration::from_secs(29)).await;
    assert_eq!(*provider.set(&[]), before, "nothing changes meanwhile");
    // The timer ends exactly when the routes do.
    provider.keeper.expiry().await;
    assert_eq!(*provider.set(&[]), Provided::default());
}

#[tokio::test(start_paused = true)]
async fn a_replacement_ends_all_that_was_kept() {
    let old = shop("shop-1", &[("routers.old.rule", "Host(`old`)"), ("routers.old.service", "shop")]);
    let new = part(
        "new",
        &[
            ("routers.shop.rule", "Host(`shop2`)"),
            ("routers.shop.service", "shop"),
            ("services.shop.loadbalancer.strategy", "p2c"),
            ("services.shop.loadbalancer.servers[0].url", "http://10.0.0.2"),
        ],
    );
    // Of the same group, of the same name, or a new one with one of its routers.
    for (group, name) in [("shop", "other"), ("other", "shop-1"), ("other", "other")] {
        let mut provider = Provider::new();
        provider.set(&[("shop", "shop-1", &old, false)]);
        provider.set(&[]);
        assert_eq!(provider.routers(), ["old", "shop"]);
        provider.set(&[(group, name, &new, false)]);
        assert_eq!(provider.routers(), ["shop"], "{group} {name}");
        assert_eq!(provider.state.config.http.routers["shop"].rule, "Host(`shop2`)");
        assert_eq!((provider.servers("shop"), provider.kept().len()), (1, 0));
        assert_eq!(provider.state.problems, []);
        assert!(provider.state.config.http.middlewares.is_empty());
        // In one step, too.
        let mut provider = Provider::new();
        provider.set(&[("shop", "shop-1", &old, false)]);
        provider.set(&[(group, name, &new, false)]);
        assert_eq!(provider.routers(), ["shop"], "{group} {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_define_is_not_kept_and_wins() {
    let one = shop("one", &[("routers.own.rule", "Host(`own`)"), ("routers.own.service", "shop")]);
    let two = shop("two", &[]);
    let mut provider = Provider::new();
    provider.set(&[("one", "one", &one, false), ("two", "two", &two, false)]);
    provider.set(&[("two", "two", &two, false)]);
    assert_eq!(provider.kept(), ["router own"]);
    assert_eq!(provider.servers("shop"), 1);
    // Another container with a middleware that differs from the kept one: nothing is reported.
    provider.set(&[]);
    assert_eq!(provider.routers(), ["own", "shop"]);
    let three = part("three", &[("middlewares.pw.basicauth.users", "b:y")]);
    provider.set(&[("three", "three", &three, false)]);
    assert_eq!(provider.state.problems, []);
    assert_eq!(provider.state.config.http.middlewares["pw"], three.config.http.middlewares["pw"]);
    assert!(provider.routers().contains(&"shop"));
}

#[tokio::test(start_paused = true)]
async fn a_broken_router_stays_broken() {
    let broken = shop("shop-1", &[("routers.shop.priority", "abc")]);
    let mut provider = Provider::new();
    provider.set(&[("shop", "shop-1", &broken, false)]);
    let problems = provider.state.problems.clone();
    assert!(problems.iter().any(|problem| problem.object.as_ref().is_some_and(|one| one.name == "shop")));
    provider.set(&[]);
    assert_eq!(provider.routers(), ["shop"]);
    assert_eq!(provider.state.problems, problems);
}

#[tokio::test(start_paused = true)]
async fn every_version_of_a_contested_router_is_kept() {
    let one = shop("one", &[("routers.shop.rule", "Host(`a`)")]);
    let two = shop("two", &[("routers.shop.rule", "Host(`b`)")]);
    let mut provider = Provider::new();
    provider.set(&[("one", "one", &one, false), ("two", "two", &two, false)]);
    assert_eq!(provider.routers(), ["shop", "shop#2"]);
    provider.set(&[]);
    assert_eq!(provider.routers(), ["shop", "shop#2"]);
    let broken = provider.state.problems.iter().filter_map(|problem| problem.object.as_ref());
    assert_eq!(
        broken.filter(|object| object.kind == Kind::Router).count(),
        2,
        "{:?}",
        provider.state.problems
    );
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_is_not_healthy_yet_says_what_is_kept() {
    let old = shop("shop-1", &[("routers.old.rule", "Host(`old`)"), ("routers.old.service", "shop")]);
    let new = shop("shop-1", &[("routers.new.rule", "Host(`new`)"), ("routers.new.service", "shop")]);
    let mut provider = Provider::new();
    // While nothing is kept, it has no effect.
    provider.set(&[("shop", "shop-1", &new, true)]);
    assert_eq!(provider.state, Provided::default());
    provider.set(&[("shop", "shop-1", &old, false)]);
    provider.set(&[("shop", "shop-1", &new, true)]);
    assert_eq!(provider.routers(), ["new", "shop"]);
    assert_eq!(provider.servers("shop"), 0);
    // One that is not exposed ends it.
    provider.set(&[("shop", "shop-1", &Provided::default(), true)]);
    assert_eq!(provider.state, Provided::default());
}

#[tokio::test(start_paused = true)]
async fn the_number_of_kept_workloads_is_bounded() {
    let parts: Vec<(String, Provided)> = (0..MAX_KEPT + 5)
        .map(|number| {
            let name = format!("c{number}");
            let rule = format!("routers.{name}.rule");
            let part = part(&name, &[(&rule, "Host(`x`)")]);
            (name, part)
        })
        .collect();
    let all: Vec<_> = parts.iter().map(|(name, part)| (&**name, &**name, part, false)).collect();
    let mut provider = Provider::new();
    provider.set(&all);
    provider.set(&all[..all.len() - 1]);
    tokio::time::advance(Duration::from_secs(1)).await;
    provider.set(&[]);
    assert_eq!(provider.routers().len(), MAX_KEPT);
    assert!(!provider.routers().contains(&&*format!("c{}", MAX_KEPT + 4)), "the first to end is given up");
}

#[test]
fn the_time_has_a_limit_and_0_keeps_nothing() {
    assert!(Keeper::new(MAX_TIME).is_ok() && Keeper::new(MAX_TIME * 2).is_err());
    let mut off = Keeper::new(Duration::ZERO).unwrap();
    let shop = shop("shop-1", &[]);
    let mut state = Provided::default();
    off.complete(&[Member { group: "g", name: "n", part: &shop, waits: false }], &state.clone(), &mut state);
    off.complete(&[], &shop, &mut state);
    assert_eq!(state, Provided::default());
}
