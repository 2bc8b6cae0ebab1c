//! tls-alpn-01: a certificate in a handshake that asks for the protocol `acme-tls/1` (RFC 8737).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use sha2::{Digest, Sha256};
use tidegate_core::BoxFuture;

use super::{Proof, Prover};
use crate::error::Error;
use crate::handshakes::{ACME_PROTOCOL, Handshakes};

/// Proves names in TLS handshakes.
pub(crate) struct TlsAlpn {
    pub(crate) handshakes: Arc<dyn Handshakes>,
    pub(crate) delay: Duration,
}

impl Prover for TlsAlpn {
    fn kind(&self) -> &'static str {
        "tls-alpn-01"
    }

    fn present<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, Result<(), Error>> {
        let made =
            config(proof).map(|config| self.handshakes.show(&server_name(&proof.name), Arc::new(config)));
        Box::pin(std::future::ready(made))
    }

    fn settle<'a>(&'a self, _: &'a [Proof]) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async {
            tokio::time::sleep(self.delay).await;
            Ok(())
        })
    }

    fn withdraw<'a>(&'a self, proof: &'a Proof) -> BoxFuture<'a, ()> {
        self.handshakes.hide(&server_name(&proof.name));
        Box::pin(std::future::ready(()))
    }
}

/// Returns the name that the authority asks for: that of an address is its reverse DNS name (RFC 8738 section 6).
fn server_name(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Err(_) => name.to_owned(),
        Ok(IpAddr::V4(address)) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        Ok(IpAddr::V6(address)) => {
            let digits = address.octets().into_iter().rev().flat_map(|byte| [byte & 0xf, byte >> 4]);
            let name: String = digits.map(|digit| format!("{digit:x}.")).collect();
            format!("{name}ip6.arpa")
        }
    }
}

/// Builds the configuration of a handshake that presents a challenge certificate.
fn config(proof: &Proof) -> Result<rustls::ServerConfig, Error> {
    let bad = |error: &dyn std::fmt::Display| Error::local(format!("tls-alpn-01: {error}"));
    let mut params = rcgen::CertificateParams::new([proof.name.clone()]).map_err(|error| bad(&error))?;
    let digest = Sha256::digest(&proof.key_authorization);
    params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&digest)];
    let key = rcgen::KeyPair::generate().map_err(|error| bad(&error))?;
    let certificate = params.self_signed(&key).map_err(|error| bad(&error))?;
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // Not checked against the certificate, which has an extension that only the authority understands.
    let key = aws_lc_rs::sign::any_supported_type(&der).map_err(|error| bad(&error))?;
    let key = CertifiedKey::new(vec![certificate.der().clone()], key);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(&error))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![ACME_PROTOCOL.to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_asked_for_by_their_names_in_the_dns() {
        assert_eq!(server_name("a.test"), "a.test");
        assert_eq!(server_name("192.0.2.1"), "1.2.0.192.in-addr.arpa");
        let name = server_name("2001:db8::1");
        assert!(name.starts_with("1.0.0.0.") && name.ends_with(".8.b.d.0.1.0.0.2.ip6.arpa"), "{name}");
        assert_eq!(name.len(), 72);
    }
}
