//! Objects that stay for a while although nothing defines them any more.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::origin::ObjectRef;
use crate::section::{ForEachSection, Object, for_each_section};
use crate::{Config, Kind, Provided};

impl Provided {
    /// Returns all objects with names, including broken ones that are not in the configuration.
    pub fn objects(&self) -> BTreeSet<ObjectRef> {
        let named = self.origins.keys().filter(|object| object.kind != Kind::Certificate).cloned();
        let mut names = Names { config: &self.config, found: named.collect() };
        for_each_section(&mut names);
        names.found
    }

    /// Removes the objects with names that are not wanted, with their origins and problems.
    pub fn retain(&mut self, wanted: impl Fn(&ObjectRef) -> bool) {
        let wanted = |object: &ObjectRef| object.kind == Kind::Certificate || wanted(object);
        for_each_section(&mut Retain { config: &mut self.config, wanted: &wanted });
        self.origins.retain(|object, _| wanted(object));
        self.problems.retain(|problem| problem.object.as_ref().is_none_or(wanted));
        self.raw.retain(|object, _| wanted(object));
        self.kept.retain(|object, _| wanted(object));
    }

    /// Adds the objects of another state that are not among `known`, with their origins and problems. Returns
    /// the objects added.
    pub fn add_missing(&mut self, other: &Self, known: &BTreeSet<ObjectRef>) -> BTreeSet<ObjectRef> {
        let added: BTreeSet<ObjectRef> =
            other.objects().into_iter().filter(|object| !known.contains(object)).collect();
        for_each_section(&mut Add { to: &mut self.config, from: &other.config, added: &added });
        let origins = other.origins.iter().filter(|(object, _)| added.contains(*object));
        self.origins.extend(origins.map(|(object, origin)| (object.clone(), origin.clone())));
        let is_added = |object: Option<&ObjectRef>| object.is_some_and(|object| added.contains(object));
        self.problems
            .extend(other.problems.iter().filter(|problem| is_added(problem.object.as_ref())).cloned());
        let raw = other.raw.iter().filter(|(object, _)| added.contains(*object));
        self.raw.extend(raw.map(|(object, text)| (object.clone(), text.clone())));
        added
    }

    /// Returns the state without what is only kept.
    pub fn without_kept(&self) -> Cow<'_, Self> {
        if self.kept.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut lasting = self.clone();
        let kept = std::mem::take(&mut lasting.kept);
        lasting.retain(|object| !kept.contains_key(object));
        Cow::Owned(lasting)
    }
}

struct Names<'a> {
    config: &'a Config,
    found: BTreeSet<ObjectRef>,
}

impl ForEachSection for Names<'_> {
    fn section<T: Object>(&mut self) {
        let names = T::map(self.config).keys();
        self.found.extend(names.map(|name| ObjectRef { kind: T::KIND, name: name.clone() }));
    }
}

struct Retain<'a, W> {
    config: &'a mut Config,
    wanted: &'a W,
}

impl<W: Fn(&ObjectRef) -> bool> ForEachSection for Retain<'_, W> {
    fn section<T: Object>(&mut self) {
        let wanted = |name: &String| (self.wanted)(&ObjectRef { kind: T::KIND, name: name.clone() });
        T::map_mut(self.config).retain(|name, _| wanted(name));
    }
}

struct Add<'a> {
    to: &'a mut Config,
    from: &'a Config,
    added: &'a BTreeSet<ObjectRef>,
}

impl ForEachSection for Add<'_> {
    fn section<T: Object>(&mut self) {
        let into = T::map_mut(self.to);
        for (name, object) in T::map(self.from) {
            if self.added.contains(&ObjectRef { kind: T::KIND, name: name.clone() }) {
                into.insert(name.clone(), Arc::clone(object));
            }
        }
    }
}
