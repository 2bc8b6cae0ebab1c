//! What a gateway says of its cluster, and which settings of a cluster are refused.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{Backend, Gateway, eventually, get};

/// `/api/cluster` at an entry point.
pub fn cluster_at(address: SocketAddr) -> Value {
    serde_json::from_str(&get(address, "h", "/api/cluster").text()).unwrap()
}

pub fn cluster(gateway: &Gateway) -> Value {
    cluster_at(gateway.address("traefik"))
}

pub fn routes(backend: &Backend) -> String {
    Gateway::one_service(&backend.url())
}

#[test]
fn a_standalone_gateway_shows_itself() {
    let backend = Backend::echo("one");
    let gateway = Gateway::serve(&routes(&backend));
    let shown = cluster(&gateway);
    assert_eq!(shown["members"].as_array().unwrap().len(), 1);
    let me = &shown["members"][0];
    assert_eq!((&me["self"], &me["leader"], &me["ready"]), (&true.into(), &false.into(), &true.into()));
    assert_eq!((&shown["store"], &shown["connected"]), (&"".into(), &false.into()));
    assert_eq!(me["version"], env!("CARGO_PKG_VERSION"));
    let hash = me["snapshot"].as_str().unwrap().to_owned();
    assert_eq!(hash.len(), 16);
    // Another gateway with the same routes has the same hash; a changed one has another.
    let other = Gateway::serve(&routes(&backend));
    assert_eq!(cluster(&other)["members"][0]["snapshot"], hash);
    let generation = other.generation();
    other.write("more.yml", "http: {middlewares: {m: {addPrefix: {prefix: /x}}}}");
    eventually("the change is served", || other.generation() > generation);
    assert_ne!(cluster(&other)["members"][0]["snapshot"], hash);
    let generation = other.generation();
    other.remove("more.yml");
    eventually("it is taken back", || other.generation() > generation);
    assert_eq!(cluster(&other)["members"][0]["snapshot"], hash);
}

#[test]
fn settings_of_a_cluster_come_from_the_environment_too() {
    let variables = [("TIDEGATE_CLUSTER_NAME", "edge"), ("TIDEGATE_CLUSTER_CONSUL", "true")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let cluster = tidegate::settings::load(&[], &variables).unwrap().settings.cluster.unwrap();
    assert_eq!((cluster.name.as_str(), cluster.consul.is_some()), ("edge", true));
}

#[test]
fn a_cluster_without_a_store_is_refused() {
    for (flags, word) in [
        (vec!["--cluster.name=a"], "expected `consul` or `redis`"),
        (vec!["--cluster.consul=true", "--cluster.redis=true"], "not both"),
        (vec!["--cluster.consul=true", "--cluster.ttl=3s"], "expected a time from 10 s"),
        (vec!["--cluster.consul.adress=h"], "did you mean `address`?"),
    ] {
        let flags: Vec<String> = flags.into_iter().map(str::to_owned).collect();
        let problems = tidegate::settings::load(&flags, &[]).unwrap_err();
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(texts.iter().any(|text| text.contains(word)), "{word}: {texts:?}");
    }
}
