//! Why telemetry could not be sent, and whether to try again.

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};

use crate::connect::ConnectError;
use crate::http::HttpError;

/// Longest pause that a collector can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Failure to send telemetry.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No connection could be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The exchange over HTTP failed.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The connection for gRPC failed.
    #[error("the connection was lost: {0}")]
    Lost(#[source] hyper::Error),
    /// The response of gRPC is invalid.
    #[error("invalid response: {0}")]
    Response(Box<dyn std::error::Error + Send + Sync>),
    /// The collector did not respond in time.
    #[error("no response within {limit:?}")]
    TimedOut {
        /// The time limit.
        limit: Duration,
    },
    /// The collector responded with an error over HTTP.
    #[error("the collector responded with status {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// The pause that it asked for.
        retry_after: Option<Duration>,
    },
    /// The collector responded with an error over gRPC.
    #[error("the collector responded with gRPC status {code}: {message}")]
    Grpc {
        /// The status code.
        code: u32,
        /// The message.
        message: String,
        /// The pause that it asked for.
        retry_after: Option<Duration>,
    },
    /// The request could not be built.
    #[error("cannot build the request: {0}")]
    Request(#[source] http::Error),
}

impl ExportError {
    /// Returns `None` if a retry is useless; otherwise the pause that the collector asked for, if any
    /// (OTLP specification, "Failures").
    pub(super) fn retry_after(&self) -> Option<Option<Duration>> {
        match self {
            Self::Connect(_) | Self::Http(_) | Self::Lost(_) | Self::TimedOut { .. } => Some(None),
            Self::Response(_) | Self::Request(_) => None,
            Self::Status { status, retry_after } => {
                matches!(status.as_u16(), 429 | 502 | 503 | 504).then_some(*retry_after)
            }
            Self::Grpc { code, retry_after, .. } => match code {
                // CANCELLED, DEADLINE_EXCEEDED, ABORTED, OUT_OF_RANGE, UNAVAILABLE, DATA_LOSS.
                1 | 4 | 10 | 11 | 14 | 15 => Some(*retry_after),
                // RESOURCE_EXHAUSTED, only if the collector says when to try again.
                8 => retry_after.map(Some),
                _ => None,
            },
        }
    }
}

/// Returns the pause in `Retry-After`: seconds or a date (RFC 9110 section 10.2.3), at most a minute.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = httpdate::parse_http_date(value).ok()?;
            at.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

/// Limits the pause that a collector asks for over gRPC.
pub(super) fn bounded(seconds: i64, nanos: i32) -> Duration {
    let pause = Duration::new(
        u64::try_from(seconds).unwrap_or(0),
        u32::try_from(nanos).unwrap_or(0).min(999_999_999),
    );
    pause.min(MAX_RETRY_AFTER)
}
