//! What `explain` says about each authentication and limit: for whom, why, and whom it would have to ask.

use serde_json::{Value, json};

use crate::support::keys::Key;
use crate::support::tokens::{OWN, token};
use crate::support::{Backend, Gateway, get_with, raw};

/// Asks about a request to `<kind>.test`, and returns verdict, status and notes of the middleware `<kind>`.
fn explained(gateway: &Gateway, kind: &str, headers: &Value) -> (String, u64, String) {
    let question =
        json!({"url": format!("http://{kind}.test/"), "entryPoint": "web", "from": "192.0.2.7", "headers": headers})
            .to_string();
    let request = format!(
        "POST /api/explain HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{question}",
        question.len()
    );
    let answer = raw(gateway.address("traefik"), request).unwrap();
    let shown: Value = serde_json::from_str(&answer.text()).unwrap_or_else(|_| panic!("{}", answer.text()));
    let middlewares = shown["routing"][0]["router"]["middlewares"].as_array();
    let middlewares = middlewares.unwrap_or_else(|| panic!("{shown}"));
    let own = middlewares.iter().rfind(|one| one["name"] == format!("{kind}@file")).unwrap();
    let notes: Vec<&str> =
        own["notes"].as_array().into_iter().flatten().map(|note| note.as_str().unwrap()).collect();
    let verdict = own["verdict"].as_str().unwrap().to_owned();
    (verdict, own["response"]["status"].as_u64().unwrap_or_default(), notes.join("; "))
}

fn routes(key: &Key, url: &str, usage: &str) -> String {
    let mut text = "http:\n  routers:\n".to_owned();
    for (kind, before) in [
        ("keys", ""),
        ("jwt", ""),
        ("oidc", ""),
        ("introspection", ""),
        ("ldap", ""),
        ("hmac", ""),
        ("crowdsec", ""),
        ("access", "keys, "),
        ("plan", "keys, "),
        ("policies", ""),
        ("either", ""),
    ] {
        text += &format!(
            "    {kind}: {{rule: 'Host(`{kind}.test`)', service: a, middlewares: [{before}{kind}]}}\n"
        );
    }
    let public = serde_json::to_string(&OWN.rsa_pem()).unwrap();
    text + &format!(
        "  middlewares:
    keys: {{apiKey: {{}}}}
    jwt: {{jwt: {{publicKey: {public}}}}}
    oidc: {{oidc: {{issuer: 'http://127.0.0.1:9', clientId: c, session: {{secrets: ['0123456789abcdef0123456789abcdef']}}}}}}
    introspection: {{oAuthIntrospection: {{tokenSource: {{header: Authorization, headerAuthScheme: Bearer}}, clientConfig: {{url: 'http://127.0.0.1:9/introspect'}}}}}}
    ldap: {{ldap: {{url: 'ldap://127.0.0.1:9', baseDN: 'dc=test'}}}}
    hmac: {{hmac: {{keys: [{{id: shop, key: 0123456789abcdef0123456789abcdef}}]}}}}
    crowdsec: {{crowdsec: {{crowdsecMode: live, crowdsecLapiHost: '127.0.0.1:9', crowdsecLapiKey: k}}}}
    access: {{access: {{allow: 'Group(`ops`)'}}}}
    plan: {{plan: {{file: '{usage}'}}}}
    policies: {{rateLimit: {{policies: [{{name: tenants, average: 1, period: 1h, burst: 2}}]}}}}
    either: {{anyOf: {{middlewares: [keys, jwt]}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
  plans:
    gold: {{quota: {{limit: 1, period: month}}}}
  consumers:
    ann: {{plan: gold, credentials: {{apiKeys: [{{{key}}}]}}}}
"
    )
}

#[test]
fn each_authentication_and_limit_is_explained() {
    let (backend, key) = (Backend::echo("a"), Key::new());
    let folder = tempfile::tempdir().unwrap();
    let usage = folder.path().join("usage.log").display().to_string();
    let gateway = Gateway::serve(&routes(&key, &backend.url(), &usage));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let token = token(&json!({}));
    let (none, own) = (json!({}), json!({"X-API-Key": key.text}));
    let bearer = |token: &str| json!({"Authorization": format!("Bearer {token}")});
    let basic = json!({"Authorization": "Basic YTp0ZXN0"});
    for (kind, headers, verdict, status, note) in [
        ("keys", &none, "responds", 401, "API key"),
        ("keys", &own, "passes", 0, "the API key"),
        ("jwt", &none, "responds", 401, "token"),
        ("jwt", &bearer(&token), "passes", 0, "the token is valid"),
        ("jwt", &bearer("a.b.c"), "responds", 401, "token"),
        ("oidc", &json!({"Accept": "text/html"}), "responds", 302, "starts a sign-in with default"),
        ("oidc", &none, "responds", 401, "a session is required"),
        ("introspection", &none, "responds", 401, "a token is required"),
        ("introspection", &bearer("t"), "depends", 0, "asks http://127.0.0.1:9/introspect"),
        ("ldap", &none, "responds", 401, "a user name and a password are required"),
        ("ldap", &basic, "depends", 0, "the LDAP server checks the password"),
        ("hmac", &none, "responds", 401, "signature"),
        ("crowdsec", &none, "depends", 0, "asks http://127.0.0.1:9/ about `192.0.2.7`"),
        ("access", &own, "responds", 403, "ann@file"),
        ("plan", &own, "depends", 0, "the first request reads what was used"),
        ("policies", &none, "passes", 0, "policy `tenants`: 2 of 2 tokens of this key are left, takes 1"),
        ("either", &none, "responds", 401, "API key"),
        ("either", &own, "passes", 0, "the API key"),
    ] {
        let (own_verdict, own_status, notes) = explained(&gateway, kind, headers);
        assert_eq!((own_verdict.as_str(), own_status), (verdict, status), "{kind} {headers}: {notes}");
        assert!(notes.contains(note), "{kind} {headers}: {notes}");
        assert!(!notes.contains(key.secret()) && !notes.contains(&token), "{notes}");
    }
    // A quota that was used up.
    let ask = || get_with(gateway.web(), "plan.test", "/", &key.header()).status;
    assert_eq!([ask(), ask()], [200, 429]);
    let (verdict, status, notes) = explained(&gateway, "plan", &own);
    assert_eq!((verdict.as_str(), status), ("responds", 429));
    assert!(notes.contains("1 of 1 requests are used"), "{notes}");
}

#[test]
fn the_guard_of_the_api_is_explained() {
    let routes =
        "http: {middlewares: {login: {basicAuth: {users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}}}";
    let gateway = Gateway::with(&["--api.middlewares=login@file"], routes);
    let question = "/api/explain?url=http://gw/api/rawdata&entryPoint=traefik";
    let traefik = gateway.address("traefik");
    let text = get_with(traefik, "h", question, "Authorization: Basic YTp0ZXN0\r\n").text();
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(shown["result"]["router"], "api@internal", "{shown}");
    assert_eq!(shown["result"]["response"]["status"], 401, "{shown}");
    let guard = &shown["service"]["middlewares"][0];
    assert_eq!((&guard["name"], &guard["verdict"]), (&"login@file".into(), &"responds".into()), "{shown}");
}
