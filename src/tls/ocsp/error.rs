//! Errors of OCSP.

use time::OffsetDateTime;
use x509_parser::nom;
use x509_parser::prelude::X509Error;

use super::asn1::ResponseStatus;
use crate::tls::fetch::FetchError;

/// Why there is no valid OCSP response.
#[derive(Debug, thiserror::Error)]
pub(in crate::tls) enum OcspError {
    /// The responder did not answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The responder returns an OCSP error.
    #[error("the responder returned status `{0}`")]
    Refused(ResponseStatus),
    /// The certificate is revoked.
    #[error("the certificate is revoked")]
    Revoked,
    /// The certificate is unknown to the responder.
    #[error("the responder does not know the certificate")]
    Unknown,
    /// The response has no time of the next update, so it cannot be cached.
    #[error("missing nextUpdate")]
    NoNextUpdate,
    /// The response is expired or not valid yet.
    #[error("not valid now: valid from {this_update} to {next_update}")]
    OtherTime {
        /// When it becomes valid.
        this_update: OffsetDateTime,
        /// When it expires.
        next_update: OffsetDateTime,
    },
    /// A later response about the certificate is known.
    #[error("older than the last response: it may be a replay")]
    Older,
    /// The response is about another certificate.
    #[error("response for another certificate")]
    OtherCertificate,
    /// The signature is neither that of the issuer nor of a delegated responder.
    #[error("invalid signature or unauthorized signer")]
    Signature,
    /// The response is not a basic one (RFC 6960 section 4.2.1).
    #[error("unknown response type")]
    Kind,
    /// A certificate is invalid.
    #[error(transparent)]
    Certificate(#[from] nom::Err<X509Error>),
    /// The response is not what RFC 6960 describes.
    #[error("unexpected structure: {0}")]
    Der(#[from] der::Error),
    /// A time is too far away.
    #[error(transparent)]
    Time(#[from] time::error::ComponentRange),
}
