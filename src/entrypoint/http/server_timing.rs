//! `Server-Timing` (W3C) for clients with a token: where the time until the head of the response went.

use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use http::{HeaderMap, HeaderName, HeaderValue};
use tidegate_core::{Attempt, BuildError, Exchange, Response};

use crate::settings::ServerTiming as Options;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// Maximum number of middlewares in a response.
const MAX_MIDDLEWARES: usize = 32;
/// Maximum number of attempts in a response.
const MAX_ATTEMPTS: usize = 8;

/// Recognizes requests with the token.
pub(in crate::entrypoint) struct ServerTiming {
    header: HeaderName,
    /// Digests are compared, so that the time of the comparison does not depend on the length of the token.
    token: Digest,
}

impl ServerTiming {
    /// Checks the options.
    pub(in crate::entrypoint) fn new(options: &Options) -> Result<Self, BuildError> {
        let bad = |what: String| BuildError::new(format!("http.serverTiming.{what}"));
        let token = options.token.expose().trim();
        if token.is_empty() {
            return Err(bad("token is empty: expected a secret text".into()));
        }
        let header = options.header.parse().map_err(|_| {
            bad(format!("header: invalid header name `{}`: expected one like `X-Debug`", options.header))
        })?;
        Ok(Self { header, token: digest(&SHA256, token.as_bytes()) })
    }

    /// Removes the header with the token from a request. Returns true if the token is right.
    pub(in crate::entrypoint) fn take_token(&self, headers: &mut HeaderMap) -> bool {
        let Some(value) = headers.remove(&self.header) else { return false };
        let digest = digest(&SHA256, value.as_bytes());
        verify_slices_are_equal(digest.as_ref(), self.token.as_ref()).is_ok()
    }
}

/// Appends the header to the response to a request whose times are recorded.
pub(in crate::entrypoint) fn apply(response: &mut Response, exchange: &Exchange) {
    let Some(timing) = exchange.timing() else { return };
    let mut metrics = Metrics(String::new());
    if let Some(routed) = exchange.routed() {
        metrics.add("route", routed, exchange.router());
    }
    for (number, (name, own)) in timing.middlewares().into_iter().take(MAX_MIDDLEWARES).enumerate() {
        metrics.add(&format!("middleware{}", number + 1), own, &name);
    }
    for (number, attempt) in exchange.attempts().take(MAX_ATTEMPTS).enumerate() {
        metrics.add_attempt(if number == 0 { String::new() } else { (number + 1).to_string() }, attempt);
    }
    metrics.add("total", exchange.started.elapsed(), "");
    if let Ok(value) = HeaderValue::try_from(metrics.0) {
        response.headers_mut().append(SERVER_TIMING, value);
    }
}

/// The text of the header.
struct Metrics(String);

impl Metrics {
    fn add(&mut self, name: &str, time: Duration, description: &str) {
        let separator = if self.0.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail, here and below.
        let _ = write!(self.0, "{separator}{name};dur={:.3}", time.as_secs_f64() * 1e3);
        if !description.is_empty() {
            let escaped = description.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = write!(self.0, ";desc=\"{escaped}\"");
        }
    }

    /// Adds the parts of an attempt. The first has no suffix.
    fn add_attempt(&mut self, suffix: String, attempt: &Attempt) {
        let Some(server) = &attempt.server else { return };
        let waited = attempt.waited();
        if let Some(waited) = waited {
            self.add(&format!("queue{suffix}"), waited, "");
        }
        if let Some(connected) = attempt.connected() {
            let handshake = attempt.secured();
            let dialled = connected.saturating_sub(waited.unwrap_or_default());
            self.add(&format!("connect{suffix}"), dialled.saturating_sub(handshake.unwrap_or_default()), "");
            if let Some(handshake) = handshake {
                self.add(&format!("tls{suffix}"), handshake, "");
            }
        }
        let Some(took) = attempt.took() else { return };
        match attempt.status() {
            Some(_) => {
                let ready = attempt.connected().or(waited).unwrap_or_default();
                self.add(&format!("first-byte{suffix}"), took.saturating_sub(ready), &server.url);
            }
            None => self.add(&format!("failed{suffix}"), took, &server.url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(token: &str) -> Result<ServerTiming, BuildError> {
        ServerTiming::new(&Options { token: token.into(), ..Options::default() })
    }

    #[test]
    fn only_the_token_is_accepted_and_the_header_is_always_removed() {
        let timing = timing("secret\n").unwrap();
        for (value, is_right) in [("secret", true), ("secre", false), ("secret2", false), ("", false)] {
            let mut headers = HeaderMap::new();
            headers.append("x-tidegate-debug", HeaderValue::from_static(value));
            headers.append("x-tidegate-debug", HeaderValue::from_static("other"));
            assert_eq!(timing.take_token(&mut headers), is_right, "{value}");
            assert!(headers.is_empty());
        }
        assert!(!timing.take_token(&mut HeaderMap::new()));
    }

    #[test]
    fn a_token_is_required_and_not_part_of_messages() {
        assert!(timing("").is_err() && timing(" ").is_err());
        let options = Options { token: "hunter2".into(), header: "a b".into() };
        let error = ServerTiming::new(&options).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("`a b`") && !error.contains("hunter2"), "{error}");
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
