//! Slow and large clients, each named after its number in the catalogue of cases (docs/security.md).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::frames::{self, Frames, Outcome};
use crate::support::process::Process;
use crate::support::{
    Backend, Client, Gateway, eventually, get, get_with, pause_for, raw, repeat_for, wait_until,
};

/// A TLS record that announces 512 bytes of a ClientHello, and has some of them.
const HALF_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

/// Sends the beginning, then a byte each 300 ms, and says how long the gateway bore it.
fn borne(address: std::net::SocketAddr, beginning: &[u8], then: Option<u8>) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let _ = stream.write_all(beginning);
    let mut answer = [0; 4096];
    while start.elapsed() < Duration::from_secs(30) {
        match stream.read(&mut answer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                if then.is_some_and(|byte| stream.write_all(&[byte]).is_err()) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    start.elapsed()
}

#[test]
fn case_63_heads_and_handshakes_time_out_after_ten_seconds_by_default() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let address = gateway.web();
    let block = frames::block(&[(":method", "GET"), (":path", "/")]);
    let half = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frames::frame(frames::SETTINGS, 0, 0, &[]),
        frames::frame(frames::HEADERS, 0, 1, &block),
    ]
    .concat();
    // Five empty CONTINUATION frames a minute are no progress either: a byte of one now and then.
    let attacks: [(&str, &[u8], Option<u8>); 9] = [
        ("silence", b"", None),
        ("half a request line", b"GET /", None),
        ("a slow request line", b"GET /", Some(b'a')),
        ("half a head", b"GET / HTTP/1.1\r\nHost: h\r\n", None),
        ("a slow header", b"GET / HTTP/1.1\r\nHost: h\r\nX: ", Some(b'a')),
        ("half a ClientHello", HALF_HELLO, None),
        ("a slow ClientHello", HALF_HELLO, Some(0)),
        ("half an HTTP/2 preface", b"PRI * HTTP", None),
        ("HTTP/2 headers without an end", &half, None),
    ];
    std::thread::scope(|scope| {
        let running = attacks
            .map(|(what, beginning, then)| (what, scope.spawn(move || borne(address, beginning, then))));
        for _ in 0..50 {
            assert_eq!(get(address, "h", "/").status, 200);
        }
        for (what, attack) in running {
            let took = attack.join().unwrap();
            assert!(took < Duration::from_secs(29), "{what}: {took:?}");
        }
    });
    assert_eq!(backend.seen().len(), 50);
}

#[test]
fn case_63_bodies_without_progress_time_out() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(
        &["--entryPoints.web.transport.respondingTimeouts.readTimeout=500ms"],
        &Gateway::one_service(&backend.url()),
    );
    for body in [
        "Content-Length: 100\r\n\r\nbegun",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nbeg",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n",
    ] {
        let start = Instant::now();
        let mut client = Client::connect(gateway.web());
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{body}"));
        let answer = client.read();
        assert!(answer.as_ref().map_or(true, |answer| answer.status >= 400), "{answer:?}");
        assert!(client.is_closed() && start.elapsed() < Duration::from_secs(50), "{body:?}");
    }
    assert!(backend.seen().is_empty());
    // Progress, however small, buys time.
    let mut client = Client::connect(gateway.web());
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n");
    for _ in 0..10 {
        pause_for(Duration::from_millis(120));
        client.send("x");
    }
    assert_eq!(client.read().unwrap().status, 200);
}

/// A server whose answer is long.
fn long_answer() -> Backend {
    Backend::with(|_, stream| {
        let mut fine = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n").is_ok();
        for _ in 0..1000 {
            fine = fine && stream.write_all(&[b'x'; 100_000]).is_ok();
        }
        false
    })
}

/// Memory of the gateway for each of these connections, in KiB, once it has settled under the limit.
fn assert_memory(process: &Process, before: usize, connections: usize, limit: usize) {
    let each = || process.memory().saturating_sub(before) / connections;
    // Some attacks build up first.
    pause_for(Duration::from_secs(1));
    assert!(
        wait_until(Duration::from_secs(15), || each() < limit).is_some(),
        "{} KiB per connection, at most {limit}",
        each()
    );
}

#[test]
fn case_64_slow_readers_cost_little_memory() {
    const CLIENTS: usize = 100;
    let backend = long_answer();
    let process = Process::start(&[], &Gateway::one_service(&backend.url()));
    let connect = || {
        let mut client = Client::connect(process.web());
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        client.head().unwrap();
        client
    };
    // What the process allocates for its first clients is not theirs.
    let first: Vec<Client> = (0..4).map(|_| connect()).collect();
    let before = process.memory();
    let clients: Vec<Client> = (0..CLIENTS).map(|_| connect()).collect();
    assert_memory(&process, before, CLIENTS, 128);
    drop((first, clients));
}

#[test]
fn case_64_slow_readers_of_http2_cost_little_memory() {
    const CLIENTS: usize = 5;
    let backend = long_answer();
    let process = Process::start(&[], &Gateway::one_service(&backend.url()));
    let before = process.memory();
    let mut clients: Vec<Frames> = (0..CLIENTS).map(|_| Frames::connect(process.web())).collect();
    for client in &mut clients {
        client.send(frames::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        for stream in 0..40 {
            client.request(
                2 * stream + 1,
                &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")],
            );
        }
    }
    for client in &mut clients {
        assert_eq!(client.outcome(1), Outcome::Status(200));
    }
    eventually("all streams are served", || backend.seen().len() == CLIENTS * 40);
    // 40 answers each, with 64 KiB at most on the way.
    assert_memory(&process, before, CLIENTS, 40 * 128);
}

#[test]
fn case_65_floods_of_headers_cost_little_memory() {
    const CLIENTS: usize = 50;
    let backend = Backend::echo("a");
    let process = Process::start(
        &["--entryPoints.web.http.maxHeaderBytes=65536"],
        &Gateway::one_service(&backend.url()),
    );
    let before = process.memory();
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|number| {
            let mut client = Client::connect(process.web());
            let more =
                if number % 2 == 0 { "X: y\r\n".repeat(4000) } else { format!("X: {}", "y".repeat(54_000)) };
            client.send(format!("GET / HTTP/1.1\r\nHost: h\r\n{more}"));
            client
        })
        .collect();
    assert_memory(&process, before, CLIENTS, 192);
    assert_eq!(get(process.web(), "h", "/").status, 200);
    drop(clients);
}

/// The most memory of the gateway within some seconds, in KiB.
fn peak(process: &Process) -> usize {
    let mut peak = 0;
    repeat_for(Duration::from_secs(3), || peak = peak.max(process.memory()));
    peak
}

#[test]
fn case_65_many_large_heads_are_bounded_together() {
    const CLIENTS: usize = 120;
    let backend = Backend::echo("a");
    let process = Process::start(&[], &Gateway::one_service(&backend.url()));
    let before = process.memory();
    let many =
        format!("GET / HTTP/1.1\r\nHost: h\r\n{}", format!("X: {}\r\n", "y".repeat(16_000)).repeat(60));
    let one = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "y".repeat(960_000));
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|number| {
            let mut client = Client::connect(process.web());
            client.send(if number % 2 == 0 { &many } else { &one });
            client
        })
        .collect();
    let held = peak(&process).saturating_sub(before) / 1024;
    assert!(held < 130, "{held} MiB for {CLIENTS} heads of 938 KiB");
    let large = format!("X: {}\r\n", "y".repeat(14_000));
    assert_eq!(get_with(process.web(), "h", "/", &large).status, 200, "an ordinary head has room");
    let refused =
        clients.iter_mut().filter_map(|client| client.read().ok()).filter(|a| a.status == 431).count();
    // Who goes on sending may lose the answer to the reset.
    assert!(refused > 0, "nobody was told");
    drop(clients);
    eventually("there is room again", || {
        raw(process.web(), format!("{one}\r\nConnection: close\r\n\r\n"))
            .is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn case_66_idle_connections_cost_little_memory() {
    const CLIENTS: usize = 400;
    let backend = Backend::echo("a");
    let process = Process::start(&[], &Gateway::one_service(&backend.url()));
    for _ in 0..20 {
        get(process.web(), "h", "/");
    }
    let before = process.memory();
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::connect(process.web());
            client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
            assert_eq!(client.read().unwrap().status, 200);
            client
        })
        .collect();
    assert_memory(&process, before, CLIENTS, 16);
    for mut client in clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(client.read().unwrap().status, 200, "an idle connection is still good");
    }
}

#[test]
fn case_67_at_the_limit_idle_connections_make_room_and_new_ones_wait() {
    let backend = Backend::echo("a");
    let process = Process::start(
        &["--entryPoints.web.transport.maxConnections=20"],
        &Gateway::one_service(&backend.url()),
    );
    let ask = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    // Kept after a request, and opened ahead of need: all of them are idle.
    let mut kept: Vec<Client> = (0..16)
        .map(|number| {
            let mut client = Client::connect(process.web());
            if number % 2 == 0 {
                client.send(ask);
                assert_eq!(client.read().unwrap().status, 200);
            }
            client
        })
        .collect();
    for _ in 0..40 {
        let mut client = Client::connect(process.web());
        client.send(ask);
        assert_eq!(client.read().unwrap().status, 200, "{}", process.log());
        kept.push(client);
    }
    // Heads that are under way are not idle.
    drop(kept);
    let mut busy: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = Client::connect(process.web());
            client.send("GET / HTTP/1.1\r\nHost: h\r\nX: ");
            client
        })
        .collect();
    eventually("the limit is reached", || process.log().contains("no more connections may be open"));
    let mut late = Client::connect(process.web());
    late.send(ask);
    let (time, lines) = (process.time(), process.log().lines().count());
    pause_for(Duration::from_secs(1));
    assert!(process.time() - time < 50, "a full entry point computes nothing");
    assert!(process.log().lines().count() - lines < 10, "{}", process.log());
    for client in &mut busy {
        client.send("y\r\nConnection: close\r\n\r\n");
        assert_eq!(client.read().unwrap().status, 200, "who is in is served on");
    }
    assert_eq!(late.read().unwrap().status, 200, "who waited is served");
}

#[test]
fn case_67_idle_connections_of_http2_make_room_too() {
    let backend = Backend::echo("a");
    let process = Process::start(
        &["--entryPoints.web.transport.maxConnections=16"],
        &Gateway::one_service(&backend.url()),
    );
    let fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")];
    let mut idle: Vec<Frames> = (0..15).map(|_| Frames::connect(process.web())).collect();
    for client in &mut idle {
        client.request(1, &fields);
        assert_eq!(client.outcome(1), Outcome::Status(200));
    }
    for _ in 0..30 {
        let answer = raw(process.web(), "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(answer.unwrap().status, 200, "{}", process.log());
    }
}

#[test]
fn case_67_a_crowd_at_one_entry_point_leaves_the_others_reachable() {
    let backend = Backend::echo("a");
    let process = Process::start_by(
        "ulimit -n 200; exec \"$0\" \"$@\"",
        &["--entryPoints.other.address=127.0.0.1:0"],
        &Gateway::one_service(&backend.url()),
    );
    let crowd: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = Client::connect(process.web());
            client.send("GET / HTTP/1.1\r\nHost: h\r\nX: ");
            client
        })
        .collect();
    eventually("the limit is reached", || process.log().contains("no more connections may be open"));
    assert_eq!(get(process.address("other"), "h", "/").status, 200);
    assert!(!process.log().contains("os error 24"), "{}", process.log());
    drop(crowd);
}

#[test]
fn case_68_without_descriptors_accepting_pauses_and_resumes() {
    let backend = Backend::echo("a");
    let process =
        Process::start_by("ulimit -n 40; exec \"$0\" \"$@\"", &[], &Gateway::one_service(&backend.url()));
    let held: Vec<Client> = (0..120).map(|_| Client::connect(process.web())).collect();
    eventually("descriptors run out", || {
        process.log().contains("Too many open files") || process.log().contains("os error 24")
    });
    let (time, lines) = (process.time(), process.log().lines().count());
    pause_for(Duration::from_secs(1));
    assert!(
        process.time() - time < 50,
        "{} hundredths of a second of computing in one second",
        process.time() - time
    );
    assert!(process.log().lines().count() - lines < 50, "{}", process.log());
    drop(held);
    eventually("it accepts again", || {
        let answer = raw(process.web(), "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        answer.is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn case_72_rules_cost_no_more_than_their_length() {
    let backend = Backend::echo("a");
    let alternatives = (0..1000).map(|n| format!("Path(`/p{n}`)")).collect::<Vec<_>>().join(" || ");
    let deep = format!("{}Path(`/x`){}", "(".repeat(10_000), ")".repeat(10_000));
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    greedy: {{rule: 'PathRegexp(`^/(a+)+$`)', service: a}}
    many: {{rule: '{alternatives}', service: a}}
    deep: {{rule: '{deep}', service: a}}
    huge: {{rule: 'PathRegexp(`(a{{1000}}){{1000}}{{1000}}`)', service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    ));
    let start = Instant::now();
    assert_eq!(get(gateway.web(), "h", &format!("/{}b", "a".repeat(5000))).status, 404);
    assert_eq!(get(gateway.web(), "h", "/p999").status, 200);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let problems = gateway.problems().join("\n");
    assert!(problems.contains("deep") && problems.contains("huge"), "{problems}");
}
