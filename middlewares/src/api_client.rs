//! Requests of middlewares to the APIs of login servers, with limits.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT,
};
use http::{Method, StatusCode, Uri};
use tidegate_core::building::ClientTls;
use tidegate_core::{Body, BodyError, CollectError, Connection, Context, HttpClient, Request, UpstreamError};
use url::form_urlencoded;

/// Maximum length of a response in bytes.
const MAX_RESPONSE: u64 = 1024 * 1024;

/// Content types of requests.
const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

/// Sends requests and reads responses within limits.
#[derive(Clone)]
pub(crate) struct ApiClient {
    pub(crate) client: Arc<dyn HttpClient>,
    pub(crate) tls: ClientTls,
    /// Timeout for a response head, and for each caller's whole operation.
    pub(crate) timeout: Duration,
}

/// A complete response.
pub(crate) struct ApiResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Unreachable(#[from] UpstreamError),
    #[error("no complete response within {0:?}")]
    Timeout(Duration),
    #[error("the response has status {0}: expected 200")]
    Status(StatusCode),
    #[error("the response is longer than {MAX_RESPONSE} bytes")]
    TooLarge,
    #[error("the response broke off: {0}")]
    Broken(BodyError),
}

impl ApiClient {
    /// Gets a document. Any status but 200 is an error.
    pub(crate) async fn get(&self, uri: &Uri) -> Result<ApiResponse, ApiError> {
        self.expect(self.send(Method::GET, uri, HeaderMap::new(), None).await?)
    }

    /// Gets a document with an `Authorization` field. Any status but 200 is an error.
    pub(crate) async fn get_as(
        &self,
        uri: &Uri,
        authorization: HeaderValue,
    ) -> Result<ApiResponse, ApiError> {
        self.expect(self.send(Method::GET, uri, authorized(Some(authorization)), None).await?)
    }

    /// Posts a form, and returns a response with any status.
    pub(crate) async fn post_form(
        &self,
        uri: &Uri,
        authorization: Option<HeaderValue>,
        form: String,
    ) -> Result<ApiResponse, ApiError> {
        self.post_form_with(uri, authorized(authorization), form).await
    }

    /// Posts a form with further headers, which replace the usual ones.
    pub(crate) async fn post_form_with(
        &self,
        uri: &Uri,
        headers: HeaderMap,
        form: String,
    ) -> Result<ApiResponse, ApiError> {
        self.send(Method::POST, uri, headers, Some((FORM, form))).await
    }

    /// Posts JSON with further headers, which replace the usual ones. Returns a response with any status.
    pub(crate) async fn post_json(
        &self,
        uri: &Uri,
        headers: HeaderMap,
        json: String,
    ) -> Result<ApiResponse, ApiError> {
        self.send(Method::POST, uri, headers, Some((JSON, json))).await
    }

    fn expect(&self, response: ApiResponse) -> Result<ApiResponse, ApiError> {
        match response.status {
            StatusCode::OK => Ok(response),
            other => Err(ApiError::Status(other)),
        }
    }

    async fn send(
        &self,
        method: Method,
        uri: &Uri,
        headers: HeaderMap,
        content: Option<(&'static str, String)>,
    ) -> Result<ApiResponse, ApiError> {
        let exchange = async {
            let request = request(method, uri, headers, content);
            let response = self.client.send(request, &self.tls, self.timeout).await?;
            let (head, body) = response.into_parts();
            let body = body.collect(MAX_RESPONSE).await.map_err(|error| match error {
                CollectError::TooLarge { .. } => ApiError::TooLarge,
                CollectError::Failed(error) => ApiError::Broken(error),
            })?;
            Ok(ApiResponse { status: head.status, headers: head.headers, body: body.bytes })
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(ApiError::Timeout(self.timeout)))
    }
}

/// Returns a field `Authorization`, if there is one.
fn authorized(authorization: Option<HeaderValue>) -> HeaderMap {
    authorization.into_iter().map(|value| (AUTHORIZATION, value)).collect()
}

fn request(method: Method, uri: &Uri, more: HeaderMap, content: Option<(&'static str, String)>) -> Request {
    let mut head = http::Request::new(()).into_parts().0;
    head.method = method;
    head.uri = uri.clone();
    let headers = &mut head.headers;
    if let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        headers.insert(HOST, host);
    }
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static("tidegate"));
    for (name, mut value) in more {
        value.set_sensitive(true);
        if let Some(name) = name {
            headers.insert(name, value);
        }
    }
    let body = match content {
        Some((kind, content)) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(CONTENT_LENGTH, HeaderValue::from(content.len()));
            Body::full(content)
        }
        None => Body::empty(),
    };
    let connection = Connection::plain(([127, 0, 0, 1], 0).into());
    Request::new(head, body, Context::new(Arc::new(connection)))
}

/// Returns the client's credentials (RFC 6749 section 2.3.1).
pub(crate) fn basic(id: &str, secret: &str) -> Option<HeaderValue> {
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = BASE64_STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)));
    HeaderValue::from_str(&format!("Basic {pair}")).ok()
}

/// Reads an absolute http or https URL without user and password.
pub(crate) fn parse_url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let is_plain = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    (matches!(uri.scheme_str(), Some("http" | "https")) && is_plain).then_some(uri)
}

/// Returns a URL without its query, which may be secret.
pub(crate) fn without_query(uri: &Uri) -> String {
    format!(
        "{}://{}{}",
        uri.scheme_str().unwrap_or(""),
        uri.authority().map_or("", |authority| authority.as_str()),
        uri.path()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_absolute() {
        assert!(parse_url("https://a.test/keys?x=1").is_some() && parse_url("http://127.0.0.1:1/").is_some());
        for wrong in ["", "/keys", "a.test", "ftp://a.test/", "https://u:p@a.test/", "https://"] {
            assert!(parse_url(wrong).is_none(), "{wrong}");
        }
    }
}
