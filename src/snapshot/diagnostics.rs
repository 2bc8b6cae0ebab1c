//! What compiling TCP has in common with compiling UDP: the entry points of a router, services within services, and a
//! record of what became of each object.

use std::collections::{BTreeMap, HashMap};

use tidegate_config::{Kind, ObjectRef};
use tidegate_core::BuildError;

use super::outcome::Outcome;
use super::report::{Finding, ObjectReport};
use crate::settings::Settings;

/// Objects whose options could not be read, with the reasons.
pub(super) type Broken = BTreeMap<ObjectRef, Vec<String>>;

/// What became of the objects of one protocol; `S` is a service.
pub(super) struct Diagnostics<'a, S> {
    broken: &'a Broken,
    services: HashMap<String, Result<S, BuildError>>,
    /// Services that are being built, outermost first.
    path: Vec<String>,
    outcomes: BTreeMap<ObjectRef, Outcome>,
    /// Routers by what they use.
    users: BTreeMap<ObjectRef, Vec<String>>,
}

impl<'a, S: Clone> Diagnostics<'a, S> {
    /// Nothing is known but what could not be read.
    pub(super) fn new(broken: &'a Broken) -> Self {
        let (services, path) = (HashMap::new(), Vec::new());
        Self { broken, services, path, outcomes: BTreeMap::new(), users: BTreeMap::new() }
    }

    /// Notes that a router uses an object, whether there is such a one or not.
    pub(super) fn use_of(&mut self, kind: Kind, name: &str, router: &str) {
        self.users.entry(reference(kind, name)).or_default().push(router.to_owned());
    }

    /// True when a router uses the object.
    pub(super) fn is_used(&self, kind: Kind, name: &str) -> bool {
        self.users.contains_key(&reference(kind, name))
    }

    /// Why the options of an object could not be read, if so.
    pub(super) fn broken(&self, kind: Kind, name: &str) -> Option<&'a [String]> {
        self.broken.get(&reference(kind, name)).map(Vec::as_slice)
    }

    /// An error when the options of an object could not be read.
    pub(super) fn refuse_broken(&self, kind: Kind, name: &str) -> Result<(), BuildError> {
        self.broken(kind, name).map_or(Ok(()), |reasons| Err(BuildError::of(reasons)))
    }

    /// Notes why an object could not be made, if so.
    pub(super) fn note<T>(&mut self, kind: Kind, name: &str, made: &Result<T, BuildError>) {
        if let Err(error) = made {
            let errors = &mut self.outcomes.entry(reference(kind, name)).or_default().errors;
            for message in error.messages() {
                if !errors.contains(message) {
                    errors.push(message.clone());
                }
            }
        }
    }

    /// Notes what is wrong with an object that serves all the same.
    pub(super) fn warn(&mut self, kind: Kind, name: &str, warnings: impl IntoIterator<Item = String>) {
        self.outcomes.entry(reference(kind, name)).or_default().warnings.extend(warnings);
    }

    /// The services that were built so far and can serve.
    pub(super) fn built(&self) -> BTreeMap<String, S> {
        let usable = |(name, service): (&String, &Result<S, _>)| Some((name.clone(), service.clone().ok()?));
        self.services.iter().filter_map(usable).collect()
    }

    /// What became of an object that is not a router.
    pub(super) fn finding(&mut self, kind: Kind, name: &str) -> Finding {
        let object = reference(kind, name);
        let mut used_by = self.users.remove(&object).unwrap_or_default();
        used_by.sort();
        let outcome = self.outcomes.remove(&object).unwrap_or_default();
        Finding { object, known: ObjectReport { used_by, ..ObjectReport::default() }, outcome }
    }
}

/// Builds services that name each other.
pub(super) trait Services<'a> {
    /// A service that serves.
    type Service: Clone;
    /// What a service is in the configuration.
    const KIND: Kind;
    /// Name of the protocol, for messages.
    const PROTOCOL: &'static str;

    /// Where it is noted what becomes of them.
    fn diagnostics(&mut self) -> &mut Diagnostics<'a, Self::Service>;

    /// Builds the service of this qualified name. It asks [`Self::service`] for others.
    fn build_service(&mut self, name: &str) -> Result<Self::Service, BuildError>;

    /// The service of this qualified name: built once, and never within itself.
    fn service(&mut self, name: &str) -> Result<Self::Service, BuildError> {
        let diagnostics = self.diagnostics();
        if let Some(known) = diagnostics.services.get(name) {
            return known.clone();
        }
        if diagnostics.path.iter().any(|outer| outer == name) {
            let path = [&diagnostics.path[..], &[name.to_owned()]].concat().join("->");
            let protocol = Self::PROTOCOL;
            return Err(BuildError::new(format!(
                "could not instantiate {protocol} service {name}: recursion detected in {path}"
            )));
        }
        let made = match diagnostics.refuse_broken(Self::KIND, name) {
            Err(error) => Err(error),
            Ok(()) => {
                diagnostics.path.push(name.to_owned());
                let made = self.build_service(name);
                let diagnostics = self.diagnostics();
                diagnostics.path.pop();
                diagnostics.note(Self::KIND, name, &made);
                made
            }
        };
        self.diagnostics().services.insert(name.to_owned(), made.clone());
        made
    }
}

/// The entry points of a router, as places in the settings and in the order of `wanted`, with Traefik's words for those
/// that do not exist.
pub(super) fn places(settings: &Settings, wanted: &[String], udp: bool) -> (Vec<usize>, Outcome) {
    let mut places = Vec::new();
    let mut missing = Vec::new();
    for wanted in wanted {
        let mut points = settings.entry_points.iter().enumerate();
        match points.find(|(_, (name, point))| *name == wanted && point.is_udp() == udp) {
            Some((place, _)) if places.contains(&place) => {}
            Some((place, _)) => places.push(place),
            None => missing.push(format!("entryPoint \"{wanted}\" doesn't exist")),
        }
    }
    let mut outcome = Outcome::default();
    if places.is_empty() {
        missing.push("no valid entryPoint for this router".into());
        outcome.errors = missing;
    } else {
        outcome.warnings = missing;
    }
    (places, outcome)
}

/// The error for a service that says more than one thing, or nothing.
pub(super) fn not_one_type(what: &str, name: &str, several: bool) -> BuildError {
    if several {
        return BuildError::new(
            "cannot create service: multi-types service not supported, consider declaring two different pieces of service instead",
        );
    }
    BuildError::new(format!("the {what} \"{name}\" does not have any type defined"))
}

fn reference(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef { kind, name: name.to_owned() }
}
