//! The ASN.1 types of OCSP that stapling needs (RFC 6960 section 4).

use std::fmt;

use der::asn1::{AnyRef, BitStringRef, GeneralizedTime, ObjectIdentifier, OctetStringRef};
use der::{Enumerated, Sequence};

/// SHA-1, which only identifies certificates here (`id-sha1`).
pub(super) const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
/// The only type of response (`id-pkix-ocsp-basic`).
pub(super) const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");

/// `OCSPRequest`, without signature.
#[derive(Sequence)]
pub(super) struct OcspRequest<'a> {
    pub(super) request: TbsRequest<'a>,
}

/// `TBSRequest`, without options.
#[derive(Sequence)]
pub(super) struct TbsRequest<'a> {
    pub(super) requests: Vec<SingleRequest<'a>>,
}

/// `Request`, without extensions.
#[derive(Sequence)]
pub(super) struct SingleRequest<'a> {
    pub(super) certificate: CertId<'a>,
}

/// `CertID`: a certificate by the hashes of its issuer's name and key, and its serial number.
#[derive(Clone, Sequence)]
pub(super) struct CertId<'a> {
    pub(super) hash_algorithm: AlgorithmIdentifier<'a>,
    pub(super) issuer_name_hash: &'a OctetStringRef,
    pub(super) issuer_key_hash: &'a OctetStringRef,
    /// An INTEGER, as in the certificate. Some serial numbers are not valid DER.
    pub(super) serial_number: AnyRef<'a>,
}

/// `AlgorithmIdentifier` (RFC 5280 section 4.1.1.2).
#[derive(Clone, Sequence)]
pub(super) struct AlgorithmIdentifier<'a> {
    pub(super) algorithm: ObjectIdentifier,
    pub(super) parameters: Option<AnyRef<'a>>,
}

/// `SubjectPublicKeyInfo` (RFC 5280 section 4.1).
#[derive(Sequence)]
pub(super) struct PublicKeyInfo<'a> {
    pub(super) algorithm: AnyRef<'a>,
    pub(super) key: BitStringRef<'a>,
}

/// `OCSPResponse`.
#[derive(Sequence)]
pub(super) struct OcspResponse<'a> {
    pub(super) status: ResponseStatus,
    #[asn1(context_specific = "0", optional = "true")]
    pub(super) bytes: Option<ResponseBytes<'a>>,
}

/// `OCSPResponseStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumerated)]
#[repr(u8)]
pub(in crate::tls) enum ResponseStatus {
    /// The response has bytes.
    Successful = 0,
    /// The request is malformed.
    MalformedRequest = 1,
    /// The responder has an internal error.
    InternalError = 2,
    /// The responder has no response yet.
    TryLater = 3,
    /// The request must be signed.
    SigRequired = 5,
    /// The client is not authorized, or the responder knows nothing about the issuer.
    Unauthorized = 6,
}

impl fmt::Display for ResponseStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Successful => "successful",
            Self::MalformedRequest => "malformedRequest",
            Self::InternalError => "internalError",
            Self::TryLater => "tryLater",
            Self::SigRequired => "sigRequired",
            Self::Unauthorized => "unauthorized",
        })
    }
}

/// `ResponseBytes`.
#[derive(Sequence)]
pub(super) struct ResponseBytes<'a> {
    pub(super) response_type: ObjectIdentifier,
    pub(super) response: &'a OctetStringRef,
}

/// Signed content: a `BasicOCSPResponse`, or a `Certificate`, which has no certificates.
#[derive(Sequence)]
pub(super) struct Signed<'a> {
    pub(super) content: AnyRef<'a>,
    pub(super) algorithm: AnyRef<'a>,
    pub(super) signature: BitStringRef<'a>,
    #[asn1(context_specific = "0", optional = "true")]
    pub(super) certificates: Option<Vec<AnyRef<'a>>>,
}

/// `ResponseData`.
#[derive(Sequence)]
pub(super) struct ResponseData<'a> {
    #[asn1(context_specific = "0", optional = "true")]
    pub(super) version: Option<AnyRef<'a>>,
    pub(super) responder: AnyRef<'a>,
    pub(super) produced_at: GeneralizedTime,
    pub(super) responses: Vec<SingleResponse<'a>>,
    #[asn1(context_specific = "1", optional = "true")]
    pub(super) extensions: Option<AnyRef<'a>>,
}

/// `SingleResponse`.
#[derive(Sequence)]
pub(super) struct SingleResponse<'a> {
    pub(super) certificate: CertId<'a>,
    /// `CertStatus`: tag 0 is good, 1 is revoked, 2 is unknown.
    pub(super) status: AnyRef<'a>,
    pub(super) this_update: GeneralizedTime,
    #[asn1(context_specific = "0", optional = "true")]
    pub(super) next_update: Option<GeneralizedTime>,
    #[asn1(context_specific = "1", optional = "true")]
    pub(super) extensions: Option<AnyRef<'a>>,
}
