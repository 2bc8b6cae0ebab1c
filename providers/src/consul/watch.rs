//! Follows the keys below one root.
//!
//! If gateways also write below the root, only the sections of the configuration are followed: a query for
//! the whole root would return on every write.

use std::sync::Arc;
use std::time::Duration;

use tidegate_clients::consul::{Agent, AgentError, Answer, Query, pause_after};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Pair;
use crate::own_keys::{OwnKeys, SECTIONS};

/// Interval of checks for keys outside of the sections, if sections are followed.
const STRAY_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Query for all keys below a path with their values.
const ALL: &str = "recurse";
const NAMES: &str = "keys&separator=/";

/// The keys below the root with this index.
pub(super) type News = (usize, Result<Answer<Vec<Pair>>, AgentError>);

/// A root to follow.
pub(super) struct Root {
    pub(super) agent: Arc<Agent>,
    pub(super) number: usize,
    /// As configured, without a trailing slash.
    pub(super) key: String,
    /// Its path at the agent, with a trailing slash.
    pub(super) path: String,
    pub(super) news: mpsc::Sender<News>,
}

impl Root {
    /// Sends the keys initially and after each change, until the receiver is dropped.
    pub(super) async fn follow(self, own_keys: Arc<OwnKeys>) {
        if own_keys.meets(&self.key) {
            return self.follow_sections(&own_keys).await;
        }
        let mut query = Query::new(self.path.clone(), ALL);
        loop {
            let answer = query.next::<Vec<Pair>>(&self.agent).await;
            if !self.send(answer).await {
                return;
            }
        }
    }

    async fn follow_sections(self, own_keys: &OwnKeys) {
        let (wake, mut woken) = mpsc::channel(SECTIONS.len());
        let mut tasks = JoinSet::new();
        for section in SECTIONS {
            tasks.spawn(watch(self.agent.clone(), format!("{}{section}/", self.path), wake.clone()));
        }
        drop(wake);
        // Start the followers before reading, so that no change is missed.
        for _ in SECTIONS {
            if !self.report_failure(woken.recv().await).await {
                return;
            }
        }
        loop {
            let answer = self.agent.ask::<Vec<Pair>>(&self.path, ALL).await;
            let pairs = answer.as_ref().ok().and_then(|answer| answer.value.as_deref()).unwrap_or_default();
            let has_strays = pairs.iter().any(|pair| self.is_stray(&pair.key, own_keys));
            let rest = pause_after(answer.as_ref().map_or(0, |answer| answer.size));
            if !self.send(answer).await {
                return;
            }
            sleep(rest).await;
            loop {
                tokio::select! {
                    result = woken.recv() => match self.report_failure(result).await {
                        true => break,
                        false => return,
                    },
                    () = sleep(STRAY_CHECK_INTERVAL) => match self.has_strays(own_keys).await {
                        Ok(found) if found || has_strays => break,
                        Ok(_) => {}
                        Err(error) => {
                            self.send(Err(error)).await;
                            return;
                        }
                    }
                }
            }
            while let Ok(result) = woken.try_recv() {
                if !self.report_failure(Some(result)).await {
                    return;
                }
            }
        }
    }

    /// Returns true if there are keys outside of the sections that were not written by a gateway.
    async fn has_strays(&self, own_keys: &OwnKeys) -> Result<bool, AgentError> {
        let names = self.agent.ask::<Vec<String>>(&self.path, NAMES).await?.value.unwrap_or_default();
        let is_stray = |name: &String| self.is_stray(name, own_keys) && !own_keys.leads_to(name);
        Ok(names.iter().any(is_stray))
    }

    fn is_stray(&self, key: &str, own_keys: &OwnKeys) -> bool {
        let rest = key.strip_prefix(&*self.key).and_then(|rest| rest.strip_prefix('/')).unwrap_or_default();
        let section = rest.split_once('/').map(|(section, _)| section);
        !rest.is_empty() && !section.is_some_and(|s| SECTIONS.contains(&s)) && !own_keys.contains(key, rest)
    }

    /// Reports a failure of a follower. Returns false if there is nothing left to follow.
    async fn report_failure(&self, result: Option<Result<(), AgentError>>) -> bool {
        match result {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                self.send(Err(error)).await;
                false
            }
            None => false,
        }
    }

    async fn send(&self, answer: Result<Answer<Vec<Pair>>, AgentError>) -> bool {
        self.news.send((self.number, answer)).await.is_ok()
    }
}

/// Sends a message once the path is followed, and after each change below it.
async fn watch(agent: Arc<Agent>, path: String, wake: mpsc::Sender<Result<(), AgentError>>) {
    let mut query = Query::new(path, NAMES);
    let mut known: Option<bool> = None;
    loop {
        let result = match query.next::<Vec<String>>(&agent).await {
            Ok(answer) => {
                let filled = answer.value.is_some_and(|names| !names.is_empty());
                // Queries for missing keys also return on unrelated writes.
                if known.replace(filled) == Some(false) && !filled {
                    continue;
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        if wake.send(result).await.is_err() {
            return;
        }
    }
}
