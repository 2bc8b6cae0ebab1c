//! TLS over real connections.

use rustls::pki_types::ServerName;

use super::*;
use crate::tls::Claim;

#[derive(Debug)]
struct Anything;

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        crate::tls::crypto().signature_verification_algorithms.supported_schemes()
    }
}

fn client(client_certificate: Option<&rcgen::CertifiedKey<rcgen::KeyPair>>) -> Arc<rustls::ClientConfig> {
    let builder = rustls::ClientConfig::builder_with_provider(crate::tls::crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything));
    let mut config = match client_certificate {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = rustls::pki_types::PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()).into();
            builder.with_client_auth_cert(vec![own.cert.der().clone()], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Sends one request over TLS. Returns the response, which is empty if the handshake failed.
fn exchange(gate: &Gate, config: &Arc<rustls::ClientConfig>, name: &'static str, bytes: &str) -> String {
    let name = ServerName::try_from(name).unwrap();
    let session = rustls::ClientConnection::new(config.clone(), name).unwrap();
    let mut stream = rustls::StreamOwned::new(session, gate.connect());
    let mut answer = Vec::new();
    if stream.write_all(bytes.as_bytes()).is_ok() {
        let _ = stream.read_to_end(&mut answer);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn plain_text_and_tls_share_a_port() {
    let gate = gate(|_| {});
    let answer = exchange(&gate, &client(None), "a.test", &get("/secret"));
    assert!(answer.contains("GET /secret\n") && answer.contains("x-forwarded-proto: https\n"), "{answer}");
    assert!(gate.exchange(get("/")).contains("x-forwarded-proto: http\n"));
}

#[test]
fn options_are_selected_by_server_name_and_not_evaded_by_host() {
    let own = rcgen::generate_simple_self_signed(vec!["client".to_owned()]).unwrap();
    let mut tls = Tls::default();
    let mut mutual = tidegate_config::tls::TlsOptions::default();
    mutual.client_auth.ca_files = vec![own.cert.pem()];
    tls.options.insert("mutual@test".into(), Arc::new(mutual));
    let (store, problems) = TlsStore::without_files(&tls, None);
    assert_eq!(problems, []);
    let claim = |(host, options): (&str, &str)| Claim {
        rule: Rule::parse(&format!("Host(`{host}`)")).unwrap(),
        options: store.named(options),
    };
    let claims = [("m.test", "mutual@test"), ("gone.test", "no@test")].map(claim);
    let hosts = HostOptions::new(claims.into(), store.named("default"));
    let gate = gate_with_hosts(|_| {}, Options { workers: 2, ..Options::default() }, store, hosts);
    let ask = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let (stranger, friend) = (client(None), client(Some(&own)));
    assert!(exchange(&gate, &stranger, "a.test", &ask("a.test")).starts_with("HTTP/1.1 200 "));
    for host in ["m.test", "M.Test", "m.test.", "m.test:443"] {
        let evading = exchange(&gate, &stranger, "a.test", &ask(host));
        assert!(evading.starts_with("HTTP/1.1 421 "), "{host}: {evading}");
    }
    assert_eq!(exchange(&gate, &stranger, "m.test", &ask("m.test")), "");
    assert_eq!(exchange(&gate, &stranger, "gone.test", &ask("gone.test")), "");
    let admitted = exchange(&gate, &friend, "m.test", &ask("m.test"));
    assert!(admitted.starts_with("HTTP/1.1 200 "), "{admitted}");
}

#[test]
fn responses_over_tls_announce_http3() {
    for (advertised, told) in [(0, None), (443, Some("h3=\":443\"; ma=2592000"))] {
        let gate = gate(|point| point.http3 = Some(crate::settings::Http3 { advertised_port: advertised }));
        let own = format!("h3=\":{}\"; ma=2592000", gate.address.port());
        let line = format!("alt-svc: {}\r\n", told.unwrap_or(&own));
        let answer = exchange(&gate, &client(None), "a.test", &get("/"));
        assert!(answer.contains(&line), "{answer}");
        assert!(!gate.exchange(get("/")).contains("alt-svc"), "nobody is told without TLS");
    }
    assert!(!exchange(&gate(|_| {}), &client(None), "a.test", &get("/")).contains("alt-svc"));
}
