//! The examples of RFC 9421 (appendix B), and attacks.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use http::header::{HeaderName, HeaderValue};
use tidegate_core::consumers::Entry;
use tidegate_core::{Body, Clock, Consumer, Consumers, ManualClock, Middleware, Request, Response, Verdict};

use super::{Algorithm, Hmac, HmacKey};
use crate::testing::{self, Service, World, block_on, build_in, run, with_body};

mod older;
mod shared;

const RSA_N: &str = "r4tmm3r20Wd_PbqvP1s2-QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct-Lh1GH45x28Rw3Ry53mm-oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHqgDsznjPFmTOtCEcN2Z1FpWgchwuYLPL-Wokqltd11nqqzi-bJ9cvSKADYdUAAN5WUtzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4aOT9v6d-nb4bnNkQVklLQ3fVAvJm-xdDOp9LCNCN48V2pnDOkFV6-U9nV5oyc6XI2w";
const SHARED: &str =
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const BODY: &str = "{\"hello\": \"world\"}";

fn key(id: &str, secret: &str) -> HmacKey {
    HmacKey { id: id.into(), key: secret.into(), ..HmacKey::default() }
}

fn public(id: &str, key: &str) -> HmacKey {
    HmacKey { id: id.into(), public_key: key.into(), ..HmacKey::default() }
}

/// A middleware whose clock shows this time.
struct Protected {
    world: World,
    clock: Arc<ManualClock>,
    middleware: Arc<dyn Middleware>,
}

impl Protected {
    fn at(created: Option<u64>, options: Hmac) -> Self {
        let (world, clock) = World::stopped();
        let now = now(&world.clock);
        if let Some(created) = created {
            assert!(created >= now, "clocks go forward");
            clock.advance(Duration::from_secs(created - now));
        }
        let middleware = build_in(&world, options).unwrap();
        Self { world, clock, middleware }
    }

    fn new(options: Hmac) -> Self {
        Self::at(None, options)
    }

    fn now(&self) -> u64 {
        now(&self.world.clock)
    }

    fn send(&self, request: Request) -> Response {
        let service = Service(|request: Request| {
            let identity = request.context.identity.clone().unwrap();
            let consumer = identity.consumer.as_ref().map_or("-", |consumer| consumer.short_name());
            let text = format!("{} {} {consumer}", identity.method, identity.subject);
            assert!(request.body.as_bytes().is_some());
            Response::new(Body::full(text))
        });
        block_on(run(&self.middleware, request, &service))
    }

    /// Returns the status, and why a request is refused.
    fn check(&self, request: Request) -> (u16, String) {
        let prediction = self.middleware.predict(request.stand_in());
        let responds = matches!(prediction.verdict, Verdict::Responds(_));
        let status = self.send(request).status().as_u16();
        (status, if responds { prediction.notes.join(", ") } else { String::new() })
    }
}

fn now(clock: &Clock) -> u64 {
    clock.wall().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A request with headers, whose values replace those with the same name.
fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &'static str) -> Request {
    let mut request = with_body(http::Request::builder().method(method).uri(url), body);
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap();
        request.head.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    request
}

fn hmac_sha256(message: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    BASE64_STANDARD.encode(hmac::sign(&key, message.as_bytes()))
}

fn content_digest(body: &str) -> String {
    format!("sha-256=:{}:", BASE64_STANDARD.encode(digest(&SHA256, body.as_bytes())))
}

/// Parameters, the lines that are signed, and further headers of a request.
struct Signing<'a> {
    method: &'a str,
    url: &'a str,
    components: &'a str,
    parameters: String,
    lines: Vec<String>,
    headers: Vec<(&'a str, String)>,
    body: &'static str,
}

impl Signing<'_> {
    /// A GET request that covers what is required.
    fn get(created: u64) -> Self {
        Self {
            method: "GET",
            url: "http://h.test/p?q=1",
            components: r#""@method" "@authority" "@path" "@query""#,
            parameters: format!(r#";created={created};keyid="k""#),
            lines: vec![
                r#""@method": GET"#.into(),
                r#""@authority": h.test"#.into(),
                r#""@path": /p"#.into(),
                r#""@query": ?q=1"#.into(),
            ],
            headers: Vec::new(),
            body: "",
        }
    }

    fn post(created: u64, body: &'static str) -> Self {
        let mut all = Self::get(created);
        let digest = content_digest(body);
        all.method = "POST";
        all.lines[0] = r#""@method": POST"#.into();
        all.lines.push(format!(r#""content-digest": {digest}"#));
        all.components = r#""@method" "@authority" "@path" "@query" "content-digest""#;
        all.headers.push(("content-digest", digest));
        all.body = body;
        all
    }

    fn sign(&self) -> Request {
        let input = format!("({}){}", self.components, self.parameters);
        let base = format!("{}\n\"@signature-params\": {input}", self.lines.join("\n"));
        let signature = format!("s=:{}:", hmac_sha256(&base));
        let input = format!("s={input}");
        let mut headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.extend([("signature-input", input.as_str()), ("signature", signature.as_str())]);
        request(self.method, self.url, &headers, self.body)
    }
}

fn options() -> Hmac {
    Hmac { keys: vec![key("k", SECRET)], ..Hmac::default() }
}

/// The request of appendix B.2 with a signature.
fn example(label: &str, input: &str, signature: &str) -> Request {
    let digest =
        "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:";
    let headers = [
        ("date", "Tue, 20 Apr 2021 02:07:55 GMT"),
        ("content-type", "application/json"),
        ("content-digest", digest),
        ("content-length", "18"),
        ("signature-input", &format!("{label}={input}")),
        ("signature", &format!("{label}=:{signature}:")),
    ];
    request("POST", "https://example.com/foo?param=Value&Pet=dog", &headers, BODY)
}

/// Verifies an example at the time of its signature, which clocks of tests cannot show: it moves the signature's age.
fn example_options(key: HmacKey) -> Hmac {
    Hmac {
        keys: vec![key],
        // Some examples cover little or nothing.
        components: vec!["@signature-params".into()],
        validate_digest: false,
        ..Hmac::default()
    }
}

#[test]
fn the_examples_of_rfc_9421_are_valid() {
    let rsa = format!(r#"{{"kty": "RSA", "n": "{RSA_N}", "e": "AQAB"}}"#);
    let ed = r#"{"kty": "OKP", "crv": "Ed25519", "x": "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs"}"#;
    let shared = HmacKey { base64_encoded: true, ..key("test-shared-secret", SHARED) };
    let pss = || public("test-key-rsa-pss", &rsa);
    for (label, key, input, signature) in [
        (
            "sig-b21",
            pss(),
            r#"();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd""#,
            "d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==",
        ),
        (
            "sig-b22",
            pss(),
            r#"("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example""#,
            "LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTugEjHSw==",
        ),
        (
            "sig-b23",
            pss(),
            r#"("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss""#,
            "bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==",
        ),
        (
            "sig-b25",
            shared,
            r#"("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#,
            "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=",
        ),
        (
            "sig-b26",
            public("test-key-ed25519", ed),
            r#"("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#,
            "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==",
        ),
    ] {
        let id = key.id.clone();
        let verifies = |request: &Request| {
            let inputs = request.head.headers["signature-input"].to_str().unwrap().to_owned();
            let presented =
                super::message::read(request, &inputs, Some(label), |one| one == id, &[]).unwrap();
            assert_eq!((presented.created, &*presented.key_id), (1_618_884_473, &*id));
            let (world, _) = World::stopped();
            let context = tidegate_core::BuildContext::new("m@file", &world);
            key.read(&context).unwrap().verify(&presented)
        };
        let valid = example(label, input, signature);
        assert_eq!(verifies(&valid), Ok(()), "{label}");
        // Another host is another request, where it is covered.
        let mut changed = example(label, input, signature);
        changed.head.headers.insert("host", HeaderValue::from_static("evil.test"));
        assert_eq!(verifies(&changed).is_err(), label != "sig-b21", "{label}");
        let other = format!("{input};x");
        assert!(verifies(&example(label, &other, signature)).is_err(), "{label}: parameters are signed");
        // It is years old.
        let protected = Protected::new(example_options(key.clone()));
        assert_eq!(protected.send(valid).status(), 401);
    }
}

#[test]
fn a_signed_request_passes_once() {
    let mut options = options();
    options.keys[0].consumer = "acme".into();
    let protected = Protected::new(options);
    let consumer = Arc::new(Consumer { name: "acme@file".into(), ..Consumer::default() });
    let signing = Signing::post(protected.now(), BODY);
    assert_eq!(protected.send(signing.sign()).status(), 503, "the consumer is not defined");
    let entry = Arc::new(Entry { consumer, credentials: Vec::new(), is_broken: false });
    protected.world.consumers.store(Arc::new(Consumers::new(&[entry]).0));
    let response = protected.send(signing.sign());
    assert_eq!(response.status(), 200);
    assert_eq!(testing::text(response), "signature k acme");
    let response = protected.send(signing.sign());
    assert_eq!(
        (response.status().as_u16(), &response.headers()["www-authenticate"]),
        (401, &HeaderValue::from_static("Signature realm=\"traefik\""))
    );
    // Later, it is another request.
    protected.clock.advance(Duration::from_secs(1));
    assert_eq!(protected.send(Signing::post(protected.now(), BODY).sign()).status(), 200);
    protected.clock.advance(Duration::from_secs(299));
    assert_eq!(protected.check(signing.sign()), (401, "the signature is too old".into()));
}

#[test]
fn a_nonce_counts_once_for_each_key() {
    let protected = Protected::new(Hmac { require_nonce: true, ..options() });
    let signed = |path: &str, nonce: &str| {
        let mut signing = Signing::get(protected.now());
        let url = format!("http://h.test/{path}?q=1");
        signing.url = &url;
        signing.lines[2] = format!("\"@path\": /{path}");
        signing.parameters = format!("{};nonce=\"{nonce}\"", signing.parameters);
        signing.sign()
    };
    assert_eq!(protected.check(signed("a", "1")), (200, String::new()));
    assert_eq!(protected.check(signed("a", "2")), (200, String::new()));
    assert_eq!(protected.check(signed("b", "1")), (401, "the signature has been used before".into()));
    assert_eq!(protected.check(signed("b", "")), (401, "the signature has no nonce".into()));
    let without = Signing::get(protected.now()).sign();
    assert_eq!(protected.check(without), (401, "the signature has no nonce".into()));
}

#[test]
fn replays_are_noticed_after_a_change_of_the_options() {
    let protected = Protected::new(options());
    let signing = Signing::get(protected.now());
    assert_eq!(protected.send(signing.sign()).status(), 200);
    let changed = Hmac { max_body_bytes: 7, ..options() };
    let middleware = build_in(&protected.world, changed).unwrap();
    let service = Service(|_: Request| Response::new(Body::empty()));
    assert_eq!(block_on(run(&middleware, signing.sign(), &service)).status(), 401);
}

#[test]
fn changed_components_and_bodies_are_refused() {
    let protected = Protected::new(Hmac { max_body_bytes: 64, ..options() });
    let signing = Signing::post(protected.now(), BODY);
    let change = |change: &dyn Fn(&mut Request)| {
        let mut request = signing.sign();
        change(&mut request);
        protected.check(request).0
    };
    assert_eq!(change(&|request| request.head.method = http::Method::PUT), 401);
    for target in ["/p", "/p?q=2", "/p?q=1&q=1", "/P?q=1", "/p/?q=1"] {
        assert_eq!(change(&|request| request.head.uri = target.parse().unwrap()), 401, "{target}");
    }
    for (name, value) in [("host", "evil.test"), ("content-digest", "sha-256=:YQ==:")] {
        assert_eq!(
            change(&|request| drop(request.head.headers.insert(name, HeaderValue::from_static(value)))),
            401,
            "{name}"
        );
        // A second field of the same name, which a service might read instead.
        assert_ne!(
            change(&|request| {
                request.head.headers.append(name, HeaderValue::from_static(value));
            }),
            200,
            "{name}"
        );
    }
    for body in ["", "{\"hello\": \"w0rld\"}", "{\"hello\": \"world\"} "] {
        assert_eq!(change(&|request| request.body = Body::full(body)), 401, "{body}");
    }
    assert_eq!(change(&|request| request.body = Body::full("a".repeat(65))), 413);
    // None of them has used up the signature.
    assert_eq!(protected.send(signing.sign()).status(), 200);
}

#[test]
fn bodies_need_a_signed_digest() {
    let protected = Protected::new(options());
    let mut signing = Signing::get(protected.now());
    signing.body = BODY;
    let refused = "the digest of the body is missing, not covered, or of an unknown algorithm";
    assert_eq!(protected.send(signing.sign()).status(), 401);
    // It is there, but not signed.
    signing.headers.push(("content-digest", content_digest(BODY)));
    assert_eq!(protected.send(signing.sign()).status(), 401);
    let mut unknown = Signing::post(protected.now(), BODY);
    unknown.headers[0].1 = "md5=:YQ==:".into();
    unknown.lines[4] = r#""content-digest": md5=:YQ==:"#.into();
    assert_eq!(protected.check(unknown.sign()), (401, refused.into()));
    let unchecked = Protected::new(Hmac { validate_digest: false, ..options() });
    signing.parameters = Signing::get(unchecked.now()).parameters;
    assert_eq!(unchecked.send(signing.sign()).status(), 200);
}

#[test]
fn required_components_must_be_covered() {
    let protected = Protected::new(options());
    let created = protected.now();
    for (components, lines, expected) in [
        (r#""@method" "@target-uri""#, vec!["\"@method\": GET", "\"@target-uri\": http://h.test/p?q=1"], 200),
        (
            r#""@method" "host" "@request-target""#,
            vec!["\"@method\": GET", "\"host\": h.test", "\"@request-target\": /p?q=1"],
            200,
        ),
        (
            r#""@authority" "@path" "@query""#,
            vec!["\"@authority\": h.test", "\"@path\": /p", "\"@query\": ?q=1"],
            401,
        ),
        (
            r#""@method" "@authority" "@path""#,
            vec!["\"@method\": GET", "\"@authority\": h.test", "\"@path\": /p"],
            401,
        ),
        ("", vec![], 401),
    ] {
        let mut signing = Signing::get(created);
        signing.components = components;
        signing.lines = lines.into_iter().map(str::to_owned).collect();
        assert_eq!(protected.send(signing.sign()).status(), expected, "{components}");
    }
    // A component twice, missing, unsupported, or in upper case.
    for (name, why) in [
        (r#""@method""#, "malformed"),
        (r#""x-missing""#, "missing"),
        (r#""@status""#, "supported"),
        (r#""@method";req"#, "supported"),
        (r#""host";sf"#, "supported"),
        (r#""Host""#, "malformed"),
        (r#""@query-param";name="x""#, "missing"),
    ] {
        let mut signing = Signing::get(created);
        let components = format!("{} {name}", signing.components);
        signing.components = &components;
        let (status, note) = protected.check(signing.sign());
        assert!(status >= 400 && note.contains(why), "{name}: {status} {note}");
    }
}

#[test]
fn times_are_checked() {
    let protected = Protected::new(options());
    protected.clock.advance(Duration::from_secs(1000));
    let now = protected.now();
    for (parameters, why) in [
        (format!(";created={};keyid=\"k\"", now + 30), ""),
        (format!(";created={};keyid=\"k\"", now - 299), ""),
        (format!(";created={now};expires={};keyid=\"k\"", now + 1), ""),
        (format!(";created={};keyid=\"k\"", now + 31), "the signature is from the future"),
        (format!(";created={};keyid=\"k\"", now - 300), "the signature is too old"),
        (format!(";created={now};expires={now};keyid=\"k\""), "the signature is too old"),
        (";keyid=\"k\"".into(), "the signature does not say when it was made"),
        (format!(";expires={};keyid=\"k\"", now + 9), "the signature does not say when it was made"),
        (format!(";created=\"{now}\";keyid=\"k\""), "malformed"),
        (format!(";created={now};keyid=k"), "the key is unknown"),
        (format!(";created={now}"), "the key is unknown"),
        (format!(";created={now};keyid=\"other\""), "the key is unknown"),
    ] {
        let signing = Signing { parameters, ..Signing::get(now) };
        let (status, note) = protected.check(signing.sign());
        assert_eq!(
            (status == 200, note.contains(why)),
            (why.is_empty(), true),
            "{}: {note}",
            signing.parameters
        );
    }
}

#[test]
fn the_key_decides_on_the_algorithm() {
    let rsa = format!(r#"{{"kty": "RSA", "n": "{RSA_N}", "e": "AQAB"}}"#);
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let point = &pair.public_key().as_ref()[1..];
    let [x, y] = [&point[..48], &point[48..]].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let ec = format!(r#"{{"kty": "EC", "crv": "P-384", "x": "{x}", "y": "{y}"}}"#);
    let mut options = options();
    options.keys.extend([public("rsa", &rsa), public("ec", &ec)]);
    let protected = Protected::new(options);
    let now = protected.now();
    // The public key as a secret, and other algorithms than the key's.
    for (id, algorithm) in [
        ("k", "rsa-pss-sha512"),
        ("k", "hmac-sha512"),
        ("k", "none"),
        ("k", "HMAC-SHA256"),
        ("rsa", "hmac-sha256"),
        ("rsa", "rsa-v1_5-sha256"),
        ("ec", "hmac-sha256"),
        ("ec", "ecdsa-p256-sha256"),
    ] {
        let parameters = format!(";created={now};keyid=\"{id}\";alg=\"{algorithm}\"");
        let signing = Signing { parameters, ..Signing::get(now) };
        let (status, note) = protected.check(signing.sign());
        assert_eq!((status, &*note), (401, "the algorithm is not that of the key"), "{id} {algorithm}");
    }
    let signing = Signing { parameters: format!(";created={now};keyid=\"rsa\""), ..Signing::get(now) };
    assert_eq!(protected.check(signing.sign()), (401, "the signature is invalid".into()));
    // ECDSA has several signatures for one message: the message is what counts once.
    let signing = Signing { parameters: format!(";created={now};keyid=\"ec\""), ..Signing::get(now) };
    let base = format!(
        "{}\n\"@signature-params\": ({}){}",
        signing.lines.join("\n"),
        signing.components,
        signing.parameters
    );
    for expected in [200, 401] {
        let signature = pair.sign(&SystemRandom::new(), base.as_bytes()).unwrap();
        let signature = format!("s=:{}:", BASE64_STANDARD.encode(signature));
        let mut request = signing.sign();
        request.head.headers.insert("signature", signature.parse().unwrap());
        assert_eq!(protected.send(request).status(), expected);
    }
}

#[test]
fn labels_are_unambiguous() {
    let protected = Protected::new(options());
    let signing = Signing::get(protected.now());
    let with = |name: &'static str, change: &dyn Fn(&str) -> String| {
        let mut request = signing.sign();
        let value = request.head.headers[name].to_str().unwrap().to_owned();
        request.head.headers.insert(name, change(&value).parse().unwrap());
        protected.check(request).0
    };
    let input = &|value: &str| format!("{value}, {value}");
    assert_eq!([with("signature-input", input), with("signature", input)], [400, 400], "one label twice");
    let renamed = &|value: &str| format!("{value}, t{}", &value[1..]);
    assert_eq!(with("signature-input", renamed), 400, "two signatures of known keys");
    assert_eq!(with("signature", &|value| format!("t{}", &value[1..])), 400, "no such signature");
    // Two fields are one list.
    let mut request = signing.sign();
    let again = request.head.headers["signature-input"].clone();
    request.head.headers.append("signature-input", again);
    assert_eq!(protected.check(request).0, 400);
    // Those of proxies in front have other keys.
    let foreign = &|value: &str| format!("proxy=(\"@status\");keyid=\"proxy\", {value}");
    assert_eq!(with("signature-input", foreign), 200);
    let labelled = Protected::new(Hmac { label: "other".into(), ..options() });
    assert_eq!(labelled.check(signing.sign()), (401, "a signature is required".into()));
}

#[test]
fn mistakes_are_named_without_secrets() {
    let mut short = key("a", "too short");
    short.consumer = "x".into();
    let wrong = Hmac {
        keys: vec![
            short,
            key("", SECRET),
            key("b", SECRET),
            key("b", SECRET),
            HmacKey { algorithm: Algorithm::Ed25519.into(), ..key("c", SECRET) },
            public("d", "-----BEGIN X-----"),
        ],
        max_age: tidegate_core::values::Duration::from_secs(0),
        forms: vec!["rfc".into()],
        ..Hmac::default()
    };
    let message = build_in(&World::default(), wrong).err().unwrap().to_string();
    for part in [
        "maxAge: 0s: expected 1s to 1h",
        "forms[0]: ",
        "keys[0].key: the secret has 9 bytes: expected at least 32",
        "keys[1].id: required",
        "keys[3].id: `b` is listed twice",
        "keys[4].algorithm: not possible with this key",
        "keys[5].publicKey: ",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(!message.contains("too short") && !message.contains(SECRET), "{message}");
    let shown = serde_json::to_string(&options()).unwrap();
    assert!(shown.contains("xxxx") && !shown.contains(SECRET), "{shown}");
}
