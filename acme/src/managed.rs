//! A resolver's certificate: its stored and served forms, and its renewal.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use time::OffsetDateTime;

use super::certificate::{Certificate, Facts};
use super::error::Error;
use super::renewal::Renewal;
use super::shared::Offer;
use super::storage::StoredCertificate;

/// Maximum time that a certificate counts as young.
const YOUTH: time::Duration = time::Duration::days(1);

/// A certificate.
pub(super) struct ManagedCertificate {
    pub(super) stored: StoredCertificate,
    pub(super) facts: Arc<Facts>,
    pub(super) renewal: Renewal,
    /// An operator asked for its renewal.
    pub(super) renew_now: bool,
    /// Replacement for a certificate revoked early; renew it on the normal schedule.
    pub(super) hasty: bool,
    /// Time of the last warning that it is about to expire.
    pub(super) warned: Option<OffsetDateTime>,
    /// When it was last checked that its name is still allowed.
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

    /// Returns when to renew it.
    pub(super) fn due(&self, now: OffsetDateTime) -> OffsetDateTime {
        if self.renew_now { now } else { self.replaced_at() }
    }

    /// True while it is so young that replacing it is unusual.
    pub(super) fn is_young(&self, now: OffsetDateTime) -> bool {
        now < self.grown_up()
    }

    /// Limits renewals: an authority whose suggestions are always in the past must not make us order forever.
    fn replaced_at(&self) -> OffsetDateTime {
        let at = self.renewal.at.min(self.facts.not_after);
        if self.hasty { at.max(self.grown_up()) } else { at }
    }

    fn grown_up(&self) -> OffsetDateTime {
        self.facts.not_before + YOUTH.min(self.facts.lifetime() / 10)
    }

    /// Returns it as it is offered to clients.
    pub(super) fn offer(&self, default: bool) -> Offer {
        let fresh_until = match self.renew_now {
            true => OffsetDateTime::UNIX_EPOCH,
            false => self.replaced_at(),
        };
        Offer { certificate: self.certificate.clone(), facts: self.facts.clone(), fresh_until, default }
    }
}

/// Decodes base64 of the storage.
pub(super) fn text(base64: &str, what: &str) -> Result<String, Error> {
    let bytes = BASE64_STANDARD.decode(base64.trim());
    let bytes = bytes.map_err(|error| Error::local(format!("{what} is not base64: {error}")))?;
    String::from_utf8(bytes).map_err(|_| Error::local(format!("{what} is no PEM")))
}
