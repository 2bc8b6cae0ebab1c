//! Buffers whole requests and responses before passing them on, with limits, and can retry failed requests.

mod spool;

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::{HeaderValue, Method, StatusCode};
use http_body::Body as _;
use serde::{Deserialize, Serialize};
use tidegate_core::expression::Call;
use tidegate_core::values::is_default;
use tidegate_core::{
    BodyError, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Middleware, Next, Prediction, Reason,
    Request, Response, reply,
};

use crate::condition::{self, Condition, ReturnType};
use spool::Spool;

/// Traefik's `buffering`. Does not suit streams (events, gRPC). Upgraded connections pass unbuffered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Buffering {
    /// Maximum length of the request body in bytes; 0 means unlimited. Longer ones get 413.
    #[serde(skip_serializing_if = "is_default")]
    pub max_request_body_bytes: i64,
    /// Bytes of a request body kept in memory; the rest goes to a temporary file. 0 means 1 MiB.
    #[serde(skip_serializing_if = "is_default")]
    pub mem_request_body_bytes: i64,
    /// Maximum length of the response body in bytes; 0 means unlimited. Longer ones become 500.
    #[serde(skip_serializing_if = "is_default")]
    pub max_response_body_bytes: i64,
    /// Bytes of a response body kept in memory; the rest goes to a temporary file. 0 means 1 MiB.
    #[serde(skip_serializing_if = "is_default")]
    pub mem_response_body_bytes: i64,
    /// When to retry, at most ten times: a condition on `IsNetworkError()`, `Attempts()` and
    /// `ResponseCode()`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub retry_expression: String,
}

const DEFAULT_MEMORY: u64 = 1024 * 1024;
const MAX_RETRIES: u32 = 10;

impl Build for Buffering {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let limits = |name: &str, max: i64, memory: i64| {
            let negative = || BuildError::new(format!("{name} cannot be negative"));
            let memory = u64::try_from(memory).map_err(|_| negative())?;
            let max = u64::try_from(max)
                .map_err(|_| BuildError::new(format!("max bytes should be >= 0 got {max}")))?;
            Ok::<_, BuildError>(Limits {
                max: if max == 0 { u64::MAX } else { max },
                memory: if memory == 0 { DEFAULT_MEMORY } else { memory },
            })
        };
        let retry = match self.retry_expression.as_str() {
            "" => Ok(None),
            text => Condition::parse(text, &function).map(Some),
        };
        let limits = BuildErrors::both(
            limits("memRequestBodyBytes", self.max_request_body_bytes, self.mem_request_body_bytes),
            limits("memResponseBodyBytes", self.max_response_body_bytes, self.mem_response_body_bytes),
        );
        let ((request, response), retry) = BuildErrors::both(limits, retry)?;
        Ok(Arc::new(Buffer { request, response, retry }))
    }
}

/// The functions of a retry expression.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    IsNetworkError,
    Attempts,
    ResponseCode,
}

fn function(call: &Call) -> Result<(Value, ReturnType), BuildError> {
    condition::numbers::<0>(call)?;
    match call.name.as_str() {
        "IsNetworkError" => Ok((Value::IsNetworkError, ReturnType::Bool)),
        "Attempts" => Ok((Value::Attempts, ReturnType::Number)),
        "ResponseCode" => Ok((Value::ResponseCode, ReturnType::Number)),
        _ => Err(condition::unknown(call, &["IsNetworkError", "Attempts", "ResponseCode"])),
    }
}

/// Maximum length of a body, and of its part in memory, in bytes.
#[derive(Clone, Copy)]
struct Limits {
    max: u64,
    memory: u64,
}

struct Buffer {
    request: Limits,
    response: Limits,
    retry: Option<Condition<Value>>,
}

impl Middleware for Buffer {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        Box::pin(self.send(request, next))
    }

    fn predict(&self, request: Request) -> Prediction {
        if http_body::Body::size_hint(&request.body).lower() > self.request.max {
            return Prediction::responds(refusal(&BodyError::TooLarge { limit: self.request.max }));
        }
        Prediction::passes(request).note("buffers the whole request and the whole response")
    }
}

impl Buffer {
    async fn send(&self, request: Request, next: &Next) -> Response {
        let Request { mut head, body, context } = request;
        // Without a length or an encoding there is no body: the request must not gain a length.
        let had_body = !body.is_end_stream() || head.headers.contains_key(TRANSFER_ENCODING);
        if body.size_hint().lower() > self.request.max {
            return refusal(&BodyError::TooLarge { limit: self.request.max });
        }
        let spool = match Spool::fill(body, self.request.max, self.request.memory).await {
            Ok(spool) => spool,
            Err(error) => return refusal(&error),
        };
        head.headers.remove(TRANSFER_ENCODING);
        head.headers.remove(TRAILER);
        if had_body {
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(spool.len()));
        }
        let (mut attempt, stage) = (1, context.exchange.stage());
        loop {
            let response = next.run(Request::new(head.clone(), spool.body(), context.clone())).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return response;
            }
            let (response, is_own) = self.buffered(response, &head.method).await;
            if is_own {
                context.exchange.replace_at(stage);
            }
            if attempt > MAX_RETRIES || !self.wants_another(&response, attempt) {
                return response;
            }
            let status = response.status().as_u16();
            drop(response);
            attempt += 1;
            tracing::debug!(
                router = context.exchange.router(),
                attempt,
                "buffering: sending the request again"
            );
            context.exchange.retry(status);
        }
    }

    /// Returns the response with its whole body buffered, or a response about it and true.
    async fn buffered(&self, mut response: Response, method: &Method) -> (Response, bool) {
        let status = response.status();
        if *method == Method::HEAD || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return (response, false);
        }
        let body = std::mem::take(&mut response.body);
        match Spool::fill(body, self.response.max, self.response.memory).await {
            Ok(spool) => {
                let headers = response.headers_mut();
                headers.remove(TRANSFER_ENCODING);
                headers.remove(TRAILER);
                headers.insert(CONTENT_LENGTH, HeaderValue::from(spool.len()));
                response.body = spool.body();
                (response, false)
            }
            Err(BodyError::TooLarge { limit }) => {
                tracing::warn!(limit, "buffering: response longer than maxResponseBodyBytes");
                (reply::status_text(StatusCode::INTERNAL_SERVER_ERROR, Reason::ResponseTooLarge), true)
            }
            Err(error) => {
                tracing::warn!(%error, "buffering: reading the response failed");
                (reply::status_text(StatusCode::BAD_GATEWAY, Reason::ResponseBroken), true)
            }
        }
    }

    fn wants_another(&self, response: &Response, attempt: u32) -> bool {
        let code = response.status().as_u16();
        self.retry.as_ref().is_some_and(|condition| {
            condition.holds(&|value| match value {
                Value::IsNetworkError => f64::from(u8::from(code == 502 || code == 504)),
                Value::Attempts => f64::from(attempt),
                Value::ResponseCode => f64::from(code),
            })
        })
    }
}

fn refusal(error: &BodyError) -> Response {
    let (status, reason) = match error {
        BodyError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Reason::RequestTooLarge),
        BodyError::TimedOut => (StatusCode::REQUEST_TIMEOUT, Reason::ClientTimeout),
        BodyError::Io(error) => {
            tracing::error!(%error, "buffering: temporary file failed");
            (StatusCode::INTERNAL_SERVER_ERROR, Reason::InternalError)
        }
        _ => (StatusCode::BAD_REQUEST, Reason::ClientGone),
    };
    reply::status_text(status, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::pieces;
    use crate::testing::{self, Service, World, block_on, build_in, get, text, with_body};
    use std::sync::atomic::{AtomicU32, Ordering};
    use tidegate_core::{Body, Handler, UpstreamError};

    /// Returns the declared length and the content of the request body.
    #[derive(Clone)]
    struct Echo;

    impl Handler for Echo {
        fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
            Box::pin(async move {
                let length =
                    request.head.headers.get(CONTENT_LENGTH).map_or("none".into(), |v| format!("{v:?}"));
                let body = request.body.collect(1 << 24).await.unwrap().bytes;
                Response::new(Body::full(format!("{length} {}", String::from_utf8_lossy(&body))))
            })
        }
    }

    fn post(parts: &[&str]) -> Request {
        let mut request =
            with_body(http::Request::post("http://h.test/").header(TRANSFER_ENCODING, "chunked"), "");
        request.body = pieces(parts);
        request
    }

    fn ask(options: &Buffering, request: Request) -> (u16, String) {
        let (status, body) = block_on(async {
            let response = testing::run(&testing::build(options.clone()), request, &Echo).await;
            (response.status().as_u16(), response.into_body().collect(1 << 24).await.unwrap().bytes)
        });
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[test]
    fn a_request_of_unknown_length_gets_one() {
        let options = Buffering::default();
        assert_eq!(ask(&options, post(&["one", "two"])), (200, "\"6\" onetwo".into()));
        assert_eq!(ask(&options, get("http://h.test/")), (200, "none ".into()));
    }

    #[test]
    fn long_requests_are_refused() {
        let options = Buffering { max_request_body_bytes: 5, ..Buffering::default() };
        assert_eq!(ask(&options, post(&["one", "two"])), (413, "Request Entity Too Large".into()));
        assert_eq!(ask(&options, post(&["one", "tw"])).0, 200);
        let whole = with_body(http::Request::post("http://h.test/"), "123456");
        assert_eq!(ask(&options, whole).0, 413);
    }

    #[test]
    fn long_responses_are_refused() {
        let options = Buffering { max_response_body_bytes: 8, ..Buffering::default() };
        assert_eq!(ask(&options, post(&["one", "two"])), (500, "Internal Server Error".into()));
        assert_eq!(ask(&options, post(&["one"])).0, 200);
    }

    #[test]
    fn bodies_too_large_for_memory_go_to_a_file() {
        let options =
            Buffering { mem_request_body_bytes: 4, mem_response_body_bytes: 4, ..Buffering::default() };
        let long = "0123456789".repeat(40_000);
        let expected = format!("\"{}\" {long}", long.len());
        assert_eq!(ask(&options, post(&[&long[..7], &long[7..200_000], &long[200_000..]])), (200, expected));
    }

    #[test]
    fn requests_are_repeated_as_long_as_the_expression_holds() {
        let calls = |expression: &str, failure: UpstreamError| {
            let options = Buffering { retry_expression: expression.into(), ..Buffering::default() };
            let counter = Arc::new(AtomicU32::new(0));
            let inner = counter.clone();
            let service = Service(move |request: Request| {
                assert_eq!(request.body.as_bytes().unwrap(), "onetwo");
                inner.fetch_add(1, Ordering::Relaxed);
                reply::upstream_failure(failure.clone())
            });
            let response = block_on(testing::run(&testing::build(options), post(&["one", "two"]), &service));
            assert!(text(response).starts_with("Bad Gateway"));
            counter.load(Ordering::Relaxed)
        };
        let refused = || UpstreamError::Connect {
            server: "a:80".into(),
            reason: "refused".into(),
            cause: tidegate_core::ConnectCause::Refused,
        };
        assert_eq!(calls("IsNetworkError() && Attempts() < 3", refused()), 3);
        assert_eq!(calls("ResponseCode() == 502", refused()), 11);
        assert_eq!(calls("ResponseCode() == 503", refused()), 1);
    }

    #[test]
    fn wrong_options_are_refused() {
        let refuse = |expression: &str| {
            let options = Buffering { retry_expression: expression.into(), ..Buffering::default() };
            build_in(&World::default(), options).err().unwrap().to_string()
        };
        assert!(!refuse("IsNetworkError( && ").is_empty());
        assert!(refuse("Attempts()").contains("must be compared"));
        assert!(refuse("IsNetworkError() > 1").contains("cannot be compared"));
        assert!(refuse("Nope()").contains("unknown function `Nope`"));
    }
}
