//! The middleware `oAuthIntrospection`: which tokens pass, and attacks on it.

use std::collections::HashMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::tokens::{now, reason};
use crate::support::{Answer, Backend, Gateway, eventually, get_with};

/// What the server does with a question.
#[derive(Clone)]
enum Behaviour {
    Says(Value),
    Sends(Vec<u8>),
    Hangs,
}

/// A stand-in for an authorization server.
struct Server {
    backend: Backend,
    tokens: Arc<Mutex<HashMap<String, Behaviour>>>,
}

impl Server {
    fn start() -> Self {
        let tokens = Arc::new(Mutex::new(HashMap::new()));
        let known = Arc::clone(&tokens);
        let backend = Backend::with(move |seen, stream| {
            let form: HashMap<String, String> =
                url::form_urlencoded::parse(seen.body.as_slice()).into_owned().collect();
            let behaviour = known.lock().unwrap().get(&form["token"]).cloned();
            match behaviour.unwrap_or(Behaviour::Says(json!({"active": false}))) {
                Behaviour::Says(answer) => write_json(stream, &answer.to_string()),
                Behaviour::Sends(bytes) => {
                    let _ = stream.write_all(&bytes);
                    false
                }
                Behaviour::Hangs => stream.peek(&mut [0]).is_ok_and(|_| false),
            }
        });
        Self { backend, tokens }
    }

    /// An active token with these claims.
    fn issue(&self, token: &str, claims: &Value) {
        let mut answer = json!({"active": true, "sub": "ann"});
        for (name, value) in claims.as_object().unwrap() {
            answer[name] = value.clone();
        }
        self.set(token, Behaviour::Says(answer));
    }

    fn set(&self, token: &str, behaviour: Behaviour) {
        self.tokens.lock().unwrap().insert(token.to_owned(), behaviour);
    }
}

fn write_json(stream: &mut TcpStream, body: &str) -> bool {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .is_ok()
}

struct Protected {
    server: Server,
    service: Backend,
    gateway: Gateway,
}

impl Protected {
    fn new(options: &str) -> Self {
        Self::with(options, "")
    }

    fn with(options: &str, client: &str) -> Self {
        let (server, service) = (Server::start(), Backend::echo("a"));
        let text = format!(
            "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}}
  middlewares:
    m: {{oAuthIntrospection: {{clientConfig: {{url: '{}/introspect', timeoutSeconds: 1{client}}}{options}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            server.backend.url(),
            service.url()
        );
        let gateway = Gateway::with(&[], &text);
        assert_eq!(gateway.problems(), Vec::<String>::new());
        Self { server, service, gateway }
    }

    fn send(&self, target: &str, headers: &str) -> Answer {
        get_with(self.gateway.web(), "h", target, headers)
    }

    fn bearer(&self, token: &str) -> Answer {
        self.send("/", &format!("Authorization: Bearer {token}\r\n"))
    }

    /// Checks that a token is refused, with what the client learns, and that the service sees nothing.
    #[track_caller]
    fn refuses(&self, token: &str, status: u16, why: &str) {
        let before = self.service.seen().len();
        let answer = self.bearer(token);
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(answer.status == status && challenge.contains(why), "{}: {challenge}", answer.status);
        assert!(!answer.text().contains(token), "{}", answer.text());
        assert_eq!(self.service.seen().len(), before);
    }

    #[track_caller]
    fn is_unavailable(&self, token: &str) {
        let begin = Instant::now();
        self.refuses(token, 503, "");
        assert_eq!(reason(&self.gateway), "authentication_unavailable");
        assert!(begin.elapsed() < Duration::from_secs(4));
    }
}

#[test]
fn an_active_token_passes_with_its_identity() {
    let protected = Protected::with(
        ", forwardHeaders: {X-User: sub, X-Roles: roles}, scopes: [read], stripToken: true",
        ", auth: {kind: bearer, secret: own}, headers: {X-Tenant: main}, tokenTypeHint: access_token",
    );
    protected.server.issue("t", &json!({"scope": "write read", "roles": ["a", "b"]}));
    let answer = protected.send("/", "Authorization: bearer t\r\nx_user: root\r\nX-Roles: root\r\n");
    assert_eq!(answer.status, 200);
    let seen = protected.service.last();
    assert_eq!((seen.headers("x-user"), seen.headers("x_user")), (vec!["ann"], vec![]));
    assert_eq!((seen.headers("x-roles"), seen.header("authorization")), (vec!["a,b"], None));
    let question = protected.server.backend.last();
    assert_eq!((question.method(), question.target()), ("POST", "/introspect"));
    assert_eq!(
        (question.header("authorization"), question.header("x-tenant")),
        (Some("Bearer own"), Some("main"))
    );
    assert_eq!(question.body, b"token=t&token_type_hint=access_token");
    protected.server.issue("narrow", &json!({"scope": "readonly"}));
    protected.refuses("narrow", 403, "error=\"insufficient_scope\"");
    assert_eq!(reason(&protected.gateway), "forbidden");
    let answer = protected.send("/", "");
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer realm=\"traefik\"")));
    protected.refuses(
        "unknown",
        401,
        "error=\"invalid_token\", error_description=\"the token is not active\"",
    );
    // Neither the API nor the log has the secrets.
    let shown = protected.gateway.api("/api/http/middlewares/m@file");
    assert!(shown.contains("xxxx") && !shown.contains("own\"") && !shown.contains("main\""), "{shown}");
}

#[test]
fn claims_decide_and_cannot_become_other_headers() {
    let protected = Protected::new(", claims: 'Equals(`grp`, `admin`)', forwardHeaders: {X-Group: grp}");
    protected.server.issue("admin", &json!({"grp": "admin"}));
    assert_eq!(protected.bearer("admin").status, 200);
    protected.server.issue("user", &json!({"grp": "user"}));
    protected.refuses("user", 403, "insufficient_scope");
    for (number, value) in
        [json!("admin\r\nX-Admin: 1"), json!(["a,b"]), json!({"a": 1}), json!(" admin"), json!("\u{0}")]
            .into_iter()
            .enumerate()
    {
        let token = format!("evil{number}");
        protected.server.issue(&token, &json!({"grp": value}));
        protected.refuses(&token, 401, "cannot be sent in a header");
    }
}

#[test]
fn times_audience_and_issuer_are_checked() {
    let protected = Protected::new(", audience: [api], issuer: 'https://as.test'");
    for (token, claims, why) in [
        ("expired", json!({"exp": now() - 60}), "the token is expired"),
        ("early", json!({"nbf": now() + 600}), "the token is not valid yet"),
        ("future", json!({"iat": now() + 600}), "the token is not valid yet"),
        ("audience", json!({"aud": ["other"]}), "the token is for another audience"),
        ("issuer", json!({"iss": "https://evil.test"}), "the issuer of the token is not trusted"),
        ("bound", json!({"cnf": {"jkt": "x"}}), "the token is bound to a key"),
    ] {
        let mut all = json!({"aud": "api", "iss": "https://as.test", "exp": now() + 600});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        protected.server.issue(token, &all);
        protected.refuses(token, 401, why);
    }
    protected.server.issue("good", &json!({"aud": ["other", "api"], "exp": now() + 600}));
    assert_eq!(protected.bearer("good").status, 200);
}

#[test]
fn a_hanging_or_failing_server_refuses_everything_but_cached_tokens() {
    let protected = Protected::new("");
    protected.server.issue("cached", &json!({}));
    assert_eq!(protected.bearer("cached").status, 200);
    protected.server.set("hangs", Behaviour::Hangs);
    protected.is_unavailable("hangs");
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let large = format!("{{\"active\": true, \"x\": \"{}\"}}", "a".repeat(10 * 1024 * 1024));
    for (token, answer) in [
        ("large", format!("{head}Content-Length: {}\r\n\r\n{large}", large.len())),
        ("endless", format!("{head}\r\n{large}")),
        ("broken", format!("{head}Content-Length: 100\r\n\r\n{{\"active\": true")),
        (
            "html",
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 16\r\n\r\n{\"active\": true}"
                .to_owned(),
        ),
        ("text", format!("{head}Content-Length: 4\r\n\r\ntrue")),
        ("status", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("redirect", "HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("failing", "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_owned()),
    ] {
        protected.server.set(token, Behaviour::Sends(answer.into_bytes()));
        protected.is_unavailable(token);
    }
    assert_eq!(protected.bearer("cached").status, 200);
    // It recovers by itself.
    protected.server.issue("hangs", &json!({}));
    eventually("the server is asked again", || protected.bearer("hangs").status == 200);
}

#[test]
fn two_tokens_and_tokens_that_are_not_asked_for() {
    let protected = Protected::new("");
    protected.server.issue("t", &json!({}));
    for (target, headers) in [
        ("/?access_token=t&token=t", ""),
        ("/", "Cookie: token=t; access_token=t\r\n"),
        ("/", "Authorization: Basic dDp0\r\n"),
    ] {
        assert_eq!(protected.send(target, headers).status, 401, "{target} {headers}");
    }
    assert_eq!(protected.server.backend.seen().len(), 0);
    let bearer = "Authorization: Bearer t\r\n";
    for more in [bearer, "Authorization: Basic dDp0\r\n", "Authorization: Bearer other\r\n"] {
        for headers in [format!("{bearer}{more}"), format!("{more}{bearer}")] {
            assert_eq!(protected.send("/", &headers).status, 400, "{headers}");
        }
    }
    for token in ["a b", "t, t", "\"t\"\u{e9}", &"a".repeat(16 * 1024 + 1)] {
        assert!([400, 401].contains(&protected.bearer(token).status), "{token}");
    }
    assert_eq!(protected.server.backend.seen().len(), 0);
    assert_eq!(protected.service.seen().len(), 0);
    let asked = Protected::new(", tokenSource: {query: token, cookie: token}, stripToken: true");
    asked.server.issue("t", &json!({}));
    assert_eq!(asked.send("/p?a=1&token=t", "").status, 200);
    assert_eq!(asked.service.last().target(), "/p?a=1");
    assert_eq!(asked.send("/p", "Cookie: token=t; b=1\r\n").status, 200);
    assert_eq!(asked.service.last().header("cookie"), Some("b=1"));
    assert_eq!(asked.send("/p?token=t", "Cookie: token=t\r\n").status, 400);
    assert!(!asked.gateway.api("/api/requests").contains("token=t"), "records have no token");
}

#[test]
fn an_optional_token_removes_spoofed_headers() {
    let protected = Protected::new(", optional: true, forwardHeaders: {X-User: sub}");
    let answer = protected.send("/", "X-User: root\r\nX_User: root\r\nX.User: root\r\n");
    assert_eq!(answer.status, 200);
    let seen = protected.service.last();
    for name in ["x-user", "x_user", "x.user"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    protected.refuses("invented", 401, "the token is not active");
}
