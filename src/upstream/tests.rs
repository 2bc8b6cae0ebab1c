//! Tests of endpoints with hand-written servers.

mod secure;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate_config::transport::{ForwardingTimeouts, ServersTransport};
use tidegate_core::building::ClientTls;
use tidegate_core::values::Timeout;
use tidegate_core::{Body, BodyError, Connection, Context, HttpClient, Request, Response, UpstreamError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Client, Endpoint, Transport};

/// Starts a server that passes each connection with its index to `serve`.
async fn server<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(usize, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(number, stream));
        }
    });
    address
}

/// Reads one request head.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(text).unwrap())
}

fn transport(options: &ServersTransport) -> Arc<Transport> {
    Transport::build(options, &mut |_| unreachable!()).unwrap()
}

fn endpoint(scheme: &str, address: SocketAddr) -> Arc<Endpoint> {
    Endpoint::new(&format!("{scheme}://{address}"), transport(&ServersTransport::default()), 1).unwrap()
}

fn request(method: &str, path: &str, body: Body) -> Request {
    let (head, ()) = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", "h.test")
        .body(())
        .unwrap()
        .into_parts();
    Request::new(head, body, Context::new(Arc::new(Connection::plain(([127, 0, 0, 1], 9).into()))))
}

fn get(path: &str) -> Request {
    request("GET", path, Body::empty())
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect(1 << 20).await.unwrap().bytes.to_vec()).unwrap()
}

/// Waits until a condition holds.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn connections_are_reused() {
    let address = server(|number, mut stream| async move {
        while let Some(head) = head(&mut stream).await {
            let body = format!("{number} {}", head.lines().next().unwrap());
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let endpoint = endpoint("http", address);
    for path in ["/a", "/b?c=d", "/e"] {
        let response = endpoint.send(get(path)).await.unwrap();
        assert_eq!(text(response).await, format!("0 GET {path} HTTP/1.1"));
        assert_eq!((endpoint.in_flight(), endpoint.connections()), (0, 1));
    }
}

#[tokio::test]
async fn an_unread_response_closes_its_connection() {
    let address = server(|_, mut stream| async move {
        while head(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab").await.unwrap();
        }
    })
    .await;
    let endpoint = endpoint("http", address);
    drop(endpoint.send(get("/")).await.unwrap());
    assert_eq!((endpoint.in_flight(), endpoint.connections()), (0, 0));
}

#[tokio::test]
async fn extra_bytes_are_not_the_next_response() {
    let address = server(|number, mut stream| async move {
        while head(&mut stream).await.is_some() {
            let answer = if number == 0 {
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let endpoint = endpoint("http", address);
    assert_eq!(text(endpoint.send(get("/")).await.unwrap()).await, "ok");
    assert_eq!(text(endpoint.send(get("/")).await.unwrap()).await, "good");
    let post = || request("POST", "/", Body::full("x"));
    assert_eq!(text(endpoint.send(post()).await.unwrap()).await, "good");
}

#[tokio::test]
async fn a_kept_connection_that_closed_is_replaced() {
    // The first connection responds once and closes on the second request.
    let address = server(|number, mut stream| async move {
        let mut answers = 0;
        while head(&mut stream).await.is_some() {
            if number == 0 && answers == 1 {
                return;
            }
            answers += 1;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let endpoint = endpoint("http", address);
    assert_eq!(text(endpoint.send(get("/")).await.unwrap()).await, "ok");
    assert_eq!(text(endpoint.send(get("/")).await.unwrap()).await, "ok", "GET is repeated");
}

#[tokio::test]
async fn a_post_that_may_have_arrived_is_not_repeated() {
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = requests.clone();
    let address = server(move |_, mut stream| {
        let seen = seen.clone();
        async move {
            while head(&mut stream).await.is_some() {
                if seen.fetch_add(1, Ordering::SeqCst) == 1 {
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    let endpoint = endpoint("http", address);
    text(endpoint.send(get("/")).await.unwrap()).await;
    let error = endpoint.send(request("POST", "/", Body::full("x"))).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Lost { sent: true, .. }), "{error:?}");
    assert_eq!(error.status(), 502);
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn failures_are_classified() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = endpoint("http", free).send(get("/")).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Connect { .. }), "{error:?}");

    let address = server(|_, mut stream| async move {
        let head = head(&mut stream).await.unwrap();
        let answer: &[u8] = match head.split(' ').nth(1).unwrap() {
            "/junk" => b"SSH-2.0-OpenSSH\r\n\r\n",
            "/negative" => b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            "/switch" => b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            _ => b"",
        };
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let endpoint = endpoint("http", address);
    for path in ["/junk", "/negative", "/switch"] {
        let error = endpoint.send(get(path)).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Malformed { .. }), "{path}: {error:?}");
    }
    // Idempotent requests count as not sent: another server may be tried.
    for (method, done) in [("GET", false), ("POST", true)] {
        let error = endpoint.send(request(method, "/close", Body::empty())).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Lost { sent, .. } if sent == done), "{error:?}");
    }
    assert_eq!(endpoint.in_flight(), 0);
}

#[tokio::test]
async fn a_truncated_response_is_an_error() {
    let address = server(|_, mut stream| async move {
        let head = head(&mut stream).await.unwrap();
        let framing = if head.contains("/length") {
            "Content-Length: 100\r\n\r\npart"
        } else {
            "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"
        };
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes()).await.unwrap();
    })
    .await;
    let endpoint = endpoint("http", address);
    for path in ["/length", "/chunked"] {
        let response = endpoint.send(get(path)).await.unwrap();
        assert!(response.into_body().collect(1000).await.is_err(), "{path}");
        assert_eq!(endpoint.connections(), 0);
    }
}

#[tokio::test]
async fn unusual_statuses_and_responses_without_a_body_are_passed_on() {
    let address = server(|_, mut stream| async move {
        while let Some(head) = head(&mut stream).await {
            let status: u16 = head.split([' ', '/']).nth(2).unwrap().parse().unwrap();
            let answer = match status {
                204 | 304 => format!("HTTP/1.1 {status} S\r\n\r\n"),
                _ => format!("HTTP/1.1 {status} S\r\nContent-Length: 5\r\n\r\n"),
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
            if !head.starts_with("HEAD") && !matches!(status, 204 | 304) {
                stream.write_all(b"12345").await.unwrap();
            }
        }
    })
    .await;
    let endpoint = endpoint("http", address);
    for (method, status) in [("GET", 999), ("GET", 204), ("GET", 304), ("HEAD", 200), ("GET", 200)] {
        let response = endpoint.send(request(method, &format!("/{status}"), Body::empty())).await.unwrap();
        assert_eq!(response.status(), status);
        if method == "HEAD" {
            assert_eq!(response.headers()["content-length"], "5");
        }
        text(response).await;
    }
    assert_eq!(endpoint.connections(), 1, "all of them on one connection");
}

#[tokio::test]
async fn hop_by_hop_fields_are_removed() {
    let address = server(|_, mut stream| async move {
        while let Some(head) = head(&mut stream).await {
            let fields = "Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=7\r\nX-Keep: yes\r\n";
            let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {}\r\n\r\n{head}", head.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let endpoint = endpoint("http", address);
    let mut request = get("/");
    request.head.headers.insert("connection", "keep-alive, X-Secret".parse().unwrap());
    request.head.headers.insert("x-secret", "1".parse().unwrap());
    let response = endpoint.send(request).await.unwrap();
    let names: Vec<_> = response.headers().keys().map(|name| name.as_str().to_owned()).collect();
    assert_eq!(names, ["x-keep", "content-length"]);
    assert_eq!(text(response).await, "GET / HTTP/1.1\r\nHost: h.test\r\n\r\n");
}

#[tokio::test]
async fn request_and_response_can_stream_concurrently() {
    let address = server(|_, mut stream| async move {
        head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        // Echoes the chunks including their framing.
        let mut buffer = [0; 1024];
        loop {
            let length = stream.read(&mut buffer).await.unwrap();
            if length == 0 {
                return;
            }
            stream.write_all(&buffer[..length]).await.unwrap();
        }
    })
    .await;
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let endpoint = endpoint("http", address);
    let response = endpoint.send(request("POST", "/", Body::boxed(Channel(receiver)))).await.unwrap();
    let mut body = response.into_body();
    for piece in ["one", "two"] {
        sender.send(Bytes::from(piece)).unwrap();
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), piece);
    }
    drop(sender);
    assert!(std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_none());
}

#[tokio::test]
async fn a_request_is_sent_to_its_end_though_nobody_reads_the_response() {
    let (done, mut was_done) = tokio::sync::mpsc::unbounded_channel();
    let address = server(move |_, mut stream| {
        let done = done.clone();
        async move {
            head(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await.unwrap();
            let mut all = Vec::new();
            while !all.ends_with(b"\r\n0\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut all).await.unwrap(), 0);
            }
            stream.write_all(b"late").await.unwrap();
            done.send(all.len()).unwrap();
            assert!(head(&mut stream).await.is_none());
        }
    })
    .await;
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
    let endpoint = endpoint("http", address);
    let response = endpoint.send(request("POST", "/", Body::boxed(Channel(receiver)))).await.unwrap();
    for _ in 0..100 {
        sender.send(Bytes::from_static(&[b'x'; 10_000])).unwrap();
    }
    drop(sender);
    // Each piece is a chunk: four digits, and a line end on both sides.
    assert_eq!(was_done.recv().await, Some(100 * (10_000 + 4 + 4) + 5));
    assert_eq!(text(response).await, "late");
    until(|| endpoint.connections() == 1).await;
    assert_eq!(endpoint.in_flight(), 0);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_not_used() {
    let address = server(|_, mut stream| async move {
        head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let endpoint = endpoint("http", address);
    for _ in 0..3 {
        let post = request("POST", "/", Body::full("x"));
        assert_eq!(text(endpoint.send(post).await.unwrap()).await, "ok");
        until(|| {
            endpoint.sweep();
            endpoint.connections() == 0
        })
        .await;
    }
}

struct Channel(tokio::sync::mpsc::UnboundedReceiver<Bytes>);

impl http_body::Body for Channel {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

struct Broken(Option<BodyError>);

impl http_body::Body for Broken {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        std::task::Poll::Ready(self.0.take().map(Err))
    }
}

#[tokio::test]
async fn an_incomplete_request_is_an_error_of_the_client() {
    let address = server(|_, mut stream| async move {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let endpoint = endpoint("http", address);
    for (error, status) in [(BodyError::TooLarge { limit: 1 }, 413), (BodyError::TimedOut, 408)] {
        let body = Body::boxed(Broken(Some(error)));
        let error = endpoint.send(request("POST", "/", body)).await.unwrap_err();
        assert_eq!(error.status(), status, "{error:?}");
    }
}

#[tokio::test]
async fn dropping_the_future_closes_the_connection() {
    let (closed, mut was_closed) = tokio::sync::mpsc::unbounded_channel();
    let address = server(move |_, mut stream| {
        let closed = closed.clone();
        async move {
            head(&mut stream).await.unwrap();
            closed.send("asked").unwrap();
            let _ = stream.read_u8().await;
            closed.send("closed").unwrap();
        }
    })
    .await;
    let endpoint = endpoint("http", address);
    let task = tokio::spawn({
        let endpoint = endpoint.clone();
        async move { endpoint.send(get("/")).await }
    });
    assert_eq!(was_closed.recv().await, Some("asked"));
    task.abort();
    assert_eq!(was_closed.recv().await, Some("closed"));
    assert_eq!(endpoint.in_flight(), 0);
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let address = server(|_, mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let timeouts =
        ForwardingTimeouts { response_header_timeout: Timeout::from_millis(30), ..Default::default() };
    let options = ServersTransport { forwarding_timeouts: Some(timeouts), ..Default::default() };
    let endpoint = Endpoint::new(&format!("http://{address}"), transport(&options), 1).unwrap();
    for request in [get("/"), request("POST", "/", Body::full("x"))] {
        let error = endpoint.send(request).await.unwrap_err();
        assert!(matches!(error, UpstreamError::ResponseTimeout { .. }), "{error:?}");
        assert_eq!(error.status(), 504);
    }
    assert_eq!(endpoint.in_flight(), 0);
}

#[tokio::test]
async fn idle_connections_are_limited_in_number_and_age() {
    let address = server(|_, mut stream| async move {
        while head(&mut stream).await.is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    })
    .await;
    let timeouts = ForwardingTimeouts { idle_conn_timeout: Timeout::from_millis(1), ..Default::default() };
    let options = ServersTransport {
        max_idle_conns_per_host: 2,
        forwarding_timeouts: Some(timeouts),
        ..Default::default()
    };
    let endpoint = Endpoint::new(&format!("http://{address}"), transport(&options), 1).unwrap();
    let open = futures_util::future::join_all((0..5).map(|_| endpoint.send(get("/")))).await;
    for response in open {
        text(response.unwrap()).await;
    }
    endpoint.sweep();
    assert!(endpoint.connections() <= 2);
    until(|| {
        endpoint.sweep();
        endpoint.connections() == 0
    })
    .await;
}

/// Serves one HTTP/1 connection with hyper and passes each request to an endpoint, as the gateway does.
async fn front(endpoint: Arc<Endpoint>) -> SocketAddr {
    server(move |_, stream| {
        let endpoint = endpoint.clone();
        let service = hyper::service::service_fn(move |incoming: http::Request<hyper::body::Incoming>| {
            let endpoint = endpoint.clone();
            async move {
                let (mut head, body) = incoming.into_parts();
                let mut context = Context::new(Arc::new(Connection::plain(([127, 0, 0, 1], 9).into())));
                context.upgrade = head.extensions.remove().map(crate::entrypoint::http::upgrade::of_library);
                let answer = endpoint.send(Request::new(head, Body::incoming(body), context)).await;
                let (head, body) = answer.unwrap_or_else(tidegate_core::reply::upstream_failure).into_parts();
                Ok::<_, BodyError>(http::Response::from_parts(*head, body))
            }
        });
        async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
        }
    })
    .await
}

#[tokio::test]
async fn upgrades_copy_both_directions_with_half_close() {
    let address = server(|_, mut stream| async move {
        let head = head(&mut stream).await.unwrap();
        assert!(head.contains("Upgrade: echo\r\n") && head.contains("Connection: Upgrade\r\n"), "{head}");
        stream
            .write_all(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-A: b\r\n\r\nhello")
            .await
            .unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    })
    .await;
    let endpoint = endpoint("http", address);
    let mut client = TcpStream::connect(front(endpoint.clone()).await).await.unwrap();
    // The client sends data after the head before the upgrade is accepted.
    client
        .write_all(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
        .await
        .unwrap();
    let answer = head(&mut client).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("x-a: b"), "{answer}");
    assert_eq!(endpoint.in_flight(), 1);
    client.write_all(b"late").await.unwrap();
    client.shutdown().await.unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "helloearly late");
    until(|| endpoint.in_flight() == 0).await;
}

#[tokio::test]
async fn a_rejected_upgrade_is_an_ordinary_response() {
    let address = server(|_, mut stream| async move {
        let _ = head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        // Data after the rejected request must not be parsed as a request.
        assert!(head(&mut stream).await.is_none());
    })
    .await;
    let endpoint = endpoint("http", address);
    let mut client = TcpStream::connect(front(endpoint.clone()).await).await.unwrap();
    client
        .write_all(b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut client).await.unwrap().starts_with("HTTP/1.1 403 "));
    assert_eq!(endpoint.connections(), 0);
}
