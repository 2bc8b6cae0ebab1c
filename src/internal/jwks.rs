//! `jwks@internal`: the public keys that verify the gateway's tokens (RFC 7517).

use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use tidegate_core::{Body, BoxFuture, Handler, Reason, Request, Response, reply};

use crate::identity::Announcer;
use crate::service::Service;

/// The service.
pub(super) struct Jwks(Arc<Announcer>);

impl Jwks {
    /// Serves the keys of these tokens.
    pub(super) fn new(announcer: Arc<Announcer>) -> Self {
        Self(announcer)
    }

    fn answer(&self, method: &Method) -> Response {
        let Some((keys, max_age)) = self.0.public_keys() else {
            return reply::not_found(Reason::OwnService);
        };
        if method != Method::GET && method != Method::HEAD {
            return reply::empty(StatusCode::METHOD_NOT_ALLOWED, Reason::OwnService);
        }
        let mut response = Response::new(Body::full(keys)).because(Reason::OwnService);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
        if let Ok(cache) = HeaderValue::try_from(format!("public, max-age={max_age}")) {
            headers.insert(CACHE_CONTROL, cache);
        }
        response
    }
}

impl Handler for Jwks {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(std::future::ready(self.answer(&request.head.method)))
    }
}

impl Service for Jwks {
    fn is_up(&self) -> bool {
        true
    }
}
