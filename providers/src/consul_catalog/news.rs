//! News from the blocking queries to the agent.

use std::sync::Arc;

use tidegate_clients::consul::{Agent, AgentError, Query};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::connect::{Leaf, Roots};
use super::model::{Digests, Names};
use super::trust::Topic;

/// A response to a blocking query.
pub(super) enum News {
    /// The services, and the index of the response.
    Names(Names, u64),
    /// The checks in the state with this index.
    Unwell(usize, Digests),
    Roots(Roots),
    Leaf(Leaf),
    Failed(Topic, AgentError),
}

/// The running blocking queries.
pub(super) struct Watch {
    pub(super) news: mpsc::Receiver<News>,
    /// Aborted on drop.
    pub(super) _tasks: JoinSet<()>,
}

/// Sends each response to a query, until the receiver is dropped.
pub(super) async fn send_responses<T: serde::de::DeserializeOwned + Default>(
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
