//! From a merged configuration to a snapshot: total, and without any effect on what serves now. What is to be done once
//! the snapshot serves is returned beside it.
//!
//! Whatever is wrong is left out, told in the report, and spoils nothing else. What has not changed since the previous
//! snapshot is taken over from it: rules, middlewares, services, transports and certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_config as config;
use tidegate_config::tls::Tls;
use tidegate_config::{Config, Kind, ObjectRef, Origins, Problem, Provided, Qualified};
use tidegate_core::{BuildError, Clock, HttpClient};
use time::OffsetDateTime;
use tokio::runtime::Handle;

use super::Snapshot;
use super::builder::{Builder, Instances};
use super::diagnostics::Broken;
use super::effects::Effects;
use super::files::{Content, Files};
use super::report;
use super::routers::Rules;
use super::routes::Router;
use super::{tcp, udp};
use crate::service::{Registry, Service};
use crate::settings::Settings;
use crate::store::Stores;
use crate::tls::{DefaultCertificate, TlsStore};

/// What configurations are compiled with.
pub struct Environment {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Servers and their state.
    pub registry: Arc<Registry>,
    /// The same for TCP.
    pub tcp: Arc<crate::tcp::Registry>,
    /// Sends the requests of middlewares.
    pub client: Arc<dyn HttpClient>,
    /// The gateway's own services, by qualified name.
    pub internal: BTreeMap<String, Arc<dyn Service>>,
    /// Reads the files that configurations name.
    pub files: Files,
    /// Stores that limits are shared through.
    pub stores: Stores,
    /// Where tasks of middlewares run.
    pub control: Handle,
    /// The time by which middlewares decide.
    pub clock: Clock,
    /// What clients are shown when no certificate fits.
    pub default_certificate: DefaultCertificate,
}

/// A snapshot, and what the next one takes over from it.
pub struct Compiled {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
    qualified: Qualified,
    instances: Instances,
    rules: Rules,
    tls: TlsMemory,
}

#[derive(Clone)]
struct TlsMemory {
    config: Tls,
    files: Vec<(String, Content)>,
    /// Options that could not be read, or not all.
    closed: BTreeSet<String>,
    store: Arc<TlsStore>,
    problems: Vec<Problem>,
}

/// Compiles a merged configuration. Names by which its objects refer to each other are qualified first: nothing behind
/// that sees a plain one.
///
/// Nothing that serves now is changed, started or stopped: that is left to the effects, which the caller applies after it
/// has swapped the snapshot in, or drops. `now` decides which certificates are valid.
pub fn compile(
    now: OffsetDateTime,
    merged: Provided,
    generation: u64,
    previous: Option<&Compiled>,
    environment: &Environment,
) -> (Compiled, Effects) {
    let Provided { mut config, origins, problems, written, .. } = merged;
    let qualified = Qualified::apply(&mut config, previous.map(|compiled| &compiled.qualified));
    let broken_certificates = broken_certificates(&problems);
    let broken = broken(&problems);
    let closed = broken.keys().filter(|one| one.kind == Kind::TlsOptions).map(|one| one.name.clone());
    let before = previous.map(|compiled| (&compiled.snapshot.report.config, &compiled.instances));
    let builder = Builder::new(&config, environment, before, &broken);
    let tls = tls_store(now, &builder, closed.collect(), previous.map(|compiled| &compiled.tls));
    let mut http = Router::new(&builder, &tls.store, previous.map(|compiled| &compiled.rules));
    let mut entry_points = http.route();
    let tcp = tcp::route(&builder, &tls.store, |entry_point| http.https_names(entry_point));
    let udp = udp::route(&builder);
    build_unused(&builder);
    for (routes, (tcp, udp)) in
        entry_points.iter_mut().zip(tcp.entry_points.into_iter().zip(udp.entry_points))
    {
        (routes.tcp, routes.udp) = (tcp, udp);
    }
    let (rules, http_routers, mut findings) = http.finish();
    findings.extend(tcp.findings.into_iter().chain(udp.findings));
    let (instances, diagnostics, effects) = builder.finish();
    (config.http.routers, config.tcp.routers, config.udp.routers) = (http_routers, tcp.routers, udp.routers);
    let certificates = certificates(&origins, &broken_certificates);
    let of_tls = tls.problems.iter().map(|problem| located(problem, &config, &origins, &certificates));
    let problems = problems.into_iter().chain(of_tls).collect();
    let found = report::Found { findings, diagnostics, broken: &broken, problems, written };
    let report = report::assemble(config, &origins, found);
    let snapshot = Snapshot {
        generation,
        entry_points,
        tls: tls.store.clone(),
        services: instances.services.sound(),
        tcp_services: instances.tcp_services.sound(),
        report: Arc::new(report),
    };
    (Compiled { snapshot: Arc::new(snapshot), qualified, instances, rules, tls }, effects)
}

/// Builds what no router uses, so that its mistakes are reported.
fn build_unused(builder: &Builder<'_>) {
    builder.check_unused::<config::service::Service>(|used| builder.http.retain(used));
    builder.build_unused::<config::middleware::Middleware>();
    builder.build_unused::<config::transport::ServersTransport>();
    builder.check_unused::<config::tcp::TcpService>(|used| builder.tcp.retain(used));
    builder.build_unused::<config::tcp::TcpMiddleware>();
    builder.build_unused::<config::tcp::TcpServersTransport>();
    builder.check_unused::<config::tcp::UdpService>(|_| ());
}

/// Objects whose options could not be read, with the reasons.
fn broken(problems: &[Problem]) -> Broken {
    let mut broken = Broken::new();
    for problem in problems {
        if let Some(object) = &problem.object {
            broken.entry(object.clone()).or_default().push(problem.message.clone());
        }
    }
    // A problem of one certificate is no problem of all.
    broken.retain(|object, _| object.kind != Kind::Certificate);
    broken
}

/// Certificates whose options could not be read, and which therefore are not in the list.
fn broken_certificates(problems: &[Problem]) -> BTreeSet<ObjectRef> {
    let objects = problems.iter().filter_map(|problem| problem.object.clone());
    objects.filter(|object| object.kind == Kind::Certificate).collect()
}

/// The certificates in the order of the merged list: by provider, then by their place in it.
fn certificates(origins: &Origins, broken: &BTreeSet<ObjectRef>) -> Vec<ObjectRef> {
    let all = origins.keys().filter(|object| object.kind == Kind::Certificate && !broken.contains(*object));
    let mut all: Vec<ObjectRef> = all.cloned().collect();
    all.sort_by_cached_key(|object| {
        let (place, provider) = object.name.rsplit_once('@').unwrap_or((&object.name, ""));
        (provider.to_owned(), place.parse::<usize>().unwrap_or(usize::MAX))
    });
    all
}

/// A problem of the TLS store with the place that contains it.
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
