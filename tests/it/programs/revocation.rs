//! Client certificates, revocation lists and OCSP responses of openssl, and false responders.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::revocation::{ask, put, routes};
use crate::support::backend::unused_address;
use crate::support::openssl::Authority;
use crate::support::pki::{Open, client};
use crate::support::streams::{Server, say};
use crate::support::{Backend, Gateway, eventually, free_port};

#[test]
#[ignore = "needs openssl"]
fn lists_of_openssl_are_used() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let below = root.below("Below");
    let (good, bad, indirect) = (root.issue("good"), root.issue("bad"), below.issue("indirect"));
    root.revoke(&bad.path);
    let (pem, der) = (root.file("crl.pem"), root.file("crl.der"));
    put(&pem, [root.list(&[]), below.list(&[])].concat());
    put(&der, root.list_in_der());
    let outcomes = |options: String| {
        let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), &options));
        assert_eq!(gateway.problems(), [""; 0]);
        [&good, &bad, &indirect].map(|one| ask(gateway.web(), &client(&one.own)).is_ok())
    };
    let of = |file: &std::path::Path| format!("revocation: {{crlFiles: ['{}']}}", file.display());
    assert_eq!(outcomes(of(&pem)), [true, false, true]);
    assert_eq!(outcomes(of(&der)), [true, false, false], "no list covers the last one");
    root.revoke(&below.file("ca.pem"));
    put(&pem, [root.list(&[]), below.list(&[])].concat());
    assert_eq!(outcomes(of(&pem)), [true, false, false], "its issuer is revoked");
    let leaf_only = of(&pem).replace("revocation: {", "revocation: {leafOnly: true, ");
    assert_eq!(outcomes(leaf_only), [true, false, true]);
    let expired = root.list(&["-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", "20200102000000Z"]);
    put(&der, expired);
    let allowed = of(&der).replace("revocation: {", "revocation: {expiredLists: allow, ");
    let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), &allowed));
    assert!(ask(gateway.web(), &client(&good.own)).is_ok() && ask(gateway.web(), &client(&bad.own)).is_err());
}

/// Serves `h.test` with these options of `ocsp`.
fn serve(backend: &Backend, root: &Authority, ocsp: &str) -> Gateway {
    let options = format!("revocation: {{ocsp: {{{ocsp}}}}}");
    let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), &options));
    assert_eq!(gateway.problems(), [""; 0]);
    gateway
}

#[test]
#[ignore = "needs openssl"]
fn openssl_answers_for_clients() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let signer = root.issue_as("responder", "responder", "", &[]);
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/");
    let named = format!("authorityInfoAccess = OCSP;URI:{url}");
    let own = root.issue_as("own", "client", &named, &[]);
    let revoked = root.issue_as("revoked", "client", &named, &[]);
    root.revoke(&revoked.path);
    let responder = root.responder(&signer, port);
    // The responder of the certificate, if its host is allowed, or the configured one.
    for ocsp in ["allowedHosts: [127.0.0.1]".to_owned(), format!("url: '{url}'")] {
        let gateway = serve(&backend, &root, &format!("mode: strict, timeout: 30s, maxAge: 1s, {ocsp}"));
        assert_eq!(ask(gateway.web(), &client(&own.own)), Ok(200), "{ocsp}");
        assert_eq!(ask(gateway.web(), &client(&revoked.own)), Ok(403), "{ocsp}");
        let requests = gateway.api("/api/requests?filter=reason%20%3D%3D%20%60certificate_revoked%60");
        assert!(requests.contains("certificate_revoked"), "{requests}");
    }
    // Its revocation counts on an open connection, when the response has become old.
    let gateway = serve(&backend, &root, "mode: soft, timeout: 30s, maxAge: 1s, allowedHosts: [127.0.0.1]");
    let mut open = Open::connect(gateway.web(), &client(&own.own), "h.test").unwrap();
    assert_eq!(open.get("/").unwrap().status, 200);
    root.revoke(&own.path);
    drop(responder);
    let _responder = root.responder(&signer, port);
    eventually("the revocation counts", || open.get("/").unwrap().status == 403);
    // A responder that no one allows is not asked.
    let gateway = serve(&backend, &root, "mode: strict, allowedHosts: [ocsp.example.com]");
    assert_eq!(ask(gateway.web(), &client(&own.own)), Ok(503));
    let gateway = serve(&backend, &root, "mode: soft, allowedHosts: [ocsp.example.com]");
    assert_eq!(ask(gateway.web(), &client(&own.own)), Ok(200));
}

/// A responder that sends these bytes.
fn sending(answer: &Arc<Mutex<Vec<u8>>>) -> Backend {
    let answer = answer.clone();
    Backend::with(move |_, stream| {
        let body = answer.lock().unwrap().clone();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), &body].concat()).is_ok()
    })
}

#[test]
#[ignore = "needs openssl"]
fn false_responses_prove_nothing() {
    let backend = Backend::echo("a");
    let (root, stranger) = (Authority::new("Root"), Authority::new("Root"));
    let signer = root.issue_as("responder", "responder", "", &[]);
    let without_permission = root.issue("client");
    let (own, other) = (root.issue("own"), root.issue("other"));
    let good = root.ocsp_response(&own.path, Some(&signer), &["-ndays", "1"]);
    let mut unsigned = good.clone();
    let at = unsigned.len() - 1;
    // The last bytes are those of the signer's certificate; its key is not changed by them, but its own signature is.
    unsigned[at] ^= 1;
    let of_stranger = stranger.ocsp_response(&stranger.issue("own").path, None, &["-ndays", "1"]);
    let days = &["-ndays", "1"][..];
    std::fs::write(root.file("empty.txt"), "").unwrap();
    let unknown = root.ocsp_response(&own.path, Some(&signer), &["-ndays", "1", "-index", "empty.txt"]);
    let (accepted, nothing, refused) = ([200, 200], [503, 200], [503, 503]);
    // With the outcomes in the modes `strict` and `soft`.
    for (what, response, expected) in [
        ("of a delegate", good.clone(), accepted),
        ("of the authority", root.ocsp_response(&own.path, None, days), accepted),
        ("without nextUpdate", root.ocsp_response(&own.path, Some(&signer), &[]), accepted),
        ("that does not know the certificate", unknown, refused),
        ("for another certificate", root.ocsp_response(&other.path, Some(&signer), days), nothing),
        ("changed", unsigned, nothing),
        ("of another authority", of_stranger, nothing),
        (
            "of a certificate that may not sign",
            root.ocsp_response(&own.path, Some(&without_permission), days),
            nothing,
        ),
        ("an error", vec![0x30, 3, 0x0a, 1, 6], nothing),
        ("empty", Vec::new(), nothing),
        ("too large", vec![0; 1 << 20], nothing),
    ] {
        let responder = sending(&Arc::new(Mutex::new(response)));
        let outcomes = ["strict", "soft"].map(|mode| {
            let ocsp = format!("mode: {mode}, timeout: 30s, url: '{}'", responder.url());
            ask(serve(&backend, &root, &ocsp).web(), &client(&own.own)).unwrap()
        });
        assert_eq!(outcomes, expected, "{what}");
        assert_eq!(responder.seen().len(), 2, "{what}");
    }
}

#[test]
#[ignore = "needs openssl"]
fn a_responder_is_asked_once_and_never_holds_up_others() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let own = root.issue("own");
    let good = root.ocsp_response(&own.path, None, &["-ndays", "1"]);
    // Many connections wait for one response, and later ones use it.
    let responder = sending(&Arc::new(Mutex::new(good)));
    let gateway = serve(&backend, &root, &format!("mode: strict, timeout: 30s, url: '{}'", responder.url()));
    let web = gateway.web();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(ask(web, &client(&own.own)), Ok(200)));
        }
    });
    assert_eq!(responder.seen().len(), 1);
    // A responder that hangs: requests wait for the timeout, and others are served.
    let hanging = Server::with(|_stream| crate::support::pause_for(Duration::from_secs(60)));
    let ocsp = format!("mode: strict, timeout: 2s, url: 'http://{}/'", hanging.address);
    let gateway = serve(&backend, &root, &ocsp);
    let web = gateway.web();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let begun = Instant::now();
            assert_eq!(ask(web, &client(&own.own)), Ok(503));
            begun.elapsed()
        });
        eventually("the responder is asked", || hanging.connections() > 0);
        let open = crate::support::pki::client_of(None, &[&rustls::version::TLS13], &[]);
        for _ in 0..50 {
            assert_eq!(Open::connect(web, &open, "open.test").unwrap().get("/").unwrap().status, 200);
        }
        let waited = waiting.join().unwrap();
        assert!(waited >= Duration::from_millis(1900) && waited < Duration::from_secs(30), "{waited:?}");
    });
    // The failure is remembered: the next request does not wait.
    assert_eq!(ask(web, &client(&own.own)), Ok(503));
    assert_eq!(hanging.connections(), 1);
    // Nobody listens.
    let gateway = serve(&backend, &root, &format!("mode: soft, url: 'http://{}/'", unused_address()));
    assert_eq!(ask(gateway.web(), &client(&own.own)), Ok(200));
}

#[test]
#[ignore = "needs openssl"]
fn connections_of_tcp_routers_wait_for_ocsp() {
    let server = Server::echo("a");
    let root = Authority::new("Root");
    let signer = root.issue_as("responder", "responder", "", &[]);
    let (good, bad) = (root.issue("good"), root.issue("bad"));
    root.revoke(&bad.path);
    let port = free_port();
    let _responder = root.responder(&signer, port);
    let gateway = Gateway::serve(&format!(
        "tcp:
  routers:
    t: {{rule: 'HostSNI(`h.test`)', service: a, tls: {{options: mutual}}}}
  services:
    a: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}
tls:
  options:
    mutual: {{clientAuth: {{caFiles: ['{}'], revocation: {{ocsp: {{mode: soft, timeout: 30s, url: 'http://127.0.0.1:{port}/'}}}}}}}}
",
        server.address,
        root.certificate(),
    ));
    let talk = |own| {
        let stream = Open::connect(gateway.web(), &client(own), "h.test").map(Open::into_stream);
        stream.map_or_else(|_| String::new(), |mut stream| say(&mut stream, "hi"))
    };
    assert_eq!([talk(&good.own), talk(&bad.own)], ["a:hi", ""]);
    assert_eq!(server.connections(), 1);
}
