//! Verifies client certificates against authorities and the current revocation lists.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use tidegate_config::revocation::{ClientOcsp, Decision, OcspMode, Revocation};
use tidegate_core::BuildError;

use super::lists::{List, newest, parse};
use super::source::{ListState, Source};
use super::status::{OcspPolicy, Statuses};
use crate::tls::{ReadFile, label, pem_or_file};

/// Default of `crlRefreshInterval`.
const REFRESH: Duration = Duration::from_secs(3600);
/// Defaults of `ocsp.timeout` and `ocsp.maxAge`.
const OCSP_TIMES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3600));
/// Maximum of `ocsp.timeout`.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// The authorities whose certificates are accepted.
pub(crate) struct Trusted {
    pub(crate) roots: Arc<RootCertStore>,
    /// The same as certificates.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
    /// Whether a client may have no certificate.
    pub(crate) optional: bool,
}

/// Where lists and responses come from.
#[derive(Clone, Default)]
pub(crate) struct Known {
    /// URLs of lists.
    pub(crate) urls: BTreeMap<String, Arc<Source>>,
    /// The last good lists of each file.
    files: BTreeMap<String, Vec<Arc<List>>>,
    /// OCSP responses, shared by all configurations.
    pub(crate) statuses: Arc<Statuses>,
}

/// What was known with the previous configuration, and what the new one uses.
#[derive(Default)]
pub(crate) struct Sources {
    previous: Known,
    pub(crate) used: Known,
    /// Unix time.
    now: i64,
}

/// How the client certificates of some TLS options are checked.
pub(crate) struct Checks {
    pub(super) trusted: Trusted,
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
    leaf_only: bool,
    unknown: Decision,
    expired: Decision,
    /// Lists from files.
    files: Vec<Arc<List>>,
    pub(super) urls: Vec<Arc<Source>>,
    pub(super) interval: Duration,
    pub(super) ocsp: Option<OcspPolicy>,
    pub(super) statuses: Arc<Statuses>,
    current: ArcSwap<Current>,
}

/// The lists in use. Another value means that certificates must be checked again.
pub(super) struct Current {
    /// What `urls` had.
    fetched: Vec<Arc<Vec<Arc<List>>>>,
    /// `None` if a list is required and none is there.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    number: usize,
    /// When the first of the lists expires, in Unix time.
    next_update: Option<i64>,
}

impl std::fmt::Debug for Checks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checks").finish_non_exhaustive()
    }
}

impl Known {
    /// Returns the state of all lists.
    pub(crate) fn lists(&self) -> impl Iterator<Item = ListState> {
        let files = self.files.iter().map(|(path, lists)| ListState {
            place: label(path),
            next_update: lists.iter().map(|list| list.next_update).min(),
            failures: 0,
            error: None,
        });
        files.chain(self.urls.values().map(|source| source.state()))
    }
}

impl Sources {
    /// Returns the sources of the next configuration.
    pub(crate) fn new(previous: Known, now: i64) -> Self {
        let used = Known { statuses: previous.statuses.clone(), ..Known::default() };
        Self { previous, used, now }
    }

    fn url(&mut self, url: &str) -> Arc<Source> {
        let known = self.used.urls.get(url).or_else(|| self.previous.urls.get(url)).cloned();
        let source = known.unwrap_or_else(|| Arc::new(Source::new(url)));
        self.used.urls.insert(url.to_owned(), source.clone());
        source
    }

    /// Returns the lists of a file. If they are invalid now, the last good ones stay in use, with a warning.
    fn file(
        &mut self,
        path: &str,
        parsed: Result<Vec<Arc<List>>, BuildError>,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Arc<List>>, BuildError> {
        let option = "clientAuth.revocation.crlFiles";
        let last = self.previous.files.get(path);
        let lists = match (parsed, last) {
            (Ok(lists), _) => lists,
            (Err(error), Some(last)) => {
                warnings.push(format!("{option}: {error}; the last valid version stays in use"));
                last.clone()
            }
            (Err(error), None) => return Err(BuildError::new(format!("{option}: {error}"))),
        };
        if lists.iter().any(|list| list.next_update <= self.now) {
            warnings.push(format!("{option}: {}: a list has expired", label(path)));
        }
        self.used.files.insert(path.to_owned(), lists.clone());
        Ok(lists)
    }
}

impl Checks {
    /// Builds the checks of these options. Returns them with warnings about lists.
    pub(crate) fn build(
        options: &Revocation,
        trusted: Trusted,
        file: &mut ReadFile<'_>,
        sources: &mut Sources,
    ) -> Result<(Self, Vec<String>), BuildError> {
        let wrong = |option: &str, error: &dyn std::fmt::Display| {
            BuildError::new(format!("clientAuth.revocation.{option}: {error}"))
        };
        let unknown = options.unknown_status.meaning().map_err(|error| wrong("unknownStatus", &error))?;
        let expired = options.expired_lists.meaning().map_err(|error| wrong("expiredLists", &error))?;
        let (mut files, mut warnings) = (Vec::new(), Vec::new());
        for path in &options.crl_files {
            let parsed = pem_or_file(path, file).and_then(|content| {
                parse(&content, &trusted.authorities, &trusted.roots)
                    .map_err(|error| BuildError::new(format!("{}: {error}", label(path))))
            });
            files.extend(sources.file(path, parsed, &mut warnings)?);
        }
        for url in &options.crl_urls {
            check_url(url).map_err(|error| wrong("crlUrls", &error))?;
        }
        let interval = options.crl_refresh_interval.map_or(REFRESH, |interval| interval.0);
        if interval < Duration::from_secs(1) {
            return Err(wrong("crlRefreshInterval", &"expected at least 1s"));
        }
        let ocsp = match &options.ocsp {
            Some(ocsp) => ocsp_policy(ocsp).map_err(|error| wrong("ocsp", &error))?,
            None => None,
        };
        let checks = Self {
            hints: trusted.roots.subjects(),
            algorithms: crate::tls::crypto().signature_verification_algorithms,
            trusted,
            leaf_only: options.leaf_only,
            unknown: unknown.unwrap_or(Decision::Deny),
            expired: expired.unwrap_or(Decision::Deny),
            files,
            urls: options.crl_urls.iter().map(|url| sources.url(url)).collect(),
            interval,
            ocsp,
            statuses: sources.used.statuses.clone(),
            current: ArcSwap::from_pointee(Current::empty()),
        };
        checks.update().map_err(|error| wrong("crlFiles", &error))?;
        Ok((checks, warnings))
    }

    /// Returns the lists in use.
    pub(super) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// Uses the lists that the sources have now. Does nothing if they are in use already. Not for workers: it parses the
    /// lists.
    pub(super) fn update(&self) -> Result<(), rustls::server::VerifierBuilderError> {
        let fetched: Vec<_> = self.urls.iter().map(|source| source.lists()).collect();
        let before = self.current.load();
        let is_same = before.fetched.len() == fetched.len()
            && before.fetched.iter().zip(&fetched).all(|(before, now)| Arc::ptr_eq(before, now));
        if is_same && before.verifier.is_some() {
            return Ok(());
        }
        let lists = newest(self.files.iter().chain(fetched.iter().flat_map(|lists| lists.iter())));
        let is_missing = lists.is_empty() && !self.urls.is_empty() && self.unknown == Decision::Deny;
        let mut builder =
            WebPkiClientVerifier::builder_with_provider(self.trusted.roots.clone(), crate::tls::crypto())
                .with_crls(lists.iter().map(|list| list.der.clone()));
        if self.trusted.optional {
            builder = builder.allow_unauthenticated();
        }
        if self.leaf_only {
            builder = builder.only_check_end_entity_revocation();
        }
        if self.unknown == Decision::Allow {
            builder = builder.allow_unknown_revocation_status();
        }
        if self.expired == Decision::Deny {
            builder = builder.enforce_revocation_expiration();
        }
        let verifier = builder.build()?;
        self.current.store(Arc::new(Current {
            fetched,
            verifier: (!is_missing).then_some(verifier),
            number: lists.len(),
            next_update: lists.iter().map(|list| list.next_update).min(),
        }));
        Ok(())
    }

    /// Returns what is checked, for people.
    pub(crate) fn summary(&self) -> String {
        let lists = self.files.len() + self.urls.len();
        let lists = (lists > 0).then(|| {
            let loaded = self.current.load().number;
            format!("against revocation lists ({loaded} loaded)")
        });
        let ocsp = self.ocsp.as_ref().map(|policy| match policy.strict {
            true => "by OCSP (strict)".to_owned(),
            false => "by OCSP (soft)".to_owned(),
        });
        let parts: Vec<String> = lists.into_iter().chain(ocsp).collect();
        match parts.is_empty() {
            true => "the client's certificate is checked for expiry with each request".to_owned(),
            false => format!("the client's certificate is checked {}", parts.join(" and ")),
        }
    }
}

impl Current {
    fn empty() -> Self {
        Self { fetched: Vec::new(), verifier: None, number: 0, next_update: None }
    }

    /// Returns when the first list expires, if that is after `now`.
    pub(super) fn next_expiry(&self, now: i64) -> i64 {
        self.next_update.filter(|expires| *expires > now).unwrap_or(i64::MAX)
    }

    pub(super) fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match &self.verifier {
            Some(verifier) => verifier.verify_client_cert(end_entity, intermediates, now),
            None => Err(Error::InvalidCertificate(CertificateError::UnknownRevocationStatus)),
        }
    }
}

/// Checks that a URL has a scheme and a host.
fn check_url(url: &str) -> Result<(), BuildError> {
    let wrong = |what: &dyn std::fmt::Display| BuildError::new(format!("invalid URL `{url}`: {what}"));
    let parsed = url.parse::<http::Uri>().map_err(|error| wrong(&error))?;
    // It is shown in logs and in the API.
    if parsed.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(BuildError::new("a URL with credentials is not supported"));
    }
    match (parsed.scheme_str(), parsed.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(()),
        _ => Err(wrong(&"expected http:// or https:// and a host")),
    }
}

fn ocsp_policy(options: &ClientOcsp) -> Result<Option<OcspPolicy>, BuildError> {
    let mode = options.mode.meaning().map_err(|error| BuildError::new(format!("mode: {error}")))?;
    let strict = match mode.unwrap_or(OcspMode::Off) {
        OcspMode::Off => return Ok(None),
        OcspMode::Soft => false,
        OcspMode::Strict => true,
    };
    if options.url.is_empty() && options.allowed_hosts.is_empty() {
        return Err(BuildError::new("expected `url`, or `allowedHosts` that certificates may name"));
    }
    if !options.url.is_empty() {
        check_url(&options.url).map_err(|error| BuildError::new(format!("url: {error}")))?;
    }
    let timeout = options.timeout.map_or(OCSP_TIMES.0, |timeout| timeout.0);
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err(BuildError::new("timeout: expected more than 0 and at most 30s"));
    }
    let max_age = options.max_age.map_or(OCSP_TIMES.1, |age| age.0);
    Ok(Some(OcspPolicy {
        strict,
        url: options.url.clone(),
        allowed_hosts: options.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()).collect(),
        timeout,
        max_age,
    }))
}

impl ClientCertVerifier for Checks {
    fn client_auth_mandatory(&self) -> bool {
        !self.trusted.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.current.load().verify(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
