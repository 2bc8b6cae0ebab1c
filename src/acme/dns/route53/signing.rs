//! AWS's signature, version 4, for requests to Route 53.

use aws_lc_rs::hmac;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::super::variables::Variables;
use crate::acme::error::Error;

/// Route 53 is one service for all regions.
const REGION: &str = "us-east-1";
const SERVICE: &str = "route53";
/// What is not encoded (RFC 3986 section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// An access key.
pub(super) struct Credentials {
    id: String,
    secret: String,
    session: Option<String>,
}

impl Credentials {
    /// From variables, or from a profile in AWS's file.
    pub(super) fn find(variables: &Variables<'_>) -> Result<Self, Error> {
        let id = variables.first(&["AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY"]);
        let secret = variables.first(&["AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY"]);
        if let (Some(id), Some(secret)) = (id, secret) {
            return Ok(Self { id, secret, session: variables.first(&["AWS_SESSION_TOKEN"]) });
        }
        let path = variables
            .first(&["AWS_SHARED_CREDENTIALS_FILE"])
            .or_else(|| std::env::var("HOME").ok().map(|home| format!("{home}/.aws/credentials")));
        let profile = variables.first(&["AWS_PROFILE"]).unwrap_or_else(|| "default".to_owned());
        let text = path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        Self::of_profile(&text, &profile).ok_or_else(|| {
            Error::local(
                "some credentials information are missing: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in \
                 AWS_SHARED_CREDENTIALS_FILE; roles of instances are not supported",
            )
        })
    }

    fn of_profile(text: &str, profile: &str) -> Option<Self> {
        let mut here = false;
        let (mut id, mut secret, mut session) = (None, None, None);
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                here = name.trim() == profile;
            } else if let Some((key, value)) = line.split_once('=').filter(|_| here) {
                let value = Some(value.trim().to_owned());
                match key.trim() {
                    "aws_access_key_id" => id = value,
                    "aws_secret_access_key" => secret = value,
                    "aws_session_token" => session = value,
                    _ => {}
                }
            }
        }
        Some(Self { id: id?, secret: secret?, session })
    }

    /// The headers that sign a request. `path` and `query` are encoded, the query sorted.
    pub(super) fn sign(
        &self,
        method: &str,
        host: &str,
        path: &str,
        query: &str,
        body: &[u8],
        now: OffsetDateTime,
    ) -> Vec<(&'static str, String)> {
        let day = format!("{:04}{:02}{:02}", now.year(), u8::from(now.month()), now.day());
        let moment = format!("{day}T{:02}{:02}{:02}Z", now.hour(), now.minute(), now.second());
        let mut signed = vec![("host", host.to_owned()), ("x-amz-date", moment.clone())];
        signed.extend(self.session.iter().map(|token| ("x-amz-security-token", token.clone())));
        let names: Vec<&str> = signed.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let request = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{}", hex(&Sha256::digest(body)));
        let scope = format!("{day}/{REGION}/{SERVICE}/aws4_request");
        let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", hex(&Sha256::digest(request)));
        let mut key = mac(format!("AWS4{}", self.secret).as_bytes(), day.as_bytes());
        for part in [REGION, SERVICE, "aws4_request"] {
            key = mac(&key, part.as_bytes());
        }
        let signature = hex(&mac(&key, text.as_bytes()));
        let id = &self.id;
        let value =
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        // The host is a header of its own.
        signed.into_iter().skip(1).chain([("authorization", value)]).collect()
    }
}

/// Text as it stands in a query.
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
        // The example of AWS's documentation of signature version 4 (service iam, day 20150830).
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
        let headers = credentials.sign("POST", "route53.amazonaws.com", path, query, b"<x/>", at);
        // What botocore makes of the same request.
        assert_eq!(
            headers[2].1,
            "AWS4-HMAC-SHA256 Credential=AKID/20231114/us-east-1/route53/aws4_request, \
             SignedHeaders=host;x-amz-date;x-amz-security-token, \
             Signature=12422ab1452bf1d7fe02d2167f12220f73537603a584540f6b66ce9dd2c1d33c"
        );
    }

    #[test]
    fn a_profile_is_found_in_the_file() {
        let text = "[default]\naws_access_key_id = A\naws_secret_access_key=B\n[dns]\naws_access_key_id=C\n\
                    aws_secret_access_key = D\naws_session_token = E\n";
        let found = Credentials::of_profile(text, "dns").unwrap();
        assert_eq!(
            (found.id.as_str(), found.secret.as_str(), found.session.as_deref()),
            ("C", "D", Some("E"))
        );
        assert!(Credentials::of_profile(text, "other").is_none());
        let headers = found.sign("GET", "h", "/p", "a=b", b"", OffsetDateTime::UNIX_EPOCH);
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["x-amz-date", "x-amz-security-token", "authorization"]);
        assert!(
            headers[2]
                .1
                .starts_with("AWS4-HMAC-SHA256 Credential=C/19700101/us-east-1/route53/aws4_request, ")
        );
        assert_eq!(headers[0].1, "19700101T000000Z");
    }
}
