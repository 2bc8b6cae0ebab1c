//! What is spoken through the gateway: HTTP/1, HTTP/2, TLS, WebSocket, gRPC, server-sent events.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::tls::client_config;
use crate::support::{Backend, Client, Gateway, get, raw, websocket};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn serve(backend: &Backend) -> Gateway {
    Gateway::serve(&Gateway::one_service(&backend.url()))
}

/// Plain and TLS routers to one server; certificates for these names, the first one is the default.
fn tls_gateway(url: &str, names: &[&str]) -> (Gateway, Vec<CertificateDer<'static>>) {
    let folder = tempfile::tempdir().unwrap().keep();
    let mut certificates = Vec::new();
    let mut files = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let made = rcgen::generate_simple_self_signed(vec![(*name).to_owned()]).unwrap();
        let (cert, key) = (folder.join(format!("{index}.crt")), folder.join(format!("{index}.key")));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        certificates.push(CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).unwrap());
        files.push(format!("{{certFile: '{}', keyFile: '{}'}}", cert.display(), key.display()));
    }
    let default =
        files.first().map(|file| format!("  stores: {{default: {{defaultCertificate: {file}}}}}\n"));
    let gateway = Gateway::with(
        &["--entryPoints.websecure.address=127.0.0.1:0"],
        &format!(
            "http:
  routers:
    plain: {{rule: 'PathPrefix(`/`)', service: a}}
    secure: {{rule: 'PathPrefix(`/`)', service: a, tls: {{}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
tls:
  certificates: [{}]
{}",
            files.join(", "),
            default.unwrap_or_default()
        ),
    );
    std::fs::remove_dir_all(folder).unwrap();
    (gateway, certificates)
}

async fn tls(address: SocketAddr, name: &str, alpn: &[&str]) -> TlsStream<TcpStream> {
    let config = client_config(alpn, None);
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

type Boxed = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn http2<S>(stream: S) -> http2::SendRequest<Boxed>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn to(uri: &str) -> Request<Boxed> {
    Request::builder().uri(uri).body(Empty::new().boxed()).unwrap()
}

#[test]
fn http2_with_prior_knowledge_becomes_http1() {
    let backend = Backend::echo("a");
    let gateway = serve(&backend);
    runtime().block_on(async {
        let mut sender = http2(TcpStream::connect(gateway.web()).await.unwrap()).await;
        let answers = (0..20).map(|n| sender.send_request(to(&format!("http://shop.test/{n}"))));
        for answer in futures_util::future::join_all(answers.collect::<Vec<_>>()).await {
            let answer = answer.unwrap();
            assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, Version::HTTP_2));
            assert!(!answer.into_body().collect().await.unwrap().to_bytes().is_empty());
        }
    });
    assert_eq!(backend.seen().len(), 20);
    assert_eq!(backend.last().headers("host"), ["shop.test"]);
    assert!(backend.last().head.contains(" HTTP/1.1"));
}

#[test]
fn certificates_follow_the_server_name_and_alpn_the_version() {
    let backend = Backend::echo("a");
    let (gateway, certificates) = tls_gateway(&backend.url(), &["default.test", "shop.test", "*.wild.test"]);
    let secure = gateway.address("websecure");
    runtime().block_on(async {
        for (name, wanted) in [
            ("shop.test", 1),
            ("a.wild.test", 2),
            ("wild.test", 0),
            ("a.b.wild.test", 0),
            ("other", 0),
            ("default.test", 0),
        ] {
            let stream = tls(secure, name, &["h2", "http/1.1"]).await;
            let session = stream.get_ref().1;
            assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
            assert_eq!(session.peer_certificates().unwrap()[0], certificates[wanted], "{name}");
            let answer = http2(stream).await.send_request(to(&format!("https://{name}/x"))).await.unwrap();
            assert_eq!(answer.status(), 200);
        }
        let stream = tls(secure, "shop.test", &["http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    });
    assert_eq!(backend.last().headers("x-forwarded-proto"), ["https"]);
}

#[test]
fn without_a_certificate_one_is_generated() {
    let backend = Backend::echo("a");
    let (gateway, _) = tls_gateway(&backend.url(), &[]);
    runtime().block_on(async {
        let stream = tls(gateway.address("websecure"), "any.test", &["h2"]).await;
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap().len(), 1);
        assert_eq!(http2(stream).await.send_request(to("https://any.test/")).await.unwrap().status(), 200);
    });
}

async fn talk<S>(stream: S, url: &str)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut socket, answer) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    assert_eq!(answer.status(), 101);
    websocket::talk(&mut socket).await;
    websocket::close(socket).await;
}

#[test]
fn websockets_pass_in_plain_text_and_over_tls() {
    let runtime = runtime();
    let (gateway, _) = tls_gateway(&format!("http://{}", websocket::echo(&runtime)), &["shop.test"]);
    runtime.block_on(async {
        talk(TcpStream::connect(gateway.web()).await.unwrap(), "ws://shop.test/chat").await;
        talk(tls(gateway.address("websecure"), "shop.test", &["http/1.1"]).await, "wss://shop.test/chat")
            .await;
    });
}

#[test]
fn servers_see_header_names_in_their_usual_spelling() {
    let backend = Backend::echo("a");
    let gateway = serve(&backend);
    let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13";
    raw(gateway.web(), format!("GET /chat HTTP/1.1\r\nhost: h\r\n{upgrade}\r\n\r\n")).unwrap();
    for name in [
        "Host: h",
        "Sec-WebSocket-Key: dGh",
        "Sec-WebSocket-Version: 13",
        "X-Forwarded-For: ",
        "X-Real-Ip: ",
        "Upgrade: websocket",
    ] {
        assert!(backend.last().head.contains(&format!("\r\n{name}")), "{}", backend.last().head);
    }
    get(gateway.web(), "h", "/");
    assert!(backend.last().head.contains("\r\nX-Forwarded-Server: "), "{}", backend.last().head);
}

/// A server that speaks HTTP/2 only: sends back body and trailers of the request, and trailers of its own.
fn grpc_backend(runtime: &tokio::runtime::Runtime) -> SocketAddr {
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                let te = request.headers().get("te").cloned();
                let whole = request.into_body().collect().await.unwrap();
                let mut trailers = whole.trailers().cloned().unwrap_or_default();
                trailers.insert("grpc-status", "0".parse().unwrap());
                let frames =
                    [Frame::data(whole.to_bytes()), Frame::trailers(trailers)].map(Ok::<_, Infallible>);
                let mut response = http::Response::new(StreamBody::new(futures_util::stream::iter(frames)));
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                if let Some(te) = te {
                    response.headers_mut().insert("x-te", te);
                }
                Ok::<_, Infallible>(response)
            });
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    address
}

#[test]
fn grpc_passes_with_trailers_both_ways() {
    let runtime = runtime();
    let (gateway, _) = tls_gateway(&format!("h2c://{}", grpc_backend(&runtime)), &["shop.test"]);
    runtime.block_on(async {
        let plain = http2(TcpStream::connect(gateway.web()).await.unwrap()).await;
        let secure = http2(tls(gateway.address("websecure"), "shop.test", &["h2"]).await).await;
        for (mut sender, scheme) in [(plain, "http"), (secure, "https")] {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            let frames = [Frame::data(Bytes::from_static(b"\0\0\0\0\x02hi")), Frame::trailers(trailers)]
                .map(Ok::<_, Infallible>);
            let request = Request::post(format!("{scheme}://shop.test/pkg.Service/Call"))
                .header("te", "trailers")
                .header("content-type", "application/grpc")
                .body(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["x-te"]),
                (200, &"trailers".parse().unwrap())
            );
            let whole = answer.into_body().collect().await.unwrap();
            assert_eq!(whole.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(whole.trailers().unwrap()["x-sum"], "42");
            assert_eq!(whole.to_bytes(), &b"\0\0\0\0\x02hi"[..]);
        }
    });
}

/// A server that sends the head of an answer and then what it is given, as it is given.
fn dictated(head: &'static str) -> (Backend, Sender<&'static str>) {
    let (dictate, words) = channel::<&'static str>();
    let words = std::sync::Mutex::new(words);
    let backend = Backend::with(move |_, stream| {
        stream.write_all(head.as_bytes()).unwrap();
        while let Ok(word) = words.lock().unwrap().recv() {
            stream.write_all(word.as_bytes()).unwrap();
        }
        false
    });
    (backend, dictate)
}

#[test]
fn events_reach_the_client_at_once() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let chunked = head.contains("chunked");
        let (backend, dictate) = dictated(head);
        let gateway = serve(&backend);
        let mut client = Client::connect(gateway.web());
        client.send("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(client.head().unwrap().contains("text/event-stream"));
        for word in ["data: one\n\n", "data: two\n\n", "data: six\n\n"] {
            dictate
                .send(if chunked { Box::leak(format!("b\r\n{word}\r\n").into_boxed_str()) } else { word })
                .unwrap();
            assert_eq!(client.take(16).unwrap(), format!("b\r\n{word}\r\n").into_bytes());
        }
    }
}

/// A server that answers as it reads: sends each byte of the request body back, in a chunk of its own.
fn parrot() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        // Every chunk of the request is one letter: `1 CR LF letter CR LF`.
        let mut chunk = [0; 6];
        while stream.read_exact(&mut chunk).is_ok() {
            stream.write_all(&chunk).unwrap();
        }
    });
    address
}

#[test]
fn bodies_stream_both_ways_at_the_same_time() {
    let gateway = Gateway::serve(&Gateway::one_service(&format!("http://{}", parrot())));
    let mut client = Client::connect(gateway.web());
    client.send("POST /talk HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(client.take(6).unwrap(), b"1\r\na\r\n");
    for letter in "bcdefg".chars() {
        let chunk = format!("1\r\n{letter}\r\n");
        client.send(&chunk);
        assert_eq!(client.take(6).unwrap(), chunk.into_bytes());
    }
}

#[test]
fn a_large_upload_waits_for_its_server_and_arrives_whole() {
    const LENGTH: usize = 100 << 20;
    const ON_THE_WAY: usize = 40 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (go, wait): (Sender<()>, Receiver<()>) = channel();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        wait.recv().unwrap();
        let mut buffer = vec![0; 1 << 16];
        let (mut total, mut head) = (0, Vec::new());
        while total < LENGTH {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "cut after {total}");
            if head.ends_with(b"\r\n\r\n") {
                total += read;
            } else {
                head.extend_from_slice(&buffer[..read]);
                let end =
                    head.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(head.len() - 4) + 4;
                total += head.len() - end;
                head.truncate(end);
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        String::from_utf8(head).unwrap()
    });
    let gateway = Gateway::serve(&Gateway::one_service(&url));
    let mut stream = std::net::TcpStream::connect(gateway.web()).unwrap();
    write!(stream, "PUT /big HTTP/1.1\r\nHost: h\r\nContent-Length: {LENGTH}\r\n\r\n").unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let block = vec![b'x'; 1 << 16];
    let mut sent = 0;
    // Until nothing more is taken: the server does not read, so neither may the gateway.
    while let Ok(length) = stream.write(&block[..block.len().min(LENGTH - sent)]) {
        sent += length;
        assert!(sent < ON_THE_WAY, "the gateway swallows what its server does not take");
    }
    go.send(()).unwrap();
    stream.set_write_timeout(None).unwrap();
    while sent < LENGTH {
        sent += stream.write(&block[..block.len().min(LENGTH - sent)]).unwrap();
    }
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let head = server.join().unwrap();
    assert!(
        head.contains(&format!("Content-Length: {LENGTH}\r\n")) && !head.contains("Transfer-Encoding"),
        "{head}"
    );
}

#[test]
fn answers_without_a_body_keep_their_headers() {
    for (method, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n", Some("1234")),
        ("GET", "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\nContent-Length: 1234\r\n\r\n", None),
        ("HEAD", "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n", Some("9")),
    ] {
        let backend = Backend::bytes(answer);
        let gateway = serve(&backend);
        let mut client = Client::connect(gateway.web());
        for _ in 0..3 {
            client.send(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
            let seen = client.read_for(method).unwrap();
            assert_eq!(seen.status.to_string(), &answer[9..12]);
            assert_eq!(seen.header("content-length"), length, "{seen:?}");
            assert_eq!(seen.header("transfer-encoding"), None, "{seen:?}");
        }
    }
}

#[test]
fn lengths_are_kept_both_ways() {
    let backend = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    let gateway = serve(&backend);
    let mut client = Client::connect(gateway.web());
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
    let answer = client.read().unwrap();
    assert_eq!((answer.header("content-length"), answer.header("transfer-encoding")), (Some("5"), None));
    let seen = backend.last();
    assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (Some("3"), None));
}

#[test]
fn a_body_is_requested_only_when_a_server_accepts_it() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&format!(
        "http:\n  routers:\n    r: {{rule: 'Path(`/up`)', service: a}}\n  services:\n    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
        backend.url()
    ));
    let mut client = Client::connect(gateway.web());
    client.send("POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    assert_eq!(client.read().unwrap().status, 200);
    assert_eq!(backend.last().body, b"hello");
    let mut client = Client::connect(gateway.web());
    client.send("POST /elsewhere HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 404"));
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn connections_are_kept_alive_according_to_their_version() {
    let backend = Backend::echo("a");
    let gateway = serve(&backend);
    let mut client = Client::connect(gateway.web());
    for turn in 0..10 {
        client.send(format!("GET /{turn} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(client.read().unwrap().status, 200);
    }
    client.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\nGET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    for path in ["/a", "/b", "/c"] {
        assert!(client.read().unwrap().text().starts_with(&format!("GET {path} ")));
    }
    assert!(client.is_closed());
    let mut old = Client::connect(gateway.web());
    old.send("GET /old HTTP/1.0\r\n\r\n");
    assert_eq!(old.read().unwrap().status, 200);
    assert!(old.is_closed());
}
