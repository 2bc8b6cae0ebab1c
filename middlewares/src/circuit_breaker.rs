//! Stops sending requests to a failing service, and resumes gradually.

mod metrics;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration as StdDuration;

use http::StatusCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_core::expression::Call;
use tidegate_core::values::{Duration, is_default};
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, BuildErrors, Clock, End, Guard, Middleware, Next, Prediction,
    Reason, Request, Response, boxed, reply,
};

use crate::condition::{self, Condition, ReturnType};
use metrics::Metrics;

/// Traefik's `circuitBreaker`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CircuitBreaker {
    /// When to trip: a condition on `NetworkErrorRatio()`,
    /// `ResponseCodeRatio(from, to, dividedByFrom, dividedByTo)`, `LatencyAtQuantileMS(quantile)` and
    /// `RequestThreshold()`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expression: String,
    /// Interval at which the condition is evaluated.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub check_period: Duration,
    /// How long the breaker stays open after tripping.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub fallback_duration: Duration,
    /// How long the recovery takes.
    #[serde(skip_serializing_if = "Duration::is_zero")]
    pub recovery_duration: Duration,
    /// Status of the responses while the breaker is open.
    #[serde(skip_serializing_if = "is_default")]
    pub response_code: u16,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            expression: String::new(),
            check_period: Duration::from_millis(100),
            fallback_duration: Duration::from_secs(10),
            recovery_duration: Duration::from_secs(10),
            response_code: 503,
        }
    }
}

impl Build for CircuitBreaker {
    const PER_ROUTER: bool = true;

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let status = StatusCode::from_u16(self.response_code).map_err(|_| {
            BuildError::new(format!("responseCode: invalid status code `{}`", self.response_code))
        });
        let (condition, status) = BuildErrors::both(Condition::parse(&self.expression, &function), status)?;
        let or = |given: Duration, default| if given.is_zero() { default } else { StdDuration::from(given) };
        let times = Times {
            check: or(self.check_period, StdDuration::from_millis(100)),
            fallback: or(self.fallback_duration, StdDuration::from_secs(10)),
            recovery: or(self.recovery_duration, StdDuration::from_secs(10)),
        };
        // The breaker stays open when a duration or the response code changes, but not when the condition
        // does.
        let switch = context.state(&format!("switch of {}", self.expression), Switch::default);
        let breaker = Arc::new(Breaker { name: context.name.into(), condition, times, switch });
        Ok(Arc::new(Breaking { breaker, status, clock: context.clock() }))
    }
}

/// The functions of a condition.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    NetworkErrorRatio,
    /// Bounds of the counted codes, and of the codes they are divided by; upper bounds are exclusive.
    ResponseCodeRatio([f64; 4]),
    LatencyAtQuantile(f64),
    Requests,
}

fn function(call: &Call) -> Result<(Value, ReturnType), BuildError> {
    let value = match call.name.as_str() {
        "NetworkErrorRatio" => condition::numbers::<0>(call).map(|_| Value::NetworkErrorRatio),
        "ResponseCodeRatio" => condition::numbers(call).map(Value::ResponseCodeRatio),
        "LatencyAtQuantileMS" => {
            condition::numbers(call).map(|[quantile]| Value::LatencyAtQuantile(quantile))
        }
        "RequestThreshold" => condition::numbers::<0>(call).map(|_| Value::Requests),
        _ => {
            let known = ["NetworkErrorRatio", "ResponseCodeRatio", "LatencyAtQuantileMS", "RequestThreshold"];
            Err(condition::unknown(call, &known))
        }
    };
    Ok((value?, ReturnType::Number))
}

struct Breaking {
    breaker: Arc<Breaker>,
    status: StatusCode,
    clock: Clock,
}

impl Middleware for Breaking {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let started = self.clock.uptime();
        if !self.breaker.admits(started) {
            return crate::ready(reply::status_text(self.status, Reason::CircuitOpen));
        }
        let response = next.run(request);
        boxed(move || async move {
            let response = response.await;
            let observer = Observer {
                breaker: self.breaker.clone(),
                clock: self.clock.clone(),
                started,
                status: response.status().as_u16(),
            };
            response.map(|body| body.with_guard(Box::new(observer)))
        })
    }

    fn predict(&self, request: Request) -> Prediction {
        let (admitted, state) = self.breaker.peek(self.clock.uptime());
        if admitted {
            return Prediction::passes(request).note(state);
        }
        Prediction::responds(reply::status_text(self.status, Reason::CircuitOpen)).note(state)
    }
}

/// Reports the outcome of a request to the breaker when its response ends.
struct Observer {
    breaker: Arc<Breaker>,
    clock: Clock,
    started: StdDuration,
    status: u16,
}

impl Guard for Observer {
    fn end(self: Box<Self>, _: End) {
        let now = self.clock.uptime();
        self.breaker.observe(self.status, now.saturating_sub(self.started), now);
    }
}

struct Times {
    check: StdDuration,
    fallback: StdDuration,
    recovery: StdDuration,
}

struct Breaker {
    name: String,
    condition: Condition<Value>,
    times: Times,
    switch: Arc<Switch>,
}

/// Metrics and state of a breaker. Times are those of [`Clock::uptime`].
#[derive(Default)]
struct Switch {
    /// False in standby, which then needs no lock.
    is_open: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    state: State,
    metrics: Metrics,
    next_check: StdDuration,
}

#[derive(Clone, Copy, Default)]
enum State {
    /// All requests are sent.
    #[default]
    Standby,
    /// No request is sent.
    Tripped { until: StdDuration },
    /// A growing share of requests is sent.
    Recovering { since: StdDuration, allowed: u64, denied: u64 },
}

impl State {
    /// Counts a request and returns whether it may be sent now. `recovery` is how long the recovery takes.
    fn admits(&mut self, now: StdDuration, recovery: StdDuration) -> bool {
        if let Self::Tripped { until } = *self {
            if now < until {
                return false;
            }
            *self = Self::Recovering { since: now, allowed: 0, denied: 0 };
        }
        let Self::Recovering { since, allowed, denied } = self else { return true };
        let elapsed = now.saturating_sub(*since);
        if elapsed > recovery {
            *self = Self::Standby;
            return true;
        }
        // At a target of one half, allowed and denied requests balance; from then on all are sent.
        let target = 0.5 * elapsed.as_secs_f64() / recovery.as_secs_f64();
        let share = (*allowed + 1) as f64 / (*allowed + 1 + *denied) as f64;
        if share < target {
            *allowed += 1;
            true
        } else {
            *denied += 1;
            false
        }
    }
}

impl Breaker {
    /// Returns whether a request may be sent now.
    fn admits(&self, now: StdDuration) -> bool {
        if !self.switch.is_open.load(Ordering::Relaxed) {
            return true;
        }
        let mut inner = self.switch.inner.lock();
        let before = inner.state;
        let admitted = inner.state.admits(now, self.times.recovery);
        match (before, inner.state) {
            (State::Tripped { .. }, State::Recovering { .. }) => {
                tracing::info!(middleware = %self.name, "circuit breaker: letting some requests pass again");
            }
            (_, State::Standby) => {
                tracing::info!(middleware = %self.name, "circuit breaker: closed again");
                self.switch.is_open.store(false, Ordering::Relaxed);
            }
            _ => {}
        }
        admitted
    }

    /// Returns whether a request would be sent now, and the state of the breaker.
    fn peek(&self, now: StdDuration) -> (bool, &'static str) {
        let mut state = self.switch.inner.lock().state;
        let shown = match state {
            State::Standby => "the breaker is closed",
            State::Tripped { until } if now < until => "the breaker is open",
            State::Tripped { .. } | State::Recovering { .. } => {
                "the breaker is recovering: a growing share of requests is sent"
            }
        };
        (state.admits(now, self.times.recovery), shown)
    }

    /// Counts a finished request, and trips when the condition holds.
    fn observe(&self, status: u16, latency: StdDuration, now: StdDuration) {
        let mut inner = self.switch.inner.lock();
        inner.metrics.record(status, latency, now);
        if now < inner.next_check {
            return;
        }
        inner.next_check = now + self.times.check;
        if matches!(inner.state, State::Tripped { .. }) {
            return;
        }
        let metrics = &inner.metrics;
        if !self.condition.holds(&|value| measure(metrics, *value, now)) {
            return;
        }
        tracing::warn!(middleware = %self.name, "circuit breaker: tripped");
        inner.state = State::Tripped { until: now + self.times.fallback };
        inner.metrics = Metrics::default();
        self.switch.is_open.store(true, Ordering::Relaxed);
    }
}

fn measure(metrics: &Metrics, value: Value, now: StdDuration) -> f64 {
    let ratio = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    match value {
        Value::NetworkErrorRatio => {
            ratio(metrics.count(now, |code| code == 502 || code == 504), metrics.count(now, |_| true))
        }
        Value::ResponseCodeRatio([from, to, by_from, by_to]) => {
            let within = |from: f64, to: f64| move |code: u16| (from..to).contains(&f64::from(code));
            ratio(metrics.count(now, within(from, to)), metrics.count(now, within(by_from, by_to)))
        }
        Value::LatencyAtQuantile(quantile) => metrics.latency_ms(quantile, now),
        Value::Requests => metrics.count(now, |_| true) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Service, World, block_on, build_in, get, text};

    const SECOND: StdDuration = StdDuration::from_secs(1);

    /// Uptime at which the tests start.
    const START: StdDuration = StdDuration::from_secs(1000);

    fn breaker(expression: &str) -> Breaker {
        let condition = Condition::parse(expression, &function).unwrap();
        let times = Times { check: SECOND / 10, fallback: SECOND * 10, recovery: SECOND * 10 };
        Breaker { name: "m@file".into(), condition, times, switch: Arc::default() }
    }

    #[test]
    fn it_trips_waits_and_recovers_gradually() {
        let start = START;
        let breaker = breaker("ResponseCodeRatio(500, 600, 0, 600) > 0.25");
        breaker.observe(200, SECOND / 100, start);
        assert!(breaker.admits(start));
        breaker.observe(500, SECOND / 100, start + SECOND / 20);
        assert!(breaker.admits(start), "not evaluated yet");
        breaker.observe(200, SECOND / 100, start + SECOND / 5);
        let tripped = start + SECOND / 5;
        assert!(!breaker.admits(tripped) && !breaker.admits(tripped + SECOND * 9));
        let recovering = tripped + SECOND * 10;
        assert!(!breaker.admits(recovering), "none at the very beginning");
        let passed = |from: StdDuration| (0..1000).filter(|_| breaker.admits(recovering + from)).count();
        let (early, late) = (passed(SECOND), passed(SECOND * 9));
        assert!(early > 0 && early < 100, "{early}");
        assert!(late > early && late < 1000, "{late}");
        assert_eq!(passed(SECOND * 11), 1000);
    }

    #[test]
    fn it_trips_again_while_recovering() {
        let start = START;
        let breaker = breaker("NetworkErrorRatio() > 0.5");
        breaker.observe(502, SECOND, start);
        assert!(!breaker.admits(start));
        assert!(!breaker.admits(start + SECOND * 10), "none at the very beginning");
        let later = start + SECOND * 15;
        assert!((0..100).any(|_| breaker.admits(later)));
        breaker.observe(504, SECOND, later);
        assert!(!breaker.admits(later + SECOND * 9));
    }

    #[test]
    fn latency_counts() {
        let start = START;
        let breaker = breaker("LatencyAtQuantileMS(50.0) > 100 && RequestThreshold() >= 3");
        for n in 1..=3u32 {
            assert!(breaker.admits(start));
            breaker.observe(200, SECOND / 5, start + SECOND * n);
        }
        assert!(!breaker.admits(start + SECOND * 3));
    }

    #[test]
    fn an_open_breaker_responds_with_the_configured_code() {
        let options = CircuitBreaker {
            expression: "ResponseCodeRatio(500, 600, 0, 600) > 0.25".into(),
            response_code: 418,
            ..CircuitBreaker::default()
        };
        let (world, clock) = World::stopped();
        let middleware = build_in(&world, options).unwrap();
        let ask = || {
            let service =
                Service(|_| reply::bare(StatusCode::INTERNAL_SERVER_ERROR, "broken", Reason::InternalError));
            block_on(testing::run(&middleware, get("http://h.test/"), &service))
        };
        assert_eq!(text(ask()), "broken");
        let answer = ask();
        assert_eq!((answer.status().as_u16(), text(answer).as_str()), (418, "I'm a teapot"));
        clock.advance(SECOND * 10 - SECOND / 1000);
        assert_eq!(ask().status(), 418);
        clock.advance(SECOND / 1000);
        assert_eq!(ask().status(), 418, "none at the very beginning of the recovery");
        clock.advance(SECOND * 10 + SECOND / 1000);
        assert_eq!(text(ask()), "broken", "the recovery is over");
    }

    #[test]
    fn it_stays_tripped_when_another_option_changes() {
        let (world, clock) = World::stopped();
        let with = |expression: &str, response_code| {
            let options =
                CircuitBreaker { expression: expression.into(), response_code, ..CircuitBreaker::default() };
            build_in(&world, options).unwrap()
        };
        let status = |middleware: &Arc<dyn Middleware>| {
            let service = Service(|_| reply::bare(StatusCode::BAD_GATEWAY, "broken", Reason::ConnectFailed));
            block_on(testing::run(middleware, get("http://h.test/"), &service)).status().as_u16()
        };
        let errors = "NetworkErrorRatio() > 0.5";
        let before = with(errors, 503);
        assert_eq!([status(&before), status(&before)], [502, 503]);
        let after = with(errors, 418);
        assert_eq!(status(&after), 418);
        assert_eq!(status(&with("NetworkErrorRatio() > 0.6", 418)), 502, "another condition starts afresh");
        clock.advance(SECOND * 10);
        assert_eq!(status(&after), 418, "none at the very beginning of the recovery");
        clock.advance(SECOND * 11);
        assert_eq!(status(&after), 502);
    }

    #[test]
    fn wrong_expressions_are_refused() {
        let refuse = |expression: &str| {
            let options = CircuitBreaker { expression: expression.into(), ..CircuitBreaker::default() };
            build_in(&World::default(), options).err().unwrap().to_string()
        };
        assert!(refuse("Nope() > 1").starts_with("unknown function `Nope`"));
        assert!(refuse("NetworkErrorRatio()").contains("must be compared"));
        assert!(refuse("ResponseCodeRatio(500) > 1").contains("takes 4 numbers"));
        assert!(!refuse("").is_empty());
    }
}
