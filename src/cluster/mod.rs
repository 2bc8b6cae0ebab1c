//! Clusters of gateways: members, their configurations, and the leader.
//!
//! Members are published in Consul (`consul`) or Redis (`redis`). Request handling does not depend on it:
//! while the store is unavailable, the last known members are shown with the error.

mod consul;
mod error;
mod member;
mod redis;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_clients::OptionError;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::announcements::Announcements;
use crate::configuration::Readiness;
use crate::settings::{Cluster as Options, Settings};
use crate::snapshot::WeakSnapshotHandle;

pub(crate) use consul::consul_place;
pub use member::{Leader, Member};

/// Timeout for leaving the cluster.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// First delay after a failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The state of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Its name; empty without a cluster.
    pub name: String,
    /// The name of this gateway.
    pub id: String,
    /// The store of members: `consul`, `redis`, or empty.
    pub store: &'static str,
    /// The current error of the store; empty if there is none.
    pub error: String,
    /// Why announcements of other members cannot be read; empty if they can.
    pub announcements_error: String,
    /// All members by name, always including this gateway.
    pub members: Vec<Member>,
    /// The leader, if there is one.
    pub leader: Option<Leader>,
}

/// A handle to the cluster.
#[derive(Clone, Default)]
pub struct Cluster(Arc<OnceLock<Running>>);

struct Running {
    inner: Arc<Inner>,
    stop: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Cluster {
    /// Joins the cluster, if configured.
    pub(crate) fn start(
        &self,
        settings: &Settings,
        (snapshots, generation): (WeakSnapshotHandle, watch::Receiver<u64>),
        readiness: &Arc<Readiness>,
        announcements: &Announcements,
        control: &Handle,
    ) {
        let inner = Arc::new(Inner::new(settings, snapshots, readiness.clone(), announcements.clone()));
        let (stop, stopping) = watch::channel(false);
        let news = News { generation, stopping };
        let task = settings.cluster.as_ref().and_then(|options| join(options, &inner, news, control));
        // Only started once.
        let _ = self.0.set(Running { inner, stop, task: Mutex::new(task) });
    }

    /// Returns the current state.
    pub fn view(&self) -> View {
        self.0.get().map(|running| running.inner.view()).unwrap_or_default()
    }

    /// Returns true while this gateway is certain to be the leader.
    pub fn leads(&self) -> bool {
        self.0.get().is_some_and(|running| running.inner.leads())
    }

    /// Leaves the cluster, so that another gateway can lead immediately.
    pub(crate) async fn leave(&self) {
        let Some(running) = self.0.get() else { return };
        running.stop.send_replace(true);
        let task = running.task.lock().take();
        if let Some(task) = task
            && tokio::time::timeout(LEAVE_TIMEOUT, task).await.is_err()
        {
            tracing::warn!("could not leave the cluster within {LEAVE_TIMEOUT:?}");
        }
    }
}

fn join(options: &Options, inner: &Arc<Inner>, news: News, control: &Handle) -> Option<JoinHandle<()>> {
    let failed = |error: OptionError| inner.failed(&error.to_string());
    if let Some(place) = &options.consul {
        let consul = consul::Consul::new(place, options).map_err(failed).ok()?;
        return Some(control.spawn(consul.run(inner.clone(), news)));
    }
    let place = options.redis.as_ref()?;
    let redis = redis::Redis::new(place, options).map_err(failed).ok()?;
    Some(control.spawn(redis.run(inner.clone(), news)))
}

/// Events for a member.
#[derive(Clone)]
struct News {
    generation: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
}

impl News {
    /// Waits until the gateway stops.
    async fn stop(&mut self) {
        if self.stopping.wait_for(|stop| *stop).await.is_err() {
            // The sender was dropped, as the runtime is shutting down.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until another snapshot is live, or for this time.
    async fn snapshot(&mut self, limit: Duration) {
        if let Ok(Err(_)) = tokio::time::timeout(limit, self.generation.changed()).await {
            std::future::pending::<()>().await;
        }
    }
}

/// State shared by the task and its observers.
struct Inner {
    name: String,
    store: &'static str,
    me: Member,
    /// Weak, since the API, which belongs to a snapshot, shows the cluster.
    snapshots: WeakSnapshotHandle,
    readiness: Arc<Readiness>,
    announcements: Announcements,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    members: Vec<Member>,
    leader: Option<Leader>,
    error: String,
    /// Whether this gateway was the leader in the last list.
    leads: bool,
    /// Until when no other gateway can replace it.
    alive_until: Option<Instant>,
}

impl Inner {
    fn new(
        settings: &Settings,
        snapshots: WeakSnapshotHandle,
        readiness: Arc<Readiness>,
        announcements: Announcements,
    ) -> Self {
        let options = settings.cluster.as_ref();
        let store = match options {
            Some(options) if options.consul.is_some() => "consul",
            Some(_) => "redis",
            None => "",
        };
        Self {
            name: options.map(|options| options.name.clone()).unwrap_or_default(),
            store,
            me: Member::this(options),
            snapshots,
            readiness,
            announcements,
            seen: Mutex::default(),
        }
    }

    /// Returns the current state of this gateway.
    fn me(&self) -> Member {
        // It is only gone once the gateway has stopped.
        let Some(snapshots) = self.snapshots.upgrade() else { return self.me.clone() };
        let snapshot = snapshots.load();
        Member {
            snapshot: snapshot.report.digest().to_owned(),
            generation: snapshot.generation,
            problems: snapshot.report.problems.len(),
            ready: self.readiness.is_ready(),
            announcement: self.announcements.number(),
            ..self.me.clone()
        }
    }

    /// Records the members and the leader.
    fn saw(&self, mut members: Vec<Member>, leader: Option<Leader>) {
        members.sort_by(|a, b| a.id.cmp(&b.id));
        self.works();
        let mut seen = self.seen.lock();
        let (now, before) = (leader.as_ref().map(|one| &one.id), seen.leader.as_ref().map(|one| &one.id));
        if now != before {
            let leader = now.map_or("nobody", String::as_str);
            tracing::info!(cluster = %self.name, %leader, "the leader of the cluster has changed");
        }
        (seen.members, seen.leader) = (members, leader);
    }

    /// Records whether this gateway is the leader.
    fn leading(&self, leads: bool) {
        self.seen.lock().leads = leads;
    }

    /// Records until when no other gateway can replace this one.
    fn alive_until(&self, until: Instant) {
        self.seen.lock().alive_until = Some(until);
    }

    /// Records that the store is available.
    fn works(&self) {
        let mut seen = self.seen.lock();
        if !seen.error.is_empty() {
            tracing::info!(cluster = %self.name, "the cluster is reachable again");
            seen.error.clear();
        }
    }

    /// Records that the store is unavailable. Logs each reason once.
    fn failed(&self, error: &str) {
        let mut seen = self.seen.lock();
        if seen.error.is_empty() {
            tracing::warn!(cluster = %self.name, "the cluster is unreachable: {error}");
        }
        error.clone_into(&mut seen.error);
    }

    fn leads(&self) -> bool {
        let seen = self.seen.lock();
        seen.leads && seen.alive_until.is_some_and(|until| Instant::now() < until)
    }

    fn view(&self) -> View {
        let me = self.me();
        let seen = self.seen.lock();
        // The local state of this gateway is more recent than what it published.
        let others = seen.members.iter().filter(|member| member.id != me.id);
        let mut members: Vec<Member> = others.cloned().chain([me.clone()]).collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        View {
            name: self.name.clone(),
            id: me.id,
            store: self.store,
            error: seen.error.clone(),
            announcements_error: self.announcements.error(),
            members,
            leader: seen.leader.clone(),
        }
    }
}

/// Returns the delay after consecutive failures: exponential backoff with jitter.
fn pause(failures: u32) -> Duration {
    let pause = FIRST_DELAY.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(MAX_DELAY);
    pause.mul_f64(0.75 + fastrand::f64() * 0.5)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_config::Provided;

    use super::*;
    use crate::service::Registry;
    use crate::snapshot::{Environment, Files, SnapshotHandle, compile};
    use crate::store::Stores;

    /// Returns a gateway with seven previous configurations.
    fn inner(options: Option<Options>) -> (Inner, SnapshotHandle) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let registry = Registry::new(1, runtime.handle().clone());
        let settings = Settings { cluster: options, ..Settings::default() };
        let environment = Environment {
            settings: Arc::new(settings.clone()),
            client: registry.client(),
            registry,
            tcp: crate::tcp::Registry::new(runtime.handle().clone()),
            internal: BTreeMap::new(),
            files: Files::default(),
            stores: Stores::new(runtime.handle().clone()),
            control: runtime.handle().clone(),
            clock: tidegate_core::Clock::System,
            default_certificate: crate::tls::DefaultCertificate::generate(time::OffsetDateTime::now_utc()),
            consumers: tidegate_core::ConsumersHandle::default(),
            purges: Default::default(),
            announcer: None,
            audit: None,
            metrics: None,
            maintenance: Arc::default(),
        };
        let (compiled, _) =
            compile(time::OffsetDateTime::now_utc(), Provided::default(), 7, None, &environment);
        let snapshots = SnapshotHandle::new(compiled.snapshot);
        let inner = Inner::new(&settings, snapshots.downgrade(), Arc::default(), Announcements::default());
        (inner, snapshots)
    }

    fn member(id: &str) -> Member {
        Member { id: id.into(), ..Member::default() }
    }

    #[test]
    fn the_view_has_other_members_and_the_current_state_of_this_gateway() {
        let (inner, _snapshots) =
            inner(Some(Options { id: "b".into(), name: "edge".into(), ..Options::default() }));
        let leader = Leader { id: "c".into(), since: String::new() };
        inner.saw(vec![member("c"), member("a"), member("b")], Some(leader.clone()));
        let view = inner.view();
        let ids: Vec<&str> = view.members.iter().map(|member| member.id.as_str()).collect();
        assert_eq!((ids, view.leader.as_ref()), (vec!["a", "b", "c"], Some(&leader)));
        assert_eq!((view.members[1].generation, view.members[1].snapshot.len()), (7, 16));
        inner.failed("it is away");
        let view = inner.view();
        assert_eq!((view.members.len(), view.error.as_str()), (3, "it is away"));
        inner.saw(Vec::new(), None);
        let view = inner.view();
        assert_eq!((view.members.len(), view.error.as_str()), (1, ""));
    }

    #[test]
    fn a_leader_that_is_not_confirmed_in_time_stops_leading() {
        let (inner, _snapshots) = inner(None);
        inner.leading(true);
        assert!(!inner.leads(), "nothing was ever confirmed");
        inner.alive_until(Instant::now() + Duration::from_secs(600));
        assert!(inner.leads());
        inner.alive_until(Instant::now());
        assert!(!inner.leads());
        inner.alive_until(Instant::now() + Duration::from_secs(600));
        inner.leading(false);
        assert!(!inner.leads());
    }

    #[test]
    fn delays_grow_up_to_a_maximum() {
        assert!(pause(1) < Duration::from_millis(400));
        assert!(pause(u32::MAX) >= MAX_DELAY.mul_f64(0.75) && pause(u32::MAX) <= MAX_DELAY.mul_f64(1.25));
    }
}
