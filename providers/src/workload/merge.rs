//! Many workloads into one configuration: servers are joined, and whoever contradicts another loses with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_config::service::Service;
use tidegate_config::tcp::{TcpService, UdpService};
use tidegate_config::{Kind, Map, ObjectRef, Origin, Problem, Provided};

/// Merges what workloads say, in the given order; each comes with its name.
///
/// The same object may be said by several: services with equal options join their servers, other objects must be
/// equal. Otherwise the object is taken from all, and the problem names everyone who said it (Traefik's rule).
pub fn merge(parts: Vec<(Arc<str>, Provided)>) -> Provided {
    let mut merger = Merger::default();
    for (owner, part) in parts {
        merger.add(&owner, part);
    }
    merger.finish()
}

#[derive(Default)]
struct Merger {
    out: Provided,
    /// Who said an object.
    owners: BTreeMap<ObjectRef, Vec<Arc<str>>>,
    contradicted: BTreeMap<ObjectRef, ()>,
}

/// What `into` and `from` say of the same object: joined, or a contradiction.
type Join<T> = fn(into: &mut T, from: T) -> bool;

impl Merger {
    fn add(&mut self, owner: &Arc<str>, part: Provided) {
        let Provided { config, origins, problems, written } = part;
        let mut out = std::mem::take(&mut self.out.config);
        let (http, tcp, udp, tls) = (config.http, config.tcp, config.udp, config.tls);
        self.map(owner, Kind::Router, &mut out.http.routers, http.routers, equal);
        self.map(owner, Kind::Service, &mut out.http.services, http.services, join_http);
        self.map(owner, Kind::Middleware, &mut out.http.middlewares, http.middlewares, equal);
        self.map(
            owner,
            Kind::ServersTransport,
            &mut out.http.servers_transports,
            http.servers_transports,
            equal,
        );
        self.map(owner, Kind::TcpRouter, &mut out.tcp.routers, tcp.routers, equal);
        self.map(owner, Kind::TcpService, &mut out.tcp.services, tcp.services, join_tcp);
        self.map(owner, Kind::TcpMiddleware, &mut out.tcp.middlewares, tcp.middlewares, equal);
        self.map(
            owner,
            Kind::TcpServersTransport,
            &mut out.tcp.servers_transports,
            tcp.servers_transports,
            equal,
        );
        self.map(owner, Kind::UdpRouter, &mut out.udp.routers, udp.routers, equal);
        self.map(owner, Kind::UdpService, &mut out.udp.services, udp.services, join_udp);
        self.map(owner, Kind::TlsOptions, &mut out.tls.options, tls.options, equal);
        self.map(owner, Kind::TlsStore, &mut out.tls.stores, tls.stores, equal);
        for certificate in tls.certificates {
            if !out.tls.certificates.contains(&certificate) {
                out.tls.certificates.push(certificate);
            }
        }
        self.out.config = out;
        for (object, origin) in origins {
            self.out.origins.entry(object).or_insert(origin);
        }
        self.out.problems.extend(problems);
        self.out.written.extend(written);
    }

    fn map<T>(&mut self, owner: &Arc<str>, kind: Kind, into: &mut Map<T>, from: Map<T>, join: Join<T>) {
        for (name, value) in from {
            let object = ObjectRef { kind, name: name.clone() };
            self.owners.entry(object.clone()).or_default().push(owner.clone());
            match into.get_mut(&name) {
                None => {
                    into.insert(name, value);
                }
                Some(existing) => {
                    if !join(existing, value) {
                        self.contradicted.insert(object, ());
                    }
                }
            }
        }
    }

    fn finish(mut self) -> Provided {
        for object in self.contradicted.into_keys() {
            let owners = self.owners.remove(&object).unwrap_or_default();
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

fn equal<T: PartialEq>(into: &mut T, from: T) -> bool {
    *into == from
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

joiner!(join_http, Service, url);
joiner!(join_tcp, TcpService, address);
joiner!(join_udp, UdpService, address);
