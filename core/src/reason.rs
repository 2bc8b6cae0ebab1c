//! Why a response is not from a server, and who sent it.

use crate::UpstreamError;

/// Who responded to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A server, whose response may have been changed by middlewares.
    Server,
    /// A middleware that did not pass the request on, or replaced the response.
    Middleware,
    /// The gateway itself.
    Gateway,
    /// No one: the client disconnected, or sent something that could not be read completely.
    Client,
}

impl Origin {
    /// Returns the name in logs and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Middleware => "middleware",
            Self::Gateway => "gateway",
            Self::Client => "client",
        }
    }
}

/// All reasons in one table: a description, the name that users see, who is responsible, and the type of error in
/// `Proxy-Status`.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $reason:ident = $name:literal, $origin:ident, $error:literal;)+) => {
        /// Why a response is not from a server, or what was wrong with the server's response.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[doc = $doc])+ $reason,)+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &[Self] = &[$(Self::$reason),+];

            /// Returns the name in logs and in the API.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => $name,)+
                }
            }

            /// Returns what it means, in a sentence.
            pub fn description(self) -> &'static str {
                match self {
                    $(Self::$reason => concat!($($doc),+).trim_ascii(),)+
                }
            }

            /// Returns who is responsible.
            pub fn origin(self) -> Origin {
                match self {
                    $(Self::$reason => Origin::$origin,)+
                }
            }

            /// Returns the type of error in `Proxy-Status` (RFC 9209 section 2.3).
            pub fn proxy_error(self) -> &'static str {
                match self {
                    $(Self::$reason => $error,)+
                }
            }
        }
    };
}

reasons! {
    /// The request is malformed or ambiguous.
    MalformedRequest = "malformed_request", Gateway, "http_request_error";
    /// The request's head is larger than allowed, or exceeds the memory left for heads.
    HeadTooLarge = "head_too_large", Gateway, "http_request_error";
    /// The request's target is longer than allowed.
    TargetTooLong = "target_too_long", Gateway, "http_request_error";
    /// The request's path contains encoded characters that the entry point does not allow.
    EncodedCharacters = "encoded_characters", Gateway, "http_request_denied";
    /// `Expect` has a value other than `100-continue`.
    ExpectationFailed = "expectation_failed", Gateway, "http_request_error";
    /// `OPTIONS *`, which is handled by the entry point.
    ServerOptions = "server_options", Gateway, "proxy_internal_response";
    /// The host has different TLS options from those of its connection.
    Misdirected = "misdirected", Gateway, "http_request_error";
    /// The client's certificate is revoked.
    CertificateRevoked = "certificate_revoked", Gateway, "http_request_denied";
    /// The client's certificate has expired since the handshake, or its authority is no longer trusted.
    CertificateInvalid = "certificate_invalid", Gateway, "http_request_denied";
    /// It is not known whether the client's certificate is revoked.
    CertificateUnverified = "certificate_unverified", Gateway, "proxy_internal_error";
    /// No router matches the request.
    NoRouter = "no_router", Gateway, "destination_not_found";
    /// The router is broken.
    RouterBroken = "router_broken", Gateway, "proxy_configuration_error";
    /// The router is in maintenance.
    Maintenance = "maintenance", Gateway, "destination_unavailable";
    /// The entry point redirects (`http.redirections`), or a middleware does.
    Redirect = "redirect", Middleware, "proxy_internal_response";
    /// A service of the gateway responds: `/ping`, the API, the dashboard, a challenge, or files (`static`).
    OwnService = "own_service", Gateway, "proxy_internal_response";
    /// A timeout of the router expired before the response.
    RouterTimeout = "router_timeout", Gateway, "http_response_timeout";
    /// A fault in the gateway: a panic, or a state that should be impossible.
    InternalError = "internal_error", Gateway, "proxy_internal_error";

    /// No valid credentials.
    Unauthenticated = "unauthenticated", Middleware, "http_request_denied";
    /// The client has no verified certificate (`clientCertificate`).
    CertificateRequired = "certificate_required", Middleware, "http_request_denied";
    /// The client's certificate is not that of a consumer (`clientCertificate`).
    CertificateUnknown = "certificate_unknown", Middleware, "http_request_denied";
    /// The API key has a typing error or another form, or the request has several.
    ApiKeyMalformed = "api_key_malformed", Middleware, "http_request_denied";
    /// The API key is unknown.
    ApiKeyUnknown = "api_key_unknown", Middleware, "http_request_denied";
    /// The API key is not valid yet (`notBefore`).
    ApiKeyNotYetValid = "api_key_not_yet_valid", Middleware, "http_request_denied";
    /// The API key is expired (`expires`).
    ApiKeyExpired = "api_key_expired", Middleware, "http_request_denied";
    /// The API key is revoked.
    ApiKeyRevoked = "api_key_revoked", Middleware, "http_request_denied";
    /// The API key is not valid from the client's address.
    ApiKeyAddress = "api_key_address", Middleware, "http_request_denied";
    /// The API key lacks a required scope.
    ApiKeyScope = "api_key_scope", Middleware, "http_request_denied";
    /// Not authorised.
    Forbidden = "forbidden", Middleware, "http_request_denied";
    /// A step of a sign-in: a redirect to a provider or back, a choice of providers, a log-out (`oidc`).
    SignIn = "sign_in", Middleware, "proxy_internal_response";
    /// A sign-in or a log-out is refused: it is too old, not of this browser, or not from the provider (`oidc`).
    SignInRefused = "sign_in_refused", Middleware, "http_request_denied";
    /// The authentication server's response is passed on (`forwardAuth`).
    AuthenticationAnswer = "authentication_answer", Middleware, "http_request_denied";
    /// The client's consumer has a mistake in the configuration, or two consumers have its credential.
    ConsumerBroken = "consumer_broken", Gateway, "proxy_configuration_error";
    /// Authentication failed to decide: its server is unreachable, or too many checks are queued.
    AuthenticationUnavailable = "authentication_unavailable", Middleware, "proxy_internal_error";
    /// The client's address is not allowed.
    AddressDenied = "address_denied", Middleware, "http_request_denied";
    /// A decision of CrowdSec bans the client's address (`crowdsec`).
    AddressBanned = "address_banned", Middleware, "http_request_denied";
    /// A decision of CrowdSec requires a captcha, or the client has just solved it (`crowdsec`).
    Captcha = "captcha", Middleware, "http_request_denied";
    /// CrowdSec's AppSec refuses the request, or cannot inspect its body (`crowdsec`).
    AppsecBlocked = "appsec_blocked", Middleware, "http_request_denied";
    /// CrowdSec cannot be asked for a decision, or does not answer (`crowdsec`).
    DecisionUnavailable = "decision_unavailable", Middleware, "proxy_internal_error";
    /// A policy denies the request (`opa`).
    PolicyDenied = "policy_denied", Middleware, "http_request_denied";
    /// A policy cannot be evaluated, or its result is not a decision (`opa`).
    PolicyFailed = "policy_failed", Middleware, "proxy_internal_error";
    /// There is no decision in time: the OPA server does not answer, or too many evaluations are queued (`opa`).
    PolicyUnavailable = "policy_unavailable", Middleware, "proxy_internal_error";
    /// The host is not allowed (`allowedHosts`).
    HostDenied = "host_denied", Middleware, "http_request_denied";
    /// The rate exceeds the limit.
    RateLimited = "rate_limited", Middleware, "http_request_denied";
    /// The quota of the consumer's plan is used up.
    QuotaExceeded = "quota_exceeded", Middleware, "http_request_denied";
    /// The number of concurrent requests exceeds the limit.
    TooManyInFlight = "too_many_in_flight", Middleware, "http_request_denied";
    /// The store of a shared limit is unavailable.
    LimitUnavailable = "limit_unavailable", Middleware, "proxy_internal_error";
    /// The circuit breaker is open.
    CircuitOpen = "circuit_open", Middleware, "destination_unavailable";
    /// The request's body is larger than allowed.
    RequestTooLarge = "request_too_large", Middleware, "http_request_error";
    /// The response's body is larger than allowed.
    ResponseTooLarge = "response_too_large", Middleware, "http_response_body_size";
    /// The response's body failed while a middleware read it.
    ResponseBroken = "response_broken", Middleware, "http_response_incomplete";
    /// The response is configured (`respond`).
    Configured = "configured", Middleware, "proxy_internal_response";
    /// The response is from the cache (`cache`).
    Cached = "cached", Middleware, "proxy_internal_response";
    /// The client wants a response from the cache only, and there is none (`cache`).
    NotCached = "not_cached", Middleware, "proxy_internal_response";
    /// The response to a preflight request (CORS).
    Preflight = "preflight", Middleware, "proxy_internal_response";
    /// The path cannot be changed as configured.
    PathRefused = "path_refused", Middleware, "http_request_error";
    /// The page for an error could not be requested.
    ErrorPage = "error_page", Middleware, "proxy_internal_error";

    /// The service has no usable server.
    NoServer = "no_server", Gateway, "destination_unavailable";
    /// As many files as may be read at once have not been read in time (`static`).
    FilesBusy = "files_busy", Gateway, "destination_unavailable";
    /// Connecting to the server failed.
    ConnectFailed = "connect_failed", Gateway, "destination_unavailable";
    /// Connecting to the server timed out.
    ConnectTimeout = "connect_timeout", Gateway, "connection_timeout";
    /// The TLS handshake with the server failed.
    TlsFailed = "tls_failed", Gateway, "tls_protocol_error";
    /// The connection to the server was lost before its response.
    ConnectionLost = "connection_lost", Gateway, "connection_terminated";
    /// The server did not respond in time.
    ResponseTimeout = "response_timeout", Gateway, "http_response_timeout";
    /// The server's response is malformed or ambiguous.
    MalformedResponse = "malformed_response", Gateway, "http_protocol_error";

    /// The client disconnected before the response.
    ClientGone = "client_gone", Client, "http_request_error";
    /// The client did not send its request in time.
    ClientTimeout = "client_timeout", Client, "http_request_error";
}

impl Reason {
    /// Returns what clients may know: not why a credential is refused, which would help to guess one.
    #[must_use]
    pub fn public(self) -> Self {
        match self {
            Self::ApiKeyMalformed
            | Self::ApiKeyUnknown
            | Self::ApiKeyNotYetValid
            | Self::ApiKeyExpired
            | Self::ApiKeyRevoked
            | Self::ApiKeyAddress => Self::Unauthenticated,
            Self::ApiKeyScope => Self::Forbidden,
            other => other,
        }
    }

    /// Returns true if the client was refused for who it is, or because that is not known.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            Self::Unauthenticated
                | Self::CertificateRevoked
                | Self::CertificateInvalid
                | Self::CertificateUnverified
                | Self::CertificateRequired
                | Self::CertificateUnknown
                | Self::ApiKeyMalformed
                | Self::ApiKeyUnknown
                | Self::ApiKeyNotYetValid
                | Self::ApiKeyExpired
                | Self::ApiKeyRevoked
                | Self::ApiKeyAddress
                | Self::ApiKeyScope
                | Self::Forbidden
                | Self::SignInRefused
                | Self::AuthenticationAnswer
                | Self::ConsumerBroken
                | Self::AuthenticationUnavailable
                | Self::AddressDenied
                | Self::PolicyDenied
                | Self::PolicyFailed
                | Self::PolicyUnavailable
        )
    }
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
