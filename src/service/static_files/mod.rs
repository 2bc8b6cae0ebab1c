//! A service that serves the files of a directory.

mod body;
mod coding;
mod conditions;
mod open;
mod path;
mod reading;
mod root;
mod site;

use std::sync::Arc;

use http::header::{ALLOW, HeaderValue};
use http::{Method, StatusCode};
use tidegate_config::static_files::StaticFiles;
use tidegate_core::{
    BoxFuture, BuildError, Handler, Reason, Request, RequestCounters, Response, UpstreamError, boxed, reply,
};

use super::Service;
use reading::NotRead;
use site::{Asked, Site};

/// A service that serves files. They are opened and read on threads that may block.
pub(crate) struct StaticService {
    name: Arc<str>,
    site: Arc<Site>,
    counters: Option<Arc<RequestCounters>>,
}

impl StaticService {
    /// Creates a service from its options.
    ///
    /// # Errors
    ///
    /// An option is invalid. A missing root is none: it may come later, and until then requests get 503.
    pub(crate) fn build(
        name: &str,
        options: &StaticFiles,
        counters: Option<Arc<RequestCounters>>,
    ) -> Result<Self, BuildError> {
        Ok(Self { name: name.into(), site: Arc::new(Site::build(options)?), counters })
    }

    /// Returns why the root cannot be opened, if so.
    pub(crate) fn problem(&self) -> Option<String> {
        self.site.problem()
    }

    async fn respond(&self, request: Request) -> Response {
        let target = request.original_target();
        let query = target.split_once('?').map(|(_, query)| query.to_owned());
        let asked = Asked {
            path: request.path().to_owned(),
            query,
            method: request.head.method,
            headers: request.head.headers,
        };
        let site = self.site.clone();
        match self.site.reader().run(move || site.respond(&asked)).await {
            Ok(response) => response,
            Err(NotRead::Busy) => reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::FilesBusy),
            Err(NotRead::Failed(error)) => {
                reply::upstream_failure(UpstreamError::Internal(error.to_string()))
            }
        }
    }
}

impl Handler for StaticService {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        boxed(move || async move {
            let exchange = request.context.exchange.clone();
            let attempt = exchange.attempt_counted(&self.name, None, (self.counters.as_ref(), None));
            let response = if matches!(request.head.method, Method::GET | Method::HEAD) {
                self.respond(request).await
            } else {
                let mut response = reply::empty(StatusCode::METHOD_NOT_ALLOWED, Reason::OwnService);
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            };
            if let Some(attempt) = attempt {
                attempt
                    .answer(response.status().as_u16(), http_body::Body::size_hint(&response.body).exact());
            }
            response
        })
    }
}

impl Service for StaticService {
    fn is_up(&self) -> bool {
        true
    }
}
