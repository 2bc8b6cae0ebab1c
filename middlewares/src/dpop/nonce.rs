//! Nonces of the gateway (RFC 9449 section 8). They are computed from the time, so nothing is kept for them.

use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::HeaderValue;
use std::time::Duration;
use subtle::ConstantTimeEq as _;
use tidegate_core::{BuildContext, BuildError};

use super::NonceOptions;

/// Minimum length of a secret in bytes.
const MIN_SECRET: usize = 32;
/// Maximum lifetime.
const MAX_LIFETIME: Duration = Duration::from_hours(1);

/// Makes and recognises nonces.
pub(super) struct Nonces {
    key: hmac::Key,
    /// Seconds.
    lifetime: f64,
}

/// How old a nonce is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    Current,
    Previous,
}

/// A random secret that outlives changes of the options.
struct Random([u8; MIN_SECRET]);

impl Random {
    fn new() -> Result<Self, BuildError> {
        let mut bytes = [0; MIN_SECRET];
        rand::fill(&mut bytes)
            .map_err(|_| BuildError::new("nonce: the system's random number generator failed"))?;
        Ok(Self(bytes))
    }
}

impl Nonces {
    pub(super) fn new(options: &NonceOptions, context: &BuildContext<'_>) -> Result<Self, BuildError> {
        let lifetime = Duration::from(options.lifetime);
        if lifetime < Duration::from_secs(1) || lifetime > MAX_LIFETIME {
            return Err(BuildError::new(format!("nonce.lifetime: {}: expected 1s to 1h", options.lifetime)));
        }
        let key = match options.secret.expose().as_bytes() {
            [] => hmac::Key::new(hmac::HMAC_SHA256, &context.try_state("nonces of proofs", Random::new)?.0),
            secret if secret.len() < MIN_SECRET => {
                return Err(BuildError::new(format!("nonce.secret: expected at least {MIN_SECRET} bytes")));
            }
            secret => hmac::Key::new(hmac::HMAC_SHA256, secret),
        };
        Ok(Self { key, lifetime: lifetime.as_secs_f64() })
    }

    /// Returns the nonce at a time in seconds since 1970.
    pub(super) fn current(&self, now: f64) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.of(self.period(now))).ok()
    }

    /// Returns how old a nonce is; `None` if it is too old or not one of ours.
    pub(super) fn age(&self, nonce: &str, now: f64) -> Option<Age> {
        let period = self.period(now);
        let is = |period: u64| bool::from(self.of(period).as_bytes().ct_eq(nonce.as_bytes()));
        match () {
            () if is(period) => Some(Age::Current),
            () if is(period.saturating_sub(1)) => Some(Age::Previous),
            () => None,
        }
    }

    fn period(&self, now: f64) -> u64 {
        (now / self.lifetime) as u64
    }

    fn of(&self, period: u64) -> String {
        let tag = hmac::sign(&self.key, &period.to_be_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref())
    }
}
