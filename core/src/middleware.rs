//! How middlewares compose: the whole mechanism.
//!
//! A middleware that only touches the request ends with `next.run(request)` and returns the inner future
//! untouched: one virtual call and no allocation. One that must see the response boxes an `async move` block.

use std::pin::Pin;
use std::sync::Arc;

use http::HeaderName;

use crate::{Request, Response};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The end of a chain: turns a request into a response, and cannot fail.
///
/// A failure to reach a server is a response that carries its [`crate::UpstreamError`] as an extension.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response>;
}

/// One layer around a handler.
pub trait Middleware: Send + Sync + 'static {
    /// Handles one request, usually by passing it on to `next`.
    fn handle<'a>(&'a self, request: Request, next: Next<'a>) -> BoxFuture<'a, Response>;

    /// Whether it decides who may pass, and does nothing else: `anyOf` takes only those.
    fn admission(&self) -> Admission {
        Admission::None
    }

    /// True for a request header in which it tells the service who the client is. Where a request gets past without
    /// it (`anyOf`, `when`), the header is removed: the client must not say so itself.
    fn vouches_for(&self, _header: &HeaderName) -> bool {
        false
    }
}

/// What a middleware needs to decide who may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It decides nothing of the kind.
    None,
    /// The head of the request.
    Head,
    /// The body too, which it reads.
    Body,
}

/// What comes after a middleware: the middlewares behind it and, at the end, the service.
///
/// It is `Copy`, so a middleware may run it more than once (`retry`).
#[derive(Clone, Copy)]
pub struct Next<'a> {
    rest: &'a [Arc<dyn Middleware>],
    end: End<'a>,
}

#[derive(Clone, Copy)]
enum End<'a> {
    Service(&'a dyn Handler),
    Outer(&'a Next<'a>),
}

impl<'a> Next<'a> {
    /// A chain of `middlewares`, first to last, that ends in `service`.
    pub fn new(middlewares: &'a [Arc<dyn Middleware>], service: &'a dyn Handler) -> Self {
        Self { rest: middlewares, end: End::Service(service) }
    }

    /// A chain of `middlewares`, first to last, that goes on with `outer`: how a list of middlewares
    /// under one name (`chain`) is itself one middleware.
    pub fn nested(middlewares: &'a [Arc<dyn Middleware>], outer: &'a Next<'a>) -> Self {
        Self { rest: middlewares, end: End::Outer(outer) }
    }

    /// Passes the request on.
    pub fn run(self, request: Request) -> BoxFuture<'a, Response> {
        match self.rest.split_first() {
            Some((first, rest)) => first.handle(request, Next { rest, end: self.end }),
            None => match self.end {
                End::Service(service) => service.call(request),
                End::Outer(outer) => outer.run(request),
            },
        }
    }
}
