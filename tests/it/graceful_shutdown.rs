//! The orderly end: open requests and WebSockets finish, idle connections close, and grace has its end.

use std::io::Write;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::frames::{self, Frames, Outcome};
use crate::support::{Backend, Client, Gateway, eventually};

/// A server that finishes an answer for `/busy` only when it is told.
fn dictated() -> (std::sync::mpsc::Sender<()>, Backend) {
    let (dictate, words) = channel::<()>();
    let words = std::sync::Mutex::new(words);
    let backend = Backend::with(move |seen, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").unwrap();
        if seen.target() == "/busy" {
            words.lock().unwrap().recv().unwrap();
        }
        stream.write_all(b"done").is_ok()
    });
    (dictate, backend)
}

#[test]
fn a_drain_waits_for_requests_and_closes_idle_connections() {
    let (dictate, backend) = dictated();
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let web = gateway.web();
    let (mut idle, mut busy) = (Client::connect(web), Client::connect(web));
    idle.send("GET /idle HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(idle.read().unwrap().text(), "done");
    busy.send("GET /busy HTTP/1.1\r\nHost: h\r\n\r\n");
    eventually("the server is asked", || backend.seen().len() == 2);
    let stopping = std::thread::spawn(move || gateway.shutdown());
    assert!(idle.is_closed());
    eventually("nobody listens", || std::net::TcpStream::connect(web).is_err());
    assert!(!stopping.is_finished());
    assert!(busy.head().unwrap().starts_with("HTTP/1.1 200"));
    dictate.send(()).unwrap();
    assert_eq!(busy.take(4).unwrap(), b"done");
    assert!(busy.is_closed());
    stopping.join().unwrap();
}

/// Reads a frame, and answers it when it is a PING: so the gateway knows that its goodbye was heard.
fn polite(client: &mut Frames) -> std::io::Result<(u8, u8, u32, Vec<u8>)> {
    let read = client.read()?;
    if let (frames::PING, 0, _, payload) = &read {
        client.send(frames::PING, 1, 0, payload);
    }
    Ok(read)
}

#[test]
fn a_drain_waits_for_streams_of_http2() {
    let (dictate, backend) = dictated();
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let web = gateway.web();
    let fields = |path| [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "h")];
    let (mut idle, mut busy) = (Frames::connect(web), Frames::connect(web));
    idle.request(1, &fields("/idle"));
    assert_eq!(idle.outcome(1), Outcome::Status(200));
    busy.request(1, &fields("/busy"));
    busy.request(3, &fields("/busy"));
    assert_eq!(busy.outcome(1), Outcome::Status(200));
    eventually("the server has both", || backend.seen().len() == 3);
    let stopping = std::thread::spawn(move || gateway.shutdown());
    while polite(&mut idle).is_ok() {}
    eventually("nobody listens", || std::net::TcpStream::connect(web).is_err());
    assert!(!stopping.is_finished());
    dictate.send(()).unwrap();
    dictate.send(()).unwrap();
    let (mut bodies, mut told) = (0, false);
    while let Ok((kind, flags, _, payload)) = polite(&mut busy) {
        match kind {
            frames::GOAWAY => {
                told = true;
                assert_eq!(payload[4..8], [0; 4], "no error");
            }
            frames::DATA if flags & frames::END_STREAM != 0 => bodies += 1,
            frames::RST_STREAM => panic!("a stream was cut"),
            _ => {}
        }
    }
    assert_eq!((bodies, told), (2, true));
    stopping.join().unwrap();
}

/// A gateway with a WebSocket open through it.
fn with_tunnel(grace: &str) -> (Gateway, Client, Backend) {
    let backend = Backend::with(|_, stream| {
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            )
            .unwrap();
        let mut copy = stream.try_clone().unwrap();
        let _ = std::io::copy(stream, &mut copy);
        false
    });
    let flag = format!("--entryPoints.web.transport.lifeCycle.graceTimeOut={grace}");
    let gateway = Gateway::with(&[&flag], &Gateway::one_service(&backend.url()));
    let mut client = Client::connect(gateway.web());
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.read().unwrap().status, 101);
    (gateway, client, backend)
}

#[test]
fn a_drain_waits_for_websockets() {
    let (gateway, mut client, _backend) = with_tunnel("60s");
    let web = gateway.web();
    let stopping = std::thread::spawn(move || gateway.shutdown());
    eventually("nobody listens", || std::net::TcpStream::connect(web).is_err());
    for _ in 0..3 {
        client.send("still here");
        assert_eq!(client.take(10).unwrap(), b"still here");
    }
    assert!(!stopping.is_finished());
    drop(client);
    stopping.join().unwrap();
}

#[test]
fn a_drain_ends_after_its_grace() {
    let (gateway, mut client, _backend) = with_tunnel("500ms");
    let start = Instant::now();
    gateway.shutdown();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(50), "{took:?}");
    assert!(client.is_closed());
}
