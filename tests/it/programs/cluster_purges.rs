//! Purges that reach all gateways of a cluster, with a real Consul agent and a real Redis.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::members::{Members, Store, number, shown};
use crate::cache_operated::{JSON, OPERATOR, disk_is_ready, is_hit, numbered, purge, routes, with_disk};
use crate::support::outside::Redis;
use crate::support::{Gateway, eventually, get, get_with};

/// A purge is visible everywhere within this time.
const LIMIT: Duration = Duration::from_secs(1);
const ROUNDS: usize = 10;

/// Members with caches on disk.
struct Caches(Members);

impl Caches {
    fn new(store: Store) -> Self {
        Self(Members::new(store, numbered()))
    }

    fn start(&self, id: &str) -> Gateway {
        let gateway = self.start_unready(id, &[]);
        disk_is_ready(gateway.address("traefik"));
        gateway
    }

    fn start_unready(&self, id: &str, more: &[String]) -> Gateway {
        let routes = routes(&self.0.backend.url(), &with_disk(&self.0.path(id), ""));
        self.0.start(id, &routes, more)
    }

    fn start_all(&self) -> Vec<Gateway> {
        Members::start_all(|id| self.start(id))
    }

    fn audited(&self, id: &str) -> Vec<Value> {
        self.0.audited(id, "cache_purged")
    }
}

/// Whether something is stored, without storing it.
fn has(gateway: &Gateway, path: &str) -> bool {
    get_with(gateway.web(), "h", path, "Cache-Control: only-if-cached\r\n").status == 200
}

fn fill(gateways: &[Gateway], paths: &[&str]) {
    for gateway in gateways {
        for path in paths {
            get(gateway.web(), "h", path);
            eventually("it is stored", || is_hit(&get(gateway.web(), "h", path)));
        }
    }
}

fn announced(gateway: &Gateway, what: &Value) -> Value {
    let answer = purge(gateway, &format!("{OPERATOR}{JSON}"), what);
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).unwrap()
}

fn purges_reach_all(store: Store, name: &str) {
    let members = Caches::new(store);
    let gateways = members.start_all();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        fill(&gateways, &["/a/1", "/a/2", "/b/1", "/large"]);
        let (what, gone, kept) = match round % 5 {
            0 => (json!({"url": "http://h/a/1"}), vec!["/a/1"], vec!["/a/2", "/b/1"]),
            1 => (json!({"prefix": "http://h/a/"}), vec!["/a/1", "/a/2"], vec!["/b/1", "/large"]),
            2 => (json!({"tag": "large", "middleware": "cache@file"}), vec!["/large"], vec!["/a/1"]),
            3 => (json!({"tag": "b"}), vec!["/b/1"], vec!["/a/1", "/large"]),
            _ => (json!({"all": true}), vec!["/a/1", "/a/2", "/b/1", "/large"], vec![]),
        };
        let begun = Instant::now();
        let answer = announced(&gateways[round % 3], &what);
        let returned = begun.elapsed();
        eventually("it is gone everywhere", || {
            gateways.iter().all(|gateway| gone.iter().all(|path| !has(gateway, path)))
        });
        times.push((begun.elapsed(), returned));
        assert_eq!(answer["cluster"], json!({"announcement": round + 1, "members": 2}), "{answer}");
        assert!(gateways.iter().all(|gateway| kept.iter().all(|path| has(gateway, path))), "{what}");
    }
    let slowest = times.iter().map(|(gone, _)| *gone).max().unwrap();
    eprintln!("{name}: purges were visible on three gateways after (the API answered after): {times:?}");
    assert!(slowest < LIMIT, "{slowest:?}");
    for gateway in &gateways {
        eventually("all know the last one", || {
            let shown = shown(gateway);
            shown["members"].as_array().unwrap().iter().all(|one| one["announcement"] == ROUNDS)
        });
    }
    for (place, id) in ["gw-1", "gw-2", "gw-3"].into_iter().enumerate() {
        let own = (0..ROUNDS).filter(|round| round % 3 == place).count();
        eventually("all are audited at every member", || members.audited(id).len() == ROUNDS);
        let all = members.audited(id);
        let numbers: Vec<u64> = all.iter().filter_map(|event| event["announcement"].as_u64()).collect();
        assert!(numbers.is_sorted() && numbers.len() == ROUNDS - own, "{numbers:?}");
        assert!(all.iter().all(|event| event["identity"] == "a"), "{all:?}");
    }
    let of_two = members.audited("gw-2");
    let first = of_two.iter().find(|event| event["announcement"] == 1).unwrap();
    assert_eq!(json!([first["subject"], first["origin"]]), json!(["url http://h/a/1", "gw-1"]));
}

#[test]
#[ignore = "needs redis-server"]
fn purges_reach_all_gateways_over_redis() {
    purges_reach_all(Store::redis(), "Redis");
}

#[test]
#[ignore = "needs consul"]
fn purges_reach_all_gateways_over_consul() {
    purges_reach_all(Store::consul(), "Consul");
}

/// A gateway that comes back with what it had on disk does not serve what was purged meanwhile.
fn who_was_away_catches_up(store: Store) {
    let members = Caches::new(store);
    let mut gateways = members.start_all();
    fill(&gateways, &["/a/1", "/b/1"]);
    let objects = |gateway: &Gateway| {
        let answer = get_with(gateway.address("traefik"), "gw", "/api/cache", OPERATOR);
        let all: Value = serde_json::from_str(&answer.text()).unwrap();
        all[0]["disk"]["objects"].as_u64().unwrap()
    };
    let note = members.0.path("gw-3").join("note");
    announced(&gateways[0], &json!({"tag": "other"}));
    eventually("its place is kept", || {
        std::fs::read_to_string(&note).is_ok_and(|text| text.split(' ').nth(1) == Some("1"))
    });
    eventually("it is on disk", || objects(&gateways[2]) == 2);
    gateways.pop().unwrap().shutdown();
    announced(&gateways[0], &json!({"url": "http://h/a/1"}));
    gateways.push(members.start("gw-3"));
    assert!(!has(&gateways[2], "/a/1"), "purged while it was away");
    assert!(has(&gateways[2], "/b/1"), "not purged");
    eventually("its place is kept", || {
        std::fs::read_to_string(&note).is_ok_and(|text| text.split(' ').nth(1) == Some("2"))
    });

    // More than the list has room for.
    gateways.pop().unwrap().shutdown();
    for number in 0..130 {
        announced(&gateways[number % 2], &json!({"tag": format!("t{number}")}));
    }
    gateways.push(members.start("gw-3"));
    assert!(!has(&gateways[2], "/b/1"), "nobody knows whether it was purged");
    assert!(has(&gateways[1], "/b/1"), "who was there knows");
    eventually("it is audited", || {
        members
            .audited("gw-3")
            .iter()
            .any(|event| event["subject"].as_str().unwrap().contains("announcements are missing"))
    });
}

#[test]
#[ignore = "needs redis-server"]
fn a_gateway_that_was_away_catches_up_over_redis() {
    who_was_away_catches_up(Store::redis());
}

#[test]
#[ignore = "needs consul"]
fn a_gateway_that_was_away_catches_up_over_consul() {
    who_was_away_catches_up(Store::consul());
}

/// While the store is unavailable, the operator learns that only one gateway has purged; the others follow.
fn an_outage_is_told_and_made_up_for(store: Store) {
    let mut members = Caches::new(store);
    let mut gateways = members.start_all();
    fill(&gateways, &["/a/1", "/b/1"]);
    members.0.store.kill();
    let api = format!("http://{}", gateways[0].address("traefik"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["cache", "purge", "http://h/a/1", "--api", &api, "--user", "a:test"]).env_clear();
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{error}");
    assert!(error.contains("only this gateway has purged"), "{error}");
    assert_eq!(gateways.iter().map(|gateway| has(gateway, "/a/1")).collect::<Vec<_>>(), [false, true, true]);
    eventually("it is shown", || shown(&gateways[1])["announcementsError"].is_string());

    // One that starts now does not know what it has missed, so it does not use what is on disk.
    gateways.pop().unwrap().shutdown();
    gateways.push(members.start_unready("gw-3", &["--providers.startTimeout=1s".to_owned()]));
    assert!(!has(&gateways[2], "/a/1") && !has(&gateways[2], "/b/1"));
    assert_eq!(get(gateways[2].web(), "h", "/c").status, 200, "it serves");
    let problems = || get_with(gateways[2].address("traefik"), "gw", "/api/problems", OPERATOR).text();
    eventually("it is a problem", || problems().contains("is not used until the cluster is reached"));

    members.0.store.run();
    for gateway in &gateways {
        eventually("the others follow", || !has(gateway, "/a/1"));
        eventually("nothing is wrong any more", || shown(gateway)["announcementsError"].is_null());
    }
    disk_is_ready(gateways[2].address("traefik"));
    assert!(has(&gateways[2], "/b/1"), "what is on disk is used again");
    let before = number(&gateways[0]);
    announced(&gateways[1], &json!({"tag": "b"}));
    for gateway in &gateways {
        eventually("purges work again", || !has(gateway, "/b/1") && number(gateway) > before);
    }
}

#[test]
#[ignore = "needs redis-server"]
fn an_outage_of_redis_is_told_and_made_up_for() {
    an_outage_is_told_and_made_up_for(Store::redis());
}

#[test]
#[ignore = "needs consul"]
fn an_outage_of_consul_is_told_and_made_up_for() {
    an_outage_is_told_and_made_up_for(Store::consul());
}

#[test]
#[ignore = "needs redis-server"]
fn a_redis_that_loses_its_data_costs_no_cache_that_is_up_to_date() {
    let mut members = Caches::new(Store::Redis(Redis::start(&[])));
    let gateways = members.start_all();
    fill(&gateways, &["/a/1", "/b/1"]);
    announced(&gateways[0], &json!({"tag": "a"}));
    for gateway in &gateways {
        eventually("it has purged", || !has(gateway, "/a/1") && number(gateway) == 1);
    }
    members.0.store.kill();
    eventually("it is missed", || {
        gateways.iter().all(|gateway| shown(gateway)["announcementsError"].is_string())
    });
    members.0.store.run();
    eventually("it is found", || {
        gateways.iter().all(|gateway| shown(gateway)["announcementsError"].is_null())
    });
    assert!(gateways.iter().all(|gateway| has(gateway, "/b/1") && number(gateway) == 1));
    assert_eq!(announced(&gateways[1], &json!({"tag": "b"}))["cluster"]["announcement"], 2);
    for gateway in &gateways {
        eventually("numbers go on", || !has(gateway, "/b/1") && number(gateway) == 2);
    }
}
