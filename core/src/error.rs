//! Why a server could not handle a request: whose fault it is, and whether it can be retried.

use http::StatusCode;

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server, or the network in between.
    Upstream,
    /// The client: it disconnected, or sent something invalid.
    Client,
    /// This gateway or its configuration.
    Gateway,
}

/// What failed while connecting to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCause {
    /// The server refused the connection.
    Refused,
    /// Its network cannot be reached.
    Unroutable,
    /// Its name has no address, or could not be looked up.
    Name,
    /// It aborted the TLS handshake with an alert.
    Alert,
    /// The connection was closed, or anything else.
    Other,
}

impl From<&std::io::Error> for ConnectCause {
    fn from(error: &std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::Unroutable,
            ErrorKind::NotFound => Self::Name,
            _ => Self::Other,
        }
    }
}

/// A failure between this gateway and a server, carried by the response that represents it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Connecting failed: refused, unreachable, name not found.
    #[error("cannot connect to {server}: {reason}")]
    Connect {
        /// `host:port` of the server.
        server: String,
        /// The system's error.
        reason: String,
        /// What failed, as far as is known.
        cause: ConnectCause,
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
        /// The cause.
        reason: String,
        /// Whether the server's certificate was rejected, instead of a violation of the protocol.
        is_certificate: bool,
    },
    /// The connection was lost before the response. `sent` tells whether the server may have received the
    /// request.
    #[error("connection to {server} lost: {reason}")]
    Lost {
        /// `host:port` of the server.
        server: String,
        /// The cause.
        reason: String,
        /// False only if no byte of the request can have reached the server.
        sent: bool,
    },
    /// No response head within `forwardingTimeouts.responseHeaderTimeout`.
    #[error("timed out waiting for {server}")]
    ResponseTimeout {
        /// `host:port` of the server.
        server: String,
    },
    /// The server's response was not valid HTTP.
    #[error("malformed response from {server}: {reason}")]
    Malformed {
        /// `host:port` of the server.
        server: String,
        /// The cause.
        reason: String,
    },
    /// The service has no usable server.
    #[error("no available server")]
    NoServer,
    /// The client disconnected, or its body failed.
    #[error("client closed request")]
    ClientGone,
    /// The client did not send its body in time.
    #[error("client was too slow")]
    ClientTimeout,
    /// The request body is larger than a limit.
    #[error("request body too large")]
    TooLarge,
    /// Any other error in the gateway.
    #[error("{0}")]
    Internal(String),
}

impl UpstreamError {
    /// Returns whose fault it is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::ClientGone | Self::ClientTimeout | Self::TooLarge => Fault::Client,
            Self::Internal(_) => Fault::Gateway,
            _ => Fault::Upstream,
        }
    }

    /// Returns true when the server cannot have acted on the request, so that it can be retried with any
    /// method.
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

    /// Returns true for network failures, as counted by `retry` and the circuit breaker.
    pub fn is_network(&self) -> bool {
        self.fault() == Fault::Upstream && !matches!(self, Self::NoServer)
    }

    /// Returns the status for the client (Traefik's mapping, see docs/differences.md).
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
