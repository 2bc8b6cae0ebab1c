//! Attacks on the middleware `apiKey`. None of them reaches the service.

use tidegate_middlewares::api_key::key::NewKey;

use crate::api_key::{reason, routes};
use crate::support::keys::Key;
use crate::support::{Answer, Backend, Gateway, get, get_with};

/// A gateway with the key of one consumer.
struct Protected {
    gateway: Gateway,
    service: Backend,
    key: Key,
}

impl Protected {
    fn new(options: &str) -> Self {
        Self::with(options, &[], "")
    }

    fn with(options: &str, flags: &[&str], of_key: &str) -> Self {
        let (service, key) = (Backend::echo("a"), Key::new());
        let text = routes(options, &key.consumer("ann", of_key), &service.url());
        let gateway = Gateway::with(flags, &text);
        assert_eq!(gateway.problems(), Vec::<String>::new());
        Self { gateway, service, key }
    }

    fn send(&self, target: &str, headers: &str) -> Answer {
        get_with(self.gateway.web(), "h", target, headers)
    }

    /// Checks that a request is refused for this reason, that the client learns nothing, and that the service sees
    /// nothing.
    #[track_caller]
    fn refuses(&self, target: &str, headers: &str, why: &str) {
        let before = self.service.seen().len();
        let answer = self.send(target, headers);
        assert_eq!((answer.status, &*reason(&self.gateway)), (401, why), "{target} {headers}");
        assert_eq!(answer.text(), "401 Unauthorized\n");
        assert_eq!(self.service.seen().len(), before);
    }
}

#[test]
fn a_key_in_the_query_that_is_not_asked_for() {
    let protected = Protected::new("");
    let text = protected.key.text.clone();
    for name in ["X-API-Key", "x-api-key", "api_key", "apikey", "key", "access_token"] {
        protected.refuses(&format!("/?{name}={text}"), "", "unauthenticated");
    }
    for cookie in ["X-API-Key", "api_key"] {
        protected.refuses("/", &format!("Cookie: {cookie}={text}\r\n"), "unauthenticated");
    }
    protected.refuses("/", &format!("Authorization: Bearer {text}\r\n"), "unauthenticated");
    protected.refuses("/", &format!("X_API_Key: {text}\r\n"), "unauthenticated");
    // Where it is asked for, it does not reach the service.
    let asked = Protected::new("keySource: {query: api_key}");
    assert_eq!(asked.send(&format!("/p?a=1&api_key={}&b=2", asked.key.text), "").status, 200);
    assert_eq!(asked.service.last().target(), "/p?a=1&b=2");
}

#[test]
fn two_credentials_in_one_request() {
    let protected =
        Protected::new("keySource: {header: Authorization, headerAuthScheme: Bearer, cookie: k, query: q}");
    let (text, other) = (protected.key.text.clone(), Key::new().text);
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
    for headers in [
        format!("{}{}", bearer(&text), bearer(&text)),
        format!("{}{}", bearer(&other), bearer(&text)),
        format!("{}Authorization: Basic YTpi\r\n", bearer(&text)),
        format!("Authorization: Basic YTpi\r\n{}", bearer(&text)),
        format!("{}Cookie: k={text}\r\n", bearer(&text)),
        format!("Cookie: k={text}; k={other}\r\n"),
        format!("Cookie: k={text}\r\nCookie: k={other}\r\n"),
        format!("Authorization: Bearer {text}, Bearer {other}\r\n"),
    ] {
        protected.refuses("/", &headers, "api_key_malformed");
    }
    protected.refuses(&format!("/?q={text}&q={other}"), "", "api_key_malformed");
    protected.refuses(&format!("/?q={text}&%71={text}"), "", "api_key_malformed");
    protected.refuses(&format!("/?q={text}"), &bearer(&text), "api_key_malformed");
    assert_eq!(protected.send("/", &bearer(&text)).status, 200);
    let plain = Protected::new("");
    plain.refuses("/", &format!("{0}{0}", plain.key.header()), "api_key_malformed");
}

#[test]
fn oversized_and_malformed_keys() {
    let protected = Protected::new("");
    let text = protected.key.text.clone();
    for key in [
        "a".repeat(1025),
        "a".repeat(64 * 1024),
        format!("{text}{}", " x".repeat(600)),
        text[..text.len() - 1].to_owned(),
        format!("{text}0"),
        format!("{text},"),
        format!("\"{text}\""),
        text.to_lowercase(),
        text.replacen('_', "-", 1),
        format!("tg__{}", &text[3..]),
        "_".repeat(60),
        "' OR 1=1 --".to_owned(),
        "../../etc/passwd".to_owned(),
        "\u{e9}\u{1f600}".to_owned(),
        String::new(),
    ] {
        protected.refuses("/", &format!("X-API-Key: {key}\r\n"), "api_key_malformed");
    }
    let asked = Protected::new("keySource: {query: q}");
    asked.refuses(&format!("/?q={}", "a".repeat(10_000)), "", "api_key_malformed");
    asked.refuses("/?q=%00%FF%C3", "", "api_key_malformed");
    asked.refuses(&format!("/?q={}%00", asked.key.text), "", "api_key_malformed");
}

/// The test of the middleware with the same name counts hashes and comparisons. Here, both are seen from outside.
#[test]
fn unknown_and_wrong_keys_are_the_same_to_a_client() {
    let protected = Protected::new("");
    let wrong = {
        let new = NewKey::generate("tg").unwrap();
        // The same id needs another checksum: a typing error, which needs no lookup.
        new.text.expose().replacen(&new.id, &protected.key.id, 1)
    };
    let answers: Vec<Answer> = [&Key::new().text, &wrong, "other"]
        .iter()
        .map(|key| protected.send("/", &format!("X-API-Key: {key}\r\n")))
        .chain([get(protected.gateway.web(), "h", "/")])
        .collect();
    let shown = |answer: &Answer| {
        let headers: Vec<_> =
            answer.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("date")).cloned().collect();
        (answer.status, headers, answer.text())
    };
    for answer in &answers {
        assert_eq!(shown(answer), shown(&answers[0]));
        assert_eq!(answer.header("www-authenticate"), Some("ApiKey realm=\"traefik\""));
    }
}

#[test]
fn the_key_of_another_consumer() {
    let (service, ann, bob) = (Backend::echo("a"), Key::new(), Key::new());
    let text = format!(
        "http:
  routers:
    a: {{rule: 'Path(`/a`)', service: a, middlewares: [reads]}}
    b: {{rule: 'Path(`/b`)', service: a, middlewares: [writes]}}
    c: {{rule: 'Path(`/c`)', service: a, middlewares: [partner]}}
  middlewares:
    reads: {{apiKey: {{scopes: [read]}}}}
    writes: {{apiKey: {{scopes: [write]}}}}
    partner: {{apiKey: {{secretValues: ['{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M='], secretNonBase64Encoded: true}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
  consumers:
{}{}",
        service.url(),
        ann.consumer("ann", ", scopes: [read]"),
        bob.consumer("bob", ", scopes: [write]")
    );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let ask =
        |path: &str, key: &str| get_with(gateway.web(), "h", path, &format!("X-API-Key: {key}\r\n")).status;
    assert_eq!((ask("/a", &ann.text), ask("/b", &bob.text)), (200, 200));
    let seen = service.seen().len();
    assert_eq!((ask("/a", &bob.text), reason(&gateway)), (403, "api_key_scope".into()));
    assert_eq!((ask("/b", &ann.text), reason(&gateway)), (403, "api_key_scope".into()));
    // A route with its own keys does not accept those of consumers.
    assert_eq!((ask("/c", &ann.text), reason(&gateway)), (401, "api_key_unknown".into()));
    // Ann's id with Bob's secret, and the hash instead of the secret.
    let mixed = format!("tg_{}_{}", ann.id, &bob.text[16..]);
    assert_eq!((ask("/a", &mixed), reason(&gateway)), (401, "api_key_malformed".into()));
    for stolen in [&ann.sha256, &format!("sha256:{}", ann.sha256)] {
        assert_eq!((ask("/a", stolen), reason(&gateway)), (401, "api_key_malformed".into()));
    }
    assert_eq!(service.seen().len(), seen);
    assert_eq!(ask("/c", "test"), 200);
    // The stored hash of a foreign key is not a key.
    assert_eq!(ask("/c", "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="), 401);
}

#[test]
fn the_address_cannot_be_claimed() {
    let protected = Protected::with("", &[], ", allowedCIDRs: [192.0.2.0/24]");
    let header = protected.key.header();
    for claim in [
        "X-Forwarded-For: 192.0.2.1\r\n",
        "X-Real-Ip: 192.0.2.1\r\n",
        "Forwarded: for=192.0.2.1\r\n",
        "X_Forwarded_For: 192.0.2.1\r\n",
        "True-Client-IP: 192.0.2.1\r\n",
    ] {
        protected.refuses("/", &format!("{header}{claim}"), "api_key_address");
    }
    // With a depth, the entry that counts comes from a proxy that is trusted.
    let trusting = ["--entryPoints.web.forwardedHeaders.trustedIPs=127.0.0.1"];
    let behind = Protected::with("ipStrategy: {depth: 1}", &trusting, ", allowedCIDRs: [192.0.2.0/24]");
    let header = behind.key.header();
    behind.refuses("/", &format!("{header}X-Forwarded-For: 192.0.2.1, 198.51.100.1\r\n"), "api_key_address");
    behind.refuses("/", &header, "api_key_address");
    let answer = behind.send("/", &format!("{header}X-Forwarded-For: 198.51.100.1, 192.0.2.1\r\n"));
    assert_eq!(answer.status, 200);
}

#[test]
fn spoofed_identity_headers() {
    let protected = Protected::with("", &["--identity.headers=true"], ", scopes: [read]");
    let header = protected.key.header();
    let mut forged = String::new();
    for name in ["X-Consumer-Name", "X-Consumer-Groups", "X-Auth-Subject", "X-Auth-Scopes", "X-Auth-Method"] {
        for name in [name.to_owned(), name.replace('-', "_"), name.replace('-', "."), name.to_uppercase()] {
            forged.push_str(&format!("{name}: root\r\n"));
        }
    }
    // Without a key, they are nothing; with one, the service sees what the gateway knows.
    protected.refuses("/", &forged, "unauthenticated");
    assert_eq!(protected.send("/", &format!("{forged}{header}")).status, 200);
    let seen = protected.service.last();
    for (name, expected) in [
        ("x-consumer-name", "ann@file"),
        ("x-consumer-groups", "anns"),
        ("x-auth-subject", &*protected.key.id),
        ("x-auth-scopes", "read"),
        ("x-auth-method", "apiKey"),
    ] {
        assert_eq!(seen.headers(name), [expected]);
        for other in [name.replace('-', "_"), name.replace('-', ".")] {
            assert_eq!(seen.headers(&other), [""; 0], "{other}");
        }
    }
}

#[test]
fn secrets_are_in_no_log_and_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let flags = [
        format!("--accessLog.filePath={}", log.display()),
        "--accessLog.format=json".to_owned(),
        "--accessLog.fields.headers.defaultMode=keep".to_owned(),
        "--api.requests.size=100".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let source = "keySource: {header: X-Key, cookie: k, query: q}";
    let protected = Protected::with(source, &flags, "");
    let text = protected.key.text.clone();
    for (target, headers) in [
        ("/by-header".to_owned(), format!("X-Key: {text}\r\n")),
        ("/by-cookie".to_owned(), format!("Cookie: a=1; k={text}\r\n")),
        (format!("/by-query?a=1&q={text}&b=2"), String::new()),
    ] {
        assert_eq!(protected.send(&target, &headers).status, 200, "{target}");
    }
    // Refused, and still nobody's business.
    let (unknown, twice) = (Key::new(), format!("/twice?q={text}&%71={text}"));
    protected.refuses(&format!("/unknown?q={}", unknown.text), "", "api_key_unknown");
    protected.refuses(&twice, "", "api_key_malformed");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    crate::support::eventually("the requests are logged", || lines().contains("/twice"));
    let shown = [
        lines(),
        protected.gateway.api("/api/requests?per_page=100"),
        protected.gateway.api("/api/rawdata"),
        protected.gateway.api("/api/http/consumers"),
        protected.gateway.api("/api/problems"),
    ];
    for text in &shown {
        for secret in [protected.key.secret(), unknown.secret(), &protected.key.sha256] {
            assert!(!text.contains(secret), "{text}");
        }
    }
    assert!(shown[0].contains("/by-query?a=1&q="), "the rest of the query is kept: {}", shown[0]);
}
