//! Certificates through trouble: an authority that is away, rejects nonces or names; kills and full disks.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::acme_faults::within;
use crate::support::pebble::{Options, Pebble, get_over_tls, routes, served, stored};
use crate::support::process::Process;
use crate::support::{Backend, Gateway, eventually, pause_for, repeat_for};

fn gateway(pebble: &Pebble, routes: &str) -> Gateway {
    let flags = pebble.flags("httpChallenge.entryPoint=web");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Gateway::with(&flags, routes)
}

fn rejected(percent: &'static str) {
    let variables = vec![("PEBBLE_WFE_NONCEREJECT", percent)];
    let (pebble, backend) = (Pebble::start(Options { variables, ..Options::default() }), Backend::echo("a"));
    let rules: Vec<String> = (0..5).map(|number| format!("Host(`n{number}.test`)")).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let start = Instant::now();
    let _gateway = gateway(&pebble, &routes(&rules, &backend.url()));
    let roots = pebble.roots();
    for number in 0..5 {
        let name = format!("n{number}.test");
        within(60, &name, || served(pebble.secure(), &name, &roots).is_ok());
    }
    eprintln!("five names, {percent} % of nonces rejected: {:.1} s", start.elapsed().as_secs_f64());
}

#[test]
#[ignore = "needs pebble"]
fn no_nonces_are_rejected() {
    rejected("0");
}

#[test]
#[ignore = "needs pebble"]
fn one_of_twenty_nonces_is_rejected() {
    rejected("5");
}

#[test]
#[ignore = "needs pebble"]
fn every_other_nonce_is_rejected() {
    rejected("50");
}

#[test]
#[ignore = "needs pebble"]
fn nine_of_ten_nonces_are_rejected() {
    rejected("90");
}

#[test]
#[ignore = "needs pebble"]
fn an_authority_that_comes_back_is_used_soon_and_may_have_forgotten_everything() {
    let (mut pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    pebble.down();
    let gateway = gateway(&pebble, &routes(&["Host(`late.test`)"], &backend.url()));
    eventually("it is told", || gateway.api("/api/certificates/resolvers").contains("cannot connect"));
    pause_for(Duration::from_secs(10));
    pebble.up();
    let roots = pebble.roots();
    let took = within(90, "the certificate", || served(pebble.secure(), "late.test", &roots).is_ok());
    eprintln!("a certificate {:.1} s after the authority came back", took.as_secs_f64());
    // It starts again, and knows neither account nor orders any more.
    pebble.down();
    pebble.up();
    let roots = pebble.roots();
    gateway.write("more.yml", &routes(&["Host(`more.test`)"], &backend.url()));
    within(90, "another certificate", || served(pebble.secure(), "more.test", &roots).is_ok());
}

#[test]
#[ignore = "needs pebble"]
fn a_failing_name_does_not_affect_others() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    // Nobody listens there.
    pebble.tell_dns("add-a", r#"{"host": "away.test", "addresses": ["127.0.0.77"]}"#);
    let rules = ["Host(`blocked.test`)", "Host(`away.test`) || Host(`with.test`)", "Host(`good.test`)"];
    let text = routes(&rules, &backend.url());
    let attempts = |name: &str| {
        let state = pebble.storage().with_extension("json.state");
        let state = std::fs::read_to_string(state).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
        let record = &state["le"]["names"][name];
        (record["attempts"].as_array().map_or(0, Vec::len), record["error"].as_str().unwrap_or("").to_owned())
    };
    {
        let gateway = gateway(&pebble, &text);
        let roots = pebble.roots();
        eventually("the good one", || served(pebble.secure(), "good.test", &roots).is_ok());
        eventually("the proof has failed", || attempts("away.test").1.contains("away.test"));
        eventually("the name is refused", || attempts("blocked.test").1.contains("rejectedIdentifier"));
        let told = gateway.api("/api/certificates/resolvers");
        assert!(told.contains("rejectedIdentifier") && told.contains("away.test"), "{told}");
        gateway.shutdown();
    }
    for _ in 0..3 {
        // A restart is no reason to try again.
        let gateway = gateway(&pebble, &text);
        repeat_for(Duration::from_millis(1500), || assert_eq!(attempts("away.test").0, 1));
        gateway.shutdown();
    }
    assert_eq!(attempts("away.test").0, 1);
    assert_eq!(attempts("with.test").0, 1, "it is in the same order");
    assert_eq!(attempts("blocked.test").0, 0, "no order was placed");
}

#[test]
#[ignore = "needs pebble"]
fn an_unusable_storage_is_reported_and_used_once_it_is_fixed() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    std::fs::write(pebble.storage(), "{}").unwrap();
    std::fs::set_permissions(pebble.storage(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = routes(&["Host(`a.test`)"], &backend.url())
        + "    unused: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}\n";
    let gateway = gateway(&pebble, &text);
    let roots = pebble.roots();
    repeat_for(Duration::from_secs(1), || {
        assert_eq!(std::fs::read_to_string(pebble.storage()).unwrap(), "{}");
    });
    assert!(served(pebble.secure(), "a.test", &roots).is_err());
    std::fs::set_permissions(pebble.storage(), std::fs::Permissions::from_mode(0o600)).unwrap();
    eventually("the certificate", || served(pebble.secure(), "a.test", &roots).is_ok());
    gateway.write(
        "wrong.yml",
        "http:\n  routers:\n    w: {rule: 'Host(`w.test`)', service: s@file, tls: {certResolver: nobody}}\n",
    );
    eventually("the resolver is unknown", || {
        gateway
            .problems()
            .iter()
            .any(|problem| problem.contains("nonexistent certificate resolver") && problem.contains("nobody"))
    });
}

#[test]
#[ignore = "needs pebble"]
fn a_full_disk_loses_nothing() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let disk = tempfile::tempdir().unwrap();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "none"])
        .arg(disk.path())
        .status();
    assert!(mount.is_ok_and(|status| status.success()), "a small disk needs the rights of root");
    let storage = disk.path().join("acme.json");
    let flag = format!("--certificatesResolvers.le.acme.storage={}", storage.display());
    let mut flags = pebble.flags("httpChallenge.entryPoint=web");
    flags.push(flag);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let gateway = Gateway::with(&flags, &routes(&["Host(`first.test`)"], &backend.url()));
    let roots = pebble.roots();
    eventually("the first certificate is stored", || stored(&storage) == ["first.test"]);
    let before = std::fs::read(&storage).unwrap();
    let filler = disk.path().join("filler");
    // A page less at a time, until nothing fits.
    for size in (1..=16).rev() {
        if std::fs::write(&filler, vec![0; size * 4096]).is_ok() {
            break;
        }
    }
    gateway.write("more.yml", &routes(&["Host(`second.test`)"], &backend.url()));
    eventually("the second is served", || served(pebble.secure(), "second.test", &roots).is_ok());
    assert_eq!(std::fs::read(&storage).unwrap(), before, "the old file is untouched");
    std::fs::remove_file(&filler).unwrap();
    within(60, "the second is stored once there is room", || stored(&storage).len() == 2);
    gateway.shutdown();
    let _ = Command::new("umount").arg(disk.path()).status();
}

/// How often the process is killed.
fn kills() -> usize {
    std::env::var("TIDEGATE_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

#[test]
#[ignore = "needs pebble"]
fn kills_at_any_moment_lose_no_certificate() {
    let (pebble, backend) = (Pebble::start(Options::default()), Backend::echo("a"));
    let flags = pebble.flags("httpChallenge.entryPoint=web");
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    {
        let _process = Process::start(&flags, &routes(&["Host(`k0.test`)"], &backend.url()));
        eventually("the first certificate", || stored(&pebble.storage()) == ["k0.test"]);
    }
    let mut known = stored(&pebble.storage());
    let mut random = 0x9e37_79b9_u64;
    for round in 1..=kills() {
        let names: Vec<String> = (0..=round).map(|number| format!("Host(`k{number}.test`)")).collect();
        let names: Vec<&str> = names.iter().rev().take(6).map(String::as_str).collect();
        let process = Process::start(&flags, &routes(&names, &backend.url()));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pause_for(Duration::from_millis(random >> 54));
        drop(process);
        // It panics when the file is not whole.
        let now = stored(&pebble.storage());
        let lost: Vec<&String> = known.iter().filter(|name| !now.contains(name)).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?}");
        known = now;
    }
    eprintln!("{} kills, {} certificates", kills(), known.len());
    let name = known[0].clone();
    let _process = Process::start(&flags, &routes(&[&format!("Host(`{name}`)")], &backend.url()));
    let roots = pebble.roots();
    eventually("it serves what was stored", || {
        get_over_tls(pebble.secure(), &name, &roots).is_ok_and(|s| s == 200)
    });
}
