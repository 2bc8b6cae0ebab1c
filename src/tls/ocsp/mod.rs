//! OCSP stapling (RFC 6066 section 8, RFC 6960).
//!
//! Responses are fetched in the background, verified like a client would, cached, and refreshed halfway
//! through their validity. Handshakes never wait for them. If a responder fails, the cached response is used
//! until it expires.

mod asn1;
mod error;
pub(super) mod message;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tidegate_core::building::HttpClient;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::TlsStore;
use super::fetch::{Limits, Message, fetch};
use crate::snapshot::SnapshotHandle;
pub(super) use error::OcspError;
use message::{Staple, StatusRequest};

/// Timeout for a response.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a response in bytes.
pub(super) const MAX_RESPONSE: u64 = 64 * 1024;
/// Maximum interval between two rounds, and minimum interval between two requests about one certificate.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(60));
/// Maximum delay between requests about one certificate after failures.
const MAX_DELAY: Duration = Duration::from_secs(3600);

/// Certificates with their staples, by certificate.
#[derive(Debug, Default)]
pub(crate) struct Staples(ArcSwap<HashMap<CertificateDer<'static>, Arc<CertifiedKey>>>);

/// Adds the staple to each certificate chosen by another resolver.
#[derive(Debug)]
pub(super) struct Stapling<C> {
    pub(super) chooser: C,
    pub(super) staples: Arc<Staples>,
}

impl<C: ResolvesServerCert> ResolvesServerCert for Stapling<C> {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.chooser.resolve(hello).map(|chosen| self.staples.with(chosen))
    }
}

impl Staples {
    fn with(&self, chosen: Arc<CertifiedKey>) -> Arc<CertifiedKey> {
        let staples = self.0.load();
        if staples.is_empty() {
            return chosen;
        }
        chosen.cert.first().and_then(|leaf| staples.get(leaf)).cloned().unwrap_or(chosen)
    }
}

/// Fetches OCSP responses while it runs.
pub(crate) struct Stapler {
    client: Arc<dyn HttpClient>,
    /// Overrides of responder URLs in certificates.
    overrides: BTreeMap<String, String>,
    known: HashMap<CertificateDer<'static>, Known>,
}

/// The state of one certificate.
#[derive(Default)]
struct Known {
    staple: Option<Staple>,
    failures: u32,
    due: Option<tokio::time::Instant>,
}

impl Stapler {
    /// Returns a stapler that uses this client.
    pub(crate) fn new(client: Arc<dyn HttpClient>, overrides: BTreeMap<String, String>) -> Self {
        Self { client, overrides, known: HashMap::new() }
    }

    /// Refreshes the staples of served certificates. `generation` changes with each snapshot.
    pub(crate) async fn run(mut self, snapshots: SnapshotHandle, mut generation: watch::Receiver<u64>) {
        loop {
            let next = self.round(&snapshots.load().tls.clone()).await;
            tokio::select! {
                changed = generation.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(next) => {}
            }
        }
    }

    /// Sends the due requests and returns the time until the next ones.
    async fn round(&mut self, store: &TlsStore) -> Duration {
        let keys = store.with_issuers();
        self.known.retain(|leaf, _| keys.iter().any(|key| key.cert.first() == Some(leaf)));
        for key in &keys {
            let (Some(leaf), Some(question)) = (key.cert.first(), StatusRequest::about(&key.cert)) else {
                continue;
            };
            let due = self.known.get(leaf).and_then(|known| known.due);
            if due.is_some_and(|due| due > tokio::time::Instant::now()) {
                continue;
            }
            let outcome = self.fetch(&question).await;
            let known = self.known.entry(leaf.clone()).or_default();
            known.note(outcome, &question.url);
            self.publish(&keys, &store.staples());
        }
        self.publish(&keys, &store.staples());
        let now = tokio::time::Instant::now();
        let due = self.known.values().filter_map(|known| known.due).min();
        due.map_or(INTERVAL.0, |due| due.saturating_duration_since(now))
            .clamp(Duration::from_secs(1), INTERVAL.0)
    }

    fn publish(&self, keys: &[Arc<CertifiedKey>], staples: &Staples) {
        let now = OffsetDateTime::now_utc();
        let stapled = keys.iter().filter_map(|key| {
            let leaf = key.cert.first()?;
            let staple = self.known.get(leaf)?.staple.as_ref().filter(|staple| staple.next_update > now)?;
            let mut key = CertifiedKey::clone(key);
            key.ocsp = Some(staple.response.clone());
            Some((leaf.clone(), Arc::new(key)))
        });
        staples.0.store(Arc::new(stapled.collect()));
    }

    async fn fetch(&self, question: &StatusRequest) -> Result<Staple, OcspError> {
        let url = self.overrides.get(&question.url).unwrap_or(&question.url);
        let limits = Limits { time: TIMEOUT, size: MAX_RESPONSE };
        let answer = fetch(&self.client, url, Message::Ocsp(question.request()?), limits).await?;
        question.staple(&answer, OffsetDateTime::now_utc())
    }
}

impl Known {
    /// Records a response or failure, and when to send the next request.
    fn note(&mut self, outcome: Result<Staple, OcspError>, url: &str) {
        let wait = match outcome {
            Ok(staple) => {
                self.failures = 0;
                let half = (staple.next_update - staple.this_update) / 2;
                let left: time::Duration = staple.this_update + half - OffsetDateTime::now_utc();
                tracing::debug!(url, until = %staple.next_update, "stapled OCSP response");
                self.staple = Some(staple);
                Duration::try_from(left).unwrap_or_default().max(INTERVAL.1)
            }
            Err(error) => {
                tracing::warn!(url, %error, "no valid OCSP response to staple");
                self.failures = self.failures.saturating_add(1);
                INTERVAL.1.saturating_mul(1 << self.failures.min(6)).min(MAX_DELAY)
            }
        };
        self.due = Some(tokio::time::Instant::now() + wait);
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tidegate_config::tls::{Certificate, Tls};
    use tidegate_core::building::ClientTls;
    use tidegate_core::{Body, BoxFuture, Request, Response, UpstreamError};

    use super::message::tests::Pair;
    use super::*;

    /// A responder with this response that records the requested URLs.
    struct Responder {
        answer: Mutex<Vec<u8>>,
        asked: Mutex<Vec<String>>,
    }

    impl HttpClient for Responder {
        fn send(
            &self,
            request: Request,
            _: &ClientTls,
            _: Duration,
        ) -> BoxFuture<'_, Result<Response, UpstreamError>> {
            self.asked.lock().push(request.head.uri.to_string());
            let answer = self.answer.lock().clone();
            Box::pin(async move { Ok(Response::new(Body::full(answer))) })
        }
    }

    fn pem(der: &[u8]) -> String {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    #[tokio::test]
    async fn valid_responses_are_stapled_until_they_expire() {
        let pair = Pair::new("http://ocsp.test/a");
        let chain: String = pair.chain.iter().map(|certificate| pem(certificate)).collect();
        let certificate =
            Certificate { cert_file: chain, key_file: pair.key.serialize_pem(), ..Certificate::default() };
        let tls = Tls { certificates: vec![certificate], ..Tls::default() };
        let (store, problems) = TlsStore::without_files(&tls, None);
        assert_eq!(problems, []);
        let responder = Arc::new(Responder { answer: Mutex::new(pair.good()), asked: Mutex::default() });
        let overrides = BTreeMap::from([("http://ocsp.test/a".to_owned(), "http://inside.test/".to_owned())]);
        let mut stapler = Stapler::new(responder.clone(), overrides);
        let shown = || {
            let key = store.with_issuers().into_iter().next().unwrap();
            store.staples().with(key).ocsp.clone()
        };
        assert_eq!(shown(), None);
        let next = stapler.round(&store).await;
        assert!(
            shown().is_some() && next > Duration::from_secs(1500) && next < Duration::from_secs(1900),
            "{next:?}"
        );
        assert_eq!(*responder.asked.lock(), ["http://inside.test/"]);
        stapler.round(&store).await;
        assert_eq!(responder.asked.lock().len(), 1, "not before it is due");
        // The response is due and the responder fails: the cached response stays.
        *responder.answer.lock() = b"nonsense".to_vec();
        stapler.known.values_mut().for_each(|known| known.due = None);
        let next = stapler.round(&store).await;
        assert!(shown().is_some());
        assert!(next > INTERVAL.1 && next <= INTERVAL.1 * 2, "{next:?}");
        // A new store with the same certificates uses it too.
        let (second, _) = TlsStore::without_files(&tls, Some(&store));
        let key = second.with_issuers().into_iter().next().unwrap();
        assert!(second.staples().with(key).ocsp.is_some());
        // The response expires.
        for known in stapler.known.values_mut() {
            if let Some(staple) = &mut known.staple {
                staple.next_update = OffsetDateTime::now_utc() - time::Duration::SECOND;
            }
        }
        stapler.round(&store).await;
        assert_eq!(shown(), None);
    }
}
