//! What becomes of objects while a configuration is compiled: errors, warnings, and who uses what.

use std::collections::BTreeMap;

use tidegate_config::{Kind, ObjectRef};
use tidegate_core::BuildError;

/// Objects whose options could not be read, with the reasons.
pub(super) type Broken = BTreeMap<ObjectRef, Vec<String>>;

/// What became of one object.
#[derive(Clone, Default)]
pub(super) struct Outcome {
    /// Errors: the object does not serve.
    pub(super) errors: Vec<String>,
    /// What is wrong with a router's rule. Among the errors it comes last, as in Traefik.
    pub(super) rule_error: Option<String>,
    /// Warnings: the object serves.
    pub(super) warnings: Vec<String>,
    /// Problems that are not part of the object's status.
    pub(super) notes: Vec<String>,
}

impl Outcome {
    /// Adds an error, unless it is there.
    pub(super) fn add_error(&mut self, message: impl Into<String>) {
        let message = message.into();
        if !self.errors.contains(&message) {
            self.errors.push(message);
        }
    }

    /// Returns the value, or notes the error as one message.
    pub(super) fn check<T>(&mut self, made: Result<T, BuildError>) -> Option<T> {
        made.map_err(|error| self.add_error(error.to_string())).ok()
    }

    /// Returns true when there is an error.
    pub(super) fn is_broken(&self) -> bool {
        !self.errors.is_empty() || self.rule_error.is_some()
    }
}

/// What became of one object, and who it is.
pub(super) struct Finding {
    /// The object as it serves.
    pub(super) object: ObjectRef,
    /// The object as it was written; another one for a router that entry points have split.
    pub(super) written: ObjectRef,
    /// Entry points that a router uses, or routers that use a service or middleware.
    pub(super) used_by: Vec<String>,
    /// The effective priority of a router.
    pub(super) priority: i64,
    pub(super) outcome: Outcome,
}

/// What is known of all objects that are not routers.
#[derive(Default)]
pub(super) struct Diagnostics {
    outcomes: BTreeMap<ObjectRef, Outcome>,
    /// Routers by what they use.
    users: BTreeMap<ObjectRef, Vec<String>>,
}

impl Diagnostics {
    /// Notes that a router uses an object, whether the object exists or not.
    pub(super) fn note_use(&mut self, kind: Kind, name: &str, router: &str) {
        let object = ObjectRef { kind, name: name.to_owned() };
        self.users.entry(object).or_default().push(router.to_owned());
    }

    /// Notes why an object could not be built.
    pub(super) fn note_error(&mut self, kind: Kind, name: &str, error: &BuildError) {
        for message in error.messages() {
            self.outcome(kind, name).add_error(message);
        }
    }

    /// Notes what is wrong with an object that serves all the same.
    pub(super) fn note_warnings(&mut self, kind: Kind, name: &str, warnings: &[String]) {
        if !warnings.is_empty() {
            self.outcome(kind, name).warnings.extend_from_slice(warnings);
        }
    }

    /// What became of an object. Traefik's API does not show who uses a TCP middleware.
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
