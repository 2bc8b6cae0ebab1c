//! Worker threads of the data plane: one current-thread runtime per core, each with its own listeners and pools.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Returns the index of this thread's worker, or 0 on other threads. Indexes per-worker state.
pub fn index() -> usize {
    INDEX.with(Cell::get)
}

/// Makes this thread the worker with this index. Called once, when a worker starts.
fn set_index(index: usize) {
    INDEX.with(|cell| cell.set(index));
}

/// The environment variable with the number of workers.
pub(crate) const COUNT: &str = "TIDEGATE_WORKERS";

/// Returns the number of workers to start: `TIDEGATE_WORKERS` or `GATEWAY_WORKERS` if it is a positive
/// number, or else the number of cores available to this process.
pub fn count() -> usize {
    let named = [COUNT, "GATEWAY_WORKERS"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find_map(|value| value.trim().parse().ok().filter(|count| *count > 0));
    named.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).min(MAX_WORKERS)
}

/// Maximum number of workers per process.
const MAX_WORKERS: usize = 1024;

/// A worker, as seen by others.
struct Worker {
    handle: Handle,
    /// Number of its client connections.
    connections: AtomicUsize,
}

/// Running workers.
///
/// If the thread of a worker panics, the process exits: a dead listener in a group that shares its port would
/// swallow its part of all new connections.
pub struct Workers {
    workers: Arc<[Worker]>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// Counts one connection of one worker until dropped.
pub struct Load {
    workers: Arc<[Worker]>,
    index: usize,
}

impl Workers {
    /// Starts `count` workers (at least one), in threads called `worker-0`, `worker-1`, and so on.
    pub fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let mut workers = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count.max(1) {
            let (sender, receiver) = mpsc::channel();
            let stop = stop.clone();
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || run(index, &sender, stop))?;
            let handle = receiver.recv().unwrap_or_else(|_| Err(io::Error::other("worker thread ended")))?;
            workers.push(Worker { handle, connections: AtomicUsize::new(0) });
            threads.push(thread);
        }
        Ok(Self { workers: workers.into(), threads, stop })
    }

    /// Returns the number of workers.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Always returns false: there is at least one.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Returns the runtime of a worker.
    pub fn handle(&self, index: usize) -> &Handle {
        &self.workers[index].handle
    }

    /// Returns a view for counting connections and choosing workers.
    pub(crate) fn balance(&self) -> Balance {
        Balance { workers: self.workers.clone() }
    }

    /// Stops all workers and waits for their threads. Drops what still runs on them.
    pub fn stop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A panic of the thread has already aborted the process.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The number of connections per worker.
#[derive(Clone)]
pub(crate) struct Balance {
    workers: Arc<[Worker]>,
}

/// Number of connections by which a worker may exceed the least loaded one before it hands new ones over.
const MAX_IMBALANCE: usize = 4;

impl Balance {
    /// Returns the worker for a connection accepted by `here`: the same one unless another has clearly fewer.
    pub(crate) fn choose(&self, here: usize) -> usize {
        let load = |index: usize| self.workers[index].connections.load(Ordering::Relaxed);
        let mine = load(here);
        if mine < MAX_IMBALANCE {
            return here;
        }
        let least = (0..self.workers.len()).min_by_key(|index| load(*index)).unwrap_or(here);
        if mine >= load(least) + MAX_IMBALANCE { least } else { here }
    }

    /// Returns the number of workers.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Counts a connection of a worker.
    pub(crate) fn count(&self, index: usize) -> Load {
        self.workers[index].connections.fetch_add(1, Ordering::Relaxed);
        Load { workers: self.workers.clone(), index }
    }

    /// Returns the runtime of a worker.
    pub(crate) fn handle(&self, index: usize) -> &Handle {
        &self.workers[index].handle
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.workers[self.index].connections.fetch_sub(1, Ordering::Relaxed);
    }
}

fn run(index: usize, started: &mpsc::Sender<io::Result<Handle>>, stop: CancellationToken) {
    let guard = AbortOnPanic;
    set_index(index);
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let _ = started.send(Ok(runtime.handle().clone()));
            runtime.block_on(stop.cancelled());
            // Blocking calls that never return must not delay the exit of the process.
            runtime.shutdown_timeout(std::time::Duration::from_millis(100));
        }
        Err(error) => drop(started.send(Err(error))),
    }
    std::mem::forget(guard);
}

/// Aborts the process when dropped: it is forgotten on the normal path, so only a panic drops it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        tracing::error!("a worker panicked, aborting the process");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_knows_its_index_and_its_name() {
        let mut workers = Workers::start(3).unwrap();
        for wanted in 0..workers.len() {
            let (sender, receiver) = mpsc::channel();
            workers.handle(wanted).spawn(async move {
                let name = std::thread::current().name().map(str::to_owned);
                let _ = sender.send((index(), name));
            });
            assert_eq!(receiver.recv().unwrap(), (wanted, Some(format!("worker-{wanted}"))));
        }
        workers.stop();
    }

    #[test]
    fn connections_go_to_the_least_loaded() {
        let workers = Workers::start(2).unwrap();
        let balance = workers.balance();
        let mut open: Vec<Load> = (0..MAX_IMBALANCE).map(|_| balance.count(0)).collect();
        assert_eq!(balance.choose(0), 1);
        assert_eq!(balance.choose(1), 1);
        let second = balance.count(1);
        assert_eq!(balance.choose(0), 0);
        drop(second);
        open.clear();
        assert_eq!(balance.choose(0), 0);
    }
}
