//! Targets and heads at the edge of what a request may have: the same answer over HTTP/1.1, HTTP/2 and HTTP/3, and the same
//! target at the server. What passes, and how, was measured with Traefik 3.7.15.

use std::net::SocketAddr;

use crate::http3::secure;
use crate::support::frames::{self, Frames, Outcome};
use crate::support::http3::{Fate, fate, head, runtime};
use crate::support::{Backend, Client, Gateway};

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Came {
    /// It was answered by the server, which saw this target.
    To(String),
    /// The gateway answered with this status.
    Refused(u16),
    /// Its stream was reset as malformed.
    Malformed,
}

use Came::{Malformed, Refused, To};

/// Header fields beside those that each request has.
type Fields = Vec<(String, String)>;

fn over_http1(address: SocketAddr, target: &str, fields: &Fields) -> Option<u16> {
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let mut client = Client::connect(address);
    client.send(format!("GET {target} HTTP/1.1\r\nHost: h.test\r\n{lines}\r\n"));
    Some(client.read().unwrap().status)
}

/// The pseudo-headers and the other fields.
fn line<'a>(scheme: &'a str, target: &'a str, fields: &'a Fields) -> Vec<(&'a str, &'a str)> {
    let line = [(":method", "GET"), (":scheme", scheme), (":authority", "h.test"), (":path", target)];
    let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    line.into_iter().chain(fields).collect()
}

fn over_http2(address: SocketAddr, target: &str, fields: &Fields) -> Option<u16> {
    let mut client = Frames::connect(address);
    let block = frames::block(&line("http", target, fields));
    let mut pieces = block.chunks(16_384).peekable();
    let (mut kind, mut flags) = (frames::HEADERS, frames::END_STREAM);
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= frames::END_HEADERS;
        }
        client.send(kind, flags, 1, piece);
        (kind, flags) = (frames::CONTINUATION, 0);
    }
    match client.outcome(1) {
        Outcome::Status(status) => Some(status),
        Outcome::Reset(1) => None,
        other => panic!("{other:?}"),
    }
}

fn over_http3(address: SocketAddr, target: &str, fields: &Fields) -> Option<u16> {
    let answer = match runtime().block_on(fate(address, &head(&line("https", target, fields)))) {
        Fate::Answered(answer) => answer,
        Fate::Reset(0x10e) => return None,
        other => panic!("{other:?}"),
    };
    // A status from the table, or in digits (RFC 9204 appendix A).
    let begin = &answer[..answer.len().min(16)];
    let digits = |status: u16| begin.windows(3).any(|part| part == status.to_string().as_bytes());
    match answer.get(3..).and_then(|rest| rest.iter().find(|byte| **byte >= 0xc0)) {
        _ if digits(414) => Some(414),
        _ if digits(431) => Some(431),
        Some(0xd9) => Some(200),
        Some(0xff) => Some(400),
        _ => panic!("{}", answer.escape_ascii()),
    }
}

/// Sends a request and returns the status of its answer; `None` when its stream was reset as malformed.
type Ask = fn(SocketAddr, &str, &Fields) -> Option<u16>;

const VERSIONS: [(&str, Ask); 3] = [("HTTP/1.1", over_http1), ("HTTP/2", over_http2), ("HTTP/3", over_http3)];

struct Site {
    gateway: Gateway,
    backend: Backend,
}

impl Site {
    fn new() -> Self {
        let backend = Backend::echo("a");
        let routes = secure(&backend.url())
            .replace("  services:", "    plain: {rule: 'PathPrefix(`/`)', service: a}\n  services:");
        Self { gateway: Gateway::with(&["--entryPoints.web.http3=true"], &routes), backend }
    }

    /// What becomes of a request over each version.
    fn ask(&self, target: &str, fields: &Fields) -> [Came; 3] {
        VERSIONS.map(|(_, ask)| {
            let before = self.backend.seen().len();
            let status = ask(self.gateway.web(), target, fields);
            let seen = self.backend.seen().len() - before;
            match status {
                Some(200) => {
                    assert_eq!(seen, 1);
                    To(self.backend.last().target().to_owned())
                }
                other => {
                    assert_eq!(seen, 0, "{target:?} was refused and passed on");
                    other.map_or(Malformed, Refused)
                }
            }
        })
    }
}

#[test]
fn unescaped_characters_pass_as_in_traefik() {
    let site = Site::new();
    for (character, in_path) in [
        ('|', "%7C"),
        ('{', "%7B"),
        ('}', "%7D"),
        ('^', "%5E"),
        ('\\', "%5C"),
        ('\u{e9}', "%C3%A9"),
        ('[', "["),
        (']', "]"),
    ] {
        let came = site.ask(&format!("/a{character}b"), &Vec::new());
        assert_eq!(came, [(); 3].map(|()| To(format!("/a{in_path}b"))), "in a path");
        let target = format!("/a?f={character}b&g={character}");
        assert_eq!(site.ask(&target, &Vec::new()), [(); 3].map(|()| To(target.clone())), "in a query");
    }
    assert_eq!(site.ask("/a\"b", &Vec::new()), [(); 3].map(|()| To("/a%22b".to_owned())));
    let escape = "/a?f=%b&g=%";
    assert_eq!(site.ask(escape, &Vec::new()), [(); 3].map(|()| To(escape.to_owned())));
}

/// The HTTP library cannot hold them. Over HTTP/2 it refuses them before the gateway sees the request.
#[test]
fn characters_that_the_library_cannot_hold_reach_servers_escaped() {
    let site = Site::new();
    for (target, at_server) in [
        ("/a<b", "/a%3Cb"),
        ("/a>b", "/a%3Eb"),
        ("/a`b", "/a%60b"),
        ("/a?f=\"b", "/a?f=%22b"),
        ("/a?f=<b", "/a?f=%3Cb"),
        ("/a?f=>b", "/a?f=%3Eb"),
        ("/a\"<?f={\"t\":`21`}", "/a%22%3C?f={%22t%22:`21`}"),
    ] {
        let to = To(at_server.to_owned());
        assert_eq!(site.ask(target, &Vec::new()), [to.clone(), Malformed, to], "{target:?}");
    }
}

/// However the pieces of a connection come, and whatever stands beside the characters.
#[test]
fn escaped_targets_of_http1_come_in_pieces_and_in_pipelines() {
    let site = Site::new();
    let one = "GET /a<b?f={\"t\":\">\"} HTTP/1.1\r\nHost: h.test\r\nReferer: http://h/\"<`>\r\n\r\n";
    let post = format!("POST /`?\" HTTP/1.1\r\nHost: h.test\r\nContent-Length: 9\r\n\r\n<\"`?/>\"<`{one}");
    for size in [1, 2, 7, 4096] {
        let before = site.backend.seen().len();
        let mut client = Client::connect(site.gateway.web());
        for piece in [one, &post, one].concat().as_bytes().chunks(size) {
            client.send(piece);
        }
        for _ in 0..4 {
            assert_eq!(client.read().unwrap().status, 200, "pieces of {size}");
        }
        let seen = site.backend.seen();
        let targets: Vec<_> = seen[before..].iter().map(|request| request.target().to_owned()).collect();
        let target = "/a%3Cb?f={%22t%22:%22%3E%22}";
        assert_eq!(targets, [target, "/%60?%22", target, target], "pieces of {size}");
        assert_eq!(seen[before].header("referer"), Some("http://h/\"<`>"));
        assert_eq!(seen[before + 1].body, b"<\"`?/>\"<`");
    }
    // More than there is room for at once.
    let many = "<".repeat(20_000);
    let target = format!("/?{many}");
    let mut client = Client::connect(site.gateway.web());
    client.send(format!("GET {target} HTTP/1.1\r\nHost: h.test\r\n\r\n{one}"));
    assert_eq!(client.read().unwrap().status, 200);
    assert_eq!(client.read().unwrap().status, 200);
    let seen = site.backend.seen();
    assert_eq!(seen[seen.len() - 2].target(), format!("/?{}", "%3C".repeat(20_000)));
    for (bytes, status) in [
        (format!("GET /?{} HTTP/1.1\r\nHost: h.test\r\n\r\n", "<".repeat(30_000)), 414),
        ("GE`T<\" / HTTP/1.1\r\nHost: h.test\r\n\r\n".to_owned(), 400),
        ("GET /<a b HTTP/1.1\r\nHost: h.test\r\n\r\n".to_owned(), 400),
        (format!("{one}GET /<a HTTP/1.1\r\nHost : h.test\r\n\r\n"), 400),
    ] {
        let mut client = Client::connect(site.gateway.web());
        client.send(&bytes);
        let last = std::iter::from_fn(|| client.read().ok()).map(|answer| answer.status).last();
        assert_eq!(last, Some(status), "{}", &bytes[..20]);
    }
}

#[test]
fn ambiguous_characters_are_refused_in_every_version() {
    let site = Site::new();
    for target in ["/a b", "/a?f= b", "/a\tb", "/a?f=\tb", "/\0", "/?\x01", "/\x1f"] {
        assert_eq!(site.ask(target, &Vec::new()), [Refused(400), Malformed, Malformed], "{target:?}");
    }
    assert_eq!(site.ask("/a%b", &Vec::new()), [(); 3].map(|()| Refused(400)));
}

#[test]
fn a_request_may_have_many_header_lines() {
    let site = Site::new();
    // One more is `Host`.
    for (count, passes) in [(99, true), (120, true), (1023, true), (1024, false), (1100, false)] {
        let fields: Fields = (0..count).map(|number| (format!("x-{number}"), "v".to_owned())).collect();
        let expected = if passes { To("/".into()) } else { Refused(431) };
        assert_eq!(site.ask("/", &fields), [(); 3].map(|()| expected.clone()), "{count}");
        if passes {
            let last = format!("x-{}", count - 1);
            assert_eq!(site.backend.last().header(&last), Some("v"), "{count}");
        }
    }
}

#[test]
fn heads_and_targets_that_are_too_large_get_431_and_414() {
    let site = Site::new();
    let target = |length: usize| format!("/{}", "a".repeat(length - 1));
    let longest = target(65_534);
    assert_eq!(site.ask(&longest, &Vec::new()), [(); 3].map(|()| To(longest.clone())));
    // The library of HTTP/2 resets its stream.
    for length in [65_535, 200_000, 1_000_000] {
        let came = site.ask(&target(length), &Vec::new());
        assert_eq!(came, [Refused(414), Malformed, Refused(414)], "{length}");
    }
    let large = |length| vec![("x".to_owned(), "v".repeat(length))];
    assert_eq!(site.ask("/", &large(1_000_000)), [(); 3].map(|()| To("/".into())));
    for (name, ask) in &VERSIONS[1..] {
        for fields in [large(1_100_000), vec![("x".to_owned(), "v".repeat(16_000)); 80]] {
            assert_eq!(ask(site.gateway.web(), "/", &fields), Some(431), "{name}");
        }
    }
    // No more than what is read before the answer, so that no reset overtakes it.
    for (head, status) in [
        (format!("GET /{}", "a".repeat((1 << 20) - 4)), 414),
        (format!("GET / HTTP/1.1\r\nHost: h.test\r\nX:{}", "v".repeat((1 << 20) + 4096)), 431),
    ] {
        let mut client = Client::connect(site.gateway.web());
        client.send(&head);
        assert_eq!(client.read().unwrap().status, status, "{}", &head[..20]);
    }
}
