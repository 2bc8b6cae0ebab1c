//! Requests whose framing two parsers could read in two ways: each is refused, or passes as exactly one.

use crate::support::{Backend, Client, Gateway};

/// What must become of a request.
#[derive(Clone, Debug)]
enum Expect {
    /// 400, 501 or 505, connection closed, nothing at the server.
    Refused,
    /// The body breaks off: connection closed, no complete request at the server, no answer that looks like success.
    Broken,
    /// One request at the server: method, target, host, body.
    Passed(&'static str, &'static str, &'static str, &'static str),
    /// The gateway answers itself, with this status.
    Own(u16),
}

use Expect::{Broken, Own, Passed, Refused};

type Case = (Vec<u8>, Expect);

fn case(bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    (bytes.into(), expect)
}

/// All failures are reported together.
fn check(cases: &[Case]) {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&Gateway::one_service(&backend.url()));
    let failures: Vec<String> = cases
        .iter()
        .filter_map(|(bytes, expect)| {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
            outcome(&gateway, &backend, bytes, expect)
                .err()
                .map(|why| format!("{shown:?}: {why}, not {expect:?}"))
        })
        .collect();
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

fn outcome(gateway: &Gateway, backend: &Backend, bytes: &[u8], expect: &Expect) -> Result<(), String> {
    let before = backend.seen().len();
    let mut client = Client::connect(gateway.web());
    client.send(bytes);
    let method = String::from_utf8_lossy(bytes).trim_start().split(' ').next().unwrap_or("").to_owned();
    let answer = client.read_for(&method);
    let status = answer.as_ref().map_or(0, |answer| answer.status);
    let require =
        |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what} (status {status})")) };
    match expect {
        Refused => {
            // As in Go: 501 for a coding that nobody knows, 505 for such a version of HTTP.
            require([400, 501, 505].contains(&status), "not 400, 501 or 505")?;
            require(client.is_closed(), "not closed")?;
            require(backend.seen().len() == before, "reached the server")
        }
        Broken => {
            require(status == 0 || status >= 400, "answered")?;
            require(client.is_closed(), "not closed")?;
            require(backend.seen().len() == before, "reached the server")
        }
        Own(wanted) => {
            require(status == *wanted, "another status")?;
            require(backend.seen().len() == before, "reached the server")
        }
        Passed(..) => {
            require(status == 200, "not 200")?;
            passed(&mut client, backend, before, bytes, expect)
        }
    }
}

fn passed(
    client: &mut Client,
    backend: &Backend,
    before: usize,
    bytes: &[u8],
    expect: &Expect,
) -> Result<(), String> {
    let Passed(method, target, host, body) = expect else { return Ok(()) };
    let old = bytes.windows(9).any(|window| window == b" HTTP/1.0");
    if !old {
        client.send("GET /canary HTTP/1.1\r\nHost: canary\r\n\r\n");
        let status = client.read().map(|answer| answer.status);
        if !matches!(status, Ok(200)) {
            return Err(format!("out of step: {status:?}"));
        }
    }
    let seen = backend.seen().split_off(before);
    if seen.len() != 1 + usize::from(!old) || (!old && seen[1].target() != "/canary") {
        return Err(format!("the server saw {seen:?}"));
    }
    let seen = &seen[0];
    let lengths = seen.headers("content-length");
    let framed = match (lengths.as_slice(), seen.header("transfer-encoding")) {
        ([length], None) => *length == seen.body.len().to_string(),
        ([], Some("chunked")) => true,
        ([], None) => seen.body.is_empty(),
        _ => false,
    };
    let same = seen.method() == *method
        && seen.target() == *target
        && seen.headers("host") == [*host]
        && seen.body == body.as_bytes();
    if same && framed { Ok(()) } else { Err(format!("the server saw {seen:?}")) }
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /p HTTP/1.1\r\nHost: h\r\n{headers}\r\n\r\n{body}")
}

const HELLO: Expect = Passed("POST", "/p", "h", "hello");
const CHUNKED_HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";

#[test]
fn ambiguous_content_lengths_are_refused_or_pass_as_one_request() {
    let mut cases = Vec::new();
    for value in [
        "+5",
        "-5",
        "-0",
        "5,5",
        "5, 5",
        "5,",
        ",5",
        "5;5",
        "5 5",
        "0x5",
        "5.0",
        "5e0",
        "five",
        "\"5\"",
        "5-",
        "1_0",
        "\u{665}",
        "5\u{a0}",
        "05",
        "00000000000000000005",
        "00",
        "",
        " ",
        "5\0",
        "\x0b5",
        "5\x0c",
        "5\x7f",
        "18446744073709551616",
        "99999999999999999999999999",
        "5\r\nContent-Length: 5",
        "5\r\nContent-Length: 6",
        "6\r\nContent-Length: 5",
        "5\r\nCONTENT-LENGTH: 0",
        "0\r\nContent-Length: 5",
        "5\r\n ",
        "5\r\n 5",
        "\r\n 5",
        "5\rX: y",
        "5\nX: y",
        "5\nTransfer-Encoding: chunked",
    ] {
        cases.push(case(post(&format!("Content-Length: {value}"), "hello"), Refused));
    }
    for name in [
        "Content-Length ",
        "Content-Length\t",
        " Content-Length",
        "\tContent-Length",
        "Content-Length\0",
        "Content-Length\x0b",
        "Content Length",
        "X: y\rContent-Length",
        "X: y\nContent-Length",
        "Content-Length:5\r\nContent-Length",
        "Content\u{2010}Length",
    ] {
        cases.push(case(post(&format!("{name}: 5"), "hello"), Refused));
    }
    for line in ["Content-Length: 5", "content-length:5", "CONTENT-LENGTH: \t5\t "] {
        cases.push(case(post(line, "hello"), HELLO));
    }
    for method in ["GET", "DELETE", "OPTIONS", "PUT", "PATCH"] {
        let raw = format!("{method} /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
        cases.push(case(raw, Passed(method, "/p", "h", "hello")));
    }
    cases.push(case(post("Content-Length: 0", ""), Passed("POST", "/p", "h", "")));
    cases.push(case("POST /p HTTP/1.0\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", HELLO));
    check(&cases);
}

#[test]
fn ambiguous_transfer_encodings_are_refused_or_pass_as_one_request() {
    let mut cases = Vec::new();
    for value in [
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked,chunked",
        "chunked, identity",
        "identity",
        "identity, chunked",
        "x",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "chunked; a=b",
        "chunke",
        "\"chunked\"",
        "'chunked'",
        "chunked\x0b",
        "\x0bchunked",
        "chunked\0",
        "\0chunked",
        "chunked\x0c",
        "chunked,",
        ",chunked",
        "",
        " ",
        "chunked chunked",
        "chun\u{212a}ed",
        "deflate",
        "trailers",
        "chunked\r\n ",
        "\r\n chunked",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: gzip",
        "gzip\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding:",
        "chunked\r\n ,gzip",
        "chunked\rX: y",
        "chunked\nX: y",
        "chunked\u{a0}",
    ] {
        cases.push(case(post(&format!("Transfer-Encoding: {value}"), CHUNKED_HELLO), Refused));
    }
    for name in [
        "Transfer-Encoding ",
        "Transfer-Encoding\t",
        " Transfer-Encoding",
        "\tTransfer-Encoding",
        "Transfer-Encoding\0",
        "Transfer\0-Encoding",
        "Transfer-Encoding\x0b",
        "X: y\rTransfer-Encoding",
        "X: y\nTransfer-Encoding",
        "Transfer-Encoding\r\n",
        "Transfer Encoding",
    ] {
        cases.push(case(post(&format!("{name}: chunked"), CHUNKED_HELLO), Refused));
    }
    for headers in [
        "Content-Length: 15\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 15",
        "Content-Length: 0\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Transfer-Encoding: chunked\r\nX: y\r\ncontent-length: 3",
        "TRANSFER-ENCODING: CHUNKED\r\nContent-Length: 15",
    ] {
        cases.push(case(post(headers, CHUNKED_HELLO), Refused));
    }
    let old = "POST /p HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n";
    cases.push(case(format!("{old}\r\n{CHUNKED_HELLO}"), Refused));
    cases.push(case(format!("{old}Connection: keep-alive\r\n\r\n{CHUNKED_HELLO}"), Refused));
    cases.push(case(format!("{old}Content-Length: 15\r\n\r\n{CHUNKED_HELLO}"), Refused));
    for line in [
        "Transfer-Encoding:chunked",
        "transfer-encoding: \tCHUNKED\t",
        "Transfer-Encoding: cHuNkEd ",
        "TRANSFER-ENCODING: chunked",
    ] {
        cases.push(case(post(line, CHUNKED_HELLO), HELLO));
    }
    check(&cases);
}

#[test]
fn ambiguous_chunks_are_refused_or_pass_as_one_request() {
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(5000));
    let mut cases = Vec::new();
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5h\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n",
        "ffffffffffffffff\r\nhello\r\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\r\nX\r\n\r\n",
        "5\r\nhello\r\n0\r\n X: y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhello\r\n0\r\nX: y\n\r\n",
        "5\r\nhello\r\n0\r\nX: \0\r\n\r\n",
        "5;\nhello\r\n0\r\n\r\n",
        "5;x\rhello\r\n0\r\n\r\n",
        "5;a\0b\r\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhel\r\n0\r\n\r\n",
        "5\r\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5\x0b\r\nhello\r\n0\r\n\r\n",
        "\x005\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0 \r\n\r\n",
        "\u{665}\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\rX",
        "5\r\nhello\r\n-0\r\n\r\n",
        "5=x\r\nhello\r\n0\r\n\r\n",
        &long,
    ] {
        cases.push(case(post("Transfer-Encoding: chunked", body), Broken));
    }
    for body in [
        CHUNKED_HELLO,
        "05\r\nhello\r\n00\r\n\r\n",
        "00000005\r\nhello\r\n0000\r\n\r\n",
        "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "5;x\r\nhello\r\n0\r\n\r\n",
        "5;x=y;z=\"q w\"\r\nhello\r\n0;last\r\n\r\n",
        "5 ;x\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: gzip\r\nHost: evil\r\n\r\n",
    ] {
        cases.push(case(post("Transfer-Encoding: chunked", body), HELLO));
    }
    let ten = "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n";
    cases.push(case(
        post("Transfer-Encoding: chunked", ten),
        Passed("POST", "/p", "h", "01234567890123456789"),
    ));
    check(&cases);
}

#[test]
fn ambiguous_lines_and_headers_are_refused_or_pass_as_one_request() {
    let mut cases = Vec::new();
    for raw in [
        "GET /p HTTP/1.1\nHost: h\n\n",
        "GET /p HTTP/1.1\nHost: h\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: h\n\r\n",
        "GET /p HTTP/1.1\r\nHost: h\r\n\n",
        "GET /p HTTP/1.1\rHost: h\r\r",
        "GET /p HTTP/1.1\r\r\nHost: h\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: h\r\r\n\r\n",
        "GET /p HTTP/1.1\r\nHost: h\r\n\r\r\n",
        "\nGET /p HTTP/1.1\r\nHost: h\r\n\r\n",
        " GET /p HTTP/1.1\r\nHost: h\r\n\r\n",
        "\0GET /p HTTP/1.1\r\nHost: h\r\n\r\n",
        "\r\n\nGET /p HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /p HTTP/1.1\r\n\tHost: h\r\n\r\n",
        "GET /p HTTP/1.1\r\n Host: h\r\nHost: h\r\n\r\n",
        "GET /p HTTP/1.1\r\n\r\n",
    ] {
        cases.push(case(raw, Refused));
    }
    for line in [
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\r\n \r\nY: c",
        "X:\r\n b",
        "X: a\rY: b",
        "X: a\nY: b",
        "X: a\0b",
        "X: \x01",
        "X: a\x7f",
        "X: \x1b[31m",
        "X: a\x0bb",
        "X : a",
        "X\t: a",
        " X: a",
        ": a",
        ":",
        "X",
        "X y: a",
        "X(y): a",
        "X@y: a",
        "X=y: a",
        "X\u{e9}: a",
        "\"X\": a",
        "X,y: a",
        "X;y: a",
        "X/y: a",
        "X[y]: a",
        "X\\y: a",
        "{X}: a",
        "X\0: a",
        "X\x7f: a",
    ] {
        cases.push(case(format!("GET /p HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n"), Refused));
    }
    let plain = Passed("GET", "/p", "h", "");
    for line in [
        "X:",
        "X:a",
        "X:  a\t ",
        "X: a: b",
        "X: \u{e9}",
        "X!#$%&'*+-.^_`|~9: a",
        "Connection: keep-alive, foo",
        "X: a\r\nX: b",
    ] {
        cases.push(case(format!("GET /p HTTP/1.1\r\nHost: h\r\n{line}\r\n\r\n"), plain.clone()));
    }
    cases.push(case("\r\nGET /p HTTP/1.1\r\nHost: h\r\n\r\n", plain.clone()));
    cases.push(case("GET /p HTTP/1.0\r\nHost: h\r\n\r\n", plain));
    check(&cases);
}

#[test]
fn ambiguous_request_lines_are_refused_or_pass_as_one_request() {
    let mut cases = Vec::new();
    for line in [
        "GET  /p HTTP/1.1",
        "GET /p  HTTP/1.1",
        "GET /p HTTP/1.1 ",
        "GET\t/p\tHTTP/1.1",
        "GET\t/p HTTP/1.1",
        "GET /p\tHTTP/1.1",
        "GET HTTP/1.1",
        "GET  HTTP/1.1",
        "GET /p",
        "GET",
        "/p HTTP/1.1",
        "GET /p HTTP/1.2",
        "GET /p HTTP/2.0",
        "GET /p HTTP/2",
        "GET /p HTTP/0.9",
        "GET /p HTTP/9.9",
        "GET /p http/1.1",
        "GET /p HTTP/1.1x",
        "GET /p HTTP/01.1",
        "GET /p HTTP/1.10",
        "GET /p HTTP/1,1",
        "GET /p HTTP/1",
        "GET /p HTTP/1.",
        "GET /p HTTP /1.1",
        "GET /p HTTPS/1.1",
        "GET /p ICY/1.1",
        "GET /p HTTP/1.1 HTTP/1.1",
        "GET /p x HTTP/1.1",
        "GET /p HTTP/-1.1",
        "GET /p HTTP/+1.1",
        "G@T /p HTTP/1.1",
        "GE(T) /p HTTP/1.1",
        "GE\0T /p HTTP/1.1",
        "G\u{e9}T /p HTTP/1.1",
        "GET: /p HTTP/1.1",
        "\"GET\" /p HTTP/1.1",
        "GET/p HTTP/1.1",
    ] {
        cases.push(case(format!("{line}\r\nHost: h\r\n\r\n"), Refused));
    }
    for method in ["get", "FOO", "M-SEARCH", "X!#$%&'*+-.^_`|~9", "PRI"] {
        cases.push(case(format!("{method} /p HTTP/1.1\r\nHost: h\r\n\r\n"), Passed(method, "/p", "h", "")));
    }
    cases.push(case("HEAD /p HTTP/1.1\r\nHost: h\r\n\r\n", Passed("HEAD", "/p", "h", "")));
    cases.push(case("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", Own(501)));
    cases.push(case("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", Own(200)));
    check(&cases);
}

#[test]
fn ambiguous_targets_are_refused_or_pass_as_one_request() {
    let mut cases = Vec::new();
    for target in [
        "a",
        "a/b",
        "*",
        "/#f",
        "/p#",
        "#",
        "/%",
        "/%zz",
        "/%2",
        "/%2\u{e9}",
        "/\0",
        "/\x7f",
        "/\t",
        "/\x0b",
        "http:///x",
        "http://",
        "ftp://h/",
        "h:80",
        "?x",
        "http://h/#f",
        "http://u:p@h/",
        "http://u@h/",
        "//",
        "http://h:x/",
        "http://[::1/",
        "gopher://h/",
        "http:/p",
        "://h/",
        "javascript:alert(1)",
        "h",
    ] {
        if target != "//" {
            cases.push(case(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"), Refused));
        }
    }
    for (target, seen, host) in [
        ("/", "/", "h"),
        ("/?", "/?", "h"),
        ("/a?b", "/a?b", "h"),
        ("/a%20b", "/a%20b", "h"),
        ("/a?b?c", "/a?b?c", "h"),
        ("/a;b", "/a;b", "h"),
        ("/a/../b", "/b", "h"),
        ("/%61", "/a", "h"),
        ("//h/x", "/h/x", "h"),
        ("http://h/abs", "/abs", "h"),
        ("http://h", "/", "h"),
        ("http://h?q", "/?q", "h"),
        ("http://other/", "/", "other"),
        ("HTTP://h/u", "/u", "h"),
        ("https://h/s", "/s", "h"),
        ("http://h:8080/x", "/x", "h:8080"),
        ("/http://x/", "/http:/x/", "h"),
        ("/a:b@c", "/a:b@c", "h"),
    ] {
        cases.push(case(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"), Passed("GET", seen, host, "")));
    }
    check(&cases);
}

#[test]
fn ambiguous_hosts_are_refused_or_pass_as_one_request() {
    let mut cases = Vec::new();
    for host in [
        "h:x",
        "h:99999999",
        "h:-1",
        "h:80:80",
        "h/x",
        "h?x",
        "h#x",
        "h@x",
        "u:p@h",
        "h h",
        "h\th",
        "[::1",
        "::1]",
        "[x]",
        "[]",
        "[::1]x",
        "\u{e9}",
        "<h>",
        "h\\x",
        "h|x",
        "\"h\"",
        "h\0",
        "h\r\nHost: h",
        "h\r\nHost: x",
        "h\r\n ",
        "h\r\nHOST:",
        "{h}",
        "h^x",
        "http://h",
    ] {
        cases.push(case(format!("GET /p HTTP/1.1\r\nHost: {host}\r\n\r\n"), Refused));
    }
    for name in ["Host ", " Host", "Host\t", "Host\0"] {
        cases.push(case(format!("GET /p HTTP/1.1\r\n{name}: h\r\n\r\n"), Refused));
    }
    cases.push(case("GET http://h/p HTTP/1.1\r\n\r\n", Refused));
    cases.push(case("GET http://h/p HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", Refused));
    cases.push(case("GET http://h/p HTTP/1.1\r\nHost: a b\r\n\r\n", Refused));
    for host in ["h", "h:80", "H.Test", "127.0.0.1:80", "[::1]", "[::1]:80", "h.test.", "a-b_c"] {
        cases.push(case(format!("GET /p HTTP/1.1\r\nHost: {host}\r\n\r\n"), Passed("GET", "/p", host, "")));
        cases.push(case(format!("GET /p HTTP/1.1\r\nhost:\t{host} \r\n\r\n"), Passed("GET", "/p", host, "")));
    }
    check(&cases);
}
