//! Resolves conflicting definitions of an object: uses its last good version, or rejects it.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tidegate_config::service::Service;
use tidegate_config::tcp::{TcpService, UdpService};
use tidegate_config::{Config, Object, ObjectOrigin, ObjectRef, Origin, Problem, Provided, WithType};

use super::join::{join_http, join_tcp, join_udp};

/// The configuration of one workload.
#[derive(Clone, Copy)]
pub struct Said<'a> {
    /// The configuration.
    pub part: &'a Provided,
    /// False if the workload gets no requests; then other definitions take precedence.
    pub serves: bool,
}

/// Downcasts two objects to services of one protocol, if they are services.
fn as_services<'a, S: 'static, T: Object>(into: &'a mut T, other: &'a T) -> Option<(&'a mut S, &'a S)> {
    (into as &mut dyn Any).downcast_mut().zip((other as &dyn Any).downcast_ref())
}

/// Joins another definition of an object: services join their servers. Returns false on conflict, in which
/// case `into` must not be used.
pub(super) fn join<T: Object>(into: &mut T, other: &T) -> bool {
    if let Some((into, other)) = as_services::<Service, T>(into, other) {
        return join_http(into, other.clone());
    }
    if let Some((into, other)) = as_services::<TcpService, T>(into, other) {
        return join_tcp(into, other.clone());
    }
    if let Some((into, other)) = as_services::<UdpService, T>(into, other) {
        return join_udp(into, other.clone());
    }
    false
}

/// Returns the object without servers.
pub(super) fn without_servers<T: Object>(mut object: T) -> T {
    let any: &mut dyn Any = &mut object;
    if let Some(Service { load_balancer: Some(balancer), .. }) = any.downcast_mut() {
        balancer.servers.clear();
    } else if let Some(TcpService { load_balancer: Some(balancer), .. }) = any.downcast_mut() {
        balancer.servers.clear();
    } else if let Some(UdpService { load_balancer: Some(balancer), .. }) = any.downcast_mut() {
        balancer.servers.clear();
    }
    object
}

/// Returns the options of a version with the servers of `other`, if both reach their servers in the same way.
fn with_servers_of<T: Object>(version: &T, other: &T) -> Option<T> {
    let mut all = version.clone();
    let alike = if let Some((all, other)) = as_services::<Service, T>(&mut all, other) {
        let (own, theirs) = (all.load_balancer.as_mut()?, other.load_balancer.as_ref()?);
        own.servers.clone_from(&theirs.servers);
        own.servers_transport == theirs.servers_transport
    } else if let Some((all, other)) = as_services::<TcpService, T>(&mut all, other) {
        let (own, theirs) = (all.load_balancer.as_mut()?, other.load_balancer.as_ref()?);
        own.servers.clone_from(&theirs.servers);
        own.servers_transport == theirs.servers_transport
            && own.proxy_protocol == theirs.proxy_protocol
            && own.termination_delay == theirs.termination_delay
    } else if let Some((all, other)) = as_services::<UdpService, T>(&mut all, other) {
        let (own, theirs) = (all.load_balancer.as_mut()?, other.load_balancer.as_ref()?);
        own.servers.clone_from(&theirs.servers);
        true
    } else {
        false
    };
    alike.then_some(all)
}

/// Resolves one object. Returns true if it is served.
struct Resolve<'a, 'b> {
    out: &'a mut Provided,
    object: &'a ObjectRef,
    said: &'a [Definition<'b>],
    earlier: Option<&'a Config>,
}

impl WithType for Resolve<'_, '_> {
    type Output = bool;

    fn with<T: Object>(self) -> bool {
        resolve_as::<T>(self.out, self.object, self.said, self.earlier)
    }
}

/// One workload's definition of an object.
struct Definition<'a> {
    said: Said<'a>,
    broken: bool,
}

/// One version of an object, and its origin.
type Candidate<'a, T> = (&'a Arc<T>, &'a ObjectOrigin);

/// Resolves conflicting definitions, and objects that are broken in only some workloads.
pub(super) fn resolve(
    out: &mut Provided,
    contradicted: &BTreeSet<ObjectRef>,
    parts: &[Said<'_>],
    earlier: &Provided,
) {
    if contradicted.is_empty() {
        return;
    }
    let mut statements: BTreeMap<&ObjectRef, Vec<Definition<'_>>> = BTreeMap::new();
    for said in parts {
        let broken = broken_objects(said.part);
        for object in said.part.origins.keys().filter_map(|object| contradicted.get(object)) {
            let statement = Definition { said: *said, broken: broken.contains(object) };
            statements.entry(object).or_default().push(statement);
        }
    }
    let broken = broken_objects(earlier);
    let serves = |(object, said): &(&ObjectRef, Vec<Definition<'_>>)| {
        let earlier = (!broken.contains(object)).then_some(&earlier.config);
        object.kind.with_type(Resolve { out, object, said, earlier }).unwrap_or_default()
    };
    let serving: BTreeSet<&ObjectRef> =
        statements.into_iter().filter(serves).map(|(object, _)| object).collect();
    release(out, &serving);
}

/// Returns the broken objects.
pub(super) fn broken_objects(state: &Provided) -> BTreeSet<&ObjectRef> {
    state.problems.iter().filter_map(|problem| problem.object.as_ref()).collect()
}

/// Resolves an object. `earlier` is the last configuration, if the object was valid in it. Returns true if it
/// is served.
fn resolve_as<T: Object>(
    out: &mut Provided,
    object: &ObjectRef,
    said: &[Definition<'_>],
    earlier: Option<&Config>,
) -> bool {
    // A workload that no longer serves does not conflict with its replacement.
    let serving = said.iter().any(|one| one.said.serves);
    let counted = said.iter().filter(|one| one.said.serves || !serving);
    let (broken, sound): (Vec<&Definition<'_>>, Vec<&Definition<'_>>) = counted.partition(|one| one.broken);
    let (good, bad) = (candidates::<T>(&sound, object), candidates::<T>(&broken, object));
    let joined = good.split_first().and_then(|(first, rest)| {
        rest.iter().try_fold(T::clone(first.0), |all, (other, _)| combined(all, other))
    });
    if let (true, Some(joined)) = (broken.is_empty(), joined) {
        T::map_mut(&mut out.config).insert(object.name.clone(), Arc::new(joined));
        return true;
    }
    let (origin, message) = difference(&good, &broken, object);
    out.problems.push(Problem { origin, object: Some(object.clone()), message, excerpt: None });
    if let Some(last) = earlier.and_then(|earlier| T::map(earlier).get(&object.name)) {
        T::map_mut(&mut out.config).insert(object.name.clone(), Arc::new(kept(&**last, &good)));
        out.raw.remove(object);
        return true;
    }
    T::map_mut(&mut out.config).remove(&object.name);
    if T::KIND.is_router() {
        reject(out, object, good.into_iter().chain(bad));
    }
    false
}

fn candidates<'a, T: Object>(of: &[&Definition<'a>], object: &ObjectRef) -> Vec<Candidate<'a, T>> {
    let one = |statement: &&Definition<'a>| {
        let part = statement.said.part;
        Some((T::map(&part.config).get(&object.name)?, part.origins.get(object)?))
    };
    of.iter().filter_map(one).collect()
}

/// Joins two definitions, unless they conflict.
fn combined<T: Object>(mut one: T, other: &T) -> Option<T> {
    (one == *other || join(&mut one, other)).then_some(one)
}

/// Returns the last good version with the current servers: those with the same definition, and others that
/// are reached in the same way, so that replicas with new options get requests.
fn kept<T: Object>(last: &T, versions: &[Candidate<'_, T>]) -> T {
    let bare = without_servers(last.clone());
    let (agreeing, others): (Vec<&T>, Vec<&T>) = versions
        .iter()
        .map(|(version, _)| &***version)
        .partition(|one| combined(bare.clone(), one).is_some());
    let mut kept = agreeing.first().map_or_else(|| bare.clone(), |first| T::clone(first));
    for version in agreeing.iter().skip(1) {
        kept = combined(kept.clone(), version).unwrap_or(kept);
    }
    for version in others.iter().filter_map(|other| with_servers_of(&bare, other)) {
        kept = combined(kept.clone(), &version).unwrap_or(kept);
    }
    kept
}

/// Detaches problems from objects that are served, so that they no longer break them.
fn release(out: &mut Provided, serving: &BTreeSet<&ObjectRef>) {
    for problem in &mut out.problems {
        if let Some(object) = problem.object.take_if(|object| serving.contains(object)) {
            let message = std::mem::take(&mut problem.message);
            problem.message =
                format!("{} {}: {message} (using its last good version)", object.kind, object.name);
        }
    }
}

/// Keeps every version of a router as broken, so that the requests of any of them are rejected. The first has
/// the name, others get a number appended.
fn reject<'a, T: Object + 'a>(
    out: &mut Provided,
    object: &ObjectRef,
    versions: impl Iterator<Item = Candidate<'a, T>>,
) {
    let mut known: Vec<&Arc<T>> = Vec::new();
    for (version, origin) in versions {
        if known.contains(&version) {
            continue;
        }
        known.push(version);
        let mut object = object.clone();
        if known.len() > 1 {
            let free =
                |number: &usize| !T::map(&out.config).contains_key(&format!("{}#{number}", object.name));
            let number = (known.len()..).find(free).unwrap_or(known.len());
            object.name = format!("{}#{number}", object.name);
            let message = "another version of a router that is defined with different options".to_owned();
            let problem =
                Problem { origin: origin.whole(), object: Some(object.clone()), message, excerpt: None };
            out.problems.push(problem);
            out.origins.insert(object.clone(), origin.clone());
        }
        T::map_mut(&mut out.config).insert(object.name, version.clone());
    }
}

/// Returns the origin to report and a description of the difference.
fn difference<T: Object>(
    good: &[Candidate<'_, T>],
    broken: &[&Definition<'_>],
    object: &ObjectRef,
) -> (Origin, String) {
    let bad = broken.iter().find_map(|one| one.said.part.origins.get(object));
    let bad = bad.map_or(Origin::Internal, ObjectOrigin::whole);
    let Some((first, rest)) = good.split_first() else {
        return (bad, "defined several times, and every version is broken".into());
    };
    let differs = |other: &&Candidate<'_, T>| combined(T::clone(first.0), other.0).is_none();
    let Some((value, origin)) = rest.iter().find(differs) else {
        let message = format!("defined several times, by {} and by {bad}, which is broken", first.1.whole());
        return (bad, message);
    };
    let json = |value: &T| serde_json::to_value(value).unwrap_or_default();
    let option = differing(&json(first.0), &json(value));
    let place = |origin: &ObjectOrigin| origin.option(&option).cloned().ok_or_else(|| origin.whole());
    let (one, other) = (place(first.1), place(origin));
    let shown = |place: &Result<Origin, Origin>| match place {
        Ok(place) => place.to_string(),
        Err(workload) => format!("{workload}, which does not set it"),
    };
    let message = format!(
        "defined several times with different options: `{option}` differs between {} and {}",
        shown(&one),
        shown(&other)
    );
    (other.or(one).unwrap_or_else(|workload| workload), message)
}

/// Returns the path of the first option that differs, except servers, which are joined.
fn differing(one: &Value, other: &Value) -> String {
    let (Value::Object(one), Value::Object(other)) = (one, other) else { return String::new() };
    for key in one.keys().chain(other.keys()).filter(|key| *key != "servers") {
        let (a, b) = (one.get(key).unwrap_or(&Value::Null), other.get(key).unwrap_or(&Value::Null));
        if a != b {
            let rest = differing(a, b);
            return if rest.is_empty() { key.clone() } else { format!("{key}.{rest}") };
        }
    }
    String::new()
}
