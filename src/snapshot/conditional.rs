//! A middleware with `when`: it applies to some requests, and others pass it by.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tidegate_core::{Access, BoxFuture, Middleware, Next, Request, Response};

use crate::router::Rule;

/// A middleware before which a rule is asked.
pub(super) struct Conditional {
    condition: Rule,
    middleware: Arc<dyn Middleware>,
    /// How it decides who may pass, when it does.
    access: Option<Access>,
}

impl Conditional {
    /// `middleware`, for requests that `condition` takes.
    pub(super) fn new(condition: Rule, middleware: Arc<dyn Middleware>, access: Option<Access>) -> Self {
        Self { condition, middleware, access }
    }
}

impl Middleware for Conditional {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if self.condition.matches(&request) {
            return self.middleware.handle(request, next);
        }
        if let Some(access) = &self.access {
            remove_claims(&mut request.head.headers, access);
        }
        next.run(request)
    }
}

/// Removes the headers by which only a middleware of this `access` may say who the client is.
fn remove_claims(headers: &mut HeaderMap, access: &Access) {
    let claims: Vec<HeaderName> = headers.keys().filter(|name| access.vouches_for(name)).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}
