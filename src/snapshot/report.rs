//! The status of each object of a configuration, for the API, the log and `tidegate check`.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use tidegate_config::{Config, Kind, Object, ObjectOrigin, ObjectRef, Origin, Origins, Problem, WithType};

use super::diagnostics::{Broken, Diagnostics, Finding, Outcome};

/// Length of the digest in bytes: enough to distinguish a few configurations.
const DIGEST_BYTES: usize = 8;

/// The result of compiling one configuration.
#[derive(Default)]
pub struct Report {
    /// The merged configuration with names qualified and defaults filled in. Routers are listed as they are
    /// served: split by entry point where the entry points differ.
    pub config: Config,
    /// The status of each object.
    pub objects: BTreeMap<ObjectRef, ObjectReport>,
    /// All problems found.
    pub problems: Vec<Problem>,
    /// Objects that could not be decoded, as raw JSON. They are not in `config`.
    pub written: BTreeMap<ObjectRef, String>,
    /// Where certificates, TLS options and stores were written. Certificates are called by their position in `config`.
    pub tls_origins: BTreeMap<ObjectRef, Origin>,
    digest: OnceLock<String>,
}

/// The status of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectReport {
    /// Whether the object is served.
    pub status: Status,
    /// Errors and warnings.
    pub errors: Vec<String>,
    /// The entry points of a router, or the routers that use a service or middleware.
    pub used_by: Vec<String>,
    /// The effective priority of a router.
    pub priority: i64,
    /// Where the object was written; `None` for those of the gateway.
    pub origin: Option<Origin>,
    /// The same with the label, tag or key: that of the rule of a router, or else the first one.
    pub key: Option<Origin>,
    /// Why it still exists although nothing defines it (`keepRoutes`). It is also the first of `errors`.
    pub kept: Option<String>,
}

impl ObjectReport {
    /// Returns errors and warnings, without why it is kept.
    pub fn faults(&self) -> &[String] {
        &self.errors[usize::from(self.kept.is_some()).min(self.errors.len())..]
    }
}

/// Whether an object is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Served.
    #[default]
    Enabled,
    /// Served, with warnings.
    Warning,
    /// Not served.
    Disabled,
}

impl Status {
    /// Returns the name used in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Warning => "warning",
            Self::Disabled => "disabled",
        }
    }
}

impl Report {
    /// Returns a short hash of the configuration, without secrets and without the content of the files it
    /// names. Gateways with the same configuration have the same digest.
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

    /// Returns the status of one object.
    pub fn object(&self, kind: Kind, name: &str) -> Option<&ObjectReport> {
        self.objects.get(&ObjectRef { kind, name: name.to_owned() })
    }
}

/// The findings of a compilation.
pub(super) struct Found<'a> {
    /// Outcomes of routers.
    pub(super) findings: Vec<Finding>,
    /// Outcomes of all other objects.
    pub(super) diagnostics: Diagnostics,
    /// Objects that could not be decoded, with the reasons.
    pub(super) broken: &'a Broken,
    pub(super) problems: Vec<Problem>,
    pub(super) written: BTreeMap<ObjectRef, String>,
    /// Notes on objects that nothing defines any more.
    pub(super) kept: BTreeMap<ObjectRef, String>,
}

/// Assembles the report. `config` has the routers as they are served.
pub(super) fn assemble(config: Config, origins: &Origins, found: Found<'_>) -> Report {
    let Found { mut findings, mut diagnostics, broken, problems, written, kept } = found;
    findings.extend(components(&config).map(|object| diagnostics.finding(object)));
    // Groups problems by kind.
    findings.sort_by_key(|finding| finding.object.kind);
    let mut reported = Reported::from_problems(&problems);
    let mut report = Report { problems, written, ..Report::default() };
    for finding in findings {
        let note = kept.get(&finding.written).map(|note| (finding.object.clone(), note));
        report.add(&mut reported, finding, &config, origins);
        if let Some((object, note)) = note {
            report.note_kept(&object, note);
        }
    }
    let undecoded: Vec<_> =
        broken.iter().filter(|(object, _)| !report.objects.contains_key(*object)).collect();
    for (object, errors) in undecoded {
        let outcome = Outcome { errors: errors.clone(), ..Outcome::default() };
        let finding = Finding { outcome, ..diagnostics.finding(object.clone()) };
        report.add(&mut reported, finding, &config, origins);
    }
    report.config = config;
    report
}

/// Returns the services, middlewares and transports of a configuration.
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
    /// Shows why an object still exists. It is not a problem, so it is neither listed nor logged as one.
    fn note_kept(&mut self, object: &ObjectRef, note: &str) {
        if let Some(report) = self.objects.get_mut(object) {
            report.status = report.status.max(Status::Warning);
            report.errors.insert(0, note.to_owned());
            report.kept = Some(note.to_owned());
        }
    }

    /// Adds an object and its problems, except those reported already.
    ///
    /// Problems refer to the object as it was configured, so that an error in a router that was split by
    /// entry point is reported once.
    fn add(&mut self, reported: &mut Reported, finding: Finding, config: &Config, origins: &Origins) {
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
            if reported.add(&written, message) {
                let origin = origins.get(&written).map_or(Origin::Internal, |origin| {
                    origin.locate(message, &options_of(config, &object), object.kind.is_router())
                });
                let (object, message) = (Some(written.clone()), message.clone());
                self.problems.push(Problem { origin, object, message, excerpt: None });
            }
        }
        let origin = origins.get(&written).map(|origin| origin.whole());
        let key = origins.get(&written).map(key_of);
        self.objects
            .insert(object, ObjectReport { status, errors, used_by, priority, origin, key, kept: None });
    }
}

/// Returns the place of the key that tells most about an object.
fn key_of(origin: &ObjectOrigin) -> Origin {
    match &origin.origin {
        // The line of an object is that of its name.
        file @ Origin::File { .. } => file.clone(),
        first => origin.option("rule").unwrap_or(first).clone(),
    }
}

/// Returns an object as JSON, or null if it is not in the configuration.
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

/// The messages already reported, by object.
struct Reported(HashMap<ObjectRef, Vec<String>>);

impl Reported {
    fn from_problems(problems: &[Problem]) -> Self {
        let mut reported: HashMap<ObjectRef, Vec<String>> = HashMap::new();
        for problem in problems {
            if let Some(object) = &problem.object {
                reported.entry(object.clone()).or_default().push(problem.message.clone());
            }
        }
        Self(reported)
    }

    /// Adds a message. Returns false if it was already reported.
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
