//! Answers, times and numbers of questions, with a clock that tests move.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use http::{StatusCode, header};
use serde_json::{Value, json};
use tidegate_core::building::ClientTls;
use tidegate_core::consumers::{Claim, CredentialKind};
use tidegate_core::{
    Body, BoxFuture, HttpClient, ManualClock, Middleware, Reason, Request, Response, UpstreamError, Verdict,
};

use super::{AuthKind, ClientAuth, ClientConfig, Introspection};
use crate::testing::{self, Service, World, block_on, build_in, get, run};

/// A server that says the same about every token, and counts questions.
struct Server {
    answer: Mutex<Result<Value, StatusCode>>,
    forms: Mutex<Vec<String>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Server {
    fn says(answer: Value) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(Ok(answer)),
            forms: Mutex::default(),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        })
    }

    fn change(&self, answer: Result<Value, StatusCode>) {
        *self.answer.lock().unwrap() = answer;
    }

    fn questions(&self) -> usize {
        self.forms.lock().unwrap().len()
    }
}

impl HttpClient for Server {
    fn send(
        &self,
        request: Request,
        _: &ClientTls,
        _: Duration,
    ) -> BoxFuture<'_, Result<Response, UpstreamError>> {
        Box::pin(async move {
            assert_eq!(request.head.headers[header::AUTHORIZATION], "Basic Z2F0ZSt3YXk6cyUyRnQ=");
            let form = request.body.collect(1 << 20).await.unwrap().bytes;
            self.forms.lock().unwrap().push(String::from_utf8(form.to_vec()).unwrap());
            let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
            self.most_open.fetch_max(open, Ordering::Relaxed);
            // Others get their turn while this question is open.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
            self.open.fetch_sub(1, Ordering::Relaxed);
            let answer = self.answer.lock().unwrap().clone();
            let mut response = Response::new(Body::full(answer.clone().unwrap_or_default().to_string()));
            *response.status_mut() = answer.err().unwrap_or(StatusCode::OK);
            response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
            Ok(response)
        })
    }
}

struct Protected {
    server: Arc<Server>,
    clock: Arc<ManualClock>,
    world: World,
    middleware: Arc<dyn Middleware>,
}

fn options() -> Introspection {
    let auth =
        ClientAuth { kind: AuthKind::Basic.into(), secret: "gate way:s/t".into(), header: String::new() };
    let client_config = ClientConfig {
        url: "http://as.test/introspect".into(),
        auth: Some(auth),
        token_type_hint: "access_token".into(),
        ..ClientConfig::default()
    };
    Introspection { client_config, ..Introspection::default() }
}

impl Protected {
    fn new(options: Introspection, answer: Value) -> Self {
        let (mut world, clock) = World::stopped();
        let server = Server::says(answer);
        world.client = Some(server.clone());
        let middleware = build_in(&world, options).unwrap();
        Self { server, clock, world, middleware }
    }

    fn now(&self) -> u64 {
        self.world.clock.wall().duration_since(UNIX_EPOCH).unwrap().as_secs()
    }

    async fn ask(&self, token: &str) -> Response {
        let mut request = get("http://h.test/");
        request.head.headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        let service = Service(|request: Request| {
            let identity = request.context.identity.as_ref();
            let identity = identity.map(|identity| {
                let consumer = identity.consumer.as_ref().map_or("", |consumer| consumer.short_name());
                format!(
                    "{} {} [{}] [{}] {consumer}",
                    identity.method,
                    identity.subject,
                    identity.groups.join(","),
                    identity.scopes.join(",")
                )
            });
            Response::new(Body::full(identity.unwrap_or_default()))
        });
        run(&self.middleware, request, &service).await
    }

    fn status(&self, token: &str) -> u16 {
        block_on(self.ask(token)).status().as_u16()
    }
}

#[test]
fn an_answer_counts_until_the_time_to_live_is_over() {
    let protected = Protected::new(options(), json!({"active": true, "sub": "ann"}));
    for _ in 0..3 {
        assert_eq!(protected.status("t"), 200);
    }
    assert_eq!(*protected.server.forms.lock().unwrap(), ["token=t&token_type_hint=access_token"]);
    protected.clock.advance(Duration::from_secs(59));
    assert_eq!((protected.status("t"), protected.server.questions()), (200, 1));
    // The token is revoked.
    protected.server.change(Ok(json!({"active": false})));
    protected.clock.advance(Duration::from_secs(1));
    assert_eq!((protected.status("t"), protected.server.questions()), (401, 2));
}

#[test]
fn the_cache_does_not_outlive_the_token() {
    let protected = Protected::new(options(), json!({}));
    let expiry = protected.now() + 10;
    protected.server.change(Ok(json!({"active": true, "sub": "ann", "exp": expiry})));
    assert_eq!(protected.status("t"), 200);
    protected.clock.advance(Duration::from_secs(9));
    assert_eq!((protected.status("t"), protected.server.questions()), (200, 1));
    protected.clock.advance(Duration::from_secs(1));
    protected.server.change(Ok(json!({"active": false})));
    assert_eq!((protected.status("t"), protected.server.questions()), (401, 2));
    // The server's clock may be late, within the leeway; nothing is kept then.
    protected.server.change(Ok(json!({"active": true, "sub": "ann", "exp": expiry})));
    for questions in 3..5 {
        assert_eq!((protected.status("other"), protected.server.questions()), (200, questions));
    }
    protected.clock.advance(Duration::from_secs(30));
    assert_eq!(protected.status("other"), 401);
}

#[test]
fn refused_tokens_are_remembered_for_a_short_time() {
    let protected = Protected::new(options(), json!({"active": false}));
    for _ in 0..100 {
        assert_eq!(protected.status("t"), 401);
    }
    assert_eq!(protected.server.questions(), 1);
    protected.clock.advance(Duration::from_secs(5));
    protected.server.change(Ok(json!({"active": true})));
    assert_eq!((protected.status("t"), protected.server.questions()), (200, 2));
}

#[test]
fn invented_tokens_do_not_displace_active_ones() {
    let protected = Protected::new(options(), json!({"active": true, "sub": "ann"}));
    assert_eq!(protected.status("t"), 200);
    protected.server.change(Ok(json!({"active": false})));
    for number in 0..20_000 {
        let response = block_on_quickly(protected.ask(&format!("x{number}")));
        assert_eq!(response.status(), 401);
    }
    assert_eq!(protected.server.questions(), 20_001);
    assert_eq!((protected.status("t"), protected.server.questions()), (200, 20_001));
}

/// One runtime for many requests.
fn block_on_quickly<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

#[test]
fn requests_with_one_token_cause_one_question() {
    let protected = Protected::new(options(), json!({"active": true, "sub": "ann"}));
    let statuses = block_on(async {
        let all = (0..200).map(|_| protected.ask("t"));
        futures_util::future::join_all(all).await
    });
    assert!(statuses.iter().all(|response| response.status() == 200));
    assert_eq!(protected.server.questions(), 1);
    // Also if it has no answer.
    protected.server.change(Err(StatusCode::FORBIDDEN));
    let statuses = block_on(async {
        let all = (0..200).map(|_| protected.ask("other"));
        futures_util::future::join_all(all).await
    });
    assert!(statuses.iter().all(|response| response.status() == 503));
    assert!(statuses.iter().all(|response| response.reason == Some(Reason::AuthenticationUnavailable)));
    assert_eq!(protected.server.questions(), 2);
    protected.server.change(Ok(json!({"active": true})));
    assert_eq!((protected.status("other"), protected.server.questions()), (503, 2));
    protected.clock.advance(Duration::from_secs(1));
    assert_eq!((protected.status("other"), protected.server.questions()), (200, 3));
}

#[test]
fn open_questions_are_limited() {
    let mut options = options();
    options.client_config.max_concurrent = 4;
    let protected = Protected::new(options, json!({"active": false}));
    let responses = block_on(async {
        let tokens: Vec<String> = (0..2000).map(|number| format!("x{number}")).collect();
        let all = tokens.iter().map(|token| protected.ask(token));
        futures_util::future::join_all(all).await
    });
    assert_eq!(protected.server.most_open.load(Ordering::Relaxed), 4);
    let count = |status: u16| responses.iter().filter(|response| response.status() == status).count();
    // Four questions and 1024 that wait; the others are refused at once.
    assert_eq!((count(401), count(503)), (1028, 972));
    assert_eq!(protected.server.questions(), 1028);
}

#[test]
fn failures_of_the_server_are_retried() {
    let protected = Protected::new(options(), json!({}));
    protected.server.change(Err(StatusCode::BAD_GATEWAY));
    assert_eq!((protected.status("t"), protected.server.questions()), (503, 4));
    // It does not know the gateway: another attempt has the same answer.
    protected.server.change(Err(StatusCode::UNAUTHORIZED));
    assert_eq!((protected.status("other"), protected.server.questions()), (503, 5));
}

#[test]
fn without_a_cache_each_request_is_a_question() {
    let options = Introspection { cache_ttl: tidegate_core::values::Duration::from_secs(0), ..options() };
    let protected = Protected::new(options, json!({"active": true, "sub": "ann"}));
    for questions in 1..4 {
        assert_eq!((protected.status("t"), protected.server.questions()), (200, questions));
    }
    protected.server.change(Ok(json!({"active": false})));
    assert_eq!(protected.status("t"), 401);
}

#[test]
fn the_identity_has_groups_scopes_and_consumer() {
    let answer = json!({
        "active": true, "sub": "ann", "iss": "https://i", "azp": "app", "scope": "read  write", "groups": ["ops"],
    });
    let protected = Protected::new(options(), answer.clone());
    let response = block_on(protected.ask("t"));
    assert_eq!(testing::text(response), "introspection ann [ops] [read,write] ");
    // A change of the consumers counts at once, without a question.
    let claim = Claim { issuer: "https://i".into(), name: "azp".into(), value: "app".into() };
    protected.world.store_consumer(CredentialKind::Token(claim.clone()), true);
    let broken = block_on(protected.ask("t"));
    assert_eq!((broken.status().as_u16(), broken.reason), (503, Some(Reason::ConsumerBroken)));
    protected.world.store_consumer(CredentialKind::Token(claim), false);
    assert_eq!(testing::text(block_on(protected.ask("t"))), "introspection ann [ops] [read,write] acme");
    assert_eq!(protected.server.questions(), 1);
    // The issuer that the options name, if the answer names none.
    let mut without = answer;
    without.as_object_mut().unwrap().remove("iss");
    without.as_object_mut().unwrap().remove("sub");
    let named = Protected::new(Introspection { issuer: "https://i".into(), ..options() }, without);
    named.world.consumers.store(protected.world.consumers.load().clone());
    assert_eq!(testing::text(block_on(named.ask("t"))), "introspection acme [ops] [read,write] acme");
}

#[test]
fn predictions_ask_nothing() {
    let protected = Protected::new(options(), json!({"active": true, "sub": "ann"}));
    let predict = |token: Option<&str>| {
        let mut request = get("http://h.test/");
        if let Some(token) = token {
            request.head.headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        let prediction = protected.middleware.predict(request);
        let verdict = match prediction.verdict {
            Verdict::Passes(_) => "passes".to_owned(),
            Verdict::Depends(_) => "depends".to_owned(),
            Verdict::Responds(response) => response.status().as_u16().to_string(),
        };
        format!("{verdict}: {}", prediction.notes.join(", "))
    };
    assert_eq!(predict(None), "401: a token is required");
    assert_eq!(predict(Some("t")), "depends: asks http://as.test/introspect");
    assert_eq!(protected.server.questions(), 0);
    assert_eq!(protected.status("t"), 200);
    assert_eq!(predict(Some("t")), "passes: the token is active");
    protected.server.change(Ok(json!({"active": false})));
    assert_eq!(protected.status("u"), 401);
    assert_eq!(predict(Some("u")), "401: the token is not active");
}

#[test]
fn mistakes_are_named_without_secrets() {
    let mut wrong = options();
    wrong.client_config.url = "as.test".into();
    wrong.client_config.timeout_seconds = 0;
    wrong.client_config.headers.insert("X-A".into(), "{{ .Request.Host }}".into());
    wrong.client_config.auth =
        Some(ClientAuth { kind: AuthKind::Basic.into(), secret: "hidden".into(), header: String::new() });
    wrong.claims = "Equal(`a`, `b`)".into();
    let (mut world, _) = World::stopped();
    world.client = Some(Server::says(json!({})));
    let message = build_in(&world, wrong).err().unwrap().to_string();
    for part in [
        "clientConfig.url: invalid URL `as.test`",
        "clientConfig.timeoutSeconds: 0: expected 1 to 60",
        "clientConfig.headers.X-A: templates are not supported",
        "clientConfig.auth.secret: expected `clientId:clientSecret`",
        "claims: unknown function `Equal`",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains("hidden"), "{message}");
    let shown = serde_json::to_string(&options()).unwrap();
    assert!(shown.contains("xxxx") && !shown.contains("s/t"), "{shown}");
}
