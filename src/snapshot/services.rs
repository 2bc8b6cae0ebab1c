//! From the options of a service to the service: its kind, its children, its transport, its middlewares.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_config::service::{LoadBalancer, Service as Options, WeightedService};
use tidegate_config::transport::ServersTransport;
use tidegate_core::reference::Reference;
use tidegate_core::{BoxFuture, BuildError, BuildErrors, Handler, Next, Request, Response};

use super::build::Builder;
use super::diagnostics::not_one_type;
use crate::service::Service;
use crate::upstream::Transport;

/// Name of the transport of services that name none.
const DEFAULT_TRANSPORT: &str = "default@internal";

/// Builds the service of this qualified name.
pub(super) fn build(builder: &Builder<'_>, name: &str) -> Result<Arc<dyn Service>, BuildError> {
    let internal = builder.environment.internal.get(name);
    let Some(options) = builder.config.http.services.get(name).filter(|_| internal.is_none()) else {
        return internal
            .cloned()
            .ok_or_else(|| BuildError::new(format!("the service \"{name}\" does not exist")));
    };
    if options.middlewares.is_empty() {
        return build_kind(builder, name, options);
    }
    let mut errors = BuildErrors::default();
    let service = errors.check(build_kind(builder, name, options));
    let owner = format!("service {name}");
    let middlewares =
        options.middlewares.iter().map(|middleware| builder.middleware_for(middleware.as_str(), &owner));
    let middlewares = errors.check(BuildErrors::collect(middlewares));
    let wrapped = |(middlewares, service): (Vec<_>, Arc<dyn Service>)| {
        let chain = Next::new(middlewares, Next::service(service.clone()));
        Arc::new(Wrapped { chain, service }) as Arc<dyn Service>
    };
    errors.made(middlewares.zip(service).map(wrapped))
}

/// Builds the transport of this qualified name.
pub(super) fn transport(builder: &Builder<'_>, name: &str) -> Result<Arc<Transport>, BuildError> {
    let of_settings;
    let options = match builder.config.http.servers_transports.get(name) {
        Some(options) => options,
        None if name == DEFAULT_TRANSPORT => {
            of_settings = default_transport(builder);
            &of_settings
        }
        None => return Err(BuildError::new(format!("the servers transport {name:?} does not exist"))),
    };
    Transport::build(options, &mut |path| builder.file(path))
}

/// The number of kinds that the options have: exactly one is right.
pub(super) fn kinds(options: &Options) -> usize {
    usize::from(options.load_balancer.is_some())
        + usize::from(options.weighted.is_some())
        + usize::from(options.highest_random_weight.is_some())
        + usize::from(options.mirroring.is_some())
        + usize::from(options.failover.is_some())
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
    let child = |child: &Reference| builder.service_named(child.as_str());
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
    let transport = builder.transport_named(wanted)?;
    builder.http.load_balancer(name, options, transport)
}

/// Builds the child of a name.
type Child<'a> = dyn Fn(&Reference) -> Result<Arc<dyn Service>, BuildError> + 'a;
/// Name as written, weight, service.
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

/// A service behind its own middlewares.
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
}
