//! TLS for clients: certificates by server name, options, the default certificate.
//!
//! A [`TlsStore`] is immutable and belongs to one snapshot. State that outlives a reload (the keys of session
//! tickets) is passed on from one store to the next.

mod certificates;
mod chooser;
mod client_auth;
mod default_certificate;
mod fetch;
mod hosts;
mod obtained;
mod ocsp;
mod options;
pub(crate) mod revocation;
pub(crate) mod subject;
mod tickets;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::ProducesTickets;
use rustls::sign::CertifiedKey;
use tidegate_acme::ACME_PROTOCOL;
use tidegate_config::tls::{Domain, Tls, TlsOptions};
use tidegate_config::{Kind, ObjectRef, Origin, Problem};
use tidegate_core::BuildError;
use time::OffsetDateTime;

use certificates::{Certificates, Loaded, with_issuers};
pub use chooser::CertificateSource;
use chooser::Only;
pub use default_certificate::DefaultCertificate;
pub use hosts::{Claim, HostOptions, NamedOptions};
pub(crate) use obtained::Obtained;
pub(crate) use ocsp::Stapler;
use ocsp::{Staples, Stapling};
use revocation::{Checks, Known, ListState, Source, Sources, Statuses};
use tickets::Tickets;

/// Name of the default options.
pub const DEFAULT_OPTIONS: &str = "default";

/// Reads a file named in the configuration and has it watched.
pub(crate) type ReadFile<'a> = dyn FnMut(&str) -> Result<Vec<u8>, BuildError> + 'a;

/// Valid certificates by the paths of chain and key.
type Pairs = HashMap<(String, String), Arc<Loaded>>;

/// The certificates and options of one snapshot, ready for handshakes.
pub struct TlsStore {
    /// Options by name; `None` for broken ones, whose hosts are rejected.
    options: BTreeMap<String, Option<Arc<ServerConfig>>>,
    /// The same options for comparison.
    named: BTreeMap<String, Arc<NamedOptions>>,
    /// Names of the options that require a client certificate.
    demanding: HashSet<String>,
    /// Names of the options that reject server names without a certificate.
    strict: HashSet<String>,
    /// The last valid certificate of each pair of files, as certificate and key are not replaced
    /// simultaneously.
    loaded: Pairs,
    /// Ticket keys by client authentication, so that sessions are never resumed across modes.
    tickets: BTreeMap<String, Arc<dyn ProducesTickets>>,
    /// The configured certificates without their chains, without duplicates.
    leaves: Vec<CertificateDer<'static>>,
    /// The configured certificates with issuers in their chain, without duplicates.
    with_issuers: Vec<Arc<CertifiedKey>>,
    staples: Arc<Staples>,
    /// The configured certificates by name.
    certificates: Arc<Certificates>,
    /// Certificates of resolvers, shared by all snapshots.
    obtained: Arc<Obtained>,
    /// What checks whether client certificates are revoked, by options. Connections do not own it, as lists may be large.
    checks: BTreeMap<String, Arc<Checks>>,
    /// Revocation lists, and OCSP responses about client certificates.
    revocation: Known,
}

/// A certificate as a client gets it.
pub(crate) struct Served {
    /// The certificate without its chain, in DER.
    pub(crate) leaf: CertificateDer<'static>,
    pub(crate) source: CertificateSource,
    /// `certFile` and `keyFile` of a configured certificate.
    pub(crate) files: Option<(String, String)>,
}

impl TlsStore {
    /// Prepares certificates and options. Broken ones are left out and reported as problems, as are
    /// certificates that are not valid at `now`. Problems refer to certificates by their index in the list.
    /// `file` reads a file and has it watched. The ticket keys and the last valid version of each certificate
    /// are taken from `previous`.
    pub fn build(
        now: OffsetDateTime,
        tls: &Tls,
        generated: &DefaultCertificate,
        file: &mut dyn FnMut(&str) -> Result<Vec<u8>, BuildError>,
        previous: Option<&Arc<TlsStore>>,
    ) -> (Arc<TlsStore>, Vec<Problem>) {
        let mut problems = Vec::new();
        let (mut certificates, loaded, mut leaves) =
            configured_certificates(now, tls, file, previous, &mut problems);
        let with_issuers = with_issuers(loaded.values().map(|one| &one.key));
        let staples = previous.map(|store| store.staples.clone()).unwrap_or_default();
        certificates.staples.clone_from(&staples);
        leaves.extend(certificates.default.iter().filter_map(|key| key.cert.first().cloned()));
        let mut seen = HashSet::new();
        leaves.retain(|leaf| seen.insert(leaf.clone()));
        if certificates.default.is_none() {
            match generated.get() {
                Ok(generated) => certificates.default = Some(generated.clone()),
                Err(error) => problems.push(problem(Kind::TlsStore, DEFAULT_OPTIONS, error.to_string())),
            }
            certificates.is_generated = true;
        }
        let mut tickets = previous.map(|store| store.tickets.clone()).unwrap_or_default();
        let certificates = Arc::new(certificates);
        let obtained = previous.map(|store| store.obtained.clone()).unwrap_or_default();
        let known = previous.map(|store| store.revocation.clone()).unwrap_or_default();
        let mut sources = Sources::new(known, now.unix_timestamp());
        let kept = (&mut tickets, &mut sources);
        let built = build_options(tls, (&certificates, &obtained), file, kept, &mut problems);
        let named = built.iter().map(|(name, built)| {
            let mut named = NamedOptions::new(name, built.as_ref().map(|built| built.content));
            named.verifies_clients = built.as_ref().is_some_and(|built| built.verifies_clients);
            named.checks_revocation = built.as_ref().is_some_and(|built| built.checks.is_some());
            (name.clone(), Arc::new(named))
        });
        let named = named.collect();
        let checked =
            built.iter().filter_map(|(name, built)| Some((name.clone(), built.as_ref()?.checks.clone()?)));
        let checks = checked.collect();
        let options =
            built.into_iter().map(|(name, built)| (name, built.map(|built| Arc::new(built.config))));
        let options = options.collect();
        let demanding = names_with(tls, |options| client_auth::is_required(&options.client_auth));
        let strict = names_with(tls, |options| options.sni_strict);
        let store = Self {
            options,
            named,
            demanding,
            strict,
            loaded,
            tickets,
            leaves,
            with_issuers,
            staples,
            certificates,
            obtained,
            checks,
            revocation: sources.used,
        };
        (Arc::new(store), problems)
    }

    /// Returns a store without files, for the current time.
    #[cfg(test)]
    pub(crate) fn without_files(
        tls: &Tls,
        previous: Option<&Arc<TlsStore>>,
    ) -> (Arc<TlsStore>, Vec<Problem>) {
        static GENERATED: std::sync::LazyLock<DefaultCertificate> =
            std::sync::LazyLock::new(|| DefaultCertificate::generate(OffsetDateTime::now_utc()));
        let mut no_files = |path: &str| Err(BuildError::new(format!("{path}: no such file")));
        Self::build(OffsetDateTime::now_utc(), tls, &GENERATED, &mut no_files, previous)
    }

    /// Closes connections to hosts with these options: they could not be decoded completely, and weaker ones
    /// must not be used instead. The store must not be shared yet.
    pub(crate) fn close(store: &mut Arc<Self>, names: &BTreeSet<String>) {
        if let Some(store) = Arc::get_mut(store) {
            for name in names.iter().map(|name| options_name(name)) {
                store.options.insert(name.to_owned(), None);
                store.named.insert(name.to_owned(), Arc::new(NamedOptions::new(name, None)));
            }
        }
    }

    /// Returns the certificates of the configuration and of resolvers, without their chains and without the
    /// generated one.
    pub fn leaves(&self) -> Vec<CertificateDer<'static>> {
        let obtained = self.obtained.served();
        self.leaves.iter().chain(&obtained.leaves).cloned().collect()
    }

    /// Returns the configured certificate for a name; `None` for the default.
    pub(crate) fn configured(&self, name: &str) -> Option<CertificateDer<'static>> {
        // A wildcard is covered by the same wildcard.
        let key = match name.strip_prefix('*') {
            Some(rest) => self.certificates.find(&format!("\u{1}{rest}")),
            None => self.certificates.find(name),
        };
        key?.cert.first().cloned()
    }

    /// Returns the certificates of resolvers.
    pub(crate) fn obtained(&self) -> &Arc<Obtained> {
        &self.obtained
    }

    /// Returns true if the client is a CA validating a TLS-ALPN challenge.
    pub(crate) fn is_asked_for_proof(hello: &rustls::server::ClientHello<'_>) -> bool {
        hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == ACME_PROTOCOL))
    }

    /// Returns the challenge configuration for a name in lower case; `None` if there is none.
    pub(crate) async fn proof_for(&self, server_name: &str) -> Option<Arc<ServerConfig>> {
        self.obtained.find_proof(server_name).await
    }

    /// Returns true if a handshake for this name has to wait for its certificate; see [`TlsStore::demand`].
    pub(crate) fn is_on_demand(&self, server_name: Option<&str>) -> bool {
        self.obtained.on_demand().is_some() && server_name.is_some_and(|name| !self.has(name))
    }

    /// Waits for a certificate that is obtained on the first handshake, if enabled.
    pub(crate) async fn demand(&self, server_name: Option<&str>) {
        let (Some(name), Some(on_demand)) = (server_name, self.obtained.on_demand()) else { return };
        if !self.has(name) {
            on_demand.wait_for(name, &|| self.has(name)).await;
        }
    }

    fn has(&self, name: &str) -> bool {
        self.certificates.find(name).is_some() || self.obtained.served().certificates.find(name).is_some()
    }

    /// Returns the certificates of the configuration and of resolvers that have issuers in their chain.
    pub(crate) fn with_issuers(&self) -> Vec<Arc<CertifiedKey>> {
        let obtained = self.obtained.served();
        self.with_issuers.iter().chain(&obtained.with_issuers).cloned().collect()
    }

    /// Returns the OCSP staples.
    pub(crate) fn staples(&self) -> Arc<Staples> {
        self.staples.clone()
    }

    /// Returns the revocation lists that are fetched.
    pub(crate) fn crl_sources(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.revocation.urls.values()
    }

    /// Returns the state of all revocation lists.
    pub(crate) fn revocation_lists(&self) -> impl Iterator<Item = ListState> {
        self.revocation.lists()
    }

    /// Returns what checks the revocation of client certificates.
    pub(crate) fn checks(&self) -> impl Iterator<Item = &Arc<Checks>> {
        self.checks.values()
    }

    /// Returns what checks whether client certificates of these options are revoked.
    pub(crate) fn checks_of(&self, options: &str) -> Option<&Arc<Checks>> {
        self.checks.get(options)
    }

    /// Returns the OCSP responses about client certificates.
    pub(crate) fn statuses(&self) -> &Arc<Statuses> {
        &self.revocation.statuses
    }

    /// Returns the options with this name for comparison, whether valid or not.
    pub fn named(&self, name: &str) -> Arc<NamedOptions> {
        self.named.get(name).cloned().unwrap_or_else(|| Arc::new(NamedOptions::new(name, None)))
    }

    /// Returns true if a route with these options has to check those of the connection: they differ from
    /// `default` or require a client certificate.
    pub fn is_checked(&self, name: &str) -> bool {
        !self.named(name).is_same(&self.named(DEFAULT_OPTIONS)) || self.demands_certificate(name)
    }

    /// Returns the certificate that a client with this server name gets with these options; `None` if the handshake
    /// fails. A client without a server name gets that of the address `local`, if there is one.
    pub(crate) fn served(&self, options: &str, server_name: Option<&str>, local: IpAddr) -> Option<Served> {
        let address = local.to_canonical().to_string();
        let obtained = self.obtained.served();
        let is_known =
            self.certificates.exact(&address).or_else(|| obtained.certificates.exact(&address)).is_some();
        drop(obtained);
        let name = server_name.or_else(|| is_known.then_some(address.as_str()));
        let strict = self.strict.contains(options);
        let (key, source) = chooser::choose(&self.certificates, &self.obtained, strict, name)?;
        let files =
            self.loaded.iter().find(|(_, one)| Arc::ptr_eq(&one.key, &key)).map(|(files, _)| files.clone());
        Some(Served { leaf: key.cert.first()?.clone(), source, files })
    }

    /// Returns true if options with this name exist and are valid.
    pub fn has_options(&self, name: &str) -> bool {
        matches!(self.options.get(name), Some(Some(_)))
    }

    /// Returns true if these options require a client certificate.
    pub fn demands_certificate(&self, name: &str) -> bool {
        self.demanding.contains(name)
    }

    /// Returns the configuration for a client without SNI. As in Traefik, it gets the certificate for the
    /// address `local` that it has connected to, if there is one.
    pub(crate) fn at_address(
        &self,
        config: Arc<ServerConfig>,
        server_name: Option<&str>,
        local: IpAddr,
    ) -> Arc<ServerConfig> {
        if server_name.is_some() {
            return config;
        }
        let address = local.to_canonical().to_string();
        let obtained = self.obtained.served();
        match self.certificates.exact(&address).or_else(|| obtained.certificates.exact(&address)) {
            Some(certificate) => self.with_only(&config, certificate),
            None => config,
        }
    }

    /// Like [`Self::at_address`], for a route that was chosen without SNI. Instead of the generated
    /// certificate, which no client trusts, the client gets the certificate of the first of the route's
    /// `domains` that has one.
    pub(crate) fn for_route(
        &self,
        config: Arc<ServerConfig>,
        (options, domains): (&str, &[Domain]),
        server_name: Option<&str>,
        local: IpAddr,
    ) -> Arc<ServerConfig> {
        let obtained = self.obtained.served();
        let chosen = self.at_address(config.clone(), server_name, local);
        let is_settled = server_name.is_some() || !Arc::ptr_eq(&chosen, &config);
        if is_settled
            || self.strict.contains(options)
            || !self.certificates.is_generated
            || obtained.certificates.default.is_some()
        {
            return chosen;
        }
        let mut names = domains.iter().flat_map(|domain| std::iter::once(&domain.main).chain(&domain.sans));
        let found = names.find_map(|name| {
            let name = name.to_ascii_lowercase();
            self.certificates.find(&name).or_else(|| obtained.certificates.find(&name)).cloned()
        });
        found.map_or(chosen, |certificate| self.with_only(&config, &certificate))
    }

    fn with_only(&self, config: &ServerConfig, certificate: &Arc<CertifiedKey>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(config);
        config.cert_resolver =
            Arc::new(Stapling { chooser: Only(certificate.clone()), staples: self.staples.clone() });
        Arc::new(config)
    }

    /// Returns the options of an entry point by the name in its settings: without a provider, the only
    /// options with this name.
    pub(crate) fn named_in_settings(&self, name: &str) -> Arc<NamedOptions> {
        if name.is_empty() || name.contains('@') || self.named.contains_key(name) {
            return self.named(if name.is_empty() { DEFAULT_OPTIONS } else { name });
        }
        let mut known = self.named.iter().filter(|(known, _)| known.split('@').next() == Some(name));
        match (known.next(), known.next()) {
            (Some((_, options)), None) => options.clone(),
            _ => self.named(name),
        }
    }

    /// Returns the handshake configuration of these options; `None` if they are missing or broken.
    pub fn config_of(&self, options: &str) -> Option<Arc<ServerConfig>> {
        self.options.get(options)?.clone()
    }
}

/// Returns the names of the options that satisfy `condition`.
fn names_with(tls: &Tls, condition: impl Fn(&TlsOptions) -> bool) -> HashSet<String> {
    let named = tls.options.iter().filter(|(_, options)| condition(options));
    named.map(|(name, _)| options_name(name).to_owned()).collect()
}

/// Loads the certificates of a configuration and of its store.
fn configured_certificates(
    now: OffsetDateTime,
    tls: &Tls,
    file: &mut ReadFile<'_>,
    previous: Option<&Arc<TlsStore>>,
    problems: &mut Vec<Problem>,
) -> (Certificates, Pairs, Vec<CertificateDer<'static>>) {
    let mut certificates = Certificates::default();
    let mut loaded = HashMap::new();
    let mut leaves = Vec::new();
    load_certificates(now, tls, file, previous, problems, |pair, sound| {
        certificates.add(&sound.names, &sound.key);
        leaves.extend(sound.key.cert.first().cloned());
        loaded.insert(pair, sound);
    });
    for (name, store) in &tls.stores {
        let applied = apply_store(now, name, store, &mut certificates, file, (previous, &mut loaded));
        if let Err((kind, error)) = applied {
            problems.push(problem(kind, name, error.to_string()));
        }
    }
    (certificates, loaded, leaves)
}

/// Returns the provider of cryptography.
pub(crate) fn crypto() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Returns the content of a value that is a path or inline PEM.
pub(crate) fn pem_or_file(value: &str, file: &mut ReadFile<'_>) -> Result<Vec<u8>, BuildError> {
    if value.trim_start().starts_with("-----BEGIN") { Ok(value.as_bytes().to_vec()) } else { file(value) }
}

/// Loads the certificates of a configuration and passes each to `take`. If one is broken, its last valid
/// version is used.
fn load_certificates(
    now: OffsetDateTime,
    tls: &Tls,
    file: &mut ReadFile<'_>,
    previous: Option<&Arc<TlsStore>>,
    problems: &mut Vec<Problem>,
    mut take: impl FnMut((String, String), Arc<Loaded>),
) {
    for (place, certificate) in tls.certificates.iter().enumerate() {
        let wrong = |message: &str| {
            let label = label(&certificate.cert_file);
            let names_it = message.contains(&label);
            let message = if names_it { message.to_owned() } else { format!("{label}: {message}") };
            problem(Kind::Certificate, &place.to_string(), message)
        };
        if !certificate.stores.is_empty() && !certificate.stores.iter().any(|s| is_default_name(s)) {
            let message = format!("unsupported stores {}: expected `default`", certificate.stores.join(", "));
            problems.push(wrong(&message));
            continue;
        }
        let pair = (certificate.cert_file.clone(), certificate.key_file.clone());
        let last = previous.and_then(|store| store.loaded.get(&pair)).cloned();
        let sound = match certificates::load(&pair.0, &pair.1, file) {
            Ok(sound) => {
                problems.extend(sound.untimely(now).map(|error| wrong(&error)));
                Some(Arc::new(sound))
            }
            Err(error) => {
                let mut error = error.to_string();
                if last.is_some() {
                    error.push_str("; the last valid version stays in use");
                }
                problems.push(wrong(&error));
                last
            }
        };
        if let Some(sound) = sound {
            take(pair, sound);
        }
    }
}

fn apply_store(
    now: OffsetDateTime,
    name: &str,
    store: &tidegate_config::tls::Store,
    certificates: &mut Certificates,
    file: &mut ReadFile<'_>,
    (previous, loaded): (Option<&Arc<TlsStore>>, &mut Pairs),
) -> Result<(), (Kind, BuildError)> {
    if !is_default_name(name) {
        return Err((Kind::TlsStore, BuildError::new("unsupported store: expected `default`")));
    }
    if let Some(files) = &store.default_certificate {
        let pair = (files.cert_file.clone(), files.key_file.clone());
        let last = previous.and_then(|store| store.loaded.get(&pair)).cloned();
        let (sound, error) = match certificates::load(&pair.0, &pair.1, file) {
            Ok(sound) => (Some(Arc::new(sound)), None),
            Err(error) if last.is_some() => {
                (last, Some(format!("{error}; the last valid version stays in use")))
            }
            Err(error) => (None, Some(error.to_string())),
        };
        let untimely = sound.as_ref().and_then(|sound| sound.untimely(now));
        if let Some(sound) = sound {
            certificates.default = Some(sound.key.clone());
            loaded.insert(pair, sound);
        }
        if let Some(error) = error.or(untimely) {
            return Err((Kind::TlsStore, BuildError::new(format!("defaultCertificate: {error}"))));
        }
    }
    if let Some(generated) = &store.default_generated_cert
        && (generated.resolver.is_empty() || generated.domain.is_none())
    {
        let message = "defaultGeneratedCert: expected a `resolver` and a `domain`";
        return Err((Kind::TlsStore, BuildError::new(message)));
    }
    Ok(())
}

fn build_options(
    tls: &Tls,
    (certificates, obtained): (&Arc<Certificates>, &Arc<Obtained>),
    file: &mut ReadFile<'_>,
    (tickets, sources): (&mut BTreeMap<String, Arc<dyn ProducesTickets>>, &mut Sources),
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Option<options::Built>> {
    let defaults = TlsOptions::default();
    let named = tls.options.iter().map(|(name, options)| (options_name(name), &**options));
    let implied =
        (!tls.options.keys().any(|name| is_default_name(name))).then_some((DEFAULT_OPTIONS, &defaults));
    let mut built = BTreeMap::new();
    let mut used = BTreeMap::new();
    for (name, options) in named.chain(implied) {
        let around = (certificates, obtained);
        let mut made = options::server_config(options, around, file, sources, |domain| {
            let known = used.get(&domain).or_else(|| tickets.get(&domain)).cloned();
            let ticketer = known.unwrap_or_else(|| Arc::new(Tickets::default()));
            used.insert(domain, ticketer.clone());
            ticketer
        });
        if let Ok(made) = &mut made {
            let warnings = std::mem::take(&mut made.warnings);
            problems.extend(warnings.into_iter().map(|warning| problem(Kind::TlsOptions, name, warning)));
        }
        let wrong = made.as_ref().err().into_iter().flat_map(BuildError::messages);
        problems.extend(wrong.map(|message| problem(Kind::TlsOptions, name, message.clone())));
        built.insert(name.to_owned(), made.ok());
    }
    *tickets = used;
    built
}

/// Returns true for `default`, which is one object regardless of the provider.
fn is_default_name(name: &str) -> bool {
    name.split('@').next() == Some(DEFAULT_OPTIONS)
}

fn options_name(name: &str) -> &str {
    if is_default_name(name) { DEFAULT_OPTIONS } else { name }
}

/// Returns the name of a certificate in messages: its path, never its content.
fn label(cert_file: &str) -> String {
    if cert_file.contains("-----BEGIN") { "(inline PEM)".to_owned() } else { cert_file.to_owned() }
}

fn problem(kind: Kind, name: &str, message: String) -> Problem {
    Problem {
        origin: Origin::Internal,
        object: Some(ObjectRef { kind, name: name.to_owned() }),
        message,
        excerpt: None,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_config::tls::{Certificate, CertificateFiles, ClientAuth, Store};

    use super::*;

    fn certificate_for(names: &[&str]) -> Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        Certificate {
            cert_file: made.cert.pem(),
            key_file: made.signing_key.serialize_pem(),
            stores: Vec::new(),
        }
    }

    #[test]
    fn the_generated_certificate_and_the_tickets_survive_a_reload() {
        let (first, problems) = TlsStore::without_files(&Tls::default(), None);
        assert_eq!(problems, []);
        let (second, _) = TlsStore::without_files(&Tls::default(), Some(&first));
        let of = |store: &TlsStore| store.certificates.default.clone().unwrap().cert[0].clone();
        assert_eq!(of(&first), of(&second));
        let tickets = |store: &TlsStore| store.config_of(DEFAULT_OPTIONS).unwrap().ticketer.clone();
        let ticket = tickets(&first).encrypt(b"session").unwrap();
        assert_eq!(tickets(&second).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    }

    #[test]
    fn clients_without_sni_get_the_certificate_of_the_address() {
        let tls =
            Tls { certificates: vec![certificate_for(&["192.0.2.7", "2001:db8::7"])], ..Tls::default() };
        let (store, problems) = TlsStore::without_files(&tls, None);
        assert_eq!(problems, []);
        let config = store.config_of(DEFAULT_OPTIONS).unwrap();
        let is_own = |server_name: Option<&str>, local: &str| {
            let chosen = store.at_address(config.clone(), server_name, local.parse().unwrap());
            !Arc::ptr_eq(&chosen, &config)
        };
        assert!(is_own(None, "192.0.2.7") && is_own(None, "2001:db8::7") && is_own(None, "::ffff:192.0.2.7"));
        assert!(!is_own(None, "192.0.2.8") && !is_own(Some("a.test"), "192.0.2.7"));
    }

    #[test]
    fn clients_without_sni_get_the_certificate_of_the_route() {
        let names = |main: &str| Domain { main: main.to_owned(), sans: Vec::new() };
        let mut tls = Tls { certificates: vec![certificate_for(&["*.a.test"])], ..Tls::default() };
        let strict = TlsOptions { sni_strict: true, ..TlsOptions::default() };
        tls.options.insert("strict@file".into(), Arc::new(strict));
        let is_changed = |tls: &Tls, options: &str, domains: &[Domain], name: Option<&str>| {
            let (store, problems) = TlsStore::without_files(tls, None);
            assert_eq!(problems, []);
            let config = store.config_of(options).unwrap();
            let local = "192.0.2.8".parse().unwrap();
            !Arc::ptr_eq(&store.for_route(config.clone(), (options, domains), name, local), &config)
        };
        let domains = [names("none.test"), names("*.a.test")];
        assert!(is_changed(&tls, "default", &domains, None));
        assert!(is_changed(&tls, "default", &[names("B.a.test")], None));
        assert!(!is_changed(&tls, "default", &domains, Some("x.test")));
        assert!(!is_changed(&tls, "default", &domains[..1], None));
        assert!(!is_changed(&tls, "strict@file", &domains, None));
        let own = certificate_for(&["default.test"]);
        let own = CertificateFiles { cert_file: own.cert_file, key_file: own.key_file };
        let store = Store { default_certificate: Some(own), ..Store::default() };
        tls.stores.insert("default".into(), Arc::new(store));
        assert!(!is_changed(&tls, "default", &domains, None), "a configured default stays");
    }

    #[test]
    fn settings_may_name_options_without_their_provider() {
        let mut tls = Tls::default();
        for name in ["one@file", "two@file", "two@docker"] {
            tls.options.insert(name.into(), Arc::new(TlsOptions::default()));
        }
        let (store, _) = TlsStore::without_files(&tls, None);
        for (written, named) in [
            ("", "default"),
            ("default", "default"),
            ("one", "one@file"),
            ("one@file", "one@file"),
            ("two", "two"),
            ("x", "x"),
        ] {
            assert_eq!(&*store.named_in_settings(written).name, named);
        }
    }

    #[test]
    fn a_broken_certificate_does_not_affect_others() {
        let good = certificate_for(&["good.test"]);
        let mut mixed = certificate_for(&["bad.test"]);
        mixed.key_file.clone_from(&good.key_file);
        let missing =
            Certificate { cert_file: "gone.pem".into(), key_file: "gone.key".into(), ..Default::default() };
        let tls = Tls { certificates: vec![mixed, missing, good], ..Tls::default() };
        let (_, problems) = TlsStore::without_files(&tls, None);
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[1].to_string().contains("gone.pem"), "{}", problems[1]);
        assert!(!problems[0].to_string().contains("PRIVATE"), "{}", problems[0]);
    }

    #[test]
    fn broken_options_fail_closed() {
        let mut tls = Tls::default();
        let broken = TlsOptions {
            client_auth: ClientAuth { ca_files: vec!["gone.pem".into()], ..ClientAuth::default() },
            ..TlsOptions::default()
        };
        tls.options.insert("mtls@file".into(), Arc::new(broken));
        let (store, problems) = TlsStore::without_files(&tls, None);
        assert_eq!(problems.len(), 1);
        assert!(!store.has_options("mtls@file") && store.has_options("default"));
        assert!(store.config_of("mtls@file").is_none() && store.config_of("default").is_some());
        assert!(store.demands_certificate("mtls@file") && !store.demands_certificate("default"));
    }
}
