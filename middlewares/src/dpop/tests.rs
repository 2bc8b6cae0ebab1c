//! Attacks on tokens that are bound to a key, with the middleware `jwt` and a clock that the tests set.

mod shared;

use std::sync::Arc;
use std::time::Duration as StdDuration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::Request as HttpRequest;
use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_core::{Body, Build as _, BuildContext, ManualClock, Middleware, Request, Response, Verdict};

use super::*;
use crate::jwt::Jwt;
use crate::testing::{self, Service, World};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const URL: &str = "https://api.test/orders/1";

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn sha256(text: &str) -> String {
    encoded(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// A JWT with these parts and this signature.
fn joined(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", encoded(signature))
}

/// A client and its key.
struct Client(EcdsaKeyPair);

impl Client {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y)})
    }

    fn thumbprint(&self) -> String {
        let jwk = self.jwk();
        sha256(&format!(r#"{{"crv":"P-256","kty":"EC","x":{},"y":{}}}"#, jwk["x"], jwk["y"]))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    fn header(&self) -> Value {
        json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()})
    }

    fn proof(&self, claims: &Value) -> String {
        joined(&self.header(), claims, |message| self.sign(message))
    }
}

/// A gateway's middleware, a client, and its token.
struct Case {
    client: Client,
    token: String,
    middleware: Arc<dyn Middleware>,
    clock: Arc<ManualClock>,
    wall: u64,
}

fn token(cnf: Option<Value>) -> String {
    let mut claims = json!({"sub": "ann", "exp": 4_000_000_000_u64});
    if let Some(cnf) = cnf {
        claims["cnf"] = cnf;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    joined(&json!({"alg": "HS256"}), &claims, |message| hmac::sign(&key, message).as_ref().to_vec())
}

impl Case {
    fn new() -> Self {
        Self::with(DpopOptions::default())
    }

    fn with(options: DpopOptions) -> Self {
        let (world, clock) = World::stopped();
        Self::within(&world, clock, options)
    }

    fn within(world: &World, clock: Arc<ManualClock>, options: DpopOptions) -> Self {
        let jwt = Jwt { signing_secret: SECRET.into(), dpop: Some(options), ..Jwt::default() };
        let middleware = jwt.build(&BuildContext::new("m@file", world).instance("jwt", "")).unwrap();
        let client = Client::new();
        let token = token(Some(json!({"jkt": client.thumbprint()})));
        let wall = world.clock.wall().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self { client, token, middleware, clock, wall }
    }

    /// Claims of a valid proof for a GET of the URL, with changes; null removes one.
    fn claims(&self, changes: &Value) -> Value {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut claims = json!({"jti": format!("id-{id}"), "htm": "GET", "htu": URL, "iat": self.wall,
            "ath": sha256(&self.token)});
        for (name, value) in changes.as_object().unwrap() {
            match value {
                Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
                value => claims[name] = value.clone(),
            }
        }
        claims
    }

    fn proof(&self, changes: &Value) -> String {
        self.client.proof(&self.claims(changes))
    }

    fn request(&self, scheme: &str, proofs: &[&str]) -> Request {
        let builder = HttpRequest::get(URL).header("authorization", format!("{scheme} {}", self.token));
        testing::request(proofs.iter().fold(builder, |builder, proof| builder.header("dpop", *proof)))
    }

    fn send(&self, request: Request) -> Response {
        let service = Service(|_| Response::new(Body::empty()));
        testing::block_on(testing::run(&self.middleware, request, &service))
    }

    #[track_caller]
    fn accepts(&self, proof: &str) {
        let response = self.send(self.request("DPoP", &[proof]));
        assert_eq!(response.status(), 200, "{:?}", response.headers());
    }

    #[track_caller]
    fn refuses(&self, request: Request, error: &str, why: &str) {
        let response = self.send(request);
        let challenges = response.headers().get_all("www-authenticate").iter();
        let challenges: Vec<&str> = challenges.map(|value| value.to_str().unwrap()).collect();
        assert_eq!(response.status(), 401, "{challenges:?}");
        let expected = format!("error=\"{error}\", error_description=\"{why}\"");
        assert!(challenges[0].contains(&expected), "{challenges:?}: expected {expected}");
        assert!(challenges.iter().any(|one| one.starts_with("DPoP ") && one.contains("algs=\"ES256 ")));
    }

    /// A request with this proof.
    #[track_caller]
    fn refuses_proof(&self, proof: &str, why: &str) {
        self.refuses(self.request("DPoP", &[proof]), "invalid_dpop_proof", why);
    }
}

#[test]
fn a_proof_of_the_key_lets_the_token_pass() {
    let case = Case::new();
    case.accepts(&case.proof(&json!({})));
    // Spellings of the scheme and of the URL.
    let other = case.proof(&json!({"htu": "HTTPS://API.test:443/orders/%31?x=1#y"}));
    assert_eq!(case.send(case.request("dpop", &[&other])).status(), 200);
    // `iat` may be a fraction, and other claims are ignored.
    case.accepts(&case.proof(&json!({"iat": case.wall as f64 + 0.5, "nonce": "x", "other": 1})));
}

#[test]
fn a_replayed_proof_is_refused() {
    let case = Case::new();
    let proof = case.proof(&json!({}));
    case.accepts(&proof);
    case.refuses_proof(&proof, "the proof has been used");
    // Another signature of the same content is the same proof: ECDSA has several.
    let claims = case.claims(&json!({}));
    let (one, two) = (case.client.proof(&claims), case.client.proof(&claims));
    assert_ne!(one, two);
    case.accepts(&one);
    case.refuses_proof(&two, "the proof has been used");
    // Until it is too old anyway.
    case.clock.advance(StdDuration::from_secs(89));
    case.refuses_proof(&proof, "the proof has been used");
    case.clock.advance(StdDuration::from_secs(2));
    case.refuses_proof(&proof, "the proof is too old");
}

#[test]
fn a_proof_counts_again_for_nobody_after_a_change_of_options() {
    let (world, clock) = World::stopped();
    let one = Case::within(&world, clock.clone(), DpopOptions::default());
    let proof = one.proof(&json!({}));
    one.accepts(&proof);
    let changed = DpopOptions { max_age: Duration::from_secs(120), ..DpopOptions::default() };
    let two = Case { client: one.client, token: one.token, ..Case::within(&world, clock, changed) };
    two.refuses_proof(&proof, "the proof has been used");
}

#[test]
fn a_proof_for_another_method_is_refused() {
    let case = Case::new();
    for method in ["POST", "get", "GET ", "", "*"] {
        case.refuses_proof(&case.proof(&json!({"htm": method})), "the proof is for another method");
    }
    for wrong in [json!(null), json!(1), json!(["GET"])] {
        case.refuses_proof(&case.proof(&json!({"htm": wrong})), "the proof is malformed");
    }
}

#[test]
fn a_proof_for_another_url_is_refused() {
    let case = Case::new();
    for url in [
        "https://api.test/orders/2",
        "https://api.test/orders/1/",
        "https://api.test/orders%2F1",
        "https://evil.test/orders/1",
        "https://api.test:8443/orders/1",
        "http://api.test/orders/1",
        "https://api.test@evil.test/orders/1",
        "https://user@api.test/orders/1",
        "/orders/1",
        "",
    ] {
        case.refuses_proof(&case.proof(&json!({"htu": url})), "the proof is for another URL");
    }
    case.refuses_proof(&case.proof(&json!({"htu": null})), "the proof is malformed");
}

#[test]
fn the_url_is_that_of_the_client_behind_other_proxies() {
    let case = Case::new();
    let forwarded = |scheme: &str, host: &str, proof: &str| {
        let builder = HttpRequest::get("http://10.0.0.1:8080/orders/1")
            .header("authorization", format!("DPoP {}", case.token))
            .header("dpop", proof);
        testing::request(builder.header("x-forwarded-proto", scheme).header("x-forwarded-host", host))
    };
    for (scheme, host, expected) in [
        ("https", "api.test", 200),
        ("wss", "api.test:443", 200),
        ("http", "api.test", 401),
        ("https", "api.test:8443", 401),
        ("https", "evil.test", 401),
        ("https", "api.test, evil.test", 401),
        ("ftp", "api.test", 401),
    ] {
        let response = case.send(forwarded(scheme, host, &case.proof(&json!({}))));
        assert_eq!(response.status(), expected, "{scheme} {host}");
    }
    // A proxy that changes the origin and the path.
    let public_url = "https://api.test/v1/".to_owned();
    let case = Case::with(DpopOptions { public_url, ..DpopOptions::default() });
    let request = |proof: &str| {
        let builder = HttpRequest::get("http://10.0.0.1:8080/orders/1?x=1")
            .header("authorization", format!("DPoP {}", case.token));
        testing::request(builder.header("dpop", proof))
    };
    let proof = case.proof(&json!({"htu": "https://api.test/v1/orders/1"}));
    assert_eq!(case.send(request(&proof)).status(), 200);
    case.refuses(request(&case.proof(&json!({}))), "invalid_dpop_proof", "the proof is for another URL");
}

#[test]
fn a_proof_of_another_key_is_refused() {
    let (case, other) = (Case::new(), Client::new());
    let proof = other.proof(&case.claims(&json!({})));
    let why = "the token is bound to another key than that of the proof";
    case.refuses(case.request("DPoP", &[&proof]), "invalid_token", why);
    // The right key in the header, and another one that has signed.
    let forged = joined(&case.client.header(), &case.claims(&json!({})), |message| other.sign(message));
    case.refuses_proof(&forged, "the signature of the proof is invalid");
    let unsigned = format!("{}.", forged.rsplit_once('.').unwrap().0);
    case.refuses_proof(&unsigned, "the signature of the proof is invalid");
}

#[test]
fn a_proof_without_the_hash_of_the_token_is_refused() {
    let case = Case::new();
    let other = token(Some(json!({"jkt": case.client.thumbprint(), "x": 1})));
    let padded = format!("{}=", sha256(&case.token));
    for ath in
        [json!(null), json!(""), json!(1), json!(sha256(&other)), json!(padded), json!([sha256(&case.token)])]
    {
        case.refuses_proof(&case.proof(&json!({"ath": ath})), "the proof is not for this token");
    }
}

#[test]
fn symmetric_and_missing_signatures_are_refused() {
    let case = Case::new();
    let why = "the algorithm of the proof is not allowed";
    let claims = case.claims(&json!({}));
    let header = |alg: Value| json!({"typ": "dpop+jwt", "alg": alg, "jwk": case.client.jwk()});
    // The public key as a secret, and a secret in the header.
    let key = hmac::Key::new(hmac::HMAC_SHA256, case.client.jwk().to_string().as_bytes());
    let sign = |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec();
    case.refuses_proof(&joined(&header(json!("HS256")), &claims, sign), why);
    let secret = json!({"typ": "dpop+jwt", "alg": "HS256", "jwk": {"kty": "oct", "k": encoded(SECRET)}});
    case.refuses_proof(&joined(&secret, &claims, sign), why);
    for alg in [json!("none"), json!("None"), json!("NONE"), json!(""), json!(null), json!(["ES256"])] {
        case.refuses_proof(&joined(&header(alg), &claims, |_| Vec::new()), why);
    }
    // Another algorithm than the key's, and one that is not configured.
    case.refuses_proof(&joined(&header(json!("RS256")), &claims, |message| case.client.sign(message)), why);
    let only = DpopOptions { algorithms: vec!["ES256".into(), "EdDSA".into()], ..DpopOptions::default() };
    let narrow = Case::with(only);
    let header = json!({"typ": "dpop+jwt", "alg": "ES384", "jwk": narrow.client.jwk()});
    let proof = joined(&header, &narrow.claims(&json!({})), |message| narrow.client.sign(message));
    narrow.refuses_proof(&proof, why);
}

#[test]
fn a_private_key_in_the_header_is_refused() {
    let case = Case::new();
    for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        let mut header = case.client.header();
        header["jwk"][name] = json!("AAAA");
        let proof = joined(&header, &case.claims(&json!({})), |message| case.client.sign(message));
        case.refuses_proof(&proof, "the key of the proof is not public");
    }
}

#[test]
fn a_proof_that_is_too_old_or_too_new_is_refused() {
    let case = Case::new();
    for (made, why) in [
        (case.wall - 91, "the proof is too old"),
        (0, "the proof is too old"),
        (case.wall + 31, "the proof is not valid yet"),
        (4_000_000_000, "the proof is not valid yet"),
    ] {
        case.refuses_proof(&case.proof(&json!({"iat": made})), why);
    }
    for made in [case.wall - 89, case.wall + 30] {
        case.accepts(&case.proof(&json!({"iat": made})));
    }
    for wrong in [json!(null), json!("1"), json!(case.wall.to_string())] {
        case.refuses_proof(&case.proof(&json!({"iat": wrong})), "the proof is malformed");
    }
}

#[test]
fn two_proofs_and_none_are_refused() {
    let case = Case::new();
    let (one, two) = (case.proof(&json!({})), case.proof(&json!({})));
    case.refuses(
        case.request("DPoP", &[&one, &two]),
        "invalid_dpop_proof",
        "the request has more than one proof",
    );
    case.refuses(case.request("DPoP", &[]), "invalid_dpop_proof", "a proof is required");
    case.refuses_proof(&format!("{one}, {two}"), "the proof is malformed");
    // They are not used up.
    case.accepts(&one);
}

#[test]
fn a_bound_token_is_no_bearer_token() {
    let case = Case::new();
    let why = "the token is bound to a key: expected the scheme DPoP";
    let proof = case.proof(&json!({}));
    case.refuses(case.request("Bearer", &[]), "invalid_token", why);
    case.refuses(case.request("Bearer", &[&proof]), "invalid_token", why);
    // Without the option, it is refused in any case.
    let without = testing::build(Jwt { signing_secret: SECRET.into(), ..Jwt::default() });
    let service = Service(|_| Response::new(Body::empty()));
    for scheme in ["Bearer", "DPoP"] {
        let request = case.request(scheme, &[&proof]);
        assert_eq!(testing::block_on(testing::run(&without, request, &service)).status(), 401);
    }
}

#[test]
fn a_bearer_token_is_no_bound_token() {
    let bearer = token(None);
    for required in [false, true] {
        let case = Case::with(DpopOptions { required, ..DpopOptions::default() });
        let case = Case { token: bearer.clone(), ..case };
        let why = "the token is not bound to a key";
        case.refuses(case.request("DPoP", &[&case.proof(&json!({}))]), "invalid_token", why);
        let request = case.request("Bearer", &[]);
        match required {
            true => case.refuses(request, "invalid_token", why),
            false => assert_eq!(case.send(request).status(), 200),
        }
    }
}

#[test]
fn challenges_name_the_schemes() {
    let challenges = |required: bool| {
        let case = Case::with(DpopOptions { required, ..DpopOptions::default() });
        let response = case.send(testing::get(URL));
        let all = response.headers().get_all("www-authenticate").iter();
        all.map(|value| value.to_str().unwrap().split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(challenges(false), ["Bearer", "DPoP"]);
    assert_eq!(challenges(true), ["DPoP"]);
}

#[test]
fn a_proof_of_another_form_is_refused() {
    let case = Case::new();
    let proof =
        |header: &Value| joined(header, &case.claims(&json!({})), |message| case.client.sign(message));
    let with = |name: &str, value: Value| {
        let mut header = case.client.header();
        header[name] = value;
        proof(&header)
    };
    for typ in [json!("JWT"), json!(null), json!("at+jwt"), json!(1)] {
        case.refuses_proof(&with("typ", typ), "the type of the proof is not dpop+jwt");
    }
    for jwk in
        [json!(null), json!("x"), json!({}), json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"})]
    {
        case.refuses_proof(&with("jwk", jwk), "the key of the proof is not supported");
    }
    case.refuses_proof(&with("crit", json!(["x"])), "the proof is malformed");
    for id in [json!(null), json!(""), json!(1), json!("x".repeat(513))] {
        case.refuses_proof(&case.proof(&json!({"jti": id})), "the proof is malformed");
    }
    let good = case.proof(&json!({}));
    for wrong in ["", "x", "a.b", "a.b.c", &format!("{good}.x"), &good.replace('.', "..")] {
        case.refuses_proof(wrong, "the proof is malformed");
    }
    case.refuses_proof(&case.proof(&json!({"x": "x".repeat(8 * 1024)})), "the proof is malformed");
}

#[test]
fn a_nonce_of_the_gateway_is_required_and_renewed() {
    let nonce = Some(NonceOptions::default());
    let case = Case::with(DpopOptions { nonce, ..DpopOptions::default() });
    let first = case.send(case.request("DPoP", &[&case.proof(&json!({}))]));
    assert_eq!(first.status(), 401);
    let challenge = first.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.contains("error=\"use_dpop_nonce\""), "{challenge}");
    let nonce = first.headers()["dpop-nonce"].to_str().unwrap().to_owned();
    let send = |nonce: &str, wall: u64| {
        case.send(case.request("DPoP", &[&case.proof(&json!({"nonce": nonce, "iat": wall}))]))
    };
    let response = send(&nonce, case.wall);
    assert_eq!((response.status().as_u16(), response.headers().get("dpop-nonce")), (200, None));
    for wrong in ["", "x", &nonce[1..], &format!("{nonce}A")] {
        assert_eq!(send(wrong, case.wall).status(), 401, "{wrong}");
    }
    // It is accepted for another period, in which clients learn the next one.
    case.clock.advance(StdDuration::from_secs(300));
    let response = send(&nonce, case.wall + 300);
    assert_eq!(response.status(), 200);
    let next = response.headers()["dpop-nonce"].to_str().unwrap().to_owned();
    assert_ne!(next, nonce);
    case.clock.advance(StdDuration::from_secs(300));
    assert_eq!(send(&nonce, case.wall + 600).status(), 401);
    assert_eq!(send(&next, case.wall + 600).status(), 200);
}

#[test]
fn gateways_with_one_secret_accept_each_others_nonces() {
    let nonce = |secret: &str| Some(NonceOptions { secret: secret.into(), ..NonceOptions::default() });
    let gateway = |secret: &str| Case::with(DpopOptions { nonce: nonce(secret), ..DpopOptions::default() });
    let (one, two, other) = (gateway(SECRET), gateway(SECRET), gateway("another secret with 32 characters"));
    let first = one.send(one.request("DPoP", &[]));
    let nonce = first.headers()["dpop-nonce"].to_str().unwrap().to_owned();
    two.accepts(&two.proof(&json!({"nonce": nonce})));
    let proof = other.proof(&json!({"nonce": nonce}));
    other.refuses(
        other.request("DPoP", &[&proof]),
        "use_dpop_nonce",
        "the proof needs the nonce of DPoP-Nonce",
    );
}

#[test]
fn too_many_proofs_are_not_forgotten_but_refused() {
    let case = Case::with(DpopOptions { max_remembered: 64, ..DpopOptions::default() });
    let statuses: Vec<u16> = (0..1000)
        .map(|_| case.send(case.request("DPoP", &[&case.proof(&json!({}))])).status().as_u16())
        .collect();
    let passed = statuses.iter().filter(|status| **status == 200).count();
    assert!(passed <= 64 && statuses.iter().all(|status| [200, 503].contains(status)), "{passed}");
    case.clock.advance(StdDuration::from_secs(300));
    case.accepts(&case.proof(&json!({"iat": case.wall + 300})));
}

#[test]
fn predictions_do_not_use_a_proof() {
    let case = Case::new();
    let proof = case.proof(&json!({}));
    let predicted = || case.middleware.predict(case.request("DPoP", &[&proof])).verdict;
    assert!(matches!(predicted(), Verdict::Passes(_)));
    case.accepts(&proof);
    assert!(matches!(predicted(), Verdict::Responds(response) if response.status() == 401));
}

#[test]
fn mistakes_in_options_are_named() {
    for (options, message) in [
        (
            DpopOptions { algorithms: vec!["HS256".into()], ..DpopOptions::default() },
            "dpop.algorithms: `HS256` is not supported",
        ),
        (DpopOptions { max_age: Duration::from_secs(601), ..DpopOptions::default() }, "dpop.maxAge: 10m1s"),
        (
            DpopOptions { public_url: "api.test".into(), ..DpopOptions::default() },
            "dpop.publicURL: invalid URL",
        ),
        (
            DpopOptions { max_remembered: 0, ..DpopOptions::default() },
            "dpop.maxRemembered: expected at least 1",
        ),
        (
            DpopOptions {
                nonce: Some(NonceOptions { secret: "short".into(), ..NonceOptions::default() }),
                ..DpopOptions::default()
            },
            "dpop.nonce.secret: expected at least 32 bytes",
        ),
    ] {
        let jwt = Jwt { signing_secret: SECRET.into(), dpop: Some(options), ..Jwt::default() };
        let error = testing::build_in(&World::default(), jwt).err().unwrap().to_string();
        assert!(error.contains(message), "{error}: expected {message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// No character of header and claims can be changed, left out or added.
    #[test]
    fn a_changed_proof_is_refused(place in any::<prop::sample::Index>(), with in "[A-Za-z0-9._-]{0,2}") {
        let case = Case::new();
        let proof = case.proof(&json!({}));
        let signed = proof.rfind('.').unwrap();
        let at = place.index(signed);
        let changed = format!("{}{with}{}", &proof[..at], &proof[at + 1..]);
        prop_assume!(changed != proof);
        let response = case.send(case.request("DPoP", &[&changed]));
        prop_assert_eq!(response.status(), 401);
        case.accepts(&proof);
    }

    /// Whatever is sent as a proof is refused.
    #[test]
    fn no_text_is_a_proof(text in "[ -~]{0,100}") {
        let case = Case::new();
        prop_assert_eq!(case.send(case.request("DPoP", &[text.trim()])).status(), 401);
    }
}
