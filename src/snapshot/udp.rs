//! Compiles UDP routers and services into the route of each entry point.
//!
//! UDP has no rules, so an entry point has one router. If there are several, the last by name wins, as in
//! Traefik.

use std::sync::Arc;

use tidegate_config::tcp::{UdpLoadBalancer, UdpRouter, UdpService};
use tidegate_config::{Kind, ObjectRef};
use tidegate_core::{BuildError, BuildErrors};

use super::builder::{Builder, Component, Instances, Pool, Scope};
use super::diagnostics::Finding;
use super::routers::{self, Routed, default_entry_points};
use super::services::not_one_type;
use crate::observability::metrics::{Role, Transport as Carrier};
use crate::udp::{Route, Server, Servers, Service};

/// Compiles the UDP routers.
pub(super) fn route(builder: &Builder<'_>) -> Routed<Option<Arc<Route>>, UdpRouter> {
    let settings = &builder.environment.settings;
    let points = &settings.entry_points;
    let mut entry_points: Vec<Option<Arc<Route>>> = points.iter().map(|_| None).collect();
    let routers = builder.config.udp.routers.clone();
    let mut findings = Vec::new();
    for (name, router) in routers.iter().rev() {
        builder.note_uses::<UdpService, UdpService>(name, router.service.as_str(), &[]);
        let (mut indexes, mut outcome) = match router.entry_points.is_empty() {
            true => routers::entry_points(settings, &default_entry_points(settings, true), true),
            false => routers::entry_points(settings, &router.entry_points, true),
        };
        indexes.sort_unstable();
        if !indexes.is_empty() {
            let service = outcome.check(build_service(builder, name, router));
            let role = Role::Router { router: name.clone(), service: router.service.as_str().to_owned() };
            let traffic = builder.traffic(Carrier::Udp, role);
            let route = Arc::new(Route { name: Arc::from(name.as_str()), service, traffic });
            for index in &indexes {
                match &entry_points[*index] {
                    None => entry_points[*index] = Some(route.clone()),
                    Some(other) => outcome.warnings.push(format!(
                        "an entry point can have only one UDP router: router {} receives its datagrams",
                        other.name
                    )),
                }
            }
        }
        let used_by = indexes.iter().filter_map(|index| points.keys().nth(*index)).cloned().collect();
        let object = ObjectRef { kind: Kind::UdpRouter, name: name.clone() };
        findings.push(Finding { written: object.clone(), object, used_by, priority: 0, outcome });
    }
    Routed { entry_points, routers, findings }
}

fn build_service(builder: &Builder<'_>, name: &str, router: &UdpRouter) -> Result<Arc<Service>, BuildError> {
    if let Some(reasons) = builder.broken(Kind::UdpRouter, name) {
        return Err(BuildError::of(reasons));
    }
    if router.service.is_empty() {
        return Err(BuildError::new("the service is missing on the udp router"));
    }
    builder.instance_for::<UdpService>(router.service.as_str(), name)
}

impl Component for UdpService {
    type Instance = Service;

    const SCOPE: Scope = Scope::Own;

    fn pool(instances: &Instances) -> &Pool<Service> {
        &instances.udp_services
    }

    fn pool_mut(instances: &mut Instances) -> &mut Pool<Service> {
        &mut instances.udp_services
    }

    fn missing(name: &str) -> String {
        format!("the UDP service \"{name}\" does not exist")
    }

    fn build(&self, builder: &Builder<'_>, name: &str) -> Result<Arc<Service>, BuildError> {
        match (&self.load_balancer, &self.weighted) {
            (Some(balancer), None) => Ok(load_balancer(builder, name, balancer)),
            (None, Some(weighted)) => {
                let children = weighted.services.iter();
                let services = children.clone().map(|child| builder.instance::<Self>(child.name.as_str()));
                let services = BuildErrors::collect(services)?;
                let members =
                    children.map(|child| (child.name.written().to_owned(), child.weight.unwrap_or(1)));
                let round_robin = builder.tcp.round_robin(&format!("UDP {name}"), members.collect());
                Ok(Arc::new(Service::Weighted(services, round_robin)))
            }
            (balancer, _) => Err(not_one_type("UDP service", name, balancer.is_some())),
        }
    }
}

fn load_balancer(builder: &Builder<'_>, name: &str, options: &UdpLoadBalancer) -> Arc<Service> {
    let mut servers = Vec::new();
    for server in &options.servers {
        match Server::new(&server.address) {
            Ok(built) => {
                let role = Role::Server { service: name.to_owned(), server: server.address.clone() };
                servers.push((Arc::new(built), builder.traffic(Carrier::Udp, role)));
            }
            Err(error) => builder.warn(error.messages().to_vec()),
        }
    }
    let members = servers.iter().map(|(server, _)| (server.address().to_owned(), 1)).collect();
    let round_robin = builder.tcp.round_robin(&format!("UDP {name}"), members);
    let traffic = builder.traffic(Carrier::Udp, Role::Service(name.to_owned()));
    Arc::new(Service::Servers(Servers { servers, round_robin, traffic }))
}
