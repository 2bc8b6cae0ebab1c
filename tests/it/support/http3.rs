//! An HTTP/3 client based on another implementation (h3), and raw streams for what that one would not send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request, StatusCode};
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::CertificateDer;

use super::tls::{Own, client_config};

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;
type Stream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// A connection with an HTTP/3 client.
pub struct Http3 {
    /// The underlying connection.
    pub quic: quinn::Connection,
    sender: Sender,
    _endpoint: quinn::Endpoint,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Option<HeaderMap>,
}

/// Returns a runtime for such clients.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Opens a QUIC connection for this server name, or returns the error of its handshake.
pub async fn quic(
    address: SocketAddr,
    name: &str,
    own: Option<&Own>,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let crypto = QuicClientConfig::try_from(client_config(&["h3"], own)).unwrap();
    quic_with(address, name, crypto).await
}

/// Opens a connection with this configuration.
pub async fn quic_with(
    address: SocketAddr,
    name: &str,
    crypto: QuicClientConfig,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    quic_over(address, name, quinn::ClientConfig::new(Arc::new(crypto))).await
}

/// Opens a connection with its own limits.
pub async fn quic_over(
    address: SocketAddr,
    name: &str,
    config: quinn::ClientConfig,
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(config, address, name).unwrap();
    let connection = tokio::time::timeout(Duration::from_secs(60), connecting).await.unwrap()?;
    Ok((endpoint, connection))
}

impl Http3 {
    /// Connects.
    pub async fn connect(address: SocketAddr, name: &str) -> Self {
        Self::over(quic(address, name, None).await.unwrap()).await
    }

    /// Starts HTTP/3 on this connection.
    pub async fn over((endpoint, quic): (quinn::Endpoint, quinn::Connection)) -> Self {
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(quic.clone())).await.unwrap();
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Self { quic, sender, _endpoint: endpoint }
    }

    /// Opens a request and sends its head.
    pub async fn begin(&self, request: Request<()>) -> Result<Stream, h3::error::StreamError> {
        self.sender.clone().send_request(request).await
    }

    /// Sends a request without a body. Panics without a response.
    pub async fn get(&self, uri: &str) -> Answer {
        self.send(Request::get(uri).body(()).unwrap(), b"").await.unwrap()
    }

    /// Sends a request for an owned URI.
    pub async fn get_owned(&self, uri: String) -> Answer {
        self.get(&uri).await
    }

    /// Sends a whole request.
    pub async fn send(&self, request: Request<()>, body: &[u8]) -> Result<Answer, h3::error::StreamError> {
        let mut stream = self.begin(request).await?;
        // An answer may come before the request is all sent (RFC 9114 section 4.1).
        for piece in body.chunks(16 * 1024) {
            if stream.send_data(Bytes::copy_from_slice(piece)).await.is_err() {
                break;
            }
        }
        let _ = stream.finish().await;
        receive(&mut stream).await
    }

    /// Returns the server's leaf certificate.
    pub fn certificate(&self) -> CertificateDer<'static> {
        let chain = self.quic.peer_identity().unwrap().downcast::<Vec<CertificateDer<'static>>>().unwrap();
        chain[0].clone()
    }
}

/// Reads a whole response.
pub async fn receive(stream: &mut Stream) -> Result<Answer, h3::error::StreamError> {
    let (head, ()) = stream.recv_response().await?.into_parts();
    let mut body = Vec::new();
    while let Some(mut piece) = stream.recv_data().await? {
        body.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
    }
    let trailers = stream.recv_trailers().await?;
    Ok(Answer { status: head.status, headers: head.headers, body, trailers })
}

/// The outcome of a hand-written stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Fate {
    /// A response with these bytes.
    Answered(Vec<u8>),
    /// A reset with this code.
    Reset(u64),
    /// The connection was closed with this code.
    Closed(u64),
}

/// Sends these bytes as a request stream on a new connection with a valid control stream.
pub async fn fate(address: SocketAddr, bytes: &[u8]) -> Fate {
    let (_endpoint, quic) = quic(address, "h.test", None).await.unwrap();
    let mut control = quic.open_uni().await.unwrap();
    control.write_all(b"\x00\x04\x00").await.unwrap();
    let (mut send, mut receive) = quic.open_bi().await.unwrap();
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    match receive.read_to_end(1 << 20).await {
        Ok(answer) => Fate::Answered(answer),
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => {
            // The connection may be closed right behind.
            match tokio::time::timeout(Duration::from_millis(50), quic.closed()).await {
                Ok(error) => closed(&error),
                Err(_) => Fate::Reset(code.into_inner()),
            }
        }
        Err(quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(error))) => closed(&error),
        Err(other) => panic!("{other}"),
    }
}

/// Returns why a connection was closed.
pub fn closed(error: &quinn::ConnectionError) -> Fate {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => Fate::Closed(close.error_code.into_inner()),
        other => panic!("{other}"),
    }
}

/// Returns a frame with a header block of literal fields.
pub fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0, 0];
    for (name, value) in fields {
        prefixed(&mut block, 0x20, 7, name.as_bytes());
        prefixed(&mut block, 0, 127, value.as_bytes());
    }
    frame(1, &block)
}

/// Returns a frame.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![kind];
    frame.extend_from_slice(&(0x8000_0000 | payload.len() as u32).to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn prefixed(block: &mut Vec<u8>, flags: u8, full: usize, text: &[u8]) {
    if text.len() < full {
        block.push(flags | text.len() as u8);
    } else {
        block.push(flags | full as u8);
        let mut rest = text.len() - full;
        while rest >= 0x80 {
            block.push(0x80 | (rest & 0x7f) as u8);
            rest >>= 7;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text);
}
