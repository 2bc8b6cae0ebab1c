//! Where a value came from, and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::locate::ObjectOrigin;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// A line of a file (1 for the first; 0 when the line is not known).
    File {
        /// Path as it was given.
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
    /// Made by the gateway itself.
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

/// The kinds of named objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names are the kinds")]
pub enum Kind {
    Router,
    Service,
    Middleware,
    ServersTransport,
    TcpRouter,
    TcpService,
    TcpMiddleware,
    TcpServersTransport,
    UdpRouter,
    UdpService,
    TlsOptions,
    TlsStore,
    Certificate,
}

impl Kind {
    /// The kind of what stands in a section, such as `http` and `routers`. Names are compared without case.
    pub fn of_section(section: &str, part: &str) -> Option<Self> {
        Some(match (section.to_ascii_lowercase().as_str(), part.to_ascii_lowercase().as_str()) {
            ("http", "routers") => Self::Router,
            ("http", "services") => Self::Service,
            ("http", "middlewares") => Self::Middleware,
            ("http", "serverstransports") => Self::ServersTransport,
            ("tcp", "routers") => Self::TcpRouter,
            ("tcp", "services") => Self::TcpService,
            ("tcp", "middlewares") => Self::TcpMiddleware,
            ("tcp", "serverstransports") => Self::TcpServersTransport,
            ("udp", "routers") => Self::UdpRouter,
            ("udp", "services") => Self::UdpService,
            ("tls", "options") => Self::TlsOptions,
            ("tls", "stores") => Self::TlsStore,
            ("tls", "certificates") => Self::Certificate,
            _ => return None,
        })
    }

    /// True for objects whose key says what they are.
    pub(crate) fn has_one_key(self) -> bool {
        matches!(self, Self::Middleware | Self::TcpMiddleware)
    }

    /// True for routers of HTTP, TCP and UDP.
    pub fn is_router(self) -> bool {
        matches!(self, Self::Router | Self::TcpRouter | Self::UdpRouter)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Router => "router",
            Self::Service => "service",
            Self::Middleware => "middleware",
            Self::ServersTransport => "servers transport",
            Self::TcpRouter => "TCP router",
            Self::TcpService => "TCP service",
            Self::TcpMiddleware => "TCP middleware",
            Self::TcpServersTransport => "TCP servers transport",
            Self::UdpRouter => "UDP router",
            Self::UdpService => "UDP service",
            Self::TlsOptions => "TLS options",
            Self::TlsStore => "TLS store",
            Self::Certificate => "certificate",
        })
    }
}

/// A named object of one provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// What it is.
    pub kind: Kind,
    /// Its name: plain inside a provider, `name@provider` after merging.
    pub name: String,
}

/// Where each object came from.
pub type Origins = BTreeMap<ObjectRef, ObjectOrigin>;

/// Something wrong in a configuration, told to the person who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Where it stands.
    pub origin: Origin,
    /// The object that is broken by it, when it is one.
    pub object: Option<ObjectRef>,
    /// What is wrong and what was expected.
    pub message: String,
    /// A rendered excerpt of the source with the place marked, when there is a source.
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
