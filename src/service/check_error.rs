//! Errors of health checks.

use http::header::ToStrError;
use http::uri::InvalidUri;
use tidegate_core::{BuildError, UpstreamError};

/// Why a health check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// The server did not respond in time.
    #[error("no response within {0:?}")]
    TimedOut(std::time::Duration),
    /// The server redirects too often.
    #[error("too many redirects")]
    TooManyRedirects,
    /// The `Location` is not text.
    #[error("unreadable Location")]
    UnreadableLocation(#[source] ToStrError),
    /// The `Location` is not a URL.
    #[error("Location `{location}`: {source}")]
    Location {
        /// The value of `Location`.
        location: String,
        /// The cause.
        source: url::ParseError,
    },
    /// The server redirects to a URL that is not supported.
    #[error(transparent)]
    Endpoint(#[from] BuildError),
    /// The path is invalid.
    #[error(transparent)]
    Target(#[from] InvalidUri),
    /// The server cannot be reached.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The status is not the expected one.
    #[error("status {0}")]
    Status(u16),
    /// The gRPC status is an error.
    #[error("grpc-status {0:?}")]
    GrpcStatus(Option<String>),
    /// The server does not implement gRPC health checks.
    #[error("the server does not implement the gRPC health protocol")]
    GrpcUnimplemented,
    /// The server reports that it is not serving.
    #[error("the server does not report SERVING")]
    NotServing,
}

/// A health check of a Unix socket has a port or scheme.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("port and scheme cannot be set for a Unix socket")]
pub(super) struct SocketHasNoPort;
