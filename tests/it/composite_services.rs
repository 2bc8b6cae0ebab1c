//! Services made of services: nested, sticky, with health, and by the status of an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::backend::{switchable, who};
use crate::support::{Backend, Gateway, eventually, get, get_with, raw};

fn checked(name: &str, backend: &Backend) -> String {
    format!(
        "    {name}: {{loadBalancer: {{servers: [{{url: '{}'}}], healthCheck: {{path: /health, interval: 20ms}}}}}}\n",
        backend.url()
    )
}

const ROUTER: &str = "http:\n  routers:\n    all: {rule: 'PathPrefix(`/`)', service: all}\n  services:\n";

#[test]
fn health_goes_up_through_every_kind() {
    let [one, two, three] = [true; 3].map(|up| Arc::new(AtomicBool::new(up)));
    let (a, b, c) = (switchable("a", &one), switchable("b", &two), switchable("c", &three));
    let copies = Backend::echo("copies");
    let routes = format!(
        "{ROUTER}    all: {{failover: {{service: shared, fallback: copied, healthCheck: {{}}}}}}
    shared: {{weighted: {{sticky: {{cookie: {{name: st}}}}, services: [{{name: a, weight: 3}}, {{name: inner}}]}}}}
    inner: {{highestRandomWeight: {{services: [{{name: b}}]}}}}
    copied: {{mirroring: {{service: c, mirrors: [{{name: copies, percent: 100}}]}}}}
    copies: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
{}{}{}",
        copies.url(),
        checked("a", &a),
        checked("b", &b),
        checked("c", &c)
    );
    let gateway = Gateway::serve(&routes);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let down = || gateway.api("/api/http/services").matches("\"DOWN\"").count();
    eventually("both children of the first serve", || {
        let seen: Vec<String> = (0..4).map(|_| who(gateway.web())).collect();
        seen.iter().filter(|name| *name == "a").count() == 3 && seen.contains(&"b".to_owned())
    });
    // A client stays with its child until that is down, and then gets another cookie.
    let cookie = loop {
        let answer = get(gateway.web(), "h", "/");
        if answer.header("x-backend") == Some("b") {
            break answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        }
    };
    let mine = || get_with(gateway.web(), "h", "/", &format!("Cookie: {cookie}\r\n"));
    assert!((0..8).all(|_| mine().header("x-backend") == Some("b")));
    two.store(false, Ordering::SeqCst);
    eventually("its server is down", || down() == 1);
    let moved = mine();
    assert_eq!(moved.header("x-backend"), Some("a"));
    assert!(moved.header("set-cookie").is_some_and(|new| !new.contains(&cookie)));
    one.store(false, Ordering::SeqCst);
    eventually("all of the first are down", || down() == 2);
    assert_eq!(who(gateway.web()), "c", "the fallback");
    eventually("and its mirror", || !copies.seen().is_empty());
    three.store(false, Ordering::SeqCst);
    eventually("everything is down", || down() == 3);
    let nobody = get(gateway.web(), "h", "/");
    assert_eq!((nobody.status, nobody.text().as_str()), (503, "Service Unavailable"));
    two.store(true, Ordering::SeqCst);
    eventually("one of them is back", || who(gateway.web()) == "b");
}

#[test]
fn a_fallback_answers_for_statuses_and_sees_the_whole_request() {
    let no = Arc::new(AtomicBool::new(false));
    let (main, spare) = (switchable("main", &no), Backend::echo("spare"));
    let routes = format!(
        "{ROUTER}    all: {{failover: {{service: main, fallback: spare, errors: {{status: ['500-503', '404'], maxRequestBodyBytes: 10}}}}}}
    main: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    spare: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        main.url(),
        spare.url()
    );
    let gateway = Gateway::serve(&routes);
    let post = |body: &str| {
        let length = body.len();
        raw(
            gateway.web(),
            format!(
                "POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            ),
        )
        .unwrap()
    };
    assert_eq!(post("0123456789").header("x-backend"), Some("spare"));
    assert_eq!((main.last().body, spare.last().body), (b"0123456789".to_vec(), b"0123456789".to_vec()));
    assert_eq!(post("0123456789a").status, 413);
    assert_eq!((main.seen().len(), spare.seen().len()), (1, 1));
    let chunked = "POST /p HTTP/1.1\r\nHost: h\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n";
    assert_eq!(raw(gateway.web(), chunked).unwrap().header("x-backend"), Some("spare"));
    for backend in [&main, &spare] {
        let seen = backend.last();
        assert_eq!((seen.body.as_slice(), seen.trailers.len()), (&b"abc"[..], 1), "{:?}", seen.trailers);
    }
    no.store(true, Ordering::SeqCst);
    assert_eq!(post("x").header("x-backend"), Some("main"));
}

#[test]
fn mirrors_get_no_body_where_they_are_to_get_none_or_it_is_too_large() {
    let (main, with, without) = (Backend::echo("main"), Backend::echo("with"), Backend::echo("without"));
    let routes = format!(
        "{ROUTER}    all: {{mirroring: {{service: inner, maxBodySize: 5, mirrors: [{{name: with, percent: 100}}]}}}}
    inner: {{mirroring: {{service: main, mirrorBody: false, mirrors: [{{name: without, percent: 100}}]}}}}
    main: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    with: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    without: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        main.url(),
        with.url(),
        without.url()
    );
    let gateway = Gateway::serve(&routes);
    for body in ["12345", "123456"] {
        let length = body.len();
        let post = format!(
            "POST /{length} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        assert_eq!(raw(gateway.web(), post).unwrap().header("x-backend"), Some("main"));
        assert_eq!(main.last().body, body.as_bytes());
    }
    eventually("both requests are copied without their bodies", || without.seen().len() == 2);
    assert!(without.seen().iter().all(|seen| seen.body.is_empty()));
    eventually("one is copied with its body", || with.seen().len() == 1);
    assert_eq!((with.last().target(), with.last().body), ("/5", b"12345".to_vec()));
}
