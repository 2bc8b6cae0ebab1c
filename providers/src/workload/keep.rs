//! Keeps the routes of workloads that have just gone (`keepRoutes`).
//!
//! What a workload has defined stays without its servers, in the version that was in force, until the time is over or a
//! replacement defines it: a workload of the same group or name, or a new one with one of its routers. Kept objects
//! only fill gaps, so they never conflict with what is defined.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidegate_clients::OptionError;
use tidegate_config::{Config, ForEachSection, Kind, Object, ObjectRef, Provided, for_each_section};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::conflict::without_servers;
use crate::Error;

/// Maximum value of `keepRoutes`.
const MAX_TIME: Duration = Duration::from_secs(60 * 60);
/// Maximum number of kept workloads.
const MAX_KEPT: usize = 1_000;

/// A workload that exists.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// What it has in common with its replacement, such as its service in Compose.
    pub group: &'a str,
    /// Its own name.
    pub name: &'a str,
    /// What it defines, possibly nothing.
    pub part: &'a Provided,
    /// True if it is not part of the configuration, as it is unhealthy or not exposed. It still replaces what is kept
    /// for its group.
    pub waits: bool,
}

/// The workloads of one group.
#[derive(Debug, Default)]
struct Group {
    names: BTreeSet<String>,
    objects: BTreeSet<ObjectRef>,
}

/// What is kept for one group.
#[derive(Debug)]
struct Kept {
    names: BTreeSet<String>,
    state: Provided,
    until: Instant,
    note: String,
}

/// Knows which workloads exist, and keeps the routes of those that have gone.
#[derive(Debug)]
pub struct Keeper {
    time: Duration,
    present: BTreeMap<String, Group>,
    kept: BTreeMap<String, Kept>,
}

impl Keeper {
    /// Creates a keeper for `keepRoutes`; 0 switches it off. Returns an error if the time is too long.
    pub fn new(time: Duration) -> Result<Self, Error> {
        if time > MAX_TIME {
            return Err(OptionError::new("keepRoutes", "expected up to 1h").into());
        }
        Ok(Self { time, present: BTreeMap::new(), kept: BTreeMap::new() })
    }

    /// Returns false if nothing is ever kept.
    pub fn is_on(&self) -> bool {
        !self.time.is_zero()
    }

    /// Resolves when something kept ends; never, if nothing is kept.
    pub fn expiry(&self) -> impl Future<Output = ()> + Send + use<> {
        let end = self.kept.values().map(|kept| kept.until).min();
        async move {
            match end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Adds what is kept to `state`, the configuration of all workloads. `earlier` is the last configuration.
    pub fn complete(&mut self, members: &[Member<'_>], earlier: &Provided, state: &mut Provided) {
        if !self.is_on() {
            return;
        }
        let now = Instant::now();
        let present = groups(members);
        let before = std::mem::replace(&mut self.present, present);
        let newcomers: BTreeSet<&ObjectRef> = self
            .present
            .iter()
            .filter(|(group, _)| !before.contains_key(*group))
            .flat_map(|(_, group)| group.objects.iter().filter(|object| object.kind.is_router()))
            .collect();
        for (name, group) in &before {
            if !self.present.contains_key(name) {
                let objects = |object: &ObjectRef| is_version_of(object, &group.objects);
                let until = now + self.time;
                let kept = Kept {
                    names: group.names.clone(),
                    state: bare(earlier, objects),
                    until,
                    note: self.note(),
                };
                tracing::debug!("{name}: {}", kept.note);
                self.kept.insert(name.clone(), kept);
            }
        }
        let names: BTreeSet<&String> = self.present.values().flat_map(|group| &group.names).collect();
        let present = &self.present;
        self.kept.retain(|group, kept| {
            kept.until > now
                && !present.contains_key(group)
                && !kept.names.iter().any(|name| names.contains(name))
                && !kept.state.origins.keys().any(|object| newcomers.contains(object))
        });
        self.update(members);
        self.fill(state);
    }

    /// Replaces definitions by those of workloads that are about to be part of the configuration.
    fn update(&mut self, members: &[Member<'_>]) {
        let mut updated = BTreeSet::new();
        for member in members.iter().filter(|member| member.waits) {
            let mut kept = self.kept.iter_mut();
            let found = kept
                .find(|(group, kept)| *group == member.group || kept.names.contains(member.name))
                .filter(|(group, _)| updated.insert((*group).clone()));
            if let Some((_, kept)) = found {
                kept.state = bare(member.part, |_| true);
            }
        }
    }

    /// Adds what is missing from `state`, and forgets what it defines.
    fn fill(&mut self, state: &mut Provided) {
        let mut defined = state.objects();
        for kept in self.kept.values_mut() {
            kept.state.retain(|object| !defined.contains(object));
        }
        self.kept.retain(|_, kept| !kept.state.objects().is_empty());
        let mut latest: Vec<(String, Instant)> =
            self.kept.iter().map(|(group, kept)| (group.clone(), kept.until)).collect();
        latest.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        for (group, _) in latest.iter().skip(MAX_KEPT) {
            self.kept.remove(group);
        }
        for (group, _) in latest.iter().take(MAX_KEPT) {
            let Some(kept) = self.kept.get(group) else { continue };
            let added = state.add_missing(&kept.state, &defined);
            state.kept.extend(added.iter().map(|object| (object.clone(), kept.note.clone())));
            defined.extend(added);
        }
        state.problems.sort();
        state.problems.dedup();
    }

    fn note(&self) -> String {
        let end = (OffsetDateTime::now_utc() + self.time).truncate_to_second();
        let end = end.format(&Rfc3339).unwrap_or_default();
        format!("kept until {end} (`keepRoutes`): its workload has stopped or is not healthy")
    }
}

fn groups(members: &[Member<'_>]) -> BTreeMap<String, Group> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for member in members.iter().filter(|member| !member.waits) {
        let group = groups.entry(member.group.to_owned()).or_default();
        group.names.insert(member.name.to_owned());
        group.objects.extend(member.part.objects());
    }
    groups
}

/// Returns true if an object is one of these, or a rejected version of a router such as `name#2`.
fn is_version_of(object: &ObjectRef, objects: &BTreeSet<ObjectRef>) -> bool {
    if objects.contains(object) {
        return true;
    }
    let version = object.name.rsplit_once('#').filter(|_| object.kind.is_router());
    version.is_some_and(|(name, number)| {
        let original = ObjectRef { kind: object.kind, name: name.to_owned() };
        number.bytes().all(|byte| byte.is_ascii_digit()) && objects.contains(&original)
    })
}

/// Returns some objects of a state, without servers.
fn bare(state: &Provided, wanted: impl Fn(&ObjectRef) -> bool) -> Provided {
    let mut bare = Provided { partial: BTreeMap::new(), tests: Vec::new(), ..state.clone() };
    bare.retain(wanted);
    bare.origins.retain(|object, _| object.kind != Kind::Certificate);
    bare.problems
        .retain(|problem| problem.object.as_ref().is_some_and(|object| object.kind != Kind::Certificate));
    bare.config.tls.certificates.clear();
    bare.kept.clear();
    for_each_section(&mut WithoutServers(&mut bare.config));
    bare
}

struct WithoutServers<'a>(&'a mut Config);

impl ForEachSection for WithoutServers<'_> {
    fn section<T: Object>(&mut self) {
        if matches!(T::KIND, Kind::Service | Kind::TcpService | Kind::UdpService) {
            for service in T::map_mut(self.0).values_mut() {
                *service = Arc::new(without_servers(T::clone(service)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
