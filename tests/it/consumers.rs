//! Consumers: where they can be written, and what the API says about them.

use serde_json::{Value, json};

use crate::support::{Backend, Gateway, get};

/// A secret and its SHA-256, neither of which may be shown.
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn ask(gateway: &Gateway, path: &str) -> Value {
    let answer = get(gateway.address("traefik"), "h", path);
    serde_json::from_str(&answer.text()).unwrap_or_else(|_| panic!("{path}: {}", answer.text()))
}

#[test]
fn the_api_lists_consumers_without_secrets() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&format!(
        r"
{}
  consumers:
    acme:
      groups: [ops]
      labels: {{team: core}}
      plan: gold
      credentials:
        apiKeys:
        - {{id: k1, sha256: {HASH}, label: ci, expires: 2099-01-01, scopes: [read]}}
        - {{hash: '$2y$05$secretsecret'}}
        jwt: [{{issuer: 'https://i.test', subject: s}}]
    broken: {{credentials: {{apiKeys: [{{id: k2, sha256: plain-secret}}]}}}}
    wrong: {{credentials: {{apiKeys: [{{id: k3}}]}}}}
",
        Gateway::one_service(&backend.url())
    ));
    assert_eq!(
        ask(&gateway, "/api/http/consumers/acme@file"),
        json!({
            "groups": ["ops"],
            "labels": {"team": "core"},
            "plan": "gold",
            "credentials": {
                "apiKeys": [
                    {"id": "k1", "label": "ci", "expires": "2099-01-01T00:00:00Z", "scopes": ["read"]},
                    {}
                ],
                "jwt": [{"issuer": "https://i.test", "subject": "s"}]
            },
            "status": "enabled",
            "name": "acme@file",
            "provider": "file"
        })
    );
    let all = ask(&gateway, "/api/http/consumers");
    let shown: Vec<_> =
        all.as_array().unwrap().iter().map(|one| (one["name"].as_str(), one["status"].as_str())).collect();
    assert_eq!(
        shown,
        [
            (Some("acme@file"), Some("enabled")),
            (Some("broken@file"), Some("disabled")),
            (Some("wrong@file"), Some("disabled"))
        ]
    );
    assert_eq!(ask(&gateway, "/api/http/consumers?status=disabled&per_page=1").as_array().unwrap().len(), 1);
    for path in ["/api/http/consumers", "/api/rawdata", "/api/problems", "/api/overview"] {
        let text = get(gateway.address("traefik"), "h", path).text();
        for secret in [HASH, "secretsecret", "plain-secret"] {
            assert!(!text.contains(secret), "{path}: {text}");
        }
    }
    let problems = gateway.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems.iter().any(|one| one.contains(
            "consumer broken@file: http.consumers.broken.credentials.apiKeys[0].sha256: invalid SHA-256"
        )),
        "{problems:?}"
    );
    assert_eq!(get(gateway.web(), "h", "/").status, 200, "everything else is served");
    assert_eq!(get(gateway.address("traefik"), "h", "/api/http/consumers/none@file").status, 404);
}
