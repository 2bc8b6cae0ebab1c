//! What became of each object of a configuration: the API, the log and `check` read it.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use tidegate_config::{Config, Kind, Object, ObjectRef, Origin, Origins, Problem, WithType};

use super::diagnostics::{Broken, Diagnostics, Finding, Outcome};

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
pub(super) struct Found<'a> {
    /// What became of routers.
    pub(super) findings: Vec<Finding>,
    /// What became of all other objects.
    pub(super) diagnostics: Diagnostics,
    /// Objects that could not be read, with the reasons.
    pub(super) broken: &'a Broken,
    pub(super) problems: Vec<Problem>,
    pub(super) written: BTreeMap<ObjectRef, String>,
}

/// Puts the report together. `config` has the routers as they are served.
pub(super) fn assemble(config: Config, origins: &Origins, found: Found<'_>) -> Report {
    let Found { mut findings, mut diagnostics, broken, problems, written } = found;
    findings.extend(components(&config).map(|object| diagnostics.finding(object)));
    // The problems of one kind stand together.
    findings.sort_by_key(|finding| finding.object.kind);
    let mut told = Told::of(&problems);
    let mut report = Report { problems, written, ..Report::default() };
    for finding in findings {
        report.add(&mut told, finding, &config, origins);
    }
    let lost: Vec<_> = broken.iter().filter(|(object, _)| !report.objects.contains_key(*object)).collect();
    for (object, errors) in lost {
        let outcome = Outcome { errors: errors.clone(), ..Outcome::default() };
        let finding = Finding { outcome, ..diagnostics.finding(object.clone()) };
        report.add(&mut told, finding, &config, origins);
    }
    report.config = config;
    report
}

/// The services, middlewares and transports of a configuration.
fn components(config: &Config) -> impl Iterator<Item = ObjectRef> {
    let kinds = Kind::ALL.iter().filter(|kind| !kind.is_router() && kind.keys().0 != "tls");
    kinds.flat_map(|&kind| {
        let names = kind.with_type(Names(config)).unwrap_or_default();
        names.into_iter().map(move |name| ObjectRef { kind, name })
    })
}

struct Names<'a>(&'a Config);

impl WithType for Names<'_> {
    type Output = Vec<String>;

    fn with<T: Object>(self) -> Vec<String> {
        T::map(self.0).keys().cloned().collect()
    }
}

impl Report {
    /// Adds an object, and a problem for each thing that is wrong with it and is not told yet.
    ///
    /// The problems are told of the object as it was written, which differs for the copies of a router that entry points
    /// make: one mistake in a file is one problem.
    fn add(&mut self, told: &mut Told, finding: Finding, config: &Config, origins: &Origins) {
        let Finding { object, written, used_by, priority, outcome } = finding;
        let Outcome { mut errors, rule_error, warnings, notes } = outcome;
        errors.extend(rule_error);
        let status = match (&errors[..], &warnings[..]) {
            ([], []) => Status::Enabled,
            ([], _) => Status::Warning,
            _ => Status::Disabled,
        };
        let errors = [warnings, errors].concat();
        for message in notes.iter().chain(&errors) {
            if told.add(&written, message) {
                let origin = origins.get(&written).map_or(Origin::Internal, |origin| {
                    origin.locate(message, &options_of(config, &object), object.kind.is_router())
                });
                let (object, message) = (Some(written.clone()), message.clone());
                self.problems.push(Problem { origin, object, message, excerpt: None });
            }
        }
        self.objects.insert(object, ObjectReport { status, errors, used_by, priority });
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
