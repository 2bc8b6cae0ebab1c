//! The server's side of connections.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderValue, StatusCode};
use tidegate_wire::http1::encode::Fields;
use tidegate_wire::http1::server::{Event, Phase, Response, Server};
use tidegate_wire::http1::{ErrorKind, Limits, Payload, SendError, Spelling};

/// A server with what it has written.
struct Peer {
    server: Server,
    out: Vec<u8>,
}

impl Peer {
    fn new(bytes: &str) -> Self {
        let mut peer = Self { server: Server::new(Limits::default()), out: Vec::new() };
        peer.receive(bytes);
        peer
    }

    fn receive(&mut self, bytes: &str) {
        self.server.input().extend_from_slice(bytes.as_bytes());
    }

    /// Returns the next event in short.
    fn event(&mut self) -> String {
        match self.server.poll().unwrap() {
            None => "none".into(),
            Some(Event::Head(head)) => format!("{} {}", head.parts.method, head.parts.uri),
            Some(Event::Data(data)) => format!("data {}", data.escape_ascii()),
            Some(Event::Trailers(trailers)) => {
                format!("trailers {:?}", trailers.headers.keys().collect::<Vec<_>>())
            }
            Some(Event::End) => "end".into(),
            Some(Event::Upgraded(rest)) => format!("upgraded {}", rest.escape_ascii()),
        }
    }

    fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| Some(self.event()).filter(|event| event != "none")).collect()
    }

    fn respond_with(&mut self, status: u16, headers: &HeaderMap, payload: Payload) -> Result<(), SendError> {
        let status = StatusCode::from_u16(status).unwrap();
        let fields = Fields { headers, spelling: &Spelling::LOWER };
        self.server.respond(Response { status, reason: None, fields, payload }, &mut self.out)
    }

    fn respond(&mut self, status: u16, payload: Payload) {
        self.respond_with(status, &HeaderMap::new(), payload).unwrap();
    }

    fn send(&mut self, data: &'static str, last: bool) {
        let mut frame = self.server.send_data(Bytes::from_static(data.as_bytes()), last).unwrap();
        self.out.extend_from_slice(&frame.copy_to_bytes(frame.remaining()));
    }

    fn written(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).unwrap()
    }

    fn inform(&mut self, status: u16) -> Result<(), SendError> {
        let mut headers = HeaderMap::new();
        headers.insert("link", HeaderValue::from_static("</a>"));
        let fields = Fields { headers: &headers, spelling: &Spelling::LOWER };
        self.server.inform(StatusCode::from_u16(status).unwrap(), fields, &mut self.out)
    }
}

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn requests_wait_for_the_response_to_the_one_before() {
    let mut peer =
        Peer::new(&format!("POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello{GET}GET"));
    assert_eq!(peer.events(), ["POST /1", "data hello", "end"]);
    assert!(!peer.server.wants_input(), "the client has sent ahead");
    assert_eq!(peer.server.phase(), Phase::Responding);
    peer.respond(200, Payload::Length(2));
    assert_eq!(peer.events(), [""; 0]);
    peer.send("ok", true);
    assert_eq!(peer.written(), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(peer.events(), ["GET /"]);
    peer.respond(204, Payload::None);
    assert_eq!(peer.written(), "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!((peer.events(), peer.server.phase()), (vec![], Phase::Head));
    assert_eq!(peer.server.incomplete_head(), 3);
    assert!(peer.server.wants_input() && !peer.server.is_closed());
}

#[test]
fn bodies_of_unknown_length_are_framed_as_the_version_allows() {
    let mut peer = Peer::new(GET);
    peer.events();
    peer.respond(200, Payload::Unknown);
    peer.send("he", false);
    peer.send("", false);
    peer.send("llo", true);
    assert_eq!(
        peer.written(),
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
    );
    assert_eq!(peer.server.phase(), Phase::Idle);
    let mut peer = Peer::new("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    peer.events();
    peer.respond(200, Payload::Unknown);
    peer.send("hello", true);
    assert_eq!(peer.written(), "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nhello");
    assert!(peer.server.is_closed());
}

#[test]
fn connections_persist_as_their_versions_say() {
    for (request, line, closes) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "", false),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "connection: close\r\n", true),
        ("GET / HTTP/1.0\r\n\r\n", "connection: close\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "connection: keep-alive\r\n", false),
        ("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\n", "connection: close\r\n", true),
    ] {
        let mut peer = Peer::new(request);
        peer.events();
        peer.respond(200, Payload::None);
        let version = if request.contains("1.0") { "1.0" } else { "1.1" };
        assert_eq!(peer.written(), format!("HTTP/{version} 200 OK\r\ncontent-length: 0\r\n{line}\r\n"));
        assert_eq!(peer.server.is_closed(), closes, "{request}");
    }
    let mut peer = Peer::new(GET);
    peer.server.close_after_response();
    peer.events();
    peer.respond(200, Payload::None);
    assert!(peer.written().contains("connection: close") && peer.server.is_closed());
    let (mut peer, mut headers) = (Peer::new(GET), HeaderMap::new());
    headers.insert("connection", HeaderValue::from_static("close"));
    peer.events();
    peer.respond_with(200, &headers, Payload::None).unwrap();
    assert!(peer.server.is_closed());
}

#[test]
fn some_responses_have_no_body() {
    let mut headers = HeaderMap::new();
    headers.insert("content-length", HeaderValue::from_static("7"));
    for (method, status, line) in
        [("HEAD", 200, "content-length: 7\r\n"), ("GET", 304, "content-length: 7\r\n"), ("GET", 204, "")]
    {
        let mut peer = Peer::new(&format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
        peer.events();
        peer.respond_with(status, &headers, Payload::Unknown).unwrap();
        assert!(peer.written().ends_with(&format!("\r\n{line}\r\n")), "{method} {status}");
        assert_eq!(
            peer.server.send_data(Bytes::from_static(b"x"), true).unwrap_err(),
            SendError::UnexpectedData
        );
        assert_eq!(peer.server.phase(), Phase::Idle);
    }
}

#[test]
fn a_body_has_the_length_that_was_announced() {
    let mut peer = Peer::new(GET);
    assert_eq!(peer.respond_with(200, &HeaderMap::new(), Payload::None), Err(SendError::UnexpectedHead));
    peer.events();
    peer.respond(200, Payload::Length(3));
    let data = Bytes::from_static(b"abcd");
    assert_eq!(peer.server.send_data(data.clone(), false).unwrap_err(), SendError::TooLong { left: 3 });
    assert_eq!(peer.server.send_data(data.slice(..2), true).unwrap_err(), SendError::TooShort { left: 1 });
    assert_eq!(peer.server.send_end(None, &mut Vec::new()), Err(SendError::TooShort { left: 3 }));
    peer.send("abc", false);
    peer.server.send_end(None, &mut Vec::new()).unwrap();
    assert_eq!(peer.server.phase(), Phase::Idle);
}

#[test]
fn a_client_that_waits_gets_a_100_once() {
    let request = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    let mut peer = Peer::new(request);
    peer.events();
    peer.server.send_continue(&mut peer.out);
    peer.server.send_continue(&mut peer.out);
    assert_eq!(peer.written(), "HTTP/1.1 100 Continue\r\n\r\n");
    peer.receive("ok");
    assert_eq!(peer.events(), ["data ok", "end"]);
    peer.respond(200, Payload::None);
    assert!(!peer.server.is_closed());
    // It did not wait.
    let mut peer = Peer::new(&format!("{request}ok"));
    assert_eq!(peer.event(), "POST /");
    peer.server.send_continue(&mut peer.out);
    assert_eq!((peer.written(), peer.events()), (String::new(), vec!["data ok".into(), "end".into()]));
    // It was not told to send the body, so what it sends next is not known.
    let mut peer = Peer::new(request);
    peer.events();
    peer.respond(413, Payload::None);
    assert!(peer.written().contains("connection: close\r\n") && peer.server.is_closed());
    // HTTP/1.0 does not know it.
    let mut peer = Peer::new("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    peer.events();
    peer.server.send_continue(&mut peer.out);
    assert_eq!(peer.written(), "");
}

#[test]
fn informational_responses_come_before_the_response() {
    let mut peer = Peer::new(GET);
    assert_eq!(peer.inform(103), Err(SendError::UnexpectedHead));
    peer.events();
    peer.inform(103).unwrap();
    peer.inform(102).unwrap();
    assert_eq!((peer.inform(101), peer.inform(200)), (Err(SendError::Status), Err(SendError::Status)));
    assert_eq!(
        peer.written(),
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\nlink: </a>\r\n\r\n"
    );
    assert_eq!(peer.respond_with(103, &HeaderMap::new(), Payload::None), Err(SendError::Status));
    peer.respond(200, Payload::None);
    assert_eq!(peer.inform(103), Err(SendError::UnexpectedHead));
    let mut peer = Peer::new("GET / HTTP/1.0\r\n\r\n");
    peer.events();
    peer.inform(103).unwrap();
    assert_eq!(peer.written(), "");
}

#[test]
fn a_response_may_come_before_the_end_of_the_request() {
    let mut peer = Peer::new("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab");
    assert_eq!(peer.events(), ["POST /", "data ab"]);
    peer.respond(200, Payload::Length(2));
    peer.send("ok", true);
    assert!(peer.server.phase() == Phase::Body && !peer.server.is_closed());
    peer.receive(&format!("\r\n0\r\nX-Sum: 1\r\n\r\n{GET}"));
    assert_eq!(peer.events(), ["trailers [\"x-sum\"]", "end", "GET /"]);
    assert!(peer.server.phase() != Phase::Body);
}

#[test]
fn an_upgrade_hands_over_the_rest() {
    let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n\x01\x02";
    let mut peer = Peer::new(request);
    assert_eq!(peer.events(), ["GET /"]);
    let mut headers = HeaderMap::new();
    headers.insert("upgrade", HeaderValue::from_static("x"));
    peer.respond_with(101, &headers, Payload::None).unwrap();
    assert_eq!(
        peer.written(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: Upgrade\r\n\r\n"
    );
    peer.receive("\x03");
    assert_eq!(peer.events(), ["upgraded \\x01\\x02\\x03"]);
    assert_eq!((peer.server.phase(), peer.server.allocated()), (Phase::Closed, 0));
    // Refused: what follows is not read as a request.
    let mut peer = Peer::new(&request.replace("\x01\x02", GET));
    peer.events();
    peer.respond(200, Payload::None);
    assert_eq!((peer.events(), peer.server.is_closed()), (vec![], true));
    // Not asked for.
    let mut peer = Peer::new(GET);
    peer.events();
    assert_eq!(peer.respond_with(101, &headers, Payload::None), Err(SendError::UnexpectedUpgrade));
    // With a body, the other protocol starts after it.
    let mut peer = Peer::new(&request.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\n"));
    assert_eq!(peer.event(), "GET /");
    peer.respond_with(101, &headers, Payload::None).unwrap();
    assert_eq!(peer.events(), ["data \\x01", "end", "upgraded \\x02"]);
}

#[test]
fn a_tunnel_starts_after_a_success() {
    let mut peer = Peer::new("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\nraw");
    assert_eq!(peer.events(), ["CONNECT h:1"]);
    peer.respond(200, Payload::Unknown);
    assert_eq!(peer.written(), "HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(peer.events(), ["upgraded raw"]);
    // Without one, what follows may be for the tunnel all the same.
    let mut peer = Peer::new(&format!("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n{GET}"));
    peer.events();
    peer.respond(501, Payload::None);
    assert!(peer.written().contains("connection: close") && peer.server.is_closed());
}

#[test]
fn errors_have_a_response_until_one_has_begun() {
    let mut peer = Peer::new(&format!("{GET}GET / HTTP/1.1\nHost: h\r\n\r\n"));
    peer.events();
    peer.respond(200, Payload::None);
    let error = peer.server.poll().unwrap_err();
    assert_eq!(error.kind, ErrorKind::LineEnd);
    assert!(peer.server.refusal(&error).unwrap().starts_with(b"HTTP/1.1 400 "));
    assert!(peer.server.is_closed() && peer.server.allocated() == 0);
    assert!(peer.server.poll().unwrap().is_none());
    // In a body.
    let broken = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx";
    let mut peer = Peer::new(broken);
    assert_eq!(peer.event(), "POST /");
    let error = peer.server.poll().unwrap_err();
    assert!(peer.server.refusal(&error).unwrap().starts_with(b"HTTP/1.1 400 "));
    let mut peer = Peer::new(broken);
    assert_eq!(peer.event(), "POST /");
    peer.respond(200, Payload::Length(2));
    let error = peer.server.poll().unwrap_err();
    assert_eq!(peer.server.refusal(&error), None);
}

#[test]
fn the_end_of_the_input_is_noticed() {
    for (bytes, kind) in [
        ("", None),
        ("GET", Some(ErrorKind::IncompleteHead)),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel", Some(ErrorKind::IncompleteBody)),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            Some(ErrorKind::IncompleteBody),
        ),
    ] {
        let mut peer = Peer::new(bytes);
        peer.events();
        peer.server.end_input();
        let error = peer.server.poll().err();
        assert_eq!(error.map(|error| error.kind), kind, "{bytes:?}");
        assert_eq!(error.and_then(|error| peer.server.refusal(&error)), None);
        assert!(peer.server.is_closed() && !peer.server.wants_input());
    }
}

#[test]
fn no_buffer_grows_with_what_a_client_sends_ahead() {
    let mut peer = Peer::new(GET);
    peer.events();
    assert!(peer.server.wants_input(), "to learn that the client has gone");
    for _ in 0..100 {
        if peer.server.wants_input() {
            peer.receive(GET);
            peer.events();
        }
    }
    assert_eq!(peer.server.input().len(), GET.len());
    let mut peer = Peer::new(&"X".repeat(100));
    peer.events();
    let error = peer.server.refuse_large();
    assert_eq!((error.kind, error.status().as_u16()), (ErrorKind::TargetTooLong, 414));
    let mut peer = Peer::new("GET / HTTP/1.1\r\nX: y");
    peer.events();
    let error = peer.server.refuse_large();
    assert_eq!((error.status().as_u16(), peer.server.refusal(&error).is_some()), (431, true));
}

#[test]
fn an_idle_connection_holds_no_memory() {
    let mut peer = Peer::new(GET);
    assert!(!peer.server.release(), "it is not idle");
    peer.events();
    peer.respond(200, Payload::None);
    assert!(peer.server.allocated() > 0);
    assert!(peer.server.release());
    assert_eq!(peer.server.allocated(), 0);
    peer.receive(GET);
    assert_eq!(peer.events(), ["GET /"]);
    assert!(size_of::<Server>() <= 400, "{}", size_of::<Server>());
}
