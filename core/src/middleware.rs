//! How middlewares compose.
//!
//! A middleware that only touches the request ends with `next.run(request)` and returns that future: one
//! virtual call and no allocation. One that needs the response boxes an `async move` block. One that outlives
//! the request, such as a background refresh, clones `next`, which keeps the rest of the chain alive.

use std::pin::Pin;
use std::sync::Arc;

use crate::caches::ResponseCache;
use crate::occupancy::Limit;
use crate::sessions::Sessions;
use crate::timing::OpenRun;
use crate::{MiddlewareInfo, OpenSpan, Prediction, Request, Response, SpanKind};

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Boxes the future that `make` returns: `boxed(move || async move { … })`.
///
/// `Box::pin` builds a future on the stack and copies all of it, which is several KiB for one that sends a request. This
/// allocates first, so that the compiler writes what the future captures straight into the box.
#[inline]
pub fn boxed<'a, F: Future + Send + 'a>(make: impl FnOnce() -> F) -> BoxFuture<'a, F::Output> {
    let room = Box::<F>::new_uninit();
    let future: Box<F> = Box::write(room, make());
    Box::into_pin(future)
}

/// The end of a chain: turns a request into a response, and cannot fail.
///
/// A failure to reach a server is a response that carries it ([`Response::failure`]).
pub trait Handler: Send + Sync + 'static {
    /// Handles one request.
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response>;
}

/// A part of a composite middleware: `name@provider`, and the middleware.
pub type Member = (Arc<str>, Arc<dyn Middleware>);

/// One layer around a handler.
pub trait Middleware: Send + Sync + 'static {
    /// Handles one request, usually by passing it on to `next`.
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response>;

    /// Returns the middlewares that this one consists of, in order and with their names, if it is composed of
    /// others: these are then compiled into the chain in its place.
    fn members(&self) -> Option<&[Member]> {
        None
    }

    /// Returns what it holds, if it limits its clients.
    fn limit(&self) -> Option<&dyn Limit> {
        None
    }

    /// Returns its stored responses, if it keeps any.
    fn cache(&self) -> Option<&dyn ResponseCache> {
        None
    }

    /// Returns its sessions, if it has any.
    fn sessions(&self) -> Option<&dyn Sessions> {
        None
    }

    /// Returns true for requests that it answers itself, whoever sends them, such as the answer of a login server.
    fn owns(&self, _request: &Request) -> bool {
        false
    }

    /// Returns what this middleware would do with a request, without sending it and without side effects: nothing is
    /// counted, taken or asked. May block, so it is not called on the path of requests.
    fn predict(&self, request: Request) -> Prediction {
        Prediction::depends(request, "known once it is sent")
    }

    /// Changes a predicted response to a request that this middleware has passed on, as it would change the response
    /// itself, and returns what it does. The default changes nothing.
    fn revise(&self, _request: &Request, _response: &mut Response) -> Option<String> {
        None
    }
}

/// The rest of a chain: the following middlewares and the service at the end.
///
/// It is compiled once per configuration. A clone is cheap and owns the rest of the chain: it can be kept,
/// moved into a task, and run more than once, even after the client has disconnected.
#[derive(Clone)]
pub struct Next(Arc<Stage>);

enum Stage {
    Middleware {
        middleware: Arc<dyn Middleware>,
        next: Next,
        /// Number of middlewares left in the route, including this one; 0 in a chain that is not a route's.
        left: u16,
    },
    Service(Arc<dyn Handler>),
}

impl Next {
    /// Creates the end of a chain.
    pub fn service(service: Arc<dyn Handler>) -> Self {
        Self(Arc::new(Stage::Service(service)))
    }

    /// Creates a chain of `middlewares`, in order, in front of `end`.
    pub fn new<M>(middlewares: M, end: Self) -> Self
    where
        M: IntoIterator<Item = Arc<dyn Middleware>>,
        M::IntoIter: DoubleEndedIterator,
    {
        middlewares.into_iter().rev().fold(end, |next, middleware| next.behind(middleware))
    }

    /// Returns this chain with a middleware, or the members of a composite one, in front of it.
    fn behind(self, middleware: Arc<dyn Middleware>) -> Self {
        match middleware.members() {
            Some(members) => members.iter().rev().fold(self, |next, (_, member)| next.behind(member.clone())),
            None => Self(Arc::new(Stage::Middleware { middleware, next: self, left: 0 })),
        }
    }

    /// Creates the chain of a route, and returns which middlewares it has: requests record how far they get. A
    /// composite middleware is replaced by its members.
    pub fn route<M>(middlewares: M, end: Self) -> (Self, Box<[MiddlewareInfo]>)
    where
        M: IntoIterator<Item = (Arc<str>, Arc<dyn Middleware>)>,
    {
        let mut all = Vec::new();
        let via: Arc<[Arc<str>]> = Arc::new([]);
        for (name, middleware) in middlewares {
            flatten(name, middleware, &via, &mut all);
        }
        let (infos, middlewares): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let chain = middlewares.into_iter().rev().zip(1..).fold(end, |next, (middleware, left)| {
            let left = u16::try_from(left).unwrap_or(0);
            Self(Arc::new(Stage::Middleware { middleware, next, left }))
        });
        (chain, infos.into())
    }

    /// Returns the middlewares in order.
    pub fn middlewares(&self) -> impl Iterator<Item = &Arc<dyn Middleware>> {
        let mut at = self;
        std::iter::from_fn(move || match &*at.0 {
            Stage::Middleware { middleware, next, .. } => {
                at = next;
                Some(middleware)
            }
            Stage::Service(_) => None,
        })
    }

    /// Passes the request on.
    pub fn run(&self, request: Request) -> BoxFuture<'_, Response> {
        match &*self.0 {
            Stage::Middleware { middleware, next, left } => {
                if *left != 0 {
                    request.context.exchange.pass_on(*left);
                    let (run, span) = (begin_run(&request, *left), begin_span(&request, *left));
                    if run.is_some() || span.is_some() {
                        return boxed(move || async move {
                            let response = middleware.handle(request, next).await;
                            OpenSpan::end(span, response.status().as_u16());
                            drop(run);
                            response
                        });
                    }
                }
                middleware.handle(request, next)
            }
            Stage::Service(service) => match request.context.exchange.timing() {
                Some(timing) => {
                    let run = timing.begin(None);
                    boxed(move || async move {
                        let response = service.call(request).await;
                        drop(run);
                        response
                    })
                }
                None => service.call(request),
            },
        }
    }
}

/// Appends a middleware, or the members of a composite one. `via` are the composite ones around it.
fn flatten(
    name: Arc<str>,
    middleware: Arc<dyn Middleware>,
    via: &Arc<[Arc<str>]>,
    all: &mut Vec<(MiddlewareInfo, Arc<dyn Middleware>)>,
) {
    let Some(members) = middleware.members() else {
        return all.push((MiddlewareInfo { name, via: via.clone() }, middleware));
    };
    let via: Arc<[Arc<str>]> = via.iter().cloned().chain([name]).collect();
    for (name, member) in members {
        flatten(name.clone(), member.clone(), &via, all);
    }
}

/// Begins to record the time of a middleware, if the request asks for it.
fn begin_run(request: &Request, left: u16) -> Option<OpenRun> {
    let exchange = &request.context.exchange;
    let (timing, route) = (exchange.timing()?, exchange.route()?);
    let index = route.middlewares.len().checked_sub(usize::from(left))?;
    timing.begin(Some(route.middlewares.get(index)?.name.clone()))
}

/// Begins the span of a middleware, if its kind has one. `retry` has one for each attempt instead.
fn begin_span(request: &Request, left: u16) -> Option<OpenSpan> {
    let exchange = &request.context.exchange;
    let (spans, route) = (exchange.detailed_spans()?, exchange.route()?);
    let index = route.middlewares.len().checked_sub(usize::from(left))?;
    route.middleware_types.get(index).filter(|kind| !matches!(&***kind, "" | "Retry"))?;
    spans.begin(SpanKind::Middleware(route.clone(), index))
}
