//! The service that a request reaches, and which of its servers is next.

use std::sync::Arc;

use http::StatusCode;
use http::uri::PathAndQuery;
use tidegate_config::Kind;
use tidegate_config::service::Service as Options;
use tidegate_core::{Reason, Request, Response, UpstreamError, reply};

use super::chain::{Stopped, Way, expanded};
use super::origin_of;
use super::report::{ChildView, Forwarded, HoldView, ServerView, ServiceView};
use crate::service::{Choice, Preview, ServerPreview, Service};
use crate::snapshot::Snapshot;

/// Maximum number of servers that are listed.
const MAX_SERVERS: usize = 100;
/// Maximum number of nested services that are followed.
const MAX_NESTING: usize = 20;

/// Who responds to a request that has reached a service.
pub(super) enum Destination {
    /// A server, which receives the request like this; `None` if one of several does.
    Server(Option<Forwarded>),
    /// The gateway itself.
    Own,
    /// No server is usable.
    Nobody(Response),
    /// A middleware of the service.
    Stopped(Box<Stopped>),
}

/// Follows a request to its server.
pub(super) fn reach(
    snapshot: &Snapshot,
    name: &str,
    service: &Arc<dyn Service>,
    request: Request,
    way: &mut Way,
) -> (ServiceView, Destination) {
    follow(snapshot, name, service, request, way, MAX_NESTING)
}

fn follow(
    snapshot: &Snapshot,
    name: &str,
    service: &Arc<dyn Service>,
    request: Request,
    way: &mut Way,
    depth: usize,
) -> (ServiceView, Destination) {
    let options = snapshot.report.config.http.services.get(name).map(|options| &**options);
    let mut view = ServiceView {
        name: name.to_owned(),
        kind: options.map_or("internal", kind),
        origin: origin_of(snapshot, Kind::Service, name),
        hold: options.and_then(|options| hold(options, service.held())),
        kept: snapshot.report.object(Kind::Service, name).and_then(|report| report.kept.clone()),
        ..ServiceView::default()
    };
    let (mut service, mut request) = (service.clone(), request);
    if let Preview::Behind(chain, inner) = service.preview(&request) {
        let names = options.iter().flat_map(|options| options.middlewares.iter().map(|name| name.as_str()));
        let names = expanded(snapshot, names);
        let (views, behind) = way.walk(snapshot, names, chain.middlewares(), request);
        view.middlewares = views;
        match behind {
            Ok(passed) => (service, request) = (inner, passed),
            Err(stopped) => return (view, Destination::Stopped(stopped)),
        }
    }
    match service.preview(&request) {
        Preview::Own | Preview::Behind(..) => (view, Destination::Own),
        Preview::Servers(servers, choice) => {
            view.choice = Some(choice_name(choice));
            let destination = to_server(&servers, choice, &request);
            let waits = choice == Choice::Nobody && !request.context.has_substitute;
            if let Some(hold) = view.hold.as_ref().filter(|_| waits) {
                way.depends_on.push(format!("a server of {name} within {} (hold)", hold.max_wait));
            }
            view.omitted = servers.len().saturating_sub(MAX_SERVERS);
            let shown = servers.into_iter().enumerate().take(MAX_SERVERS);
            view.servers =
                shown.map(|(index, server)| server_view(server, choice == Choice::Next(index))).collect();
            (view, destination)
        }
        Preview::Services(children, choice) => {
            view.choice = Some(choice_name(choice));
            let names = options.map(children_of).unwrap_or_default();
            let mut destination = match choice {
                Choice::Next(_) | Choice::Random => Destination::Server(None),
                Choice::Nobody if view.kind == "failover" => {
                    Destination::Nobody(reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::NoServer))
                }
                Choice::Nobody => Destination::Nobody(reply::upstream_failure(UpstreamError::NoServer)),
            };
            for (index, child) in children.iter().enumerate().take(MAX_SERVERS) {
                let (name, role) =
                    names.get(index).map_or(("", "member"), |(name, role)| (name.as_str(), *role));
                let next = choice == Choice::Next(index);
                let mut shown =
                    ChildView { name: name.to_owned(), role, up: child.is_up(), next, service: None };
                if next && depth > 0 {
                    let (inner, reached) = follow(snapshot, name, child, request.stand_in(), way, depth - 1);
                    (shown.service, destination) = (Some(Box::new(inner)), reached);
                }
                view.services.push(shown);
            }
            (view, destination)
        }
    }
}

fn to_server(servers: &[ServerPreview], choice: Choice, request: &Request) -> Destination {
    match choice {
        Choice::Nobody => Destination::Nobody(reply::upstream_failure(UpstreamError::NoServer)),
        Choice::Next(index) => {
            Destination::Server(servers.get(index).map(|server| forwarded(server, request)))
        }
        Choice::Random => {
            // Known if all servers receive the same.
            let mut all = servers.iter().filter(|server| server.weight > 0.0);
            let first = all.next();
            let same = first.filter(|first| {
                all.all(|other| (&other.target, &other.host) == (&first.target, &first.host))
            });
            Destination::Server(same.map(|server| forwarded(server, request)))
        }
    }
}

fn forwarded(server: &ServerPreview, request: &Request) -> Forwarded {
    let target = server.target.as_ref().unwrap_or(&request.head.uri);
    Forwarded {
        method: request.head.method.to_string(),
        host: server.host.clone().unwrap_or_else(|| request.host().to_owned()),
        path: target.path_and_query().map_or("/", PathAndQuery::as_str).to_owned(),
    }
}

/// Describes how requests of a service wait.
fn hold(options: &Options, waiting: usize) -> Option<HoldView> {
    let hold = options.load_balancer.as_ref()?.hold.as_ref()?;
    Some(HoldView { max_wait: hold.max_wait.to_string(), max_queue: hold.max_queue, waiting })
}

fn server_view(server: ServerPreview, next: bool) -> ServerView {
    let ServerPreview { url, state, weight, in_flight, .. } = server;
    ServerView { url, state, weight, in_flight, next }
}

fn choice_name(choice: Choice) -> &'static str {
    match choice {
        Choice::Next(_) => "next",
        Choice::Random => "random",
        Choice::Nobody => "none",
    }
}

fn kind(options: &Options) -> &'static str {
    match options {
        Options { load_balancer: Some(_), .. } => "loadBalancer",
        Options { weighted: Some(_), .. } => "weighted",
        Options { highest_random_weight: Some(_), .. } => "highestRandomWeight",
        Options { mirroring: Some(_), .. } => "mirroring",
        Options { failover: Some(_), .. } => "failover",
        Options { static_files: Some(_), .. } => "static",
        _ => "internal",
    }
}

/// Returns the names and roles of the services that a service consists of, without those that have no weight.
fn children_of(options: &Options) -> Vec<(String, &'static str)> {
    let weighted = options.weighted.iter().flat_map(|options| &options.services);
    let hashed = options.highest_random_weight.iter().flat_map(|options| &options.services);
    let members = weighted.chain(hashed).filter(|child| child.weight.unwrap_or(1) > 0);
    let mut names: Vec<(String, &str)> =
        members.map(|child| (child.name.as_str().to_owned(), "member")).collect();
    if let Some(mirroring) = &options.mirroring {
        names.push((mirroring.service.as_str().to_owned(), "main"));
        names.extend(mirroring.mirrors.iter().map(|mirror| (mirror.name.as_str().to_owned(), "mirror")));
    }
    if let Some(failover) = &options.failover {
        names.push((failover.service.as_str().to_owned(), "main"));
        names.push((failover.fallback.as_str().to_owned(), "fallback"));
    }
    names
}
