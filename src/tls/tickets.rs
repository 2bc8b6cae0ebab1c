//! Keys of session tickets, generated on the first handshake that needs them, so that compiling generates
//! none.

use std::sync::{Arc, OnceLock};

use rustls::server::ProducesTickets;

/// The keys of session tickets, which are rotated every few hours.
#[derive(Debug, Default)]
pub(super) struct Tickets(OnceLock<Option<Arc<dyn ProducesTickets>>>);

impl Tickets {
    /// Returns the keys; `None` if the system has no randomness, which disables resumption.
    fn keys(&self) -> Option<&Arc<dyn ProducesTickets>> {
        let keys = self.0.get_or_init(|| {
            let made = rustls::crypto::aws_lc_rs::Ticketer::new();
            made.map_err(|error| tracing::error!("cannot generate keys for session tickets: {error}")).ok()
        });
        keys.as_ref()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.keys().is_some_and(|keys| keys.enabled())
    }

    fn lifetime(&self) -> u32 {
        self.keys().map_or(0, |keys| keys.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys()?.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.keys()?.decrypt(cipher)
    }
}
