//! Services registered in Consul and configured by their tags (Traefik's `providers.consulCatalog`).
//!
//! Three blocking queries report changes: one for the names and tags of all services, and one each for
//! critical and warning checks. Only services that have changed are fetched again. While the agent is
//! unavailable, the last known state stays in force.

mod connect;
mod derive;
mod follow;
mod model;
mod news;
mod services;
mod trust;

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_clients::OptionError;
use tidegate_clients::connect::Tls;
use tidegate_clients::consul::{Address, Agent};
use tidegate_core::values::{Duration, Secret, is_default};
use tidegate_core::word::Word;

use crate::workload::Keeper;
use crate::{Describe, Error, Provider, Session};
use derive::Deriver;
use follow::Run;
pub use model::{State, StrictCheck};
use trust::Trust;

/// Traefik's default of `defaultRule`.
pub const DEFAULT_RULE: &str = "Host(`{{ normalize .Name }}`)";
/// Options of `providers.consulCatalog`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Options {
    /// The agent.
    pub endpoint: Endpoint,
    /// Prefix of tags; with `traefik`, tags with the prefix `tidegate` are read too.
    pub prefix: String,
    /// Poll interval if `watch` is off.
    pub refresh_interval: Duration,
    /// Request consistent reads.
    #[serde(skip_serializing_if = "is_default")]
    pub require_consistent: bool,
    /// Allow stale reads.
    #[serde(skip_serializing_if = "is_default")]
    pub stale: bool,
    /// Allow reads from the agent's cache.
    #[serde(skip_serializing_if = "is_default")]
    pub cache: bool,
    /// Expose services without `enable`.
    pub exposed_by_default: bool,
    /// Template for the rule of routers without one.
    pub default_rule: String,
    /// Expression that selects services by their tags.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub constraints: String,
    /// Consul namespaces, each a separate instance (`@consulcatalog-<namespace>`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Admin partition of Consul Enterprise; defaults to that of the agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub partition: String,
    /// Route to services of Consul Connect, with a certificate from the agent.
    #[serde(skip_serializing_if = "is_default")]
    pub connect_aware: bool,
    /// Treat services as Consul Connect services by default.
    #[serde(skip_serializing_if = "is_default")]
    pub connect_by_default: bool,
    /// Name of the gateway in Consul Connect.
    pub service_name: String,
    /// Follow changes with blocking queries. Unlike in Traefik, this is the default.
    pub watch: bool,
    /// States of health in which instances get requests.
    pub strict_checks: Vec<Word<StrictCheck>>,
    /// How long the routes of services stay that have left the catalog, or have no usable instance; 0 removes them at
    /// once. Not in Traefik.
    #[serde(skip_serializing_if = "is_default")]
    pub keep_routes: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::default(),
            prefix: "traefik".into(),
            refresh_interval: Duration::from_secs(15),
            require_consistent: false,
            stale: false,
            cache: false,
            exposed_by_default: true,
            default_rule: DEFAULT_RULE.into(),
            constraints: String::new(),
            namespaces: Vec::new(),
            partition: String::new(),
            connect_aware: false,
            connect_by_default: false,
            service_name: "traefik".into(),
            watch: true,
            strict_checks: vec!["passing".into(), "warning".into()],
            keep_routes: Duration::default(),
        }
    }
}

/// `endpoint`: the agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Endpoint {
    /// Host and port, or a URL; defaults to `CONSUL_HTTP_ADDR` or `127.0.0.1:8500`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// `http` or `https`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheme: String,
    /// Datacenter to read; defaults to that of the agent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub datacenter: String,
    /// ACL token; defaults to `CONSUL_HTTP_TOKEN`.
    #[serde(skip_serializing_if = "Secret::is_empty")]
    pub token: Secret,
    /// TLS options for the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Basic authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_auth: Option<HttpAuth>,
    /// Maximum time of a blocking query; 0 means a minute.
    pub endpoint_wait_time: Duration,
}

/// Credentials for basic authentication.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HttpAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

impl Describe for Options {
    fn place(&self) -> String {
        if self.endpoint.address.is_empty() {
            "the agent of this machine".into()
        } else {
            self.endpoint.address.clone()
        }
    }

    fn split(self) -> Vec<(String, Self)> {
        if self.namespaces.is_empty() {
            return vec![(String::new(), self)];
        }
        let one = |name: &String| (name.clone(), Self { namespaces: vec![name.clone()], ..self.clone() });
        self.namespaces.iter().map(one).collect()
    }
}

/// Builds the provider for the first of its namespaces, or without one.
pub fn build(mut options: Options) -> Result<ConsulCatalog, Error> {
    if options.strict_checks.is_empty() {
        // An empty list would disable all services.
        options.strict_checks = Options::default().strict_checks;
    }
    let bad = |option: &'static str, message: String| Err(OptionError::new(option, message).into());
    if options.connect_aware && options.service_name.is_empty() {
        return bad("serviceName", "expected the gateway's name in Consul Connect, such as `traefik`".into());
    }
    if options.prefix.is_empty() {
        return bad("prefix", "expected a prefix, such as `traefik`".into());
    }
    if options.refresh_interval.is_zero() {
        return bad("refreshInterval", "expected more than 0".into());
    }
    if options.stale && options.require_consistent {
        return bad("stale", "cannot be combined with `requireConsistent`".into());
    }
    if let Some(unknown) = options.strict_checks.iter().find_map(|state| state.meaning().err()) {
        return bad("strictChecks", unknown.to_string());
    }
    let endpoint = &options.endpoint;
    let agent = Agent::new(&Address {
        option: "endpoint.address",
        address: &endpoint.address,
        scheme: &endpoint.scheme,
        tls: endpoint.tls.as_ref(),
        token: &endpoint.token,
        basic: endpoint.http_auth.as_ref().map(|auth| (auth.username.as_str(), &auth.password)),
        datacenter: &endpoint.datacenter,
        namespace: options.namespaces.first().map_or("", String::as_str),
        partition: &options.partition,
        wait: endpoint.endpoint_wait_time.into(),
    })?;
    let keeper = Keeper::new(options.keep_routes.into())?;
    Ok(ConsulCatalog {
        agent: Arc::new(agent),
        keeper: Arc::new(Mutex::new(keeper)),
        deriver: Arc::new(Deriver::new(options)?),
        trust: Arc::default(),
    })
}

/// The Consul Catalog provider.
pub struct ConsulCatalog {
    agent: Arc<Agent>,
    deriver: Arc<Deriver>,
    /// Outlives the connection, so that a restart of the agent ends nothing.
    keeper: Arc<Mutex<Keeper>>,
    trust: Arc<Trust>,
}

impl Provider for ConsulCatalog {
    fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
        let (agent, deriver) = (self.agent.clone(), self.deriver.clone());
        Run::new(agent, deriver, self.keeper.clone(), self.trust.clone(), session).run().boxed()
    }
}

#[cfg(test)]
mod tests;
