//! HTTP/3 and strangers: broken requests, slow ones, floods. Each is refused, and the next request is served.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};

use crate::http3::secure;
use crate::support::http3::{Fate, Http3, closed, fate, frame, head, quic, receive, runtime};
use crate::support::{Backend, Gateway, pause_for_async};

const FLAG: &str = "--entryPoints.web.http3=true";
const LINE: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "h.test"), (":path", "/")];

fn gateway(flags: &[&str]) -> (Gateway, Backend) {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(&[&[FLAG], flags].concat(), &secure(&backend.url()));
    (gateway, backend)
}

fn with(more: &[(&str, &str)]) -> Vec<u8> {
    head(&[&LINE[..], more].concat())
}

fn without(index: usize) -> Vec<u8> {
    let mut line = LINE.to_vec();
    line.remove(index);
    head(&line)
}

#[test]
fn malformed_requests_never_reach_a_server() {
    let (gateway, backend) = gateway(&[]);
    let web = gateway.web();
    let post = |more: &[(&str, &str)], rest: &[u8]| {
        let mut line = LINE.to_vec();
        line[0] = (":method", "POST");
        [&head(&[&line[..], more].concat())[..], rest].concat()
    };
    const MESSAGE: Fate = Fate::Reset(0x10e);
    const UNEXPECTED: Fate = Fate::Closed(0x105);
    const FRAME: Fate = Fate::Closed(0x106);
    const BLOCK: Fate = Fate::Closed(0x200);
    let cases = [
        (with(&[(":path", "/b")]), MESSAGE),
        (with(&[(":status", "200")]), MESSAGE),
        (with(&[(":protocol", "websocket")]), MESSAGE),
        (with(&[("x", "y"), (":path", "/b")]), MESSAGE),
        (with(&[("connection", "close")]), MESSAGE),
        (with(&[("transfer-encoding", "chunked")]), MESSAGE),
        (with(&[("upgrade", "websocket")]), MESSAGE),
        (with(&[("te", "gzip")]), MESSAGE),
        (with(&[("X-Upper", "1")]), MESSAGE),
        (with(&[("", "1")]), MESSAGE),
        (with(&[("x", "a\r\nb: c")]), MESSAGE),
        (with(&[("x", "a\0b")]), MESSAGE),
        (with(&[("content-length", "5")]), MESSAGE),
        (with(&[("content-length", "x")]), MESSAGE),
        (without(0), MESSAGE),
        (without(1), MESSAGE),
        (without(2), MESSAGE),
        (without(3), MESSAGE),
        (head(&[LINE[0], LINE[1], LINE[2], (":path", "/a b")]), MESSAGE),
        (head(&[LINE[0], LINE[1], LINE[2], (":path", "p")]), MESSAGE),
        (head(&[(":method", "G ET"), LINE[1], LINE[2], LINE[3]]), MESSAGE),
        (Vec::new(), Fate::Reset(0x10d)),
        (frame(0, b"x"), UNEXPECTED),
        (frame(4, b""), UNEXPECTED),
        (frame(2, b""), UNEXPECTED),
        (with(&[])[..9].to_vec(), FRAME),
        (frame(1, b""), BLOCK),
        (frame(1, b"\x02\x00\x80"), BLOCK),
        (frame(1, b"\x00\x00\xff\xff\xff\xff\xff"), BLOCK),
        (post(&[], &frame(7, b"\x00")), UNEXPECTED),
        (post(&[], &[frame(0, b"a"), head(&[("x", "y")]), frame(0, b"b")].concat()), UNEXPECTED),
        (post(&[], &[frame(0, b"a"), head(&[(":path", "/")])].concat()), MESSAGE),
        (post(&[("content-length", "2")], &frame(0, b"x")), MESSAGE),
        (post(&[("content-length", "2")], &frame(0, b"xyz")), MESSAGE),
    ];
    runtime().block_on(async {
        for (bytes, expected) in &cases {
            assert_eq!(&fate(web, bytes).await, expected, "{}", bytes.escape_ascii());
        }
        let client = Http3::connect(web, "h.test").await;
        assert_eq!(client.get("https://h.test/").await.status, StatusCode::OK);
    });
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn unknown_frames_are_ignored() {
    let (gateway, _backend) = gateway(&[]);
    let request =
        [frame(0x21, b"??"), with(&[]), frame(0x3f, b""), frame(0, b""), frame(0x21, b"?")].concat();
    runtime().block_on(async {
        let Fate::Answered(answer) = fate(gateway.web(), &request).await else { panic!() };
        // A header block with the entry for `:status: 200` first.
        assert_eq!((answer[0], &answer[3..6]), (1, &b"\x00\x00\xd9"[..]), "{}", answer.escape_ascii());
    });
}

#[test]
fn mistakes_on_control_streams_close_the_connection() {
    let (gateway, _backend) = gateway(&[]);
    let cases: [(&[&[u8]], u64); 9] = [
        (&[b"\x00\x04\x00\x00\x01x"], 0x105),
        (&[b"\x00\x07\x01\x00"], 0x10a),
        (&[b"\x00\x04\x02\x02\x01"], 0x109),
        (&[b"\x00\x04\x80\x10\x00\x00"], 0x107),
        (&[b"\x00\x04\x00", b"\x00\x04\x00"], 0x103),
        (&[b"\x02", b"\x02"], 0x103),
        (&[b"\x02\x3f\xe1\x1f"], 0x201),
        (&[b"\x01\x00"], 0x103),
        (&[b"\x00\x04\x00\x0d\x01\x05\x0d\x01\x04"], 0x108),
    ];
    runtime().block_on(async {
        for (streams, code) in cases {
            let (_endpoint, quic) = quic(gateway.web(), "h.test", None).await.unwrap();
            let mut open = Vec::new();
            for bytes in streams {
                let mut stream = quic.open_uni().await.unwrap();
                let _ = stream.write_all(bytes).await;
                open.push(stream);
            }
            let error = tokio::time::timeout(Duration::from_secs(20), quic.closed()).await;
            assert_eq!(closed(&error.unwrap()), Fate::Closed(code), "{streams:?}");
        }
        // A control stream that ends.
        let (_endpoint, quic) = quic(gateway.web(), "h.test", None).await.unwrap();
        let mut control = quic.open_uni().await.unwrap();
        control.write_all(b"\x00\x04\x00").await.unwrap();
        control.finish().unwrap();
        assert_eq!(closed(&quic.closed().await), Fate::Closed(0x104));
    });
}

#[test]
fn case_59_large_heads_are_refused_before_they_are_kept() {
    let (gateway, backend) = gateway(&["--entryPoints.web.http.maxHeaderBytes=2000"]);
    let web = gateway.web();
    let value = "x".repeat(1500);
    runtime().block_on(async {
        for (count, is_served) in [(1, true), (2, false), (1, true)] {
            let bytes = with(&vec![("x", value.as_str()); count]);
            let Fate::Answered(answer) = fate(web, &bytes).await else { panic!() };
            assert_eq!(answer.windows(3).any(|part| part == b"431"), !is_served, "{count}");
        }
        // One that announces more than anybody could keep is answered at once.
        let (_endpoint, quic) = quic(web, "h.test", None).await.unwrap();
        let (mut send, mut receive) = quic.open_bi().await.unwrap();
        send.write_all(b"\x01\xbf\xff\xff\xff").await.unwrap();
        let answer = receive.read_to_end(1000).await.unwrap();
        assert!(answer.windows(3).any(|part| part == b"431"), "{}", answer.escape_ascii());
        // So is one with more fields than a map could hold.
        let (large, _server) = self::gateway(&[]);
        let many: Vec<(&str, &str)> = std::iter::repeat_n(("a", ""), 31_000).collect();
        let bytes = head(&[&LINE[..], &many].concat());
        let Fate::Answered(answer) = fate(large.web(), &bytes).await else { panic!() };
        assert!(!answer.is_empty());
    });
    assert_eq!(backend.seen().len(), 2);
}

#[test]
fn slow_clients_are_cut() {
    let (gateway, _backend) = gateway(&[
        "--entryPoints.web.transport.respondingTimeouts.readTimeout=300ms",
        "--entryPoints.web.transport.respondingTimeouts.idleTimeout=600ms",
    ]);
    let web = gateway.web();
    runtime().block_on(async {
        // A head that does not come to its end, though more of it always comes.
        let (_endpoint, quic) = quic(web, "h.test", None).await.unwrap();
        let (mut send, mut receive_raw) = quic.open_bi().await.unwrap();
        let bytes = with(&[("x", "0123456789012345678901234567890123456789")]);
        let trickle = async {
            for byte in bytes.chunks(1) {
                if send.write_all(byte).await.is_err() {
                    return;
                }
                pause_for_async(Duration::from_millis(20)).await;
            }
        };
        tokio::join!(trickle, async {
            assert!(receive_raw.read_to_end(1000).await.is_err());
        });
        // A body that stops.
        let client = Http3::connect(web, "h.test").await;
        let mut stream = client.begin(Request::post("https://h.test/").body(()).unwrap()).await.unwrap();
        stream.send_data(Bytes::from_static(b"some")).await.unwrap();
        assert_eq!(receive(&mut stream).await.unwrap().status, StatusCode::REQUEST_TIMEOUT);
        // A connection without requests.
        let client = Http3::connect(web, "h.test").await;
        assert_eq!(client.get("https://h.test/").await.status, StatusCode::OK);
        let error = tokio::time::timeout(Duration::from_secs(20), client.quic.closed()).await;
        assert!(error.is_ok());
    });
}

#[test]
fn requests_that_are_opened_to_be_cancelled_end_the_connection() {
    let (gateway, _backend) = gateway(&[]);
    let web = gateway.web();
    runtime().block_on(async {
        let (_endpoint, quic) = quic(web, "h.test", None).await.unwrap();
        let bytes = with(&[]);
        let mut opened = 0;
        while let Ok((mut send, mut receive)) = quic.open_bi().await {
            if send.write_all(&bytes).await.is_ok() {
                let _ = send.reset(0x10cu32.into());
                let _ = receive.stop(0x10cu32.into());
            }
            opened += 1;
            assert!(opened < 50_000, "it goes on for ever");
        }
        assert_eq!(closed(&quic.closed().await), Fate::Closed(0x107));
        let client = Http3::connect(web, "h.test").await;
        assert_eq!(client.get("https://h.test/").await.status, StatusCode::OK);
    });
}

#[test]
fn case_57_58_floods_of_datagrams_do_not_affect_others() {
    let (gateway, _backend) = gateway(&[]);
    let web = gateway.web();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut random = 1u64;
    let mut next = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as u8
    };
    for round in 0..20_000 {
        let mut datagram: Vec<u8> = (0..[40, 200, 1200][round % 3]).map(|_| next()).collect();
        match round % 4 {
            // The beginning of a first packet of version 1, and of a version that nobody speaks.
            0 => datagram[..7].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8, next()]),
            1 => datagram[..6].copy_from_slice(&[0xff, 0x1a, 0x2a, 0x3a, 0x4a, 20]),
            // A short header.
            2 => datagram[0] = 0x40 | datagram[0] & 0x3f,
            _ => {}
        }
        let _ = socket.send_to(&datagram, web);
    }
    runtime().block_on(async {
        let client = Http3::connect(web, "h.test").await;
        assert_eq!(client.get("https://h.test/").await.status, StatusCode::OK);
        // Many clients at once, more than are taken without proof of their address.
        let many = (0..150).map(|_| async {
            let client = Http3::connect(web, "h.test").await;
            client.get("https://h.test/").await.status
        });
        for status in futures_util::future::join_all(many).await {
            assert_eq!(status, StatusCode::OK);
        }
    });
}

#[test]
fn connections_close_gracefully_after_their_requests() {
    let (gateway, backend) = gateway(&["--entryPoints.web.transport.keepAliveMaxRequests=3"]);
    runtime().block_on(async {
        let client = Http3::connect(gateway.web(), "h.test").await;
        for _ in 0..3 {
            assert_eq!(client.get("https://h.test/").await.status, StatusCode::OK);
        }
        let error = tokio::time::timeout(Duration::from_secs(20), client.quic.closed()).await;
        assert_eq!(closed(&error.unwrap()), Fate::Closed(0x100));
    });
    assert_eq!(backend.seen().len(), 3);
}

#[test]
fn connections_over_the_limit_are_refused() {
    let (gateway, _backend) = gateway(&["--entryPoints.web.transport.maxConnections=2"]);
    let web = gateway.web();
    runtime().block_on(async {
        let first = Http3::connect(web, "h.test").await;
        let mut busy = first.begin(Request::post("https://h.test/").body(()).unwrap()).await.unwrap();
        let second = Http3::connect(web, "h.test").await;
        let mut also = second.begin(Request::post("https://h.test/").body(()).unwrap()).await.unwrap();
        for stream in [&mut busy, &mut also] {
            stream.send_data(Bytes::from_static(b"some")).await.unwrap();
        }
        assert!(quic(web, "h.test", None).await.is_err());
        busy.finish().await.unwrap();
        assert_eq!(receive(&mut busy).await.unwrap().status, StatusCode::OK);
        first.quic.close(0u32.into(), b"");
        let end = Instant::now() + Duration::from_secs(20);
        while quic(web, "h.test", None).await.is_err() {
            assert!(Instant::now() < end, "the seat is not free again");
        }
    });
}
