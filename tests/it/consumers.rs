//! Consumers: who is recognised as one, and what the API says about them.

use std::io::Write;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::keys::Key;
use crate::support::tls::{Own, ask as ask_over_tls, ask_for, client_config};
use crate::support::tokens::{ISSUER, OWN, SECRET, claims, signed_by};
use crate::support::{Backend, Gateway, eventually, get, get_with};

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
  plans:
    gold: {{groups: [paying]}}
",
        Gateway::one_service(&backend.url())
    ));
    let mut acme = ask(&gateway, "/api/http/consumers/acme@file");
    let origin = acme.as_object_mut().unwrap().remove("origin").unwrap();
    assert!(origin.as_str().unwrap().contains("routes.yml:"), "{origin}");
    assert_eq!(
        acme,
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
    let plan = ask(&gateway, "/api/http/plans/gold@file");
    assert_eq!((&plan["groups"], &plan["status"]), (&json!(["paying"]), &json!("enabled")));
    assert_eq!(get(gateway.web(), "h", "/").status, 200, "everything else is served");
    assert_eq!(get(gateway.address("traefik"), "h", "/api/http/consumers/none@file").status, 404);
}

/// A certificate that signs itself, for somebody of this name.
fn somebody(name: &str) -> Own {
    let mut parameters = rcgen::CertificateParams::new([format!("{name}.example")]).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    let signing_key = rcgen::KeyPair::generate().unwrap();
    Own { cert: parameters.self_signed(&signing_key).unwrap(), signing_key }
}

/// A server that lets everybody in and repeats who they say they are.
fn authority() -> Backend {
    Backend::with(|seen, stream| {
        let said = |name: &str| seen.header(name).unwrap_or_default().to_owned();
        let (user, groups) = (said("x-name"), said("x-their-groups"));
        write!(stream, "HTTP/1.1 200 OK\r\nX-User: {user}\r\nX-Groups: {groups}\r\nContent-Length: 0\r\n\r\n")
            .is_ok()
    })
}

#[test]
fn users_and_tokens_of_consumers_have_their_groups_and_labels() {
    let (backend, authority) = (Backend::echo("a"), authority());
    let routes = |plan: &str| {
        format!(
            r"
http:
  routers:
    basic: {{rule: 'Path(`/basic`)', service: a, middlewares: [basic, ops, team]}}
    forward: {{rule: 'Path(`/forward`)', service: a, middlewares: [forward, ops, team]}}
    jwt: {{rule: 'Path(`/jwt`)', service: a, middlewares: [jwt, ops, team]}}
  middlewares:
    basic: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=', 'bob:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
    forward: {{forwardAuth: {{address: '{}', headerField: X-User, groupsHeaderField: X-Groups}}}}
    jwt: {{jwt: {{signingSecret: '{}', groupsClaim: realm.roles}}}}
    ops: {{when: 'Group(`ops`)', headers: {{customResponseHeaders: {{X-Ops: 'yes'}}}}}}
    team: {{when: 'Label(`team`, `core`)', headers: {{customResponseHeaders: {{X-Team: core}}}}}}
  consumers:
    acme:
      groups: [{plan}]
      labels: {{team: core}}
      credentials:
        basicAuth: [ann]
        forwardAuth: [fred]
        jwt: [{{issuer: '{ISSUER}', subject: service}}, {{issuer: '{ISSUER}', claim: azp, value: app}}]
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            authority.url(),
            std::str::from_utf8(SECRET).unwrap(),
            backend.url()
        )
    };
    let gateway = Gateway::serve(&routes("ops"));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let marks = |path: &str, headers: &str| {
        let answer = get_with(gateway.web(), "h", path, headers);
        assert_eq!(answer.status, 200, "{path} {headers}");
        [answer.header("x-ops").is_some(), answer.header("x-team").is_some()]
    };
    let token = |changes: &Value| {
        let token = signed_by(&OWN, "HS256", &json!({"alg": "HS256"}), &claims(changes));
        format!("Authorization: Bearer {token}\r\n")
    };
    let (ann, bob) = ("Authorization: Basic YW5uOnRlc3Q=\r\n", "Authorization: Basic Ym9iOnRlc3Q=\r\n");
    assert_eq!((marks("/basic", ann), marks("/basic", bob)), ([true, true], [false, false]));
    assert_eq!(marks("/forward", "X-Name: fred\r\n"), [true, true]);
    assert_eq!(marks("/forward", "X-Name: ann\r\n"), [false, false], "a user of basicAuth");
    assert_eq!(marks("/forward", "X-Name: ann\r\nX-Their-Groups: dev, ops\r\n"), [true, false]);
    let service = token(&json!({"sub": "service"}));
    assert_eq!(marks("/jwt", &service), [true, true]);
    assert_eq!(marks("/jwt", &token(&json!({"sub": null, "azp": "app"}))), [true, true]);
    assert_eq!(
        marks("/jwt", &token(&json!({"iss": "https://other.test", "sub": "service"}))),
        [false, false]
    );
    assert_eq!(
        marks("/jwt", &token(&json!({"groups": ["ops"]}))),
        [false, false],
        "groups are in another claim"
    );
    assert_eq!(marks("/jwt", &token(&json!({"realm": {"roles": ["dev", "ops"]}}))), [true, false]);
    assert_eq!(marks("/jwt", &token(&json!({"realm": {"roles": "ops"}}))), [true, false]);
    // A change of the consumer counts at once, also for tokens that are known already.
    gateway.write("routes.yml", &routes("dev"));
    eventually("the groups change", || marks("/jwt", &service) == [false, true]);
    assert_eq!(marks("/basic", ann), [false, true]);
}

#[test]
fn a_credential_of_two_consumers_and_those_of_a_broken_one_fail_closed() {
    let (backend, authority) = (Backend::echo("a"), authority());
    let [shared, own, planless, sound] = [(); 4].map(|()| Key::new());
    let routes = |other_user: &str, plan: &str| {
        format!(
            r"
http:
  routers:
    key: {{rule: 'Path(`/key`)', service: a, middlewares: [key]}}
    basic: {{rule: 'Path(`/basic`)', service: a, middlewares: [basic]}}
    forward: {{rule: 'Path(`/forward`)', service: a, middlewares: [forward]}}
    jwt: {{rule: 'Path(`/jwt`)', service: a, middlewares: [jwt]}}
  middlewares:
    key: {{apiKey: {{}}}}
    basic: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=', 'bob:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
    forward: {{forwardAuth: {{address: '{}', headerField: X-User}}}}
    jwt: {{jwt: {{signingSecret: '{}'}}}}
  consumers:
    one:
      credentials:
        apiKeys: [{{{shared}}}]
        basicAuth: [ann]
        forwardAuth: [fred]
        jwt: [{{issuer: '{ISSUER}', subject: service}}]
    two:
      credentials:
        apiKeys: [{{{shared}}}, {{{own}}}]
        basicAuth: [{other_user}]
        forwardAuth: [fred]
        jwt: [{{issuer: '{ISSUER}', claim: azp, value: app}}]
    planless: {{plan: {plan}, credentials: {{apiKeys: [{{{planless}}}]}}}}
    sound: {{plan: gold, credentials: {{apiKeys: [{{{sound}}}]}}}}
  plans:
    gold: {{groups: [paying]}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            authority.url(),
            std::str::from_utf8(SECRET).unwrap(),
            backend.url()
        )
    };
    let gateway = Gateway::serve(&routes("ann", "glod"));
    let ask = |path: &str, headers: &str| {
        let status = get_with(gateway.web(), "h", path, headers).status;
        let closed = crate::api_key::reason(&gateway) == "consumer_broken";
        assert_eq!(status == 503, closed, "{path} {headers}");
        status
    };
    let token = |changes: &Value| {
        let token = signed_by(&OWN, "HS256", &json!({"alg": "HS256"}), &claims(changes));
        format!("Authorization: Bearer {token}\r\n")
    };
    let keys = [&shared, &own, &planless, &sound].map(|key| ask("/key", &key.header()));
    assert_eq!(keys, [503, 200, 503, 200]);
    assert_eq!(ask("/key", &Key::new().header()), 401, "a stranger");
    let (ann, bob) = ("Authorization: Basic YW5uOnRlc3Q=\r\n", "Authorization: Basic Ym9iOnRlc3Q=\r\n");
    assert_eq!((ask("/basic", ann), ask("/basic", bob)), (503, 200));
    assert_eq!(ask("/basic", "Authorization: Basic YW5uOndyb25n\r\n"), 401, "a wrong password");
    assert_eq!((ask("/forward", "X-Name: fred\r\n"), ask("/forward", "X-Name: ann\r\n")), (503, 200));
    let both = token(&json!({"sub": "service", "azp": "app"}));
    let service = token(&json!({"sub": "service"}));
    assert_eq!((ask("/jwt", &service), ask("/jwt", &both), ask("/jwt", &both)), (200, 503, 503));
    let problems = gateway.problems();
    let message = format!("API key `{}` is also that of consumer `one@file` (", shared.id);
    assert!(
        problems.iter().any(|one| one.contains("consumer two@file") && one.contains(&message)),
        "{problems:?}"
    );
    assert!(problems.iter().any(|one| one.contains("plan: `glod@file` is not defined")), "{problems:?}");
    // Corrected, it counts at once, also for a token that is known.
    gateway.write("routes.yml", &routes("bob", "gold"));
    eventually("the plan is defined", || ask("/key", &planless.header()) == 200);
    assert_eq!((ask("/basic", ann), ask("/basic", bob), ask("/jwt", &both)), (200, 200, 503));
    gateway.write("routes.yml", &routes("bob", "gold").replace("claim: azp, value: app", "subject: other"));
    eventually("the token is that of one", || ask("/jwt", &both) == 200);
}

#[test]
fn the_access_log_and_metrics_show_consumers_up_to_a_limit() {
    let (backend, keys) = (Backend::echo("a"), ["ann", "bob", "eve"].map(|name| (name, Key::new())));
    let routes = |keys: &[(&str, Key)]| {
        let consumers: String = keys.iter().map(|(name, key)| key.consumer(name, "")).collect();
        let consumers = if consumers.is_empty() { "    {}\n".to_owned() } else { consumers };
        crate::api_key::routes("", &consumers, &backend.url())
    };
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let file = format!("--accessLog.filePath={}", log.display());
    let filter = "--accessLog.filters.expression=consumer != \"bob@file\"";
    let metrics =
        ["--metrics.prometheus=true", "--metrics.addConsumersLabels=true", "--metrics.maxConsumers=2"];
    let flags = [&[file.as_str(), "--accessLog.format=json", filter], &metrics[..]].concat();
    let gateway = Gateway::with(&flags, &routes(&keys));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    for (_, key) in &keys {
        assert_eq!(get_with(gateway.web(), "h", "/", &key.header()).status, 200);
    }
    assert_eq!(get_with(gateway.web(), "h", "/", &Key::new().header()).status, 401);
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    eventually("three lines are written", || lines().len() == 3);
    let shown: Vec<Value> = lines().iter().map(|line| line["Consumer"].clone()).collect();
    assert_eq!(shown, [json!("ann@file"), json!("eve@file"), Value::Null]);
    let filter = "/api/requests?filter=consumer%20%3D%3D%20%22bob%40file%22";
    let found: Value = serde_json::from_str(&gateway.api(filter)).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    let one = ask(&gateway, &format!("/api/requests/{}", found[0]["id"].as_str().unwrap()));
    assert_eq!(one["consumer"], "bob@file");
    let requests = |consumer: &str| {
        let labels = format!("code=\"200\",consumer=\"{consumer}\",method=\"GET\",protocol=\"http\"");
        gateway.api("/metrics").contains(&format!("tidegate_consumer_requests_total{{{labels}}} 1\n"))
    };
    assert!(["ann@file", "bob@file", "other"].map(requests) == [true; 3], "{}", gateway.api("/metrics"));
    // Known consumers keep their names when another comes before them.
    let [ann, bob, (_, eve)] = keys;
    let (generation, header) = (gateway.generation(), eve.header());
    gateway.write("routes.yml", &routes(&[("aaa", eve), ann, bob]));
    eventually("the consumer is renamed", || gateway.generation() > generation);
    assert_eq!(get_with(gateway.web(), "h", "/", &header).status, 200);
    let shown = gateway.api("/metrics");
    assert!(["ann@file", "bob@file"].map(requests) == [true; 2] && !shown.contains("aaa@file"), "{shown}");
    let off = Gateway::with(&["--metrics.prometheus=true"], &routes(&[]));
    assert!(!off.api("/metrics").contains("consumer"));
}

#[test]
fn certificates_of_consumers_have_their_groups() {
    let backend = Backend::echo("a");
    let people = ["ann", "bob", "eve", "joe"].map(somebody);
    let folder = tempfile::tempdir().unwrap();
    let authorities = folder.path().join("ca.pem");
    std::fs::write(&authorities, people.iter().map(|one| one.cert.pem()).collect::<String>()).unwrap();
    let fingerprint: String =
        digest(&SHA256, people[2].cert.der()).as_ref().iter().map(|byte| format!("{byte:02X}:")).collect();
    let routes = |group: &str| {
        format!(
            r"
http:
  routers:
    verified: {{rule: 'Host(`verified.test`)', service: a, middlewares: [ops], tls: {{options: verified}}}}
    shown: {{rule: 'Host(`shown.test`)', service: a, middlewares: [ops], tls: {{options: shown}}}}
  middlewares:
    ops: {{when: 'Group(`ops`)', headers: {{customResponseHeaders: {{X-Ops: 'yes'}}}}}}
  consumers:
    ann: {{groups: [{group}], credentials: {{certificates: [{{commonName: ann}}]}}}}
    bob: {{groups: [ops], credentials: {{certificates: [{{san: BOB.example}}]}}}}
    eve: {{groups: [ops], credentials: {{certificates: [{{sha256: '{fingerprint}'}}]}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
tls:
  options:
    verified: {{clientAuth: {{clientAuthType: VerifyClientCertIfGiven, caFiles: ['{}']}}}}
    shown: {{clientAuth: {{clientAuthType: RequestClientCert}}}}
",
            backend.url(),
            authorities.display()
        )
    };
    let gateway = Gateway::serve(&routes("ops"));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let is_marked = |host: &str, who: Option<&Own>| {
        let seen = ask_over_tls(gateway.web(), &Arc::new(client_config(&[], who)), host, host).unwrap();
        assert_eq!(seen.status(), 200);
        seen.answer.to_ascii_lowercase().contains("x-ops: yes")
    };
    let [ann, bob, eve, joe] = &people;
    for who in [ann, bob, eve] {
        assert!(is_marked("verified.test", Some(who)));
        assert!(!is_marked("shown.test", Some(who)), "it was not verified");
    }
    assert!(!is_marked("verified.test", Some(joe)) && !is_marked("verified.test", None));
    gateway.write("routes.yml", &routes("dev"));
    eventually("the group changes", || !is_marked("verified.test", Some(ann)));
    assert!(is_marked("verified.test", Some(bob)));
    // Two consumers with one certificate.
    gateway.write("routes.yml", &routes("ops").replace("{san: BOB.example}", "{commonName: ann}"));
    let status = |who: &Own| {
        let config = Arc::new(client_config(&[], Some(who)));
        ask_over_tls(gateway.web(), &config, "verified.test", "verified.test").unwrap().status()
    };
    eventually("the certificate identifies no one", || status(ann) == 503);
    assert_eq!((status(eve), status(joe)), (200, 200));
}

#[test]
fn access_decides_by_identity_as_middleware_and_on_a_router() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&format!(
        r"
http:
  routers:
    middleware: {{rule: 'Path(`/middleware`)', service: a, middlewares: [basic, ops]}}
    router: {{rule: 'Path(`/router`)', service: a, middlewares: [basic], access: 'Group(`ops`)'}}
    anonymous: {{rule: 'Path(`/anonymous`)', service: a, access: 'Group(`ops`)'}}
    any: {{rule: 'Path(`/any`)', service: a, middlewares: [optional, any]}}
    parent: {{rule: 'PathPrefix(`/parent`)', middlewares: [basic], access: 'Group(`ops`)'}}
    child: {{rule: 'PathPrefix(`/parent/child`)', service: a, parentRefs: [parent], access: 'Plan(`gold`)'}}
    typo: {{rule: 'Path(`/typo`)', service: a, middlewares: [basic], access: 'Grup(`ops`)'}}
    misused: {{rule: 'Path(`/misused`)', service: a, middlewares: [basic, wrong]}}
    empty: {{rule: 'Path(`/empty`)', service: a, access: ''}}
  middlewares:
    basic: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=', 'bob:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
    optional: {{jwt: {{signingSecret: '{}', optional: true}}}}
    ops: {{access: {{allow: 'Group(`ops`) && Consumer(`acme`)', deny: 'Plan(`expired`)'}}}}
    wrong: {{access: {{allow: 'Group(`ops`'}}}}
    any: {{anyOf: {{middlewares: [ops, basic]}}}}
  consumers:
    acme:
      groups: [ops]
      plan: gold
      credentials: {{basicAuth: [ann], jwt: [{{issuer: '{ISSUER}', subject: ann}}]}}
  plans: {{gold: {{}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        std::str::from_utf8(SECRET).unwrap(),
        backend.url()
    ));
    let ask_for = |path: &str, headers: &str| get_with(gateway.web(), "h", path, headers);
    let status = |path: &str, headers: &str| ask_for(path, headers).status;
    let (ann, bob) = ("Authorization: Basic YW5uOnRlc3Q=\r\n", "Authorization: Basic Ym9iOnRlc3Q=\r\n");
    for path in ["/middleware", "/router", "/parent/child"] {
        assert_eq!([status(path, ann), status(path, bob), status(path, "")], [200, 403, 401], "{path}");
    }
    let anonymous = ask_for("/anonymous", ann);
    assert_eq!((anonymous.status, anonymous.header("www-authenticate")), (401, Some("Bearer")));
    let token = |subject: &str| {
        let claims = claims(&json!({"sub": subject, "groups": []}));
        let token = signed_by(&OWN, "HS256", &json!({"alg": "HS256"}), &claims);
        format!("Authorization: Bearer {token}\r\n")
    };
    assert_eq!([status("/any", &token("ann")), status("/any", &token("eve"))], [200, 401]);
    assert_eq!([status("/any", bob), status("/any", "")], [200, 401], "basicAuth admits as well");
    // What is explained is what happens.
    for (login, status, note) in [
        ("ann:test", 200, "the client is permitted"),
        ("bob:test", 403, "the client is not permitted: Group(`ops`) does not hold"),
    ] {
        let credentials = base64::prelude::BASE64_STANDARD.encode(login);
        let header = format!("Authorization%3A%20Basic%20{}", credentials.replace('=', "%3D"));
        let text = gateway.api(&format!("/api/explain?url=http%3A%2F%2Fh%2Frouter&header={header}"));
        let explained: Value = serde_json::from_str(&text).unwrap();
        let decision = &explained["routing"][0]["router"]["middlewares"][1];
        assert_eq!((&decision["kind"], &decision["notes"][0]), (&json!("access"), &json!(note)), "{text}");
        if status == 403 {
            let response = &explained["result"]["response"];
            assert_eq!(
                (&response["status"], &response["reason"]),
                (&json!(403), &json!("forbidden")),
                "{text}"
            );
        }
        assert!(!text.contains(&login[..3]) || login.starts_with("ann"), "{text}");
    }
    // Mistakes break their routers, and no others.
    for path in ["/typo", "/misused", "/empty"] {
        assert_eq!(status(path, ann), 503, "{path}");
    }
    let problems = gateway.problems().join("\n");
    for expected in [
        "routes.yml:10: router typo@file: access: unknown function `Grup`: did you mean `Group`?",
        "routes.yml:12: router empty@file: access: is empty",
        "routes.yml:17: middleware wrong@file: allow: invalid expression `Group(`ops``",
    ] {
        assert!(problems.contains(expected), "{expected}\n{problems}");
    }
    assert_eq!(ask(&gateway, "/api/http/routers/router@file")["access"], "Group(`ops`)");
}

#[test]
fn a_file_of_consumers_is_watched_and_changes_no_routes() {
    let backend = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("consumers.yml");
    let consumers = |groups: &str, more: &str| {
        std::fs::write(
            &file,
            format!("consumers:\n  acme: {{groups: [{groups}], credentials: {{basicAuth: [ann]}}}}\n{more}"),
        )
        .unwrap();
    };
    consumers("ops", "");
    let gateway = Gateway::with(
        &[&format!("--providers.consumers.filename={}", file.display())],
        &format!(
            r"
http:
  routers:
    r: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [basic], access: 'Group(`ops`) || Consumer(`acme@consumers`) && Group(`dev`)'}}
  middlewares:
    basic: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            backend.url()
        ),
    );
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let status = || get_with(gateway.web(), "h", "/", "Authorization: Basic YW5uOnRlc3Q=\r\n").status;
    assert_eq!(status(), 200);
    consumers("guests", "");
    eventually("the group is lost", || status() == 403);
    consumers(
        "dev",
        "  broken: {groupz: [ops]}\nhttp:\n  routers: {all: {rule: 'Path(`/x`)', service: noop@internal}}\n",
    );
    eventually("the other group counts", || status() == 200);
    eventually("both mistakes are reported", || gateway.problems().len() == 2);
    let problems = gateway.problems().join("\n");
    assert!(
        problems.contains("consumer broken@consumers: http.consumers.broken.groupz: unknown key"),
        "{problems}"
    );
    assert!(problems.contains("consumers.yml:5: http.routers: ignored"), "{problems}");
    assert_eq!(ask(&gateway, "/api/http/consumers")[0]["provider"], "consumers");
}

#[test]
fn the_example_with_client_certificates_works() {
    let backend = Backend::echo("a");
    let issuer = {
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        rcgen::CertifiedIssuer::self_signed(parameters, rcgen::KeyPair::generate().unwrap()).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("partners.pem");
    std::fs::write(&authority, issuer.pem()).unwrap();
    let partner = |name: &str, alternative: &str| {
        let mut parameters = rcgen::CertificateParams::new([alternative.to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let signing_key = rcgen::KeyPair::generate().unwrap();
        Own { cert: parameters.signed_by(&signing_key, &issuer).unwrap(), signing_key }
    };
    let text =
        std::fs::read_to_string(crate::docs::root().join("examples/mtls-consumer/routes.yml")).unwrap();
    let text = text.replace("partners.pem", &authority.display().to_string());
    let gateway =
        Gateway::with(&["--identity.headers"], &text.replace("http://127.0.0.1:8080", &backend.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let host = "api.example.com";
    let status = |who: Option<&Own>, path: &str| {
        let config = Arc::new(client_config(&[], who));
        ask_for(gateway.web(), &config, host, host, path).map(|seen| seen.status())
    };
    let (acme, umbrella) = (partner("x", "acme.example.com"), partner("umbrella", "u.example.com"));
    assert_eq!(
        [status(Some(&acme), "/orders").unwrap(), status(Some(&acme), "/reports").unwrap()],
        [200, 200]
    );
    let seen = backend.last();
    assert_eq!(seen.header("x-consumer-name"), Some("acme@file"));
    assert_eq!(
        (seen.header("x-consumer-groups"), seen.header("x-auth-method")),
        (Some("partners"), Some("certificate"))
    );
    assert_eq!(
        [status(Some(&umbrella), "/orders").unwrap(), status(Some(&umbrella), "/reports").unwrap()],
        [200, 403]
    );
    let stranger = partner("stranger", "stranger.example.com");
    assert_eq!(status(Some(&stranger), "/orders").unwrap(), 403);
    assert!(status(Some(&somebody("acme.example.com")), "/orders").is_err(), "of no authority");
    assert!(status(None, "/orders").is_err(), "no certificate");
}
