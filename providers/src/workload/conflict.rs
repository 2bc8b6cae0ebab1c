//! What becomes of an object that workloads say differently: its last good version, or else a refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tidegate_config::middleware::Middleware;
use tidegate_config::router::Router;
use tidegate_config::service::Service;
use tidegate_config::tcp::{
    TcpMiddleware, TcpRouter, TcpServersTransport, TcpService, UdpRouter, UdpService,
};
use tidegate_config::tls::{Store, TlsOptions};
use tidegate_config::transport::ServersTransport;
use tidegate_config::{Config, Kind, Map, ObjectOrigin, ObjectRef, Origin, Problem, Provided};

use super::merge::{Said, join_http, join_tcp, join_udp};

/// An object that several workloads can say.
pub(super) trait Version: Clone + PartialEq + Serialize {
    const KIND: Kind;
    fn map(config: &Config) -> &Map<Self>;
    fn map_mut(config: &mut Config) -> &mut Map<Self>;

    /// Takes on what `other`, which differs, says. False when they contradict each other; what is left is of no use.
    fn join(&mut self, _other: Self) -> bool {
        false
    }

    /// The same options, without a server.
    fn without_servers(self) -> Self {
        self
    }

    /// The options of this version with the servers of `other`, when both reach their servers in the same way.
    fn with_servers_of(&self, _other: &Self) -> Option<Self> {
        None
    }
}

macro_rules! versions {
    ($($kind:ident $type:ty: $section:ident $map:ident $(, $join:ident, reached by [$($option:ident)*])?;)*) => {
        $(impl Version for $type {
            const KIND: Kind = Kind::$kind;

            fn map(config: &Config) -> &Map<Self> {
                &config.$section.$map
            }

            fn map_mut(config: &mut Config) -> &mut Map<Self> {
                &mut config.$section.$map
            }

            $(fn join(&mut self, other: Self) -> bool {
                $join(self, other)
            }

            fn without_servers(mut self) -> Self {
                if let Some(balancer) = &mut self.load_balancer {
                    balancer.servers.clear();
                }
                self
            }

            fn with_servers_of(&self, other: &Self) -> Option<Self> {
                let theirs = other.load_balancer.as_ref()?;
                let mut all = self.clone();
                let own = all.load_balancer.as_mut()?;
                own.servers.clone_from(&theirs.servers);
                let alike = true $(&& own.$option == theirs.$option)*;
                alike.then_some(all)
            })?
        })*

        /// Settles one object. True when it serves.
        fn settle_one(
            out: &mut Provided,
            object: &ObjectRef,
            said: &[Statement<'_>],
            earlier: Option<&Config>,
        ) -> bool {
            match object.kind {
                $(Kind::$kind => settle_as::<$type>(out, object, said, earlier),)*
                Kind::Certificate => false,
            }
        }
    };
}

versions! {
    Router Router: http routers;
    Service Service: http services, join_http, reached by [servers_transport];
    Middleware Middleware: http middlewares;
    ServersTransport ServersTransport: http servers_transports;
    TcpRouter TcpRouter: tcp routers;
    TcpService TcpService: tcp services, join_tcp, reached by [servers_transport proxy_protocol termination_delay];
    TcpMiddleware TcpMiddleware: tcp middlewares;
    TcpServersTransport TcpServersTransport: tcp servers_transports;
    UdpRouter UdpRouter: udp routers;
    UdpService UdpService: udp services, join_udp, reached by [];
    TlsOptions TlsOptions: tls options;
    TlsStore Store: tls stores;
}

/// What one workload says of the object in question.
struct Statement<'a> {
    said: Said<'a>,
    broken: bool,
}

/// One version of an object, and where it was said.
type Candidate<'a, T> = (&'a Arc<T>, &'a ObjectOrigin);

/// Settles what workloads say differently, or what is broken at some of them only.
pub(super) fn settle(
    out: &mut Provided,
    contradicted: &BTreeSet<ObjectRef>,
    parts: &[Said<'_>],
    earlier: &Provided,
) {
    if contradicted.is_empty() {
        return;
    }
    let mut statements: BTreeMap<&ObjectRef, Vec<Statement<'_>>> = BTreeMap::new();
    for said in parts {
        let broken = broken_objects(said.part);
        for object in said.part.origins.keys().filter_map(|object| contradicted.get(object)) {
            let statement = Statement { said: *said, broken: broken.contains(object) };
            statements.entry(object).or_default().push(statement);
        }
    }
    let broken = broken_objects(earlier);
    let serves = |(object, said): &(&ObjectRef, Vec<Statement<'_>>)| {
        settle_one(out, object, said, (!broken.contains(object)).then_some(&earlier.config))
    };
    let serving: BTreeSet<&ObjectRef> =
        statements.into_iter().filter(serves).map(|(object, _)| object).collect();
    release(out, &serving);
}

/// The objects that are broken.
pub(super) fn broken_objects(state: &Provided) -> BTreeSet<&ObjectRef> {
    state.problems.iter().filter_map(|problem| problem.object.as_ref()).collect()
}

/// Settles an object; `earlier` is the last configuration, if the object was sound in it. True when it serves.
fn settle_as<T: Version>(
    out: &mut Provided,
    object: &ObjectRef,
    said: &[Statement<'_>],
    earlier: Option<&Config>,
) -> bool {
    // A workload that no longer serves does not contradict those that take its place.
    let serving = said.iter().any(|one| one.said.serves);
    let counted = said.iter().filter(|one| one.said.serves || !serving);
    let (broken, sound): (Vec<&Statement<'_>>, Vec<&Statement<'_>>) = counted.partition(|one| one.broken);
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
        out.written.remove(object);
        return true;
    }
    T::map_mut(&mut out.config).remove(&object.name);
    if T::KIND.is_router() {
        refuse(out, object, good.into_iter().chain(bad));
    }
    false
}

fn candidates<'a, T: Version>(of: &[&Statement<'a>], object: &ObjectRef) -> Vec<Candidate<'a, T>> {
    let one = |statement: &&Statement<'a>| {
        let part = statement.said.part;
        Some((T::map(&part.config).get(&object.name)?, part.origins.get(object)?))
    };
    of.iter().filter_map(one).collect()
}

/// Both, when they do not contradict each other.
fn combined<T: Version>(mut one: T, other: &T) -> Option<T> {
    (one == *other || one.join(other.clone())).then_some(one)
}

/// The last good version with the servers of today: of those who still say it, and of the others that are reached in
/// the same way, so that replicas with new options take their share.
fn kept<T: Version>(last: &T, versions: &[Candidate<'_, T>]) -> T {
    let bare = last.clone().without_servers();
    let (agreeing, others): (Vec<&T>, Vec<&T>) = versions
        .iter()
        .map(|(version, _)| &***version)
        .partition(|one| combined(bare.clone(), one).is_some());
    let mut kept = agreeing.first().map_or_else(|| bare.clone(), |first| T::clone(first));
    for version in agreeing.iter().skip(1) {
        kept = combined(kept.clone(), version).unwrap_or(kept);
    }
    for version in others.iter().filter_map(|other| bare.with_servers_of(other)) {
        kept = combined(kept.clone(), &version).unwrap_or(kept);
    }
    kept
}

/// Leaves the problems of objects that serve: they no longer break them.
fn release(out: &mut Provided, serving: &BTreeSet<&ObjectRef>) {
    for problem in &mut out.problems {
        if let Some(object) = problem.object.take_if(|object| serving.contains(object)) {
            let message = std::mem::take(&mut problem.message);
            problem.message =
                format!("{} {}: {message} (its last good version serves on)", object.kind, object.name);
        }
    }
}

/// Keeps every version of a router, broken: what any of them would take is refused. The first has the name, others
/// have it with a number.
fn refuse<'a, T: Version + 'a>(
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

/// The place that is to be looked at, and what differs where.
fn difference<T: Version>(
    good: &[Candidate<'_, T>],
    broken: &[&Statement<'_>],
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

/// The path of the first option that differs; servers are joined and do not count.
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
