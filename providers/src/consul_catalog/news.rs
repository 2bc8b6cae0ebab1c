//! What the queries that wait at the agent tell.

use std::sync::Arc;

use tidegate_clients::consul::{Agent, AgentError, Query};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connect::{Leaf, Roots};
use super::model::{Digests, Names};
use super::trust::Topic;

/// What the watchers tell.
pub(super) enum News {
    /// The services, and the index of the answer.
    Names(Names, u64),
    /// The checks in the state of this number.
    Unwell(usize, Digests),
    Roots(Roots),
    Leaf(Leaf),
    Failed(Topic, AgentError),
}

/// The queries that wait at the agent.
pub(super) struct Watch {
    pub(super) news: mpsc::Receiver<News>,
    /// They end when this is dropped.
    pub(super) _tasks: JoinSet<()>,
}

/// Tells each answer of a query, until nobody listens.
pub(super) async fn tell<T: serde::de::DeserializeOwned + Default>(
    agent: Arc<Agent>,
    mut query: Query,
    news: mpsc::Sender<News>,
    topic: Topic,
    kind: fn(T, u64) -> News,
) {
    loop {
        let told = match query.next::<T>(&agent).await {
            Ok(answer) => kind(answer.value.unwrap_or_default(), answer.index),
            Err(error) => News::Failed(topic, error),
        };
        if news.send(told).await.is_err() {
            return;
        }
    }
}
