//! Counts the instructions that a chain of ten middlewares adds to a request: what the contract itself costs.
//!
//! `cargo bench --bench chain` runs itself in callgrind, with two numbers of requests for each chain: their difference
//! has no start-up in it. Needs valgrind.

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures_util::FutureExt;
use tidegate_core::{Body, BoxFuture, Connection, Context, Handler, Middleware, Next, Request, Response};

const LENGTH: usize = 10;
const FEW: usize = 1_000;
const MANY: usize = 5_000;

/// Looks at the request and passes it on.
struct RequestOnly;

impl Middleware for RequestOnly {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        black_box(&request.head.method);
        next.run(request)
    }
}

/// Changes the response.
struct ResponseHandling;

impl Middleware for ResponseHandling {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            let mut response = next.run(request).await;
            *response.status_mut() = black_box(http::StatusCode::ACCEPTED);
            response
        })
    }
}

struct Service;

impl Handler for Service {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        black_box(&request);
        Box::pin(std::future::ready(Response::new(Body::empty())))
    }
}

fn chain(kind: &str) -> Next {
    let one = |place: usize| -> Arc<dyn Middleware> {
        match kind {
            "request-only" => Arc::new(RequestOnly),
            "response-handling" => Arc::new(ResponseHandling),
            _ if place.is_multiple_of(2) => Arc::new(RequestOnly),
            _ => Arc::new(ResponseHandling),
        }
    };
    let length = if kind == "none" { 0 } else { LENGTH };
    Next::new((0..length).map(one).collect::<Vec<_>>(), Next::service(Arc::new(Service)))
}

/// Sends requests through a chain.
fn run(kind: &str, count: usize) {
    let next = chain(kind);
    let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let context = Context::new(Arc::new(Connection::plain(peer)));
    for _ in 0..count {
        let (head, ()) = http::Request::new(()).into_parts();
        let request = Request::new(head, Body::empty(), context.clone());
        let response = next.run(request).now_or_never();
        assert!(response.is_some());
        black_box(response);
    }
}

/// Instructions of the whole program with this many requests.
fn instructions(kind: &str, count: usize) -> Option<u64> {
    let program = std::env::current_exe().ok()?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    let output = command.args([kind, &count.to_string()]).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[expect(clippy::print_stdout, reason = "a benchmark reports to whoever runs it")]
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [kind, count] = arguments.as_slice() {
        return run(kind, count.parse().unwrap_or(FEW));
    }
    let mut none = 0;
    for kind in ["none", "request-only", "response-handling", "mixed"] {
        let counted = instructions(kind, MANY).zip(instructions(kind, FEW));
        let Some((many, few)) = counted else { return println!("chain: valgrind is needed") };
        let each = (many - few) / (MANY - FEW) as u64;
        match kind {
            "none" => none = each,
            _ => println!("{LENGTH} middlewares, {kind}: {} instructions per request", each - none),
        }
    }
}
