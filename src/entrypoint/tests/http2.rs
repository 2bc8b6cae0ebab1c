//! HTTP/2 over real connections.

use super::*;

type Sender = hyper::client::conn::http2::SendRequest<Body>;

async fn connect(address: SocketAddr) -> Sender {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(path: &str, body: Body) -> ::http::Request<Body> {
    ::http::Request::builder()
        .uri(format!("http://a.test:81{path}"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(body)
        .unwrap()
}

async fn text(response: ::http::Response<hyper::body::Incoming>) -> String {
    let bytes = Body::incoming(response.into_body()).collect(1 << 20).await.unwrap().bytes;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn requests_with_prior_knowledge_are_normalized() {
    let gate = gate(|_| {});
    gate.runtime.block_on(async {
        let mut sender = connect(gate.address).await;
        let shown = text(sender.send_request(request("/x/./y", Body::empty())).await.unwrap()).await;
        assert!(shown.starts_with("GET /x/y\n"), "{shown}");
        for line in ["host: a.test:81\n", "cookie: a=1; b=2\n", "x-forwarded-port: 81\n"] {
            assert!(shown.contains(line), "{line} in {shown}");
        }
        let upload = request("/upload", Body::full(vec![0; 3_000_000]));
        assert_eq!(text(sender.send_request(upload).await.unwrap()).await, "3000000 bytes");
    });
}

#[test]
fn many_small_frames_are_allowed() {
    let gate = gate(|_| {});
    gate.runtime.block_on(async {
        struct Drops(usize);
        impl http_body::Body for Drops {
            type Data = Bytes;
            type Error = BodyError;
            fn poll_frame(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
                let more = self.0.checked_sub(1).inspect(|left| self.0 = *left);
                std::task::Poll::Ready(more.map(|_| Ok(Frame::data(Bytes::from_static(b"x")))))
            }
        }
        let mut sender = connect(gate.address).await;
        let upload = request("/upload", Body::boxed(Drops(2000)));
        assert_eq!(text(sender.send_request(upload).await.unwrap()).await, "2000 bytes");
    });
}

#[test]
fn incomplete_header_blocks_and_idle_connections_are_closed() {
    let gate = gate(|options| {
        let limit = tidegate_core::values::Timeout::from_millis(300);
        options.transport.responding_timeouts.read_timeout = limit;
        options.transport.responding_timeouts.idle_timeout = limit;
    });
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let headers = b"\0\0\x01\x01\0\0\0\0\x01\x82";
    for bytes in [&preface[..], &[&preface[..], &headers[..]].concat()] {
        let mut stream = gate.connect();
        stream.write_all(bytes).unwrap();
        rest(&mut stream);
    }
    eventually(|| gate.open() == 0);
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET / HTTP/2` for host `a`.
const HEAD: &[u8] = b"\x82\x86\x84\x41\x01a";

/// Repeatedly sends the result of `piece` until the gateway disconnects, possibly after it has discarded some of it.
fn is_cut(gate: &Gate, piece: impl Fn(u32) -> Vec<u8>) -> bool {
    let mut stream = gate.connect();
    stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut reader = stream.try_clone().unwrap();
    let reading =
        std::thread::spawn(move || while reader.read(&mut [0; 65536]).is_ok_and(|length| length > 0) {});
    (0..200_000u32).any(|round| reading.is_finished() || stream.write_all(&piece(2 * round + 1)).is_err())
}

#[test]
fn floods_are_closed_and_other_clients_served() {
    let gate = gate(|_| {});
    let rapid_reset = |id| [frame(1, 5, id, HEAD), frame(3, 0, id, &[0, 0, 0, 8])].concat();
    assert!(is_cut(&gate, rapid_reset), "rapid reset (CVE-2023-44487)");
    let made_you_reset = |id| [frame(1, 4, id, HEAD), frame(8, 0, id, &[0; 4])].concat();
    assert!(is_cut(&gate, made_you_reset), "MadeYouReset (CVE-2025-8671)");
    assert!(is_cut(&gate, |_| frame(6, 0, 0, &[0; 8])), "PING");
    assert!(is_cut(&gate, |_| frame(4, 0, 0, &[])), "SETTINGS");
    assert!(is_cut(&gate, |id| if id == 1 { frame(1, 4, 1, HEAD) } else { frame(0, 0, 1, &[]) }), "DATA");
    let continuation = |id| if id == 1 { frame(1, 0, 1, HEAD) } else { frame(9, 0, 1, &[]) };
    assert!(is_cut(&gate, continuation), "CONTINUATION (CVE-2024-27316)");
    assert!(gate.exchange(get("/")).starts_with("HTTP/1.1 200 "));
    eventually(|| gate.open() == 0);
}

#[test]
fn a_client_that_never_opens_its_window_is_closed() {
    let gate = gate(|options| {
        let limit = tidegate_core::values::Timeout::from_millis(300);
        options.transport.responding_timeouts.write_timeout = limit;
    });
    let mut stream = gate.connect();
    // SETTINGS_INITIAL_WINDOW_SIZE = 0.
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..], &frame(1, 5, 1, HEAD)].concat();
    stream.write_all(&preface).unwrap();
    rest(&mut stream);
    eventually(|| gate.open() == 0);
}

#[test]
fn shutdown_sends_goaway() {
    let mut gate = gate(|_| {});
    let points = gate.points.take().unwrap();
    let release = gate.release.clone();
    gate.runtime.block_on(async {
        let mut sender = connect(gate.address).await;
        let waiting = tokio::spawn(sender.send_request(request("/wait", Body::empty())));
        while points.connections()["web"] == 0 {
            tokio::task::yield_now().await;
        }
        let stopping = tokio::spawn(points.shutdown());
        release.notify_one();
        assert_eq!(text(waiting.await.unwrap().unwrap()).await, "released");
        stopping.await.unwrap();
    });
}
