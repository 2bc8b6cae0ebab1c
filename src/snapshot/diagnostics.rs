//! Collects errors, warnings and uses of objects while a configuration is compiled.

use std::collections::BTreeMap;

use tidegate_config::{Kind, ObjectRef};
use tidegate_core::BuildError;

/// Objects whose options could not be decoded, with the reasons.
pub(super) type Broken = BTreeMap<ObjectRef, Vec<String>>;

/// Errors and warnings of one object.
#[derive(Clone, Default)]
pub(super) struct Outcome {
    /// Errors: the object is disabled.
    pub(super) errors: Vec<String>,
    /// The error of a router's rule. It is listed after the other errors, as in Traefik.
    pub(super) rule_error: Option<String>,
    /// Warnings: the object is enabled.
    pub(super) warnings: Vec<String>,
    /// Problems that do not affect the status of the object.
    pub(super) notes: Vec<String>,
}

impl Outcome {
    /// Adds an error unless it is already listed.
    pub(super) fn add_error(&mut self, message: impl Into<String>) {
        let message = message.into();
        if !self.errors.contains(&message) {
            self.errors.push(message);
        }
    }

    /// Returns the value, or records the error as one message.
    pub(super) fn check<T>(&mut self, made: Result<T, BuildError>) -> Option<T> {
        made.map_err(|error| self.add_error(error.to_string())).ok()
    }

    /// Returns true if there is an error.
    pub(super) fn is_broken(&self) -> bool {
        !self.errors.is_empty() || self.rule_error.is_some()
    }
}

/// The outcome of one object.
pub(super) struct Finding {
    /// The object as it is served.
    pub(super) object: ObjectRef,
    /// The object as it was configured; differs for a router that was split by entry point.
    pub(super) written: ObjectRef,
    /// The entry points of a router, or the routers that use a service or middleware.
    pub(super) used_by: Vec<String>,
    /// The effective priority of a router.
    pub(super) priority: i64,
    pub(super) outcome: Outcome,
}

/// Outcomes and uses of all objects except routers.
#[derive(Default)]
pub(super) struct Diagnostics {
    outcomes: BTreeMap<ObjectRef, Outcome>,
    /// Routers by the objects they use.
    users: BTreeMap<ObjectRef, Vec<String>>,
}

impl Diagnostics {
    /// Records that a router uses an object, whether the object exists or not.
    pub(super) fn note_use(&mut self, kind: Kind, name: &str, router: &str) {
        let object = ObjectRef { kind, name: name.to_owned() };
        self.users.entry(object).or_default().push(router.to_owned());
    }

    /// Records why an object could not be built.
    pub(super) fn note_error(&mut self, kind: Kind, name: &str, error: &BuildError) {
        for message in error.messages() {
            self.outcome(kind, name).add_error(message);
        }
    }

    /// Records warnings of an object that could be built.
    pub(super) fn note_warnings(&mut self, kind: Kind, name: &str, warnings: &[String]) {
        if !warnings.is_empty() {
            self.outcome(kind, name).warnings.extend_from_slice(warnings);
        }
    }

    /// Removes and returns the outcome of an object. Traefik's API does not list the users of TCP
    /// middlewares.
    pub(super) fn finding(&mut self, object: ObjectRef) -> Finding {
        let mut used_by = self.users.remove(&object).unwrap_or_default();
        used_by.sort();
        if object.kind == Kind::TcpMiddleware {
            used_by.clear();
        }
        let outcome = self.outcomes.remove(&object).unwrap_or_default();
        Finding { written: object.clone(), object, used_by, priority: 0, outcome }
    }

    fn outcome(&mut self, kind: Kind, name: &str) -> &mut Outcome {
        self.outcomes.entry(ObjectRef { kind, name: name.to_owned() }).or_default()
    }
}
