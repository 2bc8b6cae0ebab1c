//! Lets requests pass that a policy allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use http::{HeaderName, StatusCode};
use http_body::Body as _;
use quick_cache::sync::Cache;
use serde_json::Value;
use tidegate_core::{
    Body, BoxFuture, Clock, CollectError, Middleware, Next, Prediction, Reason, Request, Response, boxed,
    reply,
};

use super::decision::{Decision, DecisionError};
use super::input::InputRules;
use super::policy::{EvaluationError, Policy};
use super::server::{Server, ServerError};
use super::threads;

/// Maximum size of a decision that is remembered, in bytes.
const MAX_REMEMBERED: usize = 4096;
/// Timeout for the evaluation of a prediction.
const PREDICTION_TIMEOUT: Duration = Duration::from_secs(2);

/// Lets requests pass that a policy allows.
pub(super) struct Gate {
    pub(super) name: Arc<str>,
    pub(super) clock: Clock,
    pub(super) input: InputRules,
    pub(super) decider: Decider,
    /// Headers for the service, whose values are results of the policy, after the decision.
    pub(super) forwarded: Vec<HeaderName>,
    /// Maximum length of a body that is part of the input.
    pub(super) body: Option<u64>,
    pub(super) cache: Option<DecisionCache>,
    pub(super) timeout: Duration,
    /// Whether requests pass for which there is no decision.
    pub(super) allows_errors: bool,
    /// Whether the last decision has failed.
    pub(super) is_failing: AtomicBool,
}

/// What decides.
pub(super) enum Decider {
    Policy {
        policy: Arc<Policy>,
        /// Whether the first result is the decision; otherwise, requests only get headers.
        decides: bool,
    },
    Server(Server),
}

/// Remembers decisions.
pub(super) struct DecisionCache {
    pub(super) decisions: Cache<[u8; 32], Remembered>,
    pub(super) ttl: Duration,
    /// Paths of what a decision depends on in the input; all of it if empty.
    pub(super) key: Vec<Vec<String>>,
}

#[derive(Clone)]
pub(super) struct Remembered {
    decision: Arc<Decision>,
    /// Uptime.
    until: Duration,
}

/// Why there is no decision.
#[derive(Debug, thiserror::Error)]
enum GateError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("no decision within {0:?}")]
    Timeout(Duration),
    #[error("too many evaluations are queued")]
    Busy,
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error(transparent)]
    Decision(#[from] DecisionError),
}

impl GateError {
    fn reason(&self) -> Reason {
        match self {
            Self::Server(_) | Self::Timeout(_) | Self::Busy => Reason::PolicyUnavailable,
            Self::Evaluation(_) | Self::Decision(_) => Reason::PolicyFailed,
        }
    }
}

impl Middleware for Gate {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        boxed(move || async move {
            let (mut request, body) = match self.read_body(request).await {
                Ok(read) => read,
                Err(refusal) => return *refusal,
            };
            let input = self.input.input(&request, body.as_deref());
            let decision = match self.decide(input).await {
                Ok(decision) => decision,
                Err(_) if self.allows_errors => Arc::new(self.undecided()),
                Err(error) => return reply::status_text(StatusCode::SERVICE_UNAVAILABLE, error.reason()),
            };
            match &*decision {
                Decision::Deny(denied) => denied.response(&request.head.method),
                Decision::Allow(allowed) => {
                    allowed.change_request(&mut request.head.headers);
                    let mut response = next.run(request).await;
                    if allowed.changes_response() {
                        allowed.change_response(response.headers_mut());
                    }
                    response
                }
            }
        })
    }

    fn predict(&self, mut request: Request) -> Prediction {
        if self.body.is_some() && request.body.size_hint().exact() != Some(0) {
            return Prediction::depends(request, "the policy reads the body");
        }
        let input = self.input.input(&request, self.body.map(|_| &b""[..]));
        let decision = match &self.decider {
            Decider::Server(server) => {
                return Prediction::depends(request, format!("asks {}", server.shown()));
            }
            Decider::Policy { policy, decides } => {
                let policy = policy.clone();
                let results = threads::run_alone(PREDICTION_TIMEOUT, move || policy.evaluate(input));
                let results = results.ok_or(GateError::Busy).and_then(|results| Ok(results?));
                results.and_then(|results| self.read(&results, *decides))
            }
        };
        match decision {
            Ok(Decision::Deny(denied)) => Prediction::responds(denied.response(&request.head.method))
                .note("the policy denies the request"),
            Ok(Decision::Allow(allowed)) => {
                allowed.change_request(&mut request.head.headers);
                let names = allowed.response_headers().cloned().collect();
                let passes = Prediction::passes(request).note("the policy allows the request");
                Prediction { response_headers: names, ..passes }
            }
            Err(error) if self.allows_errors => Prediction::passes(request)
                .note(format!("{}, and `onError` allows it", error.reason().name())),
            Err(error) => {
                let response = reply::status_text(StatusCode::SERVICE_UNAVAILABLE, error.reason());
                Prediction::responds(response).note("the policy cannot decide")
            }
        }
    }
}

impl Gate {
    /// Reads the body, if it is part of the input. It is the same afterwards.
    async fn read_body(
        &self,
        mut request: Request,
    ) -> Result<(Request, Option<bytes::Bytes>), Box<Response>> {
        let Some(limit) = self.body else { return Ok((request, None)) };
        let body = match std::mem::take(&mut request.body).collect(limit).await {
            Ok(body) => body,
            Err(CollectError::TooLarge { .. }) => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return Err(Box::new(reply::status_text(status, Reason::RequestTooLarge)));
            }
            Err(CollectError::Failed(_)) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Err(Box::new(reply::status_text(status, Reason::PolicyUnavailable)));
            }
        };
        let bytes = body.bytes.clone();
        request.body = Body::from(body);
        Ok((request, Some(bytes)))
    }

    async fn decide(&self, input: Value) -> Result<Arc<Decision>, GateError> {
        let key = self.cache.as_ref().map(|cache| (cache, cache.key(&input)));
        if let Some((cache, key)) = &key
            && let Some(known) = cache.decisions.get(key)
            && self.clock.uptime() < known.until
        {
            return Ok(known.decision);
        }
        let decision = tokio::time::timeout(self.timeout, self.ask(input)).await;
        let decision = decision.unwrap_or(Err(GateError::Timeout(self.timeout)));
        self.log(decision.as_ref().err());
        let decision = Arc::new(decision?);
        if let Some((cache, key)) = key
            && decision.size() <= MAX_REMEMBERED
        {
            let until = self.clock.uptime() + cache.ttl;
            cache.decisions.insert(key, Remembered { decision: decision.clone(), until });
        }
        Ok(decision)
    }

    async fn ask(&self, input: Value) -> Result<Decision, GateError> {
        match &self.decider {
            Decider::Server(server) => Ok(Decision::read(server.ask(&input).await?.as_ref())?),
            Decider::Policy { policy, decides } => {
                let policy = policy.clone();
                let results = threads::run(move || policy.evaluate(input)).await.ok_or(GateError::Busy)??;
                self.read(&results, *decides)
            }
        }
    }

    /// Reads the results of a policy: the decision, then the values of the forwarded headers.
    fn read(&self, results: &[Option<Value>], decides: bool) -> Result<Decision, GateError> {
        let mut results = results.iter();
        let mut decision = match decides {
            true => Decision::read(results.next().and_then(Option::as_ref))?,
            false => Decision::read(Some(&Value::Bool(true)))?,
        };
        for (name, value) in self.forwarded.iter().zip(results) {
            decision.forward(name, value.as_ref())?;
        }
        Ok(decision)
    }

    /// Returns the decision for requests that pass without one: they have none of the policy's headers.
    fn undecided(&self) -> Decision {
        let mut decision = Decision::Allow(Default::default());
        for name in &self.forwarded {
            // Removing a header cannot fail.
            drop(decision.forward(name, None));
        }
        decision
    }

    fn log(&self, error: Option<&GateError>) {
        let middleware = &self.name;
        match error {
            None => {
                if self.is_failing.load(Ordering::Relaxed) && self.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(%middleware, "the policy decides again");
                }
            }
            // Clients can cause it.
            Some(GateError::Busy) => {}
            Some(error) => {
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%middleware, %error, "the policy does not decide");
                }
            }
        }
    }
}

impl DecisionCache {
    /// Returns the hash of what a decision depends on.
    fn key(&self, input: &Value) -> [u8; 32] {
        let text = if self.key.is_empty() {
            input.to_string()
        } else {
            let part = |path: &Vec<String>| path.iter().try_fold(input, |value, part| value.get(part));
            let parts: Vec<Option<&Value>> = self.key.iter().map(part).collect();
            // Values have one form, so different parts have different texts.
            serde_json::to_string(&parts).unwrap_or_default()
        };
        let mut key = [0; 32];
        key.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
        key
    }
}
