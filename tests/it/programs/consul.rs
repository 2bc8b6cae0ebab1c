//! Consul Catalog and Consul's key-value store, with a real agent.

use std::time::{Duration, Instant};

use crate::support::backend::unused_address;
use crate::support::outside::{Consul, certificates};
use crate::support::{Backend, Gateway, eventually, get};

pub fn catalog(consul: &Consul, further: &[&str], routes: &str) -> Gateway {
    let address = format!("--providers.consulCatalog.endpoint.address={}", consul.address);
    let mut flags = vec![address.as_str(), "--providers.consulCatalog.exposedByDefault=false"];
    flags.extend(further);
    Gateway::with(&flags, routes)
}

fn status(gateway: &Gateway, host: &str) -> u16 {
    get(gateway.web(), host, "/").status
}

/// True when this backend answers.
fn from(gateway: &Gateway, host: &str, backend: &str) -> bool {
    get(gateway.web(), host, "/").header("X-Backend") == Some(backend)
}

/// How long it takes until something holds.
fn time(what: &str, condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    eventually(what, condition);
    begun.elapsed()
}

const TAGS: [&str; 2] = ["traefik.enable=true", "traefik.http.routers.web.rule=Host(`web.test`)"];

#[test]
#[ignore = "needs consul"]
fn registrations_health_and_tags_are_live_at_once() {
    let consul = Consul::start("").ready();
    let gateway = catalog(&consul, &[], "");
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    let mut times = Vec::new();
    let mut measure = |what: &str, condition: &mut dyn FnMut() -> bool| {
        times.push((what.to_owned(), time(what, condition)))
    };
    for _ in 0..3 {
        consul.register("web", "web1", one.address, &TAGS);
        measure("a registration", &mut || status(&gateway, "web.test") == 200);
        consul.register("web", "web2", two.address, &TAGS);
        measure("another instance", &mut || from(&gateway, "web.test", "two"));
        consul.put("/v1/agent/check/fail/service:web2", "");
        measure("a failing check", &mut || (0..4).all(|_| from(&gateway, "web.test", "one")));
        consul.put("/v1/agent/check/pass/service:web2", "");
        measure("a passing check", &mut || from(&gateway, "web.test", "two"));
        consul.put("/v1/agent/service/deregister/web2", "");
        consul.register(
            "web",
            "web1",
            one.address,
            &["tidegate.enable=true", "tidegate.http.routers.web.rule=Host(`other.test`)"],
        );
        measure("another tag", &mut || status(&gateway, "other.test") == 200);
        consul.put("/v1/agent/service/deregister/web1", "");
        measure("a deregistration", &mut || status(&gateway, "other.test") == 404);
    }
    times.sort_by_key(|(_, time)| *time);
    eprintln!("{times:?}");
}

#[test]
#[ignore = "needs consul"]
fn requests_wait_while_the_only_instance_of_a_kept_service_is_replaced() {
    let consul = Consul::start("").ready();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    let tags = [&TAGS[..], &["traefik.http.services.web.loadbalancer.hold=30s"]].concat();
    consul.register("web", "web1", one.address, &tags);
    let gateway = catalog(&consul, &["--providers.consulCatalog.keepRoutes=30s"], "");
    let router = || gateway.api("/api/http/routers/web@consulcatalog");
    let explained = || gateway.api("/api/explain?entryPoint=web&url=http://web.test/");
    eventually("the instance is served", || from(&gateway, "web.test", "one"));
    assert!(!explained().contains("kept until"), "{}", explained());
    let web = gateway.web();
    let request = || std::thread::spawn(move || get(web, "web.test", "/"));
    let waits = |number: usize| {
        let held = format!("\"heldRequests\":{number}");
        gateway.api("/api/http/services/web@consulcatalog").contains(&held)
    };
    // It leaves the catalog, and another one comes.
    consul.put("/v1/agent/service/deregister/web1", "");
    eventually("the router is kept", || router().contains("kept until"));
    let waiting = request();
    eventually("the request waits", || waits(1));
    let explanation = explained();
    for part in
        ["\"kept\":\"kept until", "\"hold\":{\"maxWait\":\"30s\"", "a server of web@consulcatalog within 30s"]
    {
        assert!(explanation.contains(part), "{part} is missing: {explanation}");
    }
    consul.register("web", "web2", two.address, &tags);
    assert_eq!(waiting.join().unwrap().header("X-Backend"), Some("two"));
    assert!(!router().contains("kept until"), "{}", router());
    // Its only check fails, and recovers.
    consul.put("/v1/agent/check/fail/service:web2", "");
    eventually("the router is kept again", || router().contains("kept until"));
    let waiting = request();
    eventually("the request waits again", || waits(1));
    consul.put("/v1/agent/check/pass/service:web2", "");
    assert_eq!(waiting.join().unwrap().header("X-Backend"), Some("two"));
    // Who disables it means it.
    consul.register("web", "web2", two.address, &["traefik.enable=false"]);
    eventually("nothing is kept", || status(&gateway, "web.test") == 404);
}

#[test]
#[ignore = "needs consul"]
fn no_request_is_lost_when_an_agent_is_killed() {
    let mut consul = Consul::start("").ready();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    consul.register("web", "web1", one.address, &TAGS);
    // An agent remembers the state of such a check only when it was told.
    consul.put("/v1/agent/check/pass/service:web1", "");
    let gateway = catalog(&consul, &[], "");
    assert_eq!(status(&gateway, "web.test"), 200);
    consul.kill();
    for _ in 0..20 {
        assert_eq!(status(&gateway, "web.test"), 200);
    }
    consul.run();
    consul.wait();
    assert_eq!(status(&gateway, "web.test"), 200);
    consul.register("web", "web1", two.address, &TAGS);
    let took = time("the next change is seen", || {
        assert_eq!(status(&gateway, "web.test"), 200);
        from(&gateway, "web.test", "two")
    });
    eprintln!("{took:?} after the agent was back");
    assert!(get(gateway.address("traefik"), "h", "/ready").status == 200);
}

#[test]
#[ignore = "needs consul"]
fn an_agent_that_is_not_there_at_first_is_waited_for() {
    let address = unused_address();
    let gateway = Gateway::unready(&[&format!("--providers.consulCatalog.endpoint.address={address}")], "");
    eventually("it says what it waits for", || {
        let answer = get(gateway.address("traefik"), "h", "/ready");
        answer.status == 503 && answer.text().contains("consulcatalog")
    });
    eventually("it says why", || {
        gateway.problems().iter().any(|problem| problem.contains(&address.to_string()))
    });
}

/// The secret of the token that the gateway uses.
const SECRET: &str = "11111111-2222-3333-4444-555555555555";

fn with_acl() -> Consul {
    let master = "99999999-8888-7777-6666-555555555555";
    let acl = format!(
        r#""acl": {{"enabled": true, "default_policy": "deny", "tokens": {{"master": "{master}", "agent": "{master}"}}}}"#
    );
    let mut consul = Consul::start(&acl);
    consul.token = master.into();
    consul.wait();
    eventually("policies can be made", || {
        consul.get("/v1/acl/policies").is_some_and(|text| text.contains("global-management"))
    });
    let rules = r#"service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } key_prefix \"\" { policy = \"read\" }"#;
    consul.put("/v1/acl/policy", &format!(r#"{{"Name": "gateway", "Rules": "{rules}"}}"#));
    grant(&consul, r#"[{"Name": "gateway"}]"#);
    consul
}

fn grant(consul: &Consul, policies: &str) -> String {
    let made = consul.put("/v1/acl/token", &format!(r#"{{"SecretID": "{SECRET}", "Policies": {policies}}}"#));
    let id = made.split("\"AccessorID\"").nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap();
    id.to_owned()
}

#[test]
#[ignore = "needs consul"]
fn a_token_that_is_revoked_or_has_no_rights_keeps_the_last_state() {
    let consul = with_acl();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    consul.register("web", "web1", one.address, &TAGS);
    consul.put("/v1/kv/traefik/http/routers/kv/rule", "Host(`kv.test`)");
    consul.put("/v1/kv/traefik/http/routers/kv/service", "web@consulcatalog");
    let flags = [
        format!("--providers.consulCatalog.endpoint.token={SECRET}"),
        format!("--providers.consul.endpoints={}", consul.address),
        format!("--providers.consul.token={SECRET}"),
    ];
    let gateway = catalog(&consul, &flags.each_ref().map(String::as_str), "");
    assert_eq!((status(&gateway, "web.test"), status(&gateway, "kv.test")), (200, 200));
    let tokens = consul.get("/v1/acl/tokens").unwrap();
    let accessor = |text: &str| {
        let mine = text.split('{').find(|part| part.contains("\"gateway\"")).map(str::to_owned);
        // The policy stands inside the token: the accessor is in the part before.
        let before = text.split("\"gateway\"").next().unwrap().rsplit("\"AccessorID\":").next().unwrap();
        mine.map(|_| before.split('"').nth(1).unwrap().to_owned()).unwrap()
    };
    consul.delete(&format!("/v1/acl/token/{}", accessor(&tokens)));
    consul.register("web", "web1", two.address, &TAGS);
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!((status(&gateway, "web.test"), status(&gateway, "kv.test")), (200, 200));
    }
    // A token without rights sees an empty catalog, which is no reason to drop everything.
    let poor = grant(&consul, "[]");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!((status(&gateway, "web.test"), status(&gateway, "kv.test")), (200, 200));
    }
    consul.delete(&format!("/v1/acl/token/{poor}"));
    grant(&consul, r#"[{"Name": "gateway"}]"#);
    eventually("changes are seen again", || from(&gateway, "web.test", "two"));
    eventually("keys too", || status(&gateway, "kv.test") == 200);
}

#[test]
#[ignore = "needs consul"]
fn agents_are_reached_by_tls_with_a_certificate_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let https = unused_address();
    let config = format!(
        r#""ca_file": "consul-agent-ca.pem", "cert_file": "dc1-server-consul-0.pem",
        "key_file": "dc1-server-consul-0-key.pem", "verify_incoming_https": true,
        "ports": {{"https": {}}}"#,
        https.port()
    );
    let consul = Consul::start_in(folder, &config).ready();
    let backend = Backend::echo("one");
    consul.register("web", "web1", backend.address, &TAGS);
    consul.put("/v1/kv/traefik/http/routers/kv/rule", "Host(`kv.test`)");
    consul.put("/v1/kv/traefik/http/routers/kv/service", "web@consulcatalog");
    let file = |name: &str| consul.folder().join(name).display().to_string();
    let tls = |option: &str| {
        vec![
            format!("--providers.{option}.tls.ca={}", file("consul-agent-ca.pem")),
            format!("--providers.{option}.tls.cert={}", file("dc1-client-consul-0.pem")),
            format!("--providers.{option}.tls.key={}", file("dc1-client-consul-0-key.pem")),
        ]
    };
    let mut flags = vec![
        format!("--providers.consulCatalog.endpoint.address={https}"),
        "--providers.consulCatalog.endpoint.scheme=https".to_owned(),
        format!("--providers.consul.endpoints={https}"),
    ];
    flags.extend(tls("consulCatalog.endpoint"));
    flags.extend(tls("consul"));
    let gateway = Gateway::with(&flags.iter().map(String::as_str).collect::<Vec<_>>(), "");
    assert_eq!((status(&gateway, "web.test"), status(&gateway, "kv.test")), (200, 200));
    let strangers = format!("--providers.consulCatalog.endpoint.tls.ca={}", file("consul-agent-ca.pem"));
    let gateway = Gateway::unready(&[&flags[0], &flags[1], &strangers], "");
    eventually("without a certificate it is refused", || {
        gateway.problems().iter().any(|problem| problem.contains("consulcatalog"))
    });
}

#[test]
#[ignore = "needs consul"]
fn keys_are_live_and_half_a_change_breaks_nothing() {
    let consul = Consul::start("").ready();
    let (one, two) = (Backend::echo("one"), Backend::echo("two"));
    let set = |key: &str, value: &str| consul.put(&format!("/v1/kv/traefik/http/{key}"), value);
    set("services/s/loadBalancer/servers/0/url", &one.url());
    set("routers/r/service", "s");
    set("routers/r/rule", "Host(`kv.test`)");
    let gateway = Gateway::with(&[&format!("--providers.consul.endpoints={}", consul.address)], "");
    assert!(from(&gateway, "kv.test", "one"));
    let second = set("services/s/loadBalancer/servers/0/url", &two.url());
    let took = time("a changed key", || from(&gateway, "kv.test", "two"));
    eprintln!("{second}: {took:?}");
    set("services/s/loadBalancer/passHostHeader", "perhaps");
    eventually("the key is named", || {
        gateway
            .problems()
            .iter()
            .any(|problem| problem.contains("key traefik/http/services/s/loadBalancer/passHostHeader"))
    });
    assert_eq!(status(&gateway, "kv.test"), 200);
    consul.delete("/v1/kv/traefik/http/services/s/loadBalancer/passHostHeader");
    eventually("all is well again", || gateway.problems().is_empty());
    consul.put("/v1/kv/tidegate/http/routers/r/rule", "Host(`ours.test`)");
    eventually("our root goes first", || status(&gateway, "ours.test") == 200);
    consul.delete("/v1/kv/tidegate/?recurse");
    consul.delete("/v1/kv/traefik/?recurse");
    eventually("all keys are gone", || {
        status(&gateway, "kv.test") == 404 && status(&gateway, "ours.test") == 404
    });
    assert!(gateway.api("/api/overview").contains("\"Consul\""));
}

#[test]
#[ignore = "needs consul"]
fn services_of_connect_are_reached_by_tls_that_both_sides_check() {
    let consul = Consul::start("").ready();
    let backend = Backend::echo("one");
    // The agent's own proxy asks for HTTP/2, which a gateway speaks.
    let behind = Gateway::serve(&Gateway::one_service(&backend.url()));
    let [side, liar] = [unused_address(), behind.web()];
    let register = |name: &str, at: std::net::SocketAddr| {
        let tags = format!(
            r#"["traefik.enable=true", "traefik.consulcatalog.connect=true", "traefik.http.routers.{name}.rule=Host(`{name}.test`)"]"#
        );
        let body = format!(
            r#"{{"Name": "{name}", "Address": "127.0.0.1", "Port": {}, "Tags": {tags}, "Connect": {{"Native": true}}}}"#,
            at.port()
        );
        consul.put("/v1/agent/service/register", &body);
    };
    register("side", side);
    // Somebody else's proxy under another name, and one that speaks no TLS at all.
    register("other", side);
    register("liar", liar);
    let _proxy = consul.proxy("side", behind.web(), side);
    let gateway = catalog(&consul, &["--providers.consulCatalog.connectAware=true"], "");
    eventually("the service is reached", || from(&gateway, "side.test", "one"));
    assert_eq!(status(&gateway, "other.test"), 500, "its certificate is another service's");
    assert!(status(&gateway, "liar.test") >= 500);
    let plain = crate::support::raw(side, "GET / HTTP/1.1\r\nHost: side.test\r\n\r\n");
    assert!(plain.is_err() || plain.is_ok_and(|answer| answer.status != 200), "nothing passes without TLS");
}
