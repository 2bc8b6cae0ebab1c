//! The orderly end: open requests and WebSockets finish, idle connections close, and grace has its end.

use std::io::Write;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::{Backend, Client, Gateway, eventually};

#[test]
fn a_drain_waits_for_requests_and_closes_idle_connections() {
    let (dictate, words) = channel::<()>();
    let words = std::sync::Mutex::new(words);
    let backend = Backend::with(move |seen, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").unwrap();
        if seen.target() == "/busy" {
            words.lock().unwrap().recv().unwrap();
        }
        stream.write_all(b"done").is_ok()
    });
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
    assert!(took >= Duration::from_millis(500) && took < Duration::from_secs(8), "{took:?}");
    assert!(client.is_closed());
}
