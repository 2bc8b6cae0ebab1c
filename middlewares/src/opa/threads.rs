//! Threads that evaluate policies, so that no policy holds up a worker.
//!
//! Evaluation is recursive, so a policy determines how much stack it takes. The stacks are large, and only what is used
//! of them takes memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Maximum number of evaluations that wait for a thread; further ones are refused.
const MAX_QUEUED: usize = 1024;
/// Size of a stack in bytes: enough for [`super::outline::MAX_RULES`] rules, each of which needs the next.
const STACK: usize = 256 * 1024 * 1024;

type Job = Box<dyn FnOnce() + Send>;

static QUEUE: LazyLock<SyncSender<Job>> = LazyLock::new(start);

fn start() -> SyncSender<Job> {
    let (sender, receiver) = sync_channel(MAX_QUEUED);
    let receiver = Arc::new(Mutex::new(receiver));
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    for _ in 0..cores {
        let receiver = receiver.clone();
        let thread = std::thread::Builder::new().name("policy".to_owned()).stack_size(STACK);
        if let Err(error) = thread.spawn(move || work(&receiver)) {
            tracing::error!(%error, "cannot start a thread for policies");
        }
    }
    sender
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().recv();
        let Ok(job) = job else { return };
        // Whoever waits notices that the job has dropped its sender.
        drop(catch_unwind(AssertUnwindSafe(job)));
    }
}

/// Runs a job, unless whoever waits for it leaves first. Returns `None` if too many jobs are queued.
pub(super) async fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    let job: Job = Box::new(move || {
        if !sender.is_closed() {
            drop(sender.send(job()));
        }
    });
    QUEUE.try_send(job).ok()?;
    receiver.await.ok()
}

/// Runs a job on a thread of its own, for callers that may block: requests do not delay it. Returns `None` on timeout.
pub(super) fn run_alone<T: Send + 'static>(
    timeout: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = sync_channel(1);
    let thread = std::thread::Builder::new().name("policy check".to_owned()).stack_size(STACK);
    let job = move || drop(sender.send(job()));
    if let Err(error) = thread.spawn(move || drop(catch_unwind(AssertUnwindSafe(job)))) {
        tracing::error!(%error, "cannot start a thread for a policy");
        return None;
    }
    receiver.recv_timeout(timeout).ok()
}
