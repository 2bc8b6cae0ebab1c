//! The middleware in front of a service whose responses the tests choose.

mod collapsed;
mod disconnected;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, StatusCode};
use http_body::Frame;
use tidegate_core::{
    AuthMethod, Body, BodyError, BoxFuture, Frames, Handler, ManualClock, Next, Polled, Reason, Request,
    Response, UpstreamError, Verdict, reply,
};
use tokio::sync::Semaphore;

use super::*;
use crate::testing::{World, block_on, build_in, get, request};

/// Lines of a response: `name: value`.
type Lines = &'static [(&'static str, &'static str)];

/// A response of the service.
type Answer = Box<dyn Fn(&Request) -> Response + Send>;

/// What the service responds, one after the other; the last one again and again.
struct Script {
    responses: Mutex<Vec<Answer>>,
    seen: Mutex<Vec<(String, String, HeaderMap)>>,
    calls: AtomicUsize,
    /// Requests wait for a permit, if it is not open.
    gate: Option<Semaphore>,
}

impl Handler for Script {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            let head = &request.head;
            let seen = (head.method.to_string(), head.uri.to_string(), head.headers.clone());
            self.seen.lock().unwrap().push(seen);
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            let responses = self.responses.lock().unwrap();
            responses[call.min(responses.len() - 1)](&request)
        })
    }
}

struct Test {
    middleware: Arc<dyn Middleware>,
    next: Next,
    script: Arc<Script>,
    clock: Arc<ManualClock>,
}

impl Test {
    fn with(options: Cache, responses: Vec<Answer>, gate: Option<Semaphore>) -> Self {
        let (world, clock) = World::stopped();
        let middleware = build_in(&world, options).unwrap();
        let script = Arc::new(Script {
            responses: Mutex::new(responses),
            seen: Mutex::default(),
            calls: AtomicUsize::new(0),
            gate,
        });
        let next = Next::new([middleware.clone()], Next::service(script.clone()));
        Self { middleware, next, script, clock }
    }

    fn new(responses: Vec<Answer>) -> Self {
        Self::with(Cache::default(), responses, None)
    }

    fn calls(&self) -> usize {
        self.script.calls.load(Ordering::SeqCst)
    }

    fn sent(&self, call: usize) -> HeaderMap {
        self.script.seen.lock().unwrap()[call].2.clone()
    }

    /// Sends a request, and returns status, headers and body.
    async fn send(&self, request: Request) -> (u16, HeaderMap, String) {
        let response = self.next.run(request).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect(1 << 20).await.unwrap().bytes;
        (status, headers, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn get(&self, lines: Lines) -> (u16, HeaderMap, String) {
        let builder = lines
            .iter()
            .fold(http::Request::get("http://h.test/a"), |b, (name, value)| b.header(*name, *value));
        self.send(request(builder)).await
    }

    fn advance(&self, seconds: u64) {
        self.clock.advance(StdDuration::from_secs(seconds));
    }
}

fn ok(lines: Lines, body: &'static str) -> Answer {
    status(200, lines, body)
}

fn status(status: u16, lines: Lines, body: &'static str) -> Answer {
    Box::new(move |_| {
        let mut response = Response::new(Body::full(body));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in lines {
            response.headers_mut().append(*name, value.parse().unwrap());
        }
        response
    })
}

fn cache_status(headers: &HeaderMap) -> &str {
    headers["cache-status"].to_str().unwrap()
}

const FRESH: Lines = &[("cache-control", "max-age=60")];
const TAGGED: Lines = &[("cache-control", "max-age=60"), ("etag", "\"1\"")];

#[test]
fn a_fresh_response_is_sent_again_with_its_age() {
    block_on(async {
        let test = Test::new(vec![ok(FRESH, "one"), ok(FRESH, "two")]);
        let (_, headers, body) = test.get(&[]).await;
        assert_eq!(
            (body.as_str(), cache_status(&headers)),
            ("one", "tidegate; fwd=uri-miss; ttl=60; stored")
        );
        test.advance(59);
        let (status, headers, body) = test.get(&[]).await;
        assert_eq!((status, body.as_str(), headers["age"].to_str().unwrap()), (200, "one", "59"));
        assert_eq!(cache_status(&headers), "tidegate; hit; ttl=1");
        test.advance(1);
        assert_eq!(test.get(&[]).await.2, "two");
        assert_eq!(test.calls(), 2);
    });
}

#[test]
fn a_stale_response_is_validated() {
    block_on(async {
        let not_modified = status(304, &[("etag", "\"1\""), ("x", "2"), ("cache-control", "max-age=60")], "");
        let test = Test::new(vec![ok(TAGGED, "one"), not_modified, ok(TAGGED, "two")]);
        test.get(&[]).await;
        test.advance(60);
        let (status, headers, body) = test.get(&[("if-none-match", "\"x\"")]).await;
        assert_eq!((status, body.as_str(), headers["x"].to_str().unwrap()), (200, "one", "2"));
        assert_eq!(cache_status(&headers), "tidegate; fwd=stale; fwd-status=304; ttl=60; stored");
        assert_eq!(test.sent(1)["if-none-match"], "\"1\"");
        let (status, headers, _) = test.get(&[("if-none-match", "W/\"1\"")]).await;
        assert_eq!((status, cache_status(&headers)), (304, "tidegate; hit; ttl=60"));
        let (_, headers, body) = test.get(&[("cache-control", "no-cache")]).await;
        assert_eq!((body.as_str(), cache_status(&headers)), ("two", "tidegate; fwd=request; ttl=60; stored"));
        assert_eq!(test.get(&[]).await.2, "two");
    });
}

#[test]
fn a_304_about_something_else_is_not_used() {
    block_on(async {
        let test =
            Test::new(vec![ok(TAGGED, "one"), status(304, &[("etag", "\"9\"")], ""), ok(TAGGED, "two")]);
        test.get(&[]).await;
        test.advance(60);
        assert_eq!(test.get(&[]).await.2, "two");
        assert!(!test.sent(2).contains_key("if-none-match"));
    });
}

#[test]
fn a_stale_response_is_validated_in_the_background() {
    block_on(async {
        let lines: Lines = &[("cache-control", "max-age=10, stale-while-revalidate=60")];
        let test = Test::new(vec![ok(lines, "one"), ok(lines, "two")]);
        test.get(&[]).await;
        test.advance(20);
        let (_, headers, body) = test.get(&[]).await;
        assert_eq!((body.as_str(), cache_status(&headers)), ("one", "tidegate; hit; ttl=-10"));
        while test.get(&[]).await.2 == "one" {
            tokio::task::yield_now().await;
        }
        assert_eq!(test.calls(), 2, "one validation for all");
    });
}

#[test]
fn errors_and_missing_servers_are_replaced() {
    block_on(async {
        let lines: Lines = &[("cache-control", "max-age=10, stale-if-error=60")];
        let test = Test::new(vec![ok(lines, "one"), status(503, &[], "error")]);
        test.get(&[]).await;
        test.advance(20);
        let (status, headers, body) = test.get(&[]).await;
        assert_eq!((status, body.as_str()), (200, "one"));
        assert_eq!(cache_status(&headers), "tidegate; fwd=stale; fwd-status=503; ttl=-10");
        test.advance(60);
        assert_eq!(test.get(&[]).await.0, 503);
    });
}

fn failure(failure: UpstreamError) -> Answer {
    Box::new(move |_| reply::upstream_failure(failure.clone()))
}

#[test]
fn many_clients_cost_one_request() {
    block_on(async {
        let test = Arc::new(Test::with(Cache::default(), vec![ok(FRESH, "one")], Some(Semaphore::new(0))));
        let clients: Vec<_> = (0..64)
            .map(|_| {
                let test = test.clone();
                tokio::spawn(async move { test.get(&[]).await })
            })
            .collect();
        while test.calls() == 0 {
            tokio::task::yield_now().await;
        }
        test.script.gate.as_ref().unwrap().add_permits(64);
        let mut collapsed = 0;
        for client in clients {
            let (_, headers, body) = client.await.unwrap();
            assert_eq!(body, "one");
            collapsed += usize::from(cache_status(&headers).contains("collapsed"));
        }
        assert_eq!((test.calls(), collapsed), (1, 63));
        assert_eq!(test.middleware.cache().unwrap().statistics().requests.collapsed, 63);
    });
}

#[test]
fn waiting_ends_when_the_response_cannot_be_stored() {
    block_on(async {
        let private: Lines = &[("cache-control", "private")];
        let test = Arc::new(Test::with(Cache::default(), vec![ok(private, "one")], Some(Semaphore::new(0))));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let test = test.clone();
                tokio::spawn(async move { test.get(&[]).await })
            })
            .collect();
        while test.calls() == 0 {
            tokio::task::yield_now().await;
        }
        test.script.gate.as_ref().unwrap().add_permits(1);
        // All others are sent at once, so they wait at the gate together.
        while test.calls() < 8 {
            tokio::task::yield_now().await;
        }
        test.script.gate.as_ref().unwrap().add_permits(7);
        for client in clients {
            assert!(cache_status(&client.await.unwrap().1).ends_with("; detail=private"));
        }
    });
}

#[test]
fn when_the_server_fails_all_who_wait_get_the_stale_response() {
    let lines: Lines = &[("cache-control", "max-age=10, stale-if-error=60")];
    all_who_wait_get_what_is_stored(lines, status(503, &[], "error"));
    all_who_wait_get_what_is_stored(FRESH, failure(UpstreamError::NoServer));
}

fn all_who_wait_get_what_is_stored(lines: Lines, failure: Answer) {
    block_on(async {
        let script = vec![ok(lines, "one"), failure];
        let test = Arc::new(Test::with(Cache::default(), script, Some(Semaphore::new(1))));
        test.get(&[]).await;
        test.advance(if lines == FRESH { 100 } else { 20 });
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let test = test.clone();
                tokio::spawn(async move { test.get(&[]).await })
            })
            .collect();
        while test.calls() == 1 {
            tokio::task::yield_now().await;
        }
        test.script.gate.as_ref().unwrap().add_permits(8);
        for client in clients {
            assert_eq!(client.await.unwrap().2, "one");
        }
        assert_eq!(test.calls(), 2, "one request for all");
    });
}

#[test]
fn head_and_ranges_are_answered_from_a_response_to_get() {
    block_on(async {
        let test = Test::new(vec![ok(TAGGED, "0123456789")]);
        test.get(&[]).await;
        let (status, headers, body) = test.send(request(http::Request::head("http://h.test/a"))).await;
        assert_eq!((status, headers["content-length"].to_str().unwrap(), body.as_str()), (200, "10", ""));
        let (status, headers, body) = test.get(&[("range", "bytes=2-4")]).await;
        assert_eq!(
            (status, headers["content-range"].to_str().unwrap(), body.as_str()),
            (206, "bytes 2-4/10", "234")
        );
        assert_eq!(test.get(&[("range", "bytes=2-4"), ("if-range", "\"2\"")]).await.0, 200);
        let (status, headers, _) = test.get(&[("range", "bytes=10-")]).await;
        assert_eq!((status, headers["content-range"].to_str().unwrap()), (416, "bytes */10"));
        assert_eq!(test.calls(), 1);
    });
}

#[test]
fn responses_to_head_and_ranges_are_not_stored() {
    block_on(async {
        let partial = status(206, &[("cache-control", "max-age=60"), ("content-range", "bytes 0-0/9")], "0");
        let test = Test::new(vec![ok(FRESH, ""), partial, ok(FRESH, "one")]);
        test.send(request(http::Request::head("http://h.test/a"))).await;
        let (_, headers, _) = test.get(&[("range", "bytes=0-0")]).await;
        assert_eq!(cache_status(&headers), "tidegate; fwd=uri-miss; detail=status");
        assert_eq!(test.sent(1)["range"], "bytes=0-0");
        assert_eq!(test.get(&[]).await.2, "one");
        assert_eq!(test.calls(), 3);
    });
}

#[test]
fn unsafe_methods_invalidate() {
    block_on(async {
        let test = Test::new(vec![ok(FRESH, "one"), ok(&[("location", "/a")], ""), ok(FRESH, "two")]);
        test.get(&[]).await;
        let (_, headers, _) = test.send(request(http::Request::post("http://h.test/b"))).await;
        assert_eq!(cache_status(&headers), "tidegate; fwd=method");
        assert_eq!(test.get(&[]).await.2, "two");
    });
}

#[test]
fn identities_share_nothing() {
    block_on(async {
        let test = Test::new(vec![ok(FRESH, "public"), ok(FRESH, "ann"), ok(FRESH, "bob")]);
        let of = |name: Option<&str>| {
            let mut request = get("http://h.test/a");
            if let Some(name) = name {
                request.context.identify(Identity::new(name, AuthMethod::Basic, "m@file".into()));
            }
            request
        };
        use tidegate_core::Identity;
        for _ in 0..2 {
            for (name, expected) in [(None, "public"), (Some("ann"), "ann"), (Some("bob"), "bob")] {
                assert_eq!(test.send(of(name)).await.2, expected);
            }
        }
        assert_eq!(test.calls(), 3);
    });
}

#[test]
fn what_is_not_in_the_key_does_not_reach_the_server() {
    block_on(async {
        let key = KeyOptions { query: vec!["id".to_owned()], ..KeyOptions::default() };
        let test = Test::with(Cache { key, ..Cache::default() }, vec![ok(FRESH, "one")], None);
        for uri in ["http://h.test/a?id=1&utm=<x>", "http://h.test/a?utm=2&id=1", "http://h.test/a?id=1"] {
            let uri = uri.replace(['<', '>'], "");
            assert_eq!(test.send(get(&uri)).await.2, "one");
        }
        assert_eq!(test.script.seen.lock().unwrap()[0].1, "/a?id=1");
        assert_eq!(test.calls(), 1);
        // What steers servers separates, and a body is never ignored.
        let forwarded =
            request(http::Request::get("http://h.test/a?id=1").header("x-forwarded-host", "evil.test"));
        test.send(forwarded).await;
        test.send(crate::testing::with_body(http::Request::get("http://h.test/a?id=1"), "fat")).await;
        assert_eq!(test.calls(), 3);
    });
}

#[test]
fn only_if_cached_is_answered_without_the_server() {
    block_on(async {
        let test = Test::new(vec![ok(FRESH, "one")]);
        let (status, headers, _) = test.get(&[("cache-control", "only-if-cached")]).await;
        assert_eq!((status, test.calls()), (504, 0));
        assert_eq!(cache_status(&headers), "tidegate; fwd=uri-miss; detail=only-if-cached");
        test.get(&[]).await;
        assert_eq!(test.get(&[("cache-control", "only-if-cached")]).await.2, "one");
    });
}

/// A body that fails after its first piece.
struct Broken(bool);

impl Frames for Broken {
    fn poll_next(&mut self, _: &mut std::task::Context<'_>) -> Polled {
        let first = std::mem::replace(&mut self.0, false);
        std::task::Poll::Ready(Some(if first {
            Ok(Frame::data("on".into()))
        } else {
            Err(BodyError::Other("lost".into()))
        }))
    }
}

#[test]
fn incomplete_bodies_are_not_stored() {
    block_on(async {
        let broken: Answer = Box::new(|_| {
            let mut response = Response::new(Body::of_frames(Broken(true)));
            response.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            response
        });
        let short = ok(&[("cache-control", "max-age=60"), ("content-length", "9")], "short");
        let test = Test::new(vec![broken, short, ok(FRESH, "one"), ok(FRESH, "two")]);
        let failed = test.next.run(get("http://h.test/a")).await;
        assert!(failed.into_body().collect(100).await.is_err());
        test.get(&[]).await;
        // One whose reader leaves.
        drop(test.next.run(get("http://h.test/a")).await);
        assert_eq!(test.get(&[]).await.2, "two");
        assert_eq!(test.calls(), 4);
    });
}

#[test]
fn responses_of_the_gateway_are_not_stored() {
    block_on(async {
        let refused: Answer = Box::new(|_| reply::status_text(StatusCode::NOT_FOUND, Reason::NoRouter));
        let rules = BTreeMap::from([("404".to_owned(), Duration::from_secs(60))]);
        let test = Test::with(
            Cache { ttl: rules, ..Cache::default() },
            vec![refused, status(404, &[], "a"), ok(FRESH, "b")],
            None,
        );
        test.get(&[]).await;
        assert_eq!(test.get(&[]).await.2, "a");
        assert_eq!(test.get(&[]).await.2, "a", "a lifetime by status");
        assert_eq!(test.calls(), 2);
    });
}

#[test]
fn a_condition_of_a_client_does_not_keep_the_store_empty() {
    block_on(async {
        let test = Test::new(vec![ok(TAGGED, "one")]);
        let (status, headers, body) = test.get(&[("if-none-match", "\"1\"")]).await;
        assert_eq!((status, body.as_str()), (304, ""));
        assert_eq!(cache_status(&headers), "tidegate; fwd=uri-miss; ttl=60; stored");
        assert!(!test.sent(0).contains_key("if-none-match"));
        tokio::task::yield_now().await;
        assert_eq!(test.get(&[]).await.2, "one");
        assert_eq!(test.calls(), 1);
    });
}

#[test]
fn predictions_say_what_is_stored() {
    block_on(async {
        let test = Test::new(vec![ok(FRESH, "one")]);
        let note = |request| test.middleware.predict(request);
        assert_eq!(note(get("http://h.test/a")).notes, ["miss: nothing is stored", "key: http://h.test/a"]);
        test.get(&[]).await;
        let stored = note(get("http://h.test/a"));
        assert!(matches!(stored.verdict, Verdict::Responds(_)));
        assert_eq!(stored.notes[0], "hit: answered from the cache");
        test.advance(60);
        assert_eq!(
            note(get("http://h.test/a")).notes[0],
            "miss: the stored response is stale and is validated"
        );
        assert_eq!(
            note(request(http::Request::post("http://h.test/a"))).notes,
            ["passes the cache by: method"]
        );
        assert_eq!(test.calls(), 1);
    });
}

#[test]
fn what_is_asked_for_once_is_not_stored() {
    block_on(async {
        let options = Cache { min_uses: 2, ..Cache::default() };
        let test = Test::with(options, vec![ok(FRESH, "one"), ok(FRESH, "two"), ok(FRESH, "three")], None);
        let (_, headers, _) = test.get(&[]).await;
        assert_eq!(cache_status(&headers), "tidegate; fwd=uri-miss; detail=min-uses");
        assert_eq!(test.get(&[]).await.2, "two");
        assert_eq!(test.get(&[]).await.2, "two");
        assert_eq!(test.calls(), 2);
    });
}

#[test]
fn what_is_stored_survives_a_change_of_options() {
    block_on(async {
        let (world, _) = World::stopped();
        let service = Arc::new(Script {
            responses: Mutex::new(vec![ok(FRESH, "one"), ok(FRESH, "two")]),
            seen: Mutex::default(),
            calls: AtomicUsize::new(0),
            gate: None,
        });
        for max_waiting in [1, 2] {
            let middleware = build_in(&world, Cache { max_waiting, ..Cache::default() }).unwrap();
            let next = Next::new([middleware], Next::service(service.clone()));
            let response = next.run(get("http://h.test/a")).await;
            assert_eq!(response.into_body().collect(10).await.unwrap().bytes, "one");
        }
    });
}

#[test]
fn limits_and_exclusions_count_whatever_servers_say() {
    block_on(async {
        let options = Cache {
            max_ttl: Some(Duration::from_secs(10)),
            max_stale: Some(Duration::from_secs(5)),
            excluded_status_codes: vec!["404".to_owned(), "500-599".to_owned()],
            x_cache_status: true,
            status_header: false,
            ..Cache::default()
        };
        let script = vec![status(404, FRESH, ""), status(502, FRESH, ""), ok(FRESH, "one"), ok(FRESH, "two")];
        let test = Test::with(options, script, None);
        let word = |headers: &HeaderMap| headers["x-cache-status"].to_str().unwrap().to_owned();
        for expected in [(404, "MISS"), (502, "MISS"), (200, "MISS"), (200, "HIT")] {
            let (status, headers, _) = test.get(&[]).await;
            assert_eq!((status, word(&headers).as_str()), expected);
            assert!(!headers.contains_key("cache-status"));
        }
        test.advance(14);
        let lenient: Lines = &[("cache-control", "max-stale=60")];
        let (_, headers, body) = test.get(lenient).await;
        assert_eq!((word(&headers).as_str(), body.as_str()), ("HIT", "one"));
        test.advance(2);
        assert_eq!(test.get(lenient).await.2, "two", "the limit of max-stale");
        let (_, headers, _) = test.send(request(http::Request::post("http://h.test/a"))).await;
        assert_eq!(word(&headers), "BYPASS");
    });
}

#[test]
fn mistakes_in_options_are_found_together() {
    let options = Cache {
        max_bytes: 0,
        max_variants: 0,
        ttl: BTreeMap::from([("4xx".to_owned(), Duration::from_secs(1))]),
        key: KeyOptions {
            headers: vec!["a b".to_owned()],
            query: vec!["a".to_owned()],
            exclude_query: vec!["b".to_owned()],
            ..KeyOptions::default()
        },
        ..Cache::default()
    };
    let error = build_in(&World::default(), options).err().unwrap();
    assert_eq!(error.messages().len(), 5, "{error}");
}
