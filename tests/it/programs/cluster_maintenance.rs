//! Switches of routers to maintenance that reach all gateways of a cluster, with a real Consul agent and a real Redis.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::members::{Members, Store, number, shown};
use crate::cache_operated::{JSON, OPERATOR};
use crate::support::outside::Redis;
use crate::support::{Answer, Backend, Gateway, eventually, get, get_with, raw};

/// A switch is active everywhere within this time.
const LIMIT: Duration = Duration::from_secs(1);
const ROUNDS: usize = 6;
/// `a` with the password `test`.
const LOGIN: &str = "login: {basicAuth: {users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}";

/// Members with two routers.
struct Routers(Members);

impl Routers {
    fn new(store: Store) -> Self {
        Self(Members::new(store, Backend::echo("a")))
    }

    /// Starts a member that knows after a restart what it had.
    fn start(&self, id: &str) -> Gateway {
        self.start_with(id, format!("--providers.lastState.directory={}", self.0.path(id).display()))
    }

    fn start_with(&self, id: &str, more: String) -> Gateway {
        let routes = format!(
            "http:
  routers:
    r: {{rule: 'Host(`h`)', service: a}}
    other: {{rule: 'Host(`other`)', service: a}}
  middlewares:
    {LOGIN}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            self.0.backend.url()
        );
        self.0.start(id, &routes, &[more])
    }

    fn start_all(&self) -> Vec<Gateway> {
        Members::start_all(|id| self.start(id))
    }

    /// What the audit log of a member has of switches.
    fn audited(&self, id: &str) -> Vec<Value> {
        self.0.audited(id, "maintenance")
    }
}

fn send(gateway: &Gateway, is_on: bool, router: &str) -> Answer {
    let (method, body) = if is_on { ("PUT", r#"{"retryAfter": "10m"}"#) } else { ("DELETE", "") };
    let request = format!(
        "{method} /api/maintenance/{router} HTTP/1.1\r\nHost: gw\r\n{OPERATOR}{JSON}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    raw(gateway.address("traefik"), request).unwrap()
}

fn switch(gateway: &Gateway, is_on: bool, router: &str) -> Value {
    let answer = send(gateway, is_on, router);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let shown: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!((&shown["durable"], &shown["active"]), (&json!(true), &json!(true)), "{shown}");
    shown
}

fn status(gateway: &Gateway, host: &str) -> u16 {
    get(gateway.web(), host, "/").status
}

/// The status of a router at each gateway.
fn statuses(gateways: &[Gateway], host: &str) -> Vec<u16> {
    gateways.iter().map(|gateway| status(gateway, host)).collect()
}

/// Asserts the status of the last gateway, and waits for that of the others, which learn of it later.
fn has_learnt(gateways: &[Gateway], host: &str, expected: u16) {
    assert_eq!(status(gateways.last().unwrap(), host), expected, "{host}");
    eventually("the others have learnt it", || statuses(gateways, host) == vec![expected; gateways.len()]);
}

fn cli(gateway: &Gateway, arguments: &[&str]) -> Output {
    let api = format!("http://{}", gateway.address("traefik"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("maintenance").args(arguments).args(["--api", &api, "--user", "a:test"]).env_clear();
    command.output().unwrap()
}

fn switches_reach_all(store: Store, name: &str) {
    let members = Routers::new(store);
    let gateways = members.start_all();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let is_on = round % 2 == 0;
        let expected = if is_on { 503 } else { 200 };
        let begun = Instant::now();
        let answer = switch(&gateways[round % 3], is_on, "r@file");
        let returned = begun.elapsed();
        eventually("it is active everywhere", || statuses(&gateways, "h") == [expected; 3]);
        times.push((begun.elapsed(), returned));
        assert_eq!(answer["cluster"], json!({"announcement": round + 1, "members": 2}), "{answer}");
        assert_eq!(statuses(&gateways, "other"), [200; 3]);
    }
    let slowest = times.iter().map(|(active, _)| *active).max().unwrap();
    eprintln!("{name}: switches were active on three gateways after (the API answered after): {times:?}");
    assert!(slowest < LIMIT, "{slowest:?}");

    for (place, id) in ["gw-1", "gw-2", "gw-3"].into_iter().enumerate() {
        eventually("all are audited at every member", || members.audited(id).len() == ROUNDS);
        for (round, event) in members.audited(id).iter().enumerate() {
            let name = if round % 2 == 0 { "maintenance_on" } else { "maintenance_off" };
            let found = json!([event["event"], event["subject"], event["identity"]]);
            assert_eq!(found, json!([name, "r@file", "a"]));
            if round % 3 != place {
                let origin = format!("gw-{}", round % 3 + 1);
                assert_eq!(json!([event["origin"], event["announcement"]]), json!([origin, round + 1]));
            }
        }
    }
    let output = cli(&gateways[0], &["on", "r", "--for", "1h"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text.trim(), "r@file is in maintenance\nannounced to 2 other members of the cluster");
    eventually("it is listed by another member", || {
        let output = cli(&gateways[1], &["list"]);
        String::from_utf8_lossy(&output.stdout).contains("r@file  a ")
    });
}

#[test]
#[ignore = "needs redis-server"]
fn switches_reach_all_gateways_over_redis() {
    switches_reach_all(Store::redis(), "Redis");
}

#[test]
#[ignore = "needs consul"]
fn switches_reach_all_gateways_over_consul() {
    switches_reach_all(Store::consul(), "Consul");
}

/// A gateway that comes back has what was switched meanwhile, also if the list has forgotten it, and does not bring back
/// what was ended.
fn who_was_away_learns_all(store: Store) {
    let members = Routers::new(store);
    let mut gateways = members.start_all();
    gateways.pop().unwrap().shutdown();
    switch(&gateways[0], true, "r");
    gateways.push(members.start("gw-3"));
    has_learnt(&gateways, "h", 503);
    eventually("it has saved it", || {
        let path = members.0.path("gw-3").join("@maintenance.json");
        std::fs::read_to_string(path).is_ok_and(|text| text.contains("r@file"))
    });

    gateways.pop().unwrap().shutdown();
    switch(&gateways[1], false, "r");
    switch(&gateways[0], true, "other");
    gateways.push(members.start("gw-3"));
    has_learnt(&gateways, "h", 200);
    has_learnt(&gateways, "other", 503);
    let known = number(&gateways[0]);
    eventually("it knows the list", || number(&gateways[2]) >= known);
    assert_eq!(statuses(&gateways, "h"), [200; 3], "what it had does not come back");

    // More than the list has room for.
    gateways.pop().unwrap().shutdown();
    switch(&gateways[0], true, "r");
    switch(&gateways[0], false, "other");
    for _ in 0..130 {
        let purge = format!(
            "POST /api/cache/purge HTTP/1.1\r\nHost: gw\r\n{OPERATOR}{JSON}Content-Length: 13\r\nConnection: close\r\n\r\n{{\"all\": true}}"
        );
        assert_eq!(raw(gateways[0].address("traefik"), purge).unwrap().status, 200);
    }
    gateways.push(members.start("gw-3"));
    // One that has nothing on disk.
    gateways.push(members.start_with("gw-4", "--cluster.address=new".to_owned()));
    eventually("they learn both", || {
        statuses(&gateways, "h") == [503; 4] && statuses(&gateways, "other") == [200; 4]
    });
}

#[test]
#[ignore = "needs redis-server"]
fn a_gateway_that_was_away_learns_all_switches_over_redis() {
    who_was_away_learns_all(Store::redis());
}

#[test]
#[ignore = "needs consul"]
fn a_gateway_that_was_away_learns_all_switches_over_consul() {
    who_was_away_learns_all(Store::consul());
}

/// While the store is unavailable, the operator learns that only one gateway has switched; the others follow.
fn an_outage_is_reported_and_made_up_for(store: Store) {
    let mut members = Routers::new(store);
    let mut gateways = members.start_all();
    switch(&gateways[1], true, "other");
    eventually("it is active everywhere", || statuses(&gateways, "other") == [503; 3]);
    members.0.store.kill();
    let output = cli(&gateways[0], &["on", "r"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("only this gateway has switched the router: "), "{error}");
    assert!(error.contains("the others follow when the cluster's store is available"), "{error}");
    assert_eq!(statuses(&gateways, "h"), [503, 200, 200]);
    let answer = send(&gateways[1], false, "other");
    let shown_there: Value = serde_json::from_str(&answer.text()).unwrap();
    assert_eq!((answer.status, &shown_there["changed"]), (503, &json!(true)), "{shown_there}");
    assert_eq!(statuses(&gateways, "other"), [503, 200, 503]);

    // One that starts now has what it had; one that has switched something and is restarted still announces it.
    gateways.pop().unwrap().shutdown();
    gateways.push(members.start("gw-3"));
    assert_eq!((status(&gateways[2], "h"), status(&gateways[2], "other")), (200, 503));
    gateways.remove(0).shutdown();
    gateways.insert(0, members.start("gw-1"));
    assert_eq!((status(&gateways[0], "h"), status(&gateways[0], "other")), (503, 503));

    members.0.store.run();
    eventually("all have both", || {
        statuses(&gateways, "h") == [503; 3] && statuses(&gateways, "other") == [200; 3]
    });
    for gateway in &gateways {
        eventually("nothing is wrong any more", || shown(gateway)["announcementsError"].is_null());
    }
    switch(&gateways[2], false, "r");
    eventually("switches work again", || statuses(&gateways, "h") == [200; 3]);
}

#[test]
#[ignore = "needs redis-server"]
fn an_outage_of_redis_is_reported_and_switches_made_up_for() {
    an_outage_is_reported_and_made_up_for(Store::redis());
}

#[test]
#[ignore = "needs consul"]
fn an_outage_of_consul_is_reported_and_switches_made_up_for() {
    an_outage_is_reported_and_made_up_for(Store::consul());
}

#[test]
#[ignore = "needs redis-server"]
fn a_redis_that_loses_its_data_gets_the_switches_again() {
    let mut members = Routers::new(Store::Redis(Redis::start(&[])));
    let mut gateways = members.start_all();
    switch(&gateways[0], true, "r");
    eventually("it is active everywhere", || statuses(&gateways, "h") == [503; 3]);
    members.0.store.kill();
    eventually("it is missed", || {
        gateways.iter().all(|gateway| shown(gateway)["announcementsError"].is_string())
    });
    members.0.store.run();
    gateways.push(members.start_with("gw-4", "--cluster.address=new".to_owned()));
    eventually("a newcomer learns it", || statuses(&gateways, "h") == [503; 4]);
}

/// What is not from a gateway is reported, is not overwritten, and does not affect purges.
#[test]
#[ignore = "needs redis-server"]
fn unreadable_switches_are_reported() {
    let members = Routers::new(Store::redis());
    let gateways = members.start_all();
    let Store::Redis(redis) = &members.0.store else { unreachable!() };
    redis.command(&["SET", "tidegate:cluster:{c}:maintenance", r#"{"version":2,"switches":{}}"#]);
    let answer = send(&gateways[0], true, "r");
    assert_eq!(answer.status, 503);
    let expected = "only this gateway has switched the router: the stored switches of routers have version 2, expected 1";
    assert!(answer.text().contains(expected), "{}", answer.text());
    eventually("it is shown", || {
        shown(&gateways[1])["announcementsError"].as_str().is_some_and(|error| error.contains("version 2"))
    });
    let answer = get_with(gateways[1].address("traefik"), "gw", "/api/maintenance", OPERATOR);
    assert_eq!(answer.text().trim(), "[]");
    redis.command(&["DEL", "tidegate:cluster:{c}:maintenance"]);
    eventually("all have it", || statuses(&gateways, "h") == [503; 3]);
    for gateway in &gateways {
        eventually("nothing is wrong any more", || shown(gateway)["announcementsError"].is_null());
    }
}
