//! Entry points over real connections, with raw bytes and a hand-made snapshot.

mod http1;
mod http2;
mod tls;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use tidegate_config::tls::Tls;
use tidegate_core::{
    Body, BodyError, BoxFuture, Frames, Handler, Polled, Reason, Request, Response, RouteInfo, reply,
};
use tokio::sync::Notify;

use super::*;
use crate::router::{Entry, Index, Rule};
use crate::settings::{EntryPoint, EntryPointObservability};
use crate::snapshot::routes::end;
use crate::snapshot::{Route, Routes, Snapshot};
use crate::tls::{HostOptions, TlsStore};

/// Responds depending on the path.
#[derive(Default)]
struct Backend {
    release: Arc<Notify>,
}

impl Handler for Backend {
    fn call<'a>(&'a self, mut request: Request) -> BoxFuture<'a, Response> {
        let release = self.release.clone();
        Box::pin(async move {
            match request.path() {
                "/panic" => panic!("as asked"),
                "/wait" => {
                    release.notified().await;
                    reply::bare(StatusCode::OK, "released", Reason::OwnService)
                }
                "/upload" => match std::mem::take(&mut request.body).collect(1 << 30).await {
                    Ok(body) => {
                        reply::bare(StatusCode::OK, format!("{} bytes", body.bytes.len()), Reason::OwnService)
                    }
                    Err(error) => {
                        reply::bare(StatusCode::REQUEST_TIMEOUT, error.to_string(), Reason::OwnService)
                    }
                },
                "/elsewhere" => {
                    let body = std::mem::take(&mut request.body);
                    let (done, length) = tokio::sync::oneshot::channel();
                    std::thread::spawn(move || {
                        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                        let read = runtime.block_on(body.collect(1 << 30));
                        let _ = done.send(read.map(|body| body.bytes.len()).ok());
                    });
                    let length = length.await.unwrap();
                    reply::bare(StatusCode::OK, format!("{length:?} elsewhere"), Reason::OwnService)
                }
                "/echo" => {
                    let body = Some(std::mem::take(&mut request.body));
                    Response::new(Body::of_frames(Echo { body, polls: 0 }))
                }
                "/break" => Response::new(Body::boxed(Pieces { left: 2, then_fail: true })),
                "/endless" => Response::new(Body::boxed(Pieces { left: usize::MAX, then_fail: false })),
                "/upgrade" => {
                    let upgrade = request.context.upgrade.unwrap();
                    tokio::spawn(async move {
                        let mut stream = upgrade.side.changed().await.unwrap();
                        let mut byte = [0];
                        while tokio::io::AsyncReadExt::read(&mut stream, &mut byte).await.unwrap_or(0) > 0 {
                            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &byte).await;
                        }
                    });
                    let mut response = reply::bare(StatusCode::SWITCHING_PROTOCOLS, "", Reason::OwnService);
                    for (name, value) in [("connection", "upgrade"), ("upgrade", "echo")] {
                        response.headers_mut().insert(name, HeaderValue::from_static(value));
                    }
                    response
                }
                _ => reply::bare(StatusCode::OK, shown(&request), Reason::OwnService),
            }
        })
    }
}

/// A request as text: its line, then its headers.
fn shown(request: &Request) -> String {
    let head = &request.head;
    let mut text = format!("{} {}\n", head.method, head.uri);
    for (name, value) in &head.headers {
        text.push_str(&format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    }
    text
}

/// Another body, and how often it was polled.
struct Echo {
    body: Option<Body>,
    polls: usize,
}

impl Frames for Echo {
    fn poll_next(&mut self, cx: &mut std::task::Context<'_>) -> Polled {
        self.polls += 1;
        let Some(body) = &mut self.body else { return std::task::Poll::Ready(None) };
        let frame = std::task::ready!(http_body::Body::poll_frame(std::pin::Pin::new(body), cx));
        std::task::Poll::Ready(Some(frame.unwrap_or_else(|| {
            self.body = None;
            Ok(Frame::data(format!("{} polls", self.polls).into()))
        })))
    }
}

/// A body whose pieces are all available.
struct Pieces {
    left: usize,
    then_fail: bool,
}

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        static SENT: [u8; 4096] = [b'x'; 4096];
        std::task::Poll::Ready(match self.left {
            0 if self.then_fail => Some(Err(BodyError::Other("broken".into()))),
            0 => None,
            _ => {
                self.left -= 1;
                Some(Ok(Frame::data(Bytes::from_static(&SENT))))
            }
        })
    }
}

struct Gate {
    points: Option<EntryPoints>,
    address: SocketAddr,
    release: Arc<Notify>,
    runtime: tokio::runtime::Runtime,
}

fn gate(change: impl FnOnce(&mut EntryPoint)) -> Gate {
    gate_with(change, Options { workers: 2, ..Options::default() })
}

fn gate_with(change: impl FnOnce(&mut EntryPoint), options: Options) -> Gate {
    gate_of(change, options, TlsStore::without_files(&Tls::default(), None).0)
}

fn gate_of(change: impl FnOnce(&mut EntryPoint), options: Options, tls: Arc<TlsStore>) -> Gate {
    gate_with_hosts(change, options, tls, HostOptions::default())
}

fn gate_with_hosts(
    change: impl FnOnce(&mut EntryPoint),
    options: Options,
    tls: Arc<TlsStore>,
    tls_options: HostOptions,
) -> Gate {
    let backend = Backend::default();
    let release = backend.release.clone();
    let service = Arc::new(backend);
    let index = |rule: &str| {
        let route = Route {
            info: Arc::new(RouteInfo {
                router: "r@test".into(),
                service: "s@test".into(),
                ..RouteInfo::default()
            }),
            chain: end(service.clone(), true, None),
            timeouts: None,
            observability: EntryPointObservability::default(),
            tls_options: None,
            children: None,
        };
        let rule = Rule::parse(rule).unwrap();
        Index::new(vec![Entry { rule, priority: 1, tie: (0, String::new()), value: Arc::new(route) }])
    };
    let snapshot = Snapshot {
        generation: 1,
        entry_points: vec![Routes {
            plain: index("PathPrefix(`/`)"),
            tls: index("PathPrefix(`/`)"),
            tcp: None,
            udp: None,
            tls_options,
            error_pages: None,
        }],
        tls,
        services: BTreeMap::new(),
        tcp_services: BTreeMap::new(),
        report: Arc::default(),
        counters: BTreeMap::new(),
        traffic: Default::default(),
        consumers: Arc::default(),
        limits: Vec::new(),
        caches: Default::default(),
        sessions: Default::default(),
        maintenance: Default::default(),
        compiled: time::OffsetDateTime::UNIX_EPOCH,
    };
    let mut entry_point = EntryPoint { address: "127.0.0.1:0".into(), ..EntryPoint::default() };
    change(&mut entry_point);
    let mut settings = Settings::default();
    settings.entry_points.insert("web".into(), entry_point);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let points = EntryPoints::start(&settings, SnapshotHandle::new(Arc::new(snapshot)), options).unwrap();
    Gate { address: points.addresses()["web"], points: Some(points), release, runtime }
}

impl Gate {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends bytes on a separate connection and reads until it closes.
    fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes.as_ref());
        rest(&mut stream)
    }

    fn open(&self) -> usize {
        self.points.as_ref().unwrap().connections()["web"]
    }
}

fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until `end` is received.
fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(end.as_bytes()) {
        match stream.read(&mut byte) {
            Ok(1) => bytes.push(byte[0]),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&bytes)),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn eventually(what: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < limit, "it never happened");
        std::thread::yield_now();
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
}

#[test]
fn a_request_reaches_its_service_normalized() {
    let gate = gate(|_| {});
    let answer = gate.exchange(get("/a/../b//c%2fd%7e?x;y"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("GET /b/c%2Fd~?x&y\n"), "{answer}");
    for line in ["x-real-ip: 127.0.0.1\n", "x-forwarded-for: 127.0.0.1\n", "x-forwarded-port: 80\n"] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    assert!(answer.contains("\r\ndate: "), "{answer}");
}

#[test]
fn keep_alive_and_pipelining() {
    let gate = gate(|_| {});
    let mut stream = gate.connect();
    let one = "GET /one HTTP/1.1\r\nHost: a\r\n\r\n";
    let post =
        "POST /upload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    stream.write_all(format!("{one}{post}{}", get("/last")).as_bytes()).unwrap();
    let answers = rest(&mut stream);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
    assert!(answers.contains("5 bytes") && answers.contains("GET /last"), "{answers}");
}

#[test]
fn ambiguous_framing_is_refused_and_closes_the_connection() {
    let gate = gate(|_| {});
    for head in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n",
        "GET /#x HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n",
        "GET / HTTP/1.1\nHost: a\r\n",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n",
        "GET /%zz HTTP/1.1\r\nHost: a\r\n",
    ] {
        let answer = gate.exchange(format!("{head}\r\n"));
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "),
            "{head:?}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
    }
}

#[test]
fn a_panic_becomes_a_500() {
    let gate = gate(|_| {});
    let answer = gate.exchange(get("/panic"));
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(gate.exchange(get("/")).starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_failed_body_closes_the_connection() {
    let gate = gate(|_| {});
    let answer = gate.exchange(get("/break"));
    assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[test]
fn slow_clients_are_closed() {
    let gate = gate(|options| {
        options.transport.responding_timeouts.read_timeout = tidegate_core::values::Timeout::from_millis(300);
        options.transport.responding_timeouts.idle_timeout = tidegate_core::values::Timeout::from_millis(300);
    });
    for beginning in ["", "GE", "GET / HTTP/1.1\r\nHost: a\r\nX: ", "PRI * HTTP/2.0\r\n", "\x16\x03\x01\x02"]
    {
        assert_eq!(gate.exchange(beginning), "", "{beginning:?}");
    }
    let slow_body = gate.exchange("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
    assert!(slow_body.is_empty() || slow_body.starts_with("HTTP/1.1 408 "), "{slow_body}");
    let idle = gate.exchange("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(idle.starts_with("HTTP/1.1 200 "), "{idle}");
}

#[test]
fn an_idle_connection_outlives_the_timeout_of_heads() {
    let gate = gate(|options| {
        options.transport.responding_timeouts.read_timeout = tidegate_core::values::Timeout::from_millis(200);
    });
    let mut stream = gate.connect();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request).unwrap();
    until(&mut stream, "x-forwarded-for: 127.0.0.1\n");
    // The elapsed time itself is tested.
    let ended = {
        stream.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
        stream.read(&mut [0]).map_err(|error| error.kind())
    };
    assert_eq!(ended, Err(std::io::ErrorKind::WouldBlock));
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request).unwrap();
    until(&mut stream, "x-forwarded-for: 127.0.0.1\n");
}

#[test]
fn a_parked_connection_resumes() {
    let gate = gate(|_| {});
    let mut stream = gate.connect();
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        until(&mut stream, "x-forwarded-for: 127.0.0.1\n");
        // Long enough for the gateway to park the connection.
        stream.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
        assert_eq!(stream.read(&mut [0]).map_err(|e| e.kind()), Err(std::io::ErrorKind::WouldBlock));
    }
    drop(stream);
    eventually(|| gate.open() == 0);
}

#[test]
fn large_heads_are_refused() {
    let gate = gate(|options| options.http.max_header_bytes = 16 * 1024);
    let with = |length| {
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {}\r\n\r\n", "y".repeat(length))
    };
    // As in Go, 4 KiB more than the option are read.
    assert!(gate.exchange(with(20_000)).starts_with("HTTP/1.1 200 "));
    let mut stream = gate.connect();
    let large = with(40_000);
    stream.write_all(&large.as_bytes()[..30_000]).unwrap();
    let answer = until(&mut stream, "\r\n\r\n431 Request Header Fields Too Large");
    assert!(answer.starts_with("HTTP/1.1 431 "), "{}", &answer[..200.min(answer.len())]);
}

#[test]
fn a_slow_reader_does_not_fill_memory() {
    let gate = gate(|options| {
        options.transport.responding_timeouts.write_timeout =
            tidegate_core::values::Timeout::from_millis(300);
    });
    let mut stream = gate.connect();
    stream.write_all(get("/endless").as_bytes()).unwrap();
    // The client reads nothing: the kernel's buffers fill up, and the gateway times out.
    eventually(|| gate.open() == 1);
    eventually(|| gate.open() == 0);
    drop(stream);
}

#[test]
fn upgrades_are_forwarded_and_counted() {
    let gate = gate(|_| {});
    let mut stream = gate.connect();
    stream
        .write_all(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .unwrap();
    let head = until(&mut stream, "\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"GET / \x00\n#").unwrap();
    until(&mut stream, "\n#");
    assert_eq!(gate.open(), 1);
    drop(stream);
    eventually(|| gate.open() == 0);
}

#[test]
fn a_refused_upgrade_closes_the_connection() {
    let gate = gate(|_| {});
    let answer = gate.exchange(
        "GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
}

#[test]
fn proxy_headers_are_accepted_from_trusted_peers_only() {
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 4000 80\r\n";
    let proxied = |trusted: &str| {
        let trusted = trusted.to_owned();
        gate(move |options| {
            options.proxy_protocol =
                Some(crate::settings::ProxyProtocol { trusted_ips: vec![trusted], ..Default::default() });
        })
    };
    let friend = proxied("127.0.0.1");
    let answer = friend.exchange(format!("{header}{}", get("/")));
    assert!(answer.contains("x-forwarded-for: 192.0.2.7\n"), "{answer}");
    assert!(friend.exchange(get("/")).contains("x-forwarded-for: 127.0.0.1\n"));
    assert_eq!(friend.exchange("PROXY TCP4 nonsense\r\nGET / HTTP/1.1\r\n"), "");
    let stranger = proxied("10.0.0.1").exchange(format!("{header}{}", get("/")));
    assert!(stranger.starts_with("HTTP/1.1 400 "), "{stranger}");
}

#[test]
fn keep_alive_ends_after_the_maximum_number_of_requests() {
    let gate = gate(|options| options.transport.keep_alive_max_requests = 2);
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let answers = gate.exchange(request.repeat(2));
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    assert_eq!(answers.matches("connection: close").count(), 1, "{answers}");
}

#[test]
fn shutdown_waits_for_open_requests() {
    let mut gate = gate(|_| {});
    let mut stream = gate.connect();
    let mut idle = gate.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until(&mut idle, "x-forwarded-for: 127.0.0.1\n");
    stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    eventually(|| gate.open() == 2);
    let points = gate.points.take().unwrap();
    let terminating = points.terminating();
    let stopping = gate.runtime.spawn(points.shutdown());
    assert_eq!(rest(&mut idle), "");
    eventually(|| terminating.load(Ordering::Relaxed) && TcpStream::connect(gate.address).is_err());
    assert!(!stopping.is_finished());
    gate.release.notify_one();
    let answer = rest(&mut stream);
    assert!(answer.ends_with("released") && answer.contains("connection: close"), "{answer}");
    gate.runtime.block_on(stopping).unwrap();
}

#[test]
fn shutdown_closes_connections_after_the_grace_timeout() {
    let mut gate = gate(|options| {
        options.transport.life_cycle.grace_time_out = tidegate_core::values::Timeout::from_millis(100);
    });
    let mut stream = gate.connect();
    stream
        .write_all(b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        .unwrap();
    until(&mut stream, "\r\n\r\n");
    let points = gate.points.take().unwrap();
    gate.runtime.block_on(points.shutdown());
    assert_eq!(rest(&mut stream), "");
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let gate = gate(|_| {});
    let mut settings = Settings::default();
    let taken = EntryPoint { address: gate.address.to_string(), ..EntryPoint::default() };
    settings.entry_points.insert("second".into(), taken);
    let handle = SnapshotHandle::new(Arc::new(Snapshot {
        generation: 0,
        entry_points: Vec::new(),
        tls: TlsStore::without_files(&Tls::default(), None).0,
        services: BTreeMap::new(),
        tcp_services: BTreeMap::new(),
        report: Arc::default(),
        counters: BTreeMap::new(),
        traffic: Default::default(),
        consumers: Arc::default(),
        limits: Vec::new(),
        caches: Default::default(),
        sessions: Default::default(),
        maintenance: Default::default(),
        compiled: time::OffsetDateTime::UNIX_EPOCH,
    }));
    let error = EntryPoints::start(&settings, handle, Options::default()).err().unwrap().to_string();
    assert!(error.contains("entryPoints.second") && error.contains(&gate.address.to_string()), "{error}");
}
