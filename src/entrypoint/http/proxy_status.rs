//! `Proxy-Status` (RFC 9209): tells clients whether the gateway responded, and how a server failed.

use std::fmt::Write as _;

use http::{HeaderName, HeaderValue};
use tidegate_core::{BuildError, ConnectCause, Exchange, Reason, Response, UpstreamError};

use crate::settings::ProxyStatus as Options;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Adds the header to responses.
pub(in crate::entrypoint) struct ProxyStatus {
    /// The name of the gateway, as an item of a structured field.
    name: String,
    next_hop: bool,
    details: bool,
}

impl ProxyStatus {
    /// Checks the options.
    pub(in crate::entrypoint) fn new(options: &Options) -> Result<Self, BuildError> {
        let name = options.name.as_str();
        if name.is_empty() || !name.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            let message = format!("http.proxyStatus.name: invalid name `{name}`: expected printable ASCII");
            return Err(BuildError::new(message));
        }
        let name = if is_token(name) { name.to_owned() } else { quoted(name) };
        Ok(Self { name, next_hop: options.next_hop, details: options.details })
    }

    /// Appends the header to a response of the gateway, to a failure of a server, and to a response that has one
    /// already.
    pub(in crate::entrypoint) fn apply(&self, response: &mut Response, exchange: Option<&Exchange>) {
        let attempt = exchange.and_then(Exchange::last_attempt);
        let received = attempt.filter(|attempt| !attempt.is_replaced()).and_then(|attempt| attempt.status());
        let status = response.status().as_u16();
        let mut member = self.name.clone();
        match response.reason {
            // As good as the server's: nothing has failed.
            Some(Reason::Cached) => return,
            Some(reason) => {
                let error =
                    response.failure.as_deref().map_or_else(|| reason.proxy_error(), error_of_failure);
                // Writing to a string cannot fail, here and below.
                let _ = write!(member, "; error={error}");
            }
            None if response.headers().contains_key(PROXY_STATUS) => {}
            None if received.is_some_and(|received| received >= 500 || received != status) => {}
            None => return,
        }
        if let Some(received) = received {
            let _ = write!(member, "; received-status={received}");
        }
        if let Some(server) = attempt.and_then(|attempt| attempt.server.as_ref()).filter(|_| self.next_hop) {
            let _ = write!(member, "; next-hop={}", quoted(&server.address));
        }
        if let Some(reason) = response.reason.filter(|_| self.details) {
            let _ = write!(member, "; details=\"{}\"", reason.name());
        }
        if let Ok(value) = HeaderValue::try_from(member) {
            response.headers_mut().append(PROXY_STATUS, value);
        }
    }
}

/// Returns the registered type of error of a failure.
fn error_of_failure(failure: &UpstreamError) -> &'static str {
    match failure {
        UpstreamError::Connect { cause, .. } => match cause {
            ConnectCause::Refused => "connection_refused",
            ConnectCause::Unroutable => "destination_ip_unroutable",
            ConnectCause::Name => "dns_error",
            ConnectCause::Alert => "tls_alert_received",
            ConnectCause::Other => "destination_unavailable",
        },
        UpstreamError::Tls { is_certificate: true, .. } => "tls_certificate_error",
        other => Reason::from(other).proxy_error(),
    }
}

/// Returns true for a token of structured fields (RFC 9651 section 3.3.4).
fn is_token(text: &str) -> bool {
    let is_next = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte);
    text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'*')
        && text.bytes().all(is_next)
}

/// Returns a string of structured fields (RFC 9651 section 3.3.3).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_tokens_or_strings() {
        let name = |name: &str| ProxyStatus::new(&Options { name: name.into(), ..Options::default() });
        assert_eq!(name("edge-1.example").unwrap().name, "edge-1.example");
        assert_eq!(name("my \"edge\"").unwrap().name, "\"my \\\"edge\\\"\"");
        assert_eq!(name("10.0.0.1").unwrap().name, "\"10.0.0.1\"");
        assert!(name("").is_err() && name("é").is_err() && name("a\nb").is_err());
    }

    #[test]
    fn every_reason_has_a_registered_type() {
        // The registry of RFC 9209 section 2.3.
        const REGISTERED: [&str; 17] = [
            "destination_not_found",
            "destination_unavailable",
            "connection_refused",
            "connection_terminated",
            "connection_timeout",
            "tls_protocol_error",
            "tls_certificate_error",
            "http_request_error",
            "http_request_denied",
            "http_response_incomplete",
            "http_response_body_size",
            "http_response_timeout",
            "http_protocol_error",
            "proxy_internal_response",
            "proxy_internal_error",
            "proxy_configuration_error",
            "dns_error",
        ];
        for reason in Reason::ALL {
            assert!(REGISTERED.contains(&reason.proxy_error()), "{reason:?}");
        }
    }
}
