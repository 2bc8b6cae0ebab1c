//! Stored responses while no server can be reached.

use tidegate_core::ConnectCause;

use super::*;

/// Failures to reach a server, and the statuses of their responses.
fn disconnections() -> Vec<(UpstreamError, u16)> {
    let (server, reason) = ("a:80".to_owned(), "test".to_owned());
    let connect = |cause| {
        let (server, reason) = (server.clone(), reason.clone());
        (UpstreamError::Connect { server, reason, cause }, 502)
    };
    vec![
        (UpstreamError::NoServer, 503),
        connect(ConnectCause::Refused),
        connect(ConnectCause::Name),
        connect(ConnectCause::Unroutable),
        (UpstreamError::ConnectTimeout { server: server.clone() }, 504),
        (UpstreamError::Tls { server: server.clone(), reason: reason.clone(), is_certificate: false }, 500),
        (UpstreamError::Lost { server, reason, sent: false }, 502),
    ]
}

#[test]
fn stale_responses_of_any_age_are_sent_while_no_server_can_be_reached() {
    block_on(async {
        for (error, code) in disconnections() {
            let stored_and_failing = |options: Cache, lines: Lines| {
                let test = Test::with(options, vec![ok(lines, "one"), failure(error.clone())], None);
                async {
                    test.get(&[]).await;
                    test.advance(100_000);
                    test
                }
            };
            let test = stored_and_failing(Cache::default(), FRESH).await;
            let (status, headers, body) = test.get(&[]).await;
            assert_eq!((status, body.as_str()), (200, "one"), "{error}");
            let expected = format!("tidegate; fwd=stale; fwd-status={code}; ttl=-99940");
            assert_eq!(cache_status(&headers), expected);
            assert_eq!(test.get(&[("cache-control", "no-cache")]).await.0, code, "{error}");

            let without = Cache { stale_without_server: false, ..Cache::default() };
            assert_eq!(stored_and_failing(without, FRESH).await.get(&[]).await.0, code, "{error}");
            for directives in ["must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"] {
                let lines: Lines = Box::leak(Box::new([
                    ("cache-control", &*format!("max-age=60, {directives}").leak()),
                    ("etag", "\"1\""),
                ]));
                let test = stored_and_failing(Cache::default(), lines).await;
                assert_eq!(test.get(&[]).await.0, code, "{error}, {directives}");
            }
        }
    });
}

#[test]
fn servers_that_have_taken_the_request_are_left_to_stale_if_error() {
    block_on(async {
        let (server, reason) = ("a:80".to_owned(), "test".to_owned());
        for error in [
            UpstreamError::Lost { server: server.clone(), reason: reason.clone(), sent: true },
            UpstreamError::ResponseTimeout { server: server.clone() },
            UpstreamError::Malformed { server, reason },
        ] {
            let grace = Cache { stale_if_error: Duration(StdDuration::from_secs(60)), ..Cache::default() };
            for (options, is_stale) in [(Cache::default(), false), (grace, true)] {
                let test = Test::with(options, vec![ok(FRESH, "one"), failure(error.clone())], None);
                test.get(&[]).await;
                test.advance(100);
                assert_eq!(test.get(&[]).await.0 == 200, is_stale, "{error}");
            }
        }
    });
}

#[test]
fn requests_with_a_stale_response_do_not_wait_for_a_server() {
    block_on(async {
        let has_substitute = |request: &Request| {
            let mut response = Response::new(Body::full(request.context.has_substitute.to_string()));
            response.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            response
        };
        let asked = |options: Cache| async move {
            let test = Test::with(options, vec![Box::new(has_substitute)], None);
            assert_eq!(test.get(&[]).await.2, "false", "nothing is stored");
            test.advance(100);
            test.get(&[]).await.2
        };
        assert_eq!(asked(Cache::default()).await, "true");
        assert_eq!(asked(Cache { stale_without_server: false, ..Cache::default() }).await, "false");

        // After a 304 about something else, what is stored cannot be used.
        let other = status(304, &[("etag", "\"9\"")], "");
        let test = Test::new(vec![ok(TAGGED, "one"), other, Box::new(has_substitute)]);
        test.get(&[]).await;
        test.advance(100);
        assert_eq!(test.get(&[]).await.2, "false");
    });
}
