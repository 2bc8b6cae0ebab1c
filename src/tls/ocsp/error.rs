//! Why there is no OCSP answer that may be shown.

use http::StatusCode;
use http::header::InvalidHeaderValue;
use http::uri::InvalidUri;
use tidegate_core::{CollectError, UpstreamError};
use time::OffsetDateTime;
use x509_parser::nom;
use x509_parser::prelude::X509Error;

/// Failure to get an answer, or a reason not to show it.
#[derive(Debug, thiserror::Error)]
pub(super) enum OcspError {
    /// The certificate names a responder by something else than a URL.
    #[error("`{url}` is no URL: {source}")]
    Url {
        /// What it names.
        url: String,
        /// The cause.
        source: InvalidUri,
    },
    /// The URL has a host that cannot be sent.
    #[error(transparent)]
    Host(#[from] InvalidHeaderValue),
    /// The responder cannot be reached.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The answer is too large, or broke off.
    #[error(transparent)]
    Body(#[from] CollectError),
    /// The responder answers with an error of HTTP.
    #[error("the responder answers {0}")]
    Http(StatusCode),
    /// The responder did not answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The responder has no answer now.
    #[error("the responder says: try later")]
    TryLater,
    /// The responder answers with an error of OCSP.
    #[error("the responder refuses, status {0:?}")]
    Refused(Vec<u8>),
    /// The certificate is revoked.
    #[error("the certificate is revoked")]
    Revoked,
    /// The responder knows nothing of the certificate.
    #[error("the responder does not know the certificate")]
    Unknown,
    /// The answer has no end, so that it cannot be kept.
    #[error("it says no time of the next update")]
    NoNextUpdate,
    /// The answer is out of date, or not valid yet.
    #[error("it is for another time: {this_update} to {next_update}")]
    OtherTime {
        /// When it becomes valid.
        this_update: OffsetDateTime,
        /// When it ends.
        next_update: OffsetDateTime,
    },
    /// The answer does not have what was asked about.
    #[error("it is about another certificate")]
    OtherCertificate,
    /// The signature is neither the issuer's nor of somebody whom the issuer allows to sign.
    #[error("it is signed by nobody who may")]
    Signature,
    /// The answer is not a basic one (RFC 6960 section 4.2.1).
    #[error("it is of an unknown kind")]
    Kind,
    /// A certificate cannot be read.
    #[error(transparent)]
    Certificate(#[from] nom::Err<X509Error>),
    /// A time cannot be read.
    #[error("`{0}` is not a time")]
    Time(String),
    /// The answer is cut off, or not DER.
    #[error("it is no valid DER")]
    Der,
    /// A value is missing.
    #[error("it is not built as expected: there is no value with tag {0:#x}")]
    MissingValue(u8),
    /// A bit string ends within a byte.
    #[error("a row of bits is not of whole bytes")]
    Bits,
}
