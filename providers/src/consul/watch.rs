//! Follows the keys below one root.
//!
//! Where gateways keep things of their own below it, only the sections of the configuration are followed: a query for
//! the whole root would answer whenever a gateway writes.

use std::sync::Arc;
use std::time::Duration;

use tidegate_clients::consul::{Agent, AgentError, Answer, Query, pause_after};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Pair;
use crate::own_keys::{OwnKeys, SECTIONS};

/// How often a root whose sections are followed is looked at for keys in none of them.
const LOOK: Duration = Duration::from_secs(60);
/// All keys below a path, with their values, or the names in it alone.
const ALL: &str = "recurse";
const NAMES: &str = "keys&separator=/";

/// The keys below the root of this number.
pub(super) type News = (usize, Result<Answer<Vec<Pair>>, AgentError>);

/// A root to be followed.
pub(super) struct Root {
    pub(super) agent: Arc<Agent>,
    pub(super) number: usize,
    /// As it is written, without a slash at the end.
    pub(super) key: String,
    /// Its path at the agent, with a slash at the end.
    pub(super) path: String,
    pub(super) news: mpsc::Sender<News>,
}

impl Root {
    /// Sends what there is at first, and again after each change, until nobody listens.
    pub(super) async fn follow(self, own_keys: Arc<OwnKeys>) {
        if own_keys.meets(&self.key) {
            return self.follow_sections(&own_keys).await;
        }
        let mut query = Query::new(self.path.clone(), ALL);
        loop {
            let answer = query.next::<Vec<Pair>>(&self.agent).await;
            if !self.tell(answer).await {
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
        // They follow before anything is read, so that no change falls between.
        for _ in SECTIONS {
            if !self.is_well(woken.recv().await).await {
                return;
            }
        }
        loop {
            let answer = self.agent.ask::<Vec<Pair>>(&self.path, ALL).await;
            let pairs = answer.as_ref().ok().and_then(|answer| answer.value.as_deref()).unwrap_or_default();
            let has_strays = pairs.iter().any(|pair| self.is_stray(&pair.key, own_keys));
            let rest = pause_after(answer.as_ref().map_or(0, |answer| answer.size));
            if !self.tell(answer).await {
                return;
            }
            sleep(rest).await;
            loop {
                tokio::select! {
                    told = woken.recv() => match self.is_well(told).await {
                        true => break,
                        false => return,
                    },
                    () = sleep(LOOK) => match self.has_strays(own_keys).await {
                        Ok(found) if found || has_strays => break,
                        Ok(_) => {}
                        Err(error) => {
                            self.tell(Err(error)).await;
                            return;
                        }
                    }
                }
            }
            while let Ok(told) = woken.try_recv() {
                if !self.is_well(Some(told)).await {
                    return;
                }
            }
        }
    }

    /// True when there are keys in none of the sections, written in lower case, and not our own.
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

    /// Passes a failure of a follower on. False when there is nothing more to be followed.
    async fn is_well(&self, told: Option<Result<(), AgentError>>) -> bool {
        match told {
            Some(Ok(())) => true,
            Some(Err(error)) => {
                self.tell(Err(error)).await;
                false
            }
            None => false,
        }
    }

    async fn tell(&self, answer: Result<Answer<Vec<Pair>>, AgentError>) -> bool {
        self.news.send((self.number, answer)).await.is_ok()
    }
}

/// Tells when something below a path has changed, and first that it is followed.
async fn watch(agent: Arc<Agent>, path: String, wake: mpsc::Sender<Result<(), AgentError>>) {
    let mut query = Query::new(path, NAMES);
    let mut known: Option<bool> = None;
    loop {
        let told = match query.next::<Vec<String>>(&agent).await {
            Ok(answer) => {
                let filled = answer.value.is_some_and(|names| !names.is_empty());
                // Queries for what is not there also answer when something else is written.
                if known.replace(filled) == Some(false) && !filled {
                    continue;
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        if wake.send(told).await.is_err() {
            return;
        }
    }
}
