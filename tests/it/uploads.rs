//! Uploads that are answered before they are complete: the answer reaches the client, and nobody can make that expensive.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};

use crate::support::frames::{self, DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM};
use crate::support::http3::{Http3, receive, runtime};
use crate::support::streams::Server;
use crate::support::tls::client_config;
use crate::support::{Backend, Client, Gateway, eventually, pause_for, pause_for_async};

pub const UPLOAD: usize = 8 * 1024 * 1024;

/// Posts as many HTTP libraries do: nothing is read before everything is sent. The status line.
fn post(mut stream: impl Read + Write, path: &str, chunked: bool) -> Result<String, std::io::Error> {
    let body = vec![b'x'; UPLOAD];
    let length =
        if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {UPLOAD}") };
    write!(stream, "POST {path} HTTP/1.1\r\nHost: h\r\n{length}\r\n\r\n")?;
    if chunked {
        write!(stream, "{UPLOAD:x}\r\n")?;
    }
    stream.write_all(&body)?;
    if chunked {
        stream.write_all(b"\r\n0\r\n\r\n")?;
    }
    stream.flush()?;
    let mut answer = [0; 4096];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).lines().next().unwrap_or("").to_owned())
}

fn secured(gateway: &Gateway) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let name = "h.test".try_into().unwrap();
    let session = rustls::ClientConnection::new(Arc::new(client_config(&["http/1.1"], None)), name).unwrap();
    rustls::StreamOwned::new(session, TcpStream::connect(gateway.web()).unwrap())
}

/// A server that answers each request from its head alone, and closes without reading the rest.
fn hasty(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut head = Vec::new();
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    let mut piece = [0; 1024];
                    match stream.read(&mut piece) {
                        Ok(length @ 1..) => head.extend_from_slice(&piece[..length]),
                        _ => return,
                    }
                }
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    url
}

/// Routes for plain text and TLS to a hasty server, behind what refuses requests.
pub fn routes() -> String {
    let url = hasty("HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large");
    let login =
        hasty("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let mut routers = String::new();
    for (name, middleware) in [
        ("server", ""),
        ("basic", "basic"),
        ("forward", "forward"),
        ("buffering", "buffering"),
        ("allow", "allow"),
    ] {
        for (kind, tls) in [("plain", ""), ("tls", ", tls: {}")] {
            routers += &format!(
                "    {name}-{kind}: {{rule: 'Path(`/{name}`)', service: a, middlewares: [{middleware}]{tls}}}\n"
            );
        }
    }
    format!(
        "http:
  routers:
{routers}
  middlewares:
    basic: {{basicAuth: {{users: ['u:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}}}
    forward: {{forwardAuth: {{address: '{login}'}}}}
    buffering: {{buffering: {{maxRequestBodyBytes: 100000}}}}
    allow: {{ipAllowList: {{sourceRange: ['10.255.0.0/16']}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
    )
}

pub const REFUSALS: [(&str, u16); 6] = [
    ("/server", 413),
    ("/basic", 401),
    ("/forward", 302),
    ("/buffering", 413),
    ("/allow", 403),
    ("/none", 404),
];

#[test]
fn early_answers_reach_clients_that_send_everything_first() {
    let gateway = Gateway::serve(&routes());
    for (path, status) in REFUSALS {
        for run in 0..4 {
            let chunked = run % 2 == 1;
            let line = post(TcpStream::connect(gateway.web()).unwrap(), path, chunked);
            assert!(
                line.as_ref().is_ok_and(|line| line.contains(&format!(" {status} "))),
                "{path}: {line:?}"
            );
            let line = post(secured(&gateway), path, chunked);
            assert!(
                line.as_ref().is_ok_and(|line| line.contains(&format!(" {status} "))),
                "{path}, TLS: {line:?}"
            );
        }
    }
}

#[test]
fn early_answers_cross_tcp_routers() {
    let server = hasty("HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\nConnection: close\r\n\r\ntoo large");
    let address = server.trim_start_matches("http://");
    let gateway = Gateway::serve(&format!(
        "tcp:
  routers:
    plain: {{rule: 'HostSNI(`*`)', service: s}}
    tls: {{rule: 'HostSNI(`h.test`)', service: s, tls: {{}}}}
  services:
    s: {{loadBalancer: {{servers: [{{address: '{address}'}}]}}}}
"
    ));
    for run in 0..6 {
        let chunked = run % 2 == 1;
        let line = post(TcpStream::connect(gateway.web()).unwrap(), "/", chunked);
        assert!(line.as_ref().is_ok_and(|line| line.contains(" 413 ")), "{line:?}");
        let line = post(secured(&gateway), "/", chunked);
        assert!(line.as_ref().is_ok_and(|line| line.contains(" 413 ")), "TLS: {line:?}");
    }
    // What is read on from a client is limited there, too.
    let mut client = TcpStream::connect(gateway.web()).unwrap();
    client.write_all(b"POST / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    client.read_exact(&mut answer).unwrap();
    let (time, _) = until_cut(&mut client, b"x", Duration::from_millis(100));
    assert!(time < Duration::from_secs(20), "{time:?}");
}

#[test]
fn early_answers_of_http2_servers_reach_the_client() {
    // It answers each request from its head and resets the stream, as Go's does.
    let server = Server::with(|mut stream| {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).unwrap();
        let mut frames = Frames::accepted(stream);
        while let Ok((kind, _, number, _)) = frames.read() {
            if kind == HEADERS {
                let block = frames::block(&[(":status", "413")]);
                frames.send(HEADERS, END_HEADERS, number, &block);
                frames.send(DATA, END_STREAM, number, b"too large");
                frames.send(RST_STREAM, 0, number, &[0; 4]);
            }
        }
    });
    let gateway = Gateway::serve(&Gateway::one_service(&format!("h2c://{}", server.address)));
    for run in 0..6 {
        let line = post(TcpStream::connect(gateway.web()).unwrap(), "/", run % 2 == 1);
        assert!(line.as_ref().is_ok_and(|line| line.contains(" 413 ")), "{line:?}");
    }
}

#[test]
fn a_reset_ends_an_answer_without_length_only_during_an_upload() {
    let server = hasty("HTTP/1.0 413 Too Large\r\n\r\ntoo large");
    let gateway = Gateway::serve(&Gateway::one_service(&server));
    for _ in 0..8 {
        let mut client = Client::connect(gateway.web());
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
        client.send(vec![b'x'; 20_000]);
        let answer = client.read().unwrap();
        assert!(answer.complete);
        assert_eq!((answer.status, answer.text().as_str()), (413, "too large"));
    }
    // Otherwise nobody can tell what is missing.
    let resetting = Server::with(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\ncut");
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let gateway = Gateway::serve(&Gateway::one_service(&format!("http://{}", resetting.address)));
    let mut client = Client::connect(gateway.web());
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(client.read().map_or(true, |answer| !answer.complete));
}

#[test]
fn refused_heads_are_answered_while_the_client_still_sends() {
    let gateway = Gateway::serve(&routes());
    for head in ["POST / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 9\r\n\r\n", "nonsense\r\n\r\n"] {
        for _ in 0..4 {
            let mut stream = TcpStream::connect(gateway.web()).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&vec![b'x'; UPLOAD]).unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 400", "{head}");
        }
    }
}

/// Sends `piece` again and again until the gateway has had enough. How long that took, and how much was sent.
fn until_cut(stream: &mut TcpStream, piece: &[u8], pause: Duration) -> (Duration, usize) {
    let (start, mut sent) = (Instant::now(), 0);
    loop {
        match stream.write(piece) {
            Ok(length) => sent += length,
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return (start.elapsed(), sent);
            }
            Err(error) => panic!("{error}"),
        }
        assert!(start.elapsed() < Duration::from_secs(60), "still reading after {sent} bytes");
        pause_for(pause);
    }
}

#[test]
fn data_read_after_an_early_response_is_bounded() {
    let gateway = Gateway::serve(&routes());
    let begin = || {
        let mut client = TcpStream::connect(gateway.web()).unwrap();
        write!(client, "POST /none HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 404");
        client
    };
    let (_, sent) = until_cut(&mut begin(), &vec![b'x'; 1 << 20], Duration::ZERO);
    assert!(sent < 128 << 20, "{sent} bytes were taken");
    let (time, _) = until_cut(&mut begin(), b"x", Duration::from_millis(100));
    assert!((Duration::from_secs(3)..Duration::from_secs(20)).contains(&time), "{time:?}");
    // One that says nothing more is let go after a second.
    let mut silent = begin();
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).unwrap();
    pause_for(Duration::from_secs(3));
    let (time, _) = until_cut(&mut silent, b"x", Duration::from_millis(10));
    assert!(time < Duration::from_secs(1), "{time:?}");
    // One that hangs up is let go at once: another takes its place below.
    silent.shutdown(Shutdown::Both).ok();
    assert_eq!(begin().write(b"x").unwrap(), 1);
}

/// Begins an upload over HTTP/2 and reads its answer.
fn refused(gateway: &Gateway) -> Frames {
    let mut client = Frames::connect(gateway.web());
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/none"), (":authority", "h")];
    assert!(client.send(HEADERS, END_HEADERS, 1, &frames::block(&fields)));
    loop {
        let (kind, flags, stream, _) = client.read().unwrap();
        assert_ne!(kind, RST_STREAM, "before the end of the answer");
        if stream == 1 && matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            return client;
        }
    }
}

#[test]
fn streams_of_http2_are_read_on_within_bounds() {
    let gateway = Gateway::serve(&routes());
    let piece = vec![b'x'; 8192];
    // Behind the answer there is room for the whole body, and the stream is not reset.
    let mut client = refused(&gateway);
    for _ in 0..7 {
        assert!(client.send(DATA, 0, 1, &piece));
    }
    assert!(client.send(DATA, END_STREAM, 1, &piece[..8191]));
    assert!(client.send(frames::PING, 0, 0, b"12345678"));
    loop {
        let (kind, flags, _, _) = client.read().unwrap();
        assert_ne!(kind, RST_STREAM, "a complete request");
        if kind == frames::PING && flags & 1 != 0 {
            break;
        }
    }
    // Who says nothing more is asked to stop, and so is who never ends.
    for pause in [None, Some(Duration::from_millis(100))] {
        let mut client = refused(&gateway);
        let start = Instant::now();
        let outcome = std::thread::scope(|scope| {
            let mut writer = client.sender();
            let (stop, stopped) = std::sync::mpsc::channel::<()>();
            scope.spawn(move || {
                while let Some(pause) = pause
                    && stopped.recv_timeout(pause).is_err()
                    && writer.send(DATA, 0, 1, b"x")
                {}
            });
            let outcome = client.outcome(1);
            let _ = stop.send(());
            outcome
        });
        assert_eq!(outcome, frames::Outcome::Reset(0), "{pause:?}");
        assert!(start.elapsed() > Duration::from_millis(500) && start.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn streams_of_http3_are_read_on_within_bounds() {
    let gateway = Gateway::with(&["--entryPoints.web.http3=true"], &routes());
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        for (path, status) in REFUSALS {
            let request = Request::post(format!("https://h.test{path}")).body(()).unwrap();
            let mut stream = client.begin(request).await.unwrap();
            // Everything is taken, and only then the answer is looked at.
            for _ in 0..UPLOAD / 65536 {
                stream.send_data(Bytes::from_static(&[b'x'; 65536])).await.unwrap();
            }
            stream.finish().await.unwrap();
            let answer = receive(&mut stream).await.unwrap();
            assert_eq!(answer.status, StatusCode::from_u16(status).unwrap(), "{path}");
        }
        let mut stream = client.begin(Request::post("https://h.test/none").body(()).unwrap()).await.unwrap();
        assert_eq!(receive(&mut stream).await.unwrap().status, StatusCode::NOT_FOUND);
        let start = Instant::now();
        while stream.send_data(Bytes::from_static(b"x")).await.is_ok() {
            assert!(start.elapsed() < Duration::from_secs(20), "it is never asked to stop");
            pause_for_async(Duration::from_millis(50)).await;
        }
        assert!(start.elapsed() > Duration::from_secs(1), "{:?}", start.elapsed());
    });
}

#[test]
fn a_server_that_responds_early_does_not_hold_the_client() {
    // It keeps its connection open, full as it is.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (gone, noticed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 16]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        // Whether the other side is gone shows in a write.
        eventually("the gateway lets the server go", || {
            stream.take_error().unwrap().is_some()
                || stream.peek(&mut [0; 1]).unwrap_or(0) == 0
                || stream.write_all(b"\r\n").is_err()
        });
        let _ = gone.send(());
    });
    let gateway = Gateway::serve(&Gateway::one_service(&url));
    let mut client = Client::connect(gateway.web());
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\n");
    client.send(vec![b'x'; 1 << 20]);
    assert_eq!(client.read().unwrap().status, 200);
    noticed.recv_timeout(Duration::from_secs(30)).expect("the gateway holds on to the server");
}

#[test]
fn responses_of_http_1_0_servers_become_http_1_1() {
    let old = "HTTP/1.0 200 OK\r\n";
    for (rest, keeps) in [
        ("\r\nok", false),
        ("Content-Length: 2\r\n\r\nok", false),
        ("Connection: close\r\nContent-Length: 2\r\n\r\nok", false),
        ("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok", true),
    ] {
        let answer = format!("{old}{rest}");
        let backend = if keeps { Backend::bytes(answer) } else { Backend::closing(answer) };
        let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
        let mut client = Client::connect(gateway.web());
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            let head = client.head().unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{rest:?}: {head}");
            let lower = head.to_lowercase();
            assert!(!lower.contains("connection:") && !lower.contains("keep-alive"), "{rest:?}: {head}");
            let chunked = lower.contains("transfer-encoding: chunked");
            assert_eq!(chunked, !rest.contains("Length"), "{rest:?}: {head}");
            let body = if chunked { "2\r\nok\r\n0\r\n\r\n" } else { "ok" };
            assert_eq!(client.take(body.len()).unwrap(), body.as_bytes());
        }
        assert_eq!(backend.connections(), if keeps { 1 } else { 3 }, "{rest:?}");
        // A client of HTTP/1.0 knows no chunks, and stays when both sides say so and the length is known.
        for kept in [false, true] {
            let mut client = Client::connect(gateway.web());
            let asks = if kept { "Connection: keep-alive\r\n" } else { "" };
            client.send(format!("GET / HTTP/1.0\r\nHost: h\r\n{asks}\r\n"));
            let head = client.head().unwrap();
            assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{rest:?}: {head}");
            assert!(!head.to_lowercase().contains("transfer-encoding"), "{rest:?}: {head}");
            assert_eq!(client.take(2).unwrap(), b"ok");
            let stays = kept && rest.contains("Length");
            assert_eq!(head.to_lowercase().contains("connection: keep-alive"), stays, "{rest:?}: {head}");
            if stays {
                client.send("GET / HTTP/1.0\r\nHost: h\r\n\r\n");
                assert!(client.head().unwrap().starts_with("HTTP/1.0 200 OK\r\n"), "{rest:?}");
                assert_eq!(client.take(2).unwrap(), b"ok");
            }
            assert!(client.is_closed(), "{rest:?}");
        }
    }
}

#[test]
fn bodiless_answers_of_http_1_0_servers_keep_the_client() {
    for (method, rest) in [
        ("HEAD", "200 OK\r\n\r\n"),
        ("HEAD", "200 OK\r\nContent-Length: 7\r\n\r\n"),
        ("GET", "204 No Content\r\n\r\n"),
        ("GET", "304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
    ] {
        let backend = Backend::closing(format!("HTTP/1.0 {rest}"));
        let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
        for (version, asks) in [("1.1", ""), ("1.0", "Connection: keep-alive\r\n")] {
            let mut client = Client::connect(gateway.web());
            for _ in 0..3 {
                client.send(format!("{method} / HTTP/{version}\r\nHost: h\r\n{asks}\r\n"));
                let head = client.head().unwrap();
                let status = rest.lines().next().unwrap();
                assert!(head.starts_with(&format!("HTTP/{version} {status}\r\n")), "{rest:?}: {head}");
                assert!(!head.to_lowercase().contains("transfer-encoding"), "{rest:?}: {head}");
                assert!(!head.to_lowercase().contains("connection: close"), "{rest:?}: {head}");
            }
        }
    }
}

#[test]
fn http_1_0_servers_may_change_the_protocol() {
    let answer = "HTTP/1.0 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\nhello";
    let backend = Backend::closing(answer.to_owned());
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let mut client = Client::connect(gateway.web());
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
    assert_eq!(client.take(5).unwrap(), b"hello");
}

#[test]
fn refused_clients_of_http_1_0_are_not_promised_to_be_kept() {
    let gateway = Gateway::serve(&routes());
    let mut client = Client::connect(gateway.web());
    client.send("GET * HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
    let head = client.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 400 ") && !head.contains("keep-alive"), "{head}");
    assert!(client.is_closed());
}
