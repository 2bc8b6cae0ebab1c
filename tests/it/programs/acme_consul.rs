//! Certificates that several gateways share in a real Consul: one orders, all serve, another takes over.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tidegate_clients::consul::store::{self as store, Operation, Refusal, Store};

use crate::acme_consul::{leads, start};
use crate::support::backend::unused_address;
use crate::support::outside::{Consul, certificates};
use crate::support::pebble::{Options, Pebble, at_first_handshake, routes, served};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::{Backend, Gateway, eventually, eventually_async, pause_for, repeat_for};

/// Flags of a gateway that shares what it has in the Consul at this address. `seen`: the authority comes to it.
fn flags(pebble: &Pebble, challenge: &str, consul: SocketAddr, seen: bool, more: &[&str]) -> Vec<String> {
    let mut flags = pebble.flags(challenge);
    flags.push(format!("--certificatesResolvers.le.acme.storage=consul://{consul}/t/acme"));
    if !seen {
        flags.push("--entryPoints.web.address=127.0.0.1:0".to_owned());
        flags.push("--entryPoints.secure.address=127.0.0.1:0".to_owned());
    }
    flags.extend(more.iter().map(|flag| (*flag).to_owned()));
    flags
}

/// How long it takes until something holds.
fn time(what: &str, condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    eventually(what, condition);
    begun.elapsed()
}

fn one_of_three_orders(challenge: &str) {
    let (pebble, backend, consul) =
        (Pebble::start(Options::default()), Backend::echo("a"), Consul::start("").ready());
    let first = start(&flags(&pebble, challenge, consul.address, false, &[]), "");
    eventually("the first leads", || leads(&first));
    // The authority comes to one that does not order.
    let second = start(&flags(&pebble, challenge, consul.address, true, &[]), "");
    let third = start(&flags(&pebble, challenge, consul.address, false, &[]), "");
    let all = [&first, &second, &third];
    eventually("they see each other", || all.iter().all(|one| one.leadership()[0].members.len() == 3));
    let text = routes(&["Host(`one.test`)", "Host(`two.test`) || Host(`more.test`)"], &backend.url());
    for gateway in all {
        gateway.write("shared.yml", &text);
    }
    let roots = pebble.roots();
    let has = |gateway: &Gateway, name: &str| served(gateway.address("secure"), name, &roots).is_ok();
    for name in ["one.test", "two.test", "more.test"] {
        eventually(name, || all.iter().any(|one| has(one, name)));
        let took = time(name, || all.iter().all(|one| has(one, name)));
        eprintln!("{name}: all serve it {took:?} after the first");
    }
    assert_eq!(pebble.orders(), 2, "one for each router, not for each gateway");
    // A name that only one asks for which does not order.
    third.write("own.yml", &more("own.test", &backend.url()));
    let took = time("its own name", || has(&third, "own.test"));
    eprintln!("ordered for another: {took:?}");
    assert_eq!(pebble.orders(), 3);
    assert!(leads(&first) && !leads(&second) && !leads(&third));
    let (of_first, of_third) = (first.leadership(), third.leadership());
    assert_eq!(of_first[0].leader, of_third[0].leader);
    assert_eq!(of_third[0].members.iter().filter(|one| one.leads).count(), 1);
    assert!(of_third[0].members.iter().any(|one| one.is_self && !one.leads));
    // An orderly end lets the next one begin at once.
    first.shutdown();
    let took = time("another takes over", || leads(&second) || leads(&third));
    eprintln!("taken over {took:?} after the leader has stopped");
    second.write("next.yml", &more("next.test", &backend.url()));
    eventually("the next one", || has(&second, "next.test"));
    assert_eq!(pebble.orders(), 4);
}

#[test]
#[ignore = "needs pebble and consul"]
fn of_three_gateways_one_orders_and_all_answer_over_http() {
    one_of_three_orders("httpChallenge.entryPoint=web");
}

#[test]
#[ignore = "needs pebble and consul"]
fn of_three_gateways_one_orders_and_all_answer_in_handshakes() {
    one_of_three_orders("tlsChallenge=true");
}

#[test]
#[ignore = "needs pebble and consul"]
fn a_leader_that_is_killed_during_an_order_is_followed_by_another() {
    let (pebble, backend, consul) =
        (Pebble::start(Options::default()), Backend::echo("a"), Consul::start("").ready());
    let text = routes(&["Host(`k.test`)"], &backend.url());
    let challenge = "httpChallenge.entryPoint=web";
    let slow = "--certificatesResolvers.le.acme.httpChallenge.delay=10m";
    let leader = flags(&pebble, challenge, consul.address, false, &[slow]);
    let leader: Vec<&str> = leader.iter().map(String::as_str).collect();
    let leader = Process::start(&leader, &text);
    eventually("the leader has placed an order", || pebble.orders() == 1);
    eventually("and shares its proof", || {
        consul.get("/v1/kv/t/acme/le/live/proofs/?keys").is_some_and(|keys| keys.contains("proofs/"))
    });
    let other = start(&flags(&pebble, challenge, consul.address, true, &[]), &text);
    eventually("the other knows who leads", || other.leadership()[0].leader.is_some());
    assert!(!leads(&other));
    drop(leader);
    let roots = pebble.roots();
    let took = time("another has it", || served(pebble.secure(), "k.test", &roots).is_ok());
    eprintln!("obtained by another {took:?} after the leader was killed");
    assert_eq!(pebble.orders(), 2, "one of each leader");
    assert!(leads(&other));
    let proofs = consul.get("/v1/kv/t/acme/le/live/proofs/?keys");
    assert_eq!(proofs, None, "the proof of the dead went with its session");
}

#[test]
#[ignore = "needs pebble and consul"]
fn a_leader_that_wakes_up_late_changes_nothing() {
    let (pebble, backend, consul) =
        (Pebble::start(Options::default()), Backend::echo("a"), Consul::start("").ready());
    let text = routes(&["Host(`k.test`)"], &backend.url());
    let challenge = "httpChallenge.entryPoint=web";
    let slow = "--certificatesResolvers.le.acme.httpChallenge.delay=3s";
    let sleeper = flags(&pebble, challenge, consul.address, false, &[slow]);
    let sleeper: Vec<&str> = sleeper.iter().map(String::as_str).collect();
    let sleeper = Process::start(&sleeper, &text);
    eventually("it shares its proof", || {
        consul.get("/v1/kv/t/acme/le/live/proofs/?keys").is_some_and(|keys| keys.contains("proofs/"))
    });
    sleeper.signal("STOP");
    let other = start(&flags(&pebble, challenge, consul.address, true, &[]), &text);
    let roots = pebble.roots();
    eventually("another has it", || served(pebble.secure(), "k.test", &roots).is_ok());
    let theirs = served(pebble.secure(), "k.test", &roots).unwrap();
    let kept = || consul.get("/v1/kv/t/acme/le/certificates/?recurse").unwrap();
    let before = kept();
    sleeper.signal("CONT");
    eventually("it hears that it no longer leads", || {
        let log = sleeper.log();
        log.contains("session in Consul has ended") || log.contains("another gateway orders")
    });
    eventually("its own order fails", || sleeper.log().contains("Unable to obtain"));
    eventually("it serves what the other has obtained", || {
        served(sleeper.address("secure"), "k.test", &roots).is_ok_and(|now| now == theirs)
    });
    assert_eq!(kept(), before, "nothing was written over");
    assert_eq!(pebble.orders(), 2);
    assert!(leads(&other));
}

#[test]
#[ignore = "needs consul"]
fn writes_without_the_lock_are_refused() {
    let consul = Consul::start("").ready();
    let options = store::Options { address: consul.address.to_string(), ..store::Options::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::new(&options).unwrap();
        let (ttl, delay) = (Duration::from_secs(10), Duration::from_secs(1));
        let lock = |session: &str| Operation::Lock {
            key: "t/leader".into(),
            value: session.as_bytes().to_vec(),
            session: session.into(),
        };
        let write = |session: &str, value: &str| {
            vec![
                Operation::CheckSession { key: "t/leader".into(), session: session.into() },
                Operation::Set { key: "t/x".into(), value: value.as_bytes().to_vec() },
            ]
        };
        let first = store.begin_session("first", ttl, delay).await.unwrap();
        let second = store.begin_session("second", ttl, delay).await.unwrap();
        let begun = Instant::now();
        store.apply(&[lock(&first)]).await.unwrap();
        assert!(matches!(store.apply(&[lock(&second)]).await, Err(Refusal::Condition(_))), "it is taken");
        let index = store.apply(&write(&first, "one")).await.unwrap();
        store.end_session(&first).await.unwrap();
        assert!(!store.renew_session(&first).await.unwrap());
        assert!(matches!(store.apply(&[lock(&second)]).await, Err(Refusal::Condition(_))), "for a moment");
        eventually_async("the lock is free", async || store.apply(&[lock(&second)]).await.is_ok()).await;
        eprintln!("the lock is free {:?} after it was taken first", begun.elapsed());
        assert!(matches!(store.apply(&write(&first, "late")).await, Err(Refusal::Condition(_))));
        store.apply(&write(&second, "two")).await.unwrap();
        let swap = Operation::Swap { key: "t/x".into(), value: b"late".to_vec(), index };
        assert!(matches!(store.apply(&[swap]).await, Err(Refusal::Condition(_))));
        let kept = store.read("t/x", true).await.unwrap();
        assert_eq!(kept.entries[0].value, b"two");
        // Where nobody answers, nothing is known of the outcome.
        let nobody = store::Options { address: unused_address().to_string(), ..store::Options::default() };
        let away = Store::new(&nobody).unwrap().apply(&write(&second, "x")).await;
        assert!(matches!(away, Err(Refusal::Store(_))));
    });
}

#[test]
#[ignore = "needs pebble and consul"]
fn routes_survive_an_outage_of_consul() {
    let (pebble, backend, mut consul) =
        (Pebble::start(Options::default()), Backend::echo("a"), Consul::start("").ready());
    let text = routes(&["Host(`first.test`)"], &backend.url());
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.json");
    let cache = format!("--certificatesResolvers.le.acme.consul.cache={}", copy.display());
    let challenge = "httpChallenge.entryPoint=web";
    let all = [
        start(&flags(&pebble, challenge, consul.address, true, &[]), &text),
        start(&flags(&pebble, challenge, consul.address, false, &[&cache]), &text),
    ];
    let roots = pebble.roots();
    let has = |gateway: &Gateway, name: &str| served(gateway.address("secure"), name, &roots).is_ok();
    eventually("the first", || all.iter().all(|one| has(one, "first.test")));
    eventually("a copy is kept", || {
        std::fs::read_to_string(&copy).is_ok_and(|text| text.contains("first.test"))
    });
    consul.kill();
    let more = more("second.test", &backend.url());
    all.iter().for_each(|one| one.write("more.yml", &more));
    eventually("it is noticed", || all.iter().all(|one| !one.leadership()[0].error.is_empty()));
    // Longer than any session is trusted.
    repeat_for(Duration::from_secs(12), || {
        assert!(all.iter().all(|one| has(one, "first.test")), "what there is keeps being served");
    });
    assert!(!all.iter().any(leads));
    // One that is started now has what it had, from its copy.
    let third = start(&flags(&pebble, challenge, consul.address, false, &[&cache]), &text);
    eventually("the copy is served", || has(&third, "first.test"));
    let without = start(&flags(&pebble, challenge, consul.address, false, &[]), &text);
    assert!(!has(&without, "first.test"), "only with a copy");
    let before = pebble.orders();
    consul.run();
    consul.wait();
    let took = time("the second", || {
        all.iter().chain([&third]).all(|one| {
            has(one, "second.test")
                || !std::ptr::eq(one, &all[0]) && has(one, "first.test") && has(&all[0], "second.test")
        })
    });
    eprintln!("a new name {took:?} after Consul was back");
    eventually("all have everything", || {
        all.iter().all(|one| has(one, "second.test")) && has(&without, "first.test")
    });
    assert!(pebble.orders() <= before + 1, "{before} and then {}", pebble.orders());
    assert_eq!(pebble.orders(), 2);
}

#[test]
#[ignore = "needs pebble and consul"]
fn a_consul_that_lost_its_data_is_filled_again() {
    let (pebble, backend, mut consul) =
        (Pebble::start(Options::default()), Backend::echo("a"), Consul::start("").ready());
    let text = routes(&["Host(`first.test`)", "Host(`second.test`)"], &backend.url());
    let challenge = "httpChallenge.entryPoint=web";
    let all = [
        start(&flags(&pebble, challenge, consul.address, true, &[]), &text),
        start(&flags(&pebble, challenge, consul.address, false, &[]), &text),
    ];
    let roots = pebble.roots();
    let has = |gateway: &Gateway, name: &str| served(gateway.address("secure"), name, &roots).is_ok();
    let have_all = || all.iter().all(|one| has(one, "first.test") && has(one, "second.test"));
    eventually("both names", have_all);
    consul.kill();
    consul.forget();
    consul.run();
    consul.wait();
    eventually("it knows the certificates again", || {
        assert!(have_all(), "what there is keeps being served");
        let keys = consul.get("/v1/kv/t/acme/le/?keys").unwrap_or_default();
        keys.matches("/certificates/").count() == 2 && keys.contains("/live/account")
    });
    eventually("one leads again", || all.iter().filter(|one| leads(one)).count() == 1);
    let leader = all.iter().find(|one| leads(one)).unwrap();
    leader.write("more.yml", &more("third.test", &backend.url()));
    eventually("a further name", || all.iter().all(|one| has(one, "third.test")));
    assert!(have_all());
    assert_eq!(pebble.orders(), 3, "nothing was ordered again");
}

#[test]
#[ignore = "needs pebble and consul"]
fn a_token_and_tls_are_used_and_a_lost_right_costs_no_certificate() {
    let master = "99999999-8888-7777-6666-555555555555";
    let secret = "11111111-2222-3333-4444-555555555555";
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let https = unused_address();
    let mut consul = Consul::start_in(
        folder,
        &format!(
            r#""acl": {{"enabled": true, "default_policy": "deny", "tokens": {{"master": "{master}", "agent": "{master}"}}}},
            "ca_file": "consul-agent-ca.pem", "cert_file": "dc1-server-consul-0.pem",
            "key_file": "dc1-server-consul-0-key.pem", "verify_incoming_https": true, "ports": {{"https": {}}}"#,
            https.port()
        ),
    );
    consul.token = master.into();
    consul.wait();
    eventually("policies can be made", || {
        consul.get("/v1/acl/policies").is_some_and(|text| text.contains("global-management"))
    });
    // As docs/certificates.md says.
    let rules = r#"key_prefix \"t/acme/\" { policy = \"write\" } session_prefix \"\" { policy = \"write\" }"#;
    consul.put("/v1/acl/policy", &format!(r#"{{"Name": "gateway", "Rules": "{rules}"}}"#));
    let made = consul
        .put("/v1/acl/token", &format!(r#"{{"SecretID": "{secret}", "Policies": [{{"Name": "gateway"}}]}}"#));
    let accessor = made.split("\"AccessorID\"").nth(1).and_then(|rest| rest.split('"').nth(1)).unwrap();
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let file = |name: &str| consul.folder().join(name).display().to_string();
    let option = "--certificatesResolvers.le.acme.consul";
    let more = [
        format!("{option}.tls.ca={}", file("consul-agent-ca.pem")),
        format!("{option}.tls.cert={}", file("dc1-client-consul-0.pem")),
        format!("{option}.tls.key={}", file("dc1-client-consul-0-key.pem")),
        format!("{option}.token={secret}"),
    ];
    let more = more.each_ref().map(String::as_str);
    let challenge = "httpChallenge.entryPoint=web";
    let text = routes(&["Host(`s.test`)"], &backend.url());
    let gateway = start(&flags(&pebble, challenge, https, true, &more), &text);
    let roots = pebble.roots();
    let has = || served(pebble.secure(), "s.test", &roots).is_ok();
    eventually("the certificate", has);
    let none = start(&flags(&pebble, challenge, https, false, &more[..3]), &text);
    eventually("without a token it is told", || none.leadership()[0].error.contains("403"));
    // A token without rights is shown an empty store.
    consul.put(
        &format!("/v1/acl/token/{accessor}"),
        &format!(r#"{{"AccessorID": "{accessor}", "SecretID": "{secret}", "Policies": []}}"#),
    );
    eventually("the loss is noticed", || !gateway.leadership()[0].error.is_empty());
    // Something changes, so that the empty store is news: twice, because the question that waits has its rights still.
    let keys: Vec<String> =
        serde_json::from_str(&consul.get("/v1/kv/t/acme/le/certificates/?keys").unwrap()).unwrap();
    let kept = consul.get(&format!("/v1/kv/{}?raw", keys[0])).unwrap();
    for space in [" ", "  "] {
        consul.put(&format!("/v1/kv/{}", keys[0]), &format!("{kept}{space}"));
        pause_for(Duration::from_secs(1));
    }
    repeat_for(Duration::from_secs(20), || assert!(has(), "what there is keeps being served"));
    assert!(!leads(&gateway));
    consul.put(
        &format!("/v1/acl/token/{accessor}"),
        &format!(
            r#"{{"AccessorID": "{accessor}", "SecretID": "{secret}", "Policies": [{{"Name": "gateway"}}]}}"#
        ),
    );
    eventually("it leads again", || leads(&gateway));
    assert!(has());
    assert_eq!(pebble.orders(), 1);
}

#[test]
#[ignore = "needs pebble and consul"]
fn a_handshake_with_any_of_them_may_ask_for_a_certificate() {
    let (pebble, backend, consul) =
        (Pebble::start(Options::default()), Backend::echo("a"), Consul::start("").ready());
    let ask = Backend::echo("allowed");
    let ask = format!("--certificatesResolvers.le.acme.onDemand.ask={}/ask", ask.url());
    let text = format!(
        "http:\n  routers:\n    all: {{rule: 'PathPrefix(`/`)', service: s, tls: {{}}}}\n  services:\n    s: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
        backend.url()
    );
    let challenge = "httpChallenge.entryPoint=web";
    let first = start(&flags(&pebble, challenge, consul.address, true, &[&ask]), &text);
    eventually("the first leads", || leads(&first));
    let second = start(&flags(&pebble, challenge, consul.address, false, &[&ask]), &text);
    let roots = pebble.roots();
    let has = |gateway: &Gateway, name: &str| served(gateway.address("secure"), name, &roots).is_ok();
    // Though another orders.
    at_first_handshake(|| has(&second, "one.test"));
    assert!(has(&first, "one.test"), "without a further order");
    at_first_handshake(|| has(&first, "two.test"));
    at_first_handshake(|| has(&second, "two.test"));
    assert_eq!(pebble.orders(), 2);
}

#[test]
#[ignore = "needs pebble and consul"]
fn a_disconnected_leader_keeps_serving_and_stops_ordering() {
    let (pebble, backend, consul) =
        (Pebble::start(Options::default()), Backend::echo("a"), Consul::start("").ready());
    let text = routes(&["Host(`first.test`)"], &backend.url());
    let way = Proxy::to(consul.address);
    let challenge = "httpChallenge.entryPoint=web";
    let first = start(&flags(&pebble, challenge, way.address, false, &[]), &text);
    eventually("the first leads", || leads(&first));
    let second = start(&flags(&pebble, challenge, consul.address, true, &[]), &text);
    let roots = pebble.roots();
    let has = |gateway: &Gateway, name: &str| served(gateway.address("secure"), name, &roots).is_ok();
    eventually("the first name", || has(&first, "first.test") && has(&second, "first.test"));
    way.refuse();
    let begun = Instant::now();
    eventually("it no longer trusts itself", || !leads(&first));
    let trusted = begun.elapsed();
    assert!(!leads(&second), "never both");
    let more = more("second.test", &backend.url());
    [&first, &second].iter().for_each(|one| one.write("more.yml", &more));
    eventually("the other orders", || {
        assert!(has(&first, "first.test"), "what there is keeps being served");
        assert!(!(leads(&first) && leads(&second)), "never both");
        has(&second, "second.test")
    });
    eprintln!("given up {trusted:?}, taken over and obtained {:?} after the cut", begun.elapsed());
    way.mend();
    let took = time("it gets what the other has obtained", || has(&first, "second.test"));
    eprintln!("back {took:?} after the cut was healed");
    assert!(!leads(&first) && leads(&second));
    assert_eq!(pebble.orders(), 2);
}

#[test]
#[ignore = "needs pebble and consul"]
fn failures_are_shared_between_gateways() {
    let (pebble, backend, consul) =
        (Pebble::start(Options::default()), Backend::echo("a"), Consul::start("").ready());
    // Nobody listens there.
    pebble.tell_dns("add-a", r#"{"host": "away.test", "addresses": ["127.0.0.77"]}"#);
    let text = routes(&["Host(`away.test`)"], &backend.url());
    let challenge = "httpChallenge.entryPoint=web";
    let first = start(&flags(&pebble, challenge, consul.address, true, &[]), &text);
    let second = start(&flags(&pebble, challenge, consul.address, false, &[]), &text);
    let told = |gateway: &Gateway| gateway.api("/api/certificates/resolvers").contains("away.test: ");
    eventually("both tell why", || told(&first) && told(&second));
    assert_eq!(pebble.orders(), 1);
    first.shutdown();
    eventually("another leads", || leads(&second));
    let third = start(&flags(&pebble, challenge, consul.address, false, &[]), &text);
    eventually("a new one knows it too", || told(&third));
    repeat_for(Duration::from_secs(2), || {
        assert_eq!(pebble.orders(), 1, "a change of leader is no reason to try again");
    });
}

#[test]
#[ignore = "needs pebble and consul"]
fn shared_certificates_are_managed_by_commands() {
    let (pebble, backend, consul) =
        (Pebble::start(Options::default()), Backend::echo("a"), Consul::start("").ready());
    let challenge = "httpChallenge.entryPoint=web";
    let text = routes(&["Host(`c.test`)"], &backend.url());
    // Until now it was a file.
    {
        let gateway = start(&pebble.flags(challenge), &text);
        eventually("a file", || crate::support::pebble::stored(&pebble.storage()) == ["c.test"]);
        gateway.shutdown();
    }
    let flags = flags(&pebble, challenge, consul.address, true, &[]);
    let certs = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = command.arg("certs").args(arguments).args(&flags).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    let (good, told) = certs(&["import", &pebble.storage().display().to_string()]);
    assert!(good && told.contains("c.test"), "{told}");
    let gateway = start(&flags, &text);
    let roots = pebble.roots();
    let now = || served(pebble.secure(), "c.test", &roots);
    eventually("it serves what was taken over", || now().is_ok());
    assert_eq!(pebble.orders(), 1, "nothing was ordered again");
    let (good, list) = certs(&["list"]);
    assert!(good && list.contains("c.test") && list.contains("Pebble Intermediate CA"), "{list}");
    let first = now().unwrap();
    assert!(certs(&["renew", "c.test"]).0);
    eventually("it is renewed", || now().is_ok_and(|now| now != first));
    let second = now().unwrap();
    eventually("it is stored", || certs(&["list"]).1.matches("c.test").count() == 1);
    let (good, told) = certs(&["change-key"]);
    assert!(good, "{told}");
    let (good, told) = certs(&["revoke", "--reason", "4", "c.test"]);
    assert!(good, "{told}");
    eventually("it is replaced", || now().is_ok_and(|now| now != second));
    let folder = tempfile::tempdir().unwrap();
    eventually("the new one is exported", || {
        certs(&["export", "--folder", &folder.path().display().to_string(), "c.test"]).0
    });
    // And back into a file.
    assert!(leads(&gateway));
    let (good, told) = certs(&["renew", "nobody.test"]);
    assert!(!good && told.contains("there is no certificate for `nobody.test`"), "{told}");
    gateway.shutdown();
}

/// A further file with a router of its own.
fn more(name: &str, url: &str) -> String {
    let label = name.replace('.', "-");
    routes(&[&format!("Host(`{name}`)")], url)
        .replace(" r0:", &format!(" r-{label}:"))
        .replace("service: s", &format!("service: s-{label}"))
        .replace(" s:", &format!(" s-{label}:"))
}
