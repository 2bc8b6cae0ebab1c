//! Questions to CrowdSec's local API.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{StatusCode, Uri};
use tidegate_core::building::ClientTls;
use tidegate_core::{Body, BodyError, CollectError, Connection, Context, HttpClient, Request, UpstreamError};

use super::decisions::{Decisions, Delta, Remediation};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Maximum length of an answer about one address, in bytes.
const MAX_ANSWER: u64 = 1024 * 1024;
/// Maximum length of all decisions in bytes: about 300,000 of them.
const MAX_STREAM: u64 = 64 * 1024 * 1024;

/// Asks the local API.
#[derive(Clone)]
pub(super) struct Lapi {
    pub(super) client: Arc<dyn HttpClient>,
    pub(super) tls: ClientTls,
    /// Timeout for a complete answer.
    pub(super) timeout: Duration,
    /// URL that ends with a slash.
    pub(super) base: String,
    pub(super) key: Option<HeaderValue>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LapiError {
    #[error("invalid URL: {0}")]
    Url(#[from] http::uri::InvalidUri),
    #[error(transparent)]
    Unreachable(#[from] UpstreamError),
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer has status {0}: expected 200")]
    Status(StatusCode),
    #[error("the answer is longer than {0} bytes")]
    TooLarge(u64),
    #[error("the answer broke off: {0}")]
    Broken(BodyError),
    #[error("the answer is invalid: {0}")]
    Invalid(#[from] serde_json::Error),
}

impl Lapi {
    /// Returns what the decisions about an address ask for, and for how long. A ban comes first.
    pub(super) async fn ask(&self, address: IpAddr) -> Result<Option<(Remediation, Duration)>, LapiError> {
        let body = self.get(&format!("v1/decisions?ip={address}"), MAX_ANSWER).await?;
        let decisions: Decisions = serde_json::from_slice(&body)?;
        let found = decisions.list.iter().filter(|decision| decision.network.contains(&address));
        let rank =
            |(remediation, duration): &(Remediation, Duration)| (*remediation == Remediation::Ban, *duration);
        Ok(found.map(|decision| (decision.remediation, decision.duration)).max_by_key(rank))
    }

    /// Returns all decisions, or what has changed since the last question with this key.
    pub(super) async fn stream(&self, is_startup: bool) -> Result<Delta, LapiError> {
        let body = self.get(&format!("v1/decisions/stream?startup={is_startup}"), MAX_STREAM).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    async fn get(&self, target: &str, limit: u64) -> Result<Bytes, LapiError> {
        let request = self.request(&format!("{}{target}", self.base))?;
        let exchange = async {
            let response = self.client.send(request, &self.tls, self.timeout).await?;
            if response.status() != StatusCode::OK {
                return Err(LapiError::Status(response.status()));
            }
            let body = response.into_body().collect(limit).await.map_err(|error| match error {
                CollectError::TooLarge { limit, .. } => LapiError::TooLarge(limit),
                CollectError::Failed(error) => LapiError::Broken(error),
            })?;
            Ok(body.bytes)
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(LapiError::Timeout(self.timeout)))
    }

    fn request(&self, url: &str) -> Result<Request, LapiError> {
        let mut head = http::Request::new(()).into_parts().0;
        head.uri = url.parse::<Uri>()?;
        if let Some(host) = head.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
            head.headers.insert(HOST, host);
        }
        head.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        head.headers.insert(USER_AGENT, HeaderValue::from_static("tidegate"));
        if let Some(key) = &self.key {
            head.headers.insert(API_KEY, key.clone());
        }
        let connection = Connection::plain(([127, 0, 0, 1], 0).into());
        Ok(Request::new(head, Body::empty(), Context::new(Arc::new(connection))))
    }
}
