//! The middleware `jwt`: which tokens pass, where keys come from, and what clients learn.

use std::io::Write;
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::KeyPair as _;
use serde_json::json;

use crate::support::tokens::*;
use crate::support::{Backend, Gateway, eventually, get, get_with, raw};

#[test]
fn every_algorithm_is_accepted_with_its_own_key() {
    let issuer = Issuer::start();
    let remote = Protected::remote(&issuer, "");
    for (algorithm, kid) in [
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("ES256", "p256"),
        ("ES384", "p384"),
        ("EdDSA", "ed"),
        ("Ed25519", "ed"),
    ] {
        let header = json!({"alg": algorithm, "kid": kid, "typ": "at+jwt"});
        let token = signed_by(&OWN, algorithm, &header, &claims(&json!({})));
        remote.accepts(&token);
        remote.accepts(&token);
        // Without `kid`, the algorithm selects the key.
        remote.accepts(&signed_by(&OWN, algorithm, &json!({"alg": algorithm}), &claims(&json!({}))));
        remote.refuses(&signed_by(&FOREIGN, algorithm, &header, &claims(&json!({}))), SIGNATURE);
    }
    let secret = Protected::new(&format!("signingSecret: '{}'", std::str::from_utf8(SECRET).unwrap()));
    for algorithm in ["HS256", "HS384", "HS512"] {
        secret.accepts(&signed_by(&OWN, algorithm, &json!({"alg": algorithm}), &claims(&json!({}))));
    }
    assert_eq!(issuer.server.seen().len(), 1, "keys are fetched once");
}

#[test]
fn keys_come_from_pem_and_files() {
    let service = Backend::echo("a");
    let gateway = Gateway::with(&[], "");
    std::fs::write(gateway.folder().join("keys.json"), OWN.jwks()).unwrap();
    for key in [&OWN.p256, &OWN.p384] {
        let der = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
        let name = if key.public_key().as_ref().len() == 65 { "p256.pem" } else { "p384.pem" };
        std::fs::write(gateway.folder().join(name), pem(der.as_ref())).unwrap();
    }
    let der = AsDer::<PublicKeyX509Der<'_>>::as_der(OWN.ed.public_key()).unwrap();
    std::fs::write(gateway.folder().join("ed.pem"), pem(der.as_ref())).unwrap();
    std::fs::write(gateway.folder().join("rsa.pem"), OWN.rsa_pem()).unwrap();
    let file = |name: &str| gateway.folder().join(name).display().to_string();
    for (options, algorithm) in [
        (format!("publicKey: '{}'", file("rsa.pem")), "RS256"),
        (format!("publicKey: '{}'", file("p256.pem")), "ES256"),
        (format!("publicKey: '{}'", file("p384.pem")), "ES384"),
        (format!("publicKey: '{}'", file("ed.pem")), "EdDSA"),
        (format!("publicKey: {}", json!(OWN.rsa_pem())), "PS512"),
        (format!("jwksFile: '{}'", file("keys.json")), "ES256"),
        (format!("jwksFile: '{}'", OWN.jwks()), "RS384"),
        // In a file, a set may have secrets.
        (format!("jwksFile: '{}'", file("keys.json")), "HS256"),
    ] {
        let protected = Protected::new(&options);
        protected.accepts(&signed_by(&OWN, algorithm, &json!({"alg": algorithm}), &claims(&json!({}))));
    }
    // A key file is watched.
    let watched = Protected::new(&format!("publicKey: '{}'", file("rsa.pem")));
    let foreign = signed_by(&FOREIGN, "RS256", &json!({"alg": "RS256"}), &claims(&json!({})));
    watched.refuses(&foreign, SIGNATURE);
    std::fs::write(file("rsa.pem"), FOREIGN.rsa_pem()).unwrap();
    eventually("the new key counts", || watched.send(&foreign).status == 200);
    drop((service, gateway));
}

#[test]
fn keys_are_replaced_and_survive_an_outage_and_other_options() {
    let issuer = Issuer::start();
    let protected = Protected::remote(&issuer, "");
    let old = token(&json!({}));
    protected.accepts(&old);
    // The service's options change while the issuer is down.
    issuer.publish("");
    let generation = protected.gateway.generation();
    let url = issuer.server.url();
    let options =
        format!("jwksUrl: '{url}/keys', issuer: '{ISSUER}', audience: [api], claims: 'Equals(`sub`, `ann`)'");
    protected.gateway.write("routes.yml", &routes(&options, &protected.service.url()));
    eventually("the options are applied", || protected.gateway.generation() > generation);
    protected.accepts(&old);
    // An unknown key causes a request for keys. If that fails, the known keys stay.
    let new = signed_by(&FOREIGN, "RS256", &json!({"alg": "RS256", "kid": "new"}), &claims(&json!({})));
    protected.refuses(&new, UNKNOWN);
    protected.accepts(&old);
    // The next attempt succeeds, without a request that asks for it.
    issuer.publish(&json!({"keys": [FOREIGN.jwk("RS", "new")]}).to_string());
    eventually("the new key counts", || protected.send(&new).status == 200);
    // The old key is gone, and what it has verified.
    protected.refuses(&old, UNKNOWN);
}

#[test]
fn an_unknown_key_is_fetched_at_once() {
    let issuer = Issuer::start();
    let protected = Protected::remote(&issuer, "");
    protected.accepts(&token(&json!({})));
    let keys = [OWN.jwk("RS", "rsa"), FOREIGN.jwk("RS", "new")];
    issuer.publish(&json!({ "keys": keys }).to_string());
    protected.accepts(&signed_by(
        &FOREIGN,
        "RS256",
        &json!({"alg": "RS256", "kid": "new"}),
        &claims(&json!({})),
    ));
    assert_eq!(issuer.server.seen().len(), 2);
}

#[test]
fn issuers_are_discovered_and_kept_apart() {
    let metadata = Arc::new(Mutex::new(String::new()));
    let text = metadata.clone();
    let server = Backend::with(move |seen, stream| {
        let body = match seen.target() {
            "/one/.well-known/openid-configuration" => text.lock().unwrap().clone(),
            "/one/keys" => json!({"keys": [OWN.jwk("RS", "k")]}).to_string(),
            "/two/keys" => json!({"keys": [FOREIGN.jwk("RS", "k")]}).to_string(),
            _ => String::new(),
        };
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).is_ok()
    });
    let url = server.url();
    let one = format!("{url}/one");
    *metadata.lock().unwrap() =
        json!({"issuer": "https://evil.test", "jwks_uri": format!("{one}/keys")}).to_string();
    let protected = Protected::new(&format!(
        "audience: [api], trustedIssuers: [{{issuer: '{one}'}}, {{issuer: two, jwksUrl: '{url}/two/keys'}}]"
    ));
    let sign = |keys: &Keys, issuer: &str| {
        signed_by(keys, "RS256", &json!({"alg": "RS256", "kid": "k"}), &claims(&json!({"iss": issuer})))
    };
    // The metadata are somebody else's.
    assert_eq!(protected.send(&sign(&OWN, &one)).status, 503);
    *metadata.lock().unwrap() = json!({"issuer": one, "jwks_uri": format!("{one}/keys")}).to_string();
    eventually("the keys are found", || protected.send(&sign(&OWN, &one)).status == 200);
    protected.accepts(&sign(&FOREIGN, "two"));
    protected.refuses(&sign(&FOREIGN, &one), SIGNATURE);
    protected.refuses(&sign(&OWN, "two"), SIGNATURE);
    protected.refuses(&sign(&OWN, "three"), "the issuer of the token is not trusted");
}

#[test]
fn predictions_say_what_happens() {
    let issuer = Issuer::start();
    let protected =
        Protected::remote(&issuer, ", claims: 'Equals(`sub`, `ann`)', forwardHeaders: {X-User: sub}");
    let explain = |token: &str| {
        let question = json!({"method": "GET", "url": "http://h/", "headers": {"Authorization": [format!("Bearer {token}")]}});
        let body = question.to_string();
        let head = format!("POST /api/explain HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n", body.len());
        let request = format!("{head}Connection: close\r\n\r\n{body}");
        raw(protected.gateway.address("traefik"), request).unwrap().text()
    };
    let valid = token(&json!({}));
    eventually("the keys are known", || protected.send(&valid).status == 200);
    let fetched = issuer.server.seen().len();
    for (token, said) in [
        (valid.clone(), "the token is valid"),
        (token(&json!({"exp": 1})), "the token is expired"),
        (token(&json!({"sub": "bob"})), "the claims of the token do not permit this"),
        ("a.b".into(), "the token is malformed"),
        (
            signed_by(&OWN, "RS256", &json!({"alg": "RS256", "kid": "x"}), &claims(&json!({}))),
            &*format!("fetches keys from {}/keys", issuer.server.url()),
        ),
    ] {
        let text = explain(&token);
        assert!(text.contains(said), "{said}: {text}");
        assert!(!text.contains(&token), "{text}");
    }
    assert_eq!(issuer.server.seen().len(), fetched, "a prediction asks nobody");
}

#[test]
fn responses_and_reasons() {
    let issuer = Issuer::start();
    let protected = Protected::remote(&issuer, ", claims: 'SplitContains(`scope`, ` `, `write`)'");
    let missing = get(protected.gateway.web(), "h", "/");
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("Bearer realm=\"traefik\"")));
    assert_eq!(reason(&protected.gateway), "unauthenticated");
    assert_eq!(get_with(protected.gateway.web(), "h", "/", "Authorization: Basic YTpi\r\n").status, 401);
    assert_eq!(get_with(protected.gateway.web(), "h", "/", "Authorization: Bearer\r\n").status, 401);
    protected.accepts(&token(&json!({"scope": "read write"})));
    let forbidden = protected.send(&token(&json!({"scope": "read"})));
    assert_eq!(forbidden.status, 403);
    assert!(forbidden.header("www-authenticate").unwrap().contains("error=\"insufficient_scope\""));
    assert_eq!(reason(&protected.gateway), "forbidden");
    let lower = format!("authorization: bearer {}\r\n", token(&json!({"scope": "write"})));
    assert_eq!(get_with(protected.gateway.web(), "h", "/", &lower).status, 200);
}

#[test]
fn a_token_identifies_the_client_and_is_one_of_several_ways() {
    let (issuer, service) = (Issuer::start(), Backend::echo("a"));
    let gateway = Gateway::with(
        &[],
        &format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [any, mark, limit]}}
  middlewares:
    token: {{jwt: {{jwksUrl: '{}', issuer: '{ISSUER}', audience: ['*'], usernameClaim: user.name, forwardHeaders: {{X-User: user.name}}}}}}
    basic: {{basicAuth: {{users: ['bob:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
    any: {{anyOf: {{middlewares: [token, basic]}}}}
    mark: {{when: 'User(`ann`)', headers: {{customResponseHeaders: {{X-Mark: ann}}}}}}
    limit: {{rateLimit: {{average: 1, period: 1h, burst: 2, sourceCriterion: {{identity: true}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            issuer.server.url(),
            service.url()
        ),
    );
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let as_user = |name: &str| {
        let claims = claims(&json!({"user": {"name": name}}));
        let token = signed_by(&OWN, "ES256", &json!({"alg": "ES256", "kid": "p256"}), &claims);
        get_with(gateway.web(), "h", "/", &format!("Authorization: Bearer {token}\r\n"))
    };
    let ann = as_user("ann");
    assert_eq!((ann.status, ann.header("x-mark")), (200, Some("ann")));
    assert_eq!([as_user("ann").status, as_user("ann").status, as_user("carl").status], [200, 429, 200]);
    let basic = "Authorization: Basic Ym9iOnRlc3Q=\r\nX-User: root\r\n";
    assert_eq!(get_with(gateway.web(), "h", "/", basic).status, 200);
    assert_eq!(service.last().header("x-user"), None, "only a token may say who the client is");
    let nobody = get(gateway.web(), "h", "/");
    assert_eq!(nobody.status, 401);
    let unnamed = signed_by(&OWN, "ES256", &json!({"alg": "ES256", "kid": "p256"}), &claims(&json!({})));
    assert_eq!(
        get_with(gateway.web(), "h", "/", &format!("Authorization: Bearer {unnamed}\r\n")).status,
        401
    );
}

#[test]
fn mistakes_in_the_options_are_named_and_close_the_router() {
    let service = Backend::echo("a");
    for (options, message) in [
        ("audience: [a]", "no keys: expected signingSecret, publicKey, jwksFile, jwksUrl or trustedIssuers"),
        ("signingSecret: short", "signingSecret: the secret has 5 bytes: expected at least 32"),
        ("signingSecret: a, jwksUrl: 'http://a.test'", "only one of signingSecret, jwksUrl is possible"),
        ("publicKey: '-----BEGIN X-----'", "publicKey: not PEM"),
        ("publicKey: /missing.pem", "/missing.pem"),
        ("jwksFile: '{\"keys\": []}'", "jwksFile: no usable key"),
        ("jwksFile: '{'", "jwksFile: not a JSON Web Key Set"),
        ("jwksUrl: 'http://a.test', audience: [a]", "issuer: required with jwksUrl"),
        ("jwksUrl: 'http://a.test', issuer: i", "audience: required with jwksUrl"),
        ("jwksUrl: 'a.test', issuer: i, audience: [a]", "jwksUrl: invalid URL `a.test`"),
        ("trustedIssuers: [{issuer: i}], audience: [a]", "trustedIssuers[0].issuer: invalid URL"),
        ("trustedIssuers: [{jwksUrl: 'http://a'}], audience: [a]", "trustedIssuers[0].issuer: required"),
        (
            "jwksFile: '{', claims: 'Equal(`a`, `b`)'",
            "claims: unknown function `Equal`: did you mean `Equals`?",
        ),
        ("jwksFile: '{', forwardHeaders: {'a b': c}", "forwardHeaders: invalid header name `a b`"),
        ("jwksFile: '{', leeway: 1h", "leeway: 1h0m0s: the maximum is 10m"),
    ] {
        let gateway = Gateway::with(&[], &routes(options, &service.url()));
        let problems = gateway.problems().join("\n");
        assert!(problems.contains(message), "{options}: {problems}");
        assert_eq!(get(gateway.web(), "h", "/").status, 503, "{options}");
        assert!(!problems.contains("short"), "{problems}");
    }
    assert!(service.seen().is_empty());
}

#[test]
fn the_example_works() {
    let (issuer, service) = (Issuer::start(), Backend::echo("a"));
    let text = std::fs::read_to_string(crate::docs::root().join("examples/jwt/routes.yml")).unwrap();
    let text = text.replace("https://login.example.com/keys", &issuer.server.url());
    let text = text.replace("https://login.example.com", ISSUER);
    let gateway = Gateway::with(&[], &text.replace("http://127.0.0.1:8080", &service.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let status = |path: &str, scope: &str| {
        let token = token(&json!({"aud": "orders", "sub": "shop", "scope": scope}));
        get_with(gateway.web(), "h", path, &format!("Authorization: Bearer {token}\r\n")).status
    };
    assert_eq!([status("/orders/1", "read orders"), status("/orders/1", "read")], [200, 403]);
    let seen = service.last();
    assert_eq!((seen.header("x-client"), seen.header("authorization")), (Some("shop"), None));
    assert_eq!([status("/status", "orders"), get(gateway.web(), "h", "/status").status], [200, 401]);
}
