//! Objects in the format of Traefik's API: the configuration together with its status.
//!
//! Members are in Traefik's order, so texts can be compared directly.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tidegate_config::consumer::{ApiKey as KeyOptions, Consumer, Digest};
use tidegate_config::router::Router;
use tidegate_config::service::Service;
use tidegate_config::tcp::TcpService;
use tidegate_config::{Config, Kind, Middleware, ObjectRef, Origin, WithType};
use tidegate_core::consumer::{ApiKey, KeyHash};
use tidegate_core::reference::{Name as _, References, Target, provider_of};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::service::cookie_name;
use crate::snapshot::Snapshot;
use crate::snapshot::report::ObjectReport;

/// The parts of each section that Traefik's API lists, in the order of its raw data.
pub(super) const LISTED: [&str; 3] = ["routers", "middlewares", "services"];

/// The form of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As in `/api/rawdata`: without its name.
    Raw,
    /// As in lists and for single objects: with name, provider and type.
    Full,
}

/// Returns all TLS options with their status, by name; `None` if there are none.
pub(super) fn tls_options(snapshot: &Snapshot) -> Option<Value> {
    let report = &snapshot.report;
    let mut told: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for problem in &report.problems {
        if let Some(object) = problem.object.as_ref().filter(|object| object.kind == Kind::TlsOptions) {
            told.entry(&object.name).or_default().push(&problem.message);
        }
    }
    let broken = told.keys().copied().filter(|name| !report.config.tls.options.contains_key(*name));
    let names: BTreeSet<&str> = report.config.tls.options.keys().map(String::as_str).chain(broken).collect();
    let mut all = Object::new();
    for &name in &names {
        let mut object = match report.config.tls.options.get(name) {
            Some(options) => members(&**options),
            None => Object::new(),
        };
        let problems = told.get(name);
        let status = match () {
            () if !snapshot.tls.has_options(name) => "disabled",
            () if problems.is_some() => "warning",
            () => "enabled",
        };
        add(&mut object, "status", status);
        if let Some(problems) = problems {
            add(&mut object, "error", json(problems));
        }
        add(&mut all, name, object);
    }
    (!all.is_empty()).then(|| all.into())
}

/// A JSON object with its members in the order of insertion.
pub(super) type Object = serde_json::Map<String, Value>;

/// Returns the members of a value that serialises as an object.
pub(super) fn members(value: &impl Serialize) -> Object {
    match json(value) {
        Value::Object(members) => members,
        _ => Object::new(),
    }
}

/// Returns a value as JSON.
pub(super) fn json(value: &(impl Serialize + ?Sized)) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Adds a member.
pub(super) fn add(object: &mut Object, name: &str, value: impl Into<Value>) {
    object.insert(name.to_owned(), value.into());
}

/// Writes JSON like Go's encoder: `<`, `>`, `&` and the two line separators escaped, a line feed at the end.
pub(super) fn as_go(value: &Value) -> String {
    let text = value.to_string();
    let mut all = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' => all.push_str("\\u003c"),
            '>' => all.push_str("\\u003e"),
            '&' => all.push_str("\\u0026"),
            '\u{2028}' => all.push_str("\\u2028"),
            '\u{2029}' => all.push_str("\\u2029"),
            other => all.push(other),
        }
    }
    all.push('\n');
    all
}

/// Returns a router. Lists show the effective TLS options if it names none; raw data shows it as written.
fn router(router: &Router, form: Form) -> Object {
    let mut shown = std::borrow::Cow::Borrowed(router);
    let unnamed = router.tls.as_ref().is_some_and(|tls| tls.options.is_empty());
    if form == Form::Full
        && unnamed
        && let Some(tls) = &mut shown.to_mut().tls
    {
        tls.options = "default".into();
    }
    members(&*shown)
}

/// Returns a service with its effective weights. For an active one, sticky cookies are shown with their
/// effective names.
fn service(snapshot: &Snapshot, name: &str, options: &Service) -> Object {
    let mut shown = options.clone();
    let weights = shown.weighted.iter_mut().flat_map(|weighted| &mut weighted.services);
    let hashed = shown.highest_random_weight.iter_mut().flat_map(|hashed| &mut hashed.services);
    for child in weights.chain(hashed) {
        child.weight.get_or_insert(1);
    }
    if snapshot.services.contains_key(name) {
        let balanced = shown.load_balancer.as_mut().and_then(|balancer| balancer.sticky.as_mut());
        let weighted = shown.weighted.as_mut().and_then(|weighted| weighted.sticky.as_mut());
        for cookie in balanced.into_iter().chain(weighted).filter_map(|sticky| sticky.cookie.as_mut()) {
            cookie.name = cookie_name(name, cookie);
        }
    } else if let Some(balancer) = &mut shown.load_balancer
        && snapshot.report.object(Kind::Service, name).is_none_or(|report| report.used_by.is_empty())
    {
        as_written(&mut balancer.servers_transport, name);
    }
    members(&shown)
}

/// Returns a middleware. A chain that is in use shows the providers of its members.
fn middleware(snapshot: &Snapshot, name: &str, options: &Middleware, report: &ObjectReport) -> Object {
    let mut has_members = false;
    options.references(&mut |target, _| has_members |= target == Target::Middleware);
    if !has_members || is_used(snapshot, name, report) {
        return members(options);
    }
    let mut shown = options.clone();
    shown.references_mut(&mut |_, member| member.unqualify(provider_of(name)));
    members(&shown)
}

/// Returns true if a router, a service or another chain uses this middleware.
fn is_used(snapshot: &Snapshot, name: &str, report: &ObjectReport) -> bool {
    let http = &snapshot.report.config.http;
    !report.used_by.is_empty()
        || http.middlewares.values().any(|middleware| names(&**middleware, name))
        || http.services.values().any(|service| names(&**service, name))
}

/// Returns true if an object refers to this middleware.
fn names(object: &impl References, middleware: &str) -> bool {
    let mut found = false;
    object.references(&mut |target, name| found |= target == Target::Middleware && name.name() == middleware);
    found
}

/// Removes the provider of `owner`. Traefik adds it only when an object is built for use.
fn as_written(reference: &mut String, owner: &str) {
    reference.unqualify(provider_of(owner));
}

/// Returns one object of the snapshot; `None` if there is none with this name.
pub(super) fn object(snapshot: &Snapshot, kind: Kind, name: &str, form: Form) -> Option<Value> {
    let config = &snapshot.report.config;
    let none = ObjectReport::default();
    let report = snapshot.report.object(kind, name).unwrap_or(&none);
    let sound = match kind {
        Kind::Router => config.http.routers.get(name).map(|options| router(options, form)),
        Kind::Service => config.http.services.get(name).map(|options| service(snapshot, name, options)),
        Kind::Middleware => {
            config.http.middlewares.get(name).map(|options| middleware(snapshot, name, options, report))
        }
        Kind::TcpService => {
            let is_used = !report.used_by.is_empty() || snapshot.tcp_services.contains_key(name);
            config.tcp.services.get(name).map(|options| {
                let mut shown = TcpService::clone(options);
                if let Some(balancer) = shown.load_balancer.as_mut().filter(|_| !is_used) {
                    as_written(&mut balancer.servers_transport, name);
                }
                members(&shown)
            })
        }
        Kind::Consumer => config.http.consumers.get(name).map(|options| consumer(snapshot, name, options)),
        kind if is_listed(kind) => kind.with_type(Plain { config, name }).flatten(),
        _ => return None,
    };
    let mut object = match sound {
        Some(object) => object,
        None => {
            snapshot.report.object(kind, name)?;
            // What was written may be a key.
            if kind == Kind::Consumer { Object::new() } else { members(&written(snapshot, kind, name)) }
        }
    };
    if !report.errors.is_empty() {
        add(&mut object, "error", json(&report.errors));
    }
    add(&mut object, "status", report.status.as_str());
    if !report.used_by.is_empty() {
        let key = if kind.is_router() { "using" } else { "usedBy" };
        add(&mut object, key, json(&report.used_by));
    }
    if form == Form::Full {
        let provider = name.rsplit_once('@').map_or("", |(_, provider)| provider);
        add(&mut object, "name", name);
        add(&mut object, "provider", provider);
        if let Some(type_name) = type_name(snapshot, kind, name) {
            add(&mut object, "type", type_name);
        }
        if matches!(kind, Kind::Consumer | Kind::Plan) {
            add(&mut object, "origin", report.origin.clone().unwrap_or(Origin::Internal).to_string());
        }
        if matches!(kind, Kind::Router | Kind::TcpRouter) {
            add(&mut object, "priorityStr", priority(snapshot, kind, name).to_string());
        }
    }
    add_state(&mut object, snapshot, kind, name, report);
    Some(object.into())
}

/// Adds the maintenance of a router, and the state of a service in use: that of its servers, and how many requests wait
/// for one.
fn add_state(object: &mut Object, snapshot: &Snapshot, kind: Kind, name: &str, report: &ObjectReport) {
    let servers = server_status(snapshot, kind, name, report);
    if !servers.is_empty() {
        add(object, "serverStatus", json(&servers));
    }
    let maintenance = snapshot.maintenance.active.get(name).filter(|_| kind == Kind::Router);
    if let Some(maintenance) = maintenance {
        add(object, "inMaintenance", super::maintenance::state(maintenance));
    }
    let service = snapshot.services.get(name).filter(|_| kind == Kind::Service);
    let held = service.map_or(0, |service| service.held());
    if held > 0 {
        add(object, "heldRequests", json(&held));
    }
}

/// Returns a consumer without secrets and what they are compared with. It and its keys have the time of their last use.
fn consumer(snapshot: &Snapshot, name: &str, options: &Consumer) -> Object {
    let used: Vec<Option<i64>> = options
        .credentials
        .api_keys
        .iter()
        .map(|key| known_key(snapshot, key).filter(|known| *known.consumer.name == *name)?.last_used.get())
        .collect();
    let mut shown = options.clone();
    for key in &mut shown.credentials.api_keys {
        (key.sha256, key.hash) = Default::default();
    }
    let time = |at: i64| OffsetDateTime::from_unix_timestamp(at).ok()?.format(&Rfc3339).ok();
    let mut object = members(&shown);
    let keys = object.get_mut("credentials").and_then(|all| all.get_mut("apiKeys"));
    let keys = keys.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut);
    for (key, used) in keys.zip(&used) {
        if let Some(used) = used.and_then(time) {
            add(key, "lastUsed", used);
        }
    }
    if let Some(last) = used.into_iter().flatten().max().and_then(time) {
        add(&mut object, "lastUsed", last);
    }
    object
}

/// Returns a key of the directory: by its id, or by its hash if it was issued elsewhere.
fn known_key<'a>(snapshot: &'a Snapshot, options: &KeyOptions) -> Option<&'a Arc<ApiKey>> {
    let consumers = &snapshot.consumers;
    match options.sha256 {
        _ if !options.id.is_empty() => consumers.key(&options.id),
        Some(Digest(hash)) => consumers.foreign_key(&hash).ok().flatten(),
        None => consumers.password_keys().find(|key| match &key.hash {
            KeyHash::Password(hash) => *hash == options.hash.0,
            KeyHash::Sha256(_) => false,
        }),
    }
}

/// Returns true for kinds that the API lists: those of Traefik's, consumers and plans.
pub(super) fn is_listed(kind: Kind) -> bool {
    matches!(kind, Kind::Consumer | Kind::Plan) || LISTED.contains(&kind.keys().1)
}

/// Serialises an object as configured.
struct Plain<'a> {
    config: &'a Config,
    name: &'a str,
}

impl WithType for Plain<'_> {
    type Output = Option<Object>;

    fn with<T: tidegate_config::Object>(self) -> Option<Object> {
        T::map(self.config).get(self.name).map(|options| members(&**options))
    }
}

/// Finds the first key of an object: the kind of a service or middleware.
struct FirstKey<'a> {
    config: &'a Config,
    name: &'a str,
}

impl WithType for FirstKey<'_> {
    type Output = Option<Option<String>>;

    fn with<T: tidegate_config::Object>(self) -> Option<Option<String>> {
        T::map(self.config).get(self.name).map(|options| first_key(&**options))
    }
}

/// Returns the state of the servers of a service in use.
fn server_status(
    snapshot: &Snapshot,
    kind: Kind,
    name: &str,
    _: &ObjectReport,
) -> BTreeMap<String, &'static str> {
    match kind {
        Kind::Service => {
            snapshot.services.get(name).map(|service| service.server_status()).unwrap_or_default()
        }
        Kind::TcpService => {
            snapshot.tcp_services.get(name).map(|service| service.server_status()).unwrap_or_default()
        }
        _ => BTreeMap::new(),
    }
}

/// Returns an object that could not be decoded, as written.
fn written(snapshot: &Snapshot, kind: Kind, name: &str) -> Value {
    let text = snapshot.report.written.get(&ObjectRef { kind, name: name.to_owned() });
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Returns the effective priority of a router.
pub(super) fn priority(snapshot: &Snapshot, kind: Kind, name: &str) -> i64 {
    let config = &snapshot.report.config;
    match kind {
        Kind::Router => config.http.routers.get(name).map_or(0, |router| router.priority),
        Kind::TcpRouter => config.tcp.routers.get(name).map_or(0, |router| router.priority),
        _ => 0,
    }
}

/// Returns the kind of a service or middleware in lower case.
pub(super) fn type_name(snapshot: &Snapshot, kind: Kind, name: &str) -> Option<String> {
    let config = &snapshot.report.config;
    let sound = match kind {
        Kind::Service => {
            config.http.services.get(name).map(|service| service_type(service).map(str::to_owned))
        }
        Kind::Middleware => {
            config.http.middlewares.get(name).map(|middleware| Some(middleware.kind().to_lowercase()))
        }
        Kind::Consumer | Kind::Plan => return None,
        kind if is_listed(kind) && !kind.is_router() => kind.with_type(FirstKey { config, name }).flatten(),
        _ => return None,
    };
    sound.unwrap_or_else(|| first_key(&written(snapshot, kind, name)))
}

fn service_type(service: &Service) -> Option<&'static str> {
    let kinds = [
        (service.load_balancer.is_some(), "loadbalancer"),
        (service.weighted.is_some(), "weighted"),
        (service.highest_random_weight.is_some(), "highestrandomweight"),
        (service.mirroring.is_some(), "mirroring"),
        (service.failover.is_some(), "failover"),
        (service.static_files.is_some(), "static"),
    ];
    kinds.iter().find(|(is_set, _)| *is_set).map(|(_, name)| *name)
}

/// Returns the first serialised member in lower case.
fn first_key(value: &impl Serialize) -> Option<String> {
    let value = serde_json::to_value(value).ok()?;
    value.as_object()?.keys().next().map(|key| key.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_in_go() {
        assert_eq!(as_go(&Value::from("a && <b>\u{2028}")), "\"a \\u0026\\u0026 \\u003cb\\u003e\\u2028\"\n");
    }

    #[test]
    fn members_keep_their_order() {
        #[derive(Serialize)]
        struct Written {
            b: u8,
            a: u8,
        }
        let mut object = members(&Written { b: 1, a: 2 });
        add(&mut object, "0", true);
        assert_eq!(as_go(&object.into()), "{\"b\":1,\"a\":2,\"0\":true}\n");
        assert_eq!(members(&"no object"), Object::new());
    }
}
