//! A middleware with `when`: it applies to some requests, and others pass it by.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tidegate_core::{Admission, BoxFuture, Middleware, Next, Request, Response};

use crate::router::Rule;

/// A middleware before which a rule is asked.
pub(super) struct Conditional {
    condition: Rule,
    middleware: Arc<dyn Middleware>,
    /// It may tell the service who the client is.
    vouches: bool,
}

impl Conditional {
    /// `middleware`, for requests that `condition` takes.
    pub(super) fn new(condition: Rule, middleware: Arc<dyn Middleware>) -> Self {
        let vouches = middleware.admission() != Admission::None;
        Self { condition, middleware, vouches }
    }
}

impl Middleware for Conditional {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if self.condition.matches(&request) {
            return self.middleware.handle(request, next);
        }
        if self.vouches {
            remove_claims(&mut request.head.headers, &*self.middleware);
        }
        next.run(request)
    }

    fn admission(&self) -> Admission {
        self.middleware.admission()
    }

    fn vouches_for(&self, header: &HeaderName) -> bool {
        self.middleware.vouches_for(header)
    }
}

/// Removes the headers by which only `middleware` may say who the client is.
fn remove_claims(headers: &mut HeaderMap, middleware: &dyn Middleware) {
    let claims: Vec<HeaderName> =
        headers.keys().filter(|name| middleware.vouches_for(name)).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}
