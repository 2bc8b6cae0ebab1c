//! HTTP/3 on several workers: each connection belongs to one, whichever socket its datagrams arrive at.

use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;

use bytes::Bytes;
use http::{Request, StatusCode};

use crate::http3::secure;
use crate::support::http3::{Http3, quic, receive, runtime};
use crate::support::process::Process;
use crate::support::{Backend, Gateway, eventually, free_port};

const FLAG: &str = "--entryPoints.web.http3=true";
const URI: &str = "https://h.test/";

/// Moves a client to another port, as a NAT does.
fn rebind(endpoint: &quinn::Endpoint) {
    endpoint.rebind(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
}

/// Sends requests, each from another port. The system distributes the ports among the sockets, so without steering, the
/// first that arrives at another worker than the one before would be lost.
async fn wander(address: SocketAddr) {
    let (endpoint, quic) = quic(address, "h.test", None).await.unwrap();
    let client = Http3::over((endpoint.clone(), quic)).await;
    let mut upload = client.begin(Request::post(URI).body(()).unwrap()).await.unwrap();
    for _ in 0..12 {
        assert_eq!(client.get(URI).await.status, StatusCode::OK);
        upload.send_data(Bytes::from(vec![b'x'; 10_000])).await.unwrap();
        rebind(&endpoint);
    }
    upload.finish().await.unwrap();
    assert_eq!(receive(&mut upload).await.unwrap().body.len(), 120_000);
}

/// A server that returns what it gets.
fn mirror() -> Backend {
    Backend::with(|seen, stream| {
        use std::io::Write;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.body.len());
        stream.write_all(head.as_bytes()).is_ok() && stream.write_all(&seen.body).is_ok()
    })
}

#[test]
fn clients_change_their_address() {
    let backend = mirror();
    let gateway = Gateway::with(&[FLAG], &secure(&backend.url()));
    runtime().block_on(async {
        let clients = (0..4).map(|_| wander(gateway.web()));
        futures_util::future::join_all(clients).await;
    });
}

#[test]
fn one_worker_serves_all_connections() {
    let backend = mirror();
    let shell = "GATEWAY_WORKERS=1 exec \"$0\" \"$@\"";
    let process = Process::start_by(shell, &[FLAG], &secure(&backend.url()));
    runtime().block_on(async {
        let clients = (0..4).map(|_| wander(process.web()));
        futures_util::future::join_all(clients).await;
    });
}

#[test]
fn several_workers_share_the_udp_socket_of_a_supervisor() {
    let backend = mirror();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let start = || {
        let shell = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=passed GATEWAY_WORKERS=3 exec \"$0\" \"$@\" 3<&0 </dev/null";
        let stdin = Stdio::from(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()));
        let flags = ["--entryPoints.passed.address=127.0.0.1:0", "--entryPoints.passed.http3=true"];
        Process::start_with(shell, stdin, &flags, &secure(&backend.url()))
    };
    let mut process = start();
    runtime().block_on(async {
        let clients = (0..6).map(|_| wander(address));
        futures_util::future::join_all(clients).await;
    });
    process.end("TERM");
    let _next = start();
    runtime().block_on(wander(address));
}

#[test]
fn connections_outlive_a_hand_over_of_their_port() {
    const CLIENTS: usize = 8;
    let (finish, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::with(move |seen, stream| {
        use std::io::Write;
        if seen.target() == "/slow" {
            let _ = wait.lock().unwrap().recv();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_ok()
    });
    let port = free_port();
    let start = || {
        let flags = [
            &*format!("--entryPoints.shared.address=127.0.0.1:{port}"),
            "--entryPoints.shared.reusePort=true",
            "--entryPoints.shared.http3=true",
        ];
        Process::start(&flags, &secure(&backend.url()))
    };
    let mut old = start();
    let address = old.address("shared");
    let runtime = runtime();
    let connect = async || {
        let clients = (0..CLIENTS).map(|_| Http3::connect(address, "h.test"));
        futures_util::future::join_all(clients).await
    };
    let ask = async |clients: &[Http3]| {
        for client in clients {
            assert_eq!(client.get(URI).await.status, StatusCode::OK);
        }
    };
    let before = runtime.block_on(connect());
    let _new = start();
    // The system now distributes the datagrams of all connections among both.
    let between = runtime.block_on(async {
        ask(&before).await;
        let between = connect().await;
        ask(&between).await;
        ask(&before).await;
        between
    });
    let slow: Vec<_> = before
        .into_iter()
        .map(|client| runtime.spawn(async move { client.get("https://h.test/slow").await.status }))
        .collect();
    eventually("all are asked", || {
        backend.seen().iter().filter(|seen| seen.target() == "/slow").count() == CLIENTS
    });
    old.signal("TERM");
    runtime.block_on(async {
        // New clients reach the new process, wherever their datagrams arrive. Those of the old one that were faster than
        // the signal are sent away.
        let reach = async || loop {
            let client = Http3::connect(address, "h.test").await;
            match client.send(Request::get(URI).body(()).unwrap(), b"").await {
                Ok(answer) => break (client, answer.status),
                // Its variant is not public.
                Err(error) if error.to_string() == "Remote is closing the connection" => {}
                Err(error) => panic!("{error}"),
            }
        };
        let reached = futures_util::future::join_all((0..CLIENTS).map(|_| reach())).await;
        let (after, statuses): (Vec<_>, Vec<_>) = reached.into_iter().unzip();
        assert_eq!(statuses, [StatusCode::OK; CLIENTS]);
        for _ in 0..CLIENTS {
            finish.send(()).unwrap();
        }
        for status in slow {
            assert_eq!(status.await.unwrap(), StatusCode::OK);
        }
        ask(&after).await;
    });
    old.end("TERM");
    drop(between);
}
