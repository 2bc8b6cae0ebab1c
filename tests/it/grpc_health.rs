//! Health checks over gRPC, towards a server that says how it is.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::{Gateway, eventually, get};

/// The server does not know the service.
const UNIMPLEMENTED: u8 = 0;
/// `HealthCheckResponse.ServingStatus` (gRPC health checking protocol, v1).
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;

/// A gRPC server with the health service, which says what `state` holds.
fn server(runtime: &tokio::runtime::Runtime, state: &Arc<AtomicU8>) -> SocketAddr {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let (address, state) = (listener.local_addr().unwrap(), state.clone());
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let state = state.clone();
            let service =
                hyper::service::service_fn(move |request| answer(request, state.load(Ordering::SeqCst)));
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    address
}

async fn answer(
    request: Request<Incoming>,
    state: u8,
) -> Result<Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let asks = request.uri().path() == "/grpc.health.v1.Health/Check";
    let asks_well = request.method() == "POST"
        && request.headers()["content-type"] == "application/grpc"
        && request.headers()["te"] == "trailers"
        && request.into_body().collect().await.unwrap().to_bytes() == [0; 5][..];
    let (message, status) = match (asks && asks_well, state) {
        (false, _) if !asks => (Bytes::from_static(b"\0\0\0\0\0"), "0"),
        (false, _) => (Bytes::new(), "3"),
        (true, UNIMPLEMENTED) => (Bytes::new(), "12"),
        (true, state) => (Bytes::from(vec![0, 0, 0, 0, 2, 8, state]), "0"),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    let frames = [Frame::data(message), Frame::trailers(trailers)].map(Ok);
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut response = Response::new(BodyExt::boxed_unsync(body));
    response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    Ok(response)
}

#[test]
fn a_server_is_up_while_it_says_that_it_serves() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let state = Arc::new(AtomicU8::new(NOT_SERVING));
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a}}
  services:
    a:
      loadBalancer:
        servers: [{{url: 'h2c://{}'}}]
        healthCheck: {{mode: grpc, path: /ignored, interval: 20ms, timeout: 500ms}}
",
        server(&runtime, &state)
    ));
    let status = || get(gateway.web(), "h", "/pkg.Service/Call").status;
    for (said, expected) in
        [(SERVING, 200), (NOT_SERVING, 503), (SERVING, 200), (UNIMPLEMENTED, 503), (SERVING, 200)]
    {
        state.store(said, Ordering::SeqCst);
        // Before the first check it is used as well, so both are waited for.
        eventually(&format!("{expected} while it says {said}"), || {
            let api = gateway.api("/api/http/services/a@file");
            status() == expected && api.contains(if expected == 200 { "UP" } else { "DOWN" })
        });
    }
}
