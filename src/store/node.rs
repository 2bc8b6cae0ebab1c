//! One Redis server: its connections and availability.
//!
//! While it is unavailable, commands fail immediately and a task reconnects with backoff, so that no request
//! waits.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::OptionFuture;
use parking_lot::Mutex;
use tidegate_clients::redis::{Cmd, Connection, Value, cmd};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use super::error::NodeError;
use super::pipeline::{Lease, Opened, Pipeline, ServerAddress};

/// First delay between attempts to reconnect, and the maximum: with jitter of up to a quarter, a restored
/// server is used within a second.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_millis(500);
/// Interval of closing connections that were not used, except those to keep.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Interval of lookups of a connected server's name.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(500);

/// A server.
pub(super) struct Node {
    place: Arc<ServerAddress>,
    control: Handle,
    pipelines: Mutex<Vec<Arc<Pipeline>>>,
    /// The error while it is unavailable.
    failing: Mutex<Option<NodeError>>,
    itself: Weak<Self>,
}

impl Node {
    /// Returns a server, without connecting.
    pub(super) fn new(address: ServerAddress, control: Handle) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            place: Arc::new(address),
            control,
            pipelines: Mutex::default(),
            failing: Mutex::default(),
            itself: itself.clone(),
        })
    }

    /// Returns the configured endpoint.
    pub(super) fn endpoint(&self) -> &str {
        self.place.connector.endpoint()
    }

    /// Returns the error while it is unavailable.
    pub(super) fn failing(&self) -> Option<NodeError> {
        self.failing.lock().clone()
    }

    /// Sends a command and returns its reply, unless `deadline` is over before. With `asking`, the server is
    /// importing the key.
    pub(super) async fn send(
        &self,
        command: &Cmd,
        asking: bool,
        deadline: Instant,
    ) -> Result<Result<Value, NodeError>, Elapsed> {
        if let Some(error) = self.failing() {
            return Ok(Err(error));
        }
        let lease = match self.pipeline() {
            Ok(lease) => lease,
            Err(error) => return Ok(Err(error)),
        };
        let answer = lease.send(command, asking, deadline, self.place.options.read_timeout).await?;
        if answer.is_ok() {
            self.place.connector.record(true);
        }
        Ok(answer.map_err(|error| {
            self.remove(&lease.0);
            self.failing().unwrap_or(error)
        }))
    }

    /// Marks it unavailable: commands fail immediately until it has reconnected.
    pub(super) fn fail(&self, error: &NodeError) {
        {
            let mut failing = self.failing.lock();
            if failing.is_some() {
                return;
            }
            *failing = Some(error.clone());
        }
        self.place.connector.record(false);
        // Their replies may never arrive.
        self.pipelines.lock().clear();
        tracing::warn!("Redis at {} is unavailable: {error}", self.endpoint());
        self.control.spawn(reconnect(self.itself.clone(), self.place.clone()));
    }

    /// Returns the least loaded pipeline. If all are busy, opens another one for the next command.
    fn pipeline(&self) -> Result<Lease, NodeError> {
        let mut lines = self.pipelines.lock();
        let options = &self.place.options;
        let best = lines.iter().min_by_key(|line| line.load()).cloned();
        let busy = best.as_ref().is_none_or(|line| line.load().1 > 0);
        let opening = lines.iter().any(|line| line.load().0);
        if busy && (best.is_none() || !opening) && lines.len() < options.pool_size.max(1) {
            lines.push(self.open(None));
        }
        while lines.len() < options.min_idle {
            lines.push(self.open(None));
        }
        // Counts the command before the lock is released, so that the connection does not count as idle.
        Lease::new(best.or_else(|| lines.first().cloned()).unwrap_or_else(|| self.open(None)))
    }

    /// Returns a pipeline with a connection that is open, or opens one.
    fn open(&self, open: Option<Connection>) -> Arc<Pipeline> {
        Pipeline::new(|pipeline, opened| {
            let (node, place) = (self.itself.clone(), self.place.clone());
            let task = async move {
                let connection = match open {
                    Some(connection) => Ok(connection),
                    None => place.open().await,
                };
                match connection {
                    Ok(connection) => run(&node, &pipeline, connection, opened).await,
                    Err(error) => {
                        if let Some(node) = node.upgrade() {
                            node.fail(&error);
                        }
                        // Only this task sets it.
                        let _ = opened.set(None);
                    }
                }
            };
            self.control.spawn(task).abort_handle()
        })
    }

    /// Opens a new connection for further commands if a sentinel names the server, which may be another one by
    /// now. Returns false if there is no sentinel.
    pub(super) fn find_again(&self) -> bool {
        if self.place.sentinel.is_some() {
            self.pipelines.lock().clear();
        }
        self.place.sentinel.is_some()
    }

    /// Stops using a pipeline for further commands.
    fn remove(&self, pipeline: &Arc<Pipeline>) {
        self.pipelines.lock().retain(|line| !Arc::ptr_eq(line, pipeline));
    }

    /// Removes a pipeline if it is idle and not one of the connections to keep. Returns true if it did.
    fn remove_idle(&self, pipeline: &Arc<Pipeline>) -> bool {
        let mut lines = self.pipelines.lock();
        let idle = pipeline.is_idle() && lines.len() > self.place.options.min_idle;
        if idle {
            lines.retain(|line| !Arc::ptr_eq(line, pipeline));
        }
        idle
    }
}

/// Runs a connection until it fails, until all of its users have dropped it, or, if it is idle, until it may
/// be closed. If the server's name has another address, no further commands use it.
async fn run(node: &Weak<Node>, pipeline: &Weak<Pipeline>, connection: Connection, opened: Opened) {
    let (commands, mut driver, peer) = connection.into_parts();
    // Only this task sets it.
    let _ = opened.set(Some(commands));
    drop(opened);
    let mut moved = OptionFuture::from(peer.as_ref().map(|peer| Box::pin(peer.lost(CONFIRM_INTERVAL))));
    let known = || node.upgrade().zip(pipeline.upgrade());
    loop {
        tokio::select! {
            () = &mut driver => break,
            // Those that are waiting are completed; others open a connection to the new address.
            Some(()) = &mut moved => {
                if let Some((node, pipeline)) = known() {
                    node.remove(&pipeline);
                }
                return driver.await;
            }
            () = tokio::time::sleep(IDLE_TIMEOUT) => {
                if known().is_none_or(|(node, pipeline)| node.remove_idle(&pipeline)) {
                    return;
                }
            }
        }
    }
    if let Some((node, pipeline)) = known() {
        node.remove(&pipeline);
    }
}

/// Reconnects to a server until it is available or no longer needed.
async fn reconnect(node: Weak<Node>, place: Arc<ServerAddress>) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() * 0.5)).await;
        let outcome = async {
            let mut connection = place.open().await?;
            let limit = place.options.read_timeout;
            let ping = cmd("PING");
            let answer = tokio::time::timeout(limit, connection.query::<()>(&ping)).await;
            answer.map_err(|_| NodeError::ReadTimedOut(limit))??;
            Ok::<_, NodeError>(connection)
        };
        let outcome = outcome.await;
        let Some(node) = node.upgrade() else { return };
        match outcome {
            Ok(connection) => {
                let line = node.open(Some(connection));
                node.pipelines.lock().push(line);
                *node.failing.lock() = None;
                tracing::info!("Redis at {} is available again", node.endpoint());
                return;
            }
            Err(error) => *node.failing.lock() = Some(error),
        }
        pause = (pause * 2).clamp(FIRST_DELAY, MAX_DELAY);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_clients::redis::{MAX_QUEUE, connector};
    use tidegate_core::store::StoreOptions;
    use tidegate_core::values::Secret;

    use super::*;

    fn node(min_idle: usize) -> Arc<Node> {
        let time = Duration::from_secs(20);
        let options = StoreOptions {
            endpoints: Vec::new(),
            tls: None,
            username: Secret::default(),
            password: Secret::default(),
            db: 0,
            pool_size: 2,
            min_idle,
            read_timeout: time,
            write_timeout: time,
            dial_timeout: time,
            sentinel: None,
        };
        let connector = connector("endpoints", "127.0.0.1:1", None).expect("a valid endpoint");
        let address = ServerAddress { connector, options: Arc::new(options), sentinel: None };
        Node::new(address, Handle::current())
    }

    #[tokio::test]
    async fn connections_are_closed_if_unused_except_those_to_keep() {
        for (min_idle, closes) in [(0, true), (1, false)] {
            let node = node(min_idle);
            let lease = node.pipeline().expect("a pipeline");
            let pipeline = node.pipelines.lock()[0].clone();
            assert!(!node.remove_idle(&pipeline), "it has just been used");
            assert!(!node.remove_idle(&pipeline), "a command is waiting");
            drop(lease);
            assert_eq!(node.remove_idle(&pipeline), closes);
            assert_eq!(node.pipelines.lock().is_empty(), closes);
            drop(node.pipeline().expect("a pipeline"));
            let pipeline = node.pipelines.lock()[0].clone();
            assert!(!node.remove_idle(&pipeline), "it was used again");
        }
    }

    #[tokio::test]
    async fn commands_beyond_the_queue_are_refused() {
        let node = node(0);
        node.pipelines.lock().push(node.open(None));
        let pipeline = node.pipelines.lock()[0].clone();
        let leases: Result<Vec<Lease>, _> = (0..MAX_QUEUE).map(|_| Lease::new(pipeline.clone())).collect();
        assert!(leases.is_ok());
        assert!(matches!(Lease::new(pipeline.clone()), Err(NodeError::QueueFull(MAX_QUEUE))));
        drop(leases);
        assert!(Lease::new(pipeline).is_ok());
    }
}
