//! The running gateway: starts and stops entry points, the configuration loop and providers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tidegate_config::{Problem, Provided};
use tidegate_core::{ConsumersHandle, HttpClient};
use tidegate_providers::own_keys::OwnKeys;
use tidegate_providers::{self as providers, Update, Updates};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::acme::{self, Acme, Leadership};
use crate::announcements::Announcements;
use crate::cluster::{Cluster, Member};
use crate::configuration::{Compiler, FirstStates, LastStates, Loop, QUEUE, Readiness};
use crate::entrypoint::{self, EntryPoints};
use crate::identity::{Announcer, KeyError};
use crate::internal::{self, Surroundings};
use crate::maintenance::Switches;
use crate::observability::AuditLog;
use crate::observability::access_log::AccessLog;
use crate::observability::metrics::{Metrics, push};
use crate::observability::requests::live::Live;
use crate::observability::tracing::Tracer;
use crate::observability::{Requests, Statistics};
use crate::opening::Opening;
use crate::saved::{self, States, Store};
use crate::service::Registry;
use crate::settings::Settings;
use crate::snapshot::{Environment, Files, Snapshot, SnapshotHandle};
use crate::store::Stores;
use crate::tls::Stapler;
use crate::tls::revocation::Refresher;
use crate::{tcp, worker};

/// Timeout for writing the responses that wait for the disk of a cache.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Threads of the control plane: providers, health checks, compiling.
const CONTROL_THREADS: usize = 2;

/// Why the gateway could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The entry points could not be started.
    #[error(transparent)]
    EntryPoints(#[from] entrypoint::StartError),
    /// A provider has invalid options.
    #[error("{0}: {1}")]
    Provider(String, providers::Error),
    /// Two providers have the same name.
    #[error("providers: duplicate name `{0}`")]
    SameName(Arc<str>),
    /// The access log could not be opened.
    #[error("access log: {0}")]
    AccessLog(io::Error),
    /// The audit log could not be opened.
    #[error("audit log: {0}")]
    AuditLog(io::Error),
    /// The key that signs identities cannot be used.
    #[error("identity.token: {0}")]
    Identity(#[from] KeyError),
    /// The threads of the control plane could not be started.
    #[error("cannot start the control plane: {0}")]
    Control(#[from] io::Error),
}

/// Options besides the settings.
#[derive(Default)]
pub struct Options {
    /// Number of workers; 0 for one per core.
    pub workers: usize,
    /// Sockets that a supervisor opened for entry points.
    pub passed: entrypoint::Passed,
}

/// A running gateway. Dropping it stops it immediately; [`Gateway::shutdown`] stops it gracefully.
pub struct Gateway {
    entry_points: Option<EntryPoints>,
    control: Option<Runtime>,
    addresses: BTreeMap<String, SocketAddr>,
    snapshots: SnapshotHandle,
    generation: watch::Receiver<u64>,
    updates: Updates,
    providers: Vec<providers::Handle>,
    access_log: Option<Arc<AccessLog>>,
    audit: Option<Arc<AuditLog>>,
    live: Option<Arc<Live>>,
    tracer: Option<Arc<Tracer>>,
    pushes: push::Pushes,
    readiness: Arc<Readiness>,
    terminating: Arc<AtomicBool>,
    acme: Acme,
    cluster: Cluster,
}

impl Gateway {
    /// Binds all entry points and starts to serve. Blocks briefly, so do not call it on a worker.
    ///
    /// Clients are accepted at once. They are served when every provider has delivered, or after
    /// `providers.startTimeout`.
    pub fn start(settings: Settings, options: Options) -> Result<Self, StartError> {
        let (control, sources) = (control_runtime()?, sources(&settings)?);
        let settings = Arc::new(settings);
        let workers = if options.workers == 0 { worker::count() } else { options.workers };
        let (updates, incoming) = mpsc::channel(QUEUE);
        let (around, unreadable) = surroundings(&settings, &sources, &updates, workers)?;
        let environment = environment(&around, workers, control.handle());
        let (client, states) = (environment.client.clone(), initial_states(&settings, unreadable));
        let (compiler, effects) = Compiler::new(environment, &states);
        let snapshots = SnapshotHandle::new(compiler.snapshot());
        effects.apply();
        // Set only once, here: no one reads it earlier.
        let _ = around.snapshots.set(snapshots.downgrade());
        let access_log = open_access_log(&settings, &control)?;
        let (generation_sender, generation) = watch::channel(0);
        let configuration = Loop {
            compiler: Arc::new(compiler),
            snapshots: snapshots.clone(),
            readiness: around.readiness.clone(),
            generation: generation_sender,
            throttle: settings.providers.providers_throttle_duration.into(),
            states,
            first: first_states(&settings),
            last: last_states(&settings, &sources, &control, &updates),
        };
        let opening = configuration.first.opening.clone();
        let starting = opening.hold("the start");
        if sources.is_empty() {
            opening.open();
        }
        around.readiness.expect(sources.iter().map(|(instance, _)| instance.name.clone()));
        control.spawn(configuration.run(incoming));
        let providers = start_providers(sources, &settings, &updates, &control);
        let pushes = start_metrics(&settings, &around, &client, &snapshots, &control);
        start_records(&around, &control);
        start_status_checks(&settings, client, &snapshots, &generation, &control);
        let tracer = Tracer::start(&settings, control.handle());
        let logs = (access_log.clone(), tracer.clone());
        let entry_options = entry_options(&around, (workers, options.passed), logs, &opening);
        let entry_points = EntryPoints::start(&settings, snapshots.clone(), entry_options)?;
        show_runtimes(&around, &entry_points, control.handle());
        start_cluster(&around, (&snapshots, &generation), &opening, &control);
        acme::start(&around.acme, &settings, &snapshots, &generation, &opening, control.handle());
        drop(starting);
        Ok(Self {
            addresses: entry_points.addresses(),
            entry_points: Some(entry_points),
            control: Some(control),
            snapshots,
            generation,
            updates,
            providers,
            access_log,
            audit: around.audit,
            live: around.live,
            tracer,
            pushes,
            readiness: around.readiness,
            terminating: around.terminating,
            acme: around.acme,
            cluster: around.cluster,
        })
    }

    /// Makes every provider reread its source.
    pub fn reload(&self) {
        for provider in &self.providers {
            provider.reload();
        }
    }

    /// Reopens the files of the access log and the audit log after they were moved away.
    pub fn reopen_log(&self) {
        if let Some(log) = &self.access_log {
            log.reopen();
        }
        if let Some(log) = &self.audit {
            log.reopen();
        }
    }

    /// Returns the address of each entry point, by name.
    pub fn addresses(&self) -> &BTreeMap<String, SocketAddr> {
        &self.addresses
    }

    /// Returns the number of the active snapshot; the first is 0.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Waits until this snapshot, or a later one, is active.
    pub async fn wait_for_generation(&self, generation: u64) {
        let mut served = self.generation.clone();
        if served.wait_for(|now| *now >= generation).await.is_err() {
            // The loop has ended: there will be no later one.
            std::future::pending::<()>().await;
        }
    }

    /// Returns the active snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.load()
    }

    /// Returns true when every provider has delivered once.
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// Returns who orders certificates, for resolvers with a shared storage.
    pub fn leadership(&self) -> Vec<Leadership> {
        self.acme.leadership()
    }

    /// Delivers the state of an external provider.
    pub async fn push(&self, provider: &str, state: Provided) {
        let update = Update { provider: Arc::from(provider), state: Arc::new(state), ready: true };
        // The receiver lives as long as the control plane, which we own.
        let _ = self.updates.send(update).await;
    }

    /// Stops gracefully: `/ping` reports it, connections are still accepted for `requestAcceptGraceTimeout`,
    /// then open ones finish for at most `graceTimeOut`.
    pub async fn shutdown(mut self) {
        self.terminating.store(true, Ordering::Relaxed);
        if let Some(live) = &self.live {
            live.close();
        }
        let entry_points = self.entry_points.take();
        let drained = async {
            if let Some(entry_points) = entry_points {
                entry_points.shutdown().await;
            }
        };
        tokio::join!(self.cluster.leave(), drained);
        self.acme.stop().await;
        close_caches(&self.snapshots.load()).await;
        let traced = async {
            if let Some(tracer) = &self.tracer {
                tracer.stop().await;
            }
        };
        let logged = async {
            if let Some(log) = self.access_log.clone() {
                log.stop().await;
                let _ = tokio::task::spawn_blocking(move || log.flush()).await;
            }
        };
        tokio::join!(traced, logged, self.pushes.stop());
    }
}

/// Writes responses that wait for a disk.
async fn close_caches(snapshot: &Snapshot) {
    let closing = snapshot.caches.iter().filter_map(|(name, middleware)| {
        let cache = middleware.cache()?;
        Some(async move {
            if !cache.close(CLOSE_TIMEOUT).await {
                tracing::warn!(
                    middleware = name,
                    "cache: not everything was written within {CLOSE_TIMEOUT:?}"
                );
            }
        })
    });
    futures_util::future::join_all(closing).await;
}

/// Opens the access log, if it is enabled.
fn open_access_log(settings: &Settings, control: &Runtime) -> Result<Option<Arc<AccessLog>>, StartError> {
    let open = |log| AccessLog::open(log, control.handle());
    settings.access_log.as_ref().map(open).transpose().map_err(StartError::AccessLog)
}

/// Starts the threads of the control plane.
fn control_runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
}

/// Returns what the gateway's own services depend on, before the first snapshot exists, and what is wrong with files that
/// are read for it.
fn surroundings(
    settings: &Arc<Settings>,
    sources: &[Source],
    updates: &Updates,
    workers: usize,
) -> Result<(Surroundings, Option<Problem>), StartError> {
    // The threads of HTTP/3 count as one more worker.
    let requests = Requests::new(settings, workers + 1);
    let audit = settings.audit_log.as_ref().map(AuditLog::open).transpose().map_err(StartError::AuditLog)?;
    let member = settings.cluster.as_ref().map(|options| Member::this(Some(options)).id);
    let (switches, unreadable) = Switches::load(settings, member);
    let switches = Arc::new(switches);
    let around = Surroundings {
        settings: settings.clone(),
        snapshots: Arc::new(OnceLock::new()),
        readiness: Arc::new(Readiness::default()),
        terminating: Arc::new(AtomicBool::new(false)),
        updates: updates.clone(),
        providers: kinds_of(sources),
        acme: Acme::default(),
        cluster: Cluster::default(),
        announcer: Announcer::new(settings)?,
        announcements: Announcements::new(settings, audit.clone(), switches.clone()),
        audit,
        metrics: Metrics::new(settings, workers + 1),
        live: requests.clone().map(Live::new),
        requests,
        statistics: Statistics::new(settings, workers + 1),
        runtimes: Arc::default(),
        maintenance: switches,
    };
    Ok((around, unreadable))
}

/// Starts the providers on the control plane.
fn start_providers(
    sources: Vec<Source>,
    settings: &Settings,
    updates: &Updates,
    control: &Runtime,
) -> Vec<providers::Handle> {
    let own_keys = Arc::new(own_keys(settings));
    let _context = control.enter();
    let start = |(instance, place): Source| {
        tracing::info!(provider = &*instance.name, source = %place, "provider started");
        providers::start_beside(instance.name, instance.provider, updates.clone(), own_keys.clone())
    };
    sources.into_iter().map(start).collect()
}

/// Key of problems with files that are read at the start among the states; not a valid provider name.
const FILES: &str = "@files";

/// Returns the states of the first snapshot: only that of the provider `internal`, and what is wrong with files that are
/// read at the start.
fn initial_states(settings: &Settings, unreadable: Option<Problem>) -> BTreeMap<Arc<str>, Arc<Provided>> {
    let own = (Arc::from(internal::PROVIDER), Arc::new(internal::provided(settings)));
    let problems = unreadable.map(|problem| {
        (Arc::from(FILES), Arc::new(Provided { problems: vec![problem], ..Provided::default() }))
    });
    std::iter::once(own).chain(problems).collect()
}

/// Lets metrics read the state of providers and resolvers, and starts what sends them to other systems.
fn start_metrics(
    settings: &Settings,
    around: &Surroundings,
    client: &Arc<dyn HttpClient>,
    snapshots: &SnapshotHandle,
    control: &Runtime,
) -> push::Pushes {
    let Some(metrics) = &around.metrics else { return push::Pushes::default() };
    metrics.watch_providers(around.readiness.clone());
    metrics.watch_resolvers(around.acme.clone());
    let start = |options| push::start(metrics, options, &snapshots.downgrade(), client, control.handle());
    settings.metrics.as_ref().map(start).unwrap_or_default()
}

/// Returns what entry points depend on.
fn entry_options(
    around: &Surroundings,
    (workers, passed): (usize, entrypoint::Passed),
    (log, tracer): (Option<Arc<AccessLog>>, Option<Arc<Tracer>>),
    opening: &Arc<Opening>,
) -> entrypoint::Options {
    entrypoint::Options {
        workers,
        log,
        audit: around.audit.clone(),
        metrics: around.metrics.clone(),
        tracer,
        requests: around.requests.clone(),
        statistics: around.statistics.clone(),
        opening: opening.clone(),
        passed,
    }
}

/// Starts what adds up statistics, what replaces the keys of identities, and what sends requests to readers of the API as they end.
fn start_records(around: &Surroundings, control: &Runtime) {
    if let Some(statistics) = around.statistics.clone() {
        control.spawn(statistics.run());
    }
    if let Some(live) = around.live.clone() {
        control.spawn(live.run());
    }
    if let Some(announcer) = around.announcer.clone() {
        control.spawn(announcer.run());
    }
}

/// Joins the cluster, if one is configured, and follows what its members announce.
fn start_cluster(
    around: &Surroundings,
    (snapshots, generation): (&SnapshotHandle, &watch::Receiver<u64>),
    opening: &Arc<Opening>,
    control: &Runtime,
) {
    let Surroundings { settings, cluster, announcements, readiness, .. } = around;
    let watched = (snapshots.downgrade(), generation.clone());
    cluster.start(settings, watched, readiness, announcements, control.handle());
    announcements.start(settings, cluster.view().id, opening, control.handle());
}

/// Lets the API show the runtimes and connections.
fn show_runtimes(around: &Surroundings, entry_points: &EntryPoints, control: &tokio::runtime::Handle) {
    let own = [("control".to_owned(), control.clone())];
    let runtimes = entry_points.runtimes().into_iter().chain(own).collect();
    around.runtimes.set(runtimes, entry_points.watched_connections());
}

/// Starts what fetches revocation lists and asks OCSP responders about client certificates, and OCSP stapling, if it is
/// enabled.
fn start_status_checks(
    settings: &Settings,
    client: Arc<dyn HttpClient>,
    snapshots: &SnapshotHandle,
    generation: &watch::Receiver<u64>,
    control: &Runtime,
) {
    let refresher = Refresher::new(client.clone(), control.handle().clone(), &snapshots.load().tls);
    control.spawn(refresher.run(snapshots.clone(), generation.clone()));
    if let Some(ocsp) = &settings.ocsp {
        let stapler = Stapler::new(client, ocsp.responder_overrides.clone());
        control.spawn(stapler.run(snapshots.clone(), generation.clone()));
    }
}

/// Returns what clients wait for: the first state of every provider, within the timeout of the settings.
fn first_states(settings: &Settings) -> FirstStates {
    let limit = settings.providers.start_timeout.0;
    let waits = !limit.is_zero();
    FirstStates {
        opening: Arc::new(if waits { Opening::closed() } else { Opening::default() }),
        limit,
        until: Instant::now().checked_add(limit),
        late: BTreeSet::new(),
        unreadable: Vec::new(),
        expired: false,
    }
}

/// Returns the keys that this gateway writes, which its providers must not read as configuration.
fn own_keys(settings: &Settings) -> OwnKeys {
    let resolvers = settings.certificates_resolvers.iter();
    let acme = resolvers.filter_map(|(name, resolver)| {
        let (_, prefix) = resolver.acme.as_ref()?.consul_place()?;
        let (place, older) = acme::places(prefix, name);
        Some([place, older])
    });
    let cluster = settings.cluster.iter().flat_map(|cluster| {
        let consul = cluster.consul.iter().map(|place| crate::cluster::consul_place(place, &cluster.name));
        consul.chain(cluster.redis.iter().map(|place| place.prefix.clone()))
    });
    OwnKeys::new(acme.flatten().chain(cluster))
}

/// Returns the store of provider states, and the providers that use it.
fn last_states(
    settings: &Settings,
    sources: &[Source],
    control: &Runtime,
    updates: &Updates,
) -> Option<LastStates> {
    let options = settings.providers.last_state.as_ref()?;
    let kept = sources.iter().filter(|(instance, _)| options.keeps(&instance.name, instance.kind));
    let store = Store::new(options);
    let (newest, changes) = watch::channel(States::new());
    control.spawn(saved::keep(store.clone(), changes, updates.clone()));
    Some(LastStates {
        kept: kept.map(|(instance, _)| instance.name.clone()).collect(),
        store,
        newest,
        restored: States::new(),
    })
}

/// A provider, and where it reads.
pub(crate) type Source = (providers::Instance, String);

/// Returns the providers in the settings.
pub(crate) fn sources(settings: &Settings) -> Result<Vec<Source>, StartError> {
    let mut sources = Vec::new();
    let mut names = BTreeSet::new();
    for chosen in settings.providers.chosen() {
        let (path, place) = (chosen.path(), chosen.options.place());
        let instances = chosen.options.instances(chosen.name);
        for instance in instances.map_err(|error| StartError::Provider(path, error))? {
            if !names.insert(instance.name.clone()) {
                return Err(StartError::SameName(instance.name));
            }
            sources.push((instance, place.clone()));
        }
    }
    Ok(sources)
}

/// Compiles these states like a gateway with these settings, without activating them. No server is contacted:
/// the effects are dropped.
pub(crate) fn compile_once(
    settings: &Arc<Settings>,
    mut states: BTreeMap<Arc<str>, Arc<Provided>>,
    control: &tokio::runtime::Handle,
) -> Arc<Snapshot> {
    let around = Surroundings {
        settings: settings.clone(),
        snapshots: Arc::default(),
        readiness: Arc::default(),
        terminating: Arc::default(),
        updates: mpsc::channel(1).0,
        providers: Vec::new(),
        acme: Acme::default(),
        cluster: Cluster::default(),
        announcements: Announcements::default(),
        announcer: Announcer::new(settings).ok().flatten(),
        audit: None,
        metrics: Metrics::new(settings, 1),
        runtimes: Arc::default(),
        requests: None,
        live: None,
        statistics: None,
        maintenance: Arc::default(),
    };
    let environment = environment(&around, 1, control);
    states.insert(Arc::from(internal::PROVIDER), Arc::new(internal::provided(settings)));
    let consumers = environment.consumers.clone();
    let (compiler, _) = Compiler::new(environment, &states);
    let snapshot = compiler.snapshot();
    // Nothing serves requests here: this directory is only for predictions.
    consumers.store(snapshot.consumers.clone());
    snapshot
}

/// Returns what compiling needs besides the configuration.
fn environment(around: &Surroundings, workers: usize, control: &tokio::runtime::Handle) -> Environment {
    let registry = Registry::new(workers, control.clone());
    Environment {
        settings: around.settings.clone(),
        client: registry.client(),
        registry,
        tcp: tcp::Registry::new(control.clone()),
        internal: internal::services(around),
        files: Files::default(),
        stores: Stores::new(control.clone()),
        control: control.clone(),
        clock: tidegate_core::Clock::System,
        default_certificate: crate::tls::DefaultCertificate::generate(time::OffsetDateTime::now_utc()),
        consumers: ConsumersHandle::default(),
        purges: around.announcements.purges(),
        announcer: around.announcer.clone(),
        audit: around.audit.clone(),
        metrics: around.metrics.clone(),
        maintenance: around.maintenance.clone(),
    }
}

/// Returns the kinds of the providers, as in `/api/overview`.
fn kinds_of(sources: &[Source]) -> Vec<String> {
    let mut kinds = Vec::new();
    for kind in sources.iter().map(|(instance, _)| capitalised(instance.kind)) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// Capitalises `consulCatalog` as `ConsulCatalog`.
pub(crate) fn capitalised(kind: &str) -> String {
    let mut letters = kind.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.terminating.store(true, Ordering::Relaxed);
        self.providers.clear();
        if let Some(log) = &self.access_log {
            log.flush();
        }
        if let Some(control) = self.control.take() {
            control.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::settings::{EntryPoint, Ping};

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_pushed_configuration_is_served_until_shutdown() {
        let point = EntryPoint { address: "127.0.0.1:0".into(), ..EntryPoint::default() };
        let mut settings = Settings::default();
        settings.entry_points.insert("web".into(), point.clone());
        settings.entry_points.insert("traefik".into(), point);
        settings.ping = Some(Ping::default());
        let gateway = Gateway::start(settings, Options { workers: 1, ..Options::default() }).unwrap();
        let (web, own) = (gateway.addresses()["web"], gateway.addresses()["traefik"]);
        assert!(get(own, "/ping").ends_with("OK"));
        assert!(get(own, "/ready").ends_with("OK"), "no provider is waited for");
        assert!(get(web, "/a").starts_with("HTTP/1.1 404"));
        let config = r#"{"http": {"routers": {"r": {"rule": "Path(`/a`)", "service": "noop@internal"}}}}"#;
        let state = Provided { config: serde_json::from_str(config).unwrap(), ..Provided::default() };
        gateway.push("test", state.clone()).await;
        gateway.wait_for_generation(1).await;
        assert!(get(web, "/a").starts_with("HTTP/1.1 418"));
        gateway.push("test", state).await;
        gateway.push("test", Provided::default()).await;
        gateway.wait_for_generation(2).await;
        assert_eq!(gateway.generation(), 2, "an equal state is dropped");
        assert!(get(web, "/a").starts_with("HTTP/1.1 404"));
        gateway.shutdown().await;
        assert!(TcpStream::connect(web).is_err());
    }

    #[test]
    fn a_gateway_that_has_stopped_keeps_no_snapshot() {
        let mut settings = Settings::default();
        settings
            .entry_points
            .insert("web".into(), EntryPoint { address: "127.0.0.1:0".into(), ..EntryPoint::default() });
        settings.api = Some(crate::settings::Api { insecure: true, ..crate::settings::Api::default() });
        let gateway = Gateway::start(settings, Options { workers: 1, ..Options::default() }).unwrap();
        let snapshot = Arc::downgrade(&gateway.snapshot());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(gateway.shutdown());
        let until = std::time::Instant::now() + Duration::from_secs(30);
        while snapshot.strong_count() > 0 {
            assert!(std::time::Instant::now() < until, "something keeps the snapshot");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
