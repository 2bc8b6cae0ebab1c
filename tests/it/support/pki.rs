//! Authorities, client certificates and revocation lists, and clients that have them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{CertificateParams, CertificateRevocationListParams, CertifiedIssuer, KeyPair, SerialNumber};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use time::OffsetDateTime;

use super::client::Answer;
use super::tls::takes_all;

/// An authority with a folder for its files.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Certificates between it and the root, itself first; empty for a root.
    chain: Vec<CertificateDer<'static>>,
    /// The serial number of its certificate.
    pub serial: u64,
    next: AtomicU64,
    revoked: Mutex<Vec<u64>>,
    folder: tempfile::TempDir,
}

/// A certificate with its key and the certificates above it.
#[derive(Clone)]
pub struct Owned {
    /// The chain, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The serial number.
    pub serial: u64,
    key: Arc<PrivateKeyDer<'static>>,
}

impl Owned {
    /// Creates a certificate with its key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, serial: u64) -> Self {
        Self { chain, serial, key: Arc::new(key) }
    }
}

/// Returns the parameters of a certificate with this common name and serial number.
fn parameters(name: &str, serial: u64) -> CertificateParams {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters.serial_number = Some(SerialNumber::from(serial));
    parameters
}

/// Returns those of an authority.
fn authority(name: &str, serial: u64) -> CertificateParams {
    let mut parameters = parameters(name, serial);
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    parameters
}

impl Authority {
    /// Creates a root authority with this common name.
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(authority(name, 1), key).unwrap();
        Self::with(issuer, Vec::new(), 1)
    }

    fn with(
        issuer: CertifiedIssuer<'static, KeyPair>,
        chain: Vec<CertificateDer<'static>>,
        serial: u64,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, chain, serial, next: AtomicU64::new(1000), revoked: Mutex::default(), folder }
    }

    /// Creates an authority below this one.
    pub fn below(&self, name: &str) -> Self {
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::signed_by(authority(name, serial), key, &self.issuer).unwrap();
        let mut chain = vec![issuer.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Self::with(issuer, chain, serial)
    }

    /// Returns a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the path of its certificate.
    pub fn certificate(&self) -> String {
        self.file("ca.pem").display().to_string()
    }

    /// Issues a client certificate.
    pub fn issue(&self, name: &str) -> Owned {
        self.issue_until(name, OffsetDateTime::now_utc() + time::Duration::DAY)
    }

    /// Issues a client certificate that expires after this many seconds.
    pub fn short_lived(&self, name: &str, seconds: i64) -> Owned {
        self.issue_until(name, OffsetDateTime::now_utc() + time::Duration::seconds(seconds))
    }

    fn issue_until(&self, name: &str, end: OffsetDateTime) -> Owned {
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        let mut parameters = parameters(name, serial);
        parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        parameters.not_after = end;
        let key = KeyPair::generate().unwrap();
        let mut chain = vec![parameters.signed_by(&key, &self.issuer).unwrap().der().clone()];
        chain.extend(self.chain.iter().cloned());
        Owned::new(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into(), serial)
    }

    /// Revokes the certificate with this serial number.
    pub fn revoke(&self, serial: u64) {
        self.revoked.lock().unwrap().push(serial);
    }

    /// Returns the current revocation list in PEM.
    pub fn list(&self) -> Vec<u8> {
        self.list_of(0, 1).pem().unwrap().into_bytes()
    }

    /// Returns it in DER.
    pub fn list_in_der(&self) -> Vec<u8> {
        self.list_of(0, 1).der().to_vec()
    }

    /// Returns a list that is valid between these days, counted from now.
    pub fn list_of(&self, from: i64, until: i64) -> rcgen::CertificateRevocationList {
        let now = OffsetDateTime::now_utc();
        let revoked = self.revoked.lock().unwrap();
        let revoked = revoked.iter().map(|serial| rcgen::RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        });
        let parameters = CertificateRevocationListParams {
            this_update: now + time::Duration::days(from),
            next_update: now + time::Duration::days(until),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        parameters.signed_by(&self.issuer).unwrap()
    }
}

/// Returns a client with these versions and optionally this certificate.
pub fn client_of(
    own: Option<&Owned>,
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(takes_all());
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(own.chain.clone(), own.key.clone_key()).unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Returns a client of TLS 1.3 with this certificate.
pub fn client(own: &Owned) -> Arc<rustls::ClientConfig> {
    client_of(Some(own), &[&rustls::version::TLS13], &[])
}

/// An open connection for several requests over HTTP/1.1.
pub struct Open {
    stream: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    name: String,
}

impl Open {
    /// Connects. Returns the error of a failed handshake. In TLS 1.3, the server refuses a client after the handshake is
    /// complete for it, so this waits for a session ticket or the alert.
    pub fn connect(
        address: SocketAddr,
        config: &Arc<rustls::ClientConfig>,
        name: &str,
    ) -> std::io::Result<Self> {
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let mut session = rustls::ClientConnection::new(config.clone(), server).unwrap();
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        let is_13 = session.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        while is_13 && session.tls13_tickets_received() == 0 {
            if session.read_tls(&mut stream)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            session.process_new_packets().map_err(std::io::Error::other)?;
        }
        Ok(Self { stream: rustls::StreamOwned::new(session, stream), name: name.to_owned() })
    }

    /// Returns true if the session was resumed.
    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Returns the stream, for another protocol.
    pub fn into_stream(self) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
        self.stream
    }

    /// Requests a path of the server's name.
    pub fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        let host = self.name.clone();
        self.get_of(&host, path)
    }

    /// Requests a path of another host.
    pub fn get_of(&mut self, host: &str, path: &str) -> std::io::Result<Answer> {
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let mut byte = [0; 1024];
            let length = self.stream.read(&mut byte)?;
            if length == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend_from_slice(&byte[..length]);
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
        });
        let mut body = bytes.split_off(end);
        let mut rest = vec![0; length.unwrap_or(0).saturating_sub(body.len())];
        self.stream.read_exact(&mut rest)?;
        body.extend(rest);
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Ok(Answer { status, headers, body, ..Answer::default() })
    }
}
