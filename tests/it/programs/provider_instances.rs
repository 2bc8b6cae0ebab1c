//! Several providers of one kind, with real Consul agents.

use crate::provider_instances::from;
use crate::support::outside::Consul;
use crate::support::{Backend, Gateway, eventually, get};

#[test]
#[ignore = "needs consul"]
fn two_agents_and_two_trees_of_keys_are_followed() {
    let (east, west) = (Consul::start("").ready(), Consul::start("").ready());
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    for (consul, backend, name) in [(&east, &one, "east"), (&west, &two, "west")] {
        let rule = format!("traefik.http.routers.web.rule=Host(`{name}.test`)");
        consul.register("web", "web1", backend.address, &["traefik.enable=true", &rule]);
        consul.put("/v1/kv/traefik/http/routers/kv/rule", &format!("Host(`kv.{name}.test`)"));
        consul.put("/v1/kv/traefik/http/routers/kv/service", &format!("web@{name}"));
    }
    let flags = [
        format!("--providers.instances.east.consulCatalog.endpoint.address={}", east.address),
        format!("--providers.instances.west.consulCatalog.endpoint.address={}", west.address),
        format!("--providers.instances.keys1.consul.endpoints={}", east.address),
        format!("--providers.instances.keys2.consul.endpoints={}", west.address),
    ];
    let gateway = Gateway::with(&flags.each_ref().map(String::as_str), "");
    for (name, backend) in [("east", "one"), ("west", "two")] {
        assert!(from(&gateway, &format!("{name}.test"), backend), "{name}");
        assert!(from(&gateway, &format!("kv.{name}.test"), backend), "{name}");
    }
    let overview = gateway.api("/api/overview");
    assert_eq!(overview.matches("\"ConsulCatalog\"").count(), 1, "{overview}");
    // One that loses its agent costs the other nothing, and is named.
    drop(west);
    assert!(from(&gateway, "west.test", "two"));
    east.put("/v1/agent/service/deregister/web1", "");
    eventually("the other is followed", || get(gateway.web(), "east.test", "/").status == 404);
}
