//! Sends one request to one server: connections, pools, timeouts, upgrades.

use std::sync::Arc;

use tidegate_config::transport::ServersTransport;
use tidegate_core::{BuildError, Request, Response, UpstreamError};

/// How servers are talked to: a checked [`ServersTransport`].
pub struct Transport {}

impl Transport {
    /// Checks the options and prepares TLS. `file` reads a file that is named in them (and has it watched).
    pub fn build(
        _options: &ServersTransport,
        _file: &mut dyn FnMut(&str) -> Result<Vec<u8>, BuildError>,
    ) -> Result<Arc<Self>, BuildError> {
        Ok(Arc::new(Self {}))
    }
}

/// One server under one transport. It owns the connections to it, one pool for each worker.
pub struct Endpoint {
    url: String,
}

impl Endpoint {
    /// An endpoint for `http://host:port`, `https://host:port` or `h2c://host:port`, with a pool for each of
    /// `workers` workers.
    pub fn new(url: &str, _transport: Arc<Transport>, _workers: usize) -> Result<Arc<Self>, BuildError> {
        Ok(Arc::new(Self { url: url.to_owned() }))
    }

    /// The URL as given.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request whose headers are ready for the server; hop-by-hop headers are dealt with here, and an
    /// upgrade is carried through. Fails without having consumed anything from the server's answer.
    pub async fn send(&self, _request: Request) -> Result<Response, UpstreamError> {
        Err(UpstreamError::Internal("not built yet".into()))
    }
}
