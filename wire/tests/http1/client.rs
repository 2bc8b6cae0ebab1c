//! The client's side of connections.

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderValue, Method, Uri};
use tidegate_wire::http1::client::{Client, Event, Request};
use tidegate_wire::http1::encode::Fields;
use tidegate_wire::http1::{ErrorKind, Limits, Payload, SendError, Spelling};

struct Peer {
    client: Client,
    out: Vec<u8>,
}

impl Peer {
    fn new(method: &str, payload: Payload, upgrade: bool) -> Self {
        let mut peer = Self { client: Client::new(Limits::default()), out: Vec::new() };
        peer.request(method, payload, upgrade).unwrap();
        peer
    }

    fn get() -> Self {
        Self::new("GET", Payload::None, false)
    }

    fn request(&mut self, method: &str, payload: Payload, upgrade: bool) -> Result<(), SendError> {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("h"));
        let fields = Fields { headers: &headers, spelling: &Spelling::USUAL };
        let (method, uri) = (Method::try_from(method).unwrap(), Uri::from_static("/"));
        self.client.request(Request { method: &method, uri: &uri, fields, payload, upgrade }, &mut self.out)
    }

    fn receive(&mut self, bytes: &str) {
        self.client.input().extend_from_slice(bytes.as_bytes());
    }

    fn events(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.client.poll().unwrap())
            .map(|event| match event {
                Event::Informational(head) => format!("info {}", head.parts.status.as_u16()),
                Event::Head(head) => format!("head {}", head.parts.status.as_u16()),
                Event::Data(data) => format!("data {}", data.escape_ascii()),
                Event::Trailers(trailers) => format!("trailers {}", trailers.headers.len()),
                Event::End => "end".into(),
                Event::Upgraded(rest) => format!("upgraded {}", rest.escape_ascii()),
            })
            .collect()
    }

    fn error(&mut self) -> ErrorKind {
        std::iter::from_fn(|| self.client.poll().transpose()).find_map(Result::err).unwrap().kind
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_connection_is_used_again() {
    let mut peer = Peer::get();
    assert_eq!(peer.out, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(!peer.client.is_reusable() && peer.client.is_untouched());
    assert_eq!(peer.request("GET", Payload::None, false), Err(SendError::UnexpectedHead));
    peer.receive(OK);
    assert!(!peer.client.is_untouched());
    assert_eq!(peer.events(), ["head 200", "data ok", "end"]);
    assert!(peer.client.is_reusable());
    peer.request("HEAD", Payload::None, false).unwrap();
    assert!(peer.client.is_untouched());
    peer.receive("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(peer.events(), ["head 200"]);
    assert!(peer.client.is_reusable() && peer.client.release());
    assert!(peer.client.allocated() < 1024, "the last head, and no buffer");
    assert!(size_of::<Client>() <= 360, "{}", size_of::<Client>());
}

#[test]
fn a_connection_is_not_used_again_if_anything_is_left_or_it_ends() {
    for (bytes, events) in [
        (format!("{OK}HTTP/1.1 200 OK\r\n"), 3),
        (OK.replace("1.1", "1.0"), 3),
        (OK.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"), 3),
        ("HTTP/1.1 204 No Content\r\n\r\nx".to_owned(), 1),
    ] {
        let mut peer = Peer::get();
        peer.receive(&bytes);
        for _ in 0..events {
            peer.client.poll().unwrap().unwrap();
        }
        assert!(!peer.client.is_reusable(), "{bytes:?}");
    }
    let mut peer = Peer::get();
    peer.receive(OK);
    peer.events();
    peer.client.end_input();
    assert!(!peer.client.is_reusable() && peer.client.is_closed());
    // Unasked.
    let mut peer = Peer::get();
    peer.receive(OK);
    peer.events();
    peer.receive(OK);
    assert_eq!(peer.error(), ErrorKind::Unsolicited);
    assert!(peer.client.is_closed() && peer.client.allocated() == 0);
}

#[test]
fn informational_responses_are_passed_on() {
    let mut peer = Peer::get();
    peer.receive("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(peer.events(), ["info 103", "info 100"]);
    peer.receive(OK);
    assert_eq!(peer.events(), ["head 200", "data ok", "end"]);
}

#[test]
fn bodies_end_as_their_framing_says() {
    let mut peer = Peer::get();
    peer.receive("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n");
    assert_eq!(peer.events(), ["head 200", "data ok", "trailers 1", "end"]);
    assert!(peer.client.is_reusable());
    let mut peer = Peer::get();
    peer.receive("HTTP/1.1 200 OK\r\n\r\nok");
    assert_eq!(peer.events(), ["head 200", "data ok"]);
    peer.client.end_input();
    assert_eq!(peer.events(), ["end"]);
    assert!(!peer.client.is_reusable() && peer.client.is_closed());
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
    ] {
        let mut peer = Peer::get();
        peer.receive(bytes);
        assert_eq!(peer.events(), ["head 200", "data ok"]);
        peer.client.end_input();
        assert_eq!(peer.error(), ErrorKind::IncompleteBody);
    }
    let mut peer = Peer::get();
    peer.receive("HTTP/1.1 200 O");
    peer.client.end_input();
    assert_eq!(peer.error(), ErrorKind::IncompleteHead);
}

#[test]
fn a_response_may_come_before_the_end_of_the_request() {
    let mut peer = Peer::new("POST", Payload::Unknown, false);
    let mut frame = peer.client.send_data(Bytes::from_static(b"abc"), false).unwrap();
    peer.out.extend_from_slice(&frame.copy_to_bytes(frame.remaining()));
    peer.receive(OK);
    assert_eq!(peer.events(), ["head 200", "data ok", "end"]);
    assert!(peer.client.is_sending() && !peer.client.is_reusable());
    peer.client.send_end(None, &mut peer.out).unwrap();
    assert!(peer.client.is_reusable());
    assert!(peer.out.ends_with(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
    assert_eq!(peer.client.send_end(None, &mut peer.out), Err(SendError::UnexpectedData));
}

#[test]
fn an_upgrade_hands_over_the_rest() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nraw";
    let mut peer = Peer::new("GET", Payload::None, true);
    assert!(peer.out.ends_with(b"Connection: Upgrade\r\n\r\n"));
    peer.receive(switching);
    assert_eq!(peer.events(), ["head 101", "upgraded raw"]);
    assert!(peer.client.is_closed() && !peer.client.is_reusable());
    let mut peer = Peer::get();
    peer.receive(switching);
    assert_eq!(peer.error(), ErrorKind::UnexpectedUpgrade);
    let mut peer = Peer::new("GET", Payload::None, true);
    peer.receive(OK);
    assert_eq!(peer.events(), ["head 200", "data ok", "end"]);
    assert!(!peer.client.is_reusable(), "after a refused upgrade");
}
