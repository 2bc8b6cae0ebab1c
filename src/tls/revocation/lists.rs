//! Revocation lists, as files and servers have them.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use x509_parser::nom;
use x509_parser::prelude::{FromDer, X509Error};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::tls::fetch::FetchError;
use crate::tls::ocsp::message::is_issued_by;

/// Extension with the scope of a list (`id-ce-issuingDistributionPoint`).
const SCOPE: &str = "2.5.29.28";

/// A revocation list whose form is valid. Its signature is verified when it is used, with the key of the issuer of the
/// certificate in question.
#[derive(Debug)]
pub(super) struct List {
    pub(super) der: CertificateRevocationListDer<'static>,
    /// The issuer's name in DER.
    issuer: Vec<u8>,
    /// Which certificates it covers, in DER; all of its issuer's if `None`.
    scope: Option<Vec<u8>>,
    /// When it was issued, in Unix time.
    pub(super) this_update: i64,
    /// When the next one is due, in Unix time.
    pub(super) next_update: i64,
}

/// Why a revocation list cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    /// There is none.
    #[error("no revocation list: expected DER, or PEM with `BEGIN X509 CRL`")]
    Missing,
    /// The PEM is invalid.
    #[error("invalid PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// The structure is not that of a list.
    #[error("invalid revocation list: {0}")]
    Structure(#[from] nom::Err<X509Error>),
    /// The list is not supported: a delta or indirect list, or one of version 1.
    #[error("invalid revocation list: {0}")]
    Unsupported(#[from] VerifierBuilderError),
    /// There are bytes after the list.
    #[error("invalid revocation list: trailing data")]
    Trailing,
    /// There is no time of the next update.
    #[error("revocation list without nextUpdate")]
    NoNextUpdate,
    /// An authority in `caFiles` has the issuer's name, but another key.
    #[error("the signature is not that of the issuer in `caFiles`")]
    Signature,
    /// A later list of the same issuer is known.
    #[error("issued before the last list: it may be a replay")]
    Older,
    /// The parser panicked.
    #[error("cannot be parsed")]
    Failed,
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Parses one list in DER, or any number in PEM. `authorities` are the certificates in `caFiles`.
pub(super) fn parse(
    bytes: &[u8],
    authorities: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
) -> Result<Vec<Arc<List>>, ListError> {
    let is_pem = bytes.windows(11).take(4096).any(|window| window == b"-----BEGIN ");
    let lists = match is_pem {
        true => CertificateRevocationListDer::pem_slice_iter(bytes).collect::<Result<Vec<_>, _>>()?,
        false if bytes.is_empty() => Vec::new(),
        false => vec![CertificateRevocationListDer::from(bytes.to_vec())],
    };
    if lists.is_empty() {
        return Err(ListError::Missing);
    }
    lists.into_iter().map(|der| List::new(der, authorities, roots).map(Arc::new)).collect()
}

impl List {
    fn new(
        der: CertificateRevocationListDer<'static>,
        authorities: &[CertificateDer<'static>],
        roots: &Arc<RootCertStore>,
    ) -> Result<Self, ListError> {
        let (issuer, scope, this_update, next_update) = {
            let (rest, parsed) = CertificateRevocationList::from_der(&der)?;
            if !rest.is_empty() {
                return Err(ListError::Trailing);
            }
            let scope = parsed.extensions().iter().find(|one| one.oid.to_id_string() == SCOPE);
            (
                parsed.issuer().as_raw().to_vec(),
                scope.map(|scope| scope.value.to_vec()),
                parsed.last_update().timestamp(),
                parsed.next_update().ok_or(ListError::NoNextUpdate)?.timestamp(),
            )
        };
        // The library reports what it does not support only while a verifier is built.
        WebPkiClientVerifier::builder_with_provider(roots.clone(), crate::tls::crypto())
            .with_crls([der.clone()])
            .build()?;
        let list = Self { der, issuer, scope, this_update, next_update };
        let mut named = authorities.iter().filter(|authority| list.is_named_by(authority)).peekable();
        if named.peek().is_some() && !named.any(|authority| is_issued_by(&list.der, authority)) {
            return Err(ListError::Signature);
        }
        Ok(list)
    }

    /// Returns true if the authority has the name of the list's issuer.
    fn is_named_by(&self, authority: &[u8]) -> bool {
        let parsed = x509_parser::parse_x509_certificate(authority);
        parsed.is_ok_and(|(_, authority)| authority.subject().as_raw() == self.issuer)
    }

    /// Returns true if both lists cover the same certificates.
    fn covers_same(&self, other: &Self) -> bool {
        self.issuer == other.issuer && self.scope == other.scope
    }
}

/// Returns the lists to use: of those for the same certificates, the one that was issued last. The library uses the
/// first that it finds.
pub(super) fn newest<'l>(lists: impl IntoIterator<Item = &'l Arc<List>>) -> Vec<Arc<List>> {
    let mut chosen: Vec<Arc<List>> = Vec::new();
    for list in lists {
        match chosen.iter_mut().find(|known| known.covers_same(list)) {
            Some(known) if known.this_update < list.this_update => *known = list.clone(),
            Some(_) => {}
            None => chosen.push(list.clone()),
        }
    }
    chosen
}

/// Returns an error if one of the new lists was issued before the known list for the same certificates.
pub(super) fn check_order(known: &[Arc<List>], new: &[Arc<List>]) -> Result<(), ListError> {
    let is_older = |new: &Arc<List>| {
        known.iter().any(|known| known.covers_same(new) && new.this_update < known.this_update)
    };
    if new.iter().any(is_older) { Err(ListError::Older) } else { Ok(()) }
}
