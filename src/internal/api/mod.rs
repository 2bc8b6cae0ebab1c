//! `api@internal`: the configuration and its status in the format of Traefik's API.

mod caches;
mod certificates;
mod cluster;
mod explain;
mod json;
mod limits;
mod list;
mod maintenance;
mod operator;
mod overview;
mod requests;
mod sessions;
mod statistics;
mod usage;

use std::sync::Arc;
use std::time::SystemTime;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tidegate_config::{Kind, Origin};
use tidegate_core::{Body, BoxFuture, Handler, Reason, Request, Response, boxed, reply};

use super::debug::Debug;
use super::{Surroundings, dashboard};
use crate::gateway::capitalised;
use crate::service::Service;
use crate::settings::Api as Options;
use crate::snapshot::report::ObjectReport;
use crate::snapshot::{Snapshot, WeakSnapshotHandle};
use json::{Form, Object, add, as_go};
use list::Query;

/// Objects that do not exist in Traefik, hidden so that lists are equal.
const UNLISTED: &str = "ready@internal";
const NEXT_PAGE: HeaderName = HeaderName::from_static("x-next-page");

/// The service.
pub(super) struct Api {
    around: Surroundings,
    started: SystemTime,
    /// The base path, without a trailing slash.
    base: String,
    dashboard: Option<dashboard::Dashboard>,
    debug: Option<Debug>,
}

impl Api {
    /// Creates the API.
    pub(super) fn new(around: Surroundings, options: &Options) -> Self {
        Self {
            debug: options.debug.then(|| Debug::new(around.runtimes.clone())),
            around,
            started: SystemTime::now(),
            base: options.base().to_owned(),
            dashboard: options.dashboard.then(|| dashboard::Dashboard::new(options)),
        }
    }

    fn answer(&self, request: &Request) -> Response {
        let path = request.path();
        let Some(path) = path.strip_prefix(self.base.as_str()) else {
            return reply::not_found(Reason::OwnService);
        };
        if let Some(response) =
            self.dashboard.as_ref().and_then(|dashboard| dashboard.beside_api(path, request))
        {
            return response;
        }
        let Some(path) = path.strip_prefix("/api/") else { return reply::not_found(Reason::OwnService) };
        let Some(snapshots) = self.around.snapshots.get().and_then(WeakSnapshotHandle::upgrade) else {
            return reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::OwnService);
        };
        let question = Question {
            api: self,
            snapshot: snapshots.load(),
            query: request.head.uri.query().unwrap_or(""),
            wants_events: accepts_events(&request.head.headers),
        };
        match question.answer(path) {
            Some(_) if request.head.method != Method::GET => {
                reply::empty(StatusCode::METHOD_NOT_ALLOWED, Reason::OwnService)
            }
            Some(response) => response,
            None => reply::not_found(Reason::OwnService),
        }
    }
}

impl Handler for Api {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        let path = request.path().strip_prefix(self.base.as_str());
        if path == Some("/api/explain")
            && let Some(snapshots) = self.around.snapshots.get().and_then(WeakSnapshotHandle::upgrade)
        {
            return boxed(move || explain::answer(snapshots.load(), self.around.settings.clone(), request));
        }
        if let Some((answer, rest)) = path.and_then(operated)
            && let Some(snapshots) = self.around.snapshots.get().and_then(WeakSnapshotHandle::upgrade)
        {
            return answer(snapshots.load(), self.around.clone(), rest.to_owned(), request);
        }
        let debugging = self.debug.as_ref().and_then(|debug| {
            let path = path?.strip_prefix("/debug/")?;
            Some(debug.answer(path, request.head.uri.query().unwrap_or(""), &request.head.method))
        });
        debugging.unwrap_or_else(|| Box::pin(std::future::ready(self.answer(&request))))
    }
}

impl Service for Api {
    fn is_up(&self) -> bool {
        true
    }
}

/// One request with the data for its response.
struct Question<'a> {
    api: &'a Api,
    snapshot: Arc<Snapshot>,
    query: &'a str,
    /// Whether the client accepts server-sent events.
    wants_events: bool,
}

impl Question<'_> {
    /// Returns the response; `None` if nothing exists at this path.
    fn answer(&self, path: &str) -> Option<Response> {
        let settings = &self.api.around.settings;
        Some(match path {
            "version" => {
                let mut response = body(&overview::version(self.api.started));
                let value = HeaderValue::from_static("application/json; charset=UTF-8");
                response.headers_mut().insert(CONTENT_TYPE, value);
                response
            }
            "overview" => body(&overview::overview(&self.snapshot, settings, &self.api.around.providers)),
            "cluster" => {
                body(&cluster::cluster(&self.api.around.cluster.view(), &self.api.around.acme.leadership()))
            }
            "limits" => body(&limits::limits(&self.snapshot)),
            "usage" => {
                let as_csv = parameter(self.query, "format").is_some_and(|format| format == "csv");
                usage::usage(&self.snapshot, parameter(self.query, "consumer").as_deref(), as_csv)
            }
            "problems" => body(&overview::problems(&self.snapshot, &self.api.around.acme.rows())),
            "rawdata" => body(&self.raw_data()),
            "entrypoints" => {
                let all = settings.entry_points.keys().map(String::as_str).collect();
                self.list(all, |name| overview::entry_point(settings, name))
            }
            "requests" => match &self.api.around.requests {
                Some(all) => requests::all(all, self.query),
                None => requests::off(),
            },
            "statistics" => match &self.api.around.statistics {
                Some(all) => statistics::all(all, self.query),
                None => statistics::off(),
            },
            "certificates" => self.certificates(),
            "certificates/resolvers" => body(&certificates::of_resolvers(&self.api.around.acme.rows())),
            _ => return self.named(path),
        })
    }

    /// `/api/origins/{family}/{group}/{name}`, which does not exist in Traefik: where an object was written.
    fn origin(&self, path: &str) -> Option<Response> {
        let mut parts = path.splitn(3, '/');
        let (family, group, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kind = kind(family, group)?;
        let name = percent_decode_str(name).decode_utf8_lossy();
        let found = self.snapshot.report.object(kind, &name);
        let origin = |report: &ObjectReport| report.origin.clone().unwrap_or(Origin::Internal).to_string();
        Some(one(found.map(|report| json!({"origin": origin(report)})), word(group), &name))
    }

    fn named(&self, path: &str) -> Option<Response> {
        if let Some(path) = path.strip_prefix("origins/") {
            return self.origin(path);
        }
        let mut parts = path.splitn(3, '/');
        let (family, group, name) = (parts.next()?, parts.next()?, parts.next());
        let decode = |name: &str| percent_decode_str(name).decode_utf8_lossy().into_owned();
        match (family, name) {
            ("entrypoints" | "certificates" | "requests", None) if group.is_empty() => return None,
            ("requests", None) => {
                let live = self.api.around.live.as_ref().filter(|_| group == "stream");
                if let Some(live) = live {
                    return Some(requests::stream(live, self.query, self.wants_events));
                }
                return Some(match &self.api.around.requests {
                    Some(all) if group == "state" => requests::state(all),
                    Some(all) => requests::detail(all, &decode(group)),
                    None => requests::off(),
                });
            }
            ("entrypoints", None) => {
                let name = decode(group);
                let found = overview::entry_point(&self.api.around.settings, &name);
                return Some(one(found, "entry point", &name));
            }
            ("certificates", None) => {
                let name = decode(group);
                let all = certificates::all(&self.snapshot.tls);
                let found = all.iter().find(|certificate| certificate.fingerprint == name);
                return Some(one(found.map(certificates::Certificate::json), "certificate", &name));
            }
            _ => {}
        }
        let kind = kind(family, group)?;
        let Some(name) = name else {
            let query = Query::parse(self.query);
            let names = query.select(&self.snapshot, kind, names(&self.snapshot, kind));
            return Some(page(&query, names, |name| json::object(&self.snapshot, kind, name, Form::Full)));
        };
        if name.is_empty() || name.contains('/') {
            return None;
        }
        let name = decode(name);
        Some(one(json::object(&self.snapshot, kind, &name, Form::Full), word(group), &name))
    }

    fn certificates(&self) -> Response {
        let query = Query::parse(self.query);
        let certificates = query.certificates(certificates::all(&self.snapshot.tls));
        page(&query, certificates, |certificate| Some(certificate.json()))
    }

    fn list(&self, names: Vec<&str>, show: impl Fn(&str) -> Option<Value>) -> Response {
        page(&Query::parse(self.query), names, |name| show(name))
    }

    fn raw_data(&self) -> Value {
        let mut all = Object::new();
        let sections = Kind::ALL.chunk_by(|one, next| one.keys().0 == next.keys().0);
        let listed = sections.flat_map(|section| {
            let of = |part: &&str| section.iter().find(|kind| kind.keys().1 == *part).copied();
            json::LISTED.iter().filter_map(of)
        });
        for kind in listed {
            let key = match kind.keys() {
                ("http", part) => part.to_owned(),
                (section, part) => format!("{section}{}", capitalised(part)),
            };
            let names = names(&self.snapshot, kind);
            if names.is_empty() {
                continue;
            }
            let mut objects = Object::new();
            for name in names {
                if let Some(object) = json::object(&self.snapshot, kind, name, Form::Raw) {
                    add(&mut objects, name, object);
                }
            }
            add(&mut all, &key, objects);
        }
        if let Some(options) = json::tls_options(&self.snapshot) {
            add(&mut all, "tlsOptions", options);
        }
        all.into()
    }
}

/// Answers a request to an API with which operators change something, given the rest of its path.
type Operated = fn(Arc<Snapshot>, Surroundings, String, Request) -> BoxFuture<'static, Response>;

/// Returns what answers at this path if operators change something there, and the rest of the path.
fn operated(path: &str) -> Option<(Operated, &str)> {
    let all: [(&str, Operated); 3] = [
        ("/api/cache", |snapshot, around, rest, request| {
            boxed(move || caches::answer(snapshot, around, rest, request))
        }),
        ("/api/maintenance", |snapshot, around, rest, request| {
            boxed(move || maintenance::answer(snapshot, around, rest, request))
        }),
        ("/api/sessions", |snapshot, _, rest, request| {
            boxed(move || sessions::answer(snapshot, rest, request))
        }),
    ];
    all.into_iter().find_map(|(prefix, answer)| Some((answer, path.strip_prefix(prefix)?)))
}

/// Returns true if a client accepts server-sent events, as browsers say for an `EventSource`.
fn accepts_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|one| one.trim().starts_with("text/event-stream"))
}

/// Returns the listed kind with these parts of a path.
fn kind(family: &str, group: &str) -> Option<Kind> {
    let is_asked = |kind: &&Kind| kind.keys() == (family, group) && json::is_listed(**kind);
    Kind::ALL.iter().find(is_asked).copied()
}

/// Returns the singular of a group.
fn word(group: &str) -> &str {
    group.strip_suffix('s').unwrap_or(group)
}

/// Returns the names of all visible objects of a kind, in order.
fn names(snapshot: &Snapshot, kind: Kind) -> Vec<&str> {
    let all = snapshot.report.objects.keys().filter(|object| object.kind == kind);
    all.map(|object| object.name.as_str()).filter(|name| *name != UNLISTED).collect()
}

fn page<T>(query: &Query, items: Vec<T>, show: impl Fn(&T) -> Option<Value>) -> Response {
    match query.page(items) {
        Err(error) => refusal(StatusCode::BAD_REQUEST, &error.to_string()),
        Ok(page) => {
            let mut response = body(&page.items.iter().filter_map(show).collect());
            response.headers_mut().insert(NEXT_PAGE, HeaderValue::from(page.next));
            response
        }
    }
}

fn one(found: Option<Value>, word: &str, name: &str) -> Response {
    match found {
        Some(object) => body(&object),
        None => refusal(StatusCode::NOT_FOUND, &format!("{word} not found: {name}")),
    }
}

fn body(json: &Value) -> Response {
    let mut response = Response::new(Body::full(as_go(json))).because(Reason::OwnService);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns the first parameter of a query with this name.
fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn refusal(status: StatusCode, message: &str) -> Response {
    let object = json!({"message": message});
    reply::error(status, as_go(&object).trim_end(), Reason::OwnService)
}
