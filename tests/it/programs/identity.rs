//! A service in Python that verifies the gateway's signed identity with PyJWT and the keys of the JWKS endpoint.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Gateway, eventually, get_with};

/// A program that is killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The service, and its port. `place` is a file with the address of the keys.
fn service(place: &Path, audience: &str) -> (Program, u16) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/tools/pyjwt/bin/python");
    assert!(python.exists(), "there is no `{}`: scripts/suites.sh makes it", python.display());
    let mut command = Command::new(python);
    command.arg(root.join("tests/it/programs/identity_service.py")).arg(place);
    command.args(["https://gateway.test", audience]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Program(child), line.trim().parse().unwrap())
}

#[test]
#[ignore = "needs PyJWT"]
fn a_service_verifies_the_signed_identity_with_pyjwt() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("keys");
    let (_orders, orders) = service(&place, "orders@file");
    let (_other, other) = service(&place, "another@file");
    let gateway = Gateway::with(
        &[
            "--identity.token.issuer=https://gateway.test",
            "--identity.token.expiry=2s",
            "--identity.token.rotation=2s",
        ],
        &format!(
            r"
http:
  routers:
    orders: {{rule: 'Path(`/orders`)', service: orders, middlewares: [basic]}}
    open: {{rule: 'Path(`/open`)', service: orders}}
    other: {{rule: 'Path(`/other`)', service: other, middlewares: [basic]}}
  middlewares:
    basic: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
  consumers:
    acme: {{groups: ['a,b', ops], labels: {{team: core}}, plan: gold, credentials: {{basicAuth: [ann]}}}}
  plans: {{gold: {{}}}}
  services:
    orders: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:{orders}'}}]}}}}
    other: {{loadBalancer: {{servers: [{{url: 'http://127.0.0.1:{other}'}}]}}}}
"
        ),
    );
    assert_eq!(gateway.problems(), Vec::<String>::new());
    std::fs::write(&place, format!("http://{}/.well-known/jwks.json", gateway.address("traefik"))).unwrap();
    let ask = |path: &str, headers: &str| {
        let ann = "Authorization: Basic YW5uOnRlc3Q=\r\n";
        let answer = get_with(gateway.web(), "h", path, &format!("{ann}{headers}"));
        (answer.status, serde_json::from_str::<Value>(&answer.text()).unwrap())
    };
    let (status, claims) = ask("/orders", "");
    assert_eq!(status, 200, "{claims}");
    for (name, expected) in [
        ("iss", json!("https://gateway.test")),
        ("aud", json!("orders@file")),
        ("sub", json!("ann")),
        ("amr", json!(["basic"])),
        ("consumer", json!("acme@file")),
        ("groups", json!(["a,b", "ops"])),
        ("labels", json!({"team": "core"})),
        ("plan", json!("gold@file")),
    ] {
        assert_eq!(claims[name], expected, "{name}");
    }
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 2);
    // A token of a client never arrives, in whatever spelling.
    let forged = "X-Identity-Token: forged\r\nx_identity_token: forged\r\nX-Identity.Token: forged\r\n";
    assert_eq!(ask("/orders", forged).0, 200);
    assert_eq!(ask("/open", forged), (401, json!("ValueError: 0 tokens")));
    // A token for one service is none for another.
    let (status, error) = ask("/other", "");
    assert_eq!(status, 401);
    assert!(error.as_str().unwrap().starts_with("InvalidAudienceError"), "{error}");
    // Keys change, and the service follows.
    let keys = || gateway.api("/.well-known/jwks.json");
    let first = keys();
    eventually("the keys are replaced", || {
        assert_eq!(ask("/orders", "").0, 200);
        let now: Value = serde_json::from_str(&keys()).unwrap();
        let now = now["keys"].as_array().unwrap().clone();
        !first.contains(now[0]["kid"].as_str().unwrap())
    });
    assert_eq!(ask("/orders", "").0, 200);
}
