//! One Redis server: its connections and availability.
//!
//! While it is unavailable, commands fail immediately and a task reconnects with backoff, so that no request
//! waits.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_clients::connect::Connector;
use tidegate_clients::redis::Reply;
use tidegate_core::store::StoreOptions;
use tokio::runtime::Handle;

use super::error::NodeError;
use super::pipeline::{Pipeline, ServerAddress, run};

/// First delay between attempts to reconnect, and the maximum: with jitter of up to a quarter, a restored
/// server is used within a second.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_millis(500);

/// A server.
pub(super) struct Node {
    place: Arc<ServerAddress>,
    control: Handle,
    pipelines: Mutex<Vec<Pipeline>>,
    /// The error while it is unavailable.
    failing: Mutex<Option<NodeError>>,
    itself: Weak<Self>,
}

impl Node {
    /// Returns a server, without connecting.
    pub(super) fn new(connector: Connector, options: Arc<StoreOptions>, control: Handle) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            place: Arc::new(ServerAddress { connector, options }),
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

    /// Sends one or more commands and returns the reply to the last one.
    pub(super) async fn send(&self, command: Bytes, commands: usize) -> Result<Reply, NodeError> {
        if let Some(error) = self.failing() {
            return Err(error);
        }
        let answered = self.pipeline().send(command, commands)?;
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(self.failing().unwrap_or(NodeError::Closed)),
        }
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
        // Their replies may never arrive.
        self.pipelines.lock().clear();
        tracing::warn!("Redis at {} is unavailable: {error}", self.endpoint());
        self.control.spawn(reconnect(self.itself.clone(), self.place.clone()));
    }

    /// Returns the least loaded pipeline. If all are busy, opens another one for the next command.
    fn pipeline(&self) -> Pipeline {
        let mut lines = self.pipelines.lock();
        lines.retain(|line| !line.has_ended());
        let options = &self.place.options;
        let best = lines.iter().min_by_key(|line| line.load()).cloned();
        let busy = best.as_ref().is_none_or(|line| line.load().1 > 0);
        let opening = lines.iter().any(|line| line.load().0);
        if busy && (best.is_none() || !opening) && lines.len() < options.pool_size.max(1) {
            lines.push(self.open());
        }
        while lines.len() < options.min_idle {
            lines.push(self.open());
        }
        match best.or_else(|| lines.first().cloned()) {
            Some(line) => line,
            None => self.open(),
        }
    }

    fn open(&self) -> Pipeline {
        let (line, end) = Pipeline::new();
        let (itself, place) = (self.itself.clone(), self.place.clone());
        self.control.spawn(async move {
            match place.open().await {
                Ok(connection) => run(&place, connection, end, || may_end(&itself)).await,
                Err(error) => {
                    if let Some(node) = itself.upgrade() {
                        node.fail(&error);
                    }
                }
            }
        });
        line
    }
}

/// Returns true if there are more connections than to keep idle.
fn may_end(node: &Weak<Node>) -> bool {
    node.upgrade().is_none_or(|node| {
        let mut lines = node.pipelines.lock();
        lines.retain(|line| !line.has_ended());
        lines.len() > node.place.options.min_idle
    })
}

/// Reconnects to a server until it is available or no longer needed.
async fn reconnect(node: Weak<Node>, place: Arc<ServerAddress>) {
    let mut pause = Duration::ZERO;
    loop {
        tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() * 0.5)).await;
        let outcome = async {
            let mut connection = place.open().await?;
            let most = place.options.read_timeout;
            let answer = tokio::time::timeout(most, connection.command(&["PING"])).await;
            answer.map_err(|_| NodeError::ReadTimedOut(most))??;
            Ok::<_, NodeError>(connection)
        };
        let outcome = outcome.await;
        let Some(node) = node.upgrade() else { return };
        match outcome {
            Ok(connection) => {
                let (line, end) = Pipeline::new();
                let (itself, place) = (node.itself.clone(), place.clone());
                node.control.spawn(async move { run(&place, connection, end, || may_end(&itself)).await });
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
