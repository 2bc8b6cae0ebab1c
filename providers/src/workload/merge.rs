//! Many workloads into one configuration: servers are joined, and whoever contradicts another loses with it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_config::service::{Mirror, Service, WeightedService};
use tidegate_config::tcp::{TcpService, UdpService};
use tidegate_config::{Kind, Map, ObjectRef, Origin, Problem, Provided};

/// Merges what workloads say, in the given order; each comes with its name.
///
/// The same object may be said by several: services with equal options join their servers, other objects must be
/// equal. Otherwise the object is taken from all, and the problem names everyone who said it (Traefik's rule).
pub fn merge<'a>(parts: impl IntoIterator<Item = (&'a Arc<str>, &'a Provided)>) -> Provided {
    let parts: Vec<_> = parts.into_iter().collect();
    let mut merger = Merger::default();
    for (_, part) in &parts {
        merger.add(part);
    }
    merger.finish(&parts)
}

#[derive(Default)]
struct Merger {
    out: Provided,
    contradicted: BTreeSet<ObjectRef>,
}

/// What `into` and `from`, which differ, say of the same object: joined, or a contradiction.
type Join<T> = fn(into: &mut T, from: T) -> bool;

impl Merger {
    fn add(&mut self, part: &Provided) {
        let mut out = std::mem::take(&mut self.out.config);
        let (http, tcp, udp, tls) = (&part.config.http, &part.config.tcp, &part.config.udp, &part.config.tls);
        self.map(Kind::Router, &mut out.http.routers, &http.routers, never);
        self.map(Kind::Service, &mut out.http.services, &http.services, join_http);
        self.map(Kind::Middleware, &mut out.http.middlewares, &http.middlewares, never);
        self.map(Kind::ServersTransport, &mut out.http.servers_transports, &http.servers_transports, never);
        self.map(Kind::TcpRouter, &mut out.tcp.routers, &tcp.routers, never);
        self.map(Kind::TcpService, &mut out.tcp.services, &tcp.services, join_tcp);
        self.map(Kind::TcpMiddleware, &mut out.tcp.middlewares, &tcp.middlewares, never);
        self.map(Kind::TcpServersTransport, &mut out.tcp.servers_transports, &tcp.servers_transports, never);
        self.map(Kind::UdpRouter, &mut out.udp.routers, &udp.routers, never);
        self.map(Kind::UdpService, &mut out.udp.services, &udp.services, join_udp);
        self.map(Kind::TlsOptions, &mut out.tls.options, &tls.options, never);
        self.map(Kind::TlsStore, &mut out.tls.stores, &tls.stores, never);
        for certificate in &tls.certificates {
            if !out.tls.certificates.contains(certificate) {
                out.tls.certificates.push(certificate.clone());
            }
        }
        self.out.config = out;
        for (object, origin) in &part.origins {
            self.out.origins.entry(object.clone()).or_insert_with(|| origin.clone());
        }
        self.out.problems.extend(part.problems.iter().cloned());
        self.out.written.extend(part.written.iter().map(|(object, text)| (object.clone(), text.clone())));
    }

    fn map<T: Clone + PartialEq>(&mut self, kind: Kind, into: &mut Map<T>, from: &Map<T>, join: Join<T>) {
        for (name, value) in from {
            match into.entry(name.clone()) {
                Entry::Vacant(free) => drop(free.insert(value.clone())),
                Entry::Occupied(existing) if existing.get() == value => {}
                Entry::Occupied(mut existing) => {
                    if !join(Arc::make_mut(existing.get_mut()), T::clone(value)) {
                        self.contradicted.insert(ObjectRef { kind, name: name.clone() });
                    }
                }
            }
        }
    }

    fn finish(mut self, parts: &[(&Arc<str>, &Provided)]) -> Provided {
        let mut owners = owners(parts, &self.contradicted);
        for object in self.contradicted {
            let owners = owners.remove(&object).unwrap_or_default();
            let origin = self.out.origins.remove(&object).unwrap_or(Origin::Internal);
            remove(&mut self.out, &object);
            let message = format!(
                "defined several times with different options, and removed from all: {}",
                owners.join(", ")
            );
            self.out.problems.push(Problem { origin, object: Some(object), message, excerpt: None });
        }
        self.out.problems.sort();
        self.out.problems.dedup();
        self.out
    }
}

/// Who said each of these objects.
fn owners<'a>(
    parts: &[(&'a Arc<str>, &Provided)],
    objects: &BTreeSet<ObjectRef>,
) -> BTreeMap<ObjectRef, Vec<&'a str>> {
    let mut owners: BTreeMap<ObjectRef, Vec<&str>> = BTreeMap::new();
    if objects.is_empty() {
        return owners;
    }
    for (owner, part) in parts {
        for object in part.origins.keys().filter(|object| objects.contains(object)) {
            owners.entry(object.clone()).or_default().push(owner);
        }
    }
    owners
}

fn remove(out: &mut Provided, object: &ObjectRef) {
    let name = &object.name;
    let config = &mut out.config;
    match object.kind {
        Kind::Router => drop(config.http.routers.remove(name)),
        Kind::Service => drop(config.http.services.remove(name)),
        Kind::Middleware => drop(config.http.middlewares.remove(name)),
        Kind::ServersTransport => drop(config.http.servers_transports.remove(name)),
        Kind::TcpRouter => drop(config.tcp.routers.remove(name)),
        Kind::TcpService => drop(config.tcp.services.remove(name)),
        Kind::TcpMiddleware => drop(config.tcp.middlewares.remove(name)),
        Kind::TcpServersTransport => drop(config.tcp.servers_transports.remove(name)),
        Kind::UdpRouter => drop(config.udp.routers.remove(name)),
        Kind::UdpService => drop(config.udp.services.remove(name)),
        Kind::TlsOptions => drop(config.tls.options.remove(name)),
        Kind::TlsStore => drop(config.tls.stores.remove(name)),
        Kind::Certificate => {}
    }
}

/// Objects of which there are no parts to join.
fn never<T>(_: &mut T, _: T) -> bool {
    false
}

/// Joins the servers of two services whose other options are equal. Servers are told apart by their address.
macro_rules! joiner {
    ($name:ident, $service:ty, $address:ident) => {
        fn $name(into: &mut $service, mut from: $service) -> bool {
            let taken = from.load_balancer.as_mut().map(|balancer| std::mem::take(&mut balancer.servers));
            let kept = into.load_balancer.as_mut().map(|balancer| std::mem::take(&mut balancer.servers));
            let equal = *into == from;
            if let (Some(balancer), Some(kept)) = (&mut into.load_balancer, kept) {
                balancer.servers = kept;
                for server in taken.unwrap_or_default() {
                    if equal && !balancer.servers.iter().any(|known| known.$address == server.$address) {
                        balancer.servers.push(server);
                    }
                }
            }
            equal
        }
    };
}

joiner!(join_balancers, Service, url);
joiner!(join_tcp, TcpService, address);
joiner!(join_udp, UdpService, address);

/// Joins what several workloads say of one service: the servers of a load balancer, and the parts of a composite, so
/// that each workload can name itself as one of them. What both say must be the same.
fn join_http(into: &mut Service, mut from: Service) -> bool {
    let mut agreed = true;
    if let (Some(into), Some(from)) = (&mut into.weighted, &mut from.weighted) {
        agreed &= join_named(&mut into.services, &mut from.services, |child: &WeightedService| &child.name);
    }
    if let (Some(into), Some(from)) = (&mut into.highest_random_weight, &mut from.highest_random_weight) {
        agreed &= join_named(&mut into.services, &mut from.services, |child: &WeightedService| &child.name);
    }
    if let (Some(into), Some(from)) = (&mut into.mirroring, &mut from.mirroring) {
        agreed &= join_named(&mut into.mirrors, &mut from.mirrors, |mirror: &Mirror| &mirror.name);
        fill(&mut into.service, &mut from.service);
    }
    if let (Some(into), Some(from)) = (&mut into.failover, &mut from.failover) {
        fill(&mut into.service, &mut from.service);
        fill(&mut into.fallback, &mut from.fallback);
    }
    agreed & join_balancers(into, from)
}

/// Gives both lists the parts of either. False when a part is in both and differs.
fn join_named<T: Clone + PartialEq>(into: &mut Vec<T>, from: &mut Vec<T>, name: fn(&T) -> &String) -> bool {
    for part in from.iter() {
        match into.iter().find(|known| name(known) == name(part)) {
            Some(known) if known != part => return false,
            Some(_) => {}
            None => into.push(part.clone()),
        }
    }
    from.clone_from(into);
    true
}

/// Gives both what only one of them says.
fn fill(into: &mut String, from: &mut String) {
    if into.is_empty() {
        into.clone_from(from);
    } else if from.is_empty() {
        from.clone_from(into);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_config::decode::decode_config;
    use tidegate_config::formats::labels;

    use super::*;

    /// What workloads with these labels say together, each under `traefik.http.services.`.
    fn merged(workloads: &[&[(&str, &str)]]) -> Provided {
        let part = |(number, pairs): (usize, &&[(&str, &str)])| {
            let pairs: Vec<(String, &str)> =
                pairs.iter().map(|(key, value)| (format!("traefik.http.services.{key}"), *value)).collect();
            let origin =
                |label: &str| Origin::Label { container: format!("c{number}").into(), label: label.into() };
            let borrowed = pairs.iter().map(|(key, value)| (key.as_str(), *value));
            let (node, problems) = labels::read(borrowed, &["traefik"], origin);
            assert_eq!(problems, []);
            let provided = decode_config(&node);
            assert_eq!(provided.problems, []);
            (format!("c{number}").into(), provided)
        };
        let parts: Vec<(Arc<str>, Provided)> = workloads.iter().enumerate().map(part).collect();
        merge(parts.iter().map(|(owner, part)| (owner, part)))
    }

    fn names(children: &[WeightedService]) -> Vec<(&str, Option<i64>)> {
        children.iter().map(|child| (child.name.as_str(), child.weight)).collect()
    }

    #[test]
    fn each_workload_may_name_itself_as_part_of_a_weighted_service() {
        for kind in ["weighted", "highestrandomweight"] {
            let key = |rest: &str| format!("w.{kind}.services[0].{rest}");
            let (name, weight) = (key("name"), key("weight"));
            let blue = [(name.as_str(), "blue"), (weight.as_str(), "9")];
            let green = [(name.as_str(), "green"), (weight.as_str(), "1")];
            let provided = merged(&[&blue, &green, &blue]);
            assert_eq!(provided.problems, []);
            let service = &provided.config.http.services["w"];
            let children = match kind {
                "weighted" => &service.weighted.as_ref().unwrap().services,
                _ => &service.highest_random_weight.as_ref().unwrap().services,
            };
            assert_eq!(names(children), [("blue", Some(9)), ("green", Some(1))]);
            let other = [(name.as_str(), "blue"), (weight.as_str(), "2")];
            let provided = merged(&[&blue, &green, &other]);
            assert!(!provided.config.http.services.contains_key("w"));
            let shown = provided.problems[0].to_string();
            assert!(shown.contains("c0, c1, c2") && shown.contains("different options"), "{shown}");
        }
    }

    #[test]
    fn mirrors_and_fallbacks_come_from_whoever_they_are() {
        let provided = merged(&[
            &[("m.mirroring.service", "main"), ("f.failover.service", "main")],
            &[("m.mirroring.mirrors[0].name", "next"), ("m.mirroring.mirrors[0].percent", "10")],
            &[("f.failover.fallback", "spare"), ("m.mirroring.mirrors[0].name", "third")],
        ]);
        assert_eq!(provided.problems, []);
        let mirroring = provided.config.http.services["m"].mirroring.as_ref().unwrap();
        let mirrors: Vec<_> = mirroring.mirrors.iter().map(|one| (one.name.as_str(), one.percent)).collect();
        assert_eq!((mirroring.service.as_str(), mirrors), ("main", vec![("next", 10), ("third", 0)]));
        let failover = provided.config.http.services["f"].failover.as_ref().unwrap();
        assert_eq!((failover.service.as_str(), failover.fallback.as_str()), ("main", "spare"));
    }

    #[test]
    fn what_two_say_differently_is_nobodys() {
        for (one, two) in [
            (("m.mirroring.service", "a"), ("m.mirroring.service", "b")),
            (("m.failover.fallback", "a"), ("m.failover.fallback", "b")),
            (("m.mirroring.maxbodysize", "1"), ("m.mirroring.maxbodysize", "2")),
            (("m.weighted.services[0].name", "a"), ("m.failover.service", "a")),
        ] {
            let provided = merged(&[&[one], &[two]]);
            assert!(!provided.config.http.services.contains_key("m"), "{one:?} {two:?}");
            assert!(provided.problems[0].to_string().contains("c0, c1"), "{:?}", provided.problems);
        }
    }
}
