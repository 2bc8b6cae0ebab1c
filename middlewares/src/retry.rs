//! Retries requests when the server is unreachable or responds with certain statuses.

use std::sync::Arc;
use std::time::{Duration as StdDuration, Instant};

use http::Method;
use serde::{Deserialize, Serialize};
use tidegate_core::values::{Duration, is_default};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, BuildErrors, Exchange, Middleware, Next, OpenSpan,
    Prediction, Request, Response, SpanKind, UpstreamError, boxed,
};

use crate::replay::Replay;
use crate::status_ranges::StatusRanges;

/// Traefik's `retry`. Each attempt goes to a server that was not tried before, if there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Retry {
    /// Maximum number of attempts, including the first.
    #[serde(skip_serializing_if = "is_default")]
    pub attempts: i64,
    /// No attempt starts after this time; zero means no limit.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub timeout: Duration,
    /// Delay before the second attempt. It grows to at most twice that; zero means no delay.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub initial_interval: Duration,
    /// Bytes of a request body kept for another attempt; -1 means all of it. A request is not retried once
    /// more than that has been sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_request_body_bytes: Option<i64>,
    /// Statuses to retry, as `503` or `500-504`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<String>,
    /// Do not retry when the server is unreachable.
    #[serde(skip_serializing_if = "is_default")]
    pub disable_retry_on_network_error: bool,
    /// Also retry requests whose method is not idempotent (`POST`, `PATCH`, `LOCK`).
    #[serde(skip_serializing_if = "is_default")]
    pub retry_non_idempotent_method: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 0,
            timeout: Duration::default(),
            initial_interval: Duration::default(),
            max_request_body_bytes: Some(2 * 1024 * 1024),
            status: Vec::new(),
            disable_retry_on_network_error: false,
            retry_non_idempotent_method: false,
        }
    }
}

impl Build for Retry {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.status.is_empty() && self.disable_retry_on_network_error {
            return Err(BuildError::new(
                "retry middleware requires at least HTTP status codes or retry on TCP",
            ));
        }
        let attempts = u32::try_from(self.attempts).ok().filter(|attempts| *attempts > 0).ok_or_else(|| {
            BuildError::new(format!("incorrect (or empty) value for attempt ({})", self.attempts))
        });
        let (attempts, status) = BuildErrors::both(attempts, StatusRanges::parse(&self.status))?;
        let limit = self.max_request_body_bytes.unwrap_or(2 * 1024 * 1024);
        Ok(Arc::new(Retrier {
            attempts,
            timeout: (!self.timeout.is_zero()).then_some(self.timeout.0),
            interval: self.initial_interval.0,
            limit: u64::try_from(limit).unwrap_or(u64::MAX),
            status,
            on_network_error: !self.disable_retry_on_network_error,
            any_method: self.retry_non_idempotent_method,
        }))
    }
}

struct Retrier {
    attempts: u32,
    timeout: Option<StdDuration>,
    interval: StdDuration,
    limit: u64,
    status: StatusRanges,
    on_network_error: bool,
    any_method: bool,
}

impl Middleware for Retrier {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if self.attempts == 1 { next.run(request) } else { boxed(move || self.send(request, next)) }
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::passes(request).note(format!("makes at most {} attempts", self.attempts))
    }
}

impl Retrier {
    async fn send(&self, request: Request, next: &Next) -> Response {
        let started = Instant::now();
        let Request { head, body, context } = request;
        let mut replay = Replay::new(body, self.limit);
        let mut body = replay.next().unwrap_or_default();
        let mut attempt = 1;
        loop {
            let span = begin_span(&context.exchange, attempt);
            let response = next.run(Request::new(head.clone(), body, context.clone())).await;
            if let Some(span) = span {
                span.finish(response.status().as_u16());
            }
            if attempt >= self.attempts
                || !self.wants_another(&head.method, &response)
                || self.timed_out(started)
            {
                return response;
            }
            let Some(again) = replay.next() else { return response };
            let status = response.status().as_u16();
            drop(response);
            tracing::debug!(
                router = context.exchange.router(),
                attempt = attempt + 1,
                "retrying the request"
            );
            context.exchange.retry(status);
            let wait = self.delay_before(attempt + 1);
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            body = again;
            attempt += 1;
        }
    }

    fn timed_out(&self, started: Instant) -> bool {
        self.timeout.is_some_and(|timeout| started.elapsed() >= timeout)
    }

    fn wants_another(&self, method: &Method, response: &Response) -> bool {
        if self.on_network_error
            && let Some(failure) = &response.failure
            && self.is_repeatable(method, failure)
        {
            return true;
        }
        (self.any_method || !is_non_idempotent(method)) && self.status.contains(response.status())
    }

    /// A request that cannot have reached a server may always be repeated; one lost in transit only if its
    /// method is idempotent.
    fn is_repeatable(&self, method: &Method, failure: &UpstreamError) -> bool {
        match failure {
            // There is no server, and so no other one to try.
            UpstreamError::NoServer => false,
            failure if failure.is_unsent() => true,
            UpstreamError::Lost { .. } => self.any_method || method.is_idempotent(),
            _ => false,
        }
    }

    /// Returns the delay before an attempt: growing to at most twice the initial interval, with a jitter of
    /// half.
    fn delay_before(&self, attempt: u32) -> StdDuration {
        if self.interval.is_zero() {
            return StdDuration::ZERO;
        }
        let growth = f64::from(attempt - 2) / f64::from(self.attempts - 1);
        self.interval.mul_f64(2f64.powf(growth) * (0.5 + fastrand::f64()))
    }
}

/// Begins the span of an attempt, if it is recorded.
fn begin_span(exchange: &Exchange, attempt: u32) -> Option<OpenSpan> {
    let spans = exchange.detailed_spans()?;
    spans.begin(SpanKind::Retry(exchange.middleware()?.clone(), attempt - 1))
}

/// Returns true for methods that Traefik considers non-idempotent.
fn is_non_idempotent(method: &Method) -> bool {
    *method == Method::POST || *method == Method::PATCH || method.as_str() == "LOCK"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::tests::pieces;
    use crate::testing::{self, Service, World, block_on, build_in, get, text, with_body};
    use http::StatusCode;
    use std::sync::Mutex;
    use tidegate_core::{Body, Reason, ServerInfo, reply};

    fn options(attempts: i64) -> Retry {
        Retry { attempts, ..Retry::default() }
    }

    fn refused() -> UpstreamError {
        UpstreamError::Connect {
            server: "a:80".into(),
            reason: "refused".into(),
            cause: tidegate_core::ConnectCause::Refused,
        }
    }

    fn lost(sent: bool) -> UpstreamError {
        UpstreamError::Lost { server: "a:80".into(), reason: "reset".into(), sent }
    }

    /// Responds with the failures in order, then with the request body; returns the number of calls.
    fn run(options: Retry, request: Request, failures: Vec<Response>) -> (Response, usize) {
        let failures = Arc::new(Mutex::new((failures.into_iter(), 0)));
        let inner = failures.clone();
        #[derive(Clone)]
        struct Reading<F>(F);
        impl<F: Fn() -> Option<Response> + Send + Sync + 'static> tidegate_core::Handler for Reading<F> {
            fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
                Box::pin(async move {
                    let body = request
                        .body
                        .collect(1 << 20)
                        .await
                        .map_or_else(|_| "broken".into(), |body| body.bytes);
                    (self.0)().unwrap_or_else(|| Response::new(Body::full(body)))
                })
            }
        }
        let service = Reading(move || {
            let mut state = inner.lock().unwrap();
            state.1 += 1;
            state.0.next()
        });
        let response = block_on(testing::run(&testing::build(options), request, &service));
        let calls = failures.lock().unwrap().1;
        (response, calls)
    }

    fn failures<const N: usize>(failures: [UpstreamError; N]) -> Vec<Response> {
        failures.map(reply::upstream_failure).into()
    }

    #[test]
    fn an_unreachable_server_is_retried_with_the_whole_body() {
        let request = with_body(http::Request::post("http://h.test/"), "hello");
        let (response, calls) = run(options(3), request, failures([refused(), lost(false)]));
        assert_eq!((response.status().as_u16(), calls), (200, 3));
        assert_eq!(text(response), "hello");

        let mut request = with_body(http::Request::post("http://h.test/"), "");
        request.body = pieces(&["he", "llo"]);
        let (response, calls) = run(options(2), request, failures([refused()]));
        assert_eq!((text(response).as_str(), calls), ("hello", 2));
    }

    #[test]
    fn attempts_include_the_first() {
        let (response, calls) =
            run(options(2), get("http://h.test/"), failures([refused(), refused(), refused()]));
        assert_eq!((response.status().as_u16(), calls), (502, 2));
        let (response, calls) = run(options(1), get("http://h.test/"), failures([refused()]));
        assert_eq!((response.status().as_u16(), calls), (502, 1));
    }

    #[test]
    fn a_request_that_may_have_been_received_is_retried_only_if_idempotent() {
        let post = || with_body(http::Request::post("http://h.test/"), "x");
        assert_eq!(run(options(3), post(), failures([lost(true)])).1, 1);
        assert_eq!(run(options(3), get("http://h.test/"), failures([lost(true)])).1, 2);
        let any = Retry { retry_non_idempotent_method: true, ..options(3) };
        assert_eq!(run(any, post(), failures([lost(true)])).1, 2);
        assert_eq!(run(options(3), get("http://h.test/"), failures([UpstreamError::NoServer])).1, 1);
    }

    #[test]
    fn listed_statuses_are_retried() {
        let unavailable = || vec![reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::NoServer)];
        let asked = Retry { status: vec!["500-504".into()], ..options(2) };
        assert_eq!(run(asked.clone(), get("http://h.test/"), unavailable()).1, 2);
        assert_eq!(run(options(2), get("http://h.test/"), unavailable()).1, 1);
        let post = || with_body(http::Request::post("http://h.test/"), "x");
        assert_eq!(run(asked.clone(), post(), unavailable()).1, 1);
        assert_eq!(run(Retry { retry_non_idempotent_method: true, ..asked }, post(), unavailable()).1, 2);
    }

    #[test]
    fn a_body_over_the_limit_is_sent_once() {
        let big = |limit| {
            let mut request = with_body(http::Request::put("http://h.test/"), "");
            request.body = pieces(&["12345", "67890"]);
            let options = Retry { max_request_body_bytes: Some(limit), ..options(2) };
            run(options, request, failures([lost(false)])).1
        };
        assert_eq!([big(9), big(10), big(-1)], [1, 2, 2]);
    }

    #[test]
    fn retries_are_recorded_and_share_the_list_of_servers() {
        let request = get("http://h.test/");
        let exchange = request.context.exchange.clone();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let store = seen.clone();
        let service = Service(move |request: Request| {
            let exchange = &request.context.exchange;
            store.lock().unwrap().push((exchange.attempts().count(), exchange.has_tried(7)));
            let server = ServerInfo { id: 7, url: "http://a:80".into(), address: "a:80".into() };
            exchange.attempt(&"s@file".into(), Some(&Arc::new(server)));
            reply::upstream_failure(refused())
        });
        block_on(testing::run(&testing::build(options(3)), request, &service));
        assert_eq!(*seen.lock().unwrap(), [(0, false), (1, true), (2, true)]);
        let summary = exchange.summary();
        assert_eq!((summary.retries, summary.failed.len(), summary.origin_status), (2, 2, None));
    }

    #[test]
    fn delays_grow_to_at_most_twice() {
        let retrier = Retrier {
            attempts: 5,
            timeout: None,
            interval: StdDuration::from_millis(100),
            limit: 0,
            status: StatusRanges::default(),
            on_network_error: true,
            any_method: false,
        };
        for _ in 0..100 {
            let (first, last) = (retrier.delay_before(2).as_millis(), retrier.delay_before(5).as_millis());
            assert!((50..=150).contains(&first) && (84..=300).contains(&last), "{first} {last}");
        }
    }

    #[test]
    fn invalid_options_are_refused() {
        let refuse = |options: Retry| build_in(&World::default(), options).err().unwrap().to_string();
        assert_eq!(refuse(options(0)), "incorrect (or empty) value for attempt (0)");
        let nothing = Retry { disable_retry_on_network_error: true, ..options(2) };
        assert_eq!(refuse(nothing), "retry middleware requires at least HTTP status codes or retry on TCP");
        assert!(refuse(Retry { status: vec!["x".into()], ..options(2) }).contains("`x`"));
    }
}
