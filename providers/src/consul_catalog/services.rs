//! The services of a catalog, and the configuration that they define.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_config::Provided;

use super::connect::Identity;
use super::derive::Deriver;
use super::model::{Instance, Names};
use crate::workload::{self, Keeper, Member, Said};

/// One service of the catalog.
#[derive(Default)]
struct Known {
    /// The tags of all its instances, sorted.
    tags: Vec<String>,
    instances: Vec<Instance>,
    /// Whether it is reached through Connect.
    connect: bool,
    /// What its usable instances define.
    part: Option<Provided>,
    /// What it would define if its instances were usable, while none is.
    waiting: Option<Provided>,
}

impl Known {
    fn derive(
        &mut self,
        name: &str,
        deriver: &Deriver,
        identity: Option<&Identity>,
        earlier: &Provided,
        keeps: bool,
    ) {
        let identity = identity.filter(|_| self.connect);
        let part = deriver.service(name, &self.instances, identity, earlier);
        let waits = keeps && part.objects().is_empty();
        self.waiting = waits.then(|| deriver.defined(name, &self.instances, identity, earlier));
        self.part = Some(part);
    }
}

/// The services that may be exposed.
pub(super) struct Services {
    deriver: Arc<Deriver>,
    /// Outlives this, so that a restart of the agent ends nothing.
    keeper: Arc<Mutex<Keeper>>,
    all: BTreeMap<Arc<str>, Known>,
    /// Former ones that are still registered, with tags that do not expose them: nothing is kept of these.
    disabled: BTreeSet<Arc<str>>,
}

impl Services {
    pub(super) fn new(deriver: Arc<Deriver>, keeper: Arc<Mutex<Keeper>>) -> Self {
        Self { deriver, keeper, all: BTreeMap::new(), disabled: BTreeSet::new() }
    }

    /// Returns all names.
    pub(super) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.all.keys().cloned()
    }

    /// Returns whether a service is reached through Connect; `None` if it is unknown.
    pub(super) fn connects(&self, name: &str) -> Option<bool> {
        self.all.get(name).map(|known| known.connect)
    }

    /// Takes over the list of services. Returns those that are new or have other tags, and whether any has gone.
    pub(super) fn list(&mut self, mut names: Names) -> (Vec<Arc<str>>, bool) {
        let before = self.all.len();
        let (deriver, disabled) = (&self.deriver, &mut self.disabled);
        disabled.retain(|name| names.contains_key(&**name));
        let all = std::mem::take(&mut self.all);
        names.retain(|name, tags| {
            let wanted = deriver.wants(tags.as_deref().unwrap_or_default());
            if wanted {
                disabled.remove(name.as_str());
            } else if all.contains_key(name.as_str()) {
                disabled.insert(name.as_str().into());
            }
            wanted
        });
        self.all = all;
        self.all.retain(|name, _| names.contains_key(&**name));
        let has_lost = self.all.len() != before;
        let mut changed = Vec::new();
        for (name, tags) in names {
            let (name, mut tags): (Arc<str>, _) = (name.into(), tags.unwrap_or_default());
            tags.sort_unstable();
            let new = !self.all.contains_key(&name);
            let known = self.all.entry(name.clone()).or_default();
            if new || known.tags != tags {
                known.connect = self.deriver.connects(&tags);
                known.tags = tags;
                changed.push(name);
            }
        }
        (changed, has_lost)
    }

    /// Marks the services with these names, and those with instances on these nodes.
    pub(super) fn mark(
        &self,
        urgent: &mut BTreeSet<Arc<str>>,
        services: &HashSet<&str>,
        nodes: &HashSet<&str>,
    ) {
        for (name, known) in &self.all {
            // The checks of a Connect proxy have the name of the proxy.
            let registered = || known.instances.iter().any(|one| services.contains(one.registered.as_str()));
            let on_node = || known.instances.iter().any(|one| nodes.contains(one.node.as_str()));
            if services.contains(&**name)
                || (known.connect && registered())
                || (!nodes.is_empty() && on_node())
            {
                urgent.insert(name.clone());
            }
        }
    }

    /// Returns true if a Connect service that had instances has none among these.
    pub(super) fn has_lost_proxies(&self, name: &str, instances: &[Instance]) -> bool {
        let known = self.all.get(name);
        instances.is_empty() && known.is_some_and(|known| known.connect && !known.instances.is_empty())
    }

    /// Takes over the instances of a service. `sees_checks` is true if the agent lists any checks. Returns true if
    /// anything has changed.
    pub(super) fn update(
        &mut self,
        name: &str,
        mut instances: Vec<Instance>,
        identity: Option<&Identity>,
        earlier: &Provided,
        sees_checks: bool,
    ) -> bool {
        instances.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
        let Some(known) = self.all.get_mut(name) else { return false };
        if instances.is_empty() && !known.instances.is_empty() && !(known.connect && sees_checks) {
            // The list of names still has it, so either it is about to be removed, or the token has lost the
            // permission to read its instances.
            return false;
        }
        if known.part.is_some() && known.instances == instances {
            return false;
        }
        known.instances = instances;
        known.derive(name, &self.deriver, identity, earlier, self.keeper.lock().is_on());
        true
    }

    /// Derives all Connect services again. Returns true if there are any.
    pub(super) fn secure(&mut self, identity: Option<&Identity>, earlier: &Provided) -> bool {
        let keeps = self.keeper.lock().is_on();
        let mut has_any = false;
        for (name, known) in self.all.iter_mut().filter(|(_, known)| known.connect) {
            known.derive(name, &self.deriver, identity, earlier, keeps);
            has_any = true;
        }
        has_any
    }

    /// Resolves when something kept ends; never, if nothing is kept.
    pub(super) fn expiry(&self) -> impl Future<Output = ()> + Send + use<> {
        self.keeper.lock().expiry()
    }

    /// Returns the configuration of all services, with what is kept of those that have gone.
    pub(super) fn configuration(&self, earlier: &Provided) -> Provided {
        let parts = self.all.values().filter_map(|known| known.part.as_ref());
        let mut state = workload::merge(parts.map(|part| Said { part, serves: true }), earlier);
        let mut keeper = self.keeper.lock();
        if keeper.is_on() {
            let nothing = Provided::default();
            let registered = self.all.iter().filter_map(|(name, known)| {
                let part = known.waiting.as_ref().or(known.part.as_ref())?;
                Some((name, part, known.waiting.is_some()))
            });
            let disabled = self.disabled.iter().map(|name| (name, &nothing, true));
            let members: Vec<_> = registered
                .chain(disabled)
                .map(|(name, part, waits)| Member { group: name, name, part, waits })
                .collect();
            keeper.complete(&members, earlier, &mut state);
        }
        state
    }
}
