//! From UDP routers and services to the route of each entry point.
//!
//! UDP has no rules, so an entry point has one router. When there are several, the last by name serves, as in Traefik.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tidegate_config::tcp::{UdpLoadBalancer, UdpRouter, UdpService};
use tidegate_config::{Kind, ObjectRef};
use tidegate_core::BuildError;

use super::attach::{provider_of, qualify};
use super::build::Builder;
use super::report::{Finding, ObjectReport};
use super::routes::Outcome;
use crate::udp::{Route, Server, Service};

/// What the UDP part of a configuration compiles to.
pub(super) struct Datagrams {
    /// For each entry point, in the order of the settings.
    pub(super) routes: Vec<Option<Arc<Route>>>,
    /// What became of each object.
    pub(super) findings: Vec<Finding>,
}

/// Objects whose options could not be read, with the reasons.
type Broken = BTreeMap<ObjectRef, Vec<String>>;
type Built = Result<Arc<Service>, BuildError>;

/// Compiles the UDP part.
pub(super) fn compile(builder: &Builder<'_>, broken: &Broken) -> Datagrams {
    let points = &builder.environment.settings.entry_points;
    let mut compiler = Compiler {
        builder,
        broken,
        services: HashMap::new(),
        path: Vec::new(),
        outcomes: BTreeMap::new(),
        users: BTreeMap::new(),
    };
    let mut routes: Vec<Option<Arc<Route>>> = points.iter().map(|_| None).collect();
    let mut findings = Vec::new();
    for (name, router) in builder.config.udp.routers.iter().rev() {
        let (places, mut outcome) = compiler.place(router);
        if !router.service.is_empty() {
            let service =
                ObjectRef { kind: Kind::UdpService, name: qualify(&router.service, provider_of(name)) };
            compiler.users.entry(service).or_default().push(name.clone());
        }
        if !places.is_empty() {
            let service = compiler.service_of(name, router);
            let service = service.map_err(|error| outcome.errors.push(error.0)).ok();
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
    findings.extend(compiler.findings());
    Datagrams { routes, findings }
}

struct Compiler<'a, 'b> {
    builder: &'a Builder<'b>,
    broken: &'a Broken,
    services: HashMap<String, Built>,
    /// Services that are being built, outermost first.
    path: Vec<String>,
    outcomes: BTreeMap<ObjectRef, Outcome>,
    /// Routers by the service that they use.
    users: BTreeMap<ObjectRef, Vec<String>>,
}

impl Compiler<'_, '_> {
    /// The entry points of a router, in order; all for UDP when it names none.
    fn place(&self, router: &UdpRouter) -> (Vec<usize>, Outcome) {
        let points = &self.builder.environment.settings.entry_points;
        let udp = || points.iter().enumerate().filter(|(_, (_, point))| point.is_udp());
        let mut places = Vec::new();
        let mut missing = Vec::new();
        if router.entry_points.is_empty() {
            places.extend(udp().map(|(place, _)| place));
        }
        for wanted in &router.entry_points {
            match udp().find(|(_, (name, _))| *name == wanted) {
                Some((place, _)) => places.push(place),
                None => missing.push(format!("entryPoint \"{wanted}\" doesn't exist")),
            }
        }
        places.sort_unstable();
        places.dedup();
        let mut outcome = Outcome::default();
        if places.is_empty() {
            missing.push("no valid entryPoint for this router".into());
            outcome.errors = missing;
        } else {
            outcome.warnings = missing;
        }
        (places, outcome)
    }

    fn service_of(&mut self, name: &str, router: &UdpRouter) -> Built {
        self.refuse_broken(&ObjectRef { kind: Kind::UdpRouter, name: name.to_owned() })?;
        if router.service.is_empty() {
            return Err(BuildError::new("the service is missing on the udp router"));
        }
        self.service(&qualify(&router.service, provider_of(name)))
    }

    /// The service of this qualified name.
    fn service(&mut self, name: &str) -> Built {
        if let Some(known) = self.services.get(name) {
            return known.clone();
        }
        if self.path.iter().any(|outer| outer == name) {
            let path = [&self.path[..], &[name.to_owned()]].concat().join("->");
            return Err(BuildError(format!(
                "could not instantiate UDP service {name}: recursion detected in {path}"
            )));
        }
        self.path.push(name.to_owned());
        let object = ObjectRef { kind: Kind::UdpService, name: name.to_owned() };
        let made = self.refuse_broken(&object).and_then(|()| {
            let options = self.builder.config.udp.services.get(name);
            let options =
                options.ok_or_else(|| BuildError(format!("the UDP service \"{name}\" does not exist")))?;
            let made = self.build_service(name, options);
            if let Err(error) = &made {
                self.outcomes.entry(object).or_default().errors.push(error.0.clone());
            }
            made
        });
        self.path.pop();
        self.services.insert(name.to_owned(), made.clone());
        made
    }

    fn build_service(&mut self, name: &str, options: &UdpService) -> Built {
        match (&options.load_balancer, &options.weighted) {
            (Some(_), Some(_)) => Err(BuildError::new(
                "cannot create service: multi-types service not supported, consider declaring two different pieces of service instead",
            )),
            (Some(balancer), None) => Ok(self.load_balancer(name, balancer)),
            (None, Some(weighted)) => {
                let mut children = Vec::new();
                let mut members = Vec::new();
                for child in &weighted.services {
                    children.push(self.service(&qualify(&child.name, provider_of(name)))?);
                    members.push((child.name.clone(), child.weight.unwrap_or(1)));
                }
                Ok(Arc::new(Service::Weighted(children, self.turns(name, members))))
            }
            (None, None) => {
                Err(BuildError(format!("the UDP service \"{name}\" does not have any type defined")))
            }
        }
    }

    fn load_balancer(&mut self, name: &str, options: &UdpLoadBalancer) -> Arc<Service> {
        let mut servers = Vec::new();
        for server in &options.servers {
            match Server::new(&server.address) {
                Ok(server) => servers.push(Arc::new(server)),
                Err(error) => {
                    let object = ObjectRef { kind: Kind::UdpService, name: name.to_owned() };
                    self.outcomes.entry(object).or_default().warnings.push(error.0);
                }
            }
        }
        let members = servers.iter().map(|server| (server.address().to_owned(), 1)).collect();
        let turns = self.turns(name, members);
        Arc::new(Service::Servers(servers, turns))
    }

    fn turns(&self, name: &str, members: Vec<(String, i64)>) -> Arc<crate::tcp::Turns> {
        self.builder.environment.tcp.turns(&format!("UDP {name}"), members)
    }

    /// What became of the services.
    fn findings(mut self) -> Vec<Finding> {
        let names = self.builder.config.udp.services.keys();
        names
            .map(|name| {
                let object = ObjectRef { kind: Kind::UdpService, name: name.clone() };
                let mut used_by = self.users.remove(&object).unwrap_or_default();
                used_by.sort();
                let outcome = self.outcomes.remove(&object).unwrap_or_default();
                Finding { object, known: ObjectReport { used_by, ..ObjectReport::default() }, outcome }
            })
            .collect()
    }

    fn refuse_broken(&self, object: &ObjectRef) -> Result<(), BuildError> {
        self.broken.get(object).map_or(Ok(()), |reasons| Err(BuildError(reasons.join("; "))))
    }
}
