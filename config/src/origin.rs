//! Where values come from, and problems with them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Kind;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A line of a file, starting at 1; 0 when the line is unknown.
    File {
        /// Path as given.
        path: Arc<str>,
        /// Line.
        line: u32,
        /// Column.
        column: u32,
    },
    /// A label of a container.
    Label {
        /// Name of the container.
        container: Arc<str>,
        /// The label's key.
        label: Arc<str>,
    },
    /// A tag of a registered service.
    Tag {
        /// Name of the service.
        service: Arc<str>,
        /// The tag.
        tag: Arc<str>,
    },
    /// A key of a key-value store.
    Key(Arc<str>),
    /// A command-line flag.
    Flag(Arc<str>),
    /// An environment variable.
    Environment(Arc<str>),
    /// Created by the gateway.
    Internal,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0, .. } => f.write_str(path),
            Self::File { path, line, .. } => write!(f, "{path}:{line}"),
            Self::Label { container, label } if label.is_empty() => write!(f, "container {container}"),
            Self::Label { container, label } => write!(f, "container {container}, label {label}"),
            Self::Tag { service, tag } if tag.is_empty() => write!(f, "service {service}"),
            Self::Tag { service, tag } => write!(f, "service {service}, tag {tag}"),
            Self::Key(key) => write!(f, "key {key}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Internal => f.write_str("internal"),
        }
    }
}

/// A named object of one provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its name: unqualified inside a provider, `name@provider` after the merge.
    pub name: String,
}

/// A mistake in a configuration, reported to its author.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Where the mistake is.
    pub origin: Origin,
    /// The object that it breaks, if any.
    pub object: Option<ObjectRef>,
    /// What is wrong and what was expected.
    pub message: String,
    /// An excerpt of the source with the place marked, if there is a source.
    pub excerpt: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(object) = &self.object {
            write!(f, "{} {}: ", object.kind, object.name)?;
        }
        f.write_str(&self.message)
    }
}
