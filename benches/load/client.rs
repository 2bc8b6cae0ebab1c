//! Connections and their requests.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::{Buf, Bytes};
use http::{Request, Uri};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

use super::Budget;
use super::tally::Tally;

/// How long a handshake or a request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Size of the pieces of an upload, in bytes.
const PIECE: usize = 64 * 1024;
/// How often a connection may be opened again without a response in between.
const MAX_RECONNECTS: usize = 3;

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

/// What all connections do.
pub(crate) struct Job {
    pub(crate) address: SocketAddr,
    pub(crate) sni: String,
    pub(crate) uri: Uri,
    /// Body of the requests, may be empty.
    pub(crate) body: Bytes,
    /// Number of requests at a time on a connection.
    pub(crate) streams: usize,
    pub(crate) config: quinn::ClientConfig,
}

/// An open connection.
pub(crate) struct Connection {
    sender: Sender,
    quic: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

/// Why a request has no response.
enum Failure {
    /// It was not sent, because the connection is closing.
    NotSent,
    /// It was sent.
    Lost(String),
}

impl Connection {
    /// Connects from a new socket.
    pub(crate) async fn open(job: &Job) -> anyhow::Result<Self> {
        let local = match job.address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let endpoint = quinn::Endpoint::client(local)?;
        let connecting = endpoint.connect_with(job.config.clone(), job.address, &job.sni)?;
        let connected = tokio::time::timeout(TIMEOUT, connecting).await;
        let quic = connected.context("handshake timed out")?.context("handshake failed")?;
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(quic.clone())).await?;
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Ok(Self { sender, quic, _endpoint: endpoint })
    }
}

/// Returns a configuration that accepts every certificate.
pub(crate) fn configuration() -> anyhow::Result<quinn::ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAll(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h3".to_vec()];
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?)))
}

/// Sends requests until the budget is used up. Connects again when the server has closed the connection, as some do
/// after a number of requests.
pub(crate) async fn keep_sending(first: Connection, job: Arc<Job>, budget: Arc<Budget>) -> Tally {
    let mut all = Tally::default();
    let (mut connection, mut failed) = (first, 0);
    loop {
        let running: Vec<_> = (0..job.streams)
            .map(|_| tokio::spawn(send_on(connection.sender.clone(), job.clone(), budget.clone())))
            .collect();
        let (mut served, mut over) = (0, true);
        for stream in running {
            let Ok((tally, is_over)) = stream.await else { continue };
            served += tally.served();
            over &= is_over;
            all.add(tally);
        }
        failed = if served == 0 { failed + 1 } else { 0 };
        if over || failed > MAX_RECONNECTS {
            connection.quic.close(0x100u32.into(), b"");
            return all;
        }
        match Connection::open(&job).await {
            Ok(next) => connection = next,
            Err(error) => {
                all.fail(&format!("cannot reconnect: {error}"));
                return all;
            }
        }
        all.count_reconnect();
    }
}

/// Sends one request after the other on a connection. Also returns whether the budget is used up.
async fn send_on(mut sender: Sender, job: Arc<Job>, budget: Arc<Budget>) -> (Tally, bool) {
    let mut tally = Tally::default();
    while budget.take() {
        let begun = Instant::now();
        let outcome = tokio::time::timeout(TIMEOUT, request(&mut sender, &job)).await;
        match outcome.unwrap_or_else(|_| Err(Failure::Lost("timed out".to_owned()))) {
            Ok((status, received)) => {
                tally.count(status, begun.elapsed(), received + job.body.len() as u64);
            }
            Err(Failure::NotSent) => {
                budget.give_back();
                return (tally, false);
            }
            Err(Failure::Lost(why)) => {
                tally.fail(&why);
                return (tally, false);
            }
        }
    }
    (tally, true)
}

/// Sends a request, and returns the status and the number of bytes of its response.
async fn request(sender: &mut Sender, job: &Job) -> Result<(u16, u64), Failure> {
    let lost = |error: h3::error::StreamError| Failure::Lost(error.to_string());
    let method = if job.body.is_empty() { http::Method::GET } else { http::Method::POST };
    let mut head = Request::builder().method(method).uri(job.uri.clone());
    if !job.body.is_empty() {
        head = head.header("content-length", job.body.len());
    }
    let head = head.body(()).map_err(|error| Failure::Lost(error.to_string()))?;
    let mut stream = sender.send_request(head).await.map_err(|_| Failure::NotSent)?;
    let mut rest = job.body.clone();
    while !rest.is_empty() {
        let piece = rest.split_to(rest.len().min(PIECE));
        stream.send_data(piece).await.map_err(lost)?;
    }
    stream.finish().await.map_err(lost)?;
    let status = stream.recv_response().await.map_err(lost)?.status();
    let mut received = 0;
    while let Some(piece) = stream.recv_data().await.map_err(lost)? {
        received += piece.remaining() as u64;
    }
    Ok((status.as_u16(), received))
}

/// Accepts every certificate.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAll {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
