//! Decisions of an OPA server, by its Data API.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, Uri};
use serde_json::Value;

use super::json;
use crate::api_client::{ApiClient, ApiError, without_query};

/// Asks an OPA server.
pub(super) struct Server {
    pub(super) client: ApiClient,
    pub(super) url: Uri,
    pub(super) headers: Arc<HeaderMap>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the response has status {0}: expected 200")]
    Status(StatusCode),
    #[error("the answer is not an object in JSON")]
    Form,
}

impl Server {
    /// Returns the URL for operators.
    pub(super) fn shown(&self) -> String {
        without_query(&self.url)
    }

    /// Returns the result for an input; `None` if it is undefined.
    pub(super) async fn ask(&self, input: &Value) -> Result<Option<Value>, ServerError> {
        let question = serde_json::json!({"input": input}).to_string();
        let response = self.client.post_json(&self.url, HeaderMap::clone(&self.headers), question).await?;
        if response.status != StatusCode::OK {
            return Err(ServerError::Status(response.status));
        }
        match json::parse(&response.body) {
            Some(Value::Object(mut answer)) => Ok(answer.remove("result")),
            _ => Err(ServerError::Form),
        }
    }
}
