//! Checks the certificate of an open connection before its requests are served.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};
use tidegate_core::Reason;

use super::status::Question;
use super::verifier::{Checks, Current};
use crate::snapshot::Snapshot;
use crate::tls::ocsp::message::Status;

/// How often a certificate is checked again without a reason, in seconds.
const INTERVAL: i64 = 60;

/// Why the requests on a connection are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The certificate is revoked.
    Revoked,
    /// The certificate has expired, or its authority is no longer trusted.
    Invalid,
    /// Nothing certain is known about the certificate, but is required.
    Unverified,
}

impl Refusal {
    /// Returns the reason for logs and the API.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Revoked => Reason::CertificateRevoked,
            Self::Invalid => Reason::CertificateInvalid,
            Self::Unverified => Reason::CertificateUnverified,
        }
    }
}

/// The client certificate of one connection, and what is known about it.
pub(crate) struct CertificateCheck {
    /// Name of the TLS options.
    options: Arc<str>,
    state: Mutex<State>,
}

struct State {
    /// The snapshot that `checks` is from; `None` before the first request.
    generation: Option<u64>,
    /// Whatever was checked with, to notice another one. An idle connection does not keep it.
    checks: Weak<Checks>,
    /// The lists that the verdict is based on.
    current: Weak<Current>,
    verdict: Result<(), Refusal>,
    /// Until when the verdict counts, in Unix time.
    until: i64,
    /// The question for the responder; `None` if it has not been built.
    question: Option<Option<Arc<Question>>>,
    ocsp: Result<(), Refusal>,
    /// Until when the verdict of OCSP counts, in Unix time.
    ocsp_until: i64,
}

impl CertificateCheck {
    /// Returns the check of a connection whose options check revocation.
    pub(crate) fn new(options: Arc<str>) -> Self {
        let state = State {
            generation: None,
            checks: Weak::new(),
            current: Weak::new(),
            verdict: Ok(()),
            until: 0,
            question: None,
            ocsp: Ok(()),
            ocsp_until: 0,
        };
        Self { options, state: Mutex::new(state) }
    }

    /// Returns an error if requests must be refused. Waits for OCSP only if there is no response yet.
    pub(crate) async fn verdict(&self, chain: &[Vec<u8>], snapshot: &Snapshot) -> Result<(), Refusal> {
        let now = UnixTime::now();
        let (checks, question) = {
            let mut state = self.state.lock();
            let Some(checks) = state.checks(&self.options, snapshot)? else { return Ok(()) };
            state.verify(&checks, chain, now);
            state.verdict?;
            if checks.ocsp.is_none() || seconds(now) < state.ocsp_until {
                return state.ocsp;
            }
            let question =
                state.question.get_or_insert_with(|| question(&checks, chain).map(Arc::new)).clone();
            (checks, question)
        };
        let (verdict, until) = checks.ask(question.as_ref(), seconds(now)).await;
        let mut state = self.state.lock();
        (state.ocsp, state.ocsp_until) = (verdict, until);
        verdict
    }
}

impl State {
    /// Returns the current checks; `None` if the options no longer have any. If they are broken now, nothing is known.
    fn checks(&mut self, options: &str, snapshot: &Snapshot) -> Result<Option<Arc<Checks>>, Refusal> {
        if self.generation != Some(snapshot.generation) {
            let new = snapshot.tls.checks_of(options).map(Arc::downgrade).unwrap_or_default();
            if !Weak::ptr_eq(&self.checks, &new) {
                (self.current, self.question, self.ocsp_until) = (Weak::new(), None, 0);
            }
            (self.checks, self.generation) = (new, Some(snapshot.generation));
        }
        let checks = self.checks.upgrade();
        let is_broken = checks.is_none() && !snapshot.tls.has_options(options);
        if is_broken { Err(Refusal::Unverified) } else { Ok(checks) }
    }

    /// Verifies the certificate, unless the last verdict still counts.
    fn verify(&mut self, checks: &Checks, chain: &[Vec<u8>], now: UnixTime) {
        let current = checks.current();
        let seconds = seconds(now);
        let used = Arc::downgrade(&current);
        if Weak::ptr_eq(&self.current, &used) && seconds < self.until {
            return;
        }
        self.verdict = verify(&current, chain, now);
        // A certificate is valid until the end of its last second.
        self.until = not_after(chain)
            .map_or(i64::MAX, |not_after| not_after.saturating_add(1))
            .max(seconds.saturating_add(1))
            .min(current.next_expiry(seconds))
            .min(seconds.saturating_add(INTERVAL));
        self.current = used;
    }
}

impl Checks {
    /// Checks a certificate once, for a connection without requests.
    pub(crate) async fn verdict(&self, chain: &[CertificateDer<'_>]) -> Result<(), Refusal> {
        let chain: Vec<Vec<u8>> = chain.iter().map(|certificate| certificate.to_vec()).collect();
        let now = UnixTime::now();
        verify(&self.current(), &chain, now)?;
        let question = self.ocsp.as_ref().and_then(|_| question(self, &chain)).map(Arc::new);
        self.ask(question.as_ref(), seconds(now)).await.0
    }

    /// Asks the responder, if OCSP is enabled. Returns the verdict and until when it counts.
    async fn ask(&self, question: Option<&Arc<Question>>, now: i64) -> (Result<(), Refusal>, i64) {
        let Some(policy) = &self.ocsp else { return (Ok(()), i64::MAX) };
        let without = if policy.strict { Err(Refusal::Unverified) } else { Ok(()) };
        let Some(question) = question else { return (without, now.saturating_add(INTERVAL)) };
        let answer = self.statuses.find(question, policy).await;
        let verdict = match answer.status {
            Some(Status::Good) => Ok(()),
            Some(Status::Revoked) => Err(Refusal::Revoked),
            Some(Status::Unknown) => Err(Refusal::Unverified),
            None => without,
        };
        (verdict, answer.fresh_until)
    }
}

/// Returns the question about a client certificate.
fn question(checks: &Checks, chain: &[Vec<u8>]) -> Option<Question> {
    let (leaf, others) = chain.split_first()?;
    let presented: Vec<CertificateDer<'_>> =
        others.iter().map(|other| CertificateDer::from(other.as_slice())).collect();
    let others = checks.trusted.authorities.iter().chain(&presented);
    checks.ocsp.as_ref()?.question(leaf, others)
}

fn verify(current: &Current, chain: &[Vec<u8>], now: UnixTime) -> Result<(), Refusal> {
    let chain: Vec<CertificateDer<'_>> =
        chain.iter().map(|certificate| CertificateDer::from(certificate.as_slice())).collect();
    let Some((leaf, intermediates)) = chain.split_first() else { return Ok(()) };
    current.verify(leaf, intermediates, now).map(|_| ()).map_err(|error| match error {
        Error::InvalidCertificate(CertificateError::Revoked) => Refusal::Revoked,
        Error::InvalidCertificate(
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. },
        )
        | Error::InvalidCertRevocationList(_) => Refusal::Unverified,
        _ => Refusal::Invalid,
    })
}

/// Returns when the first certificate of a chain expires, in Unix time.
pub(in crate::tls) fn not_after<C: AsRef<[u8]>>(chain: &[C]) -> Option<i64> {
    let expires = chain.iter().filter_map(|certificate| {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate.as_ref()).ok()?;
        Some(parsed.validity().not_after.timestamp())
    });
    expires.min()
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
