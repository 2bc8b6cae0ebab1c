//! Joins the definitions of one service by several workloads.

use tidegate_config::service::{Mirror, Service, WeightedService};
use tidegate_config::tcp::{TcpService, UdpService};
use tidegate_core::reference::Reference;

/// Joins the servers of two services with otherwise equal options. Servers are identified by their address.
macro_rules! joiner {
    ($name:ident, $service:ty, $address:ident) => {
        pub(super) fn $name(into: &mut $service, mut from: $service) -> bool {
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

/// Joins two definitions of a service: the servers of a load balancer and the children of a composite, so
/// that each workload can name itself as a child. Other options must be equal.
pub(super) fn join_http(into: &mut Service, mut from: Service) -> bool {
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

/// Makes both lists the union of their parts. Returns false if a part is in both and differs.
fn join_named<T: Clone + PartialEq>(
    into: &mut Vec<T>,
    from: &mut Vec<T>,
    name: fn(&T) -> &Reference,
) -> bool {
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

/// Copies a reference that only one of them sets.
fn fill(into: &mut Reference, from: &mut Reference) {
    if into.is_empty() {
        into.clone_from(from);
    } else if from.is_empty() {
        from.clone_from(into);
    }
}
