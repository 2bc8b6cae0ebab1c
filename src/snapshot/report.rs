//! What became of each object of a configuration: the API, the log and `check` read it.

use std::collections::BTreeMap;

use tidegate_config::{Config, ObjectRef, Problem};

/// The outcome of compiling one configuration.
#[derive(Default)]
pub struct Report {
    /// The merged configuration, names qualified, as providers gave it (defaults filled in).
    pub config: Config,
    /// What is known of each object.
    pub objects: BTreeMap<ObjectRef, ObjectReport>,
    /// Everything that was wrong.
    pub problems: Vec<Problem>,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// It serves.
    #[default]
    Enabled,
    /// It serves, but something about it is wrong.
    Warning,
    /// It does not serve.
    Disabled,
}
