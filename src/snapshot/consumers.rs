//! The directory of consumers of a configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_config::plan::Plan;
use tidegate_config::{Config, Kind, ObjectRef, Origins};
use tidegate_core::consumers::{Conflict, Entry};
use tidegate_core::{BuildError, Consumers, ConsumersHandle};

use super::Environment;
use super::diagnostics::Diagnostics;
use crate::observability::AuditLog;

/// A directory, and what the next one can reuse.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) consumers: Arc<Consumers>,
    entries: BTreeMap<String, Result<Arc<Entry>, BuildError>>,
    plans: Plans,
    conflicts: Vec<Conflict>,
}

impl Directory {
    /// Lists the consumers of a configuration. Entries of unchanged consumers are those of the previous
    /// directory, and if all are, so is the directory.
    pub(super) fn new(config: &Config, previous: Option<(&Config, &Self)>) -> Self {
        let plans = Plans::new(config);
        let mut changed =
            previous.is_none_or(|(_, before)| before.entries.len() != config.http.consumers.len());
        let mut entries = BTreeMap::new();
        for (name, options) in &config.http.consumers {
            let before = previous.and_then(|(_, directory)| directory.entries.get(name));
            let plan_name = options.plan_name(name);
            let plan = plans.usable(config, &plan_name);
            let same = previous.filter(|(before, directory)| {
                is_same(before.http.consumers.get(name), Some(options))
                    && is_same(directory.plans.usable(before, &plan_name), plan)
            });
            let entry = same.and(before).cloned().unwrap_or_else(|| {
                changed = true;
                let before = before.and_then(|entry| entry.as_ref().ok());
                let (plan, before) = (plan.map(|plan| &**plan), before.map(|entry| &**entry));
                options.entry(name, plan, before).map(Arc::new)
            });
            entries.insert(name.clone(), entry);
        }
        match previous {
            Some((_, before)) if !changed => Self {
                consumers: before.consumers.clone(),
                entries,
                plans,
                conflicts: before.conflicts.clone(),
            },
            _ => {
                let sound: Vec<Arc<Entry>> = entries.values().flatten().cloned().collect();
                let (consumers, conflicts) = Consumers::new(&sound);
                Self { consumers: Arc::new(consumers), entries, plans, conflicts }
            }
        }
    }

    /// Returns the change that makes it the current directory.
    pub(super) fn publication(&self, environment: &Environment) -> Publication {
        Publication {
            handle: environment.consumers.clone(),
            next: self.consumers.clone(),
            audit: environment.audit.clone(),
        }
    }

    /// Reports consumers with mistakes, and credentials that identify no one because several consumers have
    /// them.
    pub(super) fn report(&self, origins: &Origins, diagnostics: &mut Diagnostics) {
        for (name, error) in &self.plans.0 {
            diagnostics.note_error(Kind::Plan, name, error);
        }
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

/// The plans with mistakes.
#[derive(Default)]
struct Plans(BTreeMap<String, BuildError>);

impl Plans {
    fn new(config: &Config) -> Self {
        let wrong =
            config.http.plans.iter().filter_map(|(name, plan)| Some((name.clone(), plan.check().err()?)));
        Self(wrong.collect())
    }

    /// Returns a plan, if it is defined and has no mistake.
    fn usable<'c>(&self, config: &'c Config, name: &str) -> Option<&'c Arc<Plan>> {
        config.http.plans.get(name).filter(|_| !self.0.contains_key(name))
    }
}

fn is_same<T: PartialEq>(before: Option<&Arc<T>>, now: Option<&Arc<T>>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => Arc::ptr_eq(before, now) || before == now,
        (before, now) => before.is_none() && now.is_none(),
    }
}

/// Makes a directory the current one.
pub(super) struct Publication {
    handle: ConsumersHandle,
    next: Arc<Consumers>,
    audit: Option<Arc<AuditLog>>,
}

impl Publication {
    pub(super) fn apply(self) {
        let before = Arc::clone(&self.handle.load());
        if Arc::ptr_eq(&before, &self.next) {
            return;
        }
        self.handle.store(self.next.clone());
        if let Some(audit) = self.audit {
            audit.keys_changed(&before, &self.next);
        }
    }
}
