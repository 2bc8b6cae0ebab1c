//! Attacks on the middleware `jwt`. None of them reaches the service.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::tokens::*;
use crate::support::{Backend, Client, eventually, get, get_with};

#[test]
fn no_algorithm_in_any_spelling() {
    let issuer = Issuer::start();
    for protected in [
        Protected::remote(&issuer, ""),
        Protected::new(&format!("publicKey: {}", json!(OWN.rsa_pem()))),
        Protected::new(&format!("signingSecret: '{}'", std::str::from_utf8(SECRET).unwrap())),
    ] {
        for name in ["none", "None", "NONE", "nOnE", "NoNe", "", " none", "none ", "null", "n\u{6f}ne"] {
            let message = unsigned(&json!({"alg": name, "kid": "rsa"}), &claims(&json!({})));
            for signature in ["", "AA", &BASE64_URL_SAFE_NO_PAD.encode(OWN.sign("RS256", message.as_bytes()))]
            {
                protected.refuses(&format!("{message}.{signature}"), ALGORITHM);
            }
        }
        for header in
            [json!({"kid": "rsa"}), json!({"alg": null}), json!({"alg": ["none"]}), json!({"alg": 0})]
        {
            let token = format!("{}.", unsigned(&header, &claims(&json!({}))));
            protected.refuses(&token, "the token is malformed");
        }
        // A valid algorithm with no signature at all.
        let message = unsigned(&json!({"alg": "RS256", "kid": "rsa"}), &claims(&json!({})));
        assert_eq!(protected.send(&format!("{message}.")).status, 401);
        assert_eq!(protected.send(&message).status, 401);
    }
}

#[test]
fn hmac_with_the_public_key() {
    let issuer = Issuer::start();
    let (remote, pinned) =
        (Protected::remote(&issuer, ""), Protected::new(&format!("publicKey: {}", json!(OWN.rsa_pem()))));
    let der = AsDer::<PublicKeyX509Der<'_>>::as_der(OWN.rsa.public_key()).unwrap();
    let jwk = OWN.jwk("RS", "rsa").to_string();
    let pem = OWN.rsa_pem();
    let secrets = [
        pem.as_bytes(),
        pem.trim_end().as_bytes(),
        der.as_ref(),
        OWN.rsa.public_key().as_ref(),
        jwk.as_bytes(),
    ];
    for secret in secrets {
        for (name, algorithm) in
            [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
        {
            let message = unsigned(&json!({"alg": name, "kid": "rsa"}), &claims(&json!({})));
            let signature = hmac::sign(&hmac::Key::new(algorithm, secret), message.as_bytes());
            let token = format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
            remote.refuses(&token, ALGORITHM);
            pinned.refuses(&token, ALGORITHM);
        }
    }
    // A secret in a set that anyone can fetch is no key.
    let published = signed_by(&OWN, "HS256", &json!({"alg": "HS256", "kid": "oct"}), &claims(&json!({})));
    remote.refuses(&published, UNKNOWN);
}

#[test]
fn another_algorithm_than_the_keys() {
    let issuer = Issuer::start();
    let mut bound = OWN.jwk("RS", "rsa");
    bound["alg"] = "RS256".into();
    issuer.publish(&json!({"keys": [bound, OWN.jwk("P-256", "p256")]}).to_string());
    let protected = Protected::remote(&issuer, "");
    protected.accepts(&token(&json!({})));
    for (algorithm, kid) in [
        ("RS384", "rsa"),
        ("PS256", "rsa"),
        ("ES256", "rsa"),
        ("EdDSA", "p256"),
        ("ES384", "p256"),
        ("RS256", "p256"),
    ] {
        let header = json!({"alg": algorithm, "kid": kid});
        protected.refuses(&signed_by(&OWN, algorithm, &header, &claims(&json!({}))), ALGORITHM);
    }
    // The header names one algorithm, and another has signed.
    let message = unsigned(&json!({"alg": "RS256", "kid": "rsa"}), &claims(&json!({})));
    let signature = BASE64_URL_SAFE_NO_PAD.encode(OWN.sign("PS256", message.as_bytes()));
    protected.refuses(&format!("{message}.{signature}"), SIGNATURE);
}

#[test]
fn foreign_key_and_changed_claims() {
    let issuer = Issuer::start();
    let protected = Protected::remote(&issuer, "");
    let sign =
        |kid: Value| signed_by(&FOREIGN, "RS256", &json!({"alg": "RS256", "kid": kid}), &claims(&json!({})));
    for kid in ["other", "RSA", "rsa ", "../../dev/null", "' OR 1=1", ""] {
        protected.refuses(&sign(kid.into()), UNKNOWN);
    }
    protected.refuses(&sign(json!({"a": 1})), "the token is malformed");
    protected.refuses(&sign("rsa".into()), SIGNATURE);
    let valid = token(&json!({}));
    protected.accepts(&valid);
    let (header, rest) = valid.split_once('.').unwrap();
    let signature = rest.split_once('.').unwrap().1;
    let changed = BASE64_URL_SAFE_NO_PAD.encode(claims(&json!({"sub": "root"})).to_string());
    protected.refuses(&format!("{header}.{changed}.{signature}"), SIGNATURE);
    // The same signature in another spelling does not make another valid token.
    for text in [format!("{valid}="), format!("{valid}=="), valid.replace('_', "/").replace('-', "+") + "+"] {
        assert_eq!(protected.send(&text).status, 401, "{text}");
    }
}

#[test]
fn keys_in_the_header() {
    let issuer = Issuer::start();
    let evil = Backend::bytes({
        let body = json!({"keys": [FOREIGN.jwk("RS", "rsa"), FOREIGN.jwk("RS", "evil")]}).to_string();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    });
    let protected = Protected::remote(&issuer, "");
    let url = format!("{}/keys", evil.url());
    for (name, value) in [
        ("jwk", FOREIGN.jwk("RS", "evil")),
        ("jku", json!(url)),
        ("x5u", json!(url)),
        ("x5c", json!([BASE64_STANDARD.encode(FOREIGN.rsa.public_key().as_ref())])),
    ] {
        for (kid, why) in [("rsa", SIGNATURE), ("evil", UNKNOWN)] {
            let header = json!({"alg": "RS256", "kid": kid, name: value});
            protected.refuses(&signed_by(&FOREIGN, "RS256", &header, &claims(&json!({}))), why);
        }
        // They are ignored where the key is right.
        let header = json!({"alg": "RS256", "kid": "rsa", name: value});
        protected.accepts(&signed_by(&OWN, "RS256", &header, &claims(&json!({}))));
    }
    assert_eq!(evil.connections(), 0);
}

#[test]
fn critical_extensions_types_and_encryption() {
    let issuer = Issuer::start();
    let protected = Protected::remote(&issuer, "");
    let with = |name: &str, value: Value| {
        let header = json!({"alg": "RS256", "kid": "rsa", name: value});
        signed_by(&OWN, "RS256", &header, &claims(&json!({})))
    };
    for value in [json!(["exp"]), json!(["b64"]), json!([]), json!(null), json!("x")] {
        protected.refuses(&with("crit", value), "the token has critical extensions, which are not supported");
    }
    for typ in ["logout+jwt", "dpop+jwt", "secevent+jwt", ""] {
        protected.refuses(&with("typ", typ.into()), "the type of the token is not accepted");
    }
    let encrypted = "the token is encrypted, which is not supported";
    protected.refuses("eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..a.b.c", encrypted);
    protected.refuses(&with("enc", "A128GCM".into()), encrypted);
}

#[test]
fn times_audience_and_issuer() {
    let issuer = Issuer::start();
    let protected = Protected::remote(&issuer, "");
    let time = now();
    for (changes, why) in [
        (json!({"exp": time - 31}), "the token is expired"),
        (json!({"exp": 0}), "the token is expired"),
        (json!({"exp": null}), "the token has no expiry"),
        (json!({"exp": "9999999999"}), "the token is malformed"),
        (json!({"nbf": time + 90}), "the token is not valid yet"),
        (json!({"iat": time + 90}), "the token is not valid yet"),
        (json!({"nbf": "0"}), "the token is malformed"),
        (json!({"aud": "other"}), "the token is for another audience"),
        (json!({"aud": ["other", "API"]}), "the token is for another audience"),
        (json!({"aud": null}), "the token is for another audience"),
        (json!({"iss": "https://other.test"}), "the issuer of the token is not trusted"),
        (json!({"iss": format!("{ISSUER}/")}), "the issuer of the token is not trusted"),
        (json!({"iss": [ISSUER]}), "the issuer of the token is not trusted"),
        (json!({"iss": null}), "the issuer of the token is not trusted"),
    ] {
        protected.refuses(&token(&changes), why);
    }
    protected.accepts(&token(&json!({"exp": time - 10, "nbf": time + 10, "aud": ["x", "api"]})));
    let relaxed = Protected::remote(&issuer, ", requireExpiration: false, leeway: 0s");
    relaxed.accepts(&token(&json!({"exp": null})));
    relaxed.refuses(&token(&json!({"exp": time - 1})), "the token is expired");
    // A token that is verified and cached expires, too.
    let short = token(&json!({"exp": now() + 2}));
    relaxed.accepts(&short);
    eventually("it expires", || relaxed.send(&short).status == 401);
    relaxed.refuses(&short, "the token is expired");
}

#[test]
fn several_tokens() {
    let issuer = Issuer::start();
    let protected = Protected::remote(&issuer, ", tokenQueryKey: token");
    let (valid, web) = (token(&json!({})), protected.gateway.web());
    let line = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (path, headers) in [
        ("/", line(&valid) + &line(&valid)),
        ("/", line("a.b.c") + &line(&valid)),
        ("/", line(&valid) + "Authorization: Basic YW5uOnRlc3Q=\r\n"),
        (&*format!("/?token={valid}"), line(&valid)),
        (&*format!("/?token={valid}&token={valid}"), String::new()),
    ] {
        let answer = get_with(web, "h", path, &headers);
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.header("www-authenticate").unwrap().contains("error=\"invalid_request\""));
    }
    let joined = get_with(web, "h", "/", &format!("Authorization: Bearer {valid}, Bearer {valid}\r\n"));
    assert_eq!(joined.status, 401);
    assert!(protected.service.seen().is_empty());
}

#[test]
fn token_in_the_query() {
    let issuer = Issuer::start();
    let valid = token(&json!({}));
    let path = format!("/x?a=1&token={valid}&b=%2F");
    let by_default = Protected::remote(&issuer, "");
    assert_eq!(get(by_default.gateway.web(), "h", &path).status, 401);
    assert!(by_default.service.seen().is_empty());
    let asked_for = Protected::remote(&issuer, ", tokenQueryKey: token, stripAuthorizationHeader: true");
    assert_eq!(get(asked_for.gateway.web(), "h", &path).status, 200);
    assert_eq!(asked_for.service.last().target(), "/x?a=1&b=%2F");
    assert_eq!(get(asked_for.gateway.web(), "h", &format!("/y?token={valid}")).status, 200);
    assert_eq!(asked_for.service.last().target(), "/y");
    asked_for.accepts(&valid);
    assert_eq!(asked_for.service.last().header("authorization"), None);
}

#[test]
fn long_tokens() {
    let issuer = Issuer::start();
    let protected = Protected::remote(&issuer, "");
    protected.accepts(&token(&json!({"x": "a".repeat(8_000)})));
    protected.refuses(&token(&json!({"x": "a".repeat(13_000)})), "the token is too long");
    let seen = protected.service.seen().len();
    let status = protected.send(&token(&json!({"x": "a".repeat(49_000)}))).status;
    assert!([401, 431].contains(&status), "{status}");
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
    let nested =
        format!("{}.{}.AA", part(r#"{"alg":"RS256","kid":"rsa"}"#), part(&format!(r#"{{"x":{deep}}}"#)));
    protected.refuses(&nested, "the token is malformed");
    assert_eq!(protected.service.seen().len(), seen);
}

#[test]
fn headers_by_claims_and_by_clients() {
    let issuer = Issuer::start();
    let options = ", optional: true, forwardHeaders: {X-User: sub, X-Groups: groups, X-Mail: email}";
    let protected = Protected::remote(&issuer, options);
    for claim in [
        json!("a\r\nX-Admin: 1"),
        json!("a\nb"),
        json!("a\u{0}b"),
        json!("a\u{7f}"),
        json!("a\u{85}b"),
        json!({"a": 1}),
        json!(["a,b"]),
        json!(["a", "b\r\nX: 1"]),
        json!("x".repeat(9_000)),
    ] {
        protected
            .refuses(&token(&json!({"email": claim})), "a claim of the token cannot be sent in a header");
    }
    let spoofed =
        "X-User: root\r\nx-groups: admin\r\nX_User: root\r\nX-Mail: a\r\nX.Mail: b\r\nX-MAIL: c\r\n";
    let bearer = format!("Authorization: Bearer {}\r\n{spoofed}", token(&json!({"groups": ["ops", "dev"]})));
    assert_eq!(get_with(protected.gateway.web(), "h", "/", &bearer).status, 200);
    let seen = protected.service.last();
    assert_eq!((seen.headers("x-user"), seen.headers("x-groups")), (vec!["ann"], vec!["ops,dev"]));
    assert!(!seen.head.to_lowercase().contains("mail") && !seen.head.contains("root"), "{}", seen.head);
    // Without a token, nobody is anybody.
    assert_eq!(get_with(protected.gateway.web(), "h", "/", spoofed).status, 200);
    let seen = protected.service.last();
    assert!(!["root", "admin", "ail"].iter().any(|text| seen.head.contains(text)), "{}", seen.head);
    // A wrong token is not the same as none.
    assert_eq!(protected.send("a.b.c").status, 401);
}

#[test]
fn endless_keys() {
    let (ended, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (note, count) = (ended.clone(), sent.clone());
    let server = Backend::with(move |_, stream| {
        let mut fine =
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n{\"keys\":[").is_ok();
        while fine && count.load(Ordering::SeqCst) < 160 {
            fine = stream.write_all(&[b' '; 65_536]).is_ok();
            count.fetch_add(1, Ordering::SeqCst);
        }
        note.store(true, Ordering::SeqCst);
        false
    });
    let chunked = Backend::with(|_, stream| {
        let mut fine = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_ok();
        for _ in 0..160 {
            fine = fine && write!(stream, "10000\r\n{}\r\n", " ".repeat(65_536)).is_ok();
        }
        false
    });
    for url in [server.url(), chunked.url()] {
        let protected = Protected::new(&format!("jwksUrl: '{url}', issuer: '{ISSUER}', audience: [api]"));
        let answer = protected.send(&token(&json!({})));
        assert_eq!(answer.status, 503);
        assert!(answer.header("retry-after").is_some());
        assert_eq!(reason(&protected.gateway), "authentication_unavailable");
    }
    eventually("the server is done", || ended.load(Ordering::SeqCst));
    assert!(sent.load(Ordering::SeqCst) < 160, "the gateway has read 10 MB");
}

#[test]
fn hanging_keys() {
    let server = Backend::with(|_, _| {
        loop {
            std::thread::park();
        }
    });
    let url = server.url();
    let options =
        format!("jwksUrl: '{url}', issuer: '{ISSUER}', audience: [api], clientConfig: {{timeoutSeconds: 1}}");
    let protected = Protected::new(&options);
    let start = Instant::now();
    let valid = token(&json!({}));
    assert_eq!(protected.send(&valid).status, 503);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // Once an attempt has failed, nobody waits for the next.
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(protected.send(&valid).status, 503);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(server.seen().len() < 5, "{}", server.seen().len());
}

/// Sends `count` requests, each with another unknown `kid`, on one connection.
fn unknown_keys(address: SocketAddr, first: usize, count: usize) {
    let mut client = Client::connect(address);
    for number in first..first + count {
        let header = json!({"alg": "RS256", "kid": format!("k{number}")});
        let token = format!("{}.c2ln", unsigned(&header, &claims(&json!({}))));
        client.send(format!("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\n\r\n"));
        assert_eq!(client.read().unwrap().status, 401);
    }
}

#[test]
fn a_thousand_unknown_keys_cause_one_fetch() {
    let issuer = Issuer::start();
    let protected = Protected::remote(&issuer, "");
    protected.accepts(&token(&json!({})));
    assert_eq!(issuer.server.seen().len(), 1);
    let address = protected.gateway.web();
    let clients: Vec<_> =
        (0..8).map(|client| std::thread::spawn(move || unknown_keys(address, client * 125, 125))).collect();
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(issuer.server.seen().len(), 2);
    protected.accepts(&token(&json!({})));
}
