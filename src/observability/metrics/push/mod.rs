//! Pushes metrics to StatsD, Datadog, InfluxDB and OpenTelemetry collectors, from the control plane.
//!
//! A collector gets totals, and the others what has changed since their last push. A push that fails is lost and counted: nothing is kept for
//! later.

mod deltas;
mod influx;
mod lines;
mod otlp;
mod statsd;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::HttpClient;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::collect::{Objects, View, collect, shown};
use super::metric::Writer;
use super::{Levels, Metrics};
use crate::settings;
use crate::snapshot::{Snapshot, WeakSnapshotHandle};

/// Maximum time for the last push, when the gateway stops.
const LAST_PUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time for one push.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a push was lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the token cannot be read: {0}")]
    Token(io::Error),
    #[error("`{0}` is not a URL")]
    Url(String),
    #[error("{0}")]
    Upstream(#[from] tidegate_core::UpstreamError),
    #[error("{0}")]
    Export(#[from] tidegate_clients::otlp::ExportError),
    #[error("it answered {0}")]
    Status(http::StatusCode),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// A system that metrics are pushed to.
trait System: Send + 'static {
    /// What was written since the last push.
    type Batch: Send;

    /// Collects what has changed.
    fn render(&mut self, collect: &mut dyn FnMut(&mut dyn Writer)) -> Self::Batch;

    /// Sends it.
    fn send(&mut self, batch: Self::Batch) -> impl Future<Output = Result<(), PushError>> + Send;
}

/// When to push what.
struct Plan {
    /// The name of the system in the settings.
    name: &'static str,
    levels: Levels,
    interval: Duration,
    /// Cancelled when the gateway stops.
    stopping: CancellationToken,
}

/// The tasks that push.
#[derive(Default)]
pub(crate) struct Pushes {
    tasks: Mutex<JoinSet<()>>,
    stopping: CancellationToken,
}

impl Pushes {
    /// Pushes what has been counted since the last time, within a second, and ends the tasks.
    pub(crate) async fn stop(&self) {
        self.stopping.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        // Those that are late are aborted.
        let _ = tokio::time::timeout(LAST_PUSH_TIMEOUT, async { while tasks.join_next().await.is_some() {} })
            .await;
    }
}

/// Starts to push to the systems in the settings.
pub(crate) fn start(
    metrics: &Arc<Metrics>,
    options: &settings::Metrics,
    snapshots: &WeakSnapshotHandle,
    client: &Arc<dyn HttpClient>,
    control: &Handle,
) -> Pushes {
    let pushes = Pushes::default();
    let plan = |name, levels: Levels, interval: tidegate_core::values::Duration| Plan {
        name,
        levels: levels.for_all(options),
        interval: interval.0,
        stopping: pushes.stopping.clone(),
    };
    let mut tasks = pushes.tasks.lock();
    if let Some(options) = &options.stats_d {
        let plan = plan("statsD", Levels::from(options), options.push_interval);
        tasks.spawn_on(run(plan, statsd::plain(options), metrics.clone(), snapshots.clone()), control);
    }
    if let Some(options) = &options.datadog {
        let plan = plan("datadog", Levels::from(options), options.push_interval);
        tasks.spawn_on(run(plan, statsd::datadog(options), metrics.clone(), snapshots.clone()), control);
    }
    if let Some(options) = &options.influx_db2 {
        let plan = plan("influxDB2", Levels::from(options), options.push_interval);
        let system = influx::Influx::new(options, client.clone());
        tasks.spawn_on(run(plan, system, metrics.clone(), snapshots.clone()), control);
    }
    if let Some(options) = &options.otlp {
        let plan = plan("otlp", Levels::from(options), options.push_interval);
        match otlp::Collector::new(options) {
            Ok(system) => {
                tasks.spawn_on(run(plan, system, metrics.clone(), snapshots.clone()), control);
            }
            // Options that cannot be used are reported when the settings are read.
            Err(error) => tracing::error!(%error, "metrics: cannot push to the collector"),
        }
    }
    drop(tasks);
    pushes
}

/// Pushes until the gateway stops, and then once more.
async fn run<S: System>(plan: Plan, mut system: S, metrics: Arc<Metrics>, snapshots: WeakSnapshotHandle) {
    let mut ticks = tokio::time::interval(plan.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is immediate.
    ticks.tick().await;
    let mut last = Objects::new();
    let mut is_lost = false;
    loop {
        let is_last = tokio::select! {
            _ = ticks.tick() => false,
            () = plan.stopping.cancelled() => true,
        };
        let Some(snapshots) = snapshots.upgrade() else { return };
        let batch = batch(&plan, &mut system, &metrics, &snapshots.load(), &mut last);
        drop(snapshots);
        let sent = tokio::time::timeout(TIMEOUT, system.send(batch)).await;
        let error = sent.unwrap_or(Err(PushError::Timeout)).err();
        if error.is_some()
            && let Some(lost) = metrics.lost.get(plan.name)
        {
            lost.fetch_add(1, Ordering::Relaxed);
        }
        match &error {
            Some(error) if !is_lost => tracing::warn!(system = plan.name, "metrics were not pushed: {error}"),
            None if is_lost => tracing::info!(system = plan.name, "metrics are pushed again"),
            _ => {}
        }
        is_lost = error.is_some();
        if is_last {
            return;
        }
    }
}

fn batch<S: System>(
    plan: &Plan,
    system: &mut S,
    metrics: &Metrics,
    snapshot: &Snapshot,
    last: &mut Objects,
) -> S::Batch {
    let view =
        View { levels: plan.levels, header_labels: &[], exemplars: false, semantic: plan.name == "otlp" };
    let shown = shown(last, snapshot);
    system.render(&mut |out| collect(metrics, snapshot, &view, &shown, out))
}
