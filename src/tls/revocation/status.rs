//! What OCSP responders say about client certificates.
//!
//! One request at a time is sent about a certificate, by a task of the control plane; all that need the response wait for
//! it. Responses are kept until they expire. If a responder fails, the last response is used until then, and the responder
//! is left alone for a while.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tidegate_core::HttpClient;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::tls::fetch::{Limits, Message, fetch};
use crate::tls::ocsp::message::{Status, StatusRequest, is_issued_by, responder};
use crate::tls::ocsp::{MAX_RESPONSE, OcspError};

/// Maximum number of certificates whose status is kept.
const MAX_KNOWN: usize = 10_000;
/// Maximum number of requests to responders in progress.
const MAX_REQUESTS: usize = 256;
/// How long a responder is not asked again about a certificate after a failure, in seconds.
const RETRY: i64 = 30;

/// `clientAuth.revocation.ocsp`.
pub(super) struct OcspPolicy {
    /// Whether clients are refused without a response.
    pub(super) strict: bool,
    /// The responder; that of the certificate if empty.
    pub(super) url: String,
    /// Hosts that certificates may name, in lower case.
    pub(super) allowed_hosts: Vec<String>,
    pub(super) timeout: Duration,
    pub(super) max_age: Duration,
}

/// A certificate whose status is asked for.
pub(super) struct Question {
    key: [u8; 32],
    request: StatusRequest,
}

/// The status of a certificate; `None` if there is no valid response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) status: Option<Status>,
    /// When to ask again, in Unix time.
    pub(super) fresh_until: i64,
    /// When it no longer counts, in Unix time.
    valid_until: i64,
}

/// Responses by certificate, for all options. They outlive snapshots.
pub(crate) struct Statuses {
    known: Cache<[u8; 32], Answer>,
    open: Mutex<HashMap<[u8; 32], watch::Receiver<Option<Answer>>>>,
    web: OnceLock<Web>,
}

struct Web {
    client: Arc<dyn HttpClient>,
    control: Handle,
}

impl Default for Statuses {
    fn default() -> Self {
        Self { known: Cache::new(MAX_KNOWN), open: Mutex::default(), web: OnceLock::new() }
    }
}

impl OcspPolicy {
    /// Returns the question about a verified certificate; `None` if it names no permitted responder, or if its issuer is
    /// missing. `others` are the certificates that its issuer may be among.
    pub(super) fn question<'c>(
        &self,
        leaf: &[u8],
        mut others: impl Iterator<Item = &'c CertificateDer<'c>>,
    ) -> Option<Question> {
        let url = match self.url.is_empty() {
            true => responder(leaf).filter(|url| self.permits(url))?,
            false => self.url.clone(),
        };
        let parsed = x509_parser::parse_x509_certificate(leaf).ok()?.1;
        let is_issuer = |other: &CertificateDer<'_>| {
            x509_parser::parse_x509_certificate(other)
                .is_ok_and(|(_, other)| other.subject().as_raw() == parsed.issuer().as_raw())
                && is_issued_by(leaf, other)
        };
        let issuer = others.find(|other| is_issuer(other))?;
        let mut key = Sha256::new();
        for part in [url.as_bytes(), issuer, leaf] {
            key.update(Sha256::digest(part));
        }
        let request = StatusRequest::new(leaf, issuer, url)?;
        Some(Question { key: key.finalize().into(), request })
    }

    /// Returns true if a certificate may name this responder.
    fn permits(&self, url: &str) -> bool {
        let Ok(url) = url.parse::<http::Uri>() else { return false };
        let is_web = matches!(url.scheme_str(), Some("http" | "https"));
        let host = url.host().map(str::to_ascii_lowercase);
        let authority = url.authority().map(|authority| authority.as_str().to_ascii_lowercase());
        let names = [host, authority];
        is_web && names.iter().flatten().any(|name| self.allowed_hosts.contains(name))
    }
}

impl Statuses {
    /// Sets how responders are asked. Further calls do nothing.
    pub(super) fn connect(&self, client: Arc<dyn HttpClient>, control: Handle) {
        drop(self.web.set(Web { client, control }));
    }

    /// Returns the status of a certificate, which is waited for if it is not known, within the timeout of the policy.
    pub(super) async fn find(self: &Arc<Self>, question: &Arc<Question>, policy: &OcspPolicy) -> Answer {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let known = self.known.get(&question.key);
        if let Some(answer) = known.filter(|answer| answer.fresh_until > now) {
            return answer;
        }
        let answer = match self.ask(question, policy, now) {
            None => None,
            Some(mut open) => {
                let arrived = open.wait_for(Option::is_some);
                let arrived = tokio::time::timeout(policy.timeout, arrived).await;
                arrived.ok().and_then(Result::ok).and_then(|answer| *answer)
            }
        };
        answer.unwrap_or_else(|| Answer::after_failure(known, now))
    }

    /// Joins the request about this certificate, or starts it; `None` if there are too many.
    fn ask(
        self: &Arc<Self>,
        question: &Arc<Question>,
        policy: &OcspPolicy,
        now: i64,
    ) -> Option<watch::Receiver<Option<Answer>>> {
        let web = self.web.get()?;
        let mut open = self.open.lock();
        if let Some(asked) = open.get(&question.key) {
            return Some(asked.clone());
        }
        // The response may have arrived since the caller looked for it.
        if let Some(answer) = self.known.get(&question.key).filter(|answer| answer.fresh_until > now) {
            return Some(watch::channel(Some(answer)).1);
        }
        if open.len() >= MAX_REQUESTS {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        open.insert(question.key, receiver.clone());
        let (this, question) = (self.clone(), question.clone());
        let (client, time, max_age) = (web.client.clone(), policy.timeout, policy.max_age);
        web.control.spawn(async move {
            let _closing = Closing(&this, question.key);
            let limits = Limits { time, size: MAX_RESPONSE };
            let asked = question.ask(&client, limits).await;
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let answer = match asked {
                Ok((status, valid_until)) => {
                    let age = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
                    let fresh_until = valid_until.min(now.saturating_add(age));
                    Answer { status: Some(status), fresh_until, valid_until }
                }
                Err(error) => {
                    tracing::warn!(url = question.request.url, %error, "no OCSP response for a client certificate");
                    Answer::after_failure(this.known.get(&question.key), now)
                }
            };
            this.known.insert(question.key, answer);
            sender.send_replace(Some(answer));
        });
        Some(receiver)
    }
}

/// Lets the next request about a certificate be sent, even if this one panics.
struct Closing<'s>(&'s Statuses, [u8; 32]);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.open.lock().remove(&self.1);
    }
}

impl Question {
    /// Asks the responder. Returns the status and how long it counts.
    async fn ask(&self, client: &Arc<dyn HttpClient>, limits: Limits) -> Result<(Status, i64), OcspError> {
        let message = Message::Ocsp(self.request.request()?);
        let response = fetch(client, &self.request.url, message, limits).await?;
        let statement = self.request.statement(&response, OffsetDateTime::now_utc())?;
        Ok((statement.status, statement.valid_until().unix_timestamp()))
    }
}

impl Answer {
    /// Returns the last answer if it still counts, or none.
    fn after_failure(known: Option<Self>, now: i64) -> Self {
        let known = known.filter(|known| known.valid_until > now);
        let valid_until = known.map_or(now, |known| known.valid_until);
        Self {
            status: known.and_then(|known| known.status),
            fresh_until: now.saturating_add(RETRY),
            valid_until,
        }
    }
}
