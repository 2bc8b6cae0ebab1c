//! A bounded queue from requests to a collector: senders never wait, and what does not fit is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prost::Message;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::Exporter;

/// Maximum number of waiting items.
const CAPACITY: usize = 4096;
/// Maximum number of items per message.
const BATCH: usize = 512;
/// Time in which items are collected before they are sent.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time for sending what is waiting when the gateway stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Hands items to the queue. Cheap to clone.
pub struct Sender<T> {
    items: mpsc::Sender<T>,
    shared: Arc<Shared>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), shared: self.shared.clone() }
    }
}

#[derive(Default)]
struct Shared {
    dropped: AtomicU64,
    full: Notify,
}

impl<T> Sender<T> {
    /// Adds an item, or counts it as dropped if the queue is full. Never waits.
    pub fn send(&self, item: T) {
        if self.items.try_send(item).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        // The task is woken only if the interval is too long for the load.
        if self.items.capacity() <= CAPACITY - BATCH {
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
    /// Starts the task on the control plane. `pack` makes a message of at most 512 items.
    pub fn start<M>(
        exporter: Exporter,
        control: &Handle,
        pack: impl Fn(Vec<T>) -> M + Send + Sync + 'static,
    ) -> Self
    where
        M: Message + 'static,
    {
        let (items, receiver) = mpsc::channel(CAPACITY);
        let shared = Arc::new(Shared::default());
        let (stopping, stop) = watch::channel(false);
        let (end, ended) = watch::channel(());
        let worker = Worker { exporter, items: receiver, shared: shared.clone(), stop, reported: 0 };
        control.spawn(async move {
            worker.run(pack).await;
            drop(end);
        });
        Self { sender: Sender { items, shared }, stopping, ended }
    }

    /// Returns a sender.
    pub fn sender(&self) -> Sender<T> {
        self.sender.clone()
    }

    /// Sends what is waiting, for at most five seconds, and ends the task.
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
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Ok(item) = self.items.try_recv()
            {
                batch.push(item);
            }
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
}
