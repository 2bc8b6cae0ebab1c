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
use crate::tls::ocsp::message::{Statement, Status, StatusRequest, is_issued_by, responder};
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
    /// When the last response became valid, in Unix time: no older one replaces it.
    this_update: i64,
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
        // The next request looks again.
        answer.unwrap_or_else(|| Answer {
            fresh_until: now.saturating_add(1),
            ..Answer::after_failure(known, now)
        })
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
            let known = this.known.get(&question.key);
            let answer = asked.and_then(|statement| Answer::new(&statement, known, max_age, now));
            let answer = answer.unwrap_or_else(|error| {
                tracing::warn!(url = question.request.url, %error, "no OCSP response for a client certificate");
                Answer::after_failure(known, now)
            });
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
    /// Asks the responder.
    async fn ask(&self, client: &Arc<dyn HttpClient>, limits: Limits) -> Result<Statement, OcspError> {
        let message = Message::Ocsp(self.request.request()?);
        let response = fetch(client, &self.request.url, message, limits).await?;
        self.request.statement(&response, OffsetDateTime::now_utc())
    }
}

impl Answer {
    /// Returns the answer of a response, unless it is older than the last one.
    fn new(
        statement: &Statement,
        known: Option<Self>,
        max_age: Duration,
        now: i64,
    ) -> Result<Self, OcspError> {
        let this_update = statement.this_update.unix_timestamp();
        if known.is_some_and(|known| this_update < known.this_update) {
            return Err(OcspError::Older);
        }
        let valid_until = statement.valid_until().unix_timestamp();
        let age = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
        let fresh_until = valid_until.min(now.saturating_add(age));
        Ok(Self { status: Some(statement.status), fresh_until, valid_until, this_update })
    }

    /// Returns the last answer if it still counts, or none.
    fn after_failure(known: Option<Self>, now: i64) -> Self {
        let this_update = known.map_or(i64::MIN, |known| known.this_update);
        let retry = now.saturating_add(RETRY);
        match known.filter(|known| known.status.is_some() && known.valid_until > now) {
            Some(known) => Self { fresh_until: retry.min(known.valid_until), ..known },
            None => Self { status: None, fresh_until: retry, valid_until: now, this_update },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::ocsp::message::tests::statement;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn answers_count_until_they_expire_and_are_not_replaced_by_older_ones() {
        let good = statement(Status::Good, 1000, 9000);
        let first = Answer::new(&good, None, HOUR, 2000).unwrap();
        assert_eq!((first.status, first.fresh_until, first.valid_until), (Some(Status::Good), 5600, 9000));
        assert_eq!(Answer::new(&good, None, HOUR, 8000).unwrap().fresh_until, 9000, "not longer than valid");
        let revoked = Answer::new(&statement(Status::Revoked, 2000, 9000), Some(first), HOUR, 2000).unwrap();
        assert_eq!(revoked.status, Some(Status::Revoked));
        assert!(matches!(Answer::new(&good, Some(revoked), HOUR, 6000), Err(OcspError::Older)), "a replay");
        // After failures, the last one counts until it expires, and the replay still does not.
        let kept = Answer::after_failure(Some(revoked), 8990);
        assert_eq!((kept.status, kept.fresh_until), (Some(Status::Revoked), 9000));
        let lost = Answer::after_failure(Some(kept), 9000);
        assert_eq!((lost.status, lost.fresh_until), (None, 9030));
        assert!(Answer::new(&statement(Status::Good, 1000, 99_000), Some(lost), HOUR, 9100).is_err());
        assert!(Answer::new(&statement(Status::Good, 2000, 99_000), Some(lost), HOUR, 9100).is_ok());
        assert_eq!(Answer::after_failure(None, 100).status, None);
    }

    #[test]
    fn only_permitted_responders_may_be_named() {
        let allowed = ["ocsp.example.com", "127.0.0.1:81"].map(str::to_owned);
        let policy = OcspPolicy {
            strict: true,
            url: String::new(),
            allowed_hosts: allowed.to_vec(),
            timeout: HOUR,
            max_age: HOUR,
        };
        for (url, expected) in [
            ("http://ocsp.example.com/x", true),
            ("https://OCSP.example.com:8080/", true),
            ("http://127.0.0.1:81/", true),
            ("http://127.0.0.1/", false),
            ("http://127.0.0.1:82/", false),
            ("http://x.ocsp.example.com/", false),
            ("http://ocsp.example.com@evil.example/", false),
            ("ldap://ocsp.example.com/", false),
            ("ocsp.example.com", false),
        ] {
            assert_eq!(policy.permits(url), expected, "{url}");
        }
    }
}
