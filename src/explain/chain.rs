//! Passes a request through the middlewares of a router or service, without sending it.

use std::sync::Arc;

use http::header::{HOST, LOCATION};
use http::{HeaderMap, HeaderName};
use tidegate_config::{Kind, Middleware as Options};
use tidegate_core::{Middleware, MiddlewareInfo, Origin, Prediction, Request, Response, Verdict};
use tidegate_middlewares::Options as Kinds;

use super::origin_of;
use super::report::{Answer, Change, Changes, MiddlewareView, Outcome};
use crate::snapshot::Snapshot;
use crate::snapshot::maintenance::GATE;
use crate::snapshot::routes::ACCESS;

/// Maximum number of nested chains whose members are named.
const MAX_NESTING: usize = 10;

/// The way of a request so far.
#[derive(Default)]
pub(super) struct Way {
    /// The middlewares that passed it on, with the request as each received it.
    passed: Vec<(String, Arc<dyn Middleware>, Request)>,
    /// The middlewares that decide only when it is sent.
    pub(super) depends_on: Vec<String>,
}

/// The name of a middleware of a chain.
pub(super) struct Named {
    name: String,
    /// The chains that it is part of, outermost first.
    via: Vec<String>,
}

/// A middleware that responds.
pub(super) struct Stopped {
    by: String,
    response: Response,
}

impl Way {
    /// Passes a request through middlewares. Returns what each does, and the request behind them, or the response of
    /// the one that responds.
    pub(super) fn walk<'m>(
        &mut self,
        snapshot: &Snapshot,
        names: Vec<Named>,
        middlewares: impl Iterator<Item = &'m Arc<dyn Middleware>>,
        request: Request,
    ) -> (Vec<MiddlewareView>, Result<Request, Box<Stopped>>) {
        let mut views = Vec::new();
        let mut at = Ok(request);
        for (named, middleware) in names.into_iter().zip(middlewares) {
            let mut view = view(snapshot, named);
            at = match at {
                Ok(request) => self.step(&mut view, middleware, request),
                Err(stopped) => {
                    view.verdict = "notReached";
                    Err(stopped)
                }
            };
            views.push(view);
        }
        (views, at)
    }

    fn step(
        &mut self,
        view: &mut MiddlewareView,
        middleware: &Arc<dyn Middleware>,
        request: Request,
    ) -> Result<Request, Box<Stopped>> {
        let before = request.stand_in();
        let Prediction { verdict, notes, response_headers } = middleware.predict(request);
        view.notes = notes;
        let after = match verdict {
            Verdict::Passes(request) => {
                view.verdict = "passes";
                request
            }
            Verdict::Depends(request) => {
                view.verdict = "depends";
                self.depends_on.push(view.name.clone());
                request
            }
            Verdict::Responds(response) => {
                view.verdict = "responds";
                view.response = Some(answer(&response));
                return Err(Box::new(Stopped { by: view.name.clone(), response: *response }));
            }
        };
        let changes = changes(&before, &after, &response_headers);
        view.changes = (changes != Changes::default()).then_some(changes);
        self.passed.push((view.name.clone(), middleware.clone(), before));
        Ok(*after)
    }

    /// Returns the outcome if a middleware responds.
    pub(super) fn stopped(self, stopped: Stopped) -> Outcome {
        let is_own = stopped.response.origin() == Origin::Middleware;
        let origin = if is_own {
            format!("middleware:{}", stopped.by)
        } else {
            stopped.response.origin().name().to_owned()
        };
        self.responded(origin, stopped.response)
    }

    /// Returns the outcome if the gateway responds, with the changes that middlewares make to the response.
    pub(super) fn responded(self, origin: String, mut response: Response) -> Outcome {
        let mut outcome = self.outcome(origin);
        for (name, middleware, request) in self.passed.iter().rev() {
            let before = response.origin();
            let note = middleware.revise(request, &mut response);
            if response.origin() != before {
                outcome.origin = format!("middleware:{name}");
            }
            outcome.revised.extend(note.map(|note| format!("{name} {note}")));
        }
        outcome.response = Some(answer(&response));
        outcome
    }

    /// Returns the outcome if another responds.
    pub(super) fn outcome(&self, origin: String) -> Outcome {
        Outcome {
            origin,
            certain: self.depends_on.is_empty(),
            depends_on: self.depends_on.clone(),
            ..Outcome::default()
        }
    }
}

/// Names the middlewares of a route.
pub(super) fn members(middlewares: &[MiddlewareInfo]) -> Vec<Named> {
    let named = |one: &MiddlewareInfo| Named {
        name: one.name.to_string(),
        via: one.via.iter().map(ToString::to_string).collect(),
    };
    middlewares.iter().map(named).collect()
}

/// Names the members of middlewares that are not part of a route, whose chains are expanded.
pub(super) fn expanded<'n>(snapshot: &Snapshot, names: impl Iterator<Item = &'n str>) -> Vec<Named> {
    let mut leaves = Vec::new();
    for name in names {
        expand(snapshot, name, &mut Vec::new(), &mut leaves);
    }
    leaves
}

/// Describes middlewares that the request does not reach.
pub(super) fn not_reached(snapshot: &Snapshot, names: Vec<Named>) -> Vec<MiddlewareView> {
    let views = names.into_iter().map(|named| view(snapshot, named));
    views.map(|view| MiddlewareView { verdict: "notReached", ..view }).collect()
}

/// Collects the members of a middleware that is a chain, or else the middleware itself.
fn expand(snapshot: &Snapshot, name: &str, via: &mut Vec<String>, leaves: &mut Vec<Named>) {
    let options: Option<&Arc<Options>> = snapshot.report.config.http.middlewares.get(name);
    match options.map(|options| (&options.options, options.when.is_empty())) {
        // A chain with a condition is one middleware.
        Some((Kinds::chain(chain), true)) if via.len() < MAX_NESTING => {
            via.push(name.to_owned());
            for member in &chain.middlewares {
                expand(snapshot, member, via, leaves);
            }
            via.pop();
        }
        _ => leaves.push(Named { name: name.to_owned(), via: via.clone() }),
    }
}

fn view(snapshot: &Snapshot, named: Named) -> MiddlewareView {
    let Named { name, via } = named;
    let options = snapshot.report.config.http.middlewares.get(&name);
    // Options of a router are no middlewares of the configuration.
    let own = [ACCESS, GATE].into_iter().find(|own| *own == name).unwrap_or("");
    MiddlewareView {
        kind: options.map_or(own, |options| options.kind()).to_owned(),
        origin: origin_of(snapshot, Kind::Middleware, &name),
        name,
        via,
        ..MiddlewareView::default()
    }
}

/// Describes a response of the gateway.
pub(super) fn answer(response: &Response) -> Answer {
    let location = response.headers().get(LOCATION);
    Answer {
        status: response.status().as_u16(),
        reason: response.reason.map(|reason| reason.name()),
        description: response.reason.map(|reason| reason.description()),
        location: location.map(|location| String::from_utf8_lossy(location.as_bytes()).into_owned()),
    }
}

fn changes(before: &Request, after: &Request, response_headers: &[HeaderName]) -> Changes {
    let change =
        |from: &str, to: &str| (from != to).then(|| Change { from: from.to_owned(), to: to.to_owned() });
    let target = |request: &Request| request.head.uri.to_string();
    let (old, new) = (&before.head.headers, &after.head.headers);
    let values = |headers: &HeaderMap, name: &HeaderName| {
        headers.get_all(name).iter().cloned().collect::<Vec<http::HeaderValue>>()
    };
    let set = new.keys().filter(|name| **name != HOST && values(old, name) != values(new, name));
    let removed = old.keys().filter(|name| !new.contains_key(*name));
    let sorted = |names: &mut dyn Iterator<Item = &HeaderName>| {
        let mut names: Vec<String> = names.map(ToString::to_string).collect();
        names.sort();
        names
    };
    Changes {
        path: change(&target(before), &target(after)),
        host: change(before.host(), after.host()),
        request_headers: sorted(&mut set.into_iter()),
        removed_request_headers: sorted(&mut removed.into_iter()),
        response_headers: sorted(&mut response_headers.iter()),
    }
}
