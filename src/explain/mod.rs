//! What would happen to a request: entry point, certificate, routers, middlewares, service and server, without sending
//! it. `tidegate explain`, `/api/explain`, and the tests in configurations (`http.tests`).
//!
//! Each step is made by the code that requests run through: the index of routes finds the router, middlewares predict
//! by running in front of an end that keeps the request, balancers choose on a copy of their state.

mod candidates;
mod chain;
mod destination;
mod handshake;
mod place;
mod question;
mod report;
mod route_tests;

use std::sync::Arc;

use http::StatusCode;
use tidegate_config::{Kind, Origin};
use tidegate_core::{Body, Reason, Request, Response, TlsInfo, reply};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::entrypoint::http::forwarded::append_for;
use crate::entrypoint::http::preview::Intake;
use crate::router::without_port;
use crate::settings::Settings;
use crate::snapshot::report::Status;
use crate::snapshot::{InMaintenance, Route, Snapshot};
use chain::Way;
use destination::Destination;
use handshake::Handshake;
use place::Place;
use question::Asked;
pub(crate) use question::{Question, QuestionError, header_line};
pub(crate) use report::Explanation;
use report::{Level, MaintenanceView, Outcome, RequestView, RouterView};
pub(crate) use route_tests::failed_tests;

/// Returns what would happen to a request. May block: middlewares check passwords.
pub(crate) fn explain(
    snapshot: &Snapshot,
    settings: &Settings,
    question: &Question,
) -> Result<Explanation, QuestionError> {
    let asked = question.check()?;
    let place = place::choose(settings, snapshot, &question.entry_point, &asked)?;
    let intake = Intake::new(settings, place.name, place.options)
        .map_err(|error| QuestionError::Settings(place.name.to_owned(), error.to_string()))?;
    let mut headers: Vec<String> = asked.head.headers.keys().map(ToString::to_string).collect();
    headers.sort();
    let request = RequestView {
        method: asked.head.method.to_string(),
        url: asked.url.clone(),
        from: asked.client.ip().to_string(),
        headers,
        ..RequestView::default()
    };
    let explanation = Explanation { request, entry_point: place.view(), ..Explanation::default() };
    let explaining = Explaining { snapshot, settings, place, explanation };
    Ok(explaining.connect(asked, &intake))
}

/// Returns where an object was written.
fn origin_of(snapshot: &Snapshot, kind: Kind, name: &str) -> String {
    let report = snapshot.report.object(kind, name);
    report.and_then(|report| report.key.clone()).unwrap_or(Origin::Internal).to_string()
}

/// An explanation in progress.
struct Explaining<'a> {
    snapshot: &'a Snapshot,
    settings: &'a Settings,
    place: Place<'a>,
    explanation: Explanation,
}

impl Explaining<'_> {
    /// Follows the request from its connection on.
    fn connect(mut self, asked: Asked, intake: &Intake) -> Explanation {
        let index = self.place.index;
        let handshake =
            asked.is_tls.then(|| handshake::handshake(self.snapshot, index, &asked.host)).flatten();
        let server_name = handshake.as_ref().and_then(|handshake| handshake.view.server_name.clone());
        let tcp = self.snapshot.entry_points.get(index).and_then(|routes| routes.tcp.as_ref());
        let named = asked.is_tls.then(|| server_name.as_deref().unwrap_or(""));
        if let Some(route) = tcp.and_then(|tcp| tcp.instead_of_http(asked.client.ip(), named)) {
            return self.end(Way::default().outcome(format!("tcpRouter:{}", route.name)));
        }
        let mut way = Way::default();
        if let Some(handshake) = &handshake
            && handshake.demands_certificate
        {
            way.depends_on.push("the client's certificate".to_owned());
        }
        if handshake.as_ref().is_some_and(|handshake| handshake.failure.is_some()) {
            self.explanation.tls = handshake.map(|handshake| handshake.view);
            return self.end(way.outcome("handshake".to_owned()));
        }
        let tls = asked.is_tls.then(|| TlsInfo { server_name, version: "1.3", ..TlsInfo::default() });
        let body = Body::stand_in(asked.length);
        match intake.take_up(asked.head, body, asked.client, tls) {
            Err(response) => {
                self.explanation.tls = handshake.map(|handshake| handshake.view);
                self.end(way.responded("gateway".to_owned(), *response))
            }
            Ok(request) => self.route(request, intake, handshake, way),
        }
    }

    /// Routes a request that an entry point has taken up.
    fn route(
        mut self,
        request: Request,
        intake: &Intake,
        handshake: Option<Handshake>,
        way: Way,
    ) -> Explanation {
        self.explanation.request.host = request.host().to_owned();
        self.explanation.request.path = request.path().to_owned();
        let is_tls = handshake.is_some();
        let options = handshake.as_ref().map(|handshake| handshake.options.clone());
        self.explanation.tls = handshake.map(|handshake| handshake.view);
        if let Some(options) = &options {
            let host = without_port(request.host()).to_ascii_lowercase();
            let required = self.snapshot.tls_options_of(self.place.index, &host);
            if !required.is_some_and(|required| required.is_same(options)) {
                return self.end(way.responded("gateway".to_owned(), misdirected()));
            }
        }
        let routes = self.snapshot.entry_points.get(self.place.index);
        let index = routes.map(|routes| if is_tls { &routes.tls } else { &routes.plain });
        let route = index.and_then(|index| index.find(&request)).cloned();
        let routers = candidates::of_entry_point(self.snapshot, self.settings, self.place.name, is_tls);
        self.level(&routers, &request, route.as_deref());
        let Some(route) = route else {
            return self.end(way.responded("gateway".to_owned(), reply::not_found(Reason::NoRouter)));
        };
        let required = route.tls_options.as_ref().zip(options.as_ref());
        if required.is_some_and(|(required, options)| !required.is_same(options)) {
            return self.end(way.responded("gateway".to_owned(), misdirected()));
        }
        if intake.denies(request.path()) {
            let response = reply::empty(StatusCode::BAD_REQUEST, Reason::EncodedCharacters);
            return self.end(way.responded("gateway".to_owned(), response));
        }
        self.follow(&route, request, way)
    }

    /// Passes a request through its route, and those of child routers.
    fn follow(mut self, route: &Route, mut request: Request, mut way: Way) -> Explanation {
        // The exchange is not shared yet.
        if let Some(exchange) = Arc::get_mut(&mut request.context.exchange) {
            exchange.set_route(route.info.clone());
        }
        let name = own_name(route).to_owned();
        let names = chain::members(&route.info.middlewares);
        let (views, behind) = way.walk(self.snapshot, names, route.chain.middlewares(), request);
        let is_first = self.explanation.routing.len() == 1;
        if let Some(router) = self.explanation.routing.last_mut().and_then(|level| level.router.as_mut()) {
            router.middlewares = views;
        }
        let mut request = match behind {
            Ok(request) => request,
            Err(stopped) => return self.end(way.stopped(*stopped)),
        };
        let report = self.snapshot.report.object(Kind::Router, &name);
        if report.is_none_or(|report| report.status == Status::Disabled) {
            let response = reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::RouterBroken);
            return self.end(way.responded("gateway".to_owned(), response));
        }
        if is_first {
            append_for(&mut request);
        }
        let Some(children) = &route.children else { return self.reach(&route.info.service, request, way) };
        let child = children.find(&request).cloned();
        let routers = candidates::of_parent(self.snapshot, &name);
        self.level(&routers, &request, child.as_deref());
        match child {
            Some(child) => self.follow(&child, request, way),
            None => self.end(way.responded("gateway".to_owned(), reply::not_found(Reason::NoRouter))),
        }
    }

    /// Follows a request to its service.
    fn reach(mut self, name: &str, request: Request, mut way: Way) -> Explanation {
        let Some(service) = self.snapshot.services.get(name) else {
            let response = reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::RouterBroken);
            return self.end(way.responded("gateway".to_owned(), response));
        };
        self.explanation.result.service = Some(name.to_owned());
        let (view, destination) = destination::reach(self.snapshot, name, service, request, &mut way);
        self.explanation.service = Some(view);
        let outcome = match destination {
            Destination::Server(forwarded) => {
                self.explanation.forwarded = forwarded;
                way.outcome("server".to_owned())
            }
            Destination::Own => way.outcome("gateway".to_owned()),
            Destination::Nobody(response) => way.responded("gateway".to_owned(), response),
            Destination::Stopped(stopped) => way.stopped(*stopped),
        };
        self.end(outcome)
    }

    /// Adds a choice between routers; `route` is the one that was found.
    fn level(
        &mut self,
        routers: &[(&str, &tidegate_config::router::Router)],
        request: &Request,
        route: Option<&Route>,
    ) {
        let chosen = route.map(own_name);
        let (candidates, omitted) = candidates::compare(self.snapshot, routers, request, chosen);
        let router = route.map(|route| self.router(route));
        if let Some(router) = &router {
            self.explanation.result.router = Some(router.name.clone());
        }
        self.explanation.routing.push(Level { candidates, omitted, router });
    }

    /// Describes a route that the request has not passed yet.
    fn router(&self, route: &Route) -> RouterView {
        let name = own_name(route);
        let names = chain::members(&route.info.middlewares);
        let report = self.snapshot.report.object(Kind::Router, name);
        let options = self.snapshot.report.config.http.routers.get(name);
        let resolver = options.and_then(|router| router.tls.as_ref()).map(|tls| tls.cert_resolver.clone());
        RouterView {
            name: name.to_owned(),
            status: report.map_or("disabled", |report| report.status.as_str()),
            errors: report.map(|report| report.faults().to_vec()).unwrap_or_default(),
            origin: origin_of(self.snapshot, Kind::Router, name),
            kept: report.and_then(|report| report.kept.clone()),
            maintenance: self.snapshot.maintenance.active.get(name).map(maintenance_view),
            cert_resolver: resolver.filter(|resolver| !resolver.is_empty()),
            middlewares: chain::not_reached(self.snapshot, names),
        }
    }

    fn end(mut self, outcome: Outcome) -> Explanation {
        let Outcome { router, service, .. } = std::mem::take(&mut self.explanation.result);
        self.explanation.result = Outcome { router, service, ..outcome };
        self.explanation
    }
}

fn maintenance_view(one: &InMaintenance) -> MaintenanceView {
    let until = one.switch.as_ref().and_then(|switch| switch.until);
    let until = until.and_then(|until| OffsetDateTime::from_unix_timestamp(until).ok());
    MaintenanceView {
        source: if one.switch.is_some() { "switch" } else { "configuration" },
        until: until.and_then(|until| until.format(&Rfc3339).ok()),
        allow: one.options.allow.clone(),
    }
}

/// Returns the name of a router without those of its parents.
fn own_name(route: &Route) -> &str {
    route.info.router.rsplit(" -> ").next().unwrap_or(&route.info.router)
}

fn misdirected() -> Response {
    reply::error(StatusCode::MISDIRECTED_REQUEST, "Misdirected Request", Reason::Misdirected)
}
