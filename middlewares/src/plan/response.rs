//! What clients learn about their quotas: refusals, response fields, and their usage.

use std::time::Duration;

use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use percent_encoding::utf8_percent_encode;
use tidegate_core::plan::{Quota, Unit};
use tidegate_core::{Reason, Response, reply};

use super::log::Total;
use super::window::Window;
use super::{Account, ESCAPED, EVENTS, Unavailable};
use crate::rate_limit::policies::engine::jittered;

/// The share of a quota that is used, when that is at least 80 %.
const QUOTA_USED: HeaderName = HeaderName::from_static("x-quota-used");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Why a request is not counted.
pub(super) enum Refusal {
    Anonymous,
    NoPlan,
    Unavailable(Unavailable),
    Exceeded { used: u64, window: Window, now: i64 },
}

impl Refusal {
    pub(super) fn response(&self, jitter: Duration) -> Response {
        match self {
            Self::Anonymous => {
                let mut response = reply::status_text(StatusCode::UNAUTHORIZED, Reason::Unauthenticated);
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
            Self::NoPlan => reply::status_text(StatusCode::FORBIDDEN, Reason::Forbidden),
            Self::Unavailable(_) => {
                reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::LimitUnavailable)
            }
            Self::Exceeded { window, now, .. } => {
                let mut response = reply::status_text(StatusCode::TOO_MANY_REQUESTS, Reason::QuotaExceeded);
                let wait = Duration::from_secs(u64::try_from(window.end - now).unwrap_or(0).max(1));
                let wait = jittered(wait, jitter).as_secs_f64().ceil() as u64;
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait));
                response
            }
        }
    }

    pub(super) fn description(&self) -> String {
        match self {
            Self::Anonymous => "the client has no identity".to_owned(),
            Self::NoPlan => "the client is not a consumer, or has no plan".to_owned(),
            Self::Unavailable(error) => error.to_string(),
            Self::Exceeded { used, .. } => format!("the quota is used up ({used} used)"),
        }
    }
}

/// Tells the client how much is left.
pub(super) fn add_fields(response: &mut Response, account: &Account, quota: &Quota, total: Total, now: i64) {
    let Total { used, window } = total;
    let headers = response.headers_mut();
    let name = utf8_percent_encode(short(&account.consumer.plan), ESCAPED);
    let (length, rest) = (window.end - window.start, (window.end - now).max(0));
    let unit = if quota.unit == Unit::Bytes { ";qu=\"content-bytes\"" } else { "" };
    let left = quota.limit.saturating_sub(used);
    let policy = format!("\"quota-{name}\";q={};w={length}{unit}", quota.limit);
    for (field, value) in
        [(RATELIMIT_POLICY, policy), (RATELIMIT, format!("\"quota-{name}\";r={left};t={rest}"))]
    {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.append(field, value);
        }
    }
    let percent = percent(used, quota);
    if percent >= EVENTS[0] {
        headers.insert(QUOTA_USED, HeaderValue::from(percent));
    }
}

pub(super) fn percent(used: u64, quota: &Quota) -> u64 {
    u64::try_from(u128::from(used) * 100 / u128::from(quota.limit.max(1))).unwrap_or(u64::MAX)
}

/// Returns the name of a plan without its provider.
pub(super) fn short(plan: &str) -> &str {
    plan.rsplit_once('@').map_or(plan, |(name, _)| name)
}

/// Returns the response to a consumer that asks for its usage.
pub(super) fn usage(account: &Account, quota: &Quota, total: Total) -> Response {
    let shown = serde_json::json!({
        "plan": short(&account.consumer.plan),
        "unit": quota.unit.name(),
        "limit": quota.limit,
        "used": total.used,
        "start": time_text(total.window.start),
        "end": time_text(total.window.end),
    });
    let mut response = reply::bare(StatusCode::OK, shown.to_string(), Reason::OwnService);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn time_text(seconds: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).ok();
    let text = time.and_then(|time| time.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_default()
}
