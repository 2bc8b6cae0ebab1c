//! What became of each object of a configuration: the API, the log and `check` read it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use tidegate_config::{Config, Kind, Object, ObjectOrigin, ObjectRef, Origin, Origins, Problem, WithType};

use super::attach::Attached;
use super::outcome::Outcome;
use crate::settings::Settings;

/// How much of a hash is shown: enough to tell a few configurations apart.
const DIGEST_BYTES: usize = 8;

/// The outcome of compiling one configuration.
#[derive(Default)]
pub struct Report {
    /// The merged configuration, names qualified, as providers gave it (defaults filled in). Routers stand as they are
    /// served: split by entry point where the entry points differ.
    pub config: Config,
    /// What is known of each object.
    pub objects: BTreeMap<ObjectRef, ObjectReport>,
    /// Everything that was wrong.
    pub problems: Vec<Problem>,
    /// Objects that could not be read, as they were written, as JSON. They are not in `config`.
    pub written: BTreeMap<ObjectRef, String>,
    digest: OnceLock<String>,
}

/// What became of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectReport {
    /// Whether it serves.
    pub status: Status,
    /// Errors and warnings, for people.
    pub errors: Vec<String>,
    /// Entry points that a router uses, or routers that use a service or middleware.
    pub used_by: Vec<String>,
    /// The effective priority of a router.
    pub priority: i64,
}

/// Whether an object serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It serves.
    #[default]
    Enabled,
    /// It serves, but something about it is wrong.
    Warning,
    /// It does not serve.
    Disabled,
}

impl Status {
    /// The word that the API has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Warning => "warning",
            Self::Disabled => "disabled",
        }
    }
}

impl Report {
    /// A short hash of what is configured, without secrets and without the content of files that it names. It is equal
    /// on gateways that serve the same.
    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| {
            let mut hash = Sha256::new();
            hash.update(serde_json::to_vec(&self.config).unwrap_or_default());
            for (object, text) in &self.written {
                hash.update(format!("{} {} {text}", object.kind, object.name));
            }
            hash.finalize().iter().take(DIGEST_BYTES).map(|byte| format!("{byte:02x}")).collect()
        })
    }

    /// What is known of one object.
    pub fn object(&self, kind: Kind, name: &str) -> Option<&ObjectReport> {
        self.objects.get(&ObjectRef { kind, name: name.to_owned() })
    }
}

/// What compiling has found out.
pub(super) struct Findings<'a> {
    pub(super) config: Config,
    pub(super) origins: Origins,
    pub(super) problems: Vec<Problem>,
    pub(super) attached: Vec<Attached>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) failures: BTreeMap<ObjectRef, Vec<String>>,
    /// What became of TCP and UDP.
    pub(super) streams: Vec<Finding>,
    /// Objects that could not be read, with the reasons.
    pub(super) broken: &'a BTreeMap<ObjectRef, Vec<String>>,
    pub(super) written: BTreeMap<ObjectRef, String>,
    pub(super) settings: &'a Settings,
}

/// What became of one object of TCP or UDP.
pub(super) struct Finding {
    pub(super) object: ObjectRef,
    pub(super) known: ObjectReport,
    pub(super) outcome: Outcome,
}

/// Puts the report together.
pub(super) fn assemble(findings: Findings<'_>) -> Report {
    let Findings {
        mut config,
        origins,
        problems,
        attached,
        outcomes,
        failures,
        streams,
        broken,
        written,
        settings,
    } = findings;
    let mut report = Report { problems, written, ..Report::default() };
    let mut told = Told::of(&report.problems);
    let mut services: HashMap<String, Vec<String>> = HashMap::new();
    let mut middlewares: HashMap<String, Vec<String>> = HashMap::new();
    config.http.routers.clear();
    let mut routers = Vec::with_capacity(attached.len());
    for (router, outcome) in attached.into_iter().zip(outcomes) {
        for middleware in &router.router.middlewares {
            middlewares.entry(middleware.clone()).or_default().push(router.name.clone());
        }
        if !router.router.service.is_empty() {
            let service = router.router.service.as_str().to_owned();
            services.entry(service).or_default().push(router.name.clone());
        }
        let source = ObjectRef { kind: Kind::Router, name: router.source };
        let object = ObjectRef { kind: Kind::Router, name: router.name.clone() };
        let mut used_by = router.router.entry_points.clone();
        used_by.retain(|name| settings.entry_points.get(name).is_some_and(|point| !point.is_udp()));
        used_by.sort();
        let priority = router.router.priority;
        let known = ObjectReport { used_by, priority, ..ObjectReport::default() };
        let options = || json(&router.router);
        let place = Place { origin: origins.get(&source), options: &options };
        let resolver = router.router.tls.as_ref().map_or("", |tls| &tls.cert_resolver);
        let wrong_names = crate::acme::wrong_names(settings, &router.router);
        for message in no_resolver(settings, resolver).into_iter().chain(wrong_names) {
            report.tell(&mut told, &source, message, place);
        }
        report.add(&mut told, object, source.clone(), known, outcome, place);
        routers.push((router.name, Arc::new(router.router)));
    }
    // Built as a whole: much less work than one insertion after the other.
    config.http.routers = routers.into_iter().collect();
    for (kind, names, users) in [
        (Kind::Service, config.http.services.keys().collect::<Vec<_>>(), &mut services),
        (Kind::Middleware, config.http.middlewares.keys().collect(), &mut middlewares),
        (Kind::ServersTransport, config.http.servers_transports.keys().collect(), &mut HashMap::new()),
    ] {
        for name in names {
            let object = ObjectRef { kind, name: name.clone() };
            let errors = failures.get(&object).cloned().unwrap_or_default();
            let mut used_by = users.remove(name).unwrap_or_default();
            used_by.sort();
            let known = ObjectReport { used_by, ..ObjectReport::default() };
            let outcome = Outcome { errors, ..Outcome::default() };
            let options = || options_of(&config, &object);
            let place = Place { origin: origins.get(&object), options: &options };
            report.add(&mut told, object.clone(), object.clone(), known, outcome, place);
        }
    }
    for Finding { object, known, outcome } in streams {
        let options = || options_of(&config, &object);
        let place = Place { origin: origins.get(&object), options: &options };
        let router = config.tcp.routers.get(&object.name).filter(|_| object.kind == Kind::TcpRouter);
        if let Some(tls) = router.and_then(|router| router.tls.as_ref()).filter(|tls| !tls.passthrough)
            && let Some(message) = no_resolver(settings, &tls.cert_resolver)
        {
            report.tell(&mut told, &object, message, place);
        }
        report.add(&mut told, object.clone(), object.clone(), known, outcome, place);
    }
    for (object, errors) in
        broken.iter().filter(|(object, _)| !report.objects.contains_key(*object)).collect::<Vec<_>>()
    {
        let users = match object.kind {
            Kind::Service => services.remove(&object.name),
            Kind::Middleware => middlewares.remove(&object.name),
            _ => None,
        };
        let mut used_by = users.unwrap_or_default();
        used_by.sort();
        let known = ObjectReport { used_by, ..ObjectReport::default() };
        let outcome = Outcome { errors: errors.clone(), ..Outcome::default() };
        let options = || options_of(&config, object);
        let place = Place { origin: origins.get(object), options: &options };
        report.add(&mut told, object.clone(), object.clone(), known, outcome, place);
    }
    report.config = config;
    report
}

/// Where an object was written, to find the option that a message is about.
#[derive(Clone, Copy)]
struct Place<'a> {
    origin: Option<&'a ObjectOrigin>,
    /// The object as JSON, asked only when there is a message.
    options: &'a dyn Fn() -> Json,
}

impl Place<'_> {
    fn of(self, message: &str, kind: Kind) -> Origin {
        self.origin
            .map_or(Origin::Internal, |origin| origin.locate(message, &(self.options)(), kind.is_router()))
    }
}

impl Report {
    /// Adds an object, and a problem for each thing that is wrong with it and is not told yet.
    ///
    /// The problems are told of `written`, which differs for the copies of a router that entry points make: one mistake
    /// in a file is one problem.
    fn add(
        &mut self,
        told: &mut Told,
        object: ObjectRef,
        written: ObjectRef,
        mut known: ObjectReport,
        outcome: Outcome,
        place: Place<'_>,
    ) {
        known.status = match (&outcome.errors[..], &outcome.warnings[..]) {
            ([], []) => Status::Enabled,
            ([], _) => Status::Warning,
            _ => Status::Disabled,
        };
        known.errors = [outcome.warnings, outcome.errors].concat();
        for message in &known.errors {
            self.tell(told, &written, message.clone(), place);
        }
        self.objects.insert(object, known);
    }

    /// Adds a problem, unless it is told.
    fn tell(&mut self, told: &mut Told, object: &ObjectRef, message: String, place: Place<'_>) {
        if told.add(object, &message) {
            let origin = place.of(&message, object.kind);
            self.problems.push(Problem { origin, object: Some(object.clone()), message, excerpt: None });
        }
    }
}

/// An object as JSON; nothing when it is not in the configuration.
pub(super) fn options_of(config: &Config, object: &ObjectRef) -> Json {
    object.kind.with_type(OptionsOf { config, name: &object.name }).flatten().unwrap_or_default()
}

struct OptionsOf<'a> {
    config: &'a Config,
    name: &'a str,
}

impl WithType for OptionsOf<'_> {
    type Output = Option<Json>;

    fn with<T: Object>(self) -> Option<Json> {
        T::map(self.config).get(self.name).map(json)
    }
}

fn json(options: impl Serialize) -> Json {
    serde_json::to_value(options).unwrap_or_default()
}

/// What has been told of which object.
struct Told(HashMap<ObjectRef, Vec<String>>);

impl Told {
    fn of(problems: &[Problem]) -> Self {
        let mut told: HashMap<ObjectRef, Vec<String>> = HashMap::new();
        for problem in problems {
            if let Some(object) = &problem.object {
                told.entry(object.clone()).or_default().push(problem.message.clone());
            }
        }
        Self(told)
    }

    /// Notes a message. False when it is known: as it is, or as all that was told before in one.
    fn add(&mut self, object: &ObjectRef, message: &str) -> bool {
        let Some(messages) = self.0.get_mut(object) else {
            self.0.insert(object.clone(), vec![message.to_owned()]);
            return true;
        };
        if messages.iter().any(|known| known == message) {
            return false;
        }
        messages.push(message.to_owned());
        true
    }
}

/// What to say of a router that names a certificate resolver: it serves all the same, as in Traefik.
fn no_resolver(settings: &Settings, resolver: &str) -> Option<String> {
    let known = settings.certificates_resolvers.get(resolver).is_some_and(|known| known.acme.is_some());
    (!resolver.is_empty() && !known).then(|| {
        format!(
            "Router uses a nonexistent certificate resolver: tls.certResolver `{resolver}` is none of the \
             settings' `certificatesResolvers`"
        )
    })
}
