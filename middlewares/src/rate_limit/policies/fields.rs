//! What clients are told about their limits: response fields, and the response to a request that is refused.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tidegate_core::store::{Allowance, Drawn, Turn};
use tidegate_core::{Reason, Response, reply, values};

use super::options::HeaderForm;

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const LEGACY_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const LEGACY_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const LEGACY_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
const RETRY_IN: HeaderName = HeaderName::from_static("x-retry-in");
/// The problem type of draft-ietf-httpapi-ratelimit-headers-10.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// What one policy says about a request.
#[derive(Clone)]
pub(super) struct Standing {
    pub(super) name: Arc<str>,
    pub(super) allowance: Allowance,
    pub(super) drawn: Drawn,
}

impl Standing {
    /// Returns the number of tokens left, and the seconds until there are more.
    ///
    /// For a policy that refuses, these are those until the request would be admitted: `Retry-After` is never earlier.
    fn available(&self) -> (u64, u64) {
        match self.drawn.turn {
            Turn::In(_) => (self.drawn.left, seconds(self.drawn.full_in)),
            Turn::Over(wait) => (0, seconds(wait)),
        }
    }
}

/// Adds the fields of the policies, in the order of the configuration.
pub(super) fn add(headers: &mut HeaderMap, form: HeaderForm, standings: &[Standing]) {
    if standings.is_empty() {
        return;
    }
    if matches!(form, HeaderForm::Ietf | HeaderForm::Both) {
        let (mut policies, mut limits) = (String::new(), String::new());
        for standing in standings {
            let Standing { name, allowance, .. } = standing;
            let comma = if policies.is_empty() { "" } else { ", " };
            let window = allowance.interval_micros() * allowance.burst as f64;
            let window = seconds(Duration::from_micros(window.clamp(1.0, 3.2e15) as u64));
            let _ = write!(policies, "{comma}\"{name}\";q={};w={window}", allowance.burst);
            let (left, reset) = standing.available();
            let _ = write!(limits, "{comma}\"{name}\";r={left};t={reset}");
        }
        for (field, value) in [(RATELIMIT_POLICY, policies), (RATELIMIT, limits)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.append(field, value);
            }
        }
    }
    let share = |standing: &&Standing| standing.available().0 as f64 / standing.allowance.burst.max(1) as f64;
    let tightest = standings.iter().min_by(|one, other| share(one).total_cmp(&share(other)));
    if let Some(tightest) = tightest.filter(|_| matches!(form, HeaderForm::Legacy | HeaderForm::Both)) {
        let (left, reset) = tightest.available();
        headers.insert(LEGACY_LIMIT, HeaderValue::from(tightest.allowance.burst));
        headers.insert(LEGACY_REMAINING, HeaderValue::from(left));
        headers.insert(LEGACY_RESET, HeaderValue::from(reset));
    }
}

/// Returns the response to a request that these policies refuse, which may be repeated after `wait`.
pub(super) fn refusal(wait: Duration, violated: &[&str], as_problem: bool) -> Response {
    let mut response = if as_problem {
        let problem = serde_json::json!({
            "type": QUOTA_EXCEEDED,
            "title": "Request cannot be satisfied as assigned quota has been exceeded",
            "status": 429,
            "violated-policies": violated,
        });
        let mut response =
            reply::bare(StatusCode::TOO_MANY_REQUESTS, problem.to_string(), Reason::RateLimited);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    } else {
        reply::status_text(StatusCode::TOO_MANY_REQUESTS, Reason::RateLimited)
    };
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(seconds(wait)));
    if let Ok(value) = HeaderValue::try_from(values::Duration(wait).to_string()) {
        headers.insert(RETRY_IN, value);
    }
    response
}

/// Returns whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
