//! AWS's signature, version 4, for requests to Route 53.

use aws_lc_rs::hmac;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

/// Bytes that are encoded: all but unreserved ones (RFC 3986 section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An access key.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) session: Option<String>,
}

/// A request to sign.
pub(super) struct Unsigned<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    /// The encoded path.
    pub(super) path: &'a str,
    /// The encoded query, sorted by key.
    pub(super) query: &'a str,
    pub(super) body: &'a [u8],
    /// AWS's names of region and service.
    pub(super) scope: (&'a str, &'a str),
}

impl Credentials {
    /// Returns the headers that sign a request.
    pub(super) fn sign(&self, request: &Unsigned<'_>, now: OffsetDateTime) -> Vec<(&'static str, String)> {
        let Unsigned { method, host, path, query, body, scope: (region, service) } = *request;
        let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
        let moment = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
        let mut signed = vec![("host", host.to_owned()), ("x-amz-date", moment.clone())];
        signed.extend(self.session.iter().map(|token| ("x-amz-security-token", token.clone())));
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let request = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{}", hex(&Sha256::digest(body)));
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", hex(&Sha256::digest(request)));
        let mut key = mac(format!("AWS4{}", self.secret).as_bytes(), day.as_bytes());
        for part in [region, service, "aws4_request"] {
            key = mac(&key, part.as_bytes());
        }
        let signature = hex(&mac(&key, text.as_bytes()));
        let id = &self.id;
        let value =
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        // The client sets the `Host` header itself.
        signed.into_iter().skip(1).chain([("authorization", value)]).collect()
    }
}

/// Encodes text for a query.
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_derived_as_amazon_shows() {
        // The example in AWS's documentation of signature version 4 (service iam, day 20150830).
        let mut key = mac(b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", b"20150830");
        for part in ["us-east-1", "iam", "aws4_request"] {
            key = mac(&key, part.as_bytes());
        }
        assert_eq!(hex(&key), "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9");
    }

    #[test]
    fn requests_are_signed_as_by_amazons_own_library() {
        let credentials =
            Credentials { id: "AKID".into(), secret: "SECRET".into(), session: Some("TOKEN".into()) };
        let at = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        let query = "maxitems=1&name=_acme-challenge.a.test.&type=TXT";
        let path = "/2013-04-01/hostedzone/Z1/rrset";
        let request = Unsigned {
            method: "POST",
            host: "route53.amazonaws.com",
            path,
            query,
            body: b"<x/>",
            scope: ("us-east-1", "route53"),
        };
        let headers = credentials.sign(&request, at);
        // The signature of botocore for the same request.
        assert_eq!(
            headers[2].1,
            "AWS4-HMAC-SHA256 Credential=AKID/20231114/us-east-1/route53/aws4_request, \
             SignedHeaders=host;x-amz-date;x-amz-security-token, \
             Signature=12422ab1452bf1d7fe02d2167f12220f73537603a584540f6b66ce9dd2c1d33c"
        );
    }
}
