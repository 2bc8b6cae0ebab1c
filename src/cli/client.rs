//! Asks a running gateway through its API.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use serde_json::Value;
use tidegate_core::building::ClientTls;
use tidegate_core::{Body, Connection, Context, HttpClient, Request, Response, UpstreamError};
use tokio::runtime::Runtime;

use crate::service::Registry;

/// The API of a gateway on this machine with `api.insecure`.
const USUAL_URL: &str = "http://127.0.0.1:8080";
/// Timeout for a response.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a response in bytes.
const MAX_BODY: u64 = 64 << 20;

/// Where the API is, and who asks.
#[derive(Args)]
pub(super) struct ApiArguments {
    /// URL of the gateway's API, without `/api`; the variable `GATEWAY_API_URL` or http://127.0.0.1:8080 by default.
    #[arg(long, value_name = "URL")]
    api: Option<String>,
    /// Credentials for basic authentication, if the API requires it; `GATEWAY_API_USER` by default.
    #[arg(long, value_name = "NAME:PASSWORD")]
    user: Option<String>,
    /// Token, if the API requires one (`Authorization: Bearer`); `GATEWAY_API_TOKEN` by default.
    #[arg(long, conflicts_with = "user")]
    token: Option<String>,
    /// Accept any certificate of the API.
    #[arg(long)]
    insecure: bool,
}

/// Why the API did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The runtime could not be started.
    #[error("cannot ask the API: {0}")]
    Runtime(#[from] io::Error),
    /// The URL is invalid.
    #[error("invalid URL of the API: {0}: expected one like http://127.0.0.1:8080")]
    Url(http::Error),
    /// The credentials cannot be sent.
    #[error("invalid credentials for the API: control characters are not allowed")]
    Credentials,
    /// The gateway is unreachable.
    #[error("cannot reach the API at {0}: {1}")]
    Unreachable(String, UpstreamError),
    /// The response is incomplete or too large.
    #[error("the API's response is incomplete or too large")]
    Incomplete,
    /// The API requires credentials.
    #[error("the API requires credentials: use --user or --token")]
    Unauthorized,
    /// The API reports an error.
    #[error("{0}")]
    Refused(String),
    /// The response is not from an API.
    #[error("unexpected response with status {0}: expected the API of a gateway at this URL")]
    Unexpected(StatusCode),
}

/// A client of the API.
pub(super) struct ApiClient {
    runtime: Runtime,
    client: Arc<dyn HttpClient>,
    base: String,
    credentials: Option<HeaderValue>,
    tls: ClientTls,
}

impl ApiArguments {
    /// Returns a client.
    pub(super) fn client(&self) -> Result<ApiClient, ApiError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let client = Registry::new(1, runtime.handle().clone()).client();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let or = |flag: &Option<String>, name: &str| flag.clone().or_else(|| variable(name));
        let given = match (&self.user, &self.token) {
            (None, None) => (variable("GATEWAY_API_USER"), variable("GATEWAY_API_TOKEN")),
            (user, token) => (user.clone(), token.clone()),
        };
        let credentials = match &given {
            (Some(user), _) => Some(format!("Basic {}", BASE64_STANDARD.encode(user))),
            (None, Some(token)) => Some(format!("Bearer {token}")),
            (None, None) => None,
        };
        let credentials =
            credentials.map(HeaderValue::try_from).transpose().map_err(|_| ApiError::Credentials)?;
        let base = or(&self.api, "GATEWAY_API_URL").unwrap_or_else(|| USUAL_URL.to_owned());
        let tls = ClientTls { insecure_skip_verify: self.insecure, ..ClientTls::default() };
        Ok(ApiClient { runtime, client, base: base.trim_end_matches('/').to_owned(), credentials, tls })
    }
}

impl ApiClient {
    /// Returns the URL of the gateway.
    pub(super) fn place(&self) -> &str {
        &self.base
    }

    /// Returns the JSON at a path below `/api/`.
    pub(super) fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.send(Method::GET, path, Body::empty())
    }

    /// Returns the text at a path below `/api/`.
    pub(super) fn text(&self, path: &str) -> Result<String, ApiError> {
        let (status, bytes) = self.exchange(Method::GET, path, Body::empty())?;
        match status {
            StatusCode::OK => String::from_utf8(bytes).map_err(|_| ApiError::Unexpected(status)),
            status => content(status, &bytes).and(Err(ApiError::Unexpected(status))),
        }
    }

    /// Sends JSON to a path below `/api/`, and returns the JSON of the response.
    pub(super) fn post(&self, path: &str, json: String) -> Result<Value, ApiError> {
        self.send(Method::POST, path, Body::full(json))
    }

    /// Sends JSON to a path below `/api/` with `PUT`, and returns the JSON of the response.
    pub(super) fn put(&self, path: &str, json: String) -> Result<Value, ApiError> {
        self.send(Method::PUT, path, Body::full(json))
    }

    /// Deletes what is at a path below `/api/`, and returns the JSON of the response.
    pub(super) fn delete(&self, path: &str) -> Result<Value, ApiError> {
        self.send(Method::DELETE, path, Body::empty())
    }

    fn send(&self, method: Method, path: &str, body: Body) -> Result<Value, ApiError> {
        let (status, bytes) = self.exchange(method, path, body)?;
        content(status, &bytes)
    }

    /// Sends a request, and returns the whole response.
    fn exchange(&self, method: Method, path: &str, body: Body) -> Result<(StatusCode, Vec<u8>), ApiError> {
        self.runtime.block_on(async {
            let response = self.ask(method, path, body).await?;
            let status = response.status();
            let body = tokio::time::timeout(TIMEOUT, response.into_body().collect(MAX_BODY)).await;
            let body = body.map_err(|_| ApiError::Incomplete)?.map_err(|_| ApiError::Incomplete)?;
            Ok((status, body.bytes.to_vec()))
        })
    }

    /// Calls `take` with each JSON line at a path below `/api/` until it returns false or the response ends.
    pub(super) fn lines(&self, path: &str, mut take: impl FnMut(&Value) -> bool) -> Result<(), ApiError> {
        self.runtime.block_on(async {
            let response = self.ask(Method::GET, path, Body::empty()).await?;
            let status = response.status();
            if status != StatusCode::OK {
                let body = response.into_body().collect(MAX_BODY).await.map_err(|_| ApiError::Incomplete)?;
                return content(status, &body.bytes).map(|_| ());
            }
            let (mut body, mut rest) = (response.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| ApiError::Incomplete)?;
                rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if line.trim_ascii().is_empty() {
                        continue;
                    }
                    let line = serde_json::from_slice(&line).map_err(|_| ApiError::Unexpected(status))?;
                    if !take(&line) {
                        return Ok(());
                    }
                }
                if rest.len() as u64 > MAX_BODY {
                    return Err(ApiError::Incomplete);
                }
            }
            Ok(())
        })
    }

    /// Sends a request for a path below `/api/`.
    async fn ask(&self, method: Method, path: &str, body: Body) -> Result<Response, ApiError> {
        let url = format!("{}/api/{path}", self.base);
        let builder = http::Request::builder().method(method).uri(&url);
        let mut head = builder.body(()).map_err(ApiError::Url)?.into_parts().0;
        if let Some(credentials) = &self.credentials {
            head.headers.insert(AUTHORIZATION, credentials.clone());
        }
        if head.method != Method::GET {
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let nobody = Arc::new(Connection::plain((Ipv4Addr::LOCALHOST, 0).into()));
        let request = Request::new(head, body, Context::new(nobody));
        let response = self.client.send(request, &self.tls, TIMEOUT).await;
        response.map_err(|error| ApiError::Unreachable(self.base.clone(), error))
    }
}

/// Returns the JSON of a response.
fn content(status: StatusCode, bytes: &[u8]) -> Result<Value, ApiError> {
    let json: Option<Value> = serde_json::from_slice(bytes).ok();
    match (status, json) {
        (StatusCode::OK, Some(json)) => Ok(json),
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(ApiError::Unauthorized),
        (status, json) => match json.as_ref().and_then(|json| json["message"].as_str()) {
            Some(message) => Err(ApiError::Refused(message.to_owned())),
            None => Err(ApiError::Unexpected(status)),
        },
    }
}
