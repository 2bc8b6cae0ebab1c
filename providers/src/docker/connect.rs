//! Ways to an engine: a Unix socket, TCP, and TLS over TCP.

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
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::{Options, Tls};
use crate::Error;

/// Silence on a connection before it is probed: an engine that vanished is noticed within about a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) struct Connector {
    endpoint: String,
    way: Way,
}

enum Way {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<(TlsConnector, ServerName<'static>)> },
}

impl Connector {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let endpoint = options.endpoint.trim().to_owned();
        let bad =
            |message: &str| Error::Option { option: "endpoint", message: format!("`{endpoint}`: {message}") };
        let (scheme, rest) = endpoint.split_once("://").unwrap_or(("unix", &endpoint));
        let way = match scheme {
            "unix" if rest.is_empty() => return Err(bad("the path of the socket is missing")),
            "unix" => Way::Unix(PathBuf::from(rest)),
            "tcp" | "http" | "https" => {
                let secure = scheme == "https" || options.tls.is_some();
                let authority = rest.trim_end_matches('/');
                if authority.contains('/') {
                    return Err(bad("a path is not supported"));
                }
                let (host, port) = host_port(authority, if secure { 2376 } else { 2375 })
                    .ok_or_else(|| bad("expected a host and a port, like `tcp://127.0.0.1:2375`"))?;
                let tls = if secure {
                    let name = ServerName::try_from(host.clone())
                        .map_err(|_| bad("the host is no name or address"))?;
                    Some((TlsConnector::from(Arc::new(client_config(options.tls.as_ref())?)), name))
                } else {
                    None
                };
                Way::Tcp { host, port, tls }
            }
            other => {
                let message = format!(
                    "`{other}://` is not supported: expected `unix://`, `tcp://`, `http://` or `https://`"
                );
                return Err(bad(&message));
            }
        };
        Ok(Self { endpoint, way })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// For the `Host` header.
    pub(super) fn host(&self) -> String {
        match &self.way {
            Way::Unix(_) => "docker".to_owned(),
            Way::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Way::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, String> {
        let fail = |error: std::io::Error| format!("cannot connect to {}: {error}", self.endpoint);
        match &self.way {
            Way::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(fail)?)),
            Way::Tcp { host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(fail)?;
                let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
                // Without it a lost engine is noticed later: no reason to give up.
                let _ = SockRef::from(&stream).set_tcp_keepalive(&keep_alive);
                match tls {
                    None => Ok(Box::new(stream)),
                    Some((connector, name)) => {
                        Ok(Box::new(connector.connect(name.clone(), stream).await.map_err(fail)?))
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

    fn connector(endpoint: &str) -> Result<String, String> {
        let options = Options { endpoint: endpoint.into(), ..Options::default() };
        Connector::new(&options).map(|connector| connector.host()).map_err(|error| error.to_string())
    }

    #[test]
    fn endpoints() {
        for (endpoint, host) in [
            ("unix:///var/run/docker.sock", "docker"),
            ("/var/run/docker.sock", "docker"),
            ("tcp://127.0.0.1:2375", "127.0.0.1:2375"),
            ("tcp://proxy", "proxy:2375"),
            ("http://[::1]:9/", "[::1]:9"),
        ] {
            assert_eq!(connector(endpoint).as_deref(), Ok(host), "{endpoint}");
        }
        for endpoint in ["ssh://host", "tcp://", "tcp://a:b", "unix://", "http://a/b"] {
            assert!(connector(endpoint).is_err(), "{endpoint}");
        }
    }
}
