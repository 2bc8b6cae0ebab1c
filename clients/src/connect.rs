//! Connections to other programs: over a Unix socket, TCP, or TLS over TCP.
//!
//! All clients of this crate connect through this module, which sets keep-alive, timeouts and TLS.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};
use tidegate_core::values::is_default;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::OptionError;
use crate::dial::{self, Peer};
use crate::peer_state::{PeerState, System};
use crate::tls::{Part, TlsError, TlsOptions};

/// Idle time before a keep-alive probe, and between probes: a lost peer is noticed within a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const PROBES: u32 = 2;

/// TLS options (Traefik's `tls` of providers). Each file can also be given as inline PEM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates to trust instead of the system's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca: String,
    /// The client certificate.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert: String,
    /// Its key.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Accept any certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure_skip_verify: bool,
}

/// The syntax of endpoints of one kind of server.
#[derive(Clone, Copy, Debug)]
pub struct Syntax {
    /// The option that holds it.
    pub option: &'static str,
    /// Schemes for TCP, or for TLS if `tls` is set.
    pub plain: &'static [&'static str],
    /// Schemes for TLS.
    pub secure: &'static [&'static str],
    /// The default scheme.
    pub otherwise: &'static str,
    /// The default ports without and with TLS.
    pub ports: (u16, u16),
    /// An example, for errors.
    pub example: &'static str,
}

/// Failure to connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The connection or its TLS handshake failed.
    #[error("cannot connect to {endpoint}: {source}")]
    Failed {
        /// The configured endpoint.
        endpoint: String,
        /// The cause.
        source: io::Error,
    },
    /// The connection, TLS included, was not established in time.
    #[error("cannot connect to {endpoint} within {limit:?}")]
    TimedOut {
        /// The configured endpoint.
        endpoint: String,
        /// The time limit.
        limit: Duration,
    },
}

/// A stream, and its peer if the endpoint has a host name.
pub(crate) type Connected = (Box<dyn Stream>, Option<Peer>);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects to one endpoint.
pub struct Connector {
    endpoint: String,
    address: Address,
    state: Option<Arc<PeerState>>,
}

enum Address {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<(TlsConnector, ServerName<'static>)> },
}

impl Connector {
    /// Parses an endpoint and prepares TLS, without connecting.
    pub fn new(syntax: &Syntax, endpoint: &str, tls: Option<&Tls>) -> Result<Self, OptionError> {
        let config = || client_config(tls.unwrap_or(&Tls::default()));
        Self::parse(syntax, endpoint, tls.is_some(), config, "")
    }

    /// Like [`new`](Self::new), with options of TLS that are read already, for endpoints that ask for TLS.
    /// `server_name` is verified instead of the host unless it is empty.
    pub fn with_tls(
        syntax: &Syntax,
        endpoint: &str,
        tls: &TlsOptions,
        server_name: &str,
    ) -> Result<Self, OptionError> {
        let config = || tls.client_config().map_err(|error| OptionError::new("tls", error.to_string()));
        Self::parse(syntax, endpoint, false, config, server_name)
    }

    /// Like [`new`](Self::new), but the scheme alone decides about TLS.
    pub fn by_scheme(syntax: &Syntax, endpoint: &str, tls: &Tls) -> Result<Self, OptionError> {
        Self::parse(syntax, endpoint, false, || client_config(tls), "")
    }

    /// Offers only this application protocol in TLS handshakes.
    #[must_use]
    pub fn with_alpn(mut self, protocol: &[u8]) -> Self {
        if let Address::Tcp { tls: Some((connector, _)), .. } = &mut self.address {
            let mut config = ClientConfig::clone(connector.config());
            config.alpn_protocols = vec![protocol.to_vec()];
            *connector = TlsConnector::from(Arc::new(config));
        }
        self
    }

    /// Returns true if the connections use TLS.
    pub fn is_secure(&self) -> bool {
        matches!(&self.address, Address::Tcp { tls: Some(_), .. })
    }

    /// `secure` asks for TLS where the scheme leaves it open.
    fn parse(
        syntax: &Syntax,
        endpoint: &str,
        secure: bool,
        config: impl FnOnce() -> Result<ClientConfig, OptionError>,
        server_name: &str,
    ) -> Result<Self, OptionError> {
        let endpoint = endpoint.trim().to_owned();
        let bad = |message: &str| OptionError::new(syntax.option, format!("`{endpoint}`: {message}"));
        let (scheme, rest) = endpoint.split_once("://").unwrap_or((syntax.otherwise, &endpoint));
        if scheme == "unix" {
            if rest.is_empty() {
                return Err(bad("missing socket path"));
            }
            let address = Address::Unix(PathBuf::from(rest));
            return Ok(Self { endpoint, address, state: None });
        }
        let is_secure = syntax.secure.contains(&scheme);
        if !is_secure && !syntax.plain.contains(&scheme) {
            let known: Vec<String> = ["unix"]
                .iter()
                .chain(syntax.plain)
                .chain(syntax.secure)
                .map(|scheme| format!("`{scheme}://`"))
                .collect();
            return Err(bad(&format!("`{scheme}://` is not supported: expected {}", known.join(", "))));
        }
        let secure = secure || is_secure;
        let authority = rest.trim_end_matches('/');
        if authority.contains('/') {
            return Err(bad("a path is not supported"));
        }
        let (host, port) = host_port(authority, if secure { syntax.ports.1 } else { syntax.ports.0 })
            .ok_or_else(|| bad(&format!("expected a host and a port, such as `{}`", syntax.example)))?;
        let tls = if secure {
            let name = if server_name.is_empty() { host.clone() } else { server_name.to_owned() };
            let name =
                ServerName::try_from(name).map_err(|_| bad("invalid host: expected a name or address"))?;
            Some((TlsConnector::from(Arc::new(config()?)), name))
        } else {
            None
        };
        let address = Address::Tcp { host, port, tls };
        Ok(Self { endpoint, address, state: None })
    }

    /// Has the outcomes of its connections recorded as those of an endpoint of this system.
    pub(crate) fn observed_as(self, system: System) -> Self {
        let state = Some(PeerState::of(system, &self.endpoint));
        Self { state, ..self }
    }

    /// Records whether the server could be reached.
    pub fn record(&self, succeeded: bool) {
        self.state.iter().for_each(|state| state.record(succeeded));
    }

    /// Returns the configured endpoint, for messages.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the name or address of the host; `None` for a Unix socket.
    pub(crate) fn host_name(&self) -> Option<&str> {
        match &self.address {
            Address::Unix(_) => None,
            Address::Tcp { host, .. } => Some(host),
        }
    }

    /// Returns the value of a `Host` header.
    pub fn host(&self) -> String {
        match &self.address {
            Address::Unix(_) => "localhost".to_owned(),
            Address::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Address::Tcp { host, port, .. } => format!("{host}:{port}"),
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
        match &self.address {
            Address::Unix(path) => Ok((Box::new(UnixStream::connect(path).await.map_err(fail)?), None)),
            Address::Tcp { host, port, tls } => {
                let dialled = dial::connect(host, *port).await.map_err(fail)?;
                let peer = Peer::new(host, &dialled);
                let stream = dialled.stream;
                let keep_alive =
                    TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE).with_retries(PROBES);
                // Without keep-alive, a lost peer is only noticed later, so errors are ignored.
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

fn client_config(tls: &Tls) -> Result<ClientConfig, OptionError> {
    let build = || {
        let options = TlsOptions::read(&tls.ca, &tls.cert, &tls.key)?;
        TlsOptions { insecure: tls.insecure_skip_verify, ..options }.client_config()
    };
    build().map_err(|error: TlsError| {
        let option = match error.part() {
            Part::Roots => "tls.ca",
            Part::Certificate => "tls.cert",
            Part::Key => "tls.key",
            Part::Protocol => "tls",
        };
        OptionError::new(option, error.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(endpoint: &str) -> Option<String> {
        const SYNTAX: Syntax = Syntax {
            option: "endpoint",
            plain: &["tcp", "http"],
            secure: &["https"],
            otherwise: "unix",
            ports: (2375, 2376),
            example: "tcp://127.0.0.1:2375",
        };
        Connector::new(&SYNTAX, endpoint, None).ok().map(|connector| connector.host())
    }

    #[test]
    fn endpoints_are_parsed() {
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

    #[test]
    fn invalid_tls_options_are_named() {
        let option = |tls: Tls| client_config(&tls).unwrap_err().option;
        assert_eq!(option(Tls { ca: "/nowhere/ca.pem".into(), ..Tls::default() }), "tls.ca");
        assert_eq!(option(Tls { cert: "/nowhere/cert.pem".into(), ..Tls::default() }), "tls.key");
        assert_eq!(option(Tls { key: "/nowhere/key.pem".into(), ..Tls::default() }), "tls.cert");
    }
}
