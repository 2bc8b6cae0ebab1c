//! Keys of session tickets, generated on the first handshake that needs them, so that compiling generates
//! none.

use std::sync::{Arc, OnceLock};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ProducesTickets;
use rustls::server::danger::ClientCertVerifier;

use super::revocation::{Checks, not_after};

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

/// The same keys, for options that verify client certificates. A session holds the client's certificates, and the library
/// does not verify them again when it is resumed: here, a session whose certificates no longer count is declined, so that
/// a full handshake follows, in which the client may present another one.
pub(super) struct ClientTickets {
    pub(super) tickets: Arc<dyn ProducesTickets>,
    /// Verifies the certificates completely, if their revocation is checked. Otherwise only their expiry is.
    pub(super) checks: Option<Arc<Checks>>,
}

impl std::fmt::Debug for ClientTickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTickets").finish_non_exhaustive()
    }
}

impl ClientTickets {
    fn accepts(&self, session: &[u8]) -> bool {
        let Some(chain) = session_certificates(session) else { return false };
        let Some((leaf, intermediates)) = chain.split_first() else { return true };
        let now = UnixTime::now();
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        not_after(&chain).is_some_and(|not_after| seconds <= not_after)
            && self
                .checks
                .as_ref()
                .is_none_or(|checks| checks.verify_client_cert(leaf, intermediates, now).is_ok())
    }
}

impl ProducesTickets for ClientTickets {
    fn enabled(&self) -> bool {
        self.tickets.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.tickets.decrypt(cipher).filter(|session| self.accepts(session))
    }
}

/// Returns the client's certificates in a session of the library, none if there are none; `None` if the encoding is
/// another one, so that such sessions are not resumed. It is internal to the library: server name, version, suite, secret
/// and a flag precede the certificates (`ServerSessionValue` in rustls 0.23).
fn session_certificates(session: &[u8]) -> Option<Vec<CertificateDer<'_>>> {
    let mut rest = session;
    match take(&mut rest, 1)? {
        [0] => {}
        [1] => drop(vector(&mut rest, 1)?),
        _ => return None,
    }
    take(&mut rest, 4)?;
    vector(&mut rest, 1)?;
    take(&mut rest, 1)?;
    match take(&mut rest, 1)? {
        [0] => return Some(Vec::new()),
        [1] => {}
        _ => return None,
    }
    let mut list = vector(&mut rest, 3)?;
    let mut chain = Vec::new();
    while !list.is_empty() {
        chain.push(CertificateDer::from(vector(&mut list, 3)?));
    }
    (!chain.is_empty()).then_some(chain)
}

/// Takes the next bytes.
fn take<'b>(rest: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

/// Takes a vector whose length precedes it in `width` bytes.
fn vector<'b>(rest: &mut &'b [u8], width: usize) -> Option<&'b [u8]> {
    let length = take(rest, width)?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    take(rest, length)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rustls::RootCertStore;
    use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    /// Records the sessions that it encrypts.
    #[derive(Debug, Default)]
    struct Recorder(Mutex<Vec<Vec<u8>>>);

    impl ProducesTickets for Recorder {
        fn enabled(&self) -> bool {
            true
        }

        fn lifetime(&self) -> u32 {
            3600
        }

        fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
            self.0.lock().unwrap().push(plain.to_vec());
            Some(plain.to_vec())
        }

        fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
            Some(cipher.to_vec())
        }
    }

    /// Returns the certificate of a client, and the session of a handshake with it.
    fn session(
        version: &'static rustls::SupportedProtocolVersion,
        with_certificate: bool,
    ) -> (CertificateDer<'static>, Vec<u8>) {
        let own = rcgen::generate_simple_self_signed(vec!["h.test".to_owned()]).unwrap();
        let key = || PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()).into();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), crate::tls::crypto())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let recorder = Arc::new(Recorder::default());
        let mut config = rustls::ServerConfig::builder_with_provider(crate::tls::crypto())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![own.cert.der().clone()], key())
            .unwrap();
        config.ticketer = recorder.clone();
        let mut server = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(crate::tls::crypto())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let client = match with_certificate {
            true => client.with_client_auth_cert(vec![own.cert.der().clone()], key()).unwrap(),
            false => client.with_no_client_auth(),
        };
        let name = ServerName::try_from("h.test").unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets().unwrap();
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        let session = recorder.0.lock().unwrap().last().unwrap().clone();
        (own.cert.der().clone(), session)
    }

    #[test]
    fn certificates_are_found_in_sessions_of_the_library() {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (own, with) = session(version, true);
            assert_eq!(session_certificates(&with).unwrap(), [own]);
            let (_, without) = session(version, false);
            assert_eq!(session_certificates(&without).unwrap(), []);
            for length in 0..with.len() / 2 {
                assert_eq!(session_certificates(&with[..length]), None);
            }
        }
        assert_eq!(session_certificates(b"something else"), None);
    }
}
