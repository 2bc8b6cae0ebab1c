//! Questions to the introspection server, within limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode, Uri};
use tokio::sync::Semaphore;
use url::form_urlencoded;

use super::answer::{Answer, AnswerError};
use crate::api_client::{ApiClient, ApiError, without_query};

/// Maximum number of questions that wait for their turn. Further ones fail at once.
const MAX_WAITING: usize = 1024;
/// Pause before the first retry, which doubles with each.
const PAUSE: Duration = Duration::from_millis(50);

/// The server, and how it is asked.
pub(super) struct Server {
    pub(super) client: ApiClient,
    pub(super) url: Uri,
    pub(super) headers: HeaderMap,
    pub(super) type_hint: String,
    pub(super) max_retries: u32,
    /// One permit for each question that may be open at a time.
    pub(super) permits: Semaphore,
    pub(super) waiting: AtomicUsize,
    /// Whether the last question has failed.
    pub(super) is_failing: AtomicBool,
    /// Name of the middleware, for the log.
    pub(super) name: Arc<str>,
}

/// Why a question has no answer. Contains nothing of the token.
#[derive(Debug, thiserror::Error)]
enum QuestionError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the response has status {0}: expected 200")]
    Status(StatusCode),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("too many questions")]
    TooMany,
}

impl QuestionError {
    /// Returns true if the same question may have an answer later.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Api(error) => matches!(error, ApiError::Unreachable(_) | ApiError::Broken(_)),
            Self::Status(status) => status.is_server_error(),
            Self::Answer(_) | Self::Timeout(_) | Self::TooMany => false,
        }
    }
}

impl Server {
    /// Returns the URL for operators.
    pub(super) fn shown(&self) -> String {
        without_query(&self.url)
    }

    /// Asks about a token. Returns `None` on timeout.
    pub(super) async fn ask(&self, token: &str) -> Option<Answer> {
        let timeout = self.client.timeout;
        let answer = tokio::time::timeout(timeout, self.attempts(token)).await;
        let answer = answer.unwrap_or(Err(QuestionError::Timeout(timeout)));
        let (middleware, server) = (&self.name, self.shown());
        match &answer {
            Ok(_) => {
                if self.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::info!(%middleware, %server, "the introspection server answers again");
                }
            }
            // Strangers can cause it, so it says nothing about the server.
            Err(QuestionError::TooMany) => {}
            Err(error) => {
                if !self.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%middleware, %server, %error, "the introspection server does not answer");
                }
            }
        }
        answer.ok()
    }

    async fn attempts(&self, token: &str) -> Result<Answer, QuestionError> {
        let _permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = Waiting::begin(&self.waiting).ok_or(QuestionError::TooMany)?;
                self.permits.acquire().await.map_err(|_| QuestionError::TooMany)?
            }
        };
        let mut attempt = 0;
        loop {
            match self.question(token).await {
                Err(error) if error.is_temporary() && attempt < self.max_retries => {
                    tokio::time::sleep(PAUSE.saturating_mul(1 << attempt.min(8))).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn question(&self, token: &str) -> Result<Answer, QuestionError> {
        let response = self.client.post_form_with(&self.url, self.headers.clone(), self.form(token)).await?;
        match response.status {
            StatusCode::OK => Ok(Answer::read(&response)?),
            other => Err(QuestionError::Status(other)),
        }
    }

    fn form(&self, token: &str) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("token", token);
        if !self.type_hint.is_empty() {
            form.append_pair("token_type_hint", &self.type_hint);
        }
        form.finish()
    }
}

/// A question that waits for its turn.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let place = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
