//! Why a request was answered by somebody other than a server, and who that was.

use crate::UpstreamError;

/// Who answered a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A server: the response is its own, perhaps changed by middlewares.
    Server,
    /// A middleware, which did not pass the request on or replaced the response.
    Middleware,
    /// The gateway itself.
    Gateway,
    /// Nobody: the client went away, or sent something that could not be read to its end.
    Client,
}

impl Origin {
    /// How it is written in logs and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Middleware => "middleware",
            Self::Gateway => "gateway",
            Self::Client => "client",
        }
    }
}

/// The reasons in one table: each with the name that users see, who answers for it, and its description.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $reason:ident = $name:literal, $origin:ident;)+) => {
        /// Why a request was answered without a server, or what was wrong with the answer of the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $reason,)+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$reason),+];

            /// How it is written in logs and in the API.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }

            /// Who answers for it.
            pub fn origin(self) -> Origin {
                match self {
                    $(Self::$reason => Origin::$origin,)+
                }
            }
        }
    };
}

reasons! {
    /// The request cannot be read, or could be read in two ways.
    MalformedRequest = "malformed_request", Gateway;
    /// The request's head is larger than allowed, or exceeds the memory left for heads.
    HeadTooLarge = "head_too_large", Gateway;
    /// The request's target is longer than allowed.
    TargetTooLong = "target_too_long", Gateway;
    /// The request's path has encoded characters that the entry point does not allow.
    EncodedCharacters = "encoded_characters", Gateway;
    /// `Expect` asks for something other than `100-continue`.
    ExpectationFailed = "expectation_failed", Gateway;
    /// `OPTIONS *`, which the entry point answers.
    ServerOptions = "server_options", Gateway;
    /// The host has other TLS options than its connection was made with.
    Misdirected = "misdirected", Gateway;
    /// No router takes the request.
    NoRouter = "no_router", Gateway;
    /// The router is broken.
    RouterBroken = "router_broken", Gateway;
    /// The entry point redirects (`http.redirections`), or a middleware does.
    Redirect = "redirect", Middleware;
    /// One of the gateway's own services answers: `/ping`, the API, the dashboard, a challenge.
    OwnService = "own_service", Gateway;
    /// A timeout of the router ran out before the answer.
    RouterTimeout = "router_timeout", Gateway;
    /// A fault of the gateway: a panic, or something that cannot happen.
    InternalError = "internal_error", Gateway;

    /// No valid credentials.
    Unauthenticated = "unauthenticated", Middleware;
    /// No rights.
    Forbidden = "forbidden", Middleware;
    /// The authentication server's answer is passed on (`forwardAuth`).
    AuthenticationAnswer = "authentication_answer", Middleware;
    /// Authentication cannot be decided: its server cannot be reached, or there is too much to check.
    AuthenticationUnavailable = "authentication_unavailable", Middleware;
    /// The client's address is not allowed.
    AddressDenied = "address_denied", Middleware;
    /// The host is not allowed (`allowedHosts`).
    HostDenied = "host_denied", Middleware;
    /// More requests than the limit allows.
    RateLimited = "rate_limited", Middleware;
    /// More requests at once than the limit allows.
    TooManyInFlight = "too_many_in_flight", Middleware;
    /// The store of a shared limit cannot be asked.
    LimitUnavailable = "limit_unavailable", Middleware;
    /// The circuit breaker is open.
    CircuitOpen = "circuit_open", Middleware;
    /// The request's body is larger than allowed.
    RequestTooLarge = "request_too_large", Middleware;
    /// The response's body is larger than allowed.
    ResponseTooLarge = "response_too_large", Middleware;
    /// The response's body broke off while a middleware read it.
    ResponseBroken = "response_broken", Middleware;
    /// A preflight request (CORS) is answered.
    Preflight = "preflight", Middleware;
    /// The path cannot be changed as configured.
    PathRefused = "path_refused", Middleware;
    /// A page for an error cannot be asked for.
    ErrorPage = "error_page", Middleware;

    /// The service has no server that may be used.
    NoServer = "no_server", Gateway;
    /// No connection to the server could be made.
    ConnectFailed = "connect_failed", Gateway;
    /// No connection to the server in time.
    ConnectTimeout = "connect_timeout", Gateway;
    /// The TLS handshake with the server failed.
    TlsFailed = "tls_failed", Gateway;
    /// The connection to the server ended before it had answered.
    ConnectionLost = "connection_lost", Gateway;
    /// The server did not answer in time.
    ResponseTimeout = "response_timeout", Gateway;
    /// The server's answer cannot be read, or could be read in two ways.
    MalformedResponse = "malformed_response", Gateway;

    /// The client went away before it had its answer.
    ClientGone = "client_gone", Client;
    /// The client did not send its request in time.
    ClientTimeout = "client_timeout", Client;
}

impl From<&UpstreamError> for Reason {
    fn from(error: &UpstreamError) -> Self {
        match error {
            UpstreamError::Connect { .. } => Self::ConnectFailed,
            UpstreamError::ConnectTimeout { .. } => Self::ConnectTimeout,
            UpstreamError::Tls { .. } => Self::TlsFailed,
            UpstreamError::Lost { .. } => Self::ConnectionLost,
            UpstreamError::ResponseTimeout { .. } => Self::ResponseTimeout,
            UpstreamError::Malformed { .. } => Self::MalformedResponse,
            UpstreamError::NoServer => Self::NoServer,
            UpstreamError::ClientGone => Self::ClientGone,
            UpstreamError::ClientTimeout => Self::ClientTimeout,
            UpstreamError::TooLarge => Self::RequestTooLarge,
            UpstreamError::Internal(_) => Self::InternalError,
        }
    }
}
