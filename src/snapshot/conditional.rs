//! A middleware with `when`, which applies only to matching requests.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use tidegate_core::caches::ResponseCache;
use tidegate_core::occupancy::Limit;
use tidegate_core::sessions::Sessions;
use tidegate_core::{Access, BoxFuture, Middleware, Next, Prediction, Request, Response};

use crate::router::Rule;

/// A middleware that applies to requests that match a rule.
pub(super) struct Conditional {
    condition: Rule,
    middleware: Arc<dyn Middleware>,
    /// How the middleware controls access, if it does.
    access: Option<Access>,
}

impl Conditional {
    /// Returns `middleware` for requests that match `condition`.
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

    fn limit(&self) -> Option<&dyn Limit> {
        self.middleware.limit()
    }

    fn cache(&self) -> Option<&dyn ResponseCache> {
        self.middleware.cache()
    }

    fn sessions(&self) -> Option<&dyn Sessions> {
        self.middleware.sessions()
    }

    fn owns(&self, request: &Request) -> bool {
        self.middleware.owns(request) && self.condition.matches(request)
    }

    fn predict(&self, mut request: Request) -> Prediction {
        if self.condition.matches(&request) {
            return self.middleware.predict(request);
        }
        if let Some(access) = &self.access {
            remove_claims(&mut request.head.headers, access);
        }
        Prediction::passes(request).note("does not apply: `when` does not hold")
    }

    fn revise(&self, request: &Request, response: &mut Response) -> Option<String> {
        if self.condition.matches(request) { self.middleware.revise(request, response) } else { None }
    }
}

/// Removes the headers that identify the client and that only a middleware with this `access` may set. Credentials stay,
/// as the next middleware may need them.
fn remove_claims(headers: &mut HeaderMap, access: &Access) {
    let claims: Vec<HeaderName> = headers.keys().filter(|name| access.vouches_for(name)).cloned().collect();
    for name in claims {
        headers.remove(name);
    }
}
