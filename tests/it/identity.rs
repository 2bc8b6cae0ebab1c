//! What servers learn about the client (`identity`), and what they cannot be made to believe.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::tokens::{ISSUER, OWN, SECRET, claims, signed_by};
use crate::support::{Backend, Gateway, eventually, get, get_with};

const ANN: &str = "Authorization: Basic YW5uOnRlc3Q=\r\n";

fn routes(url: &str) -> String {
    format!(
        r"
http:
  routers:
    basic: {{rule: 'Path(`/basic`)', service: a, middlewares: [basic]}}
    jwt: {{rule: 'Path(`/jwt`)', service: a, middlewares: [jwt]}}
    open: {{rule: 'Path(`/open`)', service: a}}
    parent: {{rule: 'PathPrefix(`/parent`)', middlewares: [basic]}}
    child: {{rule: 'Path(`/parent/child`)', service: b, parentRefs: [parent]}}
  middlewares:
    basic: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=', 'bob:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
    jwt: {{jwt: {{signingSecret: '{}'}}}}
  consumers:
    acme:
      groups: [ops, 'a,b']
      labels: {{team: core}}
      plan: gold
      credentials: {{basicAuth: [ann], jwt: [{{issuer: '{ISSUER}', subject: service}}]}}
  plans: {{gold: {{}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
    b: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
",
        std::str::from_utf8(SECRET).unwrap()
    )
}

/// All spellings of the headers that the tests use.
fn forged() -> String {
    let names =
        ["X-Consumer-Name", "X-Consumer-Groups", "X-Auth-Subject", "X-Who", "X-Team", "X-Identity-Token"];
    let spellings = |name: &str| {
        let (lower, under, dot) = (name.to_lowercase(), name.replace('-', "_"), name.replacen('-', ".", 1));
        [name.to_owned(), lower, under, dot, name.replacen('-', "_", 1)]
    };
    names.iter().flat_map(|name| spellings(name)).map(|name| format!("{name}: forged\r\n")).collect()
}

#[test]
fn headers_tell_who_the_client_is_and_cannot_be_forged() {
    let backend = Backend::echo("a");
    let flags = [
        "--identity.headers.subject=X-Who",
        "--identity.headers.labels.team=X-Team",
        "--identity.headers.method=",
    ];
    let gateway = Gateway::with(&flags, &routes(&backend.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let told = |path: &str, headers: &str| {
        assert_eq!(get_with(gateway.web(), "h", path, headers).status, 200, "{path}");
        let seen = backend.last();
        let one = |name: &str| match seen.headers(name).as_slice() {
            [] => String::new(),
            [one] => (*one).to_owned(),
            several => panic!("{name}: {several:?}"),
        };
        ["X-Who", "X-Consumer-Name", "X-Consumer-Groups", "X-Team"].map(one)
    };
    for headers in
        [ANN.to_owned(), format!("{}{ANN}", forged()), format!("{ANN}Connection: X-Who, x-team\r\n")]
    {
        assert_eq!(told("/basic", &headers), ["ann", "acme@file", "ops,a%2Cb", "core"]);
        assert_eq!(told("/parent/child", &headers), ["ann", "acme@file", "ops,a%2Cb", "core"]);
    }
    assert_eq!(backend.last().header("x-consumer-plan"), Some("gold@file"));
    assert_eq!(backend.last().header("x-auth-method"), None, "it is switched off");
    let bob = format!("{}Authorization: Basic Ym9iOnRlc3Q=\r\n", forged());
    assert_eq!(told("/basic", &bob), ["bob", "", "", ""]);
    assert_eq!(told("/open", &forged()), ["", "", "", ""]);
    for spelling in ["x_who", "x.who", "x_consumer_name", "x.consumer-groups", "x_team"] {
        assert_eq!(backend.last().header(spelling), None, "{spelling}");
    }
    // Without a token, its header is one like any other.
    assert_eq!(backend.last().header("x-identity-token"), Some("forged"));
    // Claims cannot add headers or groups.
    let token = |changes: &Value| {
        let token = signed_by(&OWN, "HS256", &json!({"alg": "HS256"}), &claims(changes));
        format!("Authorization: Bearer {token}\r\n")
    };
    let evil =
        token(&json!({"sub": "eve\r\nX-Team: core", "groups": ["dev,ops", " ops", "x\r\nX-Team: core"]}));
    assert_eq!(
        told("/jwt", &evil),
        ["eve%0D%0AX-Team: core", "", "dev%2Cops,%20ops,x%0D%0AX-Team:%20core", ""]
    );
    assert_eq!(
        told("/jwt", &token(&json!({"sub": "service", "groups": []})))[1..],
        ["acme@file", "ops,a%2Cb", "core"]
    );
}

/// The claims of a token that one of these keys has signed, and the key's identifier.
fn verified(token: &str, keys: &Value) -> Option<(Value, String)> {
    let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).unwrap();
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let header: Value = serde_json::from_slice(&decode(header)).unwrap();
    assert_eq!((header["alg"].as_str(), header["typ"].as_str()), (Some("ES256"), Some("JWT")));
    let key = keys["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"])?;
    let part = |name: &str| decode(key[name].as_str().unwrap());
    let point = [vec![4], part("x"), part("y")].concat();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
    key.verify(message.as_bytes(), &decode(signature)).expect("a valid signature");
    Some((serde_json::from_slice(&decode(claims)).unwrap(), header["kid"].as_str().unwrap().to_owned()))
}

fn keys(gateway: &Gateway) -> Value {
    let answer = get(gateway.address("traefik"), "h", "/.well-known/jwks.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/jwk-set+json")));
    assert!(answer.header("cache-control").unwrap().starts_with("public, max-age="));
    let keys: Value = serde_json::from_str(&answer.text()).unwrap();
    for key in keys["keys"].as_array().unwrap() {
        assert!(key.get("d").is_none() && key["kty"] == "EC" && key["crv"] == "P-256", "{key}");
    }
    keys
}

#[test]
fn a_token_tells_who_the_client_is_and_is_verified_by_public_keys() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(&["--identity.token.issuer=https://gateway.test"], &routes(&backend.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let token = |path: &str, headers: &str| {
        assert_eq!(get_with(gateway.web(), "h", path, headers).status, 200);
        let seen = backend.last();
        let tokens = seen.headers("x-identity-token");
        assert!(tokens.len() < 2, "{tokens:?}");
        tokens.first().map(|token| (*token).to_owned())
    };
    let keys = keys(&gateway);
    let first = token("/basic", &format!("{}{ANN}", forged())).unwrap();
    let (claims, _) = verified(&first, &keys).expect("a known key");
    assert_eq!(
        (
            &claims["iss"],
            &claims["aud"],
            &claims["sub"],
            &claims["amr"],
            &claims["consumer"],
            &claims["groups"]
        ),
        (
            &json!("https://gateway.test"),
            &json!("a@file"),
            &json!("ann"),
            &json!(["basic"]),
            &json!("acme@file"),
            &json!(["ops", "a,b"])
        )
    );
    assert_eq!((&claims["plan"], &claims["labels"]), (&json!("gold@file"), &json!({"team": "core"})));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 60);
    assert_eq!(token("/basic", ANN).as_deref(), Some(&*first), "it is used again");
    let (claims, _) = verified(&token("/parent/child", ANN).unwrap(), &keys).unwrap();
    assert_eq!(claims["aud"], "b@file", "a token is for one service");
    assert_eq!(token("/open", &forged()), None);
    assert_eq!(backend.last().header("x_identity_token"), None);
    assert_eq!(backend.last().header("x-consumer-name"), Some("forged"), "only the token is in use");
}

#[test]
fn keys_are_replaced_and_known_before_they_sign() {
    let backend = Backend::echo("a");
    let generated = Gateway::with(
        &["--identity.token.expiry=2s", "--identity.token.rotation=2s"],
        &routes(&backend.url()),
    );
    let sign = |gateway: &Gateway| {
        assert_eq!(get_with(gateway.web(), "h", "/basic", ANN).status, 200);
        backend.last().header("x-identity-token").unwrap().to_owned()
    };
    let before = keys(&generated);
    let (first, known) = (sign(&generated), keys(&generated));
    let (_, old) = verified(&first, &known).unwrap();
    eventually("another key signs", || {
        // Whatever signs now was published before.
        let published = keys(&generated);
        let token = sign(&generated);
        verified(&token, &published).is_some_and(|(_, key)| key != old)
    });
    assert!(verified(&first, &keys(&generated)).is_some(), "tokens of the replaced key are still valid");
    assert_eq!(before["keys"].as_array().unwrap().len(), 2);

    // A key from a file, in both forms, shared by gateways.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    let key = || rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(&file, key()).unwrap();
    let flag = format!("--identity.token.keyFile={}", file.display());
    let one = Gateway::with(&[&flag], &routes(&backend.url()));
    let other = Gateway::with(&[&flag], &routes(&backend.url()));
    let token = sign(&one);
    let (_, old) = verified(&token, &keys(&other)).expect("the same key");
    std::fs::write(&file, "no key").unwrap();
    std::fs::write(&file, key()).unwrap();
    eventually("the new key signs", || verified(&sign(&one), &keys(&one)).is_some_and(|(_, key)| key != old));
    assert!(verified(&token, &keys(&one)).is_some(), "the old key is published until its tokens expire");
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.pem");
    std::fs::write(&file, "no key").unwrap();
    let no_key = format!("--identity.token.keyFile={}", file.display());
    for (flags, expected) in [
        (&["--identity"][..], "identity: expected `headers`, `token` or both"),
        (&["--identity.headers.subject=X Y"], "identity.headers.subject: `X Y` is not the name of a header"),
        (
            &["--identity.token.header=Authorization"],
            "identity.token.header: `Authorization` has another meaning",
        ),
        (
            &["--identity.headers.plan=x_consumer_name"],
            "identity.headers.plan: `x_consumer_name` is used twice",
        ),
        (
            &["--identity.token.expiry=2h"],
            "identity.token.expiry: `2h0m0s` is out of range: expected 2s to 1h",
        ),
        (&["--identity.token.rotation=1s"], "identity.token.rotation: is shorter than `expiry`"),
        (&[&no_key], "key.pem`: no private key on P-256 in PEM"),
        (&["--identity.token.keyFile=/none"], "`/none`: cannot read the file"),
    ] {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let problems = tidegate::settings::load(&flags, &[]).err().unwrap_or_default();
        let told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        assert!(told.contains(expected), "{expected}: {told}");
    }
}
