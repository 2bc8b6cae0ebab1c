//! Refuses request bodies that are too large, without buffering them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, SizeHint};
use serde::{Deserialize, Serialize};
use tidegate_core::{
    Body, BodyError, BoxFuture, Build, BuildContext, BuildError, Frames, Middleware, Next, Polled,
    Prediction, Reason, Request, Response, UpstreamError, boxed, reply,
};

/// Not in Traefik. A request whose `Content-Length` exceeds the limit is refused with 413 before its body is
/// read. A body of unknown length is streamed and aborted at the limit, with 413 if the response has not
/// started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct BodyLimit {
    /// Maximum length of the request body in bytes. Required.
    pub max_request_body_bytes: i64,
}

impl Build for BodyLimit {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        match u64::try_from(self.max_request_body_bytes) {
            Ok(limit) if limit > 0 => Ok(Arc::new(Limit(limit))),
            _ => Err(BuildError::new(format!(
                "bodyLimit: maxRequestBodyBytes is {}: expected a number of bytes above 0",
                self.max_request_body_bytes
            ))),
        }
    }
}

struct Limit(u64);

impl Middleware for Limit {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let known = request.body.size_hint();
        if known.lower() > self.0 {
            return crate::ready(reply::status_text(StatusCode::PAYLOAD_TOO_LARGE, Reason::RequestTooLarge));
        }
        if known.upper().is_some_and(|most| most <= self.0) {
            return next.run(request);
        }
        let passed = Arc::new(AtomicBool::new(false));
        let inner = std::mem::take(&mut request.body);
        request.body = Body::of_frames(Limited {
            inner: Some(inner),
            limit: self.0,
            left: self.0,
            passed: passed.clone(),
        });
        let response = next.run(request);
        boxed(move || async move {
            let response = response.await;
            // Other handlers map a failed request body to different statuses; this cause is known.
            let failed = response.failure.is_some();
            if passed.load(Ordering::Relaxed) && failed && response.status() != StatusCode::PAYLOAD_TOO_LARGE
            {
                return reply::upstream_failure(UpstreamError::TooLarge);
            }
            response
        })
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

/// A body that fails when it is longer than a limit.
struct Limited {
    /// `None` once the limit is exceeded: the rest is not read.
    inner: Option<Body>,
    limit: u64,
    left: u64,
    passed: Arc<AtomicBool>,
}

impl Frames for Limited {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = ready!(Pin::new(inner).poll_frame(cx));
        let length =
            polled.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref().map(Bytes::len)).unwrap_or(0);
        match self.left.checked_sub(length as u64) {
            Some(left) => {
                self.left = left;
                Poll::Ready(polled)
            }
            None => {
                self.inner = None;
                self.passed.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(BodyError::TooLarge { limit: self.limit })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(SizeHint::default, HttpBody::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::pieces;
    use crate::testing::{self, World, block_on, with_body};
    use tidegate_core::{CollectError, Handler};

    /// A service that reads the whole body, as a server would.
    #[derive(Clone)]
    struct Reader;

    impl Handler for Reader {
        fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
            Box::pin(async move {
                match request.body.collect(1 << 20).await {
                    Ok(body) => Response::new(Body::full(body.bytes)),
                    Err(CollectError::Failed(BodyError::TooLarge { .. })) => {
                        reply::upstream_failure(UpstreamError::TooLarge)
                    }
                    Err(error) => reply::upstream_failure(UpstreamError::Internal(error.to_string())),
                }
            })
        }
    }

    fn ask(limit: i64, body: Body) -> (u16, String) {
        let limit = testing::build(BodyLimit { max_request_body_bytes: limit });
        let mut request = with_body(http::Request::post("http://h.test/"), "");
        request.body = body;
        let response = block_on(testing::run(&limit, request, &Reader));
        (response.status().as_u16(), testing::text(response))
    }

    #[test]
    fn bodies_within_the_limit_pass_and_longer_ones_do_not() {
        for (body, expected) in [
            (Body::full("12345"), (200, "12345")),
            (Body::full("123456"), (413, "Request Entity Too Large")),
            (pieces(&["12", "345"]), (200, "12345")),
            (pieces(&["12", "345", "6"]), (413, "Request Entity Too Large")),
            (Body::empty(), (200, "")),
        ] {
            assert_eq!(ask(5, body), (expected.0, expected.1.to_owned()));
        }
    }

    #[test]
    fn a_body_declared_too_long_is_not_read() {
        let limit = testing::build(BodyLimit { max_request_body_bytes: 3 });
        let service = testing::Service(|_| panic!("the service was asked"));
        let request = with_body(http::Request::post("http://h.test/"), "1234");
        assert_eq!(block_on(testing::run(&limit, request, &service)).status(), 413);
    }

    #[test]
    fn a_limit_is_required() {
        for limit in [0, -1] {
            let error = testing::build_in(&World::default(), BodyLimit { max_request_body_bytes: limit })
                .err()
                .unwrap();
            assert!(error.to_string().contains("expected a number of bytes above 0"), "{error}");
        }
    }
}
