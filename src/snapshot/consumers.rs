//! The directory of consumers of a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_config::consumer::Consumer;
use tidegate_config::{Config, Kind, ObjectRef, Origins};
use tidegate_core::consumers::{Conflict, Entry};
use tidegate_core::{BuildError, Consumers, ConsumersHandle};

use super::Environment;
use super::diagnostics::Diagnostics;

/// A directory, and what the next one can reuse.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) consumers: Arc<Consumers>,
    entries: BTreeMap<String, Result<Arc<Entry>, BuildError>>,
    conflicts: Vec<Conflict>,
}

impl Directory {
    /// Lists the consumers of a configuration. Entries of unchanged consumers are those of the previous
    /// directory, and if all are, so is the directory.
    pub(super) fn new(config: &Config, previous: Option<(&Config, &Self)>) -> Self {
        let mut changed =
            previous.is_none_or(|(_, before)| before.entries.len() != config.http.consumers.len());
        let mut entries = BTreeMap::new();
        for (name, options) in &config.http.consumers {
            let before = previous.and_then(|(_, directory)| directory.entries.get(name));
            let same = previous.filter(|(before, _)| is_same(before.http.consumers.get(name), options));
            let entry = same.and(before).cloned().unwrap_or_else(|| {
                changed = true;
                let before = before.and_then(|entry| entry.as_ref().ok());
                options.entry(name, before.map(|entry| &**entry)).map(Arc::new)
            });
            entries.insert(name.clone(), entry);
        }
        match previous {
            Some((_, before)) if !changed => {
                Self { consumers: before.consumers.clone(), entries, conflicts: before.conflicts.clone() }
            }
            _ => {
                let sound: Vec<Arc<Entry>> = entries.values().flatten().cloned().collect();
                let (consumers, conflicts) = Consumers::new(&sound);
                Self { consumers: Arc::new(consumers), entries, conflicts }
            }
        }
    }

    /// Returns the change that makes it the current directory.
    pub(super) fn publication(&self, environment: &Environment) -> Publication {
        Publication { handle: environment.consumers.clone(), next: self.consumers.clone() }
    }

    /// Reports consumers with mistakes, and credentials that identify no one because several consumers have
    /// them.
    pub(super) fn report(&self, origins: &Origins, diagnostics: &mut Diagnostics) {
        for (name, entry) in &self.entries {
            if let Err(error) = entry {
                diagnostics.note_error(Kind::Consumer, name, error);
            }
        }
        for Conflict { consumer, other, credential } in &self.conflicts {
            for (one, two) in [(consumer, other), (other, consumer)] {
                let object = ObjectRef { kind: Kind::Consumer, name: two.0.to_string() };
                let origin = origins.get(&object);
                let place =
                    origin.and_then(|origin| origin.option(&two.1)).map(|place| format!(" ({place})"));
                let message = format!(
                    "{}: {credential} is also that of consumer `{}`{}: it identifies no one",
                    one.1,
                    two.0,
                    place.unwrap_or_default(),
                );
                diagnostics.note_warnings(Kind::Consumer, &one.0, &[message]);
            }
        }
    }
}

fn is_same(before: Option<&Arc<Consumer>>, now: &Arc<Consumer>) -> bool {
    before.is_some_and(|before| Arc::ptr_eq(before, now) || before == now)
}

/// Makes a directory the current one.
pub(super) struct Publication {
    handle: ConsumersHandle,
    next: Arc<Consumers>,
}

impl Publication {
    pub(super) fn apply(self) {
        if !Arc::ptr_eq(&self.handle.load(), &self.next) {
            self.handle.store(self.next);
        }
    }
}
