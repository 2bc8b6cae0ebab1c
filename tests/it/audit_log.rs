//! The audit log: refusals, sign-ins, sign-outs, and changes of keys.

use std::path::Path;

use serde_json::Value;

use crate::api_key;
use crate::support::keys::Key;
use crate::support::oidc::{self, Browser, StandIn};
use crate::support::{Backend, Gateway, eventually, get, get_with};

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Waits for this many lines, and returns them.
fn wait(file: &Path, count: usize) -> Vec<Value> {
    eventually("the lines are written", || lines(file).len() >= count);
    let found = lines(file);
    assert_eq!(found.len(), count, "{found:#?}");
    found
}

fn event(line: &Value) -> [&str; 3] {
    ["event", "reason", "keyId"].map(|name| line[name].as_str().unwrap_or_default())
}

#[test]
fn refusals_and_changes_of_keys_are_recorded() {
    let (service, one, two) = (Backend::echo("a"), Key::new(), Key::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let flag = format!("--auditLog.filePath={}", file.display());
    let routes = |consumers: &str| api_key::routes("", consumers, &service.url());
    let gateway = Gateway::with(&[&flag], &routes(&one.consumer("ann", ", label: ci")));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    // What is allowed is not recorded, and neither are the keys that exist at the start.
    assert_eq!(get_with(gateway.web(), "h", "/", &one.header()).status, 200);
    assert_eq!(get_with(gateway.web(), "h", "/a?secret=1", &two.header()).status, 401);
    let refused = &wait(&file, 1)[0];
    assert_eq!(event(refused), ["refused", "api_key_unknown", ""]);
    for (name, expected) in [
        ("status", "401"),
        ("entryPoint", "web"),
        ("router", "all@file"),
        ("middleware", "m@file"),
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("host", "h"),
        ("path", "/a"),
    ] {
        assert_eq!(refused[name].to_string().trim_matches('"'), expected, "{name}");
    }
    let both = format!("{}{}", one.consumer("ann", ", state: grace"), two.consumer("bob", ""));
    gateway.write("routes.yml", &routes(&both));
    let changed = wait(&file, 3);
    let mut events: Vec<[&str; 3]> = changed[1..].iter().map(event).collect();
    events.sort_unstable();
    assert_eq!(events, [["key_added", "", &*two.id], ["key_changed", "", &*one.id]]);
    gateway.write("routes.yml", &routes(&two.consumer("bob", "")));
    let removed = &wait(&file, 4)[3];
    assert_eq!(event(removed), ["key_removed", "", &*one.id]);
    assert_eq!((&removed["consumer"], &removed["state"]), (&"ann@file".into(), &"grace".into()));
    let text = std::fs::read_to_string(&file).unwrap();
    for secret in [one.secret(), two.secret(), &one.sha256, "secret=1"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn sessions_are_recorded_when_they_begin_and_end() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.log");
    let flag = format!("--auditLog.filePath={}", file.display());
    let options = oidc::options(&provider, ", logoutUrl: /out");
    let gateway = Gateway::with(&[&flag], &oidc::routes(&options, &service.url()));
    let mut browser = Browser::new(gateway.web());
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
    let line = &wait(&file, 1)[0];
    assert_eq!((event(line)[0], &line["subject"]), ("signed_in", &"ann".into()));
    assert_eq!(line["path"], "/oidc/callback");
    browser.open("/out");
    let line = &wait(&file, 2)[1];
    assert_eq!((event(line)[0], &line["subject"]), ("signed_out", &"ann".into()));
    // Without a session, and not a browser.
    assert_eq!(get(gateway.web(), oidc::HOST, "/").status, 401);
    assert_eq!(event(&wait(&file, 3)[2]), ["refused", "unauthenticated", ""]);
}

#[test]
fn a_file_that_cannot_be_opened_stops_the_start() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["--entryPoints.web.address=127.0.0.1:0", "--auditLog.filePath=/dev/null/audit.log"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        text.contains("--auditLog.filePath") && text.contains("`/dev/null/audit.log` cannot be opened"),
        "{text}"
    );
}
