//! TLS clients that accept every certificate: the tests check it themselves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};

/// A client certificate.
pub type Own = rcgen::CertifiedKey<rcgen::KeyPair>;

/// Returns a client with these protocols and optionally this certificate.
pub fn client_config(alpn: &[&str], own: Option<&Own>) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAll(provider)));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()).into();
            builder.with_client_auth_cert(vec![own.cert.der().clone()], key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// Accepts every certificate.
pub fn takes_all() -> Arc<dyn ServerCertVerifier> {
    Arc::new(TakesAll(Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

#[derive(Debug)]
struct TakesAll(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for TakesAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The result of one connection with one request.
pub struct Seen {
    /// The response, decoded as text.
    pub answer: String,
    /// The server's certificate.
    pub certificate: CertificateDer<'static>,
    /// The version of TLS.
    pub version: rustls::ProtocolVersion,
    /// The cipher suite.
    pub suite: rustls::CipherSuite,
    /// The group of the key exchange.
    pub group: rustls::NamedGroup,
    /// The negotiated protocol.
    pub protocol: Option<Vec<u8>>,
    /// Whether the session was resumed.
    pub resumed: bool,
}

/// Requests `/` of `host` on a connection for `name`. Returns the error of the handshake or the connection.
pub fn ask(
    address: SocketAddr,
    config: &Arc<rustls::ClientConfig>,
    name: &str,
    host: &str,
) -> std::io::Result<Seen> {
    ask_for(address, config, name, host, "/")
}

/// Requests a path of `host` on a connection for `name`.
pub fn ask_for(
    address: SocketAddr,
    config: &Arc<rustls::ClientConfig>,
    name: &str,
    host: &str,
    path: &str,
) -> std::io::Result<Seen> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut session = rustls::ClientConnection::new(config.clone(), name).unwrap();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    let mut stream = rustls::StreamOwned::new(session, stream);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer)
        && answer.is_empty()
    {
        return Err(error);
    }
    let session = &stream.conn;
    Ok(Seen {
        answer: String::from_utf8_lossy(&answer).into_owned(),
        certificate: session.peer_certificates().unwrap()[0].clone(),
        version: session.protocol_version().unwrap(),
        suite: session.negotiated_cipher_suite().unwrap().suite(),
        group: session.negotiated_key_exchange_group().map_or(rustls::NamedGroup::Unknown(0), |g| g.name()),
        protocol: session.alpn_protocol().map(<[u8]>::to_vec),
        resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
    })
}

impl Seen {
    /// Returns the status of the response.
    pub fn status(&self) -> u16 {
        self.answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// Returns a self-signed certificate for these names.
pub fn certificate(names: &[&str]) -> Own {
    rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        .unwrap()
}
