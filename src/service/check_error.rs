//! Why a server is not healthy.

use http::header::ToStrError;
use http::uri::InvalidUri;
use tidegate_core::{BuildError, UpstreamError};

/// Failure of one health check.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// The server did not answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(std::time::Duration),
    /// The server redirects again and again.
    #[error("too many redirects")]
    TooManyRedirects,
    /// The server redirects to something that is not text.
    #[error("unreadable Location")]
    UnreadableLocation(#[source] ToStrError),
    /// The server redirects to something that is not a URL.
    #[error("Location `{location}`: {source}")]
    Location {
        /// What it says.
        location: String,
        /// The cause.
        source: url::ParseError,
    },
    /// The server redirects to one that cannot be asked.
    #[error(transparent)]
    Endpoint(#[from] BuildError),
    /// The path cannot be sent.
    #[error(transparent)]
    Target(#[from] InvalidUri),
    /// The server cannot be reached.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The server answers with another status than expected.
    #[error("status {0}")]
    Status(u16),
    /// The server answers a gRPC check with an error.
    #[error("grpc-status {0:?}")]
    GrpcStatus(Option<String>),
    /// The server knows no gRPC checks.
    #[error("the server does not implement the gRPC health protocol")]
    GrpcUnimplemented,
    /// The server says that it does not serve.
    #[error("the server does not say SERVING")]
    NotServing,
}

/// Health checks of a socket have neither port nor scheme.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("port and scheme are none of a socket's")]
pub(super) struct SocketHasNoPort;
