//! Errors in TLS options.

use std::io;

use rustls::pki_types::pem;
use tidegate_core::tls_version::TlsVersion;

/// The part of the options that is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The roots.
    Roots,
    /// The client certificate.
    Certificate,
    /// Its key.
    Key,
    /// Versions and cipher suites.
    Protocol,
}

/// Why TLS options are invalid.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read `{path}`: {source}")]
    File {
        /// The part that names the file.
        part: Part,
        /// Its path.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// A certificate without a key, or a key without a certificate.
    #[error("`cert` and `key` go together")]
    HalfIdentity(Part),
    /// The PEM of certificates is invalid.
    #[error("invalid certificate: {source}")]
    CertificatePem {
        /// The part that holds it.
        part: Part,
        /// The cause.
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("no PEM certificate found")]
    NoCertificate(Part),
    /// None of the certificates in one of the roots can be trusted.
    #[error("invalid root certificate: {0}")]
    Root(#[source] rustls::Error),
    /// The verifier cannot be built from the roots.
    #[error("{0}")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    /// There are no roots.
    #[error("this system has no trusted root certificates")]
    NoSystemRoots,
    /// The key is invalid.
    #[error("private key: {0}")]
    Key(#[source] pem::Error),
    /// The client certificate or its key is invalid.
    #[error("client certificate: {0}")]
    Identity(#[source] rustls::Error),
    /// The limits exclude all supported versions.
    #[error("minVersion `{min}` and maxVersion `{max}` leave neither TLS 1.2 nor TLS 1.3")]
    NoVersion {
        /// `minVersion`.
        min: TlsVersion,
        /// `maxVersion`.
        max: TlsVersion,
    },
    /// A cipher suite is unknown, or not supported.
    #[error("cipherSuites: `{0}` is not supported")]
    CipherSuite(String),
    /// The versions and the cipher suites are incompatible.
    #[error("incompatible TLS versions and cipher suites: {0}")]
    Protocol(#[source] rustls::Error),
}

impl TlsError {
    /// Returns the part of the options that is invalid.
    pub fn part(&self) -> Part {
        match self {
            Self::File { part, .. }
            | Self::HalfIdentity(part)
            | Self::CertificatePem { part, .. }
            | Self::NoCertificate(part) => *part,
            Self::Root(_) | Self::Verifier(_) | Self::NoSystemRoots => Part::Roots,
            Self::Identity(_) => Part::Certificate,
            Self::Key(_) => Part::Key,
            Self::NoVersion { .. } | Self::CipherSuite(_) | Self::Protocol(_) => Part::Protocol,
        }
    }
}
