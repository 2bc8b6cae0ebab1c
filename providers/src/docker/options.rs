//! Options that all providers have which ask a Docker Engine, in one place.
//!
//! Serde cannot put one struct's fields into another without losing their names, so a macro does.

use tidegate_clients::connect::Tls;
use tidegate_core::values::{Duration, Secret};

/// Traefik's default of `defaultRule`.
pub const DEFAULT_RULE: &str = "Host(`{{ normalize .Name }}`)";
/// Where the engine of this machine is.
pub(crate) const ENDPOINT: &str = "unix:///var/run/docker.sock";

/// How an engine is reached.
pub(crate) struct Engine<'o> {
    pub(crate) endpoint: &'o str,
    pub(crate) username: &'o str,
    pub(crate) password: &'o Secret,
    pub(crate) tls: Option<&'o Tls>,
    /// Time to answer; 0 for the default.
    pub(crate) timeout: Duration,
}

/// Declares `Options` with those that all have, and further ones with their defaults.
macro_rules! options {
    ($(#[$doc:meta])* pub struct Options { $($(#[$about:meta])* pub $field:ident: $kind:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default, deny_unknown_fields)]
        pub struct Options {
            /// Where the engine is: `unix://`, `tcp://`, `http://` or `https://`.
            pub endpoint: String,
            /// Basic authentication.
            #[serde(skip_serializing_if = "String::is_empty")]
            pub username: String,
            /// Its password.
            #[serde(skip_serializing_if = "tidegate_core::values::Secret::is_empty")]
            pub password: tidegate_core::values::Secret,
            /// TLS towards the engine.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tls: Option<tidegate_clients::connect::Tls>,
            /// Expose containers, or services, that do not say `enable`.
            pub exposed_by_default: bool,
            /// Use the published address of a port instead of the inner one.
            #[serde(rename = "useBindPortIP", skip_serializing_if = "tidegate_core::values::is_default")]
            pub use_bind_port_ip: bool,
            /// Template of the rule of routers without one.
            pub default_rule: String,
            /// The network that containers are reached in.
            #[serde(skip_serializing_if = "String::is_empty")]
            pub network: String,
            /// Which containers, or services, are looked at.
            #[serde(skip_serializing_if = "String::is_empty")]
            pub constraints: String,
            /// Follow changes.
            pub watch: bool,
            /// Keep the services of containers that are unhealthy, or of which none runs, without a server.
            #[serde(skip_serializing_if = "tidegate_core::values::is_default")]
            pub allow_empty_services: bool,
            /// Time for the engine to answer; 0 for 30 seconds.
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
