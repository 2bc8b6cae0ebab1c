//! Requests of the control plane for what verifies certificates: OCSP responses and revocation lists.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, InvalidHeaderValue};
use http::uri::InvalidUri;
use http::{HeaderValue, Method, StatusCode, Uri};
use tidegate_core::building::{ClientTls, HttpClient};
use tidegate_core::{Body, CollectError, Connection, Context, Request, UpstreamError};

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The URL is invalid.
    #[error("invalid URL `{url}`: {source}")]
    Url {
        /// The URL.
        url: String,
        /// The cause.
        source: InvalidUri,
    },
    /// The URL has an invalid host.
    #[error(transparent)]
    Host(#[from] InvalidHeaderValue),
    /// The server is unreachable.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The response is too large or incomplete.
    #[error(transparent)]
    Body(#[from] CollectError),
    /// The response is an HTTP error or a redirect, which is not followed.
    #[error("the server returned {0}")]
    Http(StatusCode),
    /// The response was not complete in time.
    #[error("timed out")]
    TimedOut,
}

/// What is requested from a URL.
pub(super) enum Message {
    /// `GET`.
    Get,
    /// `POST` of an OCSP request.
    Ocsp(Vec<u8>),
}

/// Limits of a request.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Timeout for the whole response.
    pub(super) time: Duration,
    /// Maximum size of the response, in bytes.
    pub(super) size: u64,
}

/// Sends a request and returns the body of a successful response.
pub(super) async fn fetch(
    client: &Arc<dyn HttpClient>,
    url: &str,
    message: Message,
    limits: Limits,
) -> Result<Bytes, FetchError> {
    let uri: Uri = url.parse().map_err(|source| FetchError::Url { url: url.to_owned(), source })?;
    let host = HeaderValue::from_str(uri.authority().map_or("", |authority| authority.as_str()))?;
    let mut head = http::Request::new(()).into_parts().0;
    head.uri = uri;
    head.headers.insert(HOST, host);
    let body = match message {
        Message::Get => Body::empty(),
        Message::Ocsp(request) => {
            head.method = Method::POST;
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/ocsp-request"));
            Body::full(Bytes::from(request))
        }
    };
    let request = Request::new(head, body, context());
    let answered = async {
        let response = client.send(request, &ClientTls::default(), limits.time).await?;
        if !response.status().is_success() {
            return Err(FetchError::Http(response.status()));
        }
        Ok(response.into_body().collect(limits.size).await?.bytes)
    };
    tokio::time::timeout(limits.time, answered).await.map_err(|_| FetchError::TimedOut)?
}

/// Returns the context for requests of the gateway itself.
fn context() -> Context {
    let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let connection = Connection { entry_point: "".into(), ..Connection::plain(nowhere) };
    Context::new(Arc::new(connection))
}
