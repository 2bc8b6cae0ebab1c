//! Requests that are sent a response while another one receives it.

use std::task::Context;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;

const SIZED: Lines = &[("cache-control", "max-age=60"), ("content-length", "6"), ("etag", "\"1\"")];

/// A body whose pieces come from a test.
struct Piecewise(mpsc::UnboundedReceiver<Result<Frame<Bytes>, BodyError>>);

impl Frames for Piecewise {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        self.0.poll_recv(cx)
    }
}

#[derive(Clone)]
struct Server(mpsc::UnboundedSender<Result<Frame<Bytes>, BodyError>>);

impl Server {
    fn send(&self, piece: &'static str) {
        assert!(self.0.send(Ok(Frame::data(piece.into()))).is_ok(), "nobody reads");
    }

    fn fail(self) {
        let _ = self.0.send(Err(BodyError::Other("lost".to_owned())));
    }
}

/// A response whose body is sent by [`Server`]. Its second request is answered with "other".
fn piecewise(lines: Lines) -> (Test, Server) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let receiver = Mutex::new(Some(receiver));
    let first: Answer = Box::new(move |request| {
        let mut response = ok(lines, "")(request);
        let receiver = receiver.lock().unwrap().take().unwrap();
        response.body = Body::of_frames(Piecewise(receiver));
        response
    });
    let test = Test::new(vec![first, ok(&[("cache-control", "no-store")], "other")]);
    (test, Server(sender))
}

async fn response(test: &Test) -> Response {
    test.next.run(get("http://h.test/a")).await
}

async fn piece(response: &mut Response) -> Bytes {
    response.body.frame().await.unwrap().unwrap().into_data().unwrap()
}

async fn whole(response: Response) -> Result<Bytes, String> {
    response.into_body().collect(100).await.map(|body| body.bytes).map_err(|error| error.to_string())
}

#[test]
fn a_body_is_sent_to_all_as_it_arrives() {
    block_on(async {
        let (test, server) = piecewise(SIZED);
        server.send("on");
        let mut first = response(&test).await;
        assert_eq!(piece(&mut first).await, "on");
        let mut second = response(&test).await;
        assert_eq!(second.headers()["content-length"], "6");
        assert_eq!(cache_status(second.headers()), "tidegate; hit; ttl=60; collapsed");
        assert_eq!(piece(&mut second).await, "on");
        server.send("e");
        assert_eq!((piece(&mut first).await, piece(&mut second).await), ("e".into(), "e".into()));
        let mut third = response(&test).await;
        assert_eq!(piece(&mut third).await, "one");
        server.send("two");
        drop(server);
        for body in [first, second, third] {
            assert_eq!(whole(body).await.unwrap(), "two");
        }
        assert_eq!(test.get(&[]).await.2, "onetwo");
        let (status, _, _) = test.get(&[("if-none-match", "\"1\"")]).await;
        assert_eq!((status, test.calls()), (304, 1));
    });
}

#[test]
fn conditions_are_answered_as_soon_as_the_head_is_known() {
    block_on(async {
        let (test, _server) = piecewise(SIZED);
        let _first = response(&test).await;
        assert_eq!(test.get(&[("if-none-match", "\"1\"")]).await.0, 304);
        assert_eq!(test.calls(), 1);
    });
}

#[test]
fn a_slow_client_delays_nobody() {
    block_on(async {
        let (test, server) = piecewise(SIZED);
        let first = response(&test).await;
        let second = response(&test).await;
        server.send("one");
        server.send("two");
        drop(server);
        assert_eq!(whole(second).await.unwrap(), "onetwo");
        assert_eq!(whole(first).await.unwrap(), "onetwo");
    });
}

#[test]
fn a_client_that_leaves_cuts_off_nobody() {
    block_on(async {
        let (test, server) = piecewise(SIZED);
        let first = response(&test).await;
        let mut second = response(&test).await;
        server.send("one");
        assert_eq!(piece(&mut second).await, "one");
        drop(first);
        server.send("two");
        drop(server);
        assert_eq!(whole(second).await.unwrap(), "two");
        assert_eq!(test.get(&[]).await.2, "onetwo");
        assert_eq!(test.calls(), 1);
    });
}

#[test]
fn what_nobody_reads_is_given_up() {
    block_on(async {
        let (test, server) = piecewise(SIZED);
        let (first, second) = (response(&test).await, response(&test).await);
        server.send("one");
        drop((first, second));
        server.0.closed().await;
        assert_eq!(test.get(&[]).await.2, "other");
    });
}

#[test]
fn a_body_that_fails_ends_no_response_as_complete() {
    for short in [false, true] {
        block_on(async {
            let (test, server) = piecewise(SIZED);
            let first = response(&test).await;
            let mut second = response(&test).await;
            server.send("one");
            assert_eq!(piece(&mut second).await, "one");
            if short {
                drop(server)
            } else {
                server.fail()
            }
            let (first, second) = (whole(first).await, whole(second).await);
            assert!(first.is_err() && second.is_err(), "{first:?} {second:?}");
            assert_eq!(test.get(&[]).await.2, "other", "it is not stored");
        });
    }
}

#[test]
fn a_body_with_trailers_is_sent_to_all_and_not_stored() {
    block_on(async {
        let (test, server) = piecewise(SIZED);
        let (first, second) = (response(&test).await, response(&test).await);
        server.send("onetwo");
        assert!(server.0.send(Ok(Frame::trailers(HeaderMap::new()))).is_ok());
        assert_eq!(whole(second).await.unwrap(), "onetwo");
        assert_eq!(whole(first).await.unwrap(), "onetwo");
        assert_eq!(test.get(&[]).await.2, "other");
    });
}

/// Sends a request that waits for the one that leads, and returns its body when the other one has ended.
async fn waiting(test: Test, lines: Lines, server: Server, first: Response) -> String {
    let test = Arc::new(test);
    let second = tokio::spawn({
        let test = test.clone();
        async move { test.get(lines).await.2 }
    });
    let third = tokio::spawn(async move { whole(first).await });
    server.send("onetwo");
    tokio::task::yield_now().await;
    drop(server);
    third.await.unwrap().unwrap();
    second.await.unwrap()
}

#[test]
fn what_may_not_be_storable_is_waited_for() {
    block_on(async {
        // Its length is not known, so it may be too large.
        let (test, server) = piecewise(FRESH);
        let first = response(&test).await;
        assert_eq!(waiting(test, &[], server, first).await, "onetwo");
        // The client wants it validated.
        let (test, server) = piecewise(SIZED);
        let first = response(&test).await;
        assert_eq!(waiting(test, &[("cache-control", "no-cache")], server, first).await, "other");
    });
}

#[test]
fn a_response_from_before_a_purge_is_sent_to_nobody_after_it() {
    block_on(async {
        let (test, server) = piecewise(SIZED);
        let mut first = response(&test).await;
        server.send("one");
        assert_eq!(piece(&mut first).await, "one");
        let cache = test.middleware.cache().unwrap();
        cache.purge(&tidegate_core::caches::PurgedResponses::All, "").await.unwrap();
        let second = waiting(test, &[], server.clone(), first);
        drop(server);
        assert_eq!(second.await, "other");
    });
}

#[test]
fn a_response_to_other_fields_is_not_waited_for() {
    block_on(async {
        let lines: Lines = &[("cache-control", "max-age=60"), ("content-length", "6"), ("vary", "x")];
        let (test, _server) = piecewise(lines);
        let _first = response(&test).await;
        assert_eq!(test.get(&[("x", "2")]).await.2, "other");
        assert_eq!(test.calls(), 2);
    });
}
