//! Several providers of one kind, each with its name.

use crate::support::{Backend, Gateway, eventually, get, raw};

pub fn from(gateway: &Gateway, host: &str, backend: &str) -> bool {
    get(gateway.web(), host, "/").header("X-Backend") == Some(backend)
}

fn route(host: &str, url: &str) -> String {
    format!(
        "http:\n  routers:\n    same: {{rule: 'Host(`{host}`)', service: same}}\n  services:\n    same: \
         {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n"
    )
}

#[test]
fn two_folders_may_use_the_same_names() {
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    let folder = tempfile::tempdir().unwrap();
    let more = folder.path().join("more.yml");
    std::fs::write(&more, route("two.test", &two.url())).unwrap();
    let flag = format!("--providers.instances.team.file.filename={}", more.display());
    let gateway = Gateway::with(&[&flag], &route("one.test", &one.url()));
    assert!(from(&gateway, "one.test", "one") && from(&gateway, "two.test", "two"));
    let routers = gateway.api("/api/http/routers");
    assert!(routers.contains("\"same@file\"") && routers.contains("\"same@team\""), "{routers}");
    assert!(routers.contains("\"provider\":\"team\""), "{routers}");
    // One may use what another has, and each is followed by itself.
    std::fs::write(&more, route("both.test", &two.url()).replace("service: same", "service: same@file"))
        .unwrap();
    eventually("the other's service is used", || from(&gateway, "both.test", "one"));
    std::fs::write(&more, "http: {routers: {bad: {rul: x}}}\n").unwrap();
    eventually("the error names the router of that instance", || {
        gateway.api("/api/problems").contains("bad@team")
    });
    assert!(from(&gateway, "one.test", "one"));
}

#[test]
fn routers_of_equal_priority_are_settled_by_the_precedence_of_instances() {
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    let folder = tempfile::tempdir().unwrap();
    let more = folder.path().join("more.yml");
    std::fs::write(&more, route("h.test", &two.url())).unwrap();
    let flag = format!("--providers.instances.team.file.filename={}", more.display());
    for (precedence, winner) in [("file,team", "one"), ("team,file", "two")] {
        let precedence = format!("--providers.precedence={precedence}");
        let gateway = Gateway::with(&[&flag, &precedence], &route("h.test", &one.url()));
        assert!(from(&gateway, "h.test", winner), "{precedence}");
    }
}

#[test]
fn each_rest_provider_has_its_own_path() {
    let gateway =
        Gateway::with(&["--providers.rest.insecure=true", "--providers.instances.ci.rest.insecure=true"], "");
    let backend = Backend::echo("one");
    let put = |name: &str, host: &str| {
        let body = format!(
            r#"{{"http": {{"routers": {{"same": {{"rule": "Host(`{host}`)", "service": "same"}}}},
            "services": {{"same": {{"loadBalancer": {{"servers": [{{"url": "{}"}}]}}}}}}}}}}"#,
            backend.url()
        );
        let request = format!(
            "PUT /api/providers/{name} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        raw(gateway.address("traefik"), request).unwrap().status
    };
    assert_eq!((put("rest", "rest.test"), put("ci", "ci.test"), put("other", "o.test")), (200, 200, 400));
    eventually("both are served", || from(&gateway, "rest.test", "one") && from(&gateway, "ci.test", "one"));
}
