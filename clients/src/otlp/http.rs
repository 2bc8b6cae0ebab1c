//! OTLP over HTTP with binary protobuf.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, Method};

use super::error::{ExportError, retry_after};
use super::options::{self, Http};
use super::{MAX_RESPONSE, Signal};
use crate::OptionError;
use crate::connect::{Connector, Syntax};
use crate::http::{HttpClient, Limits, request};

const SYNTAX: Syntax = Syntax {
    option: "http.endpoint",
    plain: &["http"],
    secure: &["https"],
    otherwise: "https",
    ports: (80, 443),
    example: "https://localhost:4318",
};

/// A collector that is reached over HTTP.
pub(super) struct Endpoint {
    client: HttpClient,
    path: String,
}

impl Endpoint {
    /// Parses the options, without connecting.
    pub(super) fn new(options: &Http, signal: Signal) -> Result<Self, OptionError> {
        let (server, path) = split(options.endpoint.trim());
        let path = if path.is_empty() { signal.path() } else { path };
        if request(Method::POST, path, Bytes::new()).is_err() {
            return Err(OptionError::new(SYNTAX.option, format!("`{}`: invalid path", options.endpoint)));
        }
        let tls = options.tls.clone().unwrap_or_default();
        let connector = Connector::by_scheme(&SYNTAX, server, &tls)?;
        let mut headers = options::headers(&options.headers, "http.headers")?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let client = HttpClient::new(connector, headers, SYNTAX.option)?;
        Ok(Self { client, path: path.to_owned() })
    }

    pub(super) fn endpoint(&self) -> &str {
        self.client.endpoint()
    }

    /// Sends a compressed message once.
    pub(super) async fn post(&self, message: &Bytes, limit: Duration) -> Result<(), ExportError> {
        let limits = Limits { head: limit, time: limit, size: MAX_RESPONSE };
        let request = request(Method::POST, &self.path, message.clone())?;
        let response = self.client.send(request, limits).await?;
        if response.status().is_success() {
            return Ok(());
        }
        let retry_after = retry_after(response.headers());
        Err(ExportError::Status { status: response.status(), retry_after })
    }
}

/// Splits a URL into server and path.
fn split(url: &str) -> (&str, &str) {
    let authority = url.find("://").map_or(0, |at| at + 3);
    match url[authority..].find('/') {
        // A socket has no path within.
        Some(_) if url.starts_with("unix://") => (url, ""),
        Some(at) => url.split_at(authority + at),
        None => (url, ""),
    }
}
