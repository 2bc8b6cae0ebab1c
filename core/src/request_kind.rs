//! What metrics distinguish of a request: its method, and the protocol on top of HTTP.

use http::Method;

/// The methods that are shown by name (RFC 9110 section 9, RFC 5789).
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"];
/// All other methods. As in Traefik, since clients can send any.
const EXTENSION_METHOD: &str = "EXTENSION_METHOD";

/// What a request asks for, as far as metrics distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKind {
    /// Index of the method in [`METHODS`]; its length for any other.
    method: u8,
    /// The protocol on top of HTTP.
    pub protocol: Protocol,
}

/// The protocol on top of HTTP, by what the request says. The names are Traefik's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `http`: none.
    Http,
    /// `websocket`: the request asks for an upgrade.
    WebSocket,
    /// `sse`: server-sent events.
    Sse,
    /// `grpc`: status codes are those of gRPC.
    Grpc,
    /// `grpc-web`: status codes are those of gRPC.
    GrpcWeb,
}

impl RequestKind {
    /// Returns the kind of a request with this method and protocol.
    pub fn new(method: &Method, protocol: Protocol) -> Self {
        let index = METHODS.iter().position(|known| *known == method.as_str()).unwrap_or(METHODS.len());
        Self { method: index as u8, protocol }
    }

    /// Returns the method, or `EXTENSION_METHOD` for one outside of the standard.
    pub fn method(self) -> &'static str {
        METHODS.get(usize::from(self.method)).unwrap_or(&EXTENSION_METHOD)
    }
}

impl Protocol {
    /// Returns the name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::WebSocket => "websocket",
            Self::Sse => "sse",
            Self::Grpc => "grpc",
            Self::GrpcWeb => "grpc-web",
        }
    }

    /// Returns true for gRPC in any form.
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcWeb)
    }
}
