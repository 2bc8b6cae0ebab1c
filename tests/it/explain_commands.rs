//! `tidegate explain`, and the tests of routes that `tidegate check` runs.

use std::io::Write as _;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::explain::backends;
use crate::explain_cases::middlewares;
use crate::support::Gateway;

fn run(arguments: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let Output { status, stdout, stderr } =
        command.args(arguments).env_clear().current_dir(folder.path()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn the_command_asks_a_running_gateway() {
    let (a, b) = backends();
    let gateway = Gateway::serve(&middlewares(&a.url(), &b.url()));
    let api = format!("http://{}", gateway.address("traefik"));
    let ask = |more: &[&str]| run(&[&["explain"], more, &["--api", &api, "--entry-point", "web"]].concat());
    let (code, out, err) = ask(&[
        "GET",
        "http://a.test/both/x?q=1",
        "-H",
        "X-B: secret-i",
        "-H",
        "Host: b.test",
        "--from",
        "10.0.0.7",
    ]);
    assert_eq!((code, err.as_str()), (0, ""));
    let place = gateway.folder().join("routes.yml");
    let place = place.display();
    for part in [
        "GET http://a.test/both/x from 10.0.0.7\n".to_owned(),
        "  entry point  web 127.0.0.1:0\n".to_owned(),
        format!("strip@file [20] no: PathPrefix(`/strip`) (the path is `/both/x`) ({place}:3)\n"),
        format!("both@file [19] chosen ({place}:8)\n"),
        format!("  middleware   stripBoth@file (stripPrefix): passes it on ({place}:32)\n"),
        "               path /both/x?q=1 becomes /x?q=1\n".to_owned(),
        "               removes request headers x-b\n".to_owned(),
        format!("               {} is up, weight 1.0, 0 in flight, next\n", a.url()),
        "  server gets  GET /added/x?q=1 for host b.test\n".to_owned(),
        "  result       a server responds".to_owned(),
    ] {
        assert!(out.contains(&part), "{part:?} is missing:\n{out}");
    }
    assert!(!out.contains("secret-i"));
    let (_, out, _) = ask(&["http://a.test/chain"]);
    for part in [
        "late@file (headers of chain@file, inner@file): passes it on",
        "allow@file (ipAllowList of chain@file, inner@file): responds with 403, address_denied: ",
        "the address `127.0.0.1` is not allowed",
        "add@file (addPrefix of chain@file): not reached",
        "result       middleware:allow@file responds with 403",
    ] {
        assert!(out.contains(part), "{part:?} is missing:\n{out}");
    }
    let (code, out, _) = ask(&["http://a.test/limit", "--json"]);
    let explained: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &explained["result"]["router"]), (0, &json!("limit@file")));
    let notes = &explained["routing"][0]["router"]["middlewares"][0]["notes"];
    assert_eq!(*notes, json!(["2 of 2 tokens of this source are left"]));
    let (code, _, err) = ask(&["nonsense"]);
    assert_eq!(code, 1);
    assert!(err.contains("invalid URL `nonsense`"), "{err}");
    let (code, _, err) = run(&["explain", "http://a.test/", "--api", "http://127.0.0.1:1"]);
    assert!(code == 1 && err.contains("--offline"), "{err}");
}

#[test]
fn the_command_reads_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("routes.yml");
    std::fs::write(&place, middlewares("http://127.0.0.1:1", "http://127.0.0.1:2")).unwrap();
    let file = format!("--providers.file.filename={}", place.display());
    let settings =
        ["--", file.as_str(), "--entryPoints.web.address=:80", "--entryPoints.websecure.address=:443"];
    let ask = |more: &[&str]| run(&[&["explain", "--offline"], more, &settings].concat());
    let (code, out, err) = ask(&["http://a.test/scheme/x"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("responds with 301 to https://a.test:8443/scheme/x"), "{out}");
    assert!(out.contains("entry point  web :80\n"), "{out}");
    let (_, out, _) = ask(&["https://a.test/scheme/x"]);
    assert!(
        out.contains("entry point  websecure :443\n") && out.contains("router       none matches"),
        "{out}"
    );
    let (_, out, _) = ask(&["http://a.test:8000/add"]);
    assert!(out.contains("entry point  web :80 (a guess"), "{out}");
    assert!(out.contains("http://127.0.0.1:1 is up"), "{out}");
}

/// Checks a file with tests.
fn check(text: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("routes.yml");
    std::fs::File::create(&place).unwrap().write_all(text.as_bytes()).unwrap();
    let file = format!("--providers.file.filename={}", place.display());
    let (code, out, err) = run(&["check", &file, "--entryPoints.web.address=:80"]);
    assert_eq!(err, "");
    (code, out)
}

const TESTED: &str = "http:
  routers:
    r: {rule: 'Host(`a.test`)', service: s, middlewares: [strip, login]}
    old: {rule: 'Host(`old.test`)', service: s, middlewares: [move]}
  middlewares:
    strip: {stripPrefix: {prefixes: [/api]}}
    login: {when: 'PathPrefix(`/admin`)', basicAuth: {users: ['bob:{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=']}}
    move: {redirectRegex: {regex: '^http://old.test/(.*)', replacement: 'http://a.test/$1', permanent: true}}
  services:
    s: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}
  tests:
";

#[test]
fn tests_in_a_configuration_are_run_by_check() {
    let good = "    - request: GET http://a.test/api/x
      expect: {router: r, service: s@file, path: /x, middleware: [strip, login]}
    - request: http://a.test/admin
      expect: {status: 401, middleware: login@file}
    - request: {url: 'http://a.test/admin', headers: {Authorization: 'Basic Ym9iOm15UGFzc3dvcmQ='}}
      expect: {service: s}
    - request: {method: POST, url: 'http://old.test/x', from: 192.0.2.1, entryPoint: web}
      expect: {status: 308, location: 'http://a.test/x', service: ''}
    - request: http://nobody.test/
      expect: {router: '', status: 404}
";
    let (code, out) = check(&format!("{TESTED}{good}"));
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("5 tests, 0 failed") && out.contains("no problems"), "{out}");
    for (wrong, message) in [
        ("request: http://a.test/\n      expect: {router: old}", "router: expected `old`, found `r@file`"),
        (
            "request: http://a.test/\n      expect: {router: r@docker}",
            "router: expected `r@docker`, found `r@file`",
        ),
        ("request: http://a.test/\n      expect: {service: ''}", "service: expected none, found `s@file`"),
        ("request: http://a.test/\n      expect: {status: 200}", "leave `status` out"),
        ("request: http://a.test/admin\n      expect: {status: 403}", "status: expected 403, found 401"),
        ("request: http://a.test/\n      expect: {path: /x}", "path: expected `/x`, found `/`"),
        (
            "request: http://a.test/\n      expect: {middleware: [login, strip]}",
            "middleware: expected `strip`",
        ),
        ("request: GET /x\n      expect: {router: r}", "invalid URL `/x`"),
        (
            "request: {url: 'http://a.test/', entryPoint: webb}\n      expect: {}",
            "unknown entry point `webb`",
        ),
        ("request: http://a.test/\n      expect: {ruter: r}", "did you mean `router`?"),
        ("requst: http://a.test/", "did you mean `request`?"),
    ] {
        let (code, out) = check(&format!("{TESTED}    - {wrong}\n"));
        assert_eq!(code, 1, "{wrong}: {out}");
        assert!(out.contains(message), "{wrong}: {out}");
        assert!(out.contains("routes.yml:12") || out.contains("routes.yml:13"), "{wrong}: {out}");
    }
    // A gateway ignores them.
    let gateway =
        Gateway::serve(&format!("{TESTED}    - {{request: http://a.test/, expect: {{router: old}}}}\n"));
    assert_eq!(gateway.problems(), [""; 0]);
}
