//! What a middleware would do with a request, found out without sending it.
//!
//! Most middlewares decide by the request alone: [`Prediction::rehearsed`] runs them as they are, in front of an end
//! that keeps the request. Those that count, ask another server or read the response say what they would do
//! ([`Middleware::predict`]).

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use http::HeaderName;
use http_body::{Body as _, SizeHint};
use parking_lot::Mutex;

use crate::{Body, BoxFuture, Frames, Handler, Middleware, Next, Polled, Request, Response};

/// What a middleware would do with a request.
pub struct Prediction {
    /// What becomes of the request.
    pub verdict: Verdict,
    /// What else is known, in phrases for the operator: the state of a limit, the address that is asked. They contain
    /// no credentials and no values of headers.
    pub notes: Vec<String>,
    /// Response headers that the middleware sets or removes if the request goes on.
    pub response_headers: Vec<HeaderName>,
}

/// What becomes of a request.
pub enum Verdict {
    /// It goes on like this.
    Passes(Box<Request>),
    /// The middleware responds.
    Responds(Box<Response>),
    /// It is only known once the request is sent. If it goes on, then like this.
    Depends(Box<Request>),
}

impl Prediction {
    /// The request goes on like this.
    pub fn passes(request: Request) -> Self {
        Self::of(Verdict::Passes(Box::new(request)))
    }

    /// The middleware responds.
    pub fn responds(response: Response) -> Self {
        Self::of(Verdict::Responds(Box::new(response)))
    }

    /// It depends on more than the request; `note` says on what.
    pub fn depends(request: Request, note: impl Into<String>) -> Self {
        Self::of(Verdict::Depends(Box::new(request))).note(note)
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Runs a middleware whose `handle` affects only the request and its response. What it awaits besides the rest of
    /// the chain stays unknown.
    pub fn rehearsed(middleware: &dyn Middleware, request: Request) -> Self {
        let spare = request.stand_in();
        let end = Arc::new(Keep(Mutex::new(None)));
        let next = Next::service(end.clone());
        let polled =
            pin!(middleware.handle(request, &next)).poll(&mut TaskContext::from_waker(Waker::noop()));
        let kept = end.0.lock().take();
        match (kept, polled) {
            (Some(request), Poll::Ready(response)) => Self {
                response_headers: response.headers().keys().cloned().collect(),
                ..Self::passes(request)
            },
            (Some(request), Poll::Pending) => Self::passes(request),
            (None, Poll::Ready(response)) => Self::responds(response),
            (None, Poll::Pending) => Self::depends(spare, "known once it is sent"),
        }
    }

    fn of(verdict: Verdict) -> Self {
        Self { verdict, notes: Vec::new(), response_headers: Vec::new() }
    }
}

/// The end of a chain that keeps the request.
struct Keep(Mutex<Option<Request>>);

impl Handler for Keep {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        *self.0.lock() = Some(request);
        Box::pin(std::future::ready(Response::new(Body::empty())))
    }
}

/// A body of known length without content.
struct StandIn(u64);

impl Frames for StandIn {
    fn poll_next(&mut self, _: &mut TaskContext<'_>) -> Polled {
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

impl Body {
    /// Returns a body of this length in bytes without content, for a request that is not sent. Reading it waits
    /// forever.
    pub fn stand_in(length: u64) -> Self {
        if length == 0 { Self::empty() } else { Self::of_frames(StandIn(length)) }
    }
}

impl Request {
    /// Returns a copy whose body has the same length and no content, for a request that is not sent.
    #[must_use]
    pub fn stand_in(&self) -> Self {
        let body = Body::stand_in(self.body.size_hint().lower());
        Self::new(self.head.clone(), body, self.context.clone())
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::{Connection, Context, Reason, boxed, reply};

    fn request(path: &str) -> Request {
        let head = http::Request::post(path).body(()).unwrap().into_parts().0;
        let connection = Connection::plain(([127, 0, 0, 1], 4000).into());
        Request::new(head, Body::stand_in(7), Context::new(Arc::new(connection)))
    }

    /// Changes the path, refuses `/no`, waits at `/wait`, and marks responses.
    struct Example;

    impl Middleware for Example {
        fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
            match request.path() {
                "/no" => {
                    return Box::pin(std::future::ready(reply::empty(StatusCode::GONE, Reason::Forbidden)));
                }
                "/wait" => return Box::pin(std::future::pending()),
                _ => {}
            }
            request.set_path("/new").unwrap();
            boxed(move || async move {
                let mut response = next.run(request).await;
                response.headers_mut().insert("x-mark", http::HeaderValue::from_static("1"));
                response
            })
        }
    }

    #[test]
    fn a_rehearsal_shows_what_the_middleware_does() {
        let passed = Prediction::rehearsed(&Example, request("/old"));
        assert_eq!(passed.response_headers, ["x-mark"]);
        let Verdict::Passes(passed) = passed.verdict else { panic!("it passes") };
        assert_eq!((passed.path(), passed.body.size_hint().exact()), ("/new", Some(7)));
        let Verdict::Responds(response) = Prediction::rehearsed(&Example, request("/no")).verdict else {
            panic!("it responds")
        };
        assert_eq!(response.status(), StatusCode::GONE);
        let Verdict::Depends(kept) = Prediction::rehearsed(&Example, request("/wait")).verdict else {
            panic!("it waits")
        };
        assert_eq!((kept.path(), kept.body.size_hint().exact()), ("/wait", Some(7)));
    }

    #[test]
    fn a_middleware_that_says_nothing_is_unknown() {
        struct Silent;
        impl Middleware for Silent {
            fn handle<'a>(&'a self, _: Request, _: &'a Next) -> BoxFuture<'a, Response> {
                panic!("a prediction runs only middlewares that say so")
            }
        }
        assert!(matches!(Silent.predict(request("/")).verdict, Verdict::Depends(_)));
    }
}
