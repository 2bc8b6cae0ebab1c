//! The dynamic configuration in one typed model.
//!
//! Labels, tags, keys, environment variables, flags, YAML and TOML become one [`tree`], which one decoder
//! turns into these types. This crate does not know how the configuration is used. After [`merge`], nothing
//! changes a value except that names are qualified ([`references`]).

pub mod consumer;
pub mod decode;
mod delay;
pub mod formats;
pub mod hold;
mod kept;
pub mod locate;
pub mod merge;
pub mod middleware;
pub mod origin;
pub mod plan;
pub mod plugins;
pub mod references;
pub mod restore;
pub mod revocation;
pub mod route_test;
pub mod router;
pub mod runtime;
pub mod section;
pub mod service;
pub mod static_files;
pub mod suggest;
pub mod tcp;
pub mod tls;
pub mod transport;
pub mod tree;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use decode::{DecodeError, decode_config};
pub use locate::{ObjectOrigin, Origins};
pub use middleware::Middleware;
pub use origin::{ObjectRef, Origin, Problem};
pub use references::Qualified;
pub use route_test::{Expectation, RouteTest, TestRequest};
pub use section::{ForEachSection, Kind, Object, WithType, for_each_section};

/// Objects by name, shared between all states, merged configurations and snapshots that contain them.
pub type Map<T> = BTreeMap<String, Arc<T>>;

/// The dynamic configuration of one provider (unqualified names), or of all providers (names such as
/// `x@provider`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Config {
    /// HTTP routers, services, middlewares and transports.
    pub http: Http,
    /// TCP routers, services, middlewares and transports.
    pub tcp: tcp::Tcp,
    /// UDP routers and services.
    pub udp: tcp::Udp,
    /// Certificates, stores and options.
    pub tls: tls::Tls,
}

/// The `http` part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Http {
    /// Match requests and send them to services.
    pub routers: Map<router::Router>,
    /// Handle requests.
    pub services: Map<service::Service>,
    /// Process requests and responses on the way.
    pub middlewares: Map<Middleware>,
    /// Configure connections to servers.
    pub servers_transports: Map<transport::ServersTransport>,
    /// Clients that the gateway knows. Not in Traefik.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub consumers: Map<consumer::Consumer>,
    /// What consumers have in common. Not in Traefik.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub plans: Map<plan::Plan>,
}

/// The complete state of one provider, sent with every change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provided {
    /// The configuration, with unqualified names.
    pub config: Config,
    /// Where each object was written.
    pub origins: Origins,
    /// What is wrong. A problem that names an object marks it as broken: a broken router keeps its rule and
    /// answers 503, so that its traffic never falls through to a weaker one.
    pub problems: Vec<Problem>,
    /// Broken objects as written, in JSON, for the API.
    pub raw: BTreeMap<ObjectRef, String>,
    /// The valid parts of broken certificates, which identify their last good versions.
    pub partial: BTreeMap<ObjectRef, tls::Certificate>,
    /// Objects that nothing defines any more and that stay for a while, each with a note for the API. They are
    /// not saved.
    pub kept: BTreeMap<ObjectRef, String>,
    /// Tests of the routes, and where each was written.
    pub tests: Vec<(Origin, RouteTest)>,
}
