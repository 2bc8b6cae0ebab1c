//! Workloads that define one object differently, as the old and the new replicas of a rolling update do.

use std::net::SocketAddr;
use std::process::Command;

use crate::programs::consul::catalog;
use crate::programs::docker::{Container, Load, run};
use crate::support::outside::{Consul, compose as compose_command};
use crate::support::{Backend, Gateway, eventually, get, get_with, raw};

/// Everything of the host, for whoever gets past a router that is more specific.
const WEAK: &str = "http:
  routers:
    weak: {rule: 'HostRegexp(`^.*$`)', priority: 1, service: weak}
  services:
    weak: {loadBalancer: {servers: [{url: 'http://127.0.0.1:9'}]}}
";
const USER: &str = "ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=";
/// `ann` with the password `test`.
const LOGIN: &str = "Authorization: Basic YW5uOnRlc3Q=\r\n";

/// The labels of one version of a service with a page that asks for a password.
fn labels(host: &str, middlewares: &str, further: &[&str]) -> Vec<String> {
    let mut all = vec![
        "traefik.enable=true".to_owned(),
        format!("test={host}"),
        format!("traefik.http.routers.app.rule=Host(`{host}`)"),
        format!("traefik.http.routers.adm.rule=Host(`{host}`) && PathPrefix(`/admin`)"),
        format!("traefik.http.routers.adm.middlewares={middlewares}"),
        format!("traefik.http.middlewares.pw.basicauth.users={USER}"),
        "traefik.http.services.app.loadbalancer.server.port=80".to_owned(),
    ];
    all.extend(further.iter().map(|label| (*label).to_owned()));
    all
}

/// Only the containers of one test.
fn docker_flags(host: &str) -> Vec<String> {
    vec![
        "--providers.docker=true".to_owned(),
        "--providers.docker.exposedByDefault=false".to_owned(),
        format!("--providers.docker.constraints=Label(`test`, `{host}`)"),
    ]
}

const MARK: &str = "traefik.http.middlewares.mark.headers.customresponseheaders.X-Version=2";

fn version(address: SocketAddr, host: &str) -> Option<String> {
    let answer = get_with(address, host, "/admin", LOGIN);
    (answer.status == 200).then(|| answer.header("X-Version").unwrap_or("1").to_owned())
}

/// Fails when a page is not answered, or one that asks for a password is answered without it.
fn check(address: SocketAddr, host: &str) -> Result<(), String> {
    for (path, login, expected) in [("/", "", 200), ("/admin", "", 401), ("/admin", LOGIN, 200)] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{login}Connection: close\r\n\r\n");
        match raw(address, request) {
            Ok(answer) if answer.status == expected && answer.complete => {}
            other => return Err(format!("{path} {login:?}, expected {expected}: {other:?}")),
        }
    }
    Ok(())
}

fn conflicts(gateway: &Gateway) -> Vec<String> {
    gateway.problems().into_iter().filter(|one| one.contains("different options")).collect()
}

#[test]
#[ignore = "needs a Docker Engine"]
fn a_contradicted_router_serves_its_last_version_until_the_older_container_is_gone() {
    let host = "differ.test";
    let flags = docker_flags(host);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, WEAK);
    let start = |name: &str, labels: &[String]| {
        Container::start(name, &labels.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let old = start("differ-old", &labels(host, "pw", &[]));
    eventually("the old version serves", || check(gateway.web(), host).is_ok());
    let web = gateway.web();
    let load = Load::with(2, move || check(web, host));
    let changed = [MARK, "traefik.http.services.app.loadbalancer.strategy=p2c"];
    let new = start("differ-new", &labels(host, "pw,mark", &changed));
    eventually("the conflicts are reported", || conflicts(&gateway).len() == 2);
    for (option, part) in [("`middlewares`", "routers.adm.middlewares"), ("`loadBalancer.strategy`", "new")] {
        let shown = conflicts(&gateway).into_iter().find(|one| one.contains(option)).expect(option);
        assert!(shown.contains(part) && shown.contains("last good version"), "{shown}");
        assert!(shown.contains("differ-old") && shown.contains("differ-new"), "{shown}");
    }
    eventually("the new replica takes its share", || get(web, host, "/").text().contains(&new.0));
    assert_eq!(version(web, host).as_deref(), Some("1"));
    load.pass(50);
    // Nobody knows which version is meant when there is no earlier one: the router is closed.
    let other = Gateway::with(&flags, WEAK);
    eventually("the conflict is known", || !conflicts(&other).is_empty());
    assert_eq!(get(other.web(), host, "/admin").status, 503);
    assert_eq!(get_with(other.web(), host, "/admin", LOGIN).status, 503);
    old.stop();
    for gateway in [&gateway, &other] {
        eventually("the new version serves", || version(gateway.web(), host).as_deref() == Some("2"));
        eventually("the conflict is over", || conflicts(gateway).is_empty());
    }
    load.pass(50);
    load.finish();
}

#[test]
#[ignore = "needs consul"]
fn contradicting_tags_leave_the_last_version_in_place() {
    let consul = Consul::start("").ready();
    let gateway = catalog(&consul, &[], WEAK);
    let (web, host) = (gateway.web(), "tags.test");
    let backends = ["one", "two", "three"].map(Backend::echo);
    let register = |place: usize, labels: &[String]| {
        let tags: Vec<&str> =
            labels.iter().map(String::as_str).filter(|tag| !tag.contains("server.port")).collect();
        consul.register("app", &format!("app{place}"), backends[place].address, &tags);
    };
    let old = labels(host, "pw", &["traefik.http.services.app.loadbalancer.strategy=wrr"]);
    let new = labels(host, "pw,mark", &[MARK, "traefik.http.services.app.loadbalancer.strategy=p2c"]);
    let third = labels(
        host,
        "pw",
        &[
            "traefik.http.services.app.loadbalancer.strategy=wrr",
            "traefik.http.middlewares.pw.basicauth.realm=x",
        ],
    );
    (0..3).for_each(|place| register(place, &old));
    eventually("the old version serves", || check(web, host).is_ok());
    let load = Load::with(2, move || check(web, host));
    for place in 0..2 {
        register(place, &new);
        let other = if place == 0 { "app1" } else { "app2" };
        eventually("the conflict is reported", || {
            let shown = conflicts(&gateway);
            shown.iter().any(|one| {
                one.contains("`middlewares`")
                    && one.contains("service app (app0 on n1), tag traefik.http.routers.adm.middlewares")
                    && one.contains(&format!("({other} on n1), tag traefik.http.routers.adm.middlewares"))
            })
        });
        load.pass(20);
        assert_eq!(version(web, host).as_deref(), Some("1"));
        for backend in ["one", "two", "three"] {
            eventually("every instance answers", || get(web, host, "/").header("X-Backend") == Some(backend));
        }
    }
    register(2, &new);
    eventually("the new version serves", || version(web, host).as_deref() == Some("2"));
    eventually("the conflict is over", || conflicts(&gateway).is_empty());
    // A middleware that is defined differently keeps its last version, too.
    (0..2).for_each(|place| register(place, &old));
    register(2, &third);
    eventually("the conflict is reported", || {
        conflicts(&gateway).iter().any(|one| one.contains("`basicAuth.realm`"))
    });
    load.pass(20);
    load.finish();
    // Without an earlier version it is left out, and the router that names it is closed.
    let other = catalog(&consul, &[], WEAK);
    assert_eq!(get_with(other.web(), host, "/admin", LOGIN).status, 503);
    assert_eq!(get(other.web(), host, "/").status, 200);
}

#[test]
#[ignore = "needs a Docker Engine"]
fn a_rolling_update_by_compose_fails_no_request() {
    let host = "compose.test";
    let flags = docker_flags(host);
    let gateway = Gateway::with(&flags.iter().map(String::as_str).collect::<Vec<_>>(), WEAK);
    let web = gateway.web();
    let project = format!("tidegaterolling{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("docker-compose.yml");
    let write = |labels: &[String]| {
        let labels: String = labels.iter().map(|label| format!("      - '{label}'\n")).collect();
        let text = format!(
            "services:\n  app:\n    image: tidegate:dev\n    command: demo backend --address=:80\n    labels:\n{labels}"
        );
        std::fs::write(&file, text).unwrap();
    };
    let compose = |arguments: &[&str]| {
        run(compose_command().args(["--project-name", &project, "--file"]).arg(&file).args(arguments))
    };
    struct Down<F: Fn()>(F);
    impl<F: Fn()> Drop for Down<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    write(&labels(host, "pw", &[]));
    let _down = Down(|| drop(compose(&["down", "--timeout", "5"])));
    compose(&["up", "-d", "--scale", "app=3"]);
    let names = || {
        let answers = (0..12).map(|_| get(web, host, "/").text());
        let names: std::collections::BTreeSet<String> = answers
            .filter_map(|text| text.lines().find(|line| line.starts_with("Name:")).map(str::to_owned))
            .collect();
        names.len()
    };
    eventually("three replicas answer", || check(web, host).is_ok() && names() == 3);
    let load = Load::with(3, move || check(web, host));
    write(&labels(host, "pw,mark", &[MARK, "traefik.http.services.app.loadbalancer.strategy=p2c"]));
    // One after another, as docs/providers/docker.md says: Compose v2 would stop all of them before it starts a new one.
    for old in compose(&["ps", "--quiet"]).split_ascii_whitespace() {
        compose(&["up", "-d", "--no-recreate", "--scale", "app=4"]);
        eventually("the new replica answers", || names() == 4);
        run(Command::new("docker").args(["stop", "--time", "5", old]));
        run(Command::new("docker").args(["rm", old]));
    }
    eventually("the new version serves", || version(web, host).as_deref() == Some("2"));
    eventually("no conflict is left", || conflicts(&gateway).is_empty());
    load.pass(30);
    let done = load.finish();
    eprintln!("{done} rounds of three requests, none failed and none unguarded");
}
