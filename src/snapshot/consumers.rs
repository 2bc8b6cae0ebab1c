//! The directory of consumers of a configuration.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_config::consumer::ReadFile;
use tidegate_config::plan::Plan;
use tidegate_config::{Config, Kind, ObjectRef, Origins};
use tidegate_core::consumers::{Conflict, Entry};
use tidegate_core::plan::Limits;
use tidegate_core::{BuildError, BuildErrors, Consumers, ConsumersHandle, RequestCounters};
use tidegate_middlewares::rate_limit::policies::{LimitStates, PlanLimits};

use super::Environment;
use super::diagnostics::Diagnostics;
use super::files::{self, Content};
use crate::observability::AuditLog;

/// A consumer in a directory, and what is wrong with it.
#[derive(Clone)]
struct Listed {
    entry: Arc<Entry>,
    error: Option<BuildError>,
    /// The files that it was read with.
    files: Vec<(String, Content)>,
}

impl Listed {
    /// Lists a consumer, whose secrets may be in files.
    fn new(
        files: &files::Draft,
        entry: impl FnOnce(&ReadFile<'_>) -> (Entry, Result<(), BuildError>),
    ) -> Self {
        let read = RefCell::new(Vec::new());
        let (entry, checked) = entry(&|path| {
            let content = files.content(path);
            read.borrow_mut().push((path.to_owned(), content.clone()));
            content.map(|bytes| bytes.to_vec()).map_err(|error| BuildError::new(error.to_string()))
        });
        Self { entry: Arc::new(entry), error: checked.err(), files: read.into_inner() }
    }
}

/// A directory, and what the next one can reuse.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) consumers: Arc<Consumers>,
    entries: BTreeMap<String, Listed>,
    plans: Plans,
    conflicts: Vec<Conflict>,
}

impl Directory {
    /// Lists the consumers of a configuration. Entries of unchanged consumers are those of the previous
    /// directory, and if all are, so is the directory.
    pub(super) fn new(
        config: &Config,
        previous: Option<(&Config, &Self)>,
        files: &files::Draft,
        counters: impl Fn(&str) -> Option<Arc<RequestCounters>>,
    ) -> Self {
        let plans = Plans::new(config, previous.map(|(before, directory)| (before, &directory.plans)));
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
            let is_current =
                |listed: &&Listed| listed.files.iter().all(|(path, content)| files.content(path) == *content);
            let entry = same.and(before).filter(is_current).cloned().unwrap_or_else(|| {
                changed = true;
                let before = before.map(|listed| &*listed.entry);
                let plan = plan.map(|plan| (&**plan, plans.limits(&plan_name)));
                Listed::new(files, |file| options.entry(name, plan, before, file))
            });
            if let Some(counters) = counters(name) {
                entry.entry.consumer.counters.set(counters);
            }
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
                let all: Vec<Arc<Entry>> = entries.values().map(|listed| listed.entry.clone()).collect();
                let (consumers, conflicts) = Consumers::new(&all);
                Self { consumers: Arc::new(consumers), entries, plans, conflicts }
            }
        }
    }

    /// Returns the limits of plans, by plan.
    pub(super) fn limits(&self) -> impl Iterator<Item = (&String, &Arc<PlanLimits>)> {
        self.plans.0.iter().filter_map(|(name, plan)| Some((name, plan.limits.as_ref().ok()?.as_ref()?)))
    }

    /// Returns the change that makes it the current directory.
    pub(super) fn publication(&self, environment: &Environment) -> Publication {
        Publication {
            handle: environment.consumers.clone(),
            next: self.consumers.clone(),
            audit: environment.audit.clone(),
        }
    }

    /// Reports consumers with mistakes, and credentials that several consumers have.
    pub(super) fn report(&self, origins: &Origins, diagnostics: &mut Diagnostics) {
        for (name, plan) in &self.plans.0 {
            if let Err(error) = &plan.limits {
                diagnostics.note_error(Kind::Plan, name, error);
            }
        }
        for (name, listed) in &self.entries {
            if let Some(error) = &listed.error {
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
                    "{}: {credential} is also that of consumer `{}`{}: requests with it get 503",
                    one.1,
                    two.0,
                    place.unwrap_or_default(),
                );
                diagnostics.note_warnings(Kind::Consumer, &one.0, &[message]);
            }
        }
    }
}

/// The plans of a configuration.
#[derive(Default)]
struct Plans(BTreeMap<String, CompiledPlan>);

/// A plan, as consumers have it.
struct CompiledPlan {
    limits: Result<Option<Arc<PlanLimits>>, BuildError>,
    /// The buckets of its limits, which it keeps while it has mistakes.
    states: LimitStates,
}

impl Plans {
    /// Compiles all plans. Unchanged ones are those of the previous configuration, and changed ones keep their buckets.
    fn new(config: &Config, previous: Option<(&Config, &Self)>) -> Self {
        let compile = |(name, plan): (&String, &Arc<Plan>)| {
            let before = previous.and_then(|(_, plans)| plans.0.get(name));
            let is_unchanged =
                previous.is_some_and(|(before, _)| is_same(before.http.plans.get(name), Some(plan)));
            let states = before.map(|before| before.states.clone()).unwrap_or_default();
            let limits = match before.filter(|_| is_unchanged) {
                Some(before) => before.limits.clone(),
                None => BuildErrors::both(plan.check(), PlanLimits::compile(name, &plan.limits, &states))
                    .map(|((), limits)| limits),
            };
            let states = match &limits {
                Ok(limits) => limits.as_ref().map(|limits| limits.states().clone()).unwrap_or_default(),
                Err(_) => states,
            };
            (name.clone(), CompiledPlan { limits, states })
        };
        Self(config.http.plans.iter().map(compile).collect())
    }

    /// Returns a plan, if it is defined and has no mistake.
    fn usable<'c>(&self, config: &'c Config, name: &str) -> Option<&'c Arc<Plan>> {
        config.http.plans.get(name).filter(|_| self.0.get(name).is_some_and(|plan| plan.limits.is_ok()))
    }

    /// Returns the limits of a plan without mistakes.
    fn limits(&self, name: &str) -> Option<Limits> {
        self.0.get(name)?.limits.as_ref().ok()?.as_ref().map(PlanLimits::of_consumer)
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
