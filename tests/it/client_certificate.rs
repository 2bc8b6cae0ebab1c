//! Client certificates per router: requested only for names that need one, enforced by `clientCertificate`, and never
//! carried to other names by a host, a connection or a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption};
use rustls::{NamedGroup, SignatureScheme};
use rustls_pki_types::ServerName;

use crate::support::http3::runtime;
use crate::support::pki::{Authority, Open, Owned, client, client_of};
use crate::support::{Backend, Gateway, eventually};

fn routes(url: &str, partners: &Authority, others: &Authority) -> String {
    let (partners, others) = (partners.certificate(), others.certificate());
    format!(
        "http:
  routers:
    public: {{rule: 'Host(`api.test`)', service: a, tls: {{options: partners}}}}
    orders: {{rule: 'Host(`api.test`) && Path(`/orders`)', service: a, tls: {{options: partners}}, middlewares: [certificate]}}
    known: {{rule: 'Host(`api.test`) && Path(`/known`)', service: a, tls: {{options: partners}}, middlewares: [known]}}
    either: {{rule: 'Host(`api.test`) && Path(`/either`)', service: a, tls: {{options: partners}}, middlewares: [either]}}
    same: {{rule: 'Host(`same.test`)', service: a, tls: {{options: partners}}, middlewares: [certificate]}}
    other: {{rule: 'Host(`other.test`)', service: a, tls: {{options: others}}, middlewares: [certificate]}}
    web: {{rule: 'Host(`web.test`)', service: a, tls: {{}}}}
    wrong: {{rule: 'Host(`web.test`) && Path(`/wrong`)', service: a, tls: {{}}, middlewares: [certificate]}}
  middlewares:
    certificate: {{clientCertificate: {{}}}}
    known: {{clientCertificate: {{requireConsumer: true}}}}
    either: {{anyOf: {{middlewares: [certificate, password]}}}}
    password: {{basicAuth: {{users: ['ann:{{SHA}}qUqP5cyxm6YcTAhz05Hph5gvu9M=']}}}}
  consumers:
    acme: {{credentials: {{certificates: [{{commonName: acme}}]}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
tls:
  options:
    partners: {{clientAuth: {{clientAuthType: VerifyClientCertIfGiven, caFiles: ['{partners}']}}}}
    others: {{clientAuth: {{clientAuthType: VerifyClientCertIfGiven, caFiles: ['{others}']}}}}
"
    )
}

/// Counts how often a server requests a certificate.
#[derive(Debug, Default)]
struct Requests(AtomicUsize);

impl ResolvesClientCert for Requests {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[test]
fn certificates_are_requested_where_a_name_needs_one_and_required_per_router() {
    let backend = Backend::echo("a");
    let (partners, others) = (Authority::new("Partners"), Authority::new("Others"));
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.log");
    let gateway = Gateway::with(
        &["--identity.headers", &format!("--auditLog.filePath={}", audit.display())],
        &routes(&backend.url(), &partners, &others),
    );
    let web = gateway.web();
    let problems = gateway.problems();
    assert!(
        problems.len() == 1
            && problems[0].contains("router wrong@file")
            && problems[0].contains("certificate"),
        "{problems:?}"
    );
    for (name, requested) in [("web.test", 0), ("api.test", 1), ("nobody.test", 0)] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let requests = Arc::new(Requests::default());
            let mut config = rustls::ClientConfig::clone(&client_of(None, &[version], &[]));
            config.client_auth_cert_resolver = requests.clone();
            Open::connect(web, &Arc::new(config), name).unwrap();
            assert_eq!(requests.0.load(Ordering::SeqCst), requested, "{name}");
        }
    }
    let status = |config: &Arc<rustls::ClientConfig>, path: &str| {
        Open::connect(web, config, "api.test").unwrap().get(path).unwrap().status
    };
    let paths = ["/", "/orders", "/known", "/either"];
    let nobody = client_of(None, &[&rustls::version::TLS13], &[]);
    assert_eq!(paths.map(|path| status(&nobody, path)), [200, 403, 403, 401]);
    let stranger = client(&partners.issue("stranger"));
    assert_eq!(paths.map(|path| status(&stranger, path)), [200, 200, 403, 200]);
    let acme = client(&partners.issue("acme"));
    assert_eq!(paths.map(|path| status(&acme, path)), [200, 200, 200, 200]);
    assert_eq!(backend.last().header("x-consumer-name"), Some("acme@file"));
    let explained = gateway.api("/api/explain?url=https%3A%2F%2Fapi.test%2Forders");
    assert!(explained.contains("the client's certificate"), "{explained}");
    let mut open = Open::connect(web, &nobody, "web.test").unwrap();
    assert_eq!(open.get("/wrong").unwrap().status, 403);
    eventually("refusals are audited", || {
        let text = std::fs::read_to_string(&audit).unwrap_or_default();
        text.contains("certificate_required") && text.contains("certificate_unknown")
    });
}

#[test]
fn no_host_brings_a_connection_to_other_options() {
    let backend = Backend::echo("a");
    let (partners, others) = (Authority::new("Partners"), Authority::new("Others"));
    let gateway = Gateway::serve(&routes(&backend.url(), &partners, &others));
    let web = gateway.web();
    let partner = partners.issue("partner");
    for (name, host, path, expected) in [
        ("web.test", "api.test", "/orders", 421),
        ("web.test", "API.test:443", "/orders", 421),
        ("api.test", "other.test", "/", 421),
        ("api.test", "web.test", "/", 421),
        ("api.test", "same.test", "/", 200),
        ("api.test", "api.test", "/orders", 200),
    ] {
        let mut open = Open::connect(web, &client(&partner), name).unwrap();
        assert_eq!(open.get_of(host, path).unwrap().status, expected, "{name} {host}");
        // A browser that shares a connection for names with one address.
        let config = client_of(Some(&partner), &[&rustls::version::TLS13], &["h2"]);
        let status = runtime().block_on(async {
            let stream = tokio::net::TcpStream::connect(web).await.unwrap();
            let server = ServerName::try_from(name.to_owned()).unwrap();
            let stream = tokio_rustls::TlsConnector::from(config).connect(server, stream).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            tokio::spawn(connection);
            let request = http::Request::get(format!("https://{host}{path}"));
            let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
            sender.send_request(request).await.unwrap().status().as_u16()
        });
        assert_eq!(status, expected, "{name} {host} over HTTP/2");
    }
}

/// Offers a session of any name to every other one.
#[derive(Debug)]
struct Mixed(ClientSessionMemoryCache, ServerName<'static>);

impl ClientSessionStore for Mixed {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: rustls::client::Tls12ClientSessionValue) {
        self.0.set_tls12_session(self.1.clone(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(&self.1)
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&self.1);
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: rustls::client::Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(self.1.clone(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&self.1)
    }
}

/// Returns a client that mixes up its sessions.
fn mixing(own: &Owned, version: &'static rustls::SupportedProtocolVersion) -> Arc<rustls::ClientConfig> {
    let mut config = rustls::ClientConfig::clone(&client_of(Some(own), &[version], &[]));
    let store = Mixed(ClientSessionMemoryCache::new(8), ServerName::try_from("any.test").unwrap());
    config.resumption = Resumption::store(Arc::new(store));
    Arc::new(config)
}

#[test]
fn no_session_brings_a_certificate_to_another_name() {
    let backend = Backend::echo("a");
    let (partners, others) = (Authority::new("Partners"), Authority::new("Others"));
    let gateway = Gateway::serve(&routes(&backend.url(), &partners, &others));
    let web = gateway.web();
    let partner = partners.issue("partner");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (name, is_resumed) in
            [("api.test", true), ("same.test", false), ("other.test", false), ("web.test", false)]
        {
            let config = mixing(&partner, version);
            let mut first = Open::connect(web, &config, "api.test").unwrap();
            assert_eq!(first.get("/orders").unwrap().status, 200);
            drop(first);
            let second = Open::connect(web, &config, name);
            // The other authority does not know the certificate, so a full handshake fails.
            assert_eq!(second.as_ref().is_ok_and(Open::is_resumed), is_resumed, "{name}");
            assert_eq!(second.is_ok(), name != "other.test", "{name}");
        }
    }
}
