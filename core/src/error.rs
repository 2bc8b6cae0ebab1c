//! Why a request could not be served by a server: whose fault it is, and whether it may be tried again.

use http::StatusCode;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server, or the way to it.
    Upstream,
    /// The client: it went away, or sent something broken.
    Client,
    /// This gateway or its configuration.
    Gateway,
}

/// A failure between this gateway and a server. A response that stands for one carries it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection could be made: refused, unreachable, name not found.
    #[error("cannot connect to {server}: {reason}")]
    Connect {
        /// `host:port` of the server.
        server: String,
        /// What the system said.
        reason: String,
    },
    /// No connection within `forwardingTimeouts.dialTimeout`.
    #[error("timed out connecting to {server}")]
    ConnectTimeout {
        /// `host:port` of the server.
        server: String,
    },
    /// The TLS handshake with the server failed.
    #[error("TLS handshake with {server} failed: {reason}")]
    Tls {
        /// `host:port` of the server.
        server: String,
        /// What was wrong.
        reason: String,
    },
    /// The connection ended before an answer came. `sent` says whether the server may have seen the request.
    #[error("connection to {server} lost: {reason}")]
    Lost {
        /// `host:port` of the server.
        server: String,
        /// What was seen.
        reason: String,
        /// False only when no byte of the request can have reached the server.
        sent: bool,
    },
    /// No response head within `forwardingTimeouts.responseHeaderTimeout`.
    #[error("timed out waiting for {server}")]
    ResponseTimeout {
        /// `host:port` of the server.
        server: String,
    },
    /// The server's answer was not HTTP.
    #[error("malformed response from {server}: {reason}")]
    Malformed {
        /// `host:port` of the server.
        server: String,
        /// What was wrong.
        reason: String,
    },
    /// The service has no server that may be used.
    #[error("no available server")]
    NoServer,
    /// The client went away, or its body broke off.
    #[error("client closed request")]
    ClientGone,
    /// The client did not send its body in time.
    #[error("client was too slow")]
    ClientTimeout,
    /// The request body is larger than a limit.
    #[error("request body too large")]
    TooLarge,
    /// Anything else: a fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl UpstreamError {
    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::ClientGone | Self::ClientTimeout | Self::TooLarge => Fault::Client,
            Self::Internal(_) => Fault::Gateway,
            _ => Fault::Upstream,
        }
    }

    /// True when the server cannot have acted on the request, so that any method may be sent again.
    pub fn is_unsent(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::ConnectTimeout { .. }
                | Self::Tls { .. }
                | Self::Lost { sent: false, .. }
                | Self::NoServer
        )
    }

    /// True for failures of the network, as `retry` and the circuit breaker count them.
    pub fn is_network(&self) -> bool {
        self.fault() == Fault::Upstream && !matches!(self, Self::NoServer)
    }

    /// The status that the client sees (Traefik's table, see docs/differences.md).
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Connect { .. } | Self::Lost { .. } => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout { .. } | Self::ResponseTimeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::NoServer => StatusCode::SERVICE_UNAVAILABLE,
            Self::ClientGone => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::ClientTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Tls { .. } | Self::Malformed { .. } | Self::Internal(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }
}
