//! Ways to a source: a Unix socket, TCP, and TLS over TCP.
//!
//! Every provider reaches its source through here, so that there is one place for keep-alive, timeouts and TLS.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;

use crate::Error;
use crate::dial::{self, Peer};

/// Silence on a connection before it is probed, and between two probes: a source that vanished is noticed within a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const PROBES: u32 = 2;

/// TLS towards a source (Traefik's `tls` of providers). Each of the files may be given as PEM itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates to trust instead of the system's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca: String,
    /// Our certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert: String,
    /// Its key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Accept any certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_skip_verify: bool,
}

/// How an endpoint of a kind of source is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// The option that holds it.
    pub(crate) option: &'static str,
    /// Schemes that mean TCP; TLS is used when there is `tls`.
    pub(crate) plain: &'static [&'static str],
    /// Schemes that always mean TLS.
    pub(crate) secure: &'static [&'static str],
    /// The scheme of an endpoint without one.
    pub(crate) otherwise: &'static str,
    /// The port of an endpoint without one, without and with TLS.
    pub(crate) ports: (u16, u16),
    /// An example, for errors.
    pub(crate) example: &'static str,
}

/// Failure to connect to a source.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection or its TLS handshake failed.
    #[error("cannot connect to {endpoint}: {source}")]
    Failed {
        /// The endpoint as it is configured.
        endpoint: String,
        /// The cause.
        source: io::Error,
    },
    /// The connection, TLS included, was not established in time.
    #[error("cannot connect to {endpoint} within {limit:?}")]
    TimedOut {
        /// The endpoint as it is configured.
        endpoint: String,
        /// The time limit.
        limit: Duration,
    },
}

/// A stream to a source, and the other end of it where the endpoint is a name.
pub(crate) type Connected = (Box<dyn Stream>, Option<Peer>);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A way to one endpoint of a source. Made by [`crate::redis_client::connector`] and its like.
pub struct Connector {
    endpoint: String,
    way: Way,
}

enum Way {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<(TlsConnector, ServerName<'static>)> },
}

impl Connector {
    /// Reads an endpoint. Nothing is connected yet.
    pub(crate) fn new(form: &Form, endpoint: &str, tls: Option<&Tls>) -> Result<Self, Error> {
        let endpoint = endpoint.trim().to_owned();
        let bad = |message: &str| Error::Option {
            option: form.option,
            message: format!("`{endpoint}`: {message}"),
        };
        let (scheme, rest) = endpoint.split_once("://").unwrap_or((form.otherwise, &endpoint));
        if scheme == "unix" {
            if rest.is_empty() {
                return Err(bad("the path of the socket is missing"));
            }
            let way = Way::Unix(PathBuf::from(rest));
            return Ok(Self { endpoint, way });
        }
        let secure = form.secure.contains(&scheme);
        if !secure && !form.plain.contains(&scheme) {
            let known: Vec<String> = ["unix"]
                .iter()
                .chain(form.plain)
                .chain(form.secure)
                .map(|scheme| format!("`{scheme}://`"))
                .collect();
            return Err(bad(&format!("`{scheme}://` is not supported: expected {}", known.join(", "))));
        }
        let secure = secure || tls.is_some();
        let authority = rest.trim_end_matches('/');
        if authority.contains('/') {
            return Err(bad("a path is not supported"));
        }
        let (host, port) = host_port(authority, if secure { form.ports.1 } else { form.ports.0 })
            .ok_or_else(|| bad(&format!("expected a host and a port, like `{}`", form.example)))?;
        let tls = if secure {
            let name =
                ServerName::try_from(host.clone()).map_err(|_| bad("the host is not a name or address"))?;
            Some((TlsConnector::from(Arc::new(client_config(tls)?)), name))
        } else {
            None
        };
        let way = Way::Tcp { host, port, tls };
        Ok(Self { endpoint, way })
    }

    /// The endpoint as it was written, for messages.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// For the `Host` header.
    pub(crate) fn host(&self) -> String {
        match &self.way {
            Way::Unix(_) => "localhost".to_owned(),
            Way::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Way::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// Connects, TLS included, within a time limit.
    pub(crate) async fn connect_within(&self, limit: Duration) -> Result<Connected, ConnectError> {
        timeout(limit, self.connect())
            .await
            .map_err(|_| ConnectError::TimedOut { endpoint: self.endpoint.clone(), limit })?
    }

    async fn connect(&self) -> Result<Connected, ConnectError> {
        let fail = |source| ConnectError::Failed { endpoint: self.endpoint.clone(), source };
        match &self.way {
            Way::Unix(path) => Ok((Box::new(UnixStream::connect(path).await.map_err(fail)?), None)),
            Way::Tcp { host, port, tls } => {
                let dialled = dial::connect(host, *port).await.map_err(fail)?;
                let peer = Peer::new(host, &dialled);
                let stream = dialled.stream;
                let keep_alive =
                    TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE).with_retries(PROBES);
                // Without it a lost engine is noticed later: no reason to give up.
                let _ = SockRef::from(&stream).set_tcp_keepalive(&keep_alive);
                match tls {
                    None => Ok((Box::new(stream), peer)),
                    Some((connector, name)) => {
                        let stream = connector.connect(name.clone(), stream).await.map_err(fail)?;
                        Ok((Box::new(stream), peer))
                    }
                }
            }
        }
    }
}

fn host_port(authority: &str, default: u16) -> Option<(String, u16)> {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = if rest.is_empty() { default } else { rest.strip_prefix(':')?.parse().ok()? };
        return Some((host.to_owned(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, default),
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

fn client_config(tls: Option<&Tls>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let default = Tls::default();
    let tls = tls.unwrap_or(&default);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Option { option: "tls", message: error.to_string() })?;
    let builder = if tls.insecure_skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
    } else {
        let roots = Arc::new(roots(&tls.ca)?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| Error::Option { option: "tls.ca", message: error.to_string() })?;
        builder.with_webpki_verifier(verifier)
    };
    if tls.cert.is_empty() && tls.key.is_empty() {
        return Ok(builder.with_no_client_auth());
    }
    let chain = certificates("tls.cert", &tls.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&pem("tls.key", &tls.key)?)
        .map_err(|error| Error::Option { option: "tls.key", message: format!("no private key: {error}") })?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| Error::Option { option: "tls.cert", message: error.to_string() })
}

fn roots(ca: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let certificates = if ca.is_empty() {
        rustls_native_certs::load_native_certs().certs
    } else {
        certificates("tls.ca", ca)?
    };
    roots.add_parsable_certificates(certificates);
    Ok(roots)
}

fn certificates(option: &'static str, value: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem(option, value)?).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Error::Option { option, message: "no certificate in it".into() }),
        Err(error) => Err(Error::Option { option, message: error.to_string() }),
    }
}

/// A path, or PEM itself.
fn pem(option: &'static str, value: &str) -> Result<Vec<u8>, Error> {
    if value.contains("-----BEGIN") {
        return Ok(value.as_bytes().to_vec());
    }
    std::fs::read(value)
        .map_err(|error| Error::Option { option, message: format!("cannot read `{value}`: {error}") })
}

/// For `insecureSkipVerify`: any certificate will do, but the handshake must be signed by it.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
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
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(endpoint: &str) -> Option<String> {
        const FORM: Form = Form {
            option: "endpoint",
            plain: &["tcp", "http"],
            secure: &["https"],
            otherwise: "unix",
            ports: (2375, 2376),
            example: "tcp://127.0.0.1:2375",
        };
        Connector::new(&FORM, endpoint, None).ok().map(|connector| connector.host())
    }

    #[test]
    fn endpoints() {
        for (endpoint, expected) in [
            ("unix:///var/run/docker.sock", "localhost"),
            ("/var/run/docker.sock", "localhost"),
            ("tcp://127.0.0.1:2375", "127.0.0.1:2375"),
            ("tcp://proxy", "proxy:2375"),
            ("http://[::1]:9/", "[::1]:9"),
        ] {
            assert_eq!(host(endpoint).as_deref(), Some(expected), "{endpoint}");
        }
        for endpoint in ["ssh://host", "tcp://", "tcp://a:b", "unix://", "http://a/b"] {
            assert_eq!(host(endpoint), None, "{endpoint}");
        }
    }
}
