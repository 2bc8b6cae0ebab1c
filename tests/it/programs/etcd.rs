//! The etcd provider, with a real server.

use std::time::Instant;

use crate::support::backend::unused_address;
use crate::support::outside::{Etcd, certificates};
use crate::support::proxy::Proxy;
use crate::support::{Backend, Gateway, eventually, get};

fn gateway(etcd: &Etcd, further: &[&str]) -> Gateway {
    let endpoint = format!("--providers.etcd.endpoints={}", etcd.address);
    let mut flags = vec![endpoint.as_str()];
    flags.extend(further);
    Gateway::with(&flags, "")
}

fn route(etcd: &Etcd, backend: &Backend) {
    etcd.put("traefik/http/services/s/loadBalancer/servers/0/url", &backend.url());
    etcd.put("traefik/http/routers/r/service", "s");
    etcd.put("traefik/http/routers/r/rule", "Host(`kv.test`)");
}

fn names(gateway: &Gateway, name: &str) -> bool {
    get(gateway.web(), "kv.test", "/").header("X-Backend") == Some(name)
}

#[test]
#[ignore = "needs etcd"]
fn keys_are_live_and_survive_a_killed_server() {
    let mut etcd = Etcd::start(&[]).ready();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    route(&etcd, &one);
    // Others' keys beside the root are nothing to us.
    etcd.put("traefik", "x");
    etcd.put("traefiks/http/routers/other/rule", "Host(`other.test`)");
    let gateway = gateway(&etcd, &[]);
    assert!(names(&gateway, "one"));
    assert!(gateway.api("/api/overview").contains("\"Etcd\""));
    assert!(gateway.api("/api/http/routers").contains("r@etcd"));
    for backend in [&two, &one, &two] {
        let begun = Instant::now();
        etcd.put("traefik/http/services/s/loadBalancer/servers/0/url", &backend.url());
        let name = if std::ptr::eq(backend, &two) { "two" } else { "one" };
        eventually("a changed key", || names(&gateway, name));
        eprintln!("live after {:?}", begun.elapsed());
    }
    etcd.put("traefik/http/services/s/loadBalancer/passHostHeader", "perhaps");
    eventually("the key is named", || {
        let problems = gateway.problems();
        problems
            .iter()
            .any(|problem| problem.contains("key traefik/http/services/s/loadBalancer/passHostHeader"))
    });
    assert!(names(&gateway, "two"));
    etcd.put("traefik/http/services/s/loadBalancer/passHostHeader", "true");
    eventually("all is well again", || gateway.problems().is_empty());
    etcd.kill();
    for _ in 0..20 {
        assert!(names(&gateway, "two"));
    }
    etcd.run();
    etcd.wait();
    assert!(names(&gateway, "two"));
    etcd.put("traefik/http/services/s/loadBalancer/servers/0/url", &one.url());
    eventually("the server is followed again", || names(&gateway, "one"));
    etcd.put("tidegate/http/routers/r/rule", "Host(`ours.test`)");
    eventually("our root goes first", || get(gateway.web(), "ours.test", "/").status == 200);
    etcd.delete("tidegate/", "tidegate0");
    etcd.delete("traefik/", "traefik0");
    eventually("the keys are gone", || get(gateway.web(), "kv.test", "/").status == 404);
}

#[test]
#[ignore = "needs etcd"]
fn many_keys_are_read_in_pages_and_compaction_loses_nothing() {
    let etcd = Etcd::start(&[]).ready();
    let backend = Backend::echo("one");
    route(&etcd, &backend);
    for number in 0..1500 {
        etcd.put(&format!("traefik/http/routers/r{number}/rule"), &format!("Host(`h{number}.test`)"));
        etcd.put(&format!("traefik/http/routers/r{number}/service"), "s");
    }
    let gateway = gateway(&etcd, &[]);
    for number in [0, 749, 1499] {
        assert_eq!(get(gateway.web(), &format!("h{number}.test"), "/").status, 200);
    }
    let revision = etcd.ask("/v3/kv/range", r#"{"key": "YQ=="}"#);
    let revision = revision.split("\"revision\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    etcd.ask("/v3/kv/compaction", &format!(r#"{{"revision": "{revision}", "physical": true}}"#));
    etcd.put("traefik/http/routers/r0/rule", "Host(`new.test`)");
    eventually("changes are seen", || get(gateway.web(), "new.test", "/").status == 200);
}

#[test]
#[ignore = "needs etcd"]
fn a_silently_dead_watch_is_detected() {
    let etcd = Etcd::start(&[]).ready();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    route(&etcd, &one);
    let line = Proxy::to(etcd.address);
    let gateway = Gateway::with(&[&format!("--providers.etcd.endpoints={}", line.address)], "");
    assert!(names(&gateway, "one"));
    line.freeze("/v3/watch");
    let begun = Instant::now();
    route(&etcd, &two);
    eventually("the change is found all the same", || names(&gateway, "two"));
    eprintln!("found after {:?}", begun.elapsed());
    // And the next one is told again.
    route(&etcd, &one);
    eventually("the new watch tells", || names(&gateway, "one"));
}

#[test]
#[ignore = "needs etcd"]
fn logins_are_used_and_refusals_reported() {
    let etcd = Etcd::start(&[]).ready();
    let backend = Backend::echo("one");
    route(&etcd, &backend);
    for (path, body) in [
        ("/v3/auth/user/add", r#"{"name": "root", "password": "word"}"#),
        ("/v3/auth/role/add", r#"{"name": "root"}"#),
        ("/v3/auth/user/grant", r#"{"user": "root", "role": "root"}"#),
        ("/v3/auth/enable", "{}"),
    ] {
        let answer = etcd.ask(path, body);
        assert!(answer.contains("header"), "{path}: {answer}");
    }
    let gateway = gateway(&etcd, &["--providers.etcd.username=root", "--providers.etcd.password=word"]);
    assert!(names(&gateway, "one"));
    let wrong = [
        &format!("--providers.etcd.endpoints={}", etcd.address),
        "--providers.etcd.username=root",
        "--providers.etcd.password=other",
    ];
    let wrong = Gateway::unready(&wrong, "");
    eventually("a wrong password is said", || {
        wrong.problems().iter().any(|problem| problem.contains("the login is refused"))
    });
    let without = Gateway::unready(&[&format!("--providers.etcd.endpoints={}", etcd.address)], "");
    eventually("that a login is needed is said", || {
        without.problems().iter().any(|problem| problem.contains("user name is empty"))
    });
}

#[test]
#[ignore = "needs etcd and consul"]
fn servers_are_reached_by_tls() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let path = folder.path().to_owned();
    let file = |name: &str| path.join(name).display().to_string();
    let (ca, cert, key) =
        (file("consul-agent-ca.pem"), file("dc1-server-consul-0.pem"), file("dc1-server-consul-0-key.pem"));
    let arguments =
        ["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"];
    let etcd = Etcd::start_in(folder, unused_address(), &arguments);
    let gateway = gateway(
        &etcd,
        &[
            &format!("--providers.etcd.tls.ca={ca}"),
            &format!("--providers.etcd.tls.cert={}", file("dc1-client-consul-0.pem")),
            &format!("--providers.etcd.tls.key={}", file("dc1-client-consul-0-key.pem")),
        ],
    );
    assert!(gateway.api("/api/overview").contains("\"Etcd\""));
    let strangers = format!("--providers.etcd.endpoints=https://{}", etcd.address);
    let stranger = Gateway::unready(&[&strangers, &format!("--providers.etcd.tls.ca={ca}")], "");
    eventually("without a certificate it is refused", || {
        stranger.problems().iter().any(|problem| problem.contains("etcd"))
    });
}
