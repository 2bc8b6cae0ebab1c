//! What providers say: the dynamic configuration, in one typed model.
//!
//! Labels, tags, keys, environment, flags, YAML and TOML become one [`tree`], which one decoder turns into these
//! types. Nothing here knows how anything is run, and nothing changes a value after [`merge`], but that names are
//! qualified ([`references`]).

pub mod decode;
mod delay;
pub mod formats;
pub mod locate;
pub mod merge;
pub mod middleware;
pub mod origin;
pub mod references;
pub mod restore;
pub mod router;
pub mod runtime;
pub mod section;
pub mod service;
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
pub use section::{ForEachSection, Kind, Object, WithType, for_each_section};

/// Objects by name. They are shared: states, merged configurations and snapshots that hold the same object hold it once.
pub type Map<T> = BTreeMap<String, Arc<T>>;

/// The dynamic configuration of one provider (plain names), or of all together (names `x@provider`).
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
    /// Which requests go where.
    pub routers: Map<router::Router>,
    /// Where requests go.
    pub services: Map<service::Service>,
    /// What happens on the way.
    pub middlewares: Map<Middleware>,
    /// How servers are talked to.
    pub servers_transports: Map<transport::ServersTransport>,
}

/// What one provider delivers: its whole state, every time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provided {
    /// The configuration, names unqualified.
    pub config: Config,
    /// Where each object came from.
    pub origins: Origins,
    /// What was wrong. A problem that names an object makes that object broken: a broken router keeps its rule and
    /// answers 503, so that its traffic never falls through to a weaker one.
    pub problems: Vec<Problem>,
    /// Broken objects as they were written, as JSON: the API shows them.
    pub written: BTreeMap<ObjectRef, String>,
    /// What decodes of broken certificates: their last good versions are found by it.
    pub torn: BTreeMap<ObjectRef, tls::Certificate>,
}
