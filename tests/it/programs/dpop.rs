//! Tokens that the certified `oidc-provider` binds to a key, and used proofs in a real Redis.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::oidc::Provider;
use crate::dpop::{proof, send};
use crate::support::outside::Redis;
use crate::support::tokens::{FOREIGN, OWN};
use crate::support::{Backend, Gateway, eventually, get_with, raw};

/// Gets a token for the foreign key, as a JWT for the audience `api` or as an opaque one.
fn bound_token(provider: &Provider, is_jwt: bool) -> String {
    let address: SocketAddr = ([127, 0, 0, 1], provider.port).into();
    let proof = proof(&FOREIGN, "POST", &format!("{}/token", provider.url()), None);
    let resource = if is_jwt { "&resource=https%3A%2F%2Fapi.test" } else { "" };
    let form = format!("grant_type=client_credentials&client_id=one&client_secret=secret{resource}");
    let kind = "content-type: application/x-www-form-urlencoded\r\nconnection: close\r\n";
    let answer = raw(
        address,
        format!(
            "POST /token HTTP/1.1\r\nhost: {address}\r\ndpop: {proof}\r\n{kind}content-length: {}\r\n\r\n{form}",
            form.len()
        ),
    )
    .unwrap();
    let body: Value = serde_json::from_str(&answer.text()).unwrap_or_else(|_| panic!("{answer:?}"));
    assert_eq!(body["token_type"], "DPoP", "{body}");
    body["access_token"].as_str().unwrap().to_owned()
}

fn started() -> Provider {
    let mut provider = Provider::new();
    let client = |id: &str, method: &str| {
        json!({"client_id": id, "client_secret": "secret", "redirect_uris": [], "response_types": [],
            "grant_types": ["client_credentials"], "token_endpoint_auth_method": method})
    };
    // The second one is the gateway.
    provider.start(json!([client("one", "client_secret_post"), client("two", "client_secret_basic")]), 300);
    provider
}

fn routes(middleware: &str, service: &Backend) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}}
  middlewares:
    m: {middleware}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        service.url()
    )
}

#[test]
#[ignore = "needs oidc-provider"]
fn tokens_of_a_provider_are_accepted_with_a_proof_only() {
    let (provider, service) = (started(), Backend::echo("a"));
    let url = provider.url();
    let jwt = format!(
        "{{jwt: {{jwksUrl: '{url}/jwks', issuer: '{url}', audience: [api], dpop: {{required: true}}}}}}"
    );
    let server = format!("{{url: '{url}/token/introspection', auth: {{kind: basic, secret: 'two:secret'}}}}");
    let introspection =
        format!("{{oAuthIntrospection: {{clientConfig: {server}, dpop: {{required: true}}}}}}");
    for (middleware, is_jwt) in [(jwt, true), (introspection, false)] {
        let gateway = Gateway::with(&[], &routes(&middleware, &service));
        assert_eq!(gateway.problems(), Vec::<String>::new());
        let token = bound_token(&provider, is_jwt);
        assert_eq!(token.matches('.').count(), if is_jwt { 2 } else { 0 });
        let proven = || proof(&FOREIGN, "GET", "http://api.test/a", Some(&token));
        let used = proven();
        eventually("the token is accepted", || {
            send(&gateway, "api.test", "/a", &token, &proven(), "").status == 200
        });
        assert_eq!(send(&gateway, "api.test", "/a", &token, &used, "").status, 200);
        assert_eq!(send(&gateway, "api.test", "/a", &token, &used, "").status, 401);
        let other = proof(&OWN, "GET", "http://api.test/a", Some(&token));
        assert_eq!(send(&gateway, "api.test", "/a", &token, &other, "").status, 401);
        let bearer = format!("Authorization: Bearer {token}\r\n");
        assert_eq!(get_with(gateway.web(), "api.test", "/a", &bearer).status, 401);
    }
}

#[test]
#[ignore = "needs redis-server"]
fn a_proof_counts_once_for_two_gateways() {
    let (mut redis, service) = (Redis::start(&[]), Backend::echo("a"));
    let jwks = Value::from(OWN.jwks()).to_string();
    let token = crate::support::tokens::token(&json!({"cnf": {"jkt": crate::dpop::thumbprint(&FOREIGN)}}));
    let text = routes(
        &format!("{{jwt: {{jwksFile: {jwks}, dpop: {{redis: {{endpoints: ['{}']}}}}}}}}", redis.address),
        &service,
    );
    let (one, two) = (Gateway::serve(&text), Gateway::serve(&text));
    assert_eq!(one.problems(), Vec::<String>::new());
    let proven = || proof(&FOREIGN, "GET", "http://api.test/a", Some(&token));
    let used = proven();
    eventually("Redis is connected", || send(&one, "api.test", "/a", &token, &proven(), "").status == 200);
    eventually("Redis is connected", || send(&two, "api.test", "/a", &token, &proven(), "").status == 200);
    assert_eq!(send(&one, "api.test", "/a", &token, &used, "").status, 200);
    for gateway in [&two, &one] {
        assert_eq!(send(gateway, "api.test", "/a", &token, &used, "").status, 401);
    }
    redis.kill();
    assert_eq!(send(&two, "api.test", "/a", &token, &proven(), "").status, 503);
}
