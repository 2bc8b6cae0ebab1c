//! Builds OCSP requests and verifies responses (RFC 6960).

use rustls::pki_types::CertificateDer;
use sha1::{Digest, Sha1};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::error::OcspError;

/// Tolerated clock skew of a responder.
const SKEW: time::Duration = time::Duration::minutes(5);
/// The algorithm identifier of SHA-1, which only identifies certificates here.
const SHA1: &[u8] = &[0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];
/// The basic response type (`id-pkix-ocsp-basic`).
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// Access by OCSP (`id-ad-ocsp`).
const ACCESS_BY_OCSP: &str = "1.3.6.1.5.5.7.48.1";

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const ENUMERATED: u8 = 0x0a;
const TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// Explicit tag 0.
const TAGGED_0: u8 = 0xa0;

/// A request about a certificate and its issuer.
pub(super) struct StatusRequest {
    /// The URL of the responder.
    pub(super) url: String,
    id: Id,
    issuer: CertificateDer<'static>,
}

struct Id {
    name_hash: [u8; 20],
    key_hash: [u8; 20],
    serial: Vec<u8>,
}

/// A verified response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Staple {
    /// The encoded response.
    pub(super) response: Vec<u8>,
    /// When it became valid.
    pub(super) this_update: OffsetDateTime,
    /// When it expires.
    pub(super) next_update: OffsetDateTime,
}

impl StatusRequest {
    /// Returns the request about the first certificate of a chain; `None` without a responder or issuer.
    pub(super) fn about(chain: &[CertificateDer<'static>]) -> Option<Self> {
        let [leaf, issuer, ..] = chain else { return None };
        let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
        let (_, parsed) = X509Certificate::from_der(issuer).ok()?;
        let url = responder(&leaf)?;
        Some(Self {
            url,
            id: Id {
                name_hash: Sha1::digest(leaf.issuer().as_raw()).into(),
                key_hash: Sha1::digest(&parsed.public_key().subject_public_key.data).into(),
                serial: leaf.raw_serial().to_vec(),
            },
            issuer: issuer.clone(),
        })
    }

    /// Encodes the request.
    pub(super) fn request(&self) -> Vec<u8> {
        let id = [
            SHA1.to_vec(),
            wrap(OCTET_STRING, &self.id.name_hash),
            wrap(OCTET_STRING, &self.id.key_hash),
            wrap(INTEGER, &self.id.serial),
        ];
        let mut whole = wrap(SEQUENCE, &id.concat());
        // Request, requestList, tbsRequest, OCSPRequest.
        for _ in 0..4 {
            whole = wrap(SEQUENCE, &whole);
        }
        whole
    }

    /// Verifies signature, certificate and validity period of a response.
    pub(super) fn check(&self, response: &[u8], now: OffsetDateTime) -> Result<Staple, OcspError> {
        let basic = basic_response(response)?;
        let mut parts = Der(content(basic, SEQUENCE)?);
        let data = parts.next(SEQUENCE)?;
        let algorithm = parts.next(SEQUENCE)?;
        let signature = bits(parts.next(BIT_STRING)?)?;
        let certificates = parts.next(TAGGED_0).map(|tagged| tagged.content).unwrap_or_default();
        self.check_signer(data.whole, algorithm.content, signature, certificates, now)?;
        let mut fields = Der(data.content);
        // The default version is omitted.
        let _ = fields.next(TAGGED_0);
        fields.any()?;
        fields.next(TIME)?;
        let mut answers = Der(fields.next(SEQUENCE)?.content);
        while !answers.0.is_empty() {
            let mut answer = Der(answers.next(SEQUENCE)?.content);
            if !self.matches_certificate(answer.next(SEQUENCE)?.content)? {
                continue;
            }
            match answer.any()?.tag {
                0x80 => {}
                0xa1 => return Err(OcspError::Revoked),
                _ => return Err(OcspError::Unknown),
            }
            let this_update = read_time(answer.next(TIME)?.content)?;
            let next = answer.next(TAGGED_0).map_err(|_| OcspError::NoNextUpdate)?;
            let next_update = read_time(content(next.content, TIME)?)?;
            if this_update > now + SKEW || next_update < now {
                return Err(OcspError::OtherTime { this_update, next_update });
            }
            return Ok(Staple { response: response.to_vec(), this_update, next_update });
        }
        Err(OcspError::OtherCertificate)
    }

    fn matches_certificate(&self, id: &[u8]) -> Result<bool, OcspError> {
        let mut id = Der(id);
        id.next(SEQUENCE)?;
        Ok(id.next(OCTET_STRING)?.content == self.id.name_hash
            && id.next(OCTET_STRING)?.content == self.id.key_hash
            && id.next(INTEGER)?.content == self.id.serial)
    }

    /// Verifies that the signer is the issuer or a delegated responder (RFC 6960 section 4.2.2.2).
    fn check_signer(
        &self,
        data: &[u8],
        algorithm: &[u8],
        signature: &[u8],
        certificates: &[u8],
        now: OffsetDateTime,
    ) -> Result<(), OcspError> {
        let issuer_key = public_key(&self.issuer)?;
        if verify(issuer_key, algorithm, data, signature) {
            return Ok(());
        }
        let mut list = Der(if certificates.is_empty() { &[] } else { content(certificates, SEQUENCE)? });
        while !list.0.is_empty() {
            let certificate = list.next(SEQUENCE)?;
            let mut parts = Der(certificate.content);
            let (signed, by) = (parts.next(SEQUENCE)?, parts.next(SEQUENCE)?);
            let its_signature = bits(parts.next(BIT_STRING)?)?;
            if may_sign(certificate.whole, now)
                && verify(issuer_key, by.content, signed.whole, its_signature)
                && verify(public_key(certificate.whole)?, algorithm, data, signature)
            {
                return Ok(());
            }
        }
        Err(OcspError::Signature)
    }
}

/// Returns the URL of a certificate's responder.
fn responder(certificate: &X509Certificate<'_>) -> Option<String> {
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

/// Returns algorithm and bits of a certificate's public key.
fn public_key(certificate: &[u8]) -> Result<(&[u8], &[u8]), OcspError> {
    let (_, parsed) = X509Certificate::from_der(certificate)?;
    let mut key = Der(content(parsed.tbs_certificate.subject_pki.raw, SEQUENCE)?);
    Ok((key.next(SEQUENCE)?.content, bits(key.next(BIT_STRING)?)?))
}

fn verify((kind, key): (&[u8], &[u8]), algorithm: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let known = crate::tls::crypto().signature_verification_algorithms.all;
    known
        .iter()
        .filter(|known| {
            known.public_key_alg_id().as_ref() == kind && known.signature_alg_id().as_ref() == algorithm
        })
        .any(|known| known.verify_signature(key, message, signature).is_ok())
}

fn basic_response(response: &[u8]) -> Result<&[u8], OcspError> {
    let mut parts = Der(content(response, SEQUENCE)?);
    match parts.next(ENUMERATED)?.content {
        [0] => {}
        [3] => return Err(OcspError::TryLater),
        other => return Err(OcspError::Refused(other.to_vec())),
    }
    let mut typed = Der(content(parts.next(TAGGED_0)?.content, SEQUENCE)?);
    if typed.next(OBJECT_ID)?.content != BASIC {
        return Err(OcspError::Kind);
    }
    Ok(typed.next(OCTET_STRING)?.content)
}

/// Parses a time in the form `YYYYMMDDHHMMSSZ`.
fn read_time(text: &[u8]) -> Result<OffsetDateTime, OcspError> {
    let format = time::macros::format_description!("[year][month][day][hour][minute][second]Z");
    let text = String::from_utf8_lossy(text);
    match time::PrimitiveDateTime::parse(&text, format) {
        Ok(time) => Ok(time.assume_utc()),
        Err(_) => Err(OcspError::Time(text.into_owned())),
    }
}

/// The rest of a list of DER values (X.690).
struct Der<'a>(&'a [u8]);

struct Value<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Der<'a> {
    fn any(&mut self) -> Result<Value<'a>, OcspError> {
        let read = || {
            let (tag, rest) = self.0.split_first()?;
            let (first, rest) = rest.split_first()?;
            let (length, rest) = match *first {
                short @ ..=0x7f => (usize::from(short), rest),
                // Lengths of up to three bytes are sufficient here.
                long @ 0x81..=0x83 => {
                    let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                    (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
                }
                _ => return None,
            };
            let (content, rest) = rest.split_at_checked(length)?;
            let whole = &self.0[..self.0.len() - rest.len()];
            Some((Value { tag: *tag, content, whole }, rest))
        };
        let (value, rest) = read().ok_or(OcspError::Der)?;
        self.0 = rest;
        Ok(value)
    }

    /// Consumes the next value if it has this tag.
    fn next(&mut self, tag: u8) -> Result<Value<'a>, OcspError> {
        if self.0.first() != Some(&tag) {
            return Err(OcspError::MissingValue(tag));
        }
        self.any()
    }
}

/// Returns the content of a single value with this tag.
fn content(bytes: &[u8], tag: u8) -> Result<&[u8], OcspError> {
    Der(bytes).next(tag).map(|value| value.content)
}

fn bits(value: Value<'_>) -> Result<&[u8], OcspError> {
    value.content.strip_prefix(&[0]).ok_or(OcspError::Bits)
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut value = vec![tag];
    match content.len() {
        short @ ..=0x7f => value.push(short as u8),
        middle @ ..=0xff => value.extend_from_slice(&[0x81, middle as u8]),
        long => {
            value.push(0x82);
            value.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    value.extend_from_slice(content);
    value
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        SigningKey,
    };

    use super::*;

    /// A CA and a certificate issued by it.
    pub(in super::super) struct Pair {
        pub(in super::super) chain: Vec<CertificateDer<'static>>,
        pub(in super::super) key: KeyPair,
        authority: KeyPair,
        params: CertificateParams,
    }

    const ECDSA_WITH_SHA256: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

    impl Pair {
        pub(in super::super) fn new(url: &str) -> Self {
            let authority = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let root = params.self_signed(&authority).unwrap();
            let key = KeyPair::generate().unwrap();
            let mut leaf = CertificateParams::new(vec!["h.test".to_owned()]).unwrap();
            let access =
                [wrap(OBJECT_ID, &[0x2b, 6, 1, 5, 5, 7, 0x30, 1]), wrap(0x86, url.as_bytes())].concat();
            let access = wrap(SEQUENCE, &wrap(SEQUENCE, &access));
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
            status: &[u8],
            ago: time::Duration,
            signer: &KeyPair,
            certificates: &[u8],
        ) -> Vec<u8> {
            let format = time::macros::format_description!("[year][month][day][hour][minute][second]Z");
            let at = |time: OffsetDateTime| wrap(TIME, time.format(format).unwrap().as_bytes());
            let begun = OffsetDateTime::now_utc() - ago;
            // The CertID is the innermost value of the request.
            let request = self.question().request();
            let mut id = &request[..];
            for _ in 0..4 {
                id = content(id, SEQUENCE).unwrap();
            }
            let single =
                [id, status, &at(begun), &wrap(TAGGED_0, &at(begun + time::Duration::hours(1)))].concat();
            let data = [
                wrap(0xa2, &wrap(OCTET_STRING, &[0; 20])),
                at(begun),
                wrap(SEQUENCE, &wrap(SEQUENCE, &single)),
            ];
            let data = wrap(SEQUENCE, &data.concat());
            let signature = [&[0][..], &signer.sign(&data).unwrap()].concat();
            let mut basic = [data, ECDSA_WITH_SHA256.to_vec(), wrap(BIT_STRING, &signature)].concat();
            if !certificates.is_empty() {
                basic.extend(wrap(TAGGED_0, &wrap(SEQUENCE, certificates)));
            }
            let basic = wrap(SEQUENCE, &basic);
            let typed = wrap(SEQUENCE, &[wrap(OBJECT_ID, BASIC), wrap(OCTET_STRING, &basic)].concat());
            wrap(SEQUENCE, &[wrap(ENUMERATED, &[0]), wrap(TAGGED_0, &typed)].concat())
        }

        pub(in super::super) fn good(&self) -> Vec<u8> {
            self.answer(&[0x80, 0], time::Duration::ZERO, &self.authority, &[])
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
        let check = |answer: &[u8]| question.check(answer, now);
        let good = check(&pair.good()).unwrap();
        assert!(good.next_update > now && good.this_update <= now);
        let (hour, none) = (time::Duration::hours(1), time::Duration::ZERO);
        let revoked = wrap(0xa1, &wrap(TIME, b"20200101000000Z"));
        for (answer, told) in [
            (pair.answer(&revoked, none, &pair.authority, &[]), "revoked"),
            (pair.answer(&[0x82, 0], none, &pair.authority, &[]), "does not know"),
            (pair.answer(&[0x80, 0], hour * 2, &pair.authority, &[]), "not valid now"),
            (pair.answer(&[0x80, 0], -hour, &pair.authority, &[]), "not valid now"),
            (pair.answer(&[0x80, 0], none, &pair.key, &[]), "unauthorized signer"),
            (Pair::new("http://ocsp.test/").good(), "unauthorized signer"),
            (wrap(SEQUENCE, &wrap(ENUMERATED, &[3])), "tryLater"),
            (wrap(SEQUENCE, &wrap(ENUMERATED, &[6])), "returned status"),
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
            let answer = pair.answer(&[0x80, 0], time::Duration::ZERO, &key, &certificate);
            assert_eq!(pair.question().check(&answer, now).is_ok(), may);
        }
        let (key, certificate) = Pair::new("http://ocsp.test/").delegate(true);
        let answer = pair.answer(&[0x80, 0], time::Duration::ZERO, &key, &certificate);
        assert!(pair.question().check(&answer, now).is_err(), "of another authority");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..600, bit in 0u8..8,
        ) {
            let pair = Pair::new("http://ocsp.test/");
            let now = OffsetDateTime::now_utc();
            prop_assert!(pair.question().check(&noise, now).is_err());
            let mut answer = pair.good();
            let place = at % answer.len();
            answer[place] ^= 1 << bit;
            let _ = pair.question().check(&answer, now);
        }
    }
}
