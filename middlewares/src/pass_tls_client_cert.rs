//! Passes information about the client's TLS certificate to the service.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;
use tidegate_core::{
    BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Request, Response,
};
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry as oid;
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Name};

use crate::{auth, path};

const CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-tls-client-cert");
const INFO: HeaderName = HeaderName::from_static("x-forwarded-tls-client-cert-info");

/// Traefik's `passTLSClientCert`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PassTlsClientCert {
    /// Sends the certificates as `X-Forwarded-Tls-Client-Cert`: base64 of the DER, separated by commas.
    #[serde(skip_serializing_if = "is_default")]
    pub pem: bool,
    /// Sends the selected parts, URL-escaped, as `X-Forwarded-Tls-Client-Cert-Info`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<Info>,
}

/// The parts of a certificate to send.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Info {
    /// `notAfter`, in seconds since 1970 (`NA`).
    #[serde(skip_serializing_if = "is_default")]
    pub not_after: bool,
    /// `notBefore`, in seconds since 1970 (`NB`).
    #[serde(skip_serializing_if = "is_default")]
    pub not_before: bool,
    /// Subject alternative names (`SAN`).
    #[serde(skip_serializing_if = "is_default")]
    pub sans: bool,
    /// Serial number, in decimal.
    #[serde(skip_serializing_if = "is_default")]
    pub serial_number: bool,
    /// Parts of the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Parts of the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Issuer>,
}

/// The parts of the subject to send.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are the parts of a distinguished name (RFC 3739 section 3.1)")]
pub struct Subject {
    #[serde(skip_serializing_if = "is_default")]
    pub country: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub province: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub locality: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub organization: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub organizational_unit: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub common_name: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub serial_number: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub domain_component: bool,
}

/// The parts of the issuer to send.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields are the parts of a distinguished name (RFC 3739 section 3.1)")]
pub struct Issuer {
    #[serde(skip_serializing_if = "is_default")]
    pub country: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub province: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub locality: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub organization: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub common_name: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub serial_number: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub domain_component: bool,
}

impl Build for PassTlsClientCert {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        let info = self.info.as_ref().map(|info| Selection {
            subject: info.subject.as_ref().map(Subject::parts).unwrap_or_default(),
            issuer: info.issuer.as_ref().map(Issuer::parts).unwrap_or_default(),
            info: info.clone(),
        });
        Ok(Arc::new(Pass { pem: self.pem, info }))
    }
}

/// A part of a name: its type, its abbreviation, and whether only the last occurrence counts (as in Go's
/// `pkix.Name`).
type Part = (oid::Oid<'static>, &'static str, bool);

impl Subject {
    fn parts(&self) -> Vec<Part> {
        let unit = self.organizational_unit;
        let Self {
            country,
            province,
            locality,
            organization,
            common_name,
            serial_number,
            domain_component,
            ..
        } = *self;
        let issuer = Issuer {
            country,
            province,
            locality,
            organization,
            common_name,
            serial_number,
            domain_component,
        };
        let mut parts = issuer.parts();
        if unit {
            let at = parts
                .iter()
                .position(|(_, letters, _)| matches!(*letters, "SN" | "CN"))
                .unwrap_or(parts.len());
            parts.insert(at, (oid::OID_X509_ORGANIZATIONAL_UNIT, "OU", false));
        }
        parts
    }
}

impl Issuer {
    /// Returns the selected parts in the order in which they are sent.
    fn parts(&self) -> Vec<Part> {
        [
            (self.domain_component, (oid::OID_DOMAIN_COMPONENT, "DC", false)),
            (self.country, (oid::OID_X509_COUNTRY_NAME, "C", false)),
            (self.province, (oid::OID_X509_STATE_OR_PROVINCE_NAME, "ST", false)),
            (self.locality, (oid::OID_X509_LOCALITY_NAME, "L", false)),
            (self.organization, (oid::OID_X509_ORGANIZATION_NAME, "O", false)),
            (self.serial_number, (oid::OID_X509_SERIALNUMBER, "SN", true)),
            (self.common_name, (oid::OID_X509_COMMON_NAME, "CN", true)),
        ]
        .into_iter()
        .filter_map(|(wanted, part)| wanted.then_some(part))
        .collect()
    }
}

struct Pass {
    pem: bool,
    info: Option<Selection>,
}

struct Selection {
    subject: Vec<Part>,
    issuer: Vec<Part>,
    info: Info,
}

impl Middleware for Pass {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let connection = request.context.connection().clone();
        let certificates = connection.tls.as_ref().map_or(&[][..], |tls| &tls.client_certificates);
        if !certificates.is_empty() {
            let headers = &mut request.head.headers;
            if self.pem {
                let encoded: Vec<String> = certificates.iter().map(|der| STANDARD.encode(der)).collect();
                if let Ok(value) = HeaderValue::try_from(encoded.join(",")) {
                    auth::set_exclusively(headers, &CERTIFICATE, value);
                }
            }
            if let Some(selection) = &self.info {
                let described: Vec<String> = certificates.iter().map(|der| selection.describe(der)).collect();
                if let Ok(value) = HeaderValue::try_from(query_escape(&described.join(","))) {
                    auth::set_exclusively(headers, &INFO, value);
                }
            }
        }
        next.run(request)
    }

    fn predict(&self, request: Request) -> Prediction {
        Prediction::rehearsed(self, request)
    }
}

impl Selection {
    /// Describes one certificate. Empty when it cannot be parsed, which the handshake would have caught.
    fn describe(&self, der: &[u8]) -> String {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return String::new() };
        let mut fields = Vec::new();
        for (label, name, parts) in [
            ("Subject", certificate.subject(), &self.subject),
            ("Issuer", certificate.issuer(), &self.issuer),
        ] {
            let text = name_parts(name, parts).join(",");
            if !text.is_empty() {
                fields.push(format!("{label}=\"{text}\""));
            }
        }
        if self.info.serial_number {
            fields.push(format!("SerialNumber=\"{}\"", certificate.serial));
        }
        let validity = certificate.validity();
        if self.info.not_before {
            fields.push(format!("NB=\"{}\"", validity.not_before.timestamp()));
        }
        if self.info.not_after {
            fields.push(format!("NA=\"{}\"", validity.not_after.timestamp()));
        }
        if self.info.sans {
            let names = alternative_names(&certificate);
            if !names.is_empty() {
                fields.push(format!("SAN=\"{}\"", names.join(",")));
            }
        }
        fields.join(";")
    }
}

fn name_parts(name: &X509Name<'_>, parts: &[Part]) -> Vec<String> {
    let mut texts = Vec::new();
    for (kind, letters, last_only) in parts {
        let found =
            name.iter_attributes().filter(|attribute| attribute.attr_type() == kind).map(|attribute| {
                let text = attribute.as_str().map(str::to_owned);
                text.unwrap_or_else(|_| String::from_utf8_lossy(attribute.attr_value().data).into_owned())
            });
        let values: Vec<String> =
            if *last_only { found.last().into_iter().collect() } else { found.collect() };
        texts.extend(
            values.iter().filter(|value| !value.is_empty()).map(|value| format!("{letters}={value}")),
        );
    }
    texts
}

/// Returns DNS names, then e-mail addresses, IP addresses and URIs.
fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let mut kinds: [Vec<String>; 4] = Default::default();
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => kinds[0].push((*name).to_owned()),
            GeneralName::RFC822Name(address) => kinds[1].push((*address).to_owned()),
            GeneralName::IPAddress(bytes) => {
                kinds[2].extend(ip_address(bytes).map(|address| address.to_string()))
            }
            GeneralName::URI(uri) => kinds[3].push((*uri).to_owned()),
            _ => {}
        }
    }
    kinds.concat()
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Escapes like Go's `QueryEscape`: a space becomes `+`.
fn query_escape(text: &str) -> String {
    path::escape_with(text.as_bytes(), |byte| !path::is_unreserved(byte)).replace("%20", "+")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, get};
    use tidegate_core::{Connection, Context, TlsInfo};

    /// A certificate with every kind of name, made with OpenSSL.
    const CLIENT: &str = concat!(
        "MIICzzCCAnWgAwIBAgIOAI8AESIzRFVmd4iZqrswCgYIKoZIzj0EAwIwgaoxEzARBgoJkiaJk/IsZAEZFgNvcmcxFzAVBgoJkiaJ",
        "k/IsZAEZFgdleGFtcGxlMQswCQYDVQQGEwJGUjETMBEGA1UECAwKU29tZSBTdGF0ZTERMA8GA1UEBwwIVG91bG91c2UxDzANBgNV",
        "BAoMBkNhIE9yZzEUMBIGA1UECgwLU2Vjb25kLCBPcmcxDDAKBgNVBAUTA0NBMTEQMA4GA1UEAwwHUm9vdCBDQTAeFw0yNjExMjQx",
        "OTI3MjNaFw0zNjExMjExOTI3MjNaMIGRMRMwEQYKCZImiZPyLGQBGRYDb3JnMQswCQYDVQQGEwJERTENMAsGA1UECAwEw45sZTEO",
        "MAwGA1UEBwwFS8O2bG4xDDAKBgNVBAoMA09yZzEPMA0GA1UECwwGVW5pdCAxMQswCQYDVQQFEwJMMTEOMAwGA1UEAwwFZmlyc3Qx",
        "EjAQBgNVBAMMCWNsaWVudCtjbjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABAW8r03XzpQn6rss9mjr66EzwrWa2mLwDQdSpgse",
        "EJOXTd7NXU+KvGGRmIFDZYA7n47jhk5zxgbQ/PEfLZJlmFmjgZUwgZIwUAYDVR0RBEkwR4IGYS50ZXN0gggqLmIudGVzdIEJbWVA",
        "eC50ZXN0hwQKAAABhxAgAQ24AAAAAAAAAAAAAAABhhBzcGlmZmU6Ly94L3k/ej0xMB0GA1UdDgQWBBQu9Tkjp+K+dkUwC328K5BH",
        "GJAQVDAfBgNVHSMEGDAWgBQM/BChAd/ytzb/GfjHXSdAAt4vvTAKBggqhkjOPQQDAgNIADBFAiANwCpTYA3lzJHk/mlNySqRWkGp",
        "hw3ePP1Re3V8DQQF+QIhAPwzrOa2KeCO5LXjXYQy5qXtl8hWVVVHqeNqAPjxGBuc",
    );

    /// What Traefik 3.7 sends for `CLIENT`.
    const EXPECTED: &str = concat!(
        "Subject=\"DC=org,C=DE,ST=\u{ce}le,L=K\u{f6}ln,O=Org,OU=Unit 1,SN=L1,CN=client+cn\";",
        "Issuer=\"DC=org,DC=example,C=FR,ST=Some State,L=Toulouse,O=Ca Org,O=Second, Org,SN=CA1,CN=Root CA\";",
        "SerialNumber=\"11329647952784902044331057719995\";NB=\"1795548443\";NA=\"2110908443\";",
        "SAN=\"a.test,*.b.test,me@x.test,10.0.0.1,2001:db8::1,spiffe://x/y?z=1\"",
    );

    fn everything() -> PassTlsClientCert {
        let parts = r#""country":true,"province":true,"locality":true,"organization":true,"#;
        let rest = r#""commonName":true,"serialNumber":true,"domainComponent":true"#;
        let json = format!(
            r#"{{"pem":true,"info":{{"notAfter":true,"notBefore":true,"sans":true,"serialNumber":true,"subject":{{{parts}"organizationalUnit":true,{rest}}},"issuer":{{{parts}{rest}}}}}}}"#
        );
        let options: PassTlsClientCert = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&options).unwrap(), json);
        options
    }

    fn with_certificates(certificates: Vec<Vec<u8>>) -> Request {
        let mut request = get("https://h.test/");
        let tls = TlsInfo { client_certificates: certificates, ..TlsInfo::default() };
        let plain = Connection::plain(([127, 0, 0, 1], 4000).into());
        request.context = Context::new(Arc::new(Connection { tls: Some(tls), ..plain }));
        request.head.headers.insert("x_forwarded_tls_client_cert", HeaderValue::from_static("spoofed"));
        request
    }

    #[test]
    fn the_certificate_is_described_as_by_traefik() {
        let der = STANDARD.decode(CLIENT).unwrap();
        let seen = testing::request_after(everything(), with_certificates(vec![der.clone(), der]));
        let value = |name: &str| seen.head.headers[name].to_str().unwrap().to_owned();
        assert_eq!(value("x-forwarded-tls-client-cert"), format!("{CLIENT},{CLIENT}"));
        let info = value("x-forwarded-tls-client-cert-info");
        assert!(info.starts_with("Subject%3D%22DC%3Dorg%2CC%3DDE%2CST%3D%C3%8Ele"), "{info}");
        let decoded = path::unescape(&info.replace('+', "%20")).unwrap();
        assert_eq!(String::from_utf8(decoded).unwrap(), format!("{EXPECTED},{EXPECTED}"));
        assert!(!seen.head.headers.contains_key("x_forwarded_tls_client_cert"));
    }

    #[test]
    fn only_what_is_selected_is_sent() {
        let der = STANDARD.decode(CLIENT).unwrap();
        let options: PassTlsClientCert = serde_json::from_str(
            r#"{"info": {"subject": {"organizationalUnit": true, "commonName": true}}}"#,
        )
        .unwrap();
        let seen = testing::request_after(options, with_certificates(vec![der]));
        let info = &seen.head.headers["x-forwarded-tls-client-cert-info"];
        assert_eq!(info, "Subject%3D%22OU%3DUnit+1%2CCN%3Dclient%2Bcn%22");
        assert!(!seen.head.headers.contains_key("x-forwarded-tls-client-cert"));
    }

    #[test]
    fn without_a_certificate_nothing_is_added() {
        for request in [get("http://h.test/"), with_certificates(Vec::new())] {
            let seen = testing::request_after(everything(), request);
            assert!(!seen.head.headers.contains_key("x-forwarded-tls-client-cert"));
            assert!(!seen.head.headers.contains_key("x-forwarded-tls-client-cert-info"));
        }
    }

    #[test]
    fn an_invalid_certificate_has_an_empty_description() {
        let seen = testing::request_after(everything(), with_certificates(vec![vec![0x30, 1, 2]]));
        assert_eq!(seen.head.headers["x-forwarded-tls-client-cert-info"], "");
    }
}
