//! Versions of TLS in options.

use std::fmt;

use crate::word::Vocabulary;

/// A TLS version, by Go's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.0, which is not supported.
    Tls10,
    /// TLS 1.1, which is not supported.
    Tls11,
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl Vocabulary for TlsVersion {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("VersionTLS10", Self::Tls10),
        ("VersionTLS11", Self::Tls11),
        ("VersionTLS12", Self::Tls12),
        ("VersionTLS13", Self::Tls13),
    ];
    const IGNORES_CASE: bool = true;
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls10 => "VersionTLS10",
            Self::Tls11 => "VersionTLS11",
            Self::Tls12 => "VersionTLS12",
            Self::Tls13 => "VersionTLS13",
        })
    }
}
