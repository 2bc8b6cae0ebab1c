//! Tokens that are bound to a key (DPoP), through the gateway: behind other proxies, and with `oAuthIntrospection`.

use std::io::Write as _;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::tokens::{FOREIGN, Keys, OWN, now, reason, routes, signed_by, token};
use crate::support::{Answer, Backend, Gateway, get_with};

/// Returns the SHA-256 of a text in base64url.
pub fn sha256(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// Returns the thumbprint of the keys' P-256 key.
pub fn thumbprint(keys: &Keys) -> String {
    let jwk = keys.jwk("P-256", "");
    sha256(&format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]))
}

/// Returns a proof of the keys' P-256 key, for a token or for none.
pub fn proof(keys: &Keys, method: &str, url: &str, token: Option<&str>) -> String {
    let mut jwk = keys.jwk("P-256", "");
    jwk.as_object_mut().unwrap().remove("kid");
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk});
    let mut claims = json!({"jti": uuid(), "htm": method, "htu": url, "iat": now()});
    if let Some(token) = token {
        claims["ath"] = json!(sha256(token));
    }
    signed_by(keys, "ES256", &header, &claims)
}

fn uuid() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Sends a request with a token and a proof.
pub fn send(gateway: &Gateway, host: &str, target: &str, token: &str, proof: &str, more: &str) -> Answer {
    let headers = format!("Authorization: DPoP {token}\r\nDPoP: {proof}\r\n{more}");
    get_with(gateway.web(), host, target, &headers)
}

fn options(dpop: &str) -> String {
    let jwks = Value::from(OWN.jwks()).to_string();
    format!("jwksFile: {jwks}, forwardHeaders: {{X-User: sub}}, dpop: {dpop}")
}

fn bound() -> String {
    token(&json!({"cnf": {"jkt": thumbprint(&FOREIGN)}}))
}

#[track_caller]
fn is_refused(gateway: &Gateway, service: &Backend, answer: &Answer, why: &str) {
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert!(answer.status == 401 && challenge.contains(why), "{}: {challenge}", answer.status);
    assert_eq!(reason(gateway), "unauthenticated");
    assert!(service.seen().iter().all(|seen| seen.target() != "/attack"));
}

#[test]
fn a_stolen_token_is_worthless() {
    let service = Backend::echo("a");
    let gateway = Gateway::with(&[], &routes(&options("true"), &service.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let token = bound();
    let own = |target: &str| proof(&FOREIGN, "GET", &format!("http://api.test{target}"), Some(&token));
    let used = own("/a");
    assert_eq!(send(&gateway, "api.test", "/a?x=1", &token, &used, "").status, 200);
    assert_eq!(service.last().header("x-user"), Some("ann"));
    for (attack, proof, why) in [
        ("used", used.as_str(), "another URL"),
        ("other target", &own("/b"), "another URL"),
        ("other key", &proof(&OWN, "GET", "http://api.test/attack", Some(&token)), "another key"),
        ("other method", &proof(&FOREIGN, "POST", "http://api.test/attack", Some(&token)), "another method"),
        ("no token", &proof(&FOREIGN, "GET", "http://api.test/attack", None), "not for this token"),
        ("nothing", "", "malformed"),
    ] {
        let answer = send(&gateway, "api.test", "/attack", &token, proof, "");
        is_refused(&gateway, &service, &answer, why);
        assert!(answer.header("www-authenticate").unwrap().starts_with("DPoP "), "{attack}");
    }
    let again = send(&gateway, "api.test", "/a", &token, &used, "");
    is_refused(&gateway, &service, &again, "the proof has been used");
    let bearer =
        get_with(gateway.web(), "api.test", "/attack", &format!("Authorization: Bearer {token}\r\n"));
    is_refused(&gateway, &service, &bearer, "expected the scheme DPoP");
    let two = format!("DPoP: {}\r\n", own("/attack"));
    let answer = send(&gateway, "api.test", "/attack", &token, &own("/attack"), &two);
    is_refused(&gateway, &service, &answer, "more than one proof");
}

#[test]
fn only_trusted_proxies_say_which_url_the_client_knows() {
    let service = Backend::echo("a");
    let token = bound();
    let forwarded = "X-Forwarded-Proto: https\r\nX-Forwarded-Host: api.test\r\n";
    let proven = || proof(&FOREIGN, "GET", "https://api.test/a", Some(&token));
    let trusted = ["--entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.1"];
    for (flags, status) in [(&trusted[..], 200), (&[], 401)] {
        let gateway = Gateway::with(flags, &routes(&options("true"), &service.url()));
        assert_eq!(send(&gateway, "inner.test", "/a", &token, &proven(), forwarded).status, status);
    }
    let gateway = Gateway::with(&[], &routes(&options("{publicURL: 'https://api.test'}"), &service.url()));
    assert_eq!(send(&gateway, "inner.test", "/a", &token, &proven(), "").status, 200);
}

#[test]
fn nonces_are_given_and_required() {
    let service = Backend::echo("a");
    let gateway = Gateway::with(&[], &routes(&options("{nonce: true, required: true}"), &service.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let token = bound();
    let without = proof(&FOREIGN, "GET", "http://api.test/", Some(&token));
    let answer = send(&gateway, "api.test", "/", &token, &without, "");
    is_refused(&gateway, &service, &answer, "error=\"use_dpop_nonce\"");
    let nonce = answer.header("dpop-nonce").unwrap().to_owned();
    let jwk = FOREIGN.jwk("P-256", "k");
    let claims = json!({"jti": uuid(), "htm": "GET", "htu": "http://api.test/", "iat": now(),
        "ath": sha256(&token), "nonce": nonce});
    let with = signed_by(&FOREIGN, "ES256", &json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}), &claims);
    assert_eq!(send(&gateway, "api.test", "/", &token, &with, "").status, 200);
    let anonymous = get_with(gateway.web(), "api.test", "/", "");
    assert!(anonymous.header("www-authenticate").unwrap().starts_with("DPoP "));
}

#[test]
fn an_introspected_token_needs_its_proof() {
    let service = Backend::echo("a");
    let server = Backend::with(|seen, stream| {
        let is_bound = seen.body.starts_with(b"token=bound");
        let body = match is_bound {
            true => json!({"active": true, "sub": "ann", "token_type": "DPoP",
                "cnf": {"jkt": thumbprint(&FOREIGN)}}),
            false => json!({"active": true, "sub": "bob"}),
        };
        let (kind, body) = ("Content-Type: application/json", body.to_string());
        write!(stream, "HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).is_ok()
    });
    let text = |dpop: &str| {
        let options = format!(
            "oAuthIntrospection: {{clientConfig: {{url: '{}'}}, forwardHeaders: {{X-User: sub}}, stripToken: true{dpop}}}",
            server.url()
        );
        let jwt = routes("", &service.url());
        jwt.replace("jwt: {}", &options)
    };
    let gateway = Gateway::with(&[], &text(", dpop: true"));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let proven = || proof(&FOREIGN, "GET", "http://api.test/", Some("bound"));
    // The second time, the answer is remembered.
    for _ in 0..2 {
        let used = proven();
        assert_eq!(send(&gateway, "api.test", "/", "bound", &used, "").status, 200);
        let seen = service.last();
        let left = (seen.header("x-user"), seen.header("authorization"), seen.header("dpop"));
        assert_eq!(left, (Some("ann"), None, None));
        let again = send(&gateway, "api.test", "/", "bound", &used, "");
        is_refused(&gateway, &service, &again, "the proof has been used");
        let other = proof(&OWN, "GET", "http://api.test/", Some("bound"));
        is_refused(&gateway, &service, &send(&gateway, "api.test", "/", "bound", &other, ""), "another key");
        let bearer = get_with(gateway.web(), "api.test", "/attack", "Authorization: Bearer bound\r\n");
        is_refused(&gateway, &service, &bearer, "expected the scheme DPoP");
    }
    let free = get_with(gateway.web(), "api.test", "/", "Authorization: Bearer free\r\n");
    assert_eq!(free.status, 200);
    let not_bound = proof(&FOREIGN, "GET", "http://api.test/", Some("free"));
    let answer = send(&gateway, "api.test", "/", "free", &not_bound, "");
    is_refused(&gateway, &service, &answer, "the token is not bound to a key");
    // Two tokens are none.
    let two = send(&gateway, "api.test", "/", "bound", &proven(), "Authorization: Bearer free\r\n");
    assert_eq!(two.status, 400);
    let without = Gateway::with(&[], &text(""));
    let bearer = get_with(without.web(), "api.test", "/attack", "Authorization: Bearer bound\r\n");
    is_refused(&without, &service, &bearer, "the token is bound to a key");
}
