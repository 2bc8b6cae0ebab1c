//! `rest@internal`: receives a configuration with `PUT /api/providers/rest`, replacing the previous one. REST
//! providers with a name use that name in the path.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use tidegate_core::{Body, BoxFuture, Handler, Reason, Request, Response, reply};
use tidegate_providers::{Update, Updates, rest};

use crate::service::Service;

/// Maximum size of a configuration in bytes.
const MAX_SIZE: u64 = 32 << 20;
const PREFIX: &str = "/api/providers/";

/// The service.
pub(super) struct RestEndpoint {
    /// The names of the REST providers.
    providers: Vec<Arc<str>>,
    updates: Updates,
}

impl RestEndpoint {
    /// Creates the service, which sends what it receives to the configuration loop.
    pub(super) fn new(providers: Vec<Arc<str>>, updates: Updates) -> Self {
        Self { providers, updates }
    }

    async fn handle_put(&self, request: Request) -> Response {
        let Some(provider) = request.path().strip_prefix(PREFIX).filter(|name| !name.contains('/')) else {
            return reply::not_found(Reason::OwnService);
        };
        if request.head.method != Method::PUT {
            return reply::empty(StatusCode::METHOD_NOT_ALLOWED, Reason::OwnService);
        }
        let Some(provider) = self.providers.iter().find(|name| &***name == provider).cloned() else {
            let message = "Only 'rest' provider can be updated through the REST API";
            return reply::error(StatusCode::BAD_REQUEST, message, Reason::OwnService);
        };
        let body = match request.body.collect(MAX_SIZE).await {
            Ok(collected) => collected.bytes,
            Err(error) => {
                return reply::error(StatusCode::BAD_REQUEST, &error.to_string(), Reason::OwnService);
            }
        };
        // Parsing a large one takes a while, which would block the worker.
        let read = tokio::task::spawn_blocking(move || rest::read(&body)).await;
        let state = match read {
            Ok(Ok(state)) => state,
            Ok(Err(error)) => {
                tracing::error!(provider = &*provider, "refused a configuration: {error}");
                return reply::error(StatusCode::BAD_REQUEST, &error.to_string(), Reason::OwnService);
            }
            Err(_) => return reply::status_text(StatusCode::INTERNAL_SERVER_ERROR, Reason::OwnService),
        };
        let shown = serde_json::to_string(&state.config).unwrap_or_default();
        let update = Update { provider, state: Arc::new(state), ready: true };
        if self.updates.send(update).await.is_err() {
            return reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::OwnService);
        }
        let mut response = Response::new(Body::full(shown)).because(Reason::OwnService);
        let json = HeaderValue::from_static("application/json; charset=UTF-8");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

impl Handler for RestEndpoint {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(self.handle_put(request))
    }
}

impl Service for RestEndpoint {
    fn is_up(&self) -> bool {
        true
    }
}
