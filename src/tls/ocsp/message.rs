//! Builds OCSP requests and verifies responses (RFC 6960).

use der::asn1::{AnyRef, GeneralizedTime, OctetStringRef};
use der::{Decode, Encode, Tag, TagNumber, Tagged};
use rustls::pki_types::CertificateDer;
use sha1::{Digest, Sha1};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::asn1::{
    AlgorithmIdentifier, BASIC, CertId, OcspRequest, OcspResponse, PublicKeyInfo, ResponseData,
    ResponseStatus, SHA1, Signed, SingleRequest, TbsRequest,
};
use super::error::OcspError;

/// Tolerated clock skew of a responder.
const SKEW: time::Duration = time::Duration::minutes(5);
/// Access by OCSP (`id-ad-ocsp`).
const ACCESS_BY_OCSP: &str = "1.3.6.1.5.5.7.48.1";

/// How old a response without `nextUpdate` may be.
const MAX_AGE: time::Duration = time::Duration::minutes(10);

/// A request about a certificate and its issuer.
pub(in crate::tls) struct StatusRequest {
    /// The URL of the responder.
    pub(in crate::tls) url: String,
    id: Id,
    issuer: CertificateDer<'static>,
}

struct Id {
    name_hash: [u8; 20],
    key_hash: [u8; 20],
    serial: Vec<u8>,
}

/// A verified response to staple.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Staple {
    /// The encoded response.
    pub(super) response: Vec<u8>,
    /// When it became valid.
    pub(super) this_update: OffsetDateTime,
    /// When it expires.
    pub(super) next_update: OffsetDateTime,
}

/// What a verified response says about the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tls) struct Statement {
    pub(in crate::tls) status: Status,
    /// When it became valid.
    pub(in crate::tls) this_update: OffsetDateTime,
    /// When it expires, if the response says so.
    next_update: Option<OffsetDateTime>,
}

/// `CertStatus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tls) enum Status {
    /// Not revoked.
    Good,
    /// Revoked, or on hold.
    Revoked,
    /// The responder does not know the certificate.
    Unknown,
}

impl StatusRequest {
    /// Returns the request about the first certificate of a chain; `None` without a responder or issuer.
    pub(super) fn about(chain: &[CertificateDer<'static>]) -> Option<Self> {
        let [leaf, issuer, ..] = chain else { return None };
        let url = responder(leaf)?;
        Self::new(leaf, issuer, url)
    }

    /// Returns the request to this responder about a certificate and its issuer; `None` if one is malformed.
    pub(in crate::tls) fn new(leaf: &[u8], issuer: &[u8], url: String) -> Option<Self> {
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        let (_, parsed) = X509Certificate::from_der(issuer).ok()?;
        Some(Self {
            url,
            id: Id {
                name_hash: Sha1::digest(leaf.issuer().as_raw()).into(),
                key_hash: Sha1::digest(&parsed.public_key().subject_public_key.data).into(),
                serial: leaf.raw_serial().to_vec(),
            },
            issuer: CertificateDer::from(issuer.to_vec()),
        })
    }

    /// Encodes the request.
    pub(in crate::tls) fn request(&self) -> Result<Vec<u8>, OcspError> {
        let requests = vec![SingleRequest { certificate: self.id.cert_id()? }];
        Ok(OcspRequest { request: TbsRequest { requests } }.to_der()?)
    }

    /// Verifies signature, certificate and validity period of a response.
    pub(in crate::tls) fn statement(
        &self,
        response: &[u8],
        now: OffsetDateTime,
    ) -> Result<Statement, OcspError> {
        let decoded = OcspResponse::from_der(response)?;
        match decoded.status {
            ResponseStatus::Successful => {}
            status => return Err(OcspError::Refused(status)),
        }
        let bytes = decoded.bytes.filter(|bytes| bytes.response_type == BASIC).ok_or(OcspError::Kind)?;
        let basic = Signed::from_der(bytes.response.as_bytes())?;
        self.check_signer(&basic, now)?;
        let data: ResponseData<'_> = basic.content.decode_as()?;
        let about = self.id.cert_id()?;
        let same = |id: &CertId<'_>| {
            id.hash_algorithm.algorithm == SHA1
                && id.issuer_name_hash == about.issuer_name_hash
                && id.issuer_key_hash == about.issuer_key_hash
                && id.serial_number == about.serial_number
        };
        let single = data.responses.iter().find(|single| same(&single.certificate));
        let single = single.ok_or(OcspError::OtherCertificate)?;
        let status = match single.status.tag() {
            Tag::ContextSpecific { number: TagNumber(0), .. } => Status::Good,
            Tag::ContextSpecific { number: TagNumber(1), .. } => Status::Revoked,
            _ => Status::Unknown,
        };
        let this_update = date(single.this_update)?;
        let next_update = single.next_update.map(date).transpose()?;
        let statement = Statement { status, this_update, next_update };
        if this_update > now + SKEW || statement.valid_until() < now {
            return Err(OcspError::OtherTime { this_update, next_update: statement.valid_until() });
        }
        Ok(statement)
    }

    /// Verifies a response to staple: the certificate must be good, and the time of the next update known.
    pub(super) fn staple(&self, response: &[u8], now: OffsetDateTime) -> Result<Staple, OcspError> {
        let statement = self.statement(response, now)?;
        match statement.status {
            Status::Good => {}
            Status::Revoked => return Err(OcspError::Revoked),
            Status::Unknown => return Err(OcspError::Unknown),
        }
        let next_update = statement.next_update.ok_or(OcspError::NoNextUpdate)?;
        Ok(Staple { response: response.to_vec(), this_update: statement.this_update, next_update })
    }

    /// Verifies that the signer is the issuer or a delegated responder (RFC 6960 section 4.2.2.2).
    fn check_signer(&self, basic: &Signed<'_>, now: OffsetDateTime) -> Result<(), OcspError> {
        if is_signed_by(basic, &self.issuer)? {
            return Ok(());
        }
        for certificate in basic.certificates.iter().flatten() {
            let der = certificate.to_der()?;
            if may_sign(&der, now)
                && is_signed_by(&Signed::from_der(&der)?, &self.issuer)?
                && is_signed_by(basic, &der)?
            {
                return Ok(());
            }
        }
        Err(OcspError::Signature)
    }
}

impl Statement {
    /// Returns when it expires. Without `nextUpdate`, newer information is always available (RFC 6960 section 4.2.2.1),
    /// so it is valid for a short time.
    pub(in crate::tls) fn valid_until(&self) -> OffsetDateTime {
        self.next_update.unwrap_or_else(|| self.this_update.saturating_add(MAX_AGE))
    }
}

impl Id {
    fn cert_id(&self) -> Result<CertId<'_>, OcspError> {
        Ok(CertId {
            hash_algorithm: AlgorithmIdentifier { algorithm: SHA1, parameters: Some(AnyRef::NULL) },
            issuer_name_hash: OctetStringRef::new(&self.name_hash)?,
            issuer_key_hash: OctetStringRef::new(&self.key_hash)?,
            serial_number: AnyRef::new(Tag::Integer, &self.serial)?,
        })
    }
}

/// Returns the URL of a certificate's responder.
pub(in crate::tls) fn responder(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => {
            access.accessdescs.iter().find_map(|description| match &description.access_location {
                GeneralName::URI(url) if description.access_method.to_id_string() == ACCESS_BY_OCSP => {
                    Some((*url).to_owned())
                }
                _ => None,
            })
        }
        _ => None,
    })
}

/// Returns true for a certificate that may sign OCSP responses.
fn may_sign(certificate: &[u8], now: OffsetDateTime) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    let validity = parsed.validity();
    let is_current = (validity.not_before.to_datetime()..=validity.not_after.to_datetime()).contains(&now);
    let usage = parsed.extended_key_usage().ok().flatten();
    is_current && usage.is_some_and(|usage| usage.value.ocsp_signing)
}

/// Returns true if the key of the certificate `issuer` has signed a certificate or a revocation list.
pub(in crate::tls) fn is_issued_by(signed: &[u8], issuer: &[u8]) -> bool {
    let signed = Signed::from_der(signed).map_err(OcspError::from);
    signed.and_then(|signed| is_signed_by(&signed, issuer)).unwrap_or(false)
}

/// Returns true if the key of this certificate has signed the content.
fn is_signed_by(signed: &Signed<'_>, certificate: &[u8]) -> Result<bool, OcspError> {
    let (_, parsed) = X509Certificate::from_der(certificate)?;
    let key = PublicKeyInfo::from_der(parsed.tbs_certificate.subject_pki.raw)?;
    let (Some(bits), Some(signature)) = (key.key.as_bytes(), signed.signature.as_bytes()) else {
        return Ok(false);
    };
    let message = signed.content.to_der()?;
    let known = crate::tls::crypto().signature_verification_algorithms.all.iter().filter(|known| {
        known.public_key_alg_id().as_ref() == key.algorithm.value()
            && known.signature_alg_id().as_ref() == signed.algorithm.value()
    });
    Ok(known.into_iter().any(|known| known.verify_signature(bits, &message, signature).is_ok()))
}

fn date(time: GeneralizedTime) -> Result<OffsetDateTime, OcspError> {
    let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
    Ok(OffsetDateTime::from_unix_timestamp(seconds)?)
}

#[cfg(test)]
pub(in crate::tls) mod tests {
    use der::asn1::BitStringRef;
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        SigningKey,
    };

    use super::super::asn1::{ResponseBytes, SingleResponse};
    use super::*;

    /// A CA and a certificate issued by it.
    pub(in super::super) struct Pair {
        pub(in super::super) chain: Vec<CertificateDer<'static>>,
        pub(in super::super) key: KeyPair,
        authority: KeyPair,
        params: CertificateParams,
    }

    /// Returns a statement with these times, in Unix time.
    pub(in crate::tls) fn statement(status: Status, this_update: i64, next_update: i64) -> Statement {
        let time = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        Statement { status, this_update: time(this_update), next_update: Some(time(next_update)) }
    }

    const ECDSA_WITH_SHA256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

    const GOOD: AnyRef<'_> = status(0, false, &[]);
    const UNKNOWN: AnyRef<'_> = status(2, false, &[]);

    const fn status(number: u32, constructed: bool, content: &[u8]) -> AnyRef<'_> {
        match AnyRef::new(Tag::ContextSpecific { constructed, number: TagNumber(number) }, content) {
            Ok(status) => status,
            Err(_) => panic!("content is short"),
        }
    }

    fn value(tag: Tag, content: &[u8]) -> Vec<u8> {
        AnyRef::new(tag, content).unwrap().to_der().unwrap()
    }

    impl Pair {
        pub(in super::super) fn new(url: &str) -> Self {
            let authority = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = params.self_signed(&authority).unwrap();
            let key = KeyPair::generate().unwrap();
            let mut leaf = CertificateParams::new(vec!["h.test".to_owned()]).unwrap();
            let method = value(Tag::ObjectIdentifier, &[0x2b, 6, 1, 5, 5, 7, 0x30, 1]);
            let access = [method, status(6, false, url.as_bytes()).to_der().unwrap()].concat();
            let access = value(Tag::Sequence, &value(Tag::Sequence, &access));
            let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], access);
            leaf.custom_extensions.push(extension);
            let leaf = leaf.signed_by(&key, &Issuer::from_params(&params, &authority)).unwrap();
            Self { chain: vec![leaf.der().clone(), root.der().clone()], key, authority, params }
        }

        pub(in super::super) fn question(&self) -> StatusRequest {
            StatusRequest::about(&self.chain).unwrap()
        }

        /// Returns a response with this status, issued `ago` and valid for an hour, signed by `signer`.
        fn answer(
            &self,
            status: AnyRef<'_>,
            ago: time::Duration,
            signer: &KeyPair,
            certificates: &[&[u8]],
        ) -> Vec<u8> {
            let at = |time: OffsetDateTime| {
                let since = std::time::Duration::from_secs(time.unix_timestamp() as u64);
                GeneralizedTime::from_unix_duration(since).unwrap()
            };
            let begun = OffsetDateTime::now_utc() - ago;
            let question = self.question();
            let single = SingleResponse {
                certificate: question.id.cert_id().unwrap(),
                status,
                this_update: at(begun),
                next_update: Some(at(begun + time::Duration::hours(1))),
                extensions: None,
            };
            let by_key = value(Tag::OctetString, &[0; 20]);
            let data = ResponseData {
                version: None,
                responder: self::status(2, true, &by_key),
                produced_at: at(begun),
                responses: vec![single],
                extensions: None,
            };
            let data = data.to_der().unwrap();
            let signature = signer.sign(&data).unwrap();
            let certificates: Vec<_> =
                certificates.iter().map(|der| AnyRef::from_der(der).unwrap()).collect();
            let basic = Signed {
                content: AnyRef::from_der(&data).unwrap(),
                algorithm: AnyRef::new(Tag::Sequence, ECDSA_WITH_SHA256).unwrap(),
                signature: BitStringRef::from_bytes(&signature).unwrap(),
                certificates: Some(certificates).filter(|list| !list.is_empty()),
            };
            let basic = basic.to_der().unwrap();
            let response = OctetStringRef::new(&basic).unwrap();
            let bytes = ResponseBytes { response_type: BASIC, response };
            OcspResponse { status: ResponseStatus::Successful, bytes: Some(bytes) }.to_der().unwrap()
        }

        pub(in super::super) fn good(&self) -> Vec<u8> {
            self.answer(GOOD, time::Duration::ZERO, &self.authority, &[])
        }

        /// Returns a delegated responder, which is authorized if `may` is set.
        fn delegate(&self, may: bool) -> (KeyPair, Vec<u8>) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            if may {
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::OcspSigning);
            }
            let issuer = Issuer::from_params(&self.params, &self.authority);
            let certificate = params.signed_by(&key, &issuer).unwrap();
            (key, certificate.der().to_vec())
        }
    }

    #[test]
    fn invalid_responses_are_rejected() {
        let pair = Pair::new("http://ocsp.test/");
        let (question, now) = (pair.question(), OffsetDateTime::now_utc());
        assert_eq!(question.url, "http://ocsp.test/");
        let check = |answer: &[u8]| question.staple(answer, now);
        let good = check(&pair.good()).unwrap();
        assert!(good.next_update > now && good.this_update <= now);
        let (hour, none) = (time::Duration::hours(1), time::Duration::ZERO);
        let since = value(Tag::GeneralizedTime, b"20200101000000Z");
        let revoked = status(1, true, &since);
        let refused = |status| OcspResponse { status, bytes: None }.to_der().unwrap();
        for (answer, told) in [
            (pair.answer(revoked, none, &pair.authority, &[]), "revoked"),
            (pair.answer(UNKNOWN, none, &pair.authority, &[]), "does not know"),
            (pair.answer(GOOD, hour * 2, &pair.authority, &[]), "not valid now"),
            (pair.answer(GOOD, -hour, &pair.authority, &[]), "not valid now"),
            (pair.answer(GOOD, none, &pair.key, &[]), "unauthorized signer"),
            (Pair::new("http://ocsp.test/").good(), "unauthorized signer"),
            (refused(ResponseStatus::TryLater), "tryLater"),
            (refused(ResponseStatus::Unauthorized), "returned status `unauthorized`"),
            (b"<html>".to_vec(), "unexpected structure"),
            (Vec::new(), "unexpected structure"),
        ] {
            let error = check(&answer).unwrap_err();
            assert!(error.to_string().contains(told), "{told}: {error}");
        }
        let mut changed = pair.good();
        let last = changed.len() - 100;
        changed[last] ^= 1;
        assert!(check(&changed).is_err());
    }

    #[test]
    fn only_authorized_delegates_may_sign() {
        let pair = Pair::new("http://ocsp.test/");
        let now = OffsetDateTime::now_utc();
        for may in [true, false] {
            let (key, certificate) = pair.delegate(may);
            let answer = pair.answer(GOOD, time::Duration::ZERO, &key, &[&certificate]);
            assert_eq!(pair.question().staple(&answer, now).is_ok(), may);
        }
        let (key, certificate) = Pair::new("http://ocsp.test/").delegate(true);
        let answer = pair.answer(GOOD, time::Duration::ZERO, &key, &[&certificate]);
        assert!(pair.question().staple(&answer, now).is_err(), "of another authority");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..600, bit in 0u8..8,
        ) {
            let pair = Pair::new("http://ocsp.test/");
            let now = OffsetDateTime::now_utc();
            prop_assert!(pair.question().staple(&noise, now).is_err());
            let mut answer = pair.good();
            let place = at % answer.len();
            answer[place] ^= 1 << bit;
            let _ = pair.question().staple(&answer, now);
        }
    }
}
