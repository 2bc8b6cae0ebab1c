//! Counts the instructions that HTTP/1 takes for the heads of a request and for one on a kept connection.
//!
//! `cargo bench -p tidegate-wire --bench http1` runs itself in callgrind, with two numbers of rounds for each case:
//! their difference has no start-up in it. Needs valgrind.

use std::hint::black_box;
use std::process::{Command, Stdio};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use tidegate_wire::http1::client::{self, Client};
use tidegate_wire::http1::encode::{self, Connection, Fields};
use tidegate_wire::http1::request::{RequestHead, RequestParser};
use tidegate_wire::http1::response::{ResponseHead, ResponseParser};
use tidegate_wire::http1::server::{self, Server};
use tidegate_wire::http1::{Asked, Limits, Payload};

const FEW: usize = 1_000;
const MANY: usize = 5_000;
const CASES: [&str; 10] = [
    "nothing",
    "library-map",
    "parse-request",
    "parse-other-request",
    "parse-response",
    "write-request",
    "write-response",
    "server-exchange",
    "client-exchange",
    "proxied-exchange",
];

/// As an HTTP client for programs sends it.
const REQUEST: &[u8] = b"GET /api/v1/orders/1234?expand=items HTTP/1.1\r\n\
    Host: orders.example.com\r\n\
    User-Agent: client/2.31.0\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Content-Type: application/json\r\n\
    Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n\
    X-Request-ID: 3f2c8f0e-6d0f-4f2a-9a5f-2f1b0c9d8e7f\r\n\
    X-Forwarded-For: 192.0.2.17\r\n\
    Cache-Control: no-cache\r\n\
    Connection: keep-alive\r\n\r\n";

/// As a browser sends it.
const BROWSER: &[u8] = b"GET /assets/app.css HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    Connection: keep-alive\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/149.0.0.0 Safari/537.36\r\n\
    Accept: text/css,*/*;q=0.1\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: no-cors\r\n\
    Sec-Fetch-Dest: style\r\n\
    Referer: https://www.example.com/shop/category/shoes?page=2\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; consent=all; _ga=GA1.1.1234567890.1234567890\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.29.3\r\n\
    Date: Mon, 30 Nov 2026 19:00:00 GMT\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 2\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=60\r\n\
    ETag: \"5f2c8f0e-4f2a\"\r\n\
    Vary: Accept-Encoding\r\n\
    X-Request-ID: 3f2c8f0e-6d0f-4f2a-9a5f-2f1b0c9d8e7f\r\n\
    X-Content-Type-Options: nosniff\r\n\r\n";

/// As a load generator sends it.
const PLAIN: &[u8] =
    b"GET / HTTP/1.1\r\nHost: www.example.com\r\nAccept: */*\r\nUser-Agent: oha/1.4.5\r\n\r\n";

/// The same with what the gateway adds.
const FORWARDED: &[u8] = b"GET / HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    Accept: */*\r\n\
    User-Agent: oha/1.4.5\r\n\
    X-Forwarded-For: 192.0.2.17\r\n\
    X-Forwarded-Host: www.example.com\r\n\
    X-Forwarded-Port: 80\r\n\
    X-Forwarded-Proto: http\r\n\
    X-Forwarded-Server: gateway-1\r\n\
    X-Real-Ip: 192.0.2.17\r\n\
    Accept-Encoding: gzip\r\n\r\n";

const PLAIN_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Server: nginx/1.29.3\r\n\
    Date: Mon, 30 Nov 2026 19:00:00 GMT\r\n\
    Content-Type: text/plain\r\n\
    Content-Length: 2\r\n\
    Connection: keep-alive\r\n\r\n";

fn request(head: &[u8]) -> RequestHead {
    let parsed = RequestParser::default().parse(&mut BytesMut::from(head), &Limits::default());
    parsed.ok().flatten().expect("a valid head")
}

fn response() -> ResponseHead {
    let mut bytes = BytesMut::from(RESPONSE);
    let parsed = ResponseParser::default().parse(&mut bytes, Asked::default(), &Limits::default());
    parsed.ok().flatten().expect("a valid head")
}

fn run(case: &str, rounds: usize) {
    let limits = Limits::default();
    let (mut input, mut out) = (BytesMut::new(), Vec::with_capacity(4096));
    let (mut requests, mut responses) = (RequestParser::default(), ResponseParser::default());
    let (request, forwarded, response) = (request(REQUEST), request(FORWARDED), response());
    let (mut server, mut client) = (Server::new(limits), Client::new(limits));
    let shared = Bytes::from(vec![b'a'; 4096]);
    for round in 0..rounds {
        out.clear();
        match case {
            "parse-request" | "parse-other-request" => {
                // A head like the last one is not parsed again.
                let head = if case == "parse-request" || round % 2 == 0 { REQUEST } else { BROWSER };
                input.reserve(4096);
                input.extend_from_slice(black_box(head));
                black_box(requests.parse(&mut input, &limits)).expect("a valid head");
            }
            "parse-response" => {
                input.reserve(4096);
                input.extend_from_slice(black_box(RESPONSE));
                black_box(responses.parse(&mut input, Asked::default(), &limits)).expect("a valid head");
            }
            "write-request" => {
                let fields = Fields { headers: &request.parts.headers, spelling: &request.spelling };
                let (method, uri) = (&request.parts.method, &request.parts.uri);
                let framing = request.framing;
                encode::request(method, uri, black_box(fields), framing, Connection::Unsaid, &mut out);
            }
            "write-response" => {
                let fields = Fields { headers: &response.parts.headers, spelling: &response.spelling };
                let (version, status) = (response.parts.version, response.parts.status);
                let (framing, unsaid) = (response.framing, Connection::Unsaid);
                encode::response(version, status, None, black_box(fields), framing, unsaid, &mut out);
            }
            // The least that a map of the HTTP library takes with these fields, and to drop it.
            "library-map" => {
                let mut headers = HeaderMap::with_capacity(10);
                for (name, value) in &request.parts.headers {
                    let value = HeaderValue::from_maybe_shared(black_box(shared.slice(..value.len())));
                    headers.append(name, value.expect("a valid value"));
                }
                black_box(headers);
            }
            "server-exchange" => serve(&mut server, REQUEST, &response, &mut out),
            "client-exchange" => drop(ask(&mut client, &request, RESPONSE, &mut out)),
            "proxied-exchange" => {
                let received = ask(&mut client, &forwarded, PLAIN_RESPONSE, &mut out);
                serve(&mut server, PLAIN, &received, &mut out);
            }
            _ => {}
        }
        black_box(&out);
    }
}

/// One request with its response on a kept connection.
fn serve(server: &mut Server, request: &[u8], response: &ResponseHead, out: &mut Vec<u8>) {
    server.input().reserve(4096);
    server.input().extend_from_slice(black_box(request));
    let Ok(Some(server::Event::Head(head))) = server.poll() else { panic!("expected a head") };
    black_box(head);
    let fields = Fields { headers: &response.parts.headers, spelling: &response.spelling };
    let payload = Payload::Length(2);
    let response = server::Response { status: StatusCode::OK, reason: None, fields, payload };
    server.respond(response, out).expect("a request");
    let frame = server.send_data(Bytes::from_static(b"ok"), true).expect("a body");
    out.extend_from_slice(frame.chunk());
}

/// One request with its response on a kept connection.
fn ask(client: &mut Client, request: &RequestHead, response: &[u8], out: &mut Vec<u8>) -> ResponseHead {
    let fields = Fields { headers: &request.parts.headers, spelling: &request.spelling };
    let (method, uri) = (&request.parts.method, &request.parts.uri);
    let request = client::Request { method, uri, fields, payload: Payload::None, upgrade: false };
    client.request(request, out).expect("an idle connection");
    client.input().reserve(4096);
    client.input().extend_from_slice(black_box(response));
    client.input().extend_from_slice(b"ok");
    let Ok(Some(client::Event::Head(head))) = client.poll() else { panic!("expected a head") };
    let mut events = 0;
    while let Some(event) = client.poll().expect("a valid response") {
        black_box(event);
        events += 1;
    }
    assert_eq!(events, 2);
    head
}

fn instructions(case: &str, rounds: usize) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("the path of this program"))
        .args([case, &rounds.to_string()])
        .stdout(Stdio::null())
        .output()
        .expect("valgrind");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find_map(|line| line.split_once("Collected : ")).expect("a count");
    line.1.trim().parse().expect("a number")
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    if let (Some(case), Some(rounds)) = (arguments.next(), arguments.next()) {
        run(&case, rounds.parse().expect("a number of rounds"));
        return;
    }
    for case in CASES {
        let each = (instructions(case, MANY) - instructions(case, FEW)) / (MANY - FEW) as u64;
        #[expect(clippy::print_stdout, reason = "this is its result")]
        {
            println!("{case}: {each}");
        }
    }
}
