//! From UDP routers and services to the route of each entry point.
//!
//! UDP has no rules, so an entry point has one router. When there are several, the last by name serves, as in Traefik.

use std::sync::Arc;

use tidegate_config::tcp::{UdpLoadBalancer, UdpRouter};
use tidegate_config::{Kind, ObjectRef};
use tidegate_core::{BuildError, BuildErrors};

use super::build::Builder;
use super::diagnostics::{self, Broken, Diagnostics, Services, not_one_type};
use super::outcome::Outcome;
use super::report::{Finding, ObjectReport};
use crate::udp::{Route, Server, Service};

/// What the UDP part of a configuration compiles to.
pub(super) struct Datagrams {
    /// For each entry point, in the order of the settings.
    pub(super) routes: Vec<Option<Arc<Route>>>,
    /// What became of each object.
    pub(super) findings: Vec<Finding>,
}

type Built = Result<Arc<Service>, BuildError>;

/// Compiles the UDP part.
pub(super) fn compile(builder: &Builder<'_>, broken: &Broken) -> Datagrams {
    let points = &builder.environment.settings.entry_points;
    let mut compiler = Compiler { builder, diagnostics: Diagnostics::new(broken) };
    let mut routes: Vec<Option<Arc<Route>>> = points.iter().map(|_| None).collect();
    let mut findings = Vec::new();
    for (name, router) in builder.config.udp.routers.iter().rev() {
        let (places, mut outcome) = compiler.place(router);
        if !router.service.is_empty() {
            compiler.diagnostics.use_of(Kind::UdpService, router.service.as_str(), name);
        }
        if !places.is_empty() {
            let service = compiler.service_of(name, router);
            let service = service.map_err(|error| outcome.errors.push(error.to_string())).ok();
            let route = Arc::new(Route { name: Arc::from(name.as_str()), service });
            for place in &places {
                match &routes[*place] {
                    None => routes[*place] = Some(route.clone()),
                    Some(other) => outcome.warnings.push(format!(
                        "UDP has no rules, so an entry point has one router: router {} takes its datagrams",
                        other.name
                    )),
                }
            }
        }
        let used_by = places.iter().filter_map(|place| points.keys().nth(*place)).cloned().collect();
        let known = ObjectReport { used_by, ..ObjectReport::default() };
        let object = ObjectRef { kind: Kind::UdpRouter, name: name.clone() };
        findings.push(Finding { object, known, outcome });
    }
    for name in builder.config.udp.services.keys() {
        // So that the mistakes of unused ones are told; the outcome is noted.
        let _ = compiler.service(name);
    }
    let services = builder.config.udp.services.keys();
    findings.extend(services.map(|name| compiler.diagnostics.finding(Kind::UdpService, name)));
    Datagrams { routes, findings }
}

struct Compiler<'a, 'b> {
    builder: &'a Builder<'b>,
    diagnostics: Diagnostics<'a, Arc<Service>>,
}

impl Compiler<'_, '_> {
    /// The entry points of a router, in order; all for UDP when it names none.
    fn place(&self, router: &UdpRouter) -> (Vec<usize>, Outcome) {
        let settings = &self.builder.environment.settings;
        let all = || settings.entry_points.iter().filter(|(_, point)| point.is_udp());
        let (mut places, outcome) = match router.entry_points.is_empty() {
            true => {
                let all: Vec<String> = all().map(|(name, _)| name.clone()).collect();
                diagnostics::places(settings, &all, true)
            }
            false => diagnostics::places(settings, &router.entry_points, true),
        };
        places.sort_unstable();
        (places, outcome)
    }

    fn service_of(&mut self, name: &str, router: &UdpRouter) -> Built {
        self.diagnostics.refuse_broken(Kind::UdpRouter, name)?;
        if router.service.is_empty() {
            return Err(BuildError::new("the service is missing on the udp router"));
        }
        self.service(router.service.as_str())
    }

    fn load_balancer(&mut self, name: &str, options: &UdpLoadBalancer) -> Arc<Service> {
        let mut servers = Vec::new();
        for server in &options.servers {
            match Server::new(&server.address) {
                Ok(server) => servers.push(Arc::new(server)),
                Err(error) => self.diagnostics.warn(Kind::UdpService, name, error.messages().to_vec()),
            }
        }
        let members = servers.iter().map(|server| (server.address().to_owned(), 1)).collect();
        let turns = self.turns(name, members);
        Arc::new(Service::Servers(servers, turns))
    }

    fn turns(&self, name: &str, members: Vec<(String, i64)>) -> Arc<crate::tcp::RoundRobin> {
        self.builder.tcp.turns(&format!("UDP {name}"), members)
    }
}

impl<'a> Services<'a> for Compiler<'a, '_> {
    type Service = Arc<Service>;
    const KIND: Kind = Kind::UdpService;
    const PROTOCOL: &'static str = "UDP";

    fn diagnostics(&mut self) -> &mut Diagnostics<'a, Self::Service> {
        &mut self.diagnostics
    }

    fn build_service(&mut self, name: &str) -> Built {
        let options = self.builder.config.udp.services.get(name);
        let options =
            options.ok_or_else(|| BuildError::new(format!("the UDP service \"{name}\" does not exist")))?;
        match (&options.load_balancer, &options.weighted) {
            (Some(balancer), None) => Ok(self.load_balancer(name, balancer)),
            (None, Some(weighted)) => {
                let mut children = Vec::new();
                let mut members = Vec::new();
                let mut errors = BuildErrors::default();
                for child in &weighted.services {
                    let service = self.service(child.name.as_str());
                    children.extend(errors.check(service));
                    members.push((child.name.written().to_owned(), child.weight.unwrap_or(1)));
                }
                errors.finish()?;
                Ok(Arc::new(Service::Weighted(children, self.turns(name, members))))
            }
            (balancer, _) => Err(not_one_type("UDP service", name, balancer.is_some())),
        }
    }
}
