//! Compiles a merged configuration into a snapshot. Compiling cannot fail and does not affect the live
//! snapshot; what has to change once the new one is live is returned as [`Effects`].
//!
//! Invalid objects are left out and listed in the report; the others are unaffected. Rules, middlewares,
//! services, transports and certificates that have not changed are reused from the previous snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_config as config;
use tidegate_config::tls::Tls;
use tidegate_config::{Config, Kind, ObjectRef, Origin, Origins, Problem, Provided, Qualified};
use tidegate_core::announced::PurgesHandle;
use tidegate_core::{BuildError, Clock, ConsumersHandle, HttpClient, Middleware};
use time::OffsetDateTime;
use tokio::runtime::Handle;

use super::Snapshot;
use super::builder::{Builder, Instances};
use super::consumers::Directory;
use super::diagnostics::Broken;
use super::effects::Effects;
use super::files::{Content, Files};
use super::limits::limits;
use super::report;
use super::routers::Rules;
use super::routes::Router;
use super::{error_pages, tcp, udp};
use crate::identity::Announcer;
use crate::maintenance::Switches;
use crate::observability::AuditLog;
use crate::observability::metrics::Metrics;
use crate::service::{Registry, Service};
use crate::settings::Settings;
use crate::store::Stores;
use crate::tls::{DefaultCertificate, TlsStore};

/// The dependencies of a compilation.
pub struct Environment {
    /// The settings.
    pub settings: Arc<Settings>,
    /// HTTP servers and their state.
    pub registry: Arc<Registry>,
    /// TCP servers and their state.
    pub tcp: Arc<crate::tcp::Registry>,
    /// Sends the requests of middlewares.
    pub client: Arc<dyn HttpClient>,
    /// The gateway's own services, by qualified name.
    pub internal: BTreeMap<String, Arc<dyn Service>>,
    /// Reads the files that configurations name.
    pub files: Files,
    /// Stores that share limits between gateways.
    pub stores: Stores,
    /// Where tasks of middlewares run.
    pub control: Handle,
    /// The clock of middlewares.
    pub clock: Clock,
    /// The certificate served when no other matches.
    pub default_certificate: DefaultCertificate,
    /// The current directory of consumers, which middlewares read.
    pub consumers: ConsumersHandle,
    /// Where caches learn which purges members of the cluster have announced.
    pub purges: PurgesHandle,
    /// What tells servers who the client is.
    pub announcer: Option<Arc<Announcer>>,
    /// The audit log, if there is one.
    pub audit: Option<Arc<AuditLog>>,
    /// Metrics, if there are any.
    pub metrics: Option<Arc<Metrics>>,
    /// The routers that operators have put in maintenance.
    pub maintenance: Arc<Switches>,
}

/// A snapshot, and what the next one can reuse.
pub struct Compiled {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    qualified: Qualified,
    instances: Instances,
    rules: Rules,
    consumers: Directory,
    tls: TlsMemory,
}

#[derive(Clone)]
struct TlsMemory {
    config: Tls,
    files: Vec<(String, Content)>,
    /// TLS options that could not be decoded completely: their hosts are closed.
    closed: BTreeSet<String>,
    store: Arc<TlsStore>,
    problems: Vec<Problem>,
}

/// Compiles a merged configuration. References between objects are qualified first: later steps never see a
/// plain name.
///
/// Nothing live is changed, started or stopped. The caller swaps the snapshot in and then applies the
/// effects, or drops both. `now` decides which certificates are valid.
pub fn compile(
    now: OffsetDateTime,
    merged: Provided,
    generation: u64,
    previous: Option<&Compiled>,
    environment: &Environment,
) -> (Compiled, Effects) {
    let Provided { mut config, origins, problems, raw: written, kept, .. } = merged;
    let qualified = Qualified::apply(&mut config, previous.map(|compiled| &compiled.qualified));
    let broken_certificates = broken_certificates(&problems);
    let broken = broken(&problems);
    let closed = broken.keys().filter(|one| one.kind == Kind::TlsOptions).map(|one| one.name.clone());
    let before = previous.map(|compiled| (&compiled.snapshot.report.config, &compiled.instances));
    let builder = Builder::new(&config, environment, before, &broken);
    let tls = tls_store(now, &builder, closed.collect(), previous.map(|compiled| &compiled.tls));
    let mut http = Router::new(&builder, &tls.store, previous.map(|compiled| &compiled.rules), now);
    let mut entry_points = http.route();
    let tcp = tcp::route(&builder, &tls.store, |entry_point| http.https_names(entry_point));
    let udp = udp::route(&builder);
    let (error_pages, page_problems) =
        error_pages::compile(&builder, previous.map(|compiled| &*compiled.snapshot));
    build_unused(&builder);
    for (routes, (tcp, udp)) in
        entry_points.iter_mut().zip(tcp.entry_points.into_iter().zip(udp.entry_points))
    {
        (routes.tcp, routes.udp) = (tcp, udp);
    }
    for (routes, pages) in entry_points.iter_mut().zip(error_pages) {
        routes.error_pages = pages;
    }
    let maintenance = http.take_maintenance();
    let (rules, http_routers, mut findings) = http.finish();
    findings.extend(tcp.findings.into_iter().chain(udp.findings));
    let known = previous.map(|compiled| (&compiled.snapshot.report.config, &compiled.consumers));
    let counters = |name: &str| builder.consumer_counters(name);
    let directory = Directory::new(&config, known, &builder.files, counters);
    let (instances, mut diagnostics, effects) = builder.finish(directory.publication(environment));
    directory.report(&origins, &mut diagnostics);
    (config.http.routers, config.tcp.routers, config.udp.routers) = (http_routers, tcp.routers, udp.routers);
    let certificates = certificates(&origins, &broken_certificates);
    let tls_problems = tls.problems.iter().map(|problem| located(problem, &config, &origins, &certificates));
    let problems = problems.into_iter().chain(tls_problems).chain(page_problems).collect();
    let found = report::Found { findings, diagnostics, broken: &broken, problems, written, kept };
    let mut report = report::assemble(config, &origins, found);
    report.tls_origins = tls_origins(&origins, &certificates);
    let snapshot = Snapshot {
        generation,
        entry_points,
        tls: tls.store.clone(),
        services: instances.services.built(),
        tcp_services: instances.tcp_services.built(),
        report: Arc::new(report),
        counters: instances.counters.clone(),
        traffic: instances.traffic.clone(),
        consumers: directory.consumers.clone(),
        limits: limits(&instances, &directory),
        sessions: selected(&instances, |middleware| middleware.sessions().is_some()),
        caches: selected(&instances, |middleware| middleware.cache().is_some()),
        maintenance,
        compiled: now,
    };
    (
        Compiled { snapshot: Arc::new(snapshot), qualified, instances, rules, consumers: directory, tls },
        effects,
    )
}

/// Returns middlewares of kinds that have one instance for all routers.
fn selected(
    instances: &Instances,
    is_selected: impl Fn(&dyn Middleware) -> bool,
) -> BTreeMap<String, Arc<dyn Middleware>> {
    let all = instances.middlewares.instances().filter(|(_, middleware)| is_selected(middleware.as_ref()));
    all.map(|((name, _), middleware)| (name.clone(), middleware.clone())).collect()
}

/// Builds objects that no router uses, to report their errors.
fn build_unused(builder: &Builder<'_>) {
    builder.check_unused::<config::service::Service>(|used| builder.http.retain(used));
    builder.build_unused::<config::middleware::Middleware>();
    builder.build_unused::<config::transport::ServersTransport>();
    builder.check_unused::<config::tcp::TcpService>(|used| builder.tcp.retain(used));
    builder.build_unused::<config::tcp::TcpMiddleware>();
    builder.build_unused::<config::tcp::TcpServersTransport>();
    builder.check_unused::<config::tcp::UdpService>(|_| ());
}

/// Returns the objects whose options could not be decoded, with the reasons.
fn broken(problems: &[Problem]) -> Broken {
    let mut broken = Broken::new();
    for problem in problems {
        if let Some(object) = &problem.object {
            broken.entry(object.clone()).or_default().push(problem.message.clone());
        }
    }
    // An invalid certificate does not affect the others.
    broken.retain(|object, _| object.kind != Kind::Certificate);
    broken
}

/// Returns the certificates whose options could not be decoded. They are missing from the merged list.
fn broken_certificates(problems: &[Problem]) -> BTreeSet<ObjectRef> {
    let objects = problems.iter().filter_map(|problem| problem.object.clone());
    objects.filter(|object| object.kind == Kind::Certificate).collect()
}

/// Returns the certificates in the order of the merged list: by provider, then by position.
fn certificates(origins: &Origins, broken: &BTreeSet<ObjectRef>) -> Vec<ObjectRef> {
    let all = origins.keys().filter(|object| object.kind == Kind::Certificate && !broken.contains(*object));
    let mut all: Vec<ObjectRef> = all.cloned().collect();
    all.sort_by_cached_key(|object| {
        let (place, provider) = object.name.rsplit_once('@').unwrap_or((&object.name, ""));
        (provider.to_owned(), place.parse::<usize>().unwrap_or(usize::MAX))
    });
    all
}

/// Returns where certificates, TLS options and stores were written.
fn tls_origins(origins: &Origins, certificates: &[ObjectRef]) -> BTreeMap<ObjectRef, Origin> {
    let named = origins.iter().filter(|(object, _)| matches!(object.kind, Kind::TlsOptions | Kind::TlsStore));
    let named = named.map(|(object, origin)| (object.clone(), origin.whole()));
    let numbered = certificates.iter().enumerate().filter_map(|(place, object)| {
        let object_here = ObjectRef { kind: Kind::Certificate, name: place.to_string() };
        Some((object_here, origins.get(object)?.whole()))
    });
    named.chain(numbered).collect()
}

/// Adds the origin to a problem of the TLS store.
fn located(problem: &Problem, config: &Config, origins: &Origins, certificates: &[ObjectRef]) -> Problem {
    let mut problem = problem.clone();
    let Some(object) = &mut problem.object else { return problem };
    let mut options = report::options_of(config, object);
    if object.kind == Kind::Certificate
        && let Ok(place) = object.name.parse::<usize>()
        && let Some(known) = certificates.get(place)
    {
        options = serde_json::to_value(config.tls.certificates.get(place)).unwrap_or_default();
        *object = known.clone();
    }
    if let Some(origin) = origins.get(object) {
        problem.origin = origin.locate(&problem.message, &options, false);
    }
    problem
}

fn tls_store(
    now: OffsetDateTime,
    builder: &Builder<'_>,
    closed: BTreeSet<String>,
    previous: Option<&TlsMemory>,
) -> TlsMemory {
    let (config, files) = (&builder.config.tls, &builder.files);
    if let Some(memory) = previous
        && memory.config == *config
        && memory.closed == closed
        && memory.files.iter().all(|(path, content)| files.content(path) == *content)
    {
        return memory.clone();
    }
    let mut named = Vec::new();
    let mut read = |path: &str| {
        let content = files.content(path);
        named.push((path.to_owned(), content.clone()));
        content.map(|bytes| bytes.to_vec()).map_err(|error| BuildError::new(error.to_string()))
    };
    let default = &builder.environment.default_certificate;
    let (mut store, problems) =
        TlsStore::build(now, config, default, &mut read, previous.map(|memory| &memory.store));
    TlsStore::close(&mut store, &closed);
    TlsMemory { config: config.clone(), files: named, closed, store, problems }
}
