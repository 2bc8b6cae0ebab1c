//! A client for requests of the gateway itself, such as forwardAuth.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_clients::tls::TlsOptions;
use tidegate_config::transport::ServersTransport;
use tidegate_core::building::ClientTls;
use tidegate_core::{BoxFuture, BuildError, HttpClient, Request, Response, UpstreamError};

use super::{Endpoint, Transport};

/// Maximum number of servers with kept connections.
const MAX_ENDPOINTS: usize = 512;

/// Sends requests of the gateway itself, from any thread and runtime. Does not follow redirects.
#[derive(Default)]
pub struct Client {
    workers: usize,
    endpoints: Mutex<HashMap<(String, ClientTls), Arc<Endpoint>>>,
}

impl Client {
    /// Returns a client with connections for each of `workers` workers.
    pub fn new(workers: usize) -> Arc<Self> {
        Arc::new(Self { workers, ..Self::default() })
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self) {
        let endpoints: Vec<_> = self.endpoints.lock().values().cloned().collect();
        for endpoint in endpoints {
            endpoint.sweep();
        }
    }

    async fn endpoint(&self, server: String, tls: &ClientTls) -> Result<Arc<Endpoint>, UpstreamError> {
        let key = (server, tls.clone());
        if let Some(found) = self.endpoints.lock().get(&key) {
            return Ok(found.clone());
        }
        let options = key.1.clone();
        // Reading certificate files blocks.
        let transport = tokio::task::spawn_blocking(move || transport(&options))
            .await
            .map_err(|e| UpstreamError::Internal(e.to_string()))?
            .map_err(|e| UpstreamError::Internal(e.to_string()))?;
        let endpoint = Endpoint::new(&key.0, transport, self.workers)
            .map_err(|e| UpstreamError::Internal(e.to_string()))?;
        let mut endpoints = self.endpoints.lock();
        if endpoints.len() >= MAX_ENDPOINTS {
            endpoints.retain(|_, endpoint| endpoint.in_flight() > 0 || endpoint.connections() > 0);
            if endpoints.len() >= MAX_ENDPOINTS {
                endpoints.clear();
            }
        }
        Ok(endpoints.entry(key).or_insert(endpoint).clone())
    }
}

impl HttpClient for Client {
    fn send(
        &self,
        mut request: Request,
        tls: &ClientTls,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Response, UpstreamError>> {
        let tls = tls.clone();
        Box::pin(async move {
            let uri = &request.head.uri;
            let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
                return Err(UpstreamError::Internal(format!(
                    "invalid URL `{uri}`: expected an absolute URL"
                )));
            };
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            let server = format!("{scheme}://{host}");
            let target = uri.path_and_query().cloned();
            request.head.uri = target.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")).into();
            let endpoint = self.endpoint(server, &tls).await?;
            let answer = endpoint.send(request);
            if timeout.is_zero() {
                return answer.await;
            }
            tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| {
                Err(UpstreamError::ResponseTimeout { server: endpoint.address().to_string() })
            })
        })
    }
}

fn transport(options: &ClientTls) -> Result<Arc<Transport>, BuildError> {
    let tls = TlsOptions::read(&options.ca, &options.cert, &options.key)
        .map_err(|error| BuildError::new(format!("tls: {error}")))?;
    let tls = TlsOptions { insecure: options.insecure_skip_verify, ..tls };
    Transport::with_tls(&ServersTransport::default(), tls)
}
