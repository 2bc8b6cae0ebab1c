//! Settings that cannot be honoured as they are: the gateway serves, fails closed where it must, and says what is wrong.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Backend, Gateway, eventually, get};

#[test]
fn routers_with_a_plugin_answer_503_and_the_rest_is_served() {
    let backend = Backend::echo("a");
    let routes = format!(
        "http:
  routers:
    open: {{rule: 'PathPrefix(`/`)', service: a}}
    guarded: {{rule: 'PathPrefix(`/guarded`)', service: a, middlewares: [guard]}}
  middlewares:
    guard: {{plugin: {{guard: {{key: value}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    );
    for flag in
        ["plugins.guard.moduleName=github.com/x/guard", "localPlugins.guard.moduleName=github.com/x/guard"]
    {
        let gateway = Gateway::with(&[&format!("--experimental.{flag}")], &routes);
        assert_eq!(get(gateway.web(), "h", "/").status, 200);
        assert_eq!(get(gateway.web(), "h", "/guarded").status, 503);
        let problems = gateway.api("/api/problems");
        assert!(problems.contains("experimental is a Traefik option"), "{problems}");
        assert!(problems.contains("plugins are not supported"), "{problems}");
    }
}

/// Without the identities that the settings ask for, servers would be verified by less.
#[test]
fn services_whose_transport_needs_spiffe_are_not_served_and_others_are() {
    let backend = Backend::echo("a");
    let routes = format!(
        "http:
  routers:
    own: {{rule: 'Path(`/own`)', service: own}}
    default: {{rule: 'Path(`/default`)', service: default}}
  services:
    own: {{loadBalancer: {{serversTransport: own, servers: [{{url: '{0}'}}]}}}}
    default: {{loadBalancer: {{servers: [{{url: '{0}'}}]}}}}
  serversTransports:
    own: {{serverName: own}}
",
        backend.url()
    );
    let gateway = Gateway::with(&["--serversTransport.spiffe.trustDomain=example.org"], &routes);
    assert_eq!(get(gateway.web(), "h", "/own").status, 200);
    assert_eq!(get(gateway.web(), "h", "/default").status, 503);
    let problems = gateway.api("/api/problems");
    assert!(problems.contains("serversTransport.spiffe is a Traefik option"), "{problems}");
}

#[test]
fn a_storage_that_cannot_be_used_is_listed_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("acme.json");
    std::fs::write(&file, "").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let directory = folder.path().join("directory.json");
    std::fs::create_dir(&directory).unwrap();
    let resolver = |name: &str, storage: &std::path::Path| {
        let at = format!("--certificatesResolvers.{name}.acme");
        [
            format!("{at}.storage={}", storage.display()),
            format!("{at}.tlsChallenge=true"),
            format!("{at}.caServer=http://127.0.0.1:1/"),
        ]
    };
    let mut flags = [resolver("open", &file), resolver("folder", &directory)].concat();
    flags.push("--certificatesResolvers.none.acme.email=a@b.test".to_owned());
    let gateway = Gateway::with(&flags.iter().map(String::as_str).collect::<Vec<_>>(), "");
    let told = |path: &str, part: &str| gateway.api(path).contains(part);
    for path in ["/api/problems", "/api/certificates/resolvers"] {
        eventually("the mode is reported", || told(path, "permissions 644"));
        eventually("the directory is reported", || told(path, "is a directory"));
        eventually("the missing challenge is reported", || told(path, "no way to prove names"));
    }
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    eventually("the mode is right", || !told("/api/problems", "permissions 644"));
    assert!(told("/api/problems", "is a directory"));
}

#[test]
fn problems_of_settings_are_listed_as_long_as_the_gateway_runs() {
    let backend = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("traefik.yml");
    std::fs::write(&file, "x-common: {a: b}\ntls: {options: {default: {minVersion: VersionTLS13}}}\n")
        .unwrap();
    let flag = format!("--configFile={}", file.display());
    let flags = [flag.as_str(), "--providers.nomad=true", "--entryPoints.other.http.tls=true"];
    let gateway = Gateway::with(&flags, &Gateway::one_service(&backend.url()));
    gateway.write(
        "more.yml",
        "http: {services: {b: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}}}\n",
    );
    eventually("a change is served", || gateway.api("/api/http/services").contains("b@file"));
    assert_eq!(get(gateway.web(), "h", "/").status, 200);
    let problems = gateway.api("/api/problems");
    for expected in [
        "`x-common` has no effect: unknown key",
        "`tls` has no effect as a setting",
        "providers.nomad is a Traefik option",
        "entryPoints.other.address: is missing",
    ] {
        assert!(problems.contains(expected), "{expected} in {problems}");
    }
    assert!(problems.contains("traefik.yml:2"), "{problems}");
}
