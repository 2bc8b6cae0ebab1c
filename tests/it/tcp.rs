//! TCP routers: who takes a connection, TLS, middlewares, services, reloads and the orderly end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::streams::{Identity, Server, connect, is_closed, say, take};
use crate::support::tls::client_config;
use crate::support::{Backend, Gateway, eventually, get, pause_for};

/// Routers by name and body, services by name and address.
fn routes(routers: &[(&str, &str)], services: &[(&str, &Server)]) -> String {
    let routers: String = routers.iter().map(|(name, body)| format!("    {name}: {{{body}}}\n")).collect();
    let service = |(name, server): &(&str, &Server)| {
        format!("    {name}: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}\n", server.address)
    };
    let services: String = services.iter().map(service).collect();
    format!("tcp:\n  routers:\n{routers}  services:\n{services}")
}

/// The certificates of a gateway.
fn tls(identity: &Identity) -> String {
    let indented = |pem: &str| pem.lines().map(|line| format!("        {line}\n")).collect::<String>();
    format!(
        "tls:\n  certificates:\n    - certFile: |\n{}      keyFile: |\n{}",
        indented(&identity.certificate),
        indented(&identity.key)
    )
}

#[test]
fn a_server_may_speak_first() {
    let server = Server::greeter("mail");
    let gateway = Gateway::serve(&routes(
        &[("all", "entryPoints: [web], rule: 'HostSNI(`*`)', service: s")],
        &[("s", &server)],
    ));
    let mut client = connect(gateway.web());
    assert_eq!(take(&mut client, 16), "hello from mail\n");
    assert_eq!(say(&mut client, "echo"), "echo");
}

#[test]
fn a_half_closed_connection_stays_open() {
    let server = Server::with(|mut stream| {
        let mut question = String::new();
        stream.read_to_string(&mut question).unwrap();
        // Well after the client has finished.
        pause_for(Duration::from_millis(300));
        stream.write_all(format!("answer to {question}").as_bytes()).unwrap();
    });
    let gateway = Gateway::serve(&routes(
        &[("all", "entryPoints: [web], rule: 'HostSNI(`*`)', service: s")],
        &[("s", &server)],
    ));
    let mut client = connect(gateway.web());
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer to question");
}

#[test]
fn a_tls_client_may_close_without_close_notify() {
    let identity = Identity::new(&["db.test"]);
    let server = Server::with(|mut stream| {
        let mut question = String::new();
        stream.read_to_string(&mut question).unwrap();
        stream.write_all(format!("answer to {question}").as_bytes()).unwrap();
    });
    let router = ("db", "entryPoints: [web], rule: 'HostSNI(`db.test`)', service: s, tls: {}");
    let gateway = Gateway::serve(&format!("{}{}", routes(&[router], &[("s", &server)]), tls(&identity)));
    let mut client = identity.client(connect(gateway.web()), "db.test", &[]);
    client.write_all(b"question").unwrap();
    client.flush().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer to question");
}

#[test]
fn much_passes_both_ways_at_once() {
    let server = Server::echo("e");
    let gateway = Gateway::serve(&routes(
        &[("all", "entryPoints: [web], rule: 'HostSNI(`*`)', service: s")],
        &[("s", &server)],
    ));
    let mut client = connect(gateway.web());
    let sent: Vec<u8> = (0..8_000_000u32).map(|i| (i / 7) as u8).collect();
    let mut half = client.try_clone().unwrap();
    let copy = sent.clone();
    let sending = std::thread::spawn(move || {
        half.write_all(&copy).unwrap();
        half.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    client.read_to_end(&mut received).unwrap();
    sending.join().unwrap();
    assert!(received.starts_with(b"e:") && received[2..] == sent);
}

#[test]
fn one_entry_point_serves_http_https_and_tcp() {
    let identity = Identity::new(&["web.test", "db.test", "pass.test", "other.test"]);
    let own = Identity::new(&["pass.test"]);
    let (plain, db, other) = (Server::echo("plain"), Server::echo("db"), Server::echo("other"));
    let pass = Server::tls_echo("pass", &own);
    let backend = Backend::echo("http");
    let http = format!(
        "http:\n  routers:\n    w: {{rule: 'Host(`web.test`)', service: a, tls: {{}}}}\n    p: {{rule: 'Host(`plain.test`)', service: a}}\n  services:\n    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}\n",
        backend.url()
    );
    let routers = [
        ("db", "entryPoints: [web], rule: 'HostSNI(`db.test`)', service: db, tls: {}"),
        ("pass", "entryPoints: [web], rule: 'HostSNI(`pass.test`)', service: pass, tls: {passthrough: true}"),
        ("catch", "entryPoints: [web], rule: 'HostSNI(`*`)', service: other, tls: {}"),
        ("web", "entryPoints: [web], rule: 'HostSNI(`web.test`)', service: other, tls: {}, priority: 1000"),
        ("plain", "entryPoints: [web], rule: 'ClientIP(`10.0.0.0/8`)', service: plain"),
    ];
    let services = [("db", &db), ("pass", &pass), ("other", &other), ("plain", &plain)];
    let all = format!("{}{http}{}", routes(&routers, &services), tls(&identity));
    let gateway = Gateway::serve(&all);
    assert_eq!(gateway.problems(), [""; 0]);
    let web = gateway.web();
    let speak = |name: &str, protocols: &[&str], text: &str| {
        let with = if name == "pass.test" { &own } else { &identity };
        say(&mut with.client(connect(web), name, protocols), text)
    };
    assert_eq!(speak("db.test", &[], "x"), "db:x");
    assert_eq!(speak("pass.test", &[], "x"), "pass:x");
    assert_eq!(speak("other.test", &[], "x"), "other:x");
    assert_eq!(speak("other.test", &["mqtt"], "x"), "other:x", "no protocol of HTTP");
    let mut https = identity.client(connect(web), "web.test", &["http/1.1"]);
    https.write_all(b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    let _ = https.read_to_string(&mut answer);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.to_lowercase().contains("x-backend: http"),
        "{answer}"
    );
    assert_eq!(get(web, "plain.test", "/").status, 200, "plain HTTP beside TCP routers that take nothing");
    // A catch-all without TLS goes before HTTP.
    let routers =
        [&routers[..4], &[("plain", "entryPoints: [web], rule: 'HostSNI(`*`)', service: plain")]].concat();
    let generation = gateway.generation();
    gateway.write("routes.yml", &format!("{}{http}{}", routes(&routers, &services), tls(&identity)));
    eventually("the new routes are served", || gateway.generation() > generation);
    assert_eq!(say(&mut connect(web), "GET /"), "plain:GET /");
    assert_eq!(speak("db.test", &[], "x"), "db:x");
}

#[test]
fn postgres_clients_get_their_tls() {
    let identity = Identity::new(&["db.test", "pass.test"]);
    let own = Identity::new(&["pass.test"]);
    let db = Server::echo("db");
    const REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let inner = Server::tls_echo("pass", &own);
    let address = inner.address;
    let pass = Server::with(move |mut stream| {
        let mut request = [0; 8];
        stream.read_exact(&mut request).unwrap();
        assert_eq!(request, REQUEST);
        stream.write_all(b"S").unwrap();
        let mut onward = connect(address);
        let (mut a, mut b) = (stream.try_clone().unwrap(), onward.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut a, &mut b));
        let _ = std::io::copy(&mut onward, &mut stream);
    });
    let without = Server::with(|mut stream| {
        stream.read_exact(&mut [0; 8]).unwrap();
        stream.write_all(b"N").unwrap();
    });
    let routers = [
        ("db", "entryPoints: [web], rule: 'HostSNI(`db.test`)', service: db, tls: {}"),
        ("pass", "entryPoints: [web], rule: 'HostSNI(`pass.test`)', service: pass, tls: {passthrough: true}"),
        (
            "without",
            "entryPoints: [web], rule: 'HostSNI(`w.test`)', service: without, tls: {passthrough: true}",
        ),
    ];
    let services = [("db", &db), ("pass", &pass), ("without", &without)];
    let gateway = Gateway::serve(&format!("{}{}", routes(&routers, &services), tls(&identity)));
    let asked = || {
        let mut stream = connect(gateway.web());
        // In two pieces, as a slow network may deliver it.
        stream.write_all(&REQUEST[..5]).unwrap();
        stream.write_all(&REQUEST[5..]).unwrap();
        assert_eq!(take(&mut stream, 1), "S");
        stream
    };
    assert_eq!(say(&mut identity.client(asked(), "db.test", &["postgresql"]), "x"), "db:x");
    assert_eq!(say(&mut own.client(asked(), "pass.test", &[]), "x"), "pass:x");
    assert_eq!(say(&mut own.client(asked(), "w.test", &[]), "x"), "", "its server has no TLS");
    assert_eq!(say(&mut own.client(asked(), "nobody.test", &[]), "x"), "");
    let mut smuggler = connect(gateway.web());
    smuggler.write_all(&[&REQUEST[..], b"in plain text"].concat()).unwrap();
    assert!(is_closed(&mut smuggler));
}

#[test]
fn clients_without_a_name_get_the_certificate_of_the_router() {
    let (identity, other) = (Identity::new(&["mqtt.test"]), Identity::new(&["other.test"]));
    let server = Server::echo("a");
    let shown = |domains: &str, more: &str, options: &str| {
        let body = format!(
            "entryPoints: [web], rule: 'HostSNI(`*`)', service: a, tls: {{{options}domains: {domains}}}"
        );
        let mut text = format!("{}{}", routes(&[("any", &body)], &[("a", &server)]), tls(&other));
        text.push_str(tls(&identity).split_once("certificates:\n").unwrap().1);
        let gateway = Gateway::serve(&(text + more));
        assert_eq!(gateway.problems(), [""; 0]);
        // An address is not sent as a server name.
        let config = Arc::new(client_config(&[], None));
        let session = rustls::ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(session, connect(gateway.web()));
        if stream.write_all(b"x").is_ok() {
            assert_eq!(take(&mut stream, 3), "a:x");
        }
        let shown = stream.conn.peer_certificates().map(|chain| chain[0].clone());
        shown.is_some_and(|shown| shown == identity.certificate())
    };
    assert!(shown("[{main: mqtt.test}]", "", ""));
    assert!(shown("[{main: none.test, sans: [MQTT.test]}]", "", ""));
    assert!(!shown("[{main: other.test}]", "", ""), "of another");
    assert!(!shown("[]", "", ""));
    let strict = "  options: {strict: {sniStrict: true}}\n";
    assert!(!shown("[{main: mqtt.test}]", strict, "options: strict, "));
}

#[test]
fn broken_routers_close_their_connections() {
    let server = Server::greeter("s");
    let body = |more: &str| format!("entryPoints: [web], rule: 'HostSNI(`*`)', {more}");
    let weaker = "entryPoints: [web], rule: 'HostSNI(`*`)', service: s, priority: -5";
    let middlewares = "  middlewares:\n    bad: {ipAllowList: {sourceRange: [nowhere]}}\n";
    for (more, error) in [
        ("service: gone", "the service \"gone@file\" does not exist"),
        ("service: s, middlewares: [none]", "middleware \"none@file\" does not exist"),
        ("service: s, middlewares: [bad]", "sourceRange: invalid address or network `nowhere`"),
    ] {
        let routers = [("broken", &*body(more)), ("weaker", weaker)];
        let gateway = Gateway::serve(&format!("{}{middlewares}", routes(&routers, &[("s", &server)])));
        assert!(is_closed(&mut connect(gateway.web())), "{more}");
        let shown = gateway.api("/api/tcp/routers/broken@file");
        assert!(
            shown.contains(&error.replace('"', "\\\"")) && shown.contains("\"status\":\"disabled\""),
            "{shown}"
        );
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn middlewares_close_refused_connections() {
    let server = Server::greeter("s");
    let middlewares = "  middlewares:\n    far: {ipAllowList: {sourceRange: [10.0.0.0/8]}}\n    near: {ipWhiteList: {sourceRange: [127.0.0.1]}}\n    two: {inFlightConn: {amount: 2}}\n";
    let serve = |names: &str| {
        let body = format!("entryPoints: [web], rule: 'HostSNI(`*`)', service: s, middlewares: [{names}]");
        Gateway::serve(&format!("{}{middlewares}", routes(&[("r", &body)], &[("s", &server)])))
    };
    assert!(is_closed(&mut connect(serve("far").web())));
    assert_eq!(server.connections(), 0);
    let gateway = serve("near, two");
    let mut open: Vec<_> = (0..2).map(|_| connect(gateway.web())).collect();
    for client in &mut open {
        assert_eq!(take(client, 13), "hello from s\n");
    }
    assert!(is_closed(&mut connect(gateway.web())));
    // The count outlives a change elsewhere.
    let generation = gateway.generation();
    gateway.write("more.yml", "http: {routers: {x: {rule: 'Path(`/`)', service: noop@internal}}}");
    eventually("the change is served", || gateway.generation() > generation);
    assert!(is_closed(&mut connect(gateway.web())));
    assert_eq!(say(&mut open[0], "still here"), "still here");
    open.pop();
    eventually("a place is free again", || !is_closed(&mut connect(gateway.web())));
}

#[test]
fn servers_take_turns_and_the_dead_are_passed_over() {
    let (a, b) = (Server::greeter("a"), Server::greeter("b"));
    let dead = crate::support::backend::unused_address();
    let gateway = Gateway::serve(&format!(
        "tcp:\n  routers:\n    r: {{entryPoints: [web], rule: 'HostSNI(`*`)', service: w}}\n  services:\n    w: {{weighted: {{services: [{{name: a, weight: 3}}, {{name: b, weight: 1}}]}}}}\n    a: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}\n    b: {{loadBalancer: {{servers: [{{address: '{dead}'}}, {{address: '{}'}}]}}}}\n",
        a.address, b.address
    ));
    let mut count = [0, 0];
    for _ in 0..16 {
        let greeting = take(&mut connect(gateway.web()), 13);
        count[usize::from(greeting == "hello from b\n")] += 1;
    }
    assert!(count[0] >= 11 && count[1] >= 2, "{count:?}");
}

#[test]
fn health_checks_take_servers_out_and_back_in() {
    let up = Server::echo("up");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let says = std::sync::Arc::new(Mutex::new("WRONG"));
    let told = says.clone();
    let _flaky = Server::on(listener, move |mut stream| {
        let mut ping = [0; 4];
        if stream.read_exact(&mut ping).is_ok() && &ping == b"PING" {
            let _ = stream.write_all(told.lock().unwrap().as_bytes());
        }
    });
    let gateway = Gateway::serve(&format!(
        "tcp:\n  routers:\n    r: {{entryPoints: [web], rule: 'HostSNI(`*`)', service: s}}\n  services:\n    s: {{loadBalancer: {{healthCheck: {{send: PING, expect: PONG!, interval: 50ms, timeout: 2s}}, servers: [{{address: '{address}'}}]}}}}\n    u: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}\n",
        up.address
    ));
    let status = || gateway.api("/api/tcp/services/s@file");
    eventually("it is down", || status().contains(&format!("\"serverStatus\":{{\"{address}\":\"DOWN\"}}")));
    assert!(is_closed(&mut connect(gateway.web())));
    *says.lock().unwrap() = "PONG!";
    eventually("it is up", || status().contains(&format!("\"{address}\":\"UP\"")));
    let mut client = connect(gateway.web());
    client.write_all(b"PING").unwrap();
    assert_eq!(take(&mut client, 5), "PONG!");
}

#[test]
fn servers_learn_the_clients_address() {
    let server = Server::with(|mut stream| {
        let mut bytes = [0; 1024];
        let length = stream.read(&mut bytes).unwrap();
        stream.write_all(&bytes[..length]).unwrap();
    });
    for version in [1, 2] {
        let gateway = Gateway::with(
            &["--entryPoints.web.proxyProtocol.trustedIPs=127.0.0.0/8"],
            &format!(
                "tcp:\n  routers:\n    r: {{entryPoints: [web], rule: 'ClientIP(`192.0.2.1`)', service: s}}\n  services:\n    s: {{loadBalancer: {{serversTransport: t, servers: [{{address: '{}'}}]}}}}\n  serversTransports:\n    t: {{proxyProtocol: {{version: {version}}}}}\n",
                server.address
            ),
        );
        let mut client = connect(gateway.web());
        client.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n").unwrap();
        let mut header = vec![0; if version == 1 { 44 } else { 28 }];
        client.read_exact(&mut header).unwrap();
        let expected = match version {
            1 => b"PROXY TCP4 192.0.2.1 198.51.100.2 5000 443\r\n".to_vec(),
            _ => [
                &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..],
                &[192, 0, 2, 1, 198, 51, 100, 2, 0x13, 0x88, 1, 0xbb],
            ]
            .concat(),
        };
        assert_eq!(header, expected);
    }
}

#[test]
fn proxy_headers_of_untrusted_peers_reach_no_server() {
    let server = Server::echo("s");
    let gateway = Gateway::with(
        &["--entryPoints.web.proxyProtocol.trustedIPs=10.0.0.0/8"],
        &routes(
            &[
                ("plain", "entryPoints: [web], rule: 'HostSNI(`*`)', service: s"),
                (
                    "tls",
                    "entryPoints: [web], rule: 'HostSNI(`a.test`)', service: s, tls: {passthrough: true}",
                ),
            ],
            &[("s", &server)],
        ),
    );
    let header = b"PROXY TCP4 10.0.0.1 10.0.0.2 5000 443\r\n";
    let refuses = || {
        let mut client = connect(gateway.web());
        client.write_all(header).unwrap();
        assert!(is_closed(&mut client));
    };
    refuses();
    assert_eq!(say(&mut connect(gateway.web()), "PRODUCT"), "s:PRODUCT");
    assert_eq!(server.connections(), 1);
    // Where nothing has to be read to find the router, it is read all the same.
    let generation = gateway.generation();
    gateway.write(
        "routes.yml",
        &routes(&[("plain", "entryPoints: [web], rule: 'HostSNI(`*`)', service: s")], &[("s", &server)]),
    );
    eventually("the other routes are there", || gateway.generation() > generation);
    refuses();
    assert_eq!(say(&mut connect(gateway.web()), "PRODUCT"), "s:PRODUCT");
    assert_eq!(server.connections(), 2);
}

#[test]
fn servers_may_want_tls() {
    let identity = Identity::new(&["inner.test"]);
    let server = Server::tls_echo("inner", &identity);
    let root = identity.certificate.lines().map(|line| format!("            {line}\n")).collect::<String>();
    let gateway = Gateway::serve(&format!(
        "tcp:\n  routers:\n    r: {{entryPoints: [web], rule: 'HostSNI(`*`)', service: s}}\n  services:\n    s: {{loadBalancer: {{serversTransport: t, servers: [{{address: '{}', tls: true}}]}}}}\n  serversTransports:\n    t:\n      tls:\n        serverName: inner.test\n        rootCAs:\n          - |\n{root}",
        server.address
    ));
    assert_eq!(gateway.problems(), [""; 0]);
    assert_eq!(say(&mut connect(gateway.web()), "x"), "inner:x");
}

#[test]
fn open_connections_outlive_their_routes_and_a_drain_waits_for_them() {
    let server = Server::greeter("s");
    let gateway = Gateway::serve(&routes(
        &[("all", "entryPoints: [web], rule: 'HostSNI(`*`)', service: s")],
        &[("s", &server)],
    ));
    let web = gateway.web();
    let mut client = connect(web);
    assert_eq!(take(&mut client, 13), "hello from s\n");
    let generation = gateway.generation();
    gateway.write("routes.yml", "http: {}");
    eventually("the routes are gone", || gateway.generation() > generation);
    assert_eq!(say(&mut client, "without a route"), "without a route");
    let stopping = std::thread::spawn(move || gateway.shutdown());
    eventually("nobody listens", || std::net::TcpStream::connect(web).is_err());
    assert_eq!(say(&mut client, "while it stops"), "while it stops");
    assert!(!stopping.is_finished());
    client.shutdown(Shutdown::Write).unwrap();
    assert!(is_closed(&mut client));
    stopping.join().unwrap();
}

#[test]
fn clients_that_send_too_little_are_disconnected() {
    let server = Server::echo("s");
    let gateway = Gateway::with(
        &["--entryPoints.web.transport.respondingTimeouts.readTimeout=1s"],
        &routes(
            &[("r", "entryPoints: [web], rule: 'HostSNI(`a.test`)', service: s, tls: {passthrough: true}")],
            &[("s", &server)],
        ),
    );
    let mut silent: Vec<_> = (0..200).map(|_| connect(gateway.web())).collect();
    let mut slow = connect(gateway.web());
    // The beginning of a record that never ends.
    for byte in [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc] {
        slow.write_all(&[byte]).unwrap();
    }
    let sender = slow.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut sender = sender;
        while sender.write_all(&[0]).is_ok() {
            pause_for(Duration::from_millis(50));
        }
    });
    assert!(is_closed(&mut slow));
    assert!(silent.iter_mut().all(is_closed));
    assert_eq!(server.connections(), 0);
}
