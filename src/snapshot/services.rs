//! Builds HTTP services and their transports.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_config::middleware::Middleware;
use tidegate_config::service::{LoadBalancer, Service as Options, WeightedService};
use tidegate_config::static_files::StaticFiles;
use tidegate_config::transport::ServersTransport;
use tidegate_core::reference::{Reference, provider_of};
use tidegate_core::{BoxFuture, BuildError, BuildErrors, Handler, Next, Request, Response};

use super::builder::{Builder, Component, Instances, Pool, Scope};
use crate::observability::metrics::CountedObject;
use crate::service::{Counters, Preview, Service, StaticService};
use crate::upstream::Transport;

/// Name of the default transport.
const DEFAULT_TRANSPORT: &str = "default@internal";
/// The services that `api.middlewares` guards, whichever router leads to them.
const GUARDED: [&str; 2] = ["api@internal", "dashboard@internal"];

impl Component for Options {
    type Instance = dyn Service;

    /// The middlewares of a service are instances of the service, not of the router that uses it.
    const SCOPE: Scope = Scope::Own;

    fn pool(instances: &Instances) -> &Pool<dyn Service> {
        &instances.services
    }

    fn pool_mut(instances: &mut Instances) -> &mut Pool<dyn Service> {
        &mut instances.services
    }

    fn missing(name: &str) -> String {
        format!("the service \"{name}\" does not exist")
    }

    fn built_in(builder: &Builder<'_>, name: &str) -> Option<Result<Arc<dyn Service>, BuildError>> {
        let service = builder.environment.internal.get(name).cloned()?;
        let api = builder.environment.settings.api.as_ref();
        match api.map(|api| api.middlewares.as_slice()) {
            Some(guards) if !guards.is_empty() && GUARDED.contains(&name) => {
                Some(behind(builder, guards.iter().map(String::as_str), Ok(service)))
            }
            _ => Some(Ok(service)),
        }
    }

    fn build(&self, builder: &Builder<'_>, name: &str) -> Result<Arc<dyn Service>, BuildError> {
        if self.middlewares.is_empty() {
            return build_kind(builder, name, self);
        }
        let middlewares = self.middlewares.iter().map(Reference::as_str);
        behind(builder, middlewares, build_kind(builder, name, self))
    }
}

impl Component for ServersTransport {
    type Instance = Transport;

    const SCOPE: Scope = Scope::Own;

    fn pool(instances: &Instances) -> &Pool<Transport> {
        &instances.transports
    }

    fn pool_mut(instances: &mut Instances) -> &mut Pool<Transport> {
        &mut instances.transports
    }

    fn missing(name: &str) -> String {
        format!("the servers transport {name:?} does not exist")
    }

    fn built_in(builder: &Builder<'_>, name: &str) -> Option<Result<Arc<Transport>, BuildError>> {
        let is_configured = builder.config.http.servers_transports.contains_key(name);
        (name == DEFAULT_TRANSPORT && !is_configured).then(|| default_transport(builder).build(builder, name))
    }

    fn build(&self, builder: &Builder<'_>, _: &str) -> Result<Arc<Transport>, BuildError> {
        Transport::build(self, &mut |path| builder.file(path))
    }
}

/// Returns the error for a service with several types or none.
pub(super) fn not_one_type(what: &str, name: &str, several: bool) -> BuildError {
    if several {
        return BuildError::new(
            "cannot create service: multi-types service not supported, consider declaring two different pieces of service instead",
        );
    }
    BuildError::new(format!("the {what} \"{name}\" does not have any type defined"))
}

/// Returns the number of kinds that the options set. Exactly one is valid.
pub(super) fn kinds(options: &Options) -> usize {
    usize::from(options.load_balancer.is_some())
        + usize::from(options.weighted.is_some())
        + usize::from(options.highest_random_weight.is_some())
        + usize::from(options.mirroring.is_some())
        + usize::from(options.failover.is_some())
        + usize::from(options.static_files.is_some())
}

fn default_transport(builder: &Builder<'_>) -> ServersTransport {
    let settings = &builder.environment.settings.servers_transport;
    ServersTransport {
        insecure_skip_verify: settings.insecure_skip_verify,
        root_cas: settings.root_cas.clone(),
        max_idle_conns_per_host: settings.max_idle_conns_per_host,
        forwarding_timeouts: Some(settings.forwarding_timeouts.clone()),
        spiffe: settings.spiffe.clone(),
        ..ServersTransport::default()
    }
}

fn build_kind(builder: &Builder<'_>, name: &str, options: &Options) -> Result<Arc<dyn Service>, BuildError> {
    let kinds = kinds(options);
    if kinds != 1 {
        return Err(not_one_type("service", name, kinds > 1));
    }
    let draft = &builder.http;
    let child = |child: &Reference| builder.instance::<Options>(child.as_str());
    if let Some(options) = &options.load_balancer {
        return load_balancer(builder, name, options);
    }
    if let Some(options) = &options.weighted {
        let children = BuildErrors::collect(children(&child, &options.services))?;
        return draft.weighted(name, options.sticky.as_ref(), children);
    }
    if let Some(options) = &options.highest_random_weight {
        let children = BuildErrors::collect(children(&child, &options.services))?;
        return draft.highest_random_weight(name, children);
    }
    if let Some(options) = &options.mirroring {
        let names = options.mirrors.iter().map(|mirror| &mirror.name);
        let all = [&options.service].into_iter().chain(names).map(&child);
        let mut all = BuildErrors::collect(all)?.into_iter();
        let main = all.next().ok_or_else(|| not_one_type("service", name, false))?;
        let percents = options.mirrors.iter().map(|mirror| mirror.percent);
        return draft.mirroring(options, main, percents.zip(all).collect());
    }
    if let Some(options) = &options.static_files {
        return static_files(builder, name, options);
    }
    let Some(options) = &options.failover else {
        return Err(not_one_type("service", name, false));
    };
    let both = [&options.service, &options.fallback].map(child);
    let mut both = BuildErrors::collect(both)?.into_iter();
    match (both.next(), both.next()) {
        (Some(main), Some(fallback)) => draft.failover(options, main, fallback),
        _ => Err(not_one_type("service", name, false)),
    }
}

fn load_balancer(
    builder: &Builder<'_>,
    name: &str,
    options: &LoadBalancer,
) -> Result<Arc<dyn Service>, BuildError> {
    let wanted = match options.servers_transport.as_str() {
        "" => DEFAULT_TRANSPORT,
        transport => transport,
    };
    let transport = builder.instance::<ServersTransport>(wanted)?;
    let urls: Vec<&str> = options.servers.iter().map(|server| server.url.as_str()).collect();
    builder.leave_servers(name, &urls);
    let counters = Counters {
        service: builder.counters(CountedObject::Service(name.to_owned())),
        server: &|url| builder.server_counters(name, url),
    };
    builder.http.load_balancer(name, options, transport, &counters)
}

/// Returns a service that serves files. Without `staticFiles.roots` in the settings, only files of configuration may
/// define one: whoever can write labels must not read the gateway's files.
fn static_files(
    builder: &Builder<'_>,
    name: &str,
    options: &StaticFiles,
) -> Result<Arc<dyn Service>, BuildError> {
    let settings = &builder.environment.settings;
    let roots = &settings.static_files.roots;
    let is_allowed = match provider_of(name) {
        provider if roots.is_empty() => settings.providers.is_file(provider),
        _ => settings.static_files.allows(&options.root),
    };
    if !is_allowed {
        return Err(BuildError::new(format!(
            "static.root: `{}` is not below a directory of the setting `staticFiles.roots`",
            options.root
        )));
    }
    let counters = builder.counters(CountedObject::Service(name.to_owned()));
    let service = StaticService::build(name, options, counters)?;
    builder.warn(service.problem());
    Ok(Arc::new(service))
}

/// Builds a child service by name.
type Child<'a> = dyn Fn(&Reference) -> Result<Arc<dyn Service>, BuildError> + 'a;
/// Name as configured, weight, service.
type Member = (String, i64, Arc<dyn Service>);

fn children<'a>(
    child: &'a Child<'_>,
    options: &'a [WeightedService],
) -> impl Iterator<Item = Result<Member, BuildError>> + 'a {
    options.iter().map(move |options| {
        let service = child(&options.name).map_err(|error| {
            BuildError::new(format!("building HTTP service \"{}\": {error}", options.name.written()))
        })?;
        Ok((options.name.written().to_owned(), options.weight.unwrap_or(1), service))
    })
}

/// Returns a service behind middlewares. If one of them cannot be built, nor can the service.
fn behind<'a>(
    builder: &Builder<'_>,
    middlewares: impl Iterator<Item = &'a str>,
    service: Result<Arc<dyn Service>, BuildError>,
) -> Result<Arc<dyn Service>, BuildError> {
    let mut errors = BuildErrors::default();
    let service = errors.check(service);
    let middlewares = middlewares.map(|name| builder.instance::<Middleware>(name));
    let middlewares = errors.check(BuildErrors::collect(middlewares));
    let wrapped = |(middlewares, service): (Vec<_>, Arc<dyn Service>)| {
        let chain = Next::new(middlewares, Next::service(service.clone()));
        Arc::new(Wrapped { chain, service }) as Arc<dyn Service>
    };
    errors.made(middlewares.zip(service).map(wrapped))
}

/// A service with middlewares.
struct Wrapped {
    chain: Next,
    service: Arc<dyn Service>,
}

impl Handler for Wrapped {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        self.chain.run(request)
    }
}

impl Service for Wrapped {
    fn is_up(&self) -> bool {
        self.service.is_up()
    }

    fn server_status(&self) -> BTreeMap<String, &'static str> {
        self.service.server_status()
    }

    fn held(&self) -> usize {
        self.service.held()
    }

    fn preview(&self, _: &Request) -> Preview {
        Preview::Behind(self.chain.clone(), self.service.clone())
    }
}
