//! The middleware `cache` through a gateway: what many clients cost, what clients cannot do to each other, and what
//! survives a reload.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::support::backend::{Seen, unused_address};
use crate::support::client::{Answer, Client};
use crate::support::{Backend, Gateway, eventually, get, get_with, raw};

/// Users of basicAuth: ann and bob, each with the password test.
const HASH: &str = "$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/";

/// A server whose responses have their number as body, and fields that depend on the path.
fn numbered() -> Backend {
    let count = AtomicUsize::new(0);
    Backend::with(move |seen, stream| respond(seen, stream, count.fetch_add(1, Ordering::SeqCst)))
}

fn respond(seen: &Seen, stream: &mut TcpStream, number: usize) -> bool {
    let path = seen.target().split('?').next().unwrap_or_default();
    let fields = match path {
        "/cookie" => "Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n",
        "/private" => "Cache-Control: private, max-age=60\r\n",
        "/vary-all" => "Cache-Control: max-age=60\r\nVary: *\r\n",
        "/vary" => "Cache-Control: max-age=60\r\nVary: X-Variant\r\n",
        "/account/style.css" => "",
        "/stale" => "Cache-Control: max-age=60\r\nAge: 100\r\nETag: \"1\"\r\n",
        "/strict" => "Cache-Control: max-age=60, must-revalidate\r\nAge: 100\r\nETag: \"1\"\r\n",
        "/public" => "Cache-Control: public, max-age=60\r\n",
        _ => "Cache-Control: max-age=60\r\n",
    };
    let body = if seen.method() == "HEAD" { String::new() } else { format!("{number:04}") };
    let status = if seen.header("x-oversized").is_some() { "400 Bad Request" } else { "200 OK" };
    let fields = if seen.header("x-oversized").is_some() { "" } else { fields };
    write!(stream, "HTTP/1.1 {status}\r\n{fields}Content-Length: 4\r\n\r\n{body}").is_ok()
}

fn routes(url: &str, options: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'Host(`h`) || Host(`other`)', service: a, middlewares: [cache]}}
    steered: {{rule: 'Host(`h`) && Header(`X-Canary`, `1`)', priority: 1000, service: a, middlewares: [cache]}}
    users: {{rule: 'Host(`users`)', service: a, middlewares: [auth, cache]}}
  middlewares:
    cache: {{cache: {options}}}
    auth: {{basicAuth: {{users: ['ann:{HASH}', 'bob:{HASH}']}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
    )
}

fn start(backend: &Backend) -> Gateway {
    Gateway::serve(&routes(&backend.url(), "{}"))
}

/// The body of each answer, twice: the second is from the cache if they are equal.
fn is_shared(first: &Answer, second: &Answer) -> bool {
    assert_eq!((first.status, second.status), (200, 200));
    first.text() == second.text()
}

#[test]
fn sixty_four_clients_cost_one_request() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let opened = gate.clone();
    let backend = Backend::with(move |_, stream| {
        let open = opened.0.lock().unwrap();
        drop(opened.1.wait_while(open, |open| !*open).unwrap());
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nhi")
            .is_ok()
    });
    let gateway = start(&backend);
    let web = gateway.web();
    let clients: Vec<_> = (0..64).map(|_| std::thread::spawn(move || get(web, "h", "/x"))).collect();
    eventually("a request is sent", || !backend.seen().is_empty());
    // Those that come later are answered from the store.
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    for client in clients {
        assert_eq!(client.join().unwrap().text(), "hi");
    }
    assert_eq!(backend.seen().len(), 1);
}

#[test]
fn case_34_the_key_has_whatever_distinguishes_responses() {
    let backend = numbered();
    let gateway = start(&backend);
    let ask = |host: &str, target: &str, fields: &str| get_with(gateway.web(), host, target, fields);
    let plain = ask("h", "/x", "");
    assert!(is_shared(&plain, &ask("H", "/x", "user-agent: other\r\n")));
    for (host, target, fields) in [
        ("other", "/x", ""),
        ("h", "/X", ""),
        ("h", "/x?", ""),
        ("h", "/x?a=1", ""),
        ("h", "/x", "x-canary: 1\r\n"),
        ("h", "/x", "x-original-url: /admin\r\n"),
        ("h", "/x", "x-http-method-override: POST\r\n"),
        ("h", "/x", "x-host: evil\r\n"),
    ] {
        let different = ask(host, target, fields);
        assert!(!is_shared(&plain, &different), "{host} {target} {fields}");
        assert!(is_shared(&different, &ask(host, target, fields)), "{host} {target} {fields}");
    }
    assert!(is_shared(&plain, &ask("h", "/x", "")), "nothing has changed what others get");
}

#[test]
fn case_35_what_belongs_to_one_client_is_not_stored() {
    let backend = numbered();
    let gateway = start(&backend);
    let ask = |target: &str, fields: &str| get_with(gateway.web(), "h", target, fields);
    for target in ["/cookie", "/private", "/vary-all", "/account/style.css"] {
        assert!(!is_shared(&ask(target, ""), &ask(target, "")), "{target}");
    }
    let authorization = "authorization: Bearer x\r\n";
    assert!(!is_shared(&ask("/x", authorization), &ask("/x", "")));
    assert!(is_shared(&ask("/public", authorization), &ask("/public", "")), "the server permits it");
}

#[test]
fn stale_responses_are_sent_while_servers_cannot_be_reached() {
    let backend = numbered();
    let gateway = start(&backend);
    let ask = |target: &str| get_with(gateway.web(), "h", target, "");
    let first = ["/stale", "/strict"].map(|target| ask(target).text());
    assert_ne!(ask("/stale").text(), first[0], "while the server responds, nothing stale is sent");
    let stored = ask("/stale").text();
    let refusing = format!("http://{}", unused_address());
    // It has no TLS.
    let plain_text = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = format!("https://{}", plain_text.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in plain_text.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    // The queue of its connections is full.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let full = format!("http://{address}");
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let _queue: Vec<_> = std::iter::from_fn(connect).collect();
    for (url, dial, status) in [
        (refusing.as_str(), "30s", 502),
        ("http://name.invalid", "30s", 502),
        (plain.as_str(), "30s", 500),
        (full.as_str(), "300ms", 504),
    ] {
        let transport = format!(
            "    a: {{loadBalancer: {{serversTransport: t, servers: [{{url: '{url}'}}]}}}}
  serversTransports:
    t: {{insecureSkipVerify: true, forwardingTimeouts: {{dialTimeout: {dial}}}}}
"
        );
        let before = routes(url, "{}");
        let service = before.find("    a: {loadBalancer").unwrap();
        gateway.write("routes.yml", &(before[..service].to_owned() + &transport));
        eventually(&format!("{url} cannot be reached"), || ask("/strict").status == status);
        let answer = ask("/stale");
        assert_eq!((answer.status, answer.text()), (200, stored.clone()), "{url}");
        let cache_status = answer.header("cache-status").unwrap();
        assert!(cache_status.contains(&format!("fwd=stale; fwd-status={status}; ttl=-")), "{cache_status}");
    }
    assert_eq!(gateway.problems(), [""; 0]);
}

#[test]
fn clients_that_log_in_share_nothing() {
    let backend = numbered();
    let gateway = start(&backend);
    let ask = |user: &str| {
        use base64::Engine as _;
        let credentials = base64::engine::general_purpose::STANDARD.encode(format!("{user}:test"));
        get_with(gateway.web(), "users", "/public", &format!("authorization: Basic {credentials}\r\n"))
    };
    let (ann, bob) = (ask("ann"), ask("bob"));
    assert!(!is_shared(&ann, &bob));
    assert!(is_shared(&ann, &ask("ann")) && is_shared(&bob, &ask("bob")));
}

#[test]
fn bodies_errors_head_and_ranges_poison_nothing() {
    let backend = numbered();
    let gateway = start(&backend);
    let send = |text: &str| raw(gateway.web(), text).unwrap();
    let end = "Host: h\r\nConnection: close\r\n";
    // A GET with a body, an error that a field provokes, a response to HEAD, and a part.
    send(&format!("GET /x HTTP/1.1\r\n{end}Content-Length: 3\r\n\r\nfat"));
    assert_eq!(send(&format!("GET /x HTTP/1.1\r\n{end}X-Oversized: 1\r\n\r\n")).status, 400);
    get_with(gateway.web(), "h", "/x", "range: bytes=0-1\r\n");
    let whole = get(gateway.web(), "h", "/x");
    assert_eq!((whole.status, whole.text().len()), (200, 4));
    let part = get_with(gateway.web(), "h", "/x", "range: bytes=1-2\r\n");
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 1-2/4")));
    assert_eq!(part.text(), whole.text()[1..3]);
    assert!(is_shared(&whole, &get(gateway.web(), "h", "/x")));
}

#[test]
fn variants_of_a_url_are_bounded() {
    let backend = numbered();
    let gateway = Gateway::serve(&routes(&backend.url(), "{maxVariants: 4}"));
    let ask = |variant: usize| get_with(gateway.web(), "h", "/vary", &format!("x-variant: {variant}\r\n"));
    let answers: Vec<Answer> = (0..20).map(ask).collect();
    let kept = answers
        .iter()
        .enumerate()
        .rev()
        .take_while(|(variant, answer)| ask(*variant).text() == answer.text());
    assert_eq!(kept.count(), 4);
}

#[test]
fn what_is_stored_survives_a_reload() {
    let backend = numbered();
    let gateway = start(&backend);
    let stored = get(gateway.web(), "h", "/x");
    let generation = gateway.generation();
    gateway.write("routes.yml", &routes(&backend.url(), "{maxWait: 1s, statusHeader: false}"));
    eventually("the new configuration", || gateway.generation() > generation);
    let again = get(gateway.web(), "h", "/x");
    assert!(is_shared(&stored, &again));
    assert_eq!((stored.header("cache-status").is_some(), again.header("cache-status")), (true, None));
}

#[test]
fn traefik_hubs_options_are_those_of_the_cache() {
    let backend = numbered();
    for options in [
        "httpCache: {maxTtl: 30, excludedResponseCodes: '400-499'}",
        "plugin: {httpCache: {maxTtl: '30', store: {memory: {limit: 64Mi}}}}",
    ] {
        let routes =
            routes(&backend.url(), "{}").replace("cache: {cache: {}}", &format!("cache: {{{options}}}"));
        let gateway = Gateway::serve(&routes);
        assert_eq!(gateway.problems(), Vec::<String>::new(), "{options}");
        let ask = |fields: &str| get_with(gateway.web(), "h", "/x", fields);
        let word = |answer: &Answer| answer.header("x-cache-status").unwrap_or_default().to_owned();
        let (first, second) = (ask(""), ask(""));
        assert_eq!((word(&first).as_str(), word(&second).as_str()), ("MISS", "HIT"), "{options}");
        assert_eq!((second.header("cache-status"), is_shared(&first, &second)), (None, true), "{options}");
        assert_eq!(word(&ask("Cache-Control: no-store\r\n")), "BYPASS", "{options}");
    }
}

#[test]
fn a_server_that_swallows_connections_delays_stale_responses_for_seconds() {
    let backend = numbered();
    let gateway = start(&backend);
    assert_eq!(get(gateway.web(), "h", "/stale").text(), "0000");
    // The kernel drops what does not fit into its queue.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let full = socket.local_addr().unwrap().as_socket().unwrap();
    let connects = || TcpStream::connect_timeout(&full, Duration::from_millis(300)).ok();
    let _queued: Vec<_> = std::iter::from_fn(connects).collect();
    let generation = gateway.generation();
    gateway.write("routes.yml", &routes(&format!("http://{full}"), "{}"));
    eventually("it is the server", || gateway.generation() > generation);
    let begun = std::time::Instant::now();
    let answer = get(gateway.web(), "h", "/stale");
    assert_eq!((answer.status, answer.text().as_str()), (200, "0000"));
    assert!(begun.elapsed() < Duration::from_secs(15), "not for dialTimeout: {:?}", begun.elapsed());
}

/// A body is sent to those who wait for it as it arrives, and is cut off for all when the server cuts it off.
#[test]
fn clients_get_what_another_one_receives() {
    for is_cut_off in [false, true] {
        let (piece, pieces) = std::sync::mpsc::channel::<&'static [u8]>();
        let pieces = Mutex::new(pieces);
        let backend = Backend::with(move |_, stream| {
            let head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 6\r\n\r\n";
            stream.write_all(head).unwrap();
            while let Ok(piece) = pieces.lock().unwrap().recv() {
                stream.write_all(piece).unwrap();
            }
            false
        });
        let gateway = start(&backend);
        let mut clients: Vec<_> = (0..4).map(|_| Client::connect(gateway.web())).collect();
        for client in &mut clients {
            client.send("GET /x HTTP/1.1\r\nHost: h\r\n\r\n");
        }
        piece.send(b"one").unwrap();
        for client in &mut clients {
            let head = client.head().unwrap().to_ascii_lowercase();
            assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 6"), "{head}");
            assert_eq!(client.take(3).unwrap(), b"one", "a part has arrived");
        }
        if !is_cut_off {
            piece.send(b"two").unwrap();
        }
        drop(piece);
        for client in &mut clients {
            if is_cut_off {
                assert!(client.is_closed());
            } else {
                assert_eq!(client.take(3).unwrap(), b"two");
            }
        }
        assert_eq!(backend.seen().len(), 1);
    }
}
