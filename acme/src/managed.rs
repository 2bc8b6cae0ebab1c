//! A certificate that a resolver holds: as it is stored, as it is served, and when it is renewed.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use time::OffsetDateTime;

use super::certificate::{Certificate, Facts};
use super::error::Error;
use super::renewal::Renewal;
use super::shared::Offer;
use super::storage::StoredCertificate;

/// How long a certificate is young, at most.
const YOUTH: time::Duration = time::Duration::days(1);

/// A certificate.
pub(super) struct ManagedCertificate {
    pub(super) stored: StoredCertificate,
    pub(super) facts: Arc<Facts>,
    pub(super) renewal: Renewal,
    /// Somebody has asked for it.
    pub(super) renew_now: bool,
    /// It stands for one that was replaced soon after it was issued: it is not to be replaced as soon.
    pub(super) hasty: bool,
    /// When its end was last warned of.
    pub(super) warned: Option<OffsetDateTime>,
    /// When it was last asked whether its name is still allowed.
    pub(super) asked: Option<OffsetDateTime>,
    certificate: Arc<Certificate>,
}

impl ManagedCertificate {
    /// Reads a stored certificate, and checks that its key fits.
    pub(super) fn read(stored: StoredCertificate, hours: u32, now: OffsetDateTime) -> Result<Self, Error> {
        let (chain, key) = (text(&stored.certificate, "certificate")?, text(&stored.key, "key")?);
        let facts = Facts::read(&chain)?;
        let certificate = Arc::new(Certificate::read(&chain, &key)?);
        let renewal = Renewal::by_lifetime(&facts, hours, now);
        Ok(Self {
            stored,
            facts: Arc::new(facts),
            renewal,
            renew_now: false,
            hasty: false,
            warned: None,
            asked: None,
            certificate,
        })
    }

    /// When it is to be renewed.
    pub(super) fn due(&self, now: OffsetDateTime) -> OffsetDateTime {
        if self.renew_now { now } else { self.replaced_at() }
    }

    /// True while it is so young that to replace it is odd.
    pub(super) fn is_young(&self, now: OffsetDateTime) -> bool {
        now < self.grown_up()
    }

    /// An authority whose suggestions are always in the past must not make us order without end.
    fn replaced_at(&self) -> OffsetDateTime {
        let at = self.renewal.at.min(self.facts.not_after);
        if self.hasty { at.max(self.grown_up()) } else { at }
    }

    fn grown_up(&self) -> OffsetDateTime {
        self.facts.not_before + YOUTH.min(self.facts.lifetime() / 10)
    }

    /// As it is offered to clients.
    pub(super) fn offer(&self, default: bool) -> Offer {
        let fresh_until = match self.renew_now {
            true => OffsetDateTime::UNIX_EPOCH,
            false => self.replaced_at(),
        };
        Offer { certificate: self.certificate.clone(), facts: self.facts.clone(), fresh_until, default }
    }
}

/// What base64 of the storage holds.
pub(super) fn text(base64: &str, what: &str) -> Result<String, Error> {
    let bytes = BASE64_STANDARD.decode(base64.trim());
    let bytes = bytes.map_err(|error| Error::local(format!("{what} is not base64: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Error::local(format!("{what} is no PEM")))
}
