//! The middleware `hmac` on a real connection. Its attacks are in `middlewares/src/hmac/tests.rs`.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::support::tokens::{OWN, now, pem, reason};
use crate::support::{Answer, Backend, Gateway, eventually, raw};

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct Protected {
    service: Backend,
    gateway: Gateway,
}

impl Protected {
    fn new(options: &str) -> Self {
        let service = Backend::echo("a");
        let gateway = Gateway::with(&[], &routes(options, &service.url()));
        assert_eq!(gateway.problems(), Vec::<String>::new());
        Self { service, gateway }
    }

    fn send(&self, request: &str) -> Answer {
        raw(self.gateway.web(), request).unwrap()
    }
}

fn routes(options: &str, url: &str) -> String {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::signature::KeyPair as _;

    let ed = pem(AsDer::<PublicKeyX509Der<'_>>::as_der(OWN.ed.public_key()).unwrap().as_ref());
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m, ops]}}
  middlewares:
    m: {{hmac: {{keys: [{{id: shop, key: {SECRET}, consumer: acme}}, {{id: ed, consumer: acme, publicKey: {}}}]{options}}}}}
    ops: {{access: {{allow: 'Group(`ops`)'}}}}
  consumers:
    acme: {{groups: [ops]}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
",
        serde_json::json!(ed)
    )
}

fn hmac_of(message: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), message.as_bytes()).as_ref().to_vec()
}

/// A request that is signed with RFC 9421, by its target and nonce.
pub fn signed(key: &str, target: &str, nonce: &str, body: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let digest = BASE64_STANDARD.encode(digest(&SHA256, body.as_bytes()));
    let input = format!(
        "(\"@method\" \"@authority\" \"@path\" \"@query\" \"content-digest\");created={};keyid=\"{key}\";nonce=\"{nonce}\"",
        now()
    );
    let base = format!(
        "\"@method\": POST\n\"@authority\": h.test\n\"@path\": {path}\n\"@query\": ?{query}\n\
         \"content-digest\": sha-256=:{digest}:\n\"@signature-params\": {input}"
    );
    let signature = if key == "ed" { OWN.sign("EdDSA", base.as_bytes()) } else { hmac_of(&base) };
    format!(
        "POST {target} HTTP/1.1\r\nHost: H.test:80\r\nContent-Digest: sha-256=:{digest}:\r\nSignature-Input: sig1={input}\r\n\
         Signature: sig1=:{}:\r\nContent-Length: {}\r\n\r\n{body}",
        BASE64_STANDARD.encode(signature),
        body.len()
    )
}

#[test]
fn signed_requests_pass_with_their_body_and_the_groups_of_the_consumer() {
    let protected = Protected::new("");
    for (number, target) in ["/", "/a%20b/%C3%A4?x=1&y=%2F", "/p?", "/p?a+b=c+d;e"].into_iter().enumerate() {
        for key in ["shop", "ed"] {
            let request = signed(key, target, &number.to_string(), "{\"amount\": 1}");
            let answer = protected.send(&request);
            assert_eq!(answer.status, 200, "{key} {target}");
            assert_eq!(protected.service.last().body, b"{\"amount\": 1}");
            assert_eq!(protected.send(&request).status, 401, "sent again");
            assert_eq!(reason(&protected.gateway), "unauthenticated");
        }
    }
    let sent = protected.service.seen().len();
    let request = signed("shop", "/", "x", "{\"amount\": 1}");
    assert_eq!(protected.send(&request.replace("amount\": 1", "amount\": 9")).status, 401);
    assert_eq!(protected.send(&request.replace("POST /", "POST /admin")).status, 401);
    // A folded field is refused before anything is compared.
    assert_eq!(protected.send(&request.replace("created=", "\r\n created=")).status, 400);
    assert_eq!(protected.send("GET / HTTP/1.1\r\nHost: h.test\r\n\r\n").status, 401);
    assert_eq!(protected.service.seen().len(), sent);
    assert_eq!(protected.send(&request).status, 200, "nothing of this has used it up");
    let shown = protected.gateway.api("/api/http/middlewares/m@file");
    assert!(shown.contains("xxxx") && !shown.contains(SECRET), "{shown}");
}

#[test]
fn a_signature_counts_once_after_a_change_of_the_options() {
    let protected = Protected::new("");
    let request = signed("shop", "/", "1", "a");
    assert_eq!(protected.send(&request).status, 200);
    let generation = protected.gateway.generation();
    protected.gateway.write("routes.yml", &routes(", maxAge: 4m", &protected.service.url()));
    eventually("the options are applied", || protected.gateway.generation() > generation);
    assert_eq!(protected.send(&request).status, 401);
    assert_eq!(protected.send(&signed("shop", "/", "2", "a")).status, 200);
}

/// Routes whose middleware accepts the keys of consumers.
pub fn routes_of_consumers(url: &str, more: &str, credentials: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m, ops]}}
  middlewares:
    m: {{hmac: {{{more}}}}}
    ops: {{access: {{allow: 'Group(`ops`)'}}}}
  consumers:
    acme: {{groups: [ops], credentials: {{hmac: [{credentials}]}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
    )
}

#[test]
fn keys_of_consumers_come_from_the_configuration_or_from_a_file() {
    let (service, folder) = (Backend::echo("a"), tempfile::tempdir().unwrap());
    let file = folder.path().join("secret");
    std::fs::write(&file, "another secret of thirty-two bytes\n").unwrap();
    let credentials = format!("{{id: shop, keyFile: '{}'}}, {{id: other, key: {SECRET}}}", file.display());
    let gateway = Gateway::serve(&routes_of_consumers(&service.url(), "", &credentials));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let nonce = std::cell::Cell::new(0);
    let ask = |key: &str| {
        nonce.set(nonce.get() + 1);
        raw(gateway.web(), signed(key, "/", &nonce.get().to_string(), "a")).unwrap().status
    };
    assert_eq!((ask("other"), ask("shop"), ask("stranger")), (200, 401, 401));
    // The file is watched.
    std::fs::write(&file, SECRET).unwrap();
    eventually("the new secret counts", || ask("shop") == 200);
    let shown = gateway.api("/api/http/consumers/acme@file");
    assert!(shown.contains("xxxx") && !shown.contains(SECRET), "{shown}");
    std::fs::write(&file, "short").unwrap();
    eventually("the consumer is closed", || ask("other") == 503);
    assert_eq!(ask("shop"), 401, "its secret is not known");
    let problems = gateway.problems().join("; ");
    assert!(problems.contains("credentials.hmac[0].keyFile: the secret has 5 bytes"), "{problems}");
}

#[test]
fn a_client_of_kong_is_understood() {
    let protected = Protected::new(", enforcedHeaders: [date, request-line]");
    let date = httpdate::fmt_http_date(std::time::SystemTime::now());
    let signature = BASE64_STANDARD.encode(hmac_of(&format!("date: {date}\nGET /p?q=1 HTTP/1.1")));
    let request = format!(
        "GET /p?q=1 HTTP/1.1\r\nHost: h.test\r\nDate: {date}\r\nAuthorization: hmac username=\"shop\", \
         algorithm=\"hmac-sha256\", headers=\"date request-line\", signature=\"{signature}\"\r\n\r\n"
    );
    assert_eq!(protected.send(&request.replace("q=1", "q=2")).status, 401);
    assert_eq!(protected.send(&request).status, 200);
    let records = protected.gateway.api("/api/requests");
    assert!(records.contains("/p") && !records.contains(&signature), "{records}");
}
