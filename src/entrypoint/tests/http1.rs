//! HTTP/1: bodies that are read elsewhere, clients that leave, and what follows a response.

use super::*;

const POST: &str = "HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Writes each part when the gateway has had time to wait for it.
fn write_in_pieces(stream: &mut TcpStream, parts: &[&str]) {
    stream.set_nodelay(true).unwrap();
    for part in parts {
        stream.write_all(part.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn another_thread_may_read_a_body() {
    let gate = gate(|_| {});
    let mut stream = gate.connect();
    for _ in 0..3 {
        let head = format!("POST /elsewhere {POST}");
        write_in_pieces(&mut stream, &[&head, "5\r\nhel", "lo\r\n3\r\n", "you\r\n0\r\n", "\r\n"]);
        let answer = until(&mut stream, "elsewhere");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("Some(8) elsewhere"), "{answer}");
    }
}

#[test]
fn another_thread_notices_that_the_client_is_too_slow_or_gone() {
    let gate = gate(|options| {
        options.transport.responding_timeouts.read_timeout = tidegate_core::values::Timeout::from_millis(300);
    });
    let mut slow = gate.connect();
    slow.write_all(format!("POST /elsewhere {POST}5\r\nhel").as_bytes()).unwrap();
    assert_eq!(rest(&mut slow), "", "it is cut, as with a reader on the same thread");
    let mut gone = gate.connect();
    gone.write_all(format!("POST /elsewhere {POST}5\r\nhel").as_bytes()).unwrap();
    gone.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = rest(&mut gone);
    assert!(answer.ends_with("None elsewhere") && answer.contains("connection: close"), "{answer}");
    eventually(|| gate.open() == 0);
}

#[test]
fn a_response_may_be_the_body_of_its_request() {
    let gate = gate(|_| {});
    let mut stream = gate.connect();
    write_in_pieces(&mut stream, &[&format!("POST /echo {POST}"), "5\r\nhello\r\n"]);
    assert!(until(&mut stream, "5\r\nhello\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
    write_in_pieces(&mut stream, &["3\r\nyou\r\n", "0\r\n\r\n"]);
    let rest_of_it = until(&mut stream, " polls\r\n0\r\n\r\n");
    let polls =
        rest_of_it.strip_prefix("3\r\nyou\r\n").and_then(|rest| rest.split([' ', '\n']).nth(1)?.parse().ok());
    assert!(
        polls.is_some_and(|polls: usize| polls < 30),
        "nothing wakes the connection in between: {rest_of_it}"
    );
    stream.write_all(get("/next").as_bytes()).unwrap();
    assert!(rest(&mut stream).contains("GET /next"));
}

#[test]
fn a_client_that_leaves_cancels_its_request() {
    let gate = gate(|_| {});
    for body in ["", "Content-Length: 2\r\n"] {
        let mut stream = gate.connect();
        let content = if body.is_empty() { "" } else { "ok" };
        stream
            .write_all(format!("POST /wait HTTP/1.1\r\nHost: a\r\n{body}\r\n{content}").as_bytes())
            .unwrap();
        eventually(|| gate.open() == 1);
        drop(stream);
        if body.is_empty() {
            eventually(|| gate.open() == 0);
        } else {
            // Nobody reads the body, so nobody looks for what follows it.
            gate.release.notify_one();
            eventually(|| gate.open() == 0);
        }
    }
}

#[test]
fn what_was_read_before_a_body_fails_is_written() {
    let gate = gate(|_| {});
    let answer = gate.exchange(get("/break"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert_eq!(
        answer.matches('x').count()
            - answer.find("\r\n\r\n").map_or(0, |at| answer[..at].matches('x').count()),
        8192
    );
    assert!(!answer.ends_with("0\r\n\r\n"));
}

#[test]
fn a_body_that_nobody_reads_ends_the_connection_unless_it_has_arrived() {
    let gate = gate(|_| {});
    let mut stream = gate.connect();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ";
    for _ in 0..2 {
        stream.write_all(format!("{head}5\r\n\r\nhello").as_bytes()).unwrap();
        let answer = until(&mut stream, "content-length: 5\n");
        assert!(!answer.contains("connection: close"), "{answer}");
        until(&mut stream, "x-forwarded-for: 127.0.0.1\n");
    }
    let answer = gate.exchange(format!("{head}5\r\n\r\nhel"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close"), "{answer}");
}

#[test]
fn requests_sent_ahead_wait_outside() {
    let gate = gate(|_| {});
    let mut stream = gate.connect();
    stream.write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let next = b"GET /ahead HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    let mut sent = 0;
    while let Ok(length) = stream.write(&next) {
        sent += length;
        assert!(sent < 64 << 20, "the gateway reads requests before their turn");
    }
    gate.release.notify_one();
    assert!(until(&mut stream, "released").starts_with("HTTP/1.1 200 OK\r\n"));
    until(&mut stream, "GET /ahead");
}
