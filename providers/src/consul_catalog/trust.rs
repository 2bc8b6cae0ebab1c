//! Decides whether to accept lists of services, and reports problems with the agent.
//!
//! If a token has lost its permissions, the agent does not return an error but an empty list.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tidegate_clients::consul::{Agent, AgentError, Rights};

use super::model::Names;

/// Maximum number of remembered services, which is the limit of one permission query.
const MAX_NAMES: usize = 64;

/// Services seen in earlier lists. Outlives the runs of the provider.
#[derive(Default)]
pub(super) struct Trust(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    /// Whether Consul's own service was seen: with permission to read it, lists are never empty.
    consul: bool,
    /// Some services of the last non-empty list.
    names: Vec<String>,
}

/// An implausible empty list of services.
#[derive(Debug, thiserror::Error)]
#[error(
    "the catalog is empty, and {0}: this is taken for an ACL token without rights, and the last known services stay"
)]
pub(super) struct Distrusted(#[source] Doubt);

/// Why an empty list is implausible.
#[derive(Debug, thiserror::Error)]
pub(super) enum Doubt {
    /// Consul's own service was in an earlier list.
    #[error("even Consul's own service is missing")]
    ConsulMissing,
    /// The token has no permission to read the services of the last list.
    #[error("the ACL token may not read the services that were in it")]
    RightsLost,
    /// The agent does not report the permissions of the token.
    #[error("it is unknown whether it may still be read ({0})")]
    RightsUnknown(#[source] AgentError),
}

impl Trust {
    /// Returns an error if a list of services is implausible. An empty list after a non-empty one is accepted
    /// if the token still has permission to read the services that were in it.
    pub(super) async fn check(&self, agent: &Agent, names: &Names) -> Result<(), Distrusted> {
        if !names.is_empty() {
            let mut seen = self.0.lock();
            seen.consul |= names.contains_key("consul");
            seen.names = names.keys().take(MAX_NAMES).cloned().collect();
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

/// The kinds of problems, which are tracked separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// The list of services cannot be read or is implausible.
    Names,
    Doubt,
    /// The checks in the state with this index.
    Unwell(usize),
    Roots,
    Leaf,
    /// Single services, or the list of all checks.
    Services,
}

/// Problems with the agent that have been reported and not resolved.
#[derive(Default)]
pub(super) struct Complaints(BTreeSet<Topic>);

impl Complaints {
    /// Records a problem. Returns true if it is new.
    pub(super) fn begin(&mut self, topic: Topic) -> bool {
        self.0.insert(topic)
    }

    /// Records that a problem is resolved. Returns true if there was one.
    pub(super) fn end(&mut self, topic: Topic) -> bool {
        self.0.remove(&topic)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
