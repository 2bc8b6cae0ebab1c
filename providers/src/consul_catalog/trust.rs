//! Which lists of services are believed, and what is said about an agent that fails.
//!
//! An agent does not say that a token has lost its rights: it shows nothing, as if there was nothing.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tidegate_clients::consul::{Agent, AgentError, Rights};

use super::model::Names;

/// Names of services that are remembered, as many as can be asked about at once.
const MOST_NAMES: usize = 64;

/// What the lists of services have shown. It outlives the runs of the provider.
#[derive(Default)]
pub(super) struct Trust(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Consul's own service: with the right to see it, a list is never empty.
    consul: bool,
    /// Some services of the last list that was not empty.
    names: Vec<String>,
}

/// An empty list of services that is not believed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the catalog is empty, and {0}: this is taken for an ACL token without rights, and the last known services stay"
)]
pub(super) struct Distrusted(#[source] Doubt);

/// Why an empty list is not believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Doubt {
    /// Consul's own service was in an earlier list.
    #[error("even Consul's own service is missing")]
    ConsulMissing,
    /// The token has no right to read the services of the last list.
    #[error("the ACL token may not read the services that were in it")]
    RightsLost,
    /// The agent does not tell the rights of the token.
    #[error("it is unknown whether it may still be read ({0})")]
    RightsUnknown(#[source] AgentError),
}

impl Trust {
    /// Fails when a list of services is not believed. One that is empty after one that was not is believed when the agent
    /// says that we may still see those that were in it.
    pub(super) async fn check(&self, agent: &Agent, names: &Names) -> Result<(), Distrusted> {
        if !names.is_empty() {
            let mut seen = self.0.lock();
            seen.consul |= names.contains_key("consul");
            seen.names = names.keys().take(MOST_NAMES).cloned().collect();
            return Ok(());
        }
        let (consul, known) = {
            let seen = self.0.lock();
            (seen.consul, seen.names.clone())
        };
        let why = match known.as_slice() {
            [] => return Ok(()),
            _ if consul => Doubt::ConsulMissing,
            known => match agent.rights("service", known).await {
                Ok(Rights::All | Rights::NotChecked) => {
                    self.0.lock().names.clear();
                    return Ok(());
                }
                Ok(Rights::Fewer) => Doubt::RightsLost,
                Err(error) => Doubt::RightsUnknown(error),
            },
        };
        Err(Distrusted(why))
    }
}

/// What can be wrong, each of it for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// The list of services cannot be read, or it can, but is not believed.
    Names,
    Doubt,
    /// The checks in the state of this number.
    Unwell(usize),
    Roots,
    Leaf,
    /// Single services, or the list of all checks.
    Services,
}

/// What was said about a failing agent and is not over yet.
#[derive(Default)]
pub(super) struct Complaints(BTreeSet<Topic>);

impl Complaints {
    /// Notes that something is wrong. True when that is new.
    pub(super) fn begin(&mut self, topic: Topic) -> bool {
        self.0.insert(topic)
    }

    /// Notes that something is well. True when it was not.
    pub(super) fn end(&mut self, topic: Topic) -> bool {
        self.0.remove(&topic)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
