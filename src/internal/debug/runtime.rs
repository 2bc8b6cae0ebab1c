//! The state of runtimes, connections and queues.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tidegate_clients::otlp;
use tokio::runtime::Handle;

use super::cpu;
use crate::observability::metrics::OpenConnections;

/// What is shown: set once, when everything has started.
#[derive(Default)]
pub struct Runtimes(OnceLock<Started>);

/// What has started.
struct Started {
    /// By the names of their threads.
    handles: Vec<(String, Handle)>,
    /// By entry point.
    connections: Vec<(String, Arc<dyn OpenConnections>)>,
}

impl Runtimes {
    /// Sets what is shown. Further calls do nothing.
    pub(crate) fn set(
        &self,
        handles: Vec<(String, Handle)>,
        connections: Vec<(String, Arc<dyn OpenConnections>)>,
    ) {
        let _ = self.0.set(Started { handles, connections });
    }

    /// Returns the number of tasks that are alive.
    pub(super) fn tasks(&self) -> usize {
        let handles = self.0.get().into_iter().flat_map(|started| &started.handles);
        handles.map(|(_, handle)| handle.metrics().num_alive_tasks()).sum()
    }

    /// Returns everything as JSON.
    pub(super) fn view(&self) -> Value {
        let started = self.0.get();
        let runtimes = started.into_iter().flat_map(|started| &started.handles);
        let connections = started.into_iter().flat_map(|started| &started.connections);
        let connections = connections.map(|(entry_point, connections)| {
            let states = connections.states();
            let value = json!({
                "open": connections.open(),
                "idle": states.idle,
                "stalled": states.stalled,
                "handshaking": states.handshaking,
            });
            (entry_point.clone(), value)
        });
        let queues = otlp::waiting().into_iter().map(|(signal, waiting)| {
            let dropped = otlp::dropped().get(&signal).copied().unwrap_or_default();
            (signal.name().to_owned(), json!({"waiting": waiting, "dropped": dropped}))
        });
        json!({
            "runtimes": runtimes.map(|(name, handle)| runtime(name, handle)).collect::<Vec<_>>(),
            "connections": connections.collect::<serde_json::Map<_, _>>(),
            "queues": queues.collect::<serde_json::Map<_, _>>(),
            "residentBytes": cpu::resident_bytes(),
        })
    }
}

fn runtime(name: &str, handle: &Handle) -> Value {
    let metrics = handle.metrics();
    let workers = 0..metrics.num_workers();
    let workers = workers.map(|worker| {
        json!({
            "busySeconds": metrics.worker_total_busy_duration(worker).as_secs_f64(),
            "parks": metrics.worker_park_count(worker),
        })
    });
    json!({
        "name": name,
        "tasks": metrics.num_alive_tasks(),
        "queued": metrics.global_queue_depth(),
        "workers": workers.collect::<Vec<_>>(),
    })
}
