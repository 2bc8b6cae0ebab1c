//! One Redis server: its connections, and whether it answers.
//!
//! While it does not, commands fail at once, and one task tries again, ever more slowly: no request waits for that.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_clients::connect::Connector;
use tidegate_clients::redis::Reply;
use tidegate_core::store::StoreOptions;
use tokio::runtime::Handle;

use super::error::NodeError;
use super::pipeline::{Pipeline, Place, carry};

/// The first pause between two attempts to reach a server that does not answer, and the longest: with a quarter more, it
/// is used within a second after it is back.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A server.
pub(super) struct Node {
    place: Arc<Place>,
    control: Handle,
    pipelines: Mutex<Vec<Pipeline>>,
    /// Why it does not answer, while it does not.
    failing: Mutex<Option<NodeError>>,
    itself: Weak<Self>,
}

impl Node {
    /// A server. Nothing is connected yet.
    pub(super) fn new(connector: Connector, options: Arc<StoreOptions>, control: Handle) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            place: Arc::new(Place { connector, options }),
            control,
            pipelines: Mutex::default(),
            failing: Mutex::default(),
            itself: itself.clone(),
        })
    }

    /// Where it is, as it was written.
    pub(super) fn endpoint(&self) -> &str {
        self.place.connector.endpoint()
    }

    /// Why it does not answer, while it does not.
    pub(super) fn failing(&self) -> Option<NodeError> {
        self.failing.lock().clone()
    }

    /// Sends a command (or several, of which the last one's answer counts).
    pub(super) async fn ask(&self, command: Bytes, commands: usize) -> Result<Reply, NodeError> {
        if let Some(error) = self.failing() {
            return Err(error);
        }
        let answered = self.pipeline().send(command, commands)?;
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(self.failing().unwrap_or(NodeError::Closed)),
        }
    }

    /// Notes that it does not answer. From now on commands fail at once, until it does.
    pub(super) fn fail(&self, error: &NodeError) {
        {
            let mut failing = self.failing.lock();
            if failing.is_some() {
                return;
            }
            *failing = Some(error.clone());
        }
        // Their answers may never come.
        self.pipelines.lock().clear();
        tracing::warn!("Redis at {} does not answer: {error}", self.endpoint());
        self.control.spawn(revive(self.itself.clone(), self.place.clone()));
    }

    /// The line that has least to do. When all are busy another one is opened for the next.
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
                Ok(connection) => carry(&place, connection, end, || may_end(&itself)).await,
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

/// True when there are more connections than are to stay.
fn may_end(node: &Weak<Node>) -> bool {
    node.upgrade().is_none_or(|node| {
        let mut lines = node.pipelines.lock();
        lines.retain(|line| !line.has_ended());
        lines.len() > node.place.options.min_idle
    })
}

/// Tries to reach a server again and again, until it answers or is not needed any more.
async fn revive(node: Weak<Node>, place: Arc<Place>) {
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
                node.control.spawn(async move { carry(&place, connection, end, || may_end(&itself)).await });
                node.pipelines.lock().push(line);
                *node.failing.lock() = None;
                tracing::info!("Redis at {} answers again", node.endpoint());
                return;
            }
            Err(error) => *node.failing.lock() = Some(error),
        }
        pause = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }
}
