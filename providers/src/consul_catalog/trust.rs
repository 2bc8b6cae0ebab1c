//! Which lists of services are believed, and what is said about an agent that fails.
//!
//! An agent does not say that a token has lost its rights: it shows nothing, as if there was nothing.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::model::Names;
use crate::consul_client::{Agent, Rights};

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

impl Trust {
    /// Says why a list of services is not believed. One that is empty after one that was not is believed when the agent
    /// says that we may still see those that were in it.
    pub(super) async fn check(&self, agent: &Agent, names: &Names) -> Result<(), String> {
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
            _ if consul => "even Consul's own service is missing".to_owned(),
            known => match agent.rights("service", known).await {
                Ok(Rights::All | Rights::NotChecked) => {
                    self.0.lock().names.clear();
                    return Ok(());
                }
                Ok(Rights::Fewer) => "the ACL token must not read the services that were in it".to_owned(),
                Err(failure) => format!("whether we may still read it cannot be told ({})", failure.message),
            },
        };
        Err(format!(
            "the catalog is empty, and {why}: this is taken for an ACL token without rights, and the last known \
             services stay"
        ))
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
