//! Connections to the gateway over HTTP/1.1, HTTP/2 and HTTP/3, with one way to send a request on each.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use h3::error::Code;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::pattern::{Check, Pattern};
use super::tls::client_config;

/// Why a request failed, for people.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/1.1 over TLS.
    Http1Tls,
    /// HTTP/2 over TLS.
    Http2,
    /// HTTP/3.
    Http3,
    /// TCP without HTTP.
    Tcp,
    /// TCP without HTTP, over TLS.
    TcpTls,
    /// UDP without HTTP/3.
    Udp,
}

/// The entry points of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct EntryPoints {
    /// For HTTP.
    pub web: SocketAddr,
    /// For HTTPS and HTTP/3.
    pub secure: SocketAddr,
    /// With TCP routers.
    pub tcp: SocketAddr,
    /// With a UDP router.
    pub udp: SocketAddr,
}

/// A connection.
pub enum Link {
    /// Over HTTP/1.1: one request at a time.
    Http1(http1::SendRequest<Pattern>),
    /// Over HTTP/2.
    Http2(http2::SendRequest<Pattern>),
    /// Over HTTP/3.
    Http3(Http3),
}

/// A connection over HTTP/3.
#[derive(Clone)]
pub struct Http3 {
    sender: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    quic: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

/// A response that is read in pieces.
pub enum Reply {
    /// Over HTTP/1.1 or HTTP/2.
    Tcp(Incoming),
    /// Over HTTP/3.
    Quic(Box<h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>>),
}

/// A stream of bytes of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Connects to the gateway for this protocol, over TLS if it has that.
pub async fn stream(protocol: Protocol, to: EntryPoints) -> Result<Box<dyn Io>, Failure> {
    let (address, protocols): (_, Option<&[&str]>) = match protocol {
        Protocol::Http1 => (to.web, None),
        Protocol::Http1Tls => (to.secure, Some(&["http/1.1"])),
        Protocol::Http2 => (to.secure, Some(&["h2"])),
        Protocol::Tcp => (to.tcp, None),
        Protocol::TcpTls => (to.tcp, Some(&[])),
        Protocol::Http3 | Protocol::Udp => return Err("no stream over UDP".into()),
    };
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let Some(protocols) = protocols else { return Ok(Box::new(stream)) };
    let connector = TlsConnector::from(Arc::new(client_config(protocols, None)));
    Ok(Box::new(connector.connect(ServerName::try_from("app.test")?, stream).await?))
}

impl Link {
    /// Connects over a version of HTTP.
    pub async fn open(protocol: Protocol, to: EntryPoints) -> Result<Self, Failure> {
        Ok(match protocol {
            Protocol::Http3 => Self::Http3(Http3::open(to.secure).await?),
            Protocol::Http2 => {
                let stream = TokioIo::new(stream(protocol, to).await?);
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Self::Http2(sender)
            }
            _ => {
                let (sender, connection) =
                    http1::handshake(TokioIo::new(stream(protocol, to).await?)).await?;
                tokio::spawn(connection);
                Self::Http1(sender)
            }
        })
    }

    /// Returns another handle to the connection, if it carries several requests.
    pub fn share(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
            Self::Http3(http3) => Some(Self::Http3(http3.clone())),
        }
    }

    /// Returns whether no further request can be sent.
    pub fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
            Self::Http3(http3) => http3.quic.close_reason().is_some(),
        }
    }

    /// Sends a request, and returns the beginning of its response.
    pub async fn send(&mut self, request: Request<Pattern>) -> Result<(StatusCode, Reply), Failure> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::Http3(http3) => return http3.send(request).await,
        };
        Ok((response.status(), Reply::Tcp(response.into_body())))
    }
}

impl Http3 {
    async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let crypto = QuicClientConfig::try_from(client_config(&["h3"], None))?;
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
        let config = quinn::ClientConfig::new(Arc::new(crypto));
        let quic = endpoint.connect_with(config, address, "app.test")?.await?;
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(quic.clone())).await?;
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Ok(Self { sender, quic, _endpoint: endpoint })
    }

    async fn send(&mut self, request: Request<Pattern>) -> Result<(StatusCode, Reply), Failure> {
        let (head, mut body) = request.into_parts();
        let mut stream = self.sender.send_request(Request::from_parts(head, ())).await?;
        while let Some(piece) = body.take() {
            stream.send_data(piece).await?;
        }
        if body.is_aborted() {
            stream.stop_stream(Code::H3_REQUEST_CANCELLED);
            stream.stop_sending(Code::H3_REQUEST_CANCELLED);
            return Err("aborted by the client".into());
        }
        stream.finish().await?;
        let status = stream.recv_response().await?.status();
        Ok((status, Reply::Quic(Box::new(stream))))
    }
}

impl Reply {
    /// Reads the next piece. Returns false at the end.
    pub async fn read(&mut self, check: &mut Check) -> Result<bool, Failure> {
        match self {
            Self::Tcp(body) => match body.frame().await {
                Some(frame) => {
                    check.read(frame?.data_ref().map_or(&[], |data| data));
                    Ok(true)
                }
                None => Ok(false),
            },
            Self::Quic(stream) => match stream.recv_data().await? {
                Some(mut piece) => {
                    while piece.has_remaining() {
                        let size = piece.chunk().len();
                        check.read(piece.chunk());
                        piece.advance(size);
                    }
                    Ok(true)
                }
                None => Ok(false),
            },
        }
    }
}
