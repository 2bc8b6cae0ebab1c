//! Options shared by the providers that use a Docker Engine.
//!
//! A macro adds the fields to each struct, as Serde's `flatten` would lose their names.

use tidegate_clients::connect::Tls;
use tidegate_core::values::{Duration, Secret};

/// Traefik's default of `defaultRule`.
pub const DEFAULT_RULE: &str = "Host(`{{ normalize .Name }}`)";
/// The default endpoint.
pub(crate) const ENDPOINT: &str = "unix:///var/run/docker.sock";

/// Connection options of an engine.
pub(crate) struct Engine<'o> {
    pub(crate) endpoint: &'o str,
    pub(crate) username: &'o str,
    pub(crate) password: &'o Secret,
    pub(crate) tls: Option<&'o Tls>,
    /// Response timeout; 0 for the default.
    pub(crate) timeout: Duration,
}

/// Declares `Options` with the shared options, and further ones with their defaults.
macro_rules! options {
    ($(#[$doc:meta])* pub struct Options { $($(#[$about:meta])* pub $field:ident: $kind:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        pub struct Options {
            /// Endpoint of the engine: `unix://`, `tcp://`, `http://` or `https://`.
            pub endpoint: String,
            /// User name for basic authentication.
            #[serde(skip_serializing_if = "String::is_empty")]
            pub username: String,
            /// Password for basic authentication.
            #[serde(skip_serializing_if = "tidegate_core::values::Secret::is_empty")]
            pub password: tidegate_core::values::Secret,
            /// TLS options for the engine.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tls: Option<tidegate_clients::connect::Tls>,
            /// Expose containers or services without `enable`.
            pub exposed_by_default: bool,
            /// Use the published address of a port instead of the internal one.
            #[serde(rename = "useBindPortIP", skip_serializing_if = "tidegate_core::values::is_default")]
            pub use_bind_port_ip: bool,
            /// Template for the rule of routers without one.
            pub default_rule: String,
            /// The network for connections to containers.
            #[serde(skip_serializing_if = "String::is_empty")]
            pub network: String,
            /// Expression that selects containers or services.
            #[serde(skip_serializing_if = "String::is_empty")]
            pub constraints: String,
            /// Follow changes.
            pub watch: bool,
            /// Keep services without a healthy running container, with no servers.
            #[serde(skip_serializing_if = "tidegate_core::values::is_default")]
            pub allow_empty_services: bool,
            /// How long routes stay, without servers, after their last container or task has gone; 0 to remove
            /// them at once. Not in Traefik.
            #[serde(skip_serializing_if = "tidegate_core::values::is_default")]
            pub keep_routes: tidegate_core::values::Duration,
            /// Response timeout of the engine; 0 means 30 seconds.
            pub http_client_timeout: tidegate_core::values::Duration,
            $($(#[$about])* pub $field: $kind,)*
        }

        impl Default for Options {
            fn default() -> Self {
                Self {
                    endpoint: $crate::docker::options::ENDPOINT.into(),
                    username: String::new(),
                    password: tidegate_core::values::Secret::default(),
                    tls: None,
                    exposed_by_default: true,
                    use_bind_port_ip: false,
                    default_rule: $crate::docker::DEFAULT_RULE.into(),
                    network: String::new(),
                    constraints: String::new(),
                    watch: true,
                    allow_empty_services: false,
                    keep_routes: tidegate_core::values::Duration::default(),
                    http_client_timeout: tidegate_core::values::Duration::default(),
                    $($field: $default,)*
                }
            }
        }

        impl Options {
            fn engine(&self) -> $crate::docker::options::Engine<'_> {
                $crate::docker::options::Engine {
                    endpoint: &self.endpoint,
                    username: &self.username,
                    password: &self.password,
                    tls: self.tls.as_ref(),
                    timeout: self.http_client_timeout,
                }
            }
        }

        impl $crate::Describe for Options {
            fn place(&self) -> String {
                self.endpoint.clone()
            }
        }
    };
}
pub(crate) use options;
