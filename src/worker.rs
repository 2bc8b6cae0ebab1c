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

/// The index of the worker that this thread is, 0 on a thread that is none. Per-worker state is indexed by it.
pub fn index() -> usize {
    INDEX.with(Cell::get)
}

/// Makes this thread the worker of this index. Called once, at the start of a worker.
pub fn set_index(index: usize) {
    INDEX.with(|cell| cell.set(index));
}

/// The environment variable that says how many workers to start.
pub(crate) const COUNT: &str = "TIDEGATE_WORKERS";

/// How many workers to start: `TIDEGATE_WORKERS` or `GATEWAY_WORKERS` when set to a positive number, else as many as
/// there are cores that this process may use.
pub fn count() -> usize {
    let named = [COUNT, "GATEWAY_WORKERS"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find_map(|value| value.trim().parse().ok().filter(|count| *count > 0));
    named.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).min(MAX_WORKERS)
}

/// Most workers of one process.
const MAX_WORKERS: usize = 1024;

/// One worker, seen from elsewhere.
struct Worker {
    handle: Handle,
    /// Client connections that it serves.
    connections: AtomicUsize,
}

/// Running workers.
///
/// A worker whose thread panics takes the process down: a dead listener in a group that shares its port would
/// swallow its part of all new connections.
pub struct Workers {
    workers: Arc<[Worker]>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// Counts one connection of one worker, until dropped.
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Never true: there is always one.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The runtime of a worker, to spawn on.
    pub fn handle(&self, index: usize) -> &Handle {
        &self.workers[index].handle
    }

    /// A view for counting connections and choosing workers.
    pub(crate) fn balance(&self) -> Balance {
        Balance { workers: self.workers.clone() }
    }

    /// Ends all workers and waits for their threads. What still runs on them is dropped.
    pub fn stop(&mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A panic of the thread has aborted the process before.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Who has how many connections.
#[derive(Clone)]
pub(crate) struct Balance {
    workers: Arc<[Worker]>,
}

/// By how many connections a worker may exceed the least loaded one before it passes new ones on.
const IMBALANCE: usize = 4;

impl Balance {
    /// Where a connection should go that worker `here` accepted: it stays unless another has clearly fewer.
    pub(crate) fn choose(&self, here: usize) -> usize {
        let load = |index: usize| self.workers[index].connections.load(Ordering::Relaxed);
        let mine = load(here);
        if mine < IMBALANCE {
            return here;
        }
        let least = (0..self.workers.len()).min_by_key(|index| load(*index)).unwrap_or(here);
        if mine >= load(least) + IMBALANCE { least } else { here }
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Counts a connection on a worker.
    pub(crate) fn count(&self, index: usize) -> Load {
        self.workers[index].connections.fetch_add(1, Ordering::Relaxed);
        Load { workers: self.workers.clone(), index }
    }

    /// The runtime of a worker.
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
            // Blocking calls that never return must not hold up the end of the process.
            runtime.shutdown_timeout(std::time::Duration::from_millis(100));
        }
        Err(error) => drop(started.send(Err(error))),
    }
    std::mem::forget(guard);
}

/// Ends the process when dropped: it is forgotten on the orderly way out, so only a panic drops it.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        tracing::error!("a worker panicked: the process ends");
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
        let mut open: Vec<Load> = (0..IMBALANCE).map(|_| balance.count(0)).collect();
        assert_eq!(balance.choose(0), 1);
        assert_eq!(balance.choose(1), 1);
        let second = balance.count(1);
        assert_eq!(balance.choose(0), 0);
        drop(second);
        open.clear();
        assert_eq!(balance.choose(0), 0);
    }
}
