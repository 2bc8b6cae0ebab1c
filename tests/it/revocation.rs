//! Revocation lists for client certificates: in handshakes, on open connections, and for resumed sessions.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;

use crate::support::backend::unused_address;
use crate::support::http3::{Http3, quic_over, runtime};
use crate::support::pki::{Authority, Open, Owned, client, client_of};
use crate::support::streams::{Server, say};
use crate::support::{Backend, Gateway, eventually};

/// Replaces a file at once.
pub fn put(path: &Path, content: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(&new, path).unwrap();
}

/// Routers for `h.test` with these options of `clientAuth`, and for `open.test` without any.
pub fn routes(url: &str, ca: &str, options: &str) -> String {
    format!(
        "http:
  routers:
    h: {{rule: 'Host(`h.test`)', service: a, tls: {{options: mutual}}}}
    open: {{rule: 'Host(`open.test`)', service: a, tls: {{}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
tls:
  options:
    mutual: {{clientAuth: {{caFiles: ['{ca}'], {options}}}}}
"
    )
}

/// Returns the status of one request, or why the client was refused in its handshake.
pub fn ask(address: SocketAddr, config: &Arc<rustls::ClientConfig>) -> Result<u16, String> {
    let asked = Open::connect(address, config, "h.test").and_then(|mut open| open.get("/"));
    asked.map(|answer| answer.status).map_err(|error| error.to_string())
}

/// Returns the outcome for this certificate.
fn outcome(gateway: &Gateway, own: &Owned) -> Result<u16, String> {
    ask(gateway.web(), &client(own))
}

fn refused(outcome: Result<u16, String>, why: &str) -> bool {
    outcome.as_ref().is_err_and(|error| error.contains(why))
}

#[test]
fn revoked_certificates_are_refused_in_the_handshake() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let (good, bad) = (root.issue("good"), root.issue("bad"));
    root.revoke(bad.serial);
    let pem = root.file("crl.pem");
    put(&pem, root.list());
    let der = root.file("crl.der");
    put(&der, root.list_in_der());
    for list in [&pem, &der] {
        let options = format!("revocation: {{crlFiles: ['{}']}}", list.display());
        let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), &options));
        assert_eq!(gateway.problems(), [""; 0]);
        assert_eq!(outcome(&gateway, &good), Ok(200));
        assert!(refused(outcome(&gateway, &bad), "CertificateRevoked"), "{:?}", outcome(&gateway, &bad));
        let only_12 = client_of(Some(&bad), &[&rustls::version::TLS12], &[]);
        assert!(refused(ask(gateway.web(), &only_12), "CertificateRevoked"));
        let explained = gateway.api("/api/explain?url=https%3A%2F%2Fh.test%2F");
        assert!(explained.contains("is checked against revocation lists (1 loaded)"), "{explained}");
    }
    // Without the option, nothing changes.
    let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), ""));
    assert_eq!(outcome(&gateway, &bad), Ok(200));
}

#[test]
fn intermediate_authorities_are_checked_unless_only_leaves_are() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let (sound, revoked) = (root.below("Sound"), root.below("Revoked"));
    let (good, below_revoked) = (sound.issue("good"), revoked.issue("below"));
    root.revoke(revoked.serial);
    let list = root.file("crls.pem");
    let all = [root.list(), sound.list(), revoked.list()].concat();
    let serve = |more: &str| {
        let options = format!("revocation: {{crlFiles: ['{}'], {more}}}", list.display());
        let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), &options));
        assert_eq!(gateway.problems(), [""; 0]);
        gateway
    };
    put(&list, &all);
    let gateway = serve("");
    assert_eq!(outcome(&gateway, &good), Ok(200));
    assert!(refused(outcome(&gateway, &below_revoked), "CertificateRevoked"));
    let gateway = serve("leafOnly: true");
    assert_eq!([outcome(&gateway, &good), outcome(&gateway, &below_revoked)], [Ok(200), Ok(200)]);
    // No list covers the certificate itself.
    put(&list, root.list());
    let gateway = serve("");
    assert!(outcome(&gateway, &good).is_err(), "unknown");
    let gateway = serve("unknownStatus: allow");
    assert_eq!(outcome(&gateway, &good), Ok(200));
    assert!(refused(outcome(&gateway, &below_revoked), "CertificateRevoked"));
}

#[test]
fn expired_and_false_lists_do_not_admit_anyone() {
    let backend = Backend::echo("a");
    let (root, namesake) = (Authority::new("Root"), Authority::new("Root"));
    let own = root.issue("own");
    let list = root.file("crl.pem");
    let serve = |more: &str| {
        let options = format!("revocation: {{crlFiles: ['{}'], {more}}}", list.display());
        Gateway::serve(&routes(&backend.url(), &root.certificate(), &options))
    };
    put(&list, root.list_of(-2, -1).pem().unwrap());
    let gateway = serve("");
    assert!(
        gateway.problems().join("\n").contains("crl.pem: a list has expired"),
        "{:?}",
        gateway.problems()
    );
    assert!(outcome(&gateway, &own).is_err());
    let gateway = serve("expiredLists: allow");
    assert_eq!(outcome(&gateway, &own), Ok(200));
    // Signed by another authority with the same name, or no list at all: the host is closed.
    for (content, why) in [
        (namesake.list(), "the signature is not that of the issuer"),
        (b"nothing".to_vec(), "invalid revocation list"),
        (std::fs::read(root.file("ca.pem")).unwrap(), "no revocation list"),
        (Vec::new(), "no revocation list"),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_vec(), "invalid revocation list"),
    ] {
        put(&list, content);
        let gateway = serve("unknownStatus: allow");
        let problems = gateway.problems().join("\n");
        assert!(problems.contains(why) && problems.contains("crl.pem"), "{why}: {problems}");
        assert!(outcome(&gateway, &own).is_err(), "{why}");
        let open = client_of(None, &[&rustls::version::TLS13], &[]);
        let answer = Open::connect(gateway.web(), &open, "open.test").unwrap().get("/").unwrap();
        assert_eq!(answer.status, 200, "other hosts are not affected");
    }
}

#[test]
fn options_that_cannot_work_are_reported() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    for (options, why) in [
        ("clientAuthType: RequireAnyClientCert, revocation: {}", "expected clientAuthType"),
        ("revocation: {unknownStatus: maybe}", "unknownStatus"),
        ("revocation: {crlUrls: ['ldap://x/']}", "expected http:// or https://"),
        ("revocation: {crlUrls: ['http://u:p@x.test/']}", "credentials"),
        ("revocation: {ocsp: {mode: strict}}", "expected `url`, or `allowedHosts`"),
        ("revocation: {ocsp: {mode: strict, url: 'http://x.test/', timeout: 1m}}", "at most 30s"),
        ("revocation: {crlFiles: ['/gone.pem']}", "/gone.pem"),
    ] {
        let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), options));
        let problems = gateway.problems().join("\n");
        assert!(problems.contains(why), "{options}: {problems}");
        assert!(outcome(&gateway, &root.issue("own")).is_err(), "{options}: the host is closed");
    }
}

#[test]
fn a_list_applies_to_open_connections_and_sessions() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let (own, other) = (root.issue("own"), root.issue("other"));
    let list = root.file("crl.pem");
    put(&list, root.list());
    let options = format!("revocation: {{crlFiles: ['{}']}}", list.display());
    let audit = root.file("audit.log");
    let gateway = Gateway::with(
        &["--entryPoints.web.http3=true", &format!("--auditLog.filePath={}", audit.display())],
        &routes(&backend.url(), &root.certificate(), &options),
    );
    let web = gateway.web();
    let (config, old) = (client(&own), client_of(Some(&own), &[&rustls::version::TLS12], &[]));
    let others = client(&other);
    for config in [&config, &old, &others] {
        assert_eq!(ask(web, config), Ok(200));
        assert!(Open::connect(web, config, "h.test").unwrap().is_resumed());
    }
    let mut open = Open::connect(web, &config, "h.test").unwrap();
    let mut unaffected = Open::connect(web, &others, "h.test").unwrap();
    assert_eq!([open.get("/").unwrap().status, unaffected.get("/").unwrap().status], [200, 200]);
    let runtime = runtime();
    let quic = client_of(Some(&own), &[&rustls::version::TLS13], &["h3"]);
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(quic).unwrap();
    let http3 = runtime.block_on(async {
        let connecting = quic_over(web, "h.test", quinn::ClientConfig::new(Arc::new(crypto)));
        let http3 = Http3::over(connecting.await.unwrap()).await;
        assert_eq!(http3.get("https://h.test/").await.status, 200);
        http3
    });
    let mut http2 = runtime.block_on(http2(web, &own));
    let request = || http::Request::get("https://h.test/").body(Empty::new()).unwrap();
    assert_eq!(runtime.block_on(http2.send_request(request())).unwrap().status(), 200);
    root.revoke(own.serial);
    put(&list, root.list());
    let mut last = None;
    eventually("the list counts", || {
        let answer = open.get("/").unwrap();
        let is_refused = answer.status == 403;
        last = Some(answer);
        is_refused
    });
    assert_eq!(last.unwrap().header("connection"), Some("close"));
    assert!(open.get("/").is_err(), "the connection is closed");
    assert_eq!(runtime.block_on(http3.get("https://h.test/")).status, 403);
    assert_eq!(runtime.block_on(http2.send_request(request())).unwrap().status(), 403);
    eventually("the connection is closed gracefully", || http2.is_closed());
    assert_eq!(unaffected.get("/").unwrap().status, 200);
    for config in [&config, &old] {
        assert!(refused(ask(web, config), "CertificateRevoked"), "no session lets it in");
    }
    assert!(Open::connect(web, &others, "h.test").unwrap().is_resumed(), "sessions of others go on");
    eventually("the refusals are audited", || {
        std::fs::read_to_string(&audit).is_ok_and(|text| text.contains("\"certificate_revoked\""))
    });
    // A broken list leaves the last one in use.
    put(&list, "nothing");
    eventually("the mistake is reported", || {
        gateway.problems().iter().any(|one| one.contains("crl.pem") && one.contains("stays in use"))
    });
    assert!(refused(ask(web, &config), "CertificateRevoked"));
    assert_eq!(ask(web, &others), Ok(200));
}

/// Returns what an HTTP/2 connection with this certificate is answered.
async fn http2(web: SocketAddr, own: &Owned) -> hyper::client::conn::http2::SendRequest<Empty<bytes::Bytes>> {
    let config = client_of(Some(own), &[&rustls::version::TLS13], &["h2"]);
    let stream = tokio::net::TcpStream::connect(web).await.unwrap();
    let name = ServerName::try_from("h.test").unwrap();
    let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    sender
}

#[test]
fn without_a_valid_response_of_ocsp_the_mode_decides() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let own = client(&root.issue("own"));
    let hanging = Server::with(|_stream| crate::support::pause_for(Duration::from_secs(60)));
    let garbage = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>");
    for url in [format!("http://{}/", hanging.address), garbage.url(), format!("http://{}", unused_address())]
    {
        for (mode, expected) in [("strict", 503), ("soft", 200), ("off", 200)] {
            let options = format!("revocation: {{ocsp: {{mode: {mode}, url: '{url}', timeout: 1s}}}}");
            let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), &options));
            assert_eq!(ask(gateway.web(), &own), Ok(expected), "{mode} {url}");
            // The failure is remembered.
            let asked = hanging.connections() + garbage.seen().len();
            assert_eq!(ask(gateway.web(), &own), Ok(expected), "{mode} {url}");
            assert_eq!(hanging.connections() + garbage.seen().len(), asked);
        }
    }
}

#[test]
fn a_certificate_that_expires_is_refused_and_its_session_not_resumed() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let short = root.short_lived("short", 6);
    let checked = Gateway::serve(&routes(&backend.url(), &root.certificate(), "revocation: {}"));
    let plain = Gateway::serve(&routes(&backend.url(), &root.certificate(), ""));
    let configs = [client(&short), client_of(Some(&short), &[&rustls::version::TLS12], &[])];
    let mut open = Open::connect(checked.web(), &client(&short), "h.test").unwrap();
    let mut traefik = Open::connect(plain.web(), &client(&short), "h.test").unwrap();
    assert_eq!([open.get("/").unwrap().status, traefik.get("/").unwrap().status], [200, 200]);
    for config in &configs {
        assert_eq!(ask(plain.web(), config), Ok(200));
        assert!(Open::connect(plain.web(), config, "h.test").unwrap().is_resumed());
    }
    eventually("it expires", || open.get("/").unwrap().status == 403);
    let requests = checked.api("/api/requests?filter=reason%20%3D%3D%20%60certificate_invalid%60");
    assert!(requests.contains("certificate_invalid"), "{requests}");
    assert_eq!(traefik.get("/").unwrap().status, 200, "only checked with the option");
    for config in &configs {
        assert!(refused(ask(plain.web(), config), "CertificateExpired"), "its session is not resumed");
    }
}

#[test]
fn open_connections_are_refused_while_their_options_are_broken() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let own = root.issue("own");
    let ca = root.file("trusted.pem");
    std::fs::copy(root.file("ca.pem"), &ca).unwrap();
    let gateway = Gateway::serve(&routes(&backend.url(), &ca.display().to_string(), "revocation: {}"));
    let connect = || Open::connect(gateway.web(), &client(&own), "h.test").unwrap();
    let mut open = connect();
    assert_eq!(open.get("/").unwrap().status, 200);
    put(&ca, "nothing");
    let mut last = 0;
    eventually("the options are broken", || {
        last = open.get("/").unwrap().status;
        last != 200
    });
    assert_eq!(last, 503);
    put(&ca, std::fs::read(root.file("ca.pem")).unwrap());
    eventually("they are valid again", || ask(gateway.web(), &client(&own)) == Ok(200));
    let mut open = connect();
    assert_eq!(open.get("/").unwrap().status, 200);
    put(&ca, std::fs::read(Authority::new("Other").file("ca.pem")).unwrap());
    eventually("the authority is no longer trusted", || open.get("/").unwrap().status == 403);
}

#[test]
fn connections_of_tcp_routers_are_checked() {
    let server = Server::echo("a");
    let root = Authority::new("Root");
    let (good, bad) = (root.issue("good"), root.issue("bad"));
    root.revoke(bad.serial);
    let list = root.file("crl.pem");
    put(&list, root.list());
    let gateway = Gateway::serve(&format!(
        "tcp:
  routers:
    t: {{rule: 'HostSNI(`h.test`)', service: a, tls: {{options: mutual}}}}
  services:
    a: {{loadBalancer: {{servers: [{{address: '{}'}}]}}}}
tls:
  options:
    mutual: {{clientAuth: {{caFiles: ['{}'], revocation: {{crlFiles: ['{}']}}}}}}
",
        server.address,
        root.certificate(),
        list.display()
    ));
    let connect = |own: &Owned| {
        let mut stream = Open::connect(gateway.web(), &client(own), "h.test")?.into_stream();
        Ok::<_, std::io::Error>(say(&mut stream, "hi"))
    };
    assert_eq!(connect(&good).unwrap(), "a:hi");
    assert!(connect(&bad).is_err());
}
