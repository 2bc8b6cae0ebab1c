//! A bounded queue from requests to a collector: senders never wait, and what does not fit is counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::{Exporter, Signal};

/// Maximum number of waiting items.
const CAPACITY: usize = 4096;
/// Maximum number of items per message.
const BATCH: usize = 512;
/// Maximum number of bytes of waiting items.
const MAX_BYTES: usize = 16 << 20;
/// Number of bytes from which a message is not extended: collectors accept 4 MiB.
const BATCH_BYTES: usize = 1 << 20;
/// Time in which items are collected before they are sent.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time for sending what is waiting when the gateway stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The queues of this process.
static QUEUES: Mutex<Vec<(Signal, Weak<Shared>)>> = Mutex::new(Vec::new());

/// Returns the number of items that were dropped, by signal, for the signals that are sent.
pub fn dropped() -> BTreeMap<Signal, u64> {
    by_signal(|queue| queue.dropped.load(Ordering::Relaxed))
}

/// Returns the number of items that wait, by signal, for the signals that are sent.
pub fn waiting() -> BTreeMap<Signal, u64> {
    by_signal(|queue| queue.waiting.load(Ordering::Relaxed) as u64)
}

fn by_signal(value: impl Fn(&Shared) -> u64) -> BTreeMap<Signal, u64> {
    let mut sums = BTreeMap::new();
    for (signal, queue) in &*QUEUES.lock() {
        if let Some(queue) = queue.upgrade() {
            *sums.entry(*signal).or_default() += value(&queue);
        }
    }
    sums
}

/// Hands items to the queue. Cheap to clone.
pub struct Sender<T> {
    items: mpsc::Sender<T>,
    size: fn(&T) -> usize,
    shared: Arc<Shared>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), size: self.size, shared: self.shared.clone() }
    }
}

#[derive(Default)]
struct Shared {
    dropped: AtomicU64,
    waiting: AtomicUsize,
    /// The size of the waiting items.
    bytes: AtomicUsize,
    full: Notify,
}

impl<T> Sender<T> {
    /// Adds an item, or counts it as dropped if the queue is full. Never waits.
    pub fn send(&self, item: T) {
        let (shared, size) = (&self.shared, (self.size)(&item));
        let bytes = shared.bytes.fetch_add(size, Ordering::Relaxed) + size;
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        if bytes > MAX_BYTES || self.items.try_send(item).is_err() {
            shared.bytes.fetch_sub(size, Ordering::Relaxed);
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        // The task is woken only if the interval is too long for the load.
        if bytes >= BATCH_BYTES || self.items.capacity() <= CAPACITY - BATCH {
            self.shared.full.notify_one();
        }
    }

    /// Returns the number of items that were dropped: because the queue was full, or could not be sent.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

/// A queue and the task that empties it.
pub struct Queue<T> {
    sender: Sender<T>,
    stopping: watch::Sender<bool>,
    ended: watch::Receiver<()>,
}

impl<T: Send + 'static> Queue<T> {
    /// Starts the task on the control plane. `pack` makes a message of at most 512 items. Items are of about equal
    /// size.
    pub fn start<M>(
        exporter: Exporter,
        control: &Handle,
        pack: impl Fn(Vec<T>) -> M + Send + Sync + 'static,
    ) -> Self
    where
        M: Message + 'static,
    {
        Self::start_sized(exporter, control, |_| 0, pack)
    }

    /// Starts the task for items whose size varies: it limits what waits to 16 MiB, and messages to about 1 MiB.
    pub fn start_sized<M>(
        exporter: Exporter,
        control: &Handle,
        size: fn(&T) -> usize,
        pack: impl Fn(Vec<T>) -> M + Send + Sync + 'static,
    ) -> Self
    where
        M: Message + 'static,
    {
        let (items, receiver) = mpsc::channel(CAPACITY);
        let shared = Arc::new(Shared::default());
        let mut queues = QUEUES.lock();
        queues.retain(|(_, queue)| queue.strong_count() > 0);
        queues.push((exporter.signal(), Arc::downgrade(&shared)));
        drop(queues);
        let (stopping, stop) = watch::channel(false);
        let (end, ended) = watch::channel(());
        let worker = Worker { exporter, items: receiver, size, shared: shared.clone(), stop, reported: 0 };
        control.spawn(async move {
            worker.run(pack).await;
            drop(end);
        });
        Self { sender: Sender { items, size, shared }, stopping, ended }
    }

    /// Returns a sender.
    pub fn sender(&self) -> Sender<T> {
        self.sender.clone()
    }

    /// Sends what is waiting, for at most a second, and ends the task.
    pub async fn stop(&self) {
        self.stopping.send_replace(true);
        let mut ended = self.ended.clone();
        // An error means that the task has ended.
        let _ = timeout(STOP_TIMEOUT, async { while ended.changed().await.is_ok() {} }).await;
    }
}

struct Worker<T> {
    exporter: Exporter,
    items: mpsc::Receiver<T>,
    size: fn(&T) -> usize,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    reported: u64,
}

impl<T> Worker<T> {
    async fn run<M: Message>(mut self, pack: impl Fn(Vec<T>) -> M) {
        let mut is_failing = false;
        loop {
            let mut stop = self.stop.clone();
            let stopping = stop.wait_for(|stopping| *stopping);
            let first = tokio::select! {
                first = self.items.recv() => first,
                _ = stopping => self.items.try_recv().ok(),
            };
            let Some(first) = first else { return };
            let mut stop = self.stop.clone();
            tokio::select! {
                () = sleep(INTERVAL) => {}
                () = self.shared.full.notified() => {}
                _ = stop.wait_for(|stopping| *stopping) => {}
            }
            let batch = self.batch(first);
            let count = batch.len() as u64;
            let outcome = self.exporter.export(&pack(batch)).await;
            let (signal, endpoint) = (self.exporter.signal().name(), self.exporter.endpoint());
            match outcome {
                Ok(()) if is_failing => {
                    tracing::info!(signal, endpoint, "OTLP: the collector responds again")
                }
                Ok(()) => {}
                Err(error) => {
                    self.shared.dropped.fetch_add(count, Ordering::Relaxed);
                    tracing::error!(signal, endpoint, %error, items = count, "OTLP: cannot send");
                }
            }
            let dropped = self.shared.dropped.load(Ordering::Relaxed);
            is_failing = dropped > self.reported;
            if is_failing {
                tracing::warn!(signal, endpoint, items = dropped - self.reported, "OTLP: items were dropped");
                self.reported = dropped;
            }
        }
    }
    /// Takes what is waiting, up to the limits of a message.
    fn batch(&mut self, first: T) -> Vec<T> {
        let mut bytes = (self.size)(&first);
        let mut batch = vec![first];
        while batch.len() < BATCH
            && bytes < BATCH_BYTES
            && let Ok(item) = self.items.try_recv()
        {
            bytes += (self.size)(&item);
            batch.push(item);
        }
        self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.shared.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        batch
    }
}
