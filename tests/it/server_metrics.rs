//! Metrics of each server of a service.

use crate::metrics::{ALL, routes, samples};
use crate::support::{Backend, Gateway, eventually, get};

#[test]
fn servers_are_counted_on_request_up_to_a_limit() {
    let backends = [Backend::echo("a"), Backend::echo("b"), Backend::echo("c")];
    let routes = |backends: &[Backend]| {
        let servers = backends.iter().map(|backend| format!("{{url: '{}'}}", backend.url()));
        let servers = servers.collect::<Vec<_>>().join(", ");
        format!(
            "http:\n  routers:\n    a: {{rule: 'PathPrefix(`/`)', service: a}}\n  services:\n    a: {{loadBalancer: {{servers: [{servers}]}}}}\n"
        )
    };
    let flags = ["--metrics.prometheus=true", "--metrics.addServersLabels=true", "--metrics.maxServers=2"];
    let gateway = Gateway::with(&flags, &routes(&backends));
    for _ in 0..6 {
        get(gateway.web(), "h", "/");
    }
    let sample = |url: &str, count: u64| {
        format!(
            r#"tidegate_server_requests_total{{code="200",method="GET",protocol="http",service="a@file",url="{url}"}} {count}"#
        )
    };
    let found = || samples(&gateway, "tidegate_server_requests_total{");
    let [a, b, c] = [&backends[0], &backends[1], &backends[2]].map(Backend::url);
    let mut expected = [sample(&a, 2), sample(&b, 2), sample("other", 2)];
    expected.sort();
    eventually("all servers are counted", || {
        let mut found = found();
        found.sort();
        found == expected
    });
    let buckets = samples(&gateway, "tidegate_server_request_duration_seconds_count");
    assert_eq!(buckets.len(), 3, "{buckets:?}");
    // Servers that are gone leave their places to others.
    let [_, _, last] = backends;
    let kept = [Backend::echo("d"), last];
    gateway.write("routes.yml", &routes(&kept));
    eventually("the new server is asked", || get(gateway.web(), "h", "/").header("x-backend") == Some("d"));
    get(gateway.web(), "h", "/");
    let is_shown = |url: &str| found().concat().contains(&format!("url=\"{url}\""));
    eventually("the old ones disappear", || {
        !is_shown(&a) && !is_shown(&b) && !is_shown("other") && is_shown(&kept[0].url()) && is_shown(&c)
    });
}

#[test]
fn servers_are_not_counted_by_default() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(ALL, &routes("a", &backend.url()));
    get(gateway.web(), "h", "/");
    eventually("the request is counted", || !samples(&gateway, "traefik_service_requests_total").is_empty());
    assert!(samples(&gateway, "tidegate_server").is_empty());
}
