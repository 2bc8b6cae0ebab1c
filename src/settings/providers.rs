//! Providers, one or several of each kind, and their precedence among routers of equal priority.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_core::values::Duration;
use tidegate_providers::{
    self as providers, consul, consul_catalog, consumers, docker, etcd, file, http, redis, rest, swarm,
};

use crate::internal;

/// Traefik's default of `providers.precedence`.
const PRECEDENCE: [&str; 17] = [
    "kubernetesgateway",
    "kubernetescrd",
    "kubernetes",
    "kubernetesingressnginx",
    "swarm",
    "docker",
    "file",
    "redis",
    "knative",
    "consul",
    "consulcatalog",
    "nomad",
    "etcd",
    "ecs",
    "http",
    "zookeeper",
    "rest",
];

/// `providers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Providers {
    /// Minimum interval between changes of one provider; changes in between are applied together.
    pub providers_throttle_duration: Duration,
    /// Maximum time that clients wait for the first state of every provider; 0 to disable waiting.
    pub start_timeout: Duration,
    /// Where the last state of providers is stored, for starting while they are unavailable; not stored if
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_state: Option<LastState>,
    /// Precedence among routers of equal priority.
    pub precedence: Vec<String>,
    /// Keys in Consul; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consul: Option<consul::Options>,
    /// Services registered in Consul; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consul_catalog: Option<consul_catalog::Options>,
    /// Consumers in a file of their own; disabled if absent. Not in Traefik.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumers: Option<consumers::Options>,
    /// Containers of a Docker host; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker: Option<docker::Options>,
    /// Files; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<file::Options>,
    /// Keys in etcd; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd: Option<etcd::Options>,
    /// A configuration fetched over HTTP; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<http::Options>,
    /// Keys in Redis; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<redis::Options>,
    /// A configuration sent to the API; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rest: Option<rest::Options>,
    /// Services of a Docker Swarm; disabled if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swarm: Option<swarm::Options>,
    /// Further providers of any kind, by name: the part after `@` in the names of their objects.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<String, providers::Options>,
}

/// Kinds of providers whose content was written by someone. Others discover current addresses, which may have
/// been reassigned by the next start.
const LASTING: [&str; 6] = ["file", "http", "consul", "etcd", "redis", "consumers"];

/// `providers.lastState`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LastState {
    /// The folder.
    pub directory: String,
    /// Names of the providers whose states are stored, as after `@`; if empty, those with a kind in
    /// `LASTING`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

impl LastState {
    /// Returns true if the states of a provider with this name and kind are stored.
    pub(crate) fn keeps(&self, name: &str, kind: &str) -> bool {
        match self.only.as_slice() {
            [] => LASTING.contains(&kind),
            only => only.iter().any(|one| one.eq_ignore_ascii_case(name)),
        }
    }
}

impl Default for Providers {
    fn default() -> Self {
        Self {
            providers_throttle_duration: Duration::from_secs(2),
            start_timeout: Duration::from_secs(10),
            last_state: None,
            precedence: PRECEDENCE.map(str::to_owned).to_vec(),
            consul: None,
            consul_catalog: None,
            consumers: None,
            docker: None,
            etcd: None,
            file: None,
            http: None,
            redis: None,
            rest: None,
            swarm: None,
            instances: BTreeMap::new(),
        }
    }
}

/// An enabled provider.
pub(crate) struct Chosen<'p> {
    /// Its name, if it is one of `providers.instances`.
    pub(crate) name: Option<&'p str>,
    /// Its options.
    pub(crate) options: providers::Options,
}

impl Chosen<'_> {
    /// Returns the path of its options: `providers.docker`, `providers.instances.east.docker`.
    pub(crate) fn path(&self) -> String {
        match self.name {
            None => format!("providers.{}", self.options.kind()),
            Some(name) => format!("providers.instances.{name}.{}", self.options.kind()),
        }
    }
}

impl Providers {
    /// Returns the enabled providers.
    pub(crate) fn chosen(&self) -> Vec<Chosen<'_>> {
        use providers::Options;
        let single = [
            self.file.clone().map(Options::File),
            self.docker.clone().map(Options::Docker),
            self.swarm.clone().map(Options::Swarm),
            self.redis.clone().map(Options::Redis),
            self.etcd.clone().map(Options::Etcd),
            self.http.clone().map(Options::Http),
            self.rest.clone().map(Options::Rest),
            self.consul.clone().map(Options::Consul),
            self.consul_catalog.clone().map(Options::ConsulCatalog),
            self.consumers.clone().map(Options::Consumers),
        ];
        let single = single.into_iter().flatten().map(|options| Chosen { name: None, options });
        let named = self.instances.iter();
        let named = named.map(|(name, options)| Chosen { name: Some(name), options: options.clone() });
        single.chain(named).collect()
    }

    /// Disables providers with invalid options, as Traefik does. Returns the path of each, and why.
    pub(super) fn take_out_unusable(&mut self) -> Vec<(Vec<String>, String)> {
        let mut out = Vec::new();
        for chosen in self.chosen() {
            if let Err(error) = chosen.options.clone().instances(chosen.name) {
                out.push((chosen.name.map(str::to_owned), chosen.options.kind(), error.to_string()));
            }
        }
        let taken = out.into_iter().map(|(name, kind, why)| match name {
            Some(name) => {
                self.instances.remove(&name);
                (vec!["providers".to_owned(), "instances".to_owned(), name, kind.to_owned()], why)
            }
            None => {
                self.switch_off(kind);
                (vec!["providers".to_owned(), kind.to_owned()], why)
            }
        });
        taken.collect()
    }

    fn switch_off(&mut self, kind: &str) {
        match kind {
            "file" => self.file = None,
            "docker" => self.docker = None,
            "swarm" => self.swarm = None,
            "redis" => self.redis = None,
            "etcd" => self.etcd = None,
            "http" => self.http = None,
            "rest" => self.rest = None,
            "consul" => self.consul = None,
            "consumers" => self.consumers = None,
            _ => self.consul_catalog = None,
        }
    }

    /// Returns the REST providers, by the names in their paths.
    pub(crate) fn rest(&self) -> impl Iterator<Item = (&str, &rest::Options)> {
        let named = self.instances.iter().filter_map(|(name, options)| match options {
            providers::Options::Rest(options) => Some((name.as_str(), options)),
            _ => None,
        });
        self.rest.iter().map(|options| ("rest", options)).chain(named)
    }

    /// Returns true for a provider of files of configuration.
    pub(crate) fn is_file(&self, provider: &str) -> bool {
        provider == "file" || matches!(self.instances.get(provider), Some(providers::Options::File(_)))
    }

    /// Returns the rank of a provider in the precedence: its own, or else that of its kind, or else the last.
    pub(crate) fn rank(&self, provider: &str) -> usize {
        let place = |name: &str| self.precedence.iter().position(|other| other.eq_ignore_ascii_case(name));
        // Providers of Consul namespaces are called `<name>-<namespace>`.
        let family = |name: &str| {
            provider.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let named = || {
            let found = self.instances.iter().rev().find(|(name, _)| family(name));
            found.and_then(|(name, options)| place(name).or_else(|| place(options.kind())))
        };
        let single = || place(provider.split('-').next().unwrap_or(provider));
        place(provider).or_else(named).or_else(single).unwrap_or(self.precedence.len())
    }

    /// Returns names that instances cannot have but `precedence` can: those of Traefik's providers, and ours.
    fn reserved() -> impl Iterator<Item = String> {
        let ours = providers::KINDS.iter().map(|kind| kind.to_lowercase());
        PRECEDENCE.iter().map(|name| (*name).to_owned()).chain(ours).chain([internal::PROVIDER.to_owned()])
    }

    /// Returns all mistakes, each with its path below `providers`.
    pub(super) fn check(&self) -> Vec<(Vec<&str>, String)> {
        let mut wrong = Vec::new();
        for name in self.instances.keys() {
            if let Err(error) = check_name(name) {
                wrong.push((vec!["instances", name], error.to_string()));
            }
        }
        for name in &self.precedence {
            let instances = self.chosen();
            let namespaces = instances.iter().flat_map(|chosen| chosen.options.names(chosen.name));
            let mut known = Self::reserved().chain(namespaces).chain(self.instances.keys().cloned());
            if !known.any(|known| known.eq_ignore_ascii_case(name)) {
                wrong.push((vec!["precedence"], format!("provider \"{name}\" is not a valid provider name")));
            }
        }
        if let Some(last) = &self.last_state {
            if last.directory.is_empty() {
                wrong.push((
                    vec!["lastState"],
                    "`directory` is missing: expected the path of a folder".into(),
                ));
            }
            let instances = self.chosen();
            let names: Vec<_> =
                instances.iter().flat_map(|chosen| chosen.options.names(chosen.name)).collect();
            for name in &last.only {
                if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                    let known = names.join("`, `");
                    let message = format!("no provider is called `{name}`: expected some of `{known}`");
                    wrong.push((vec!["lastState", "only"], message));
                }
            }
        }
        let (open, closed): (Vec<_>, Vec<_>) = self.rest().partition(|(_, options)| options.insecure);
        if let ([(open, _), ..], [(closed, _), ..]) = (open.as_slice(), closed.as_slice()) {
            let path = match self.instances.contains_key(*open) {
                true => vec!["instances", open, "rest", "insecure"],
                false => vec!["rest", "insecure"],
            };
            wrong.push((
                path,
                format!("it would open `{closed}` too: set it for all REST providers or for none"),
            ));
        }
        wrong
    }
}

/// Why a provider cannot have a name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum NameError {
    #[error("`{0}` is not the name of a provider: expected letters, digits, `-` and `_`")]
    Characters(String),
    #[error("`{0}` is the name of a kind of provider: expected another")]
    Kind(String),
    #[error("names that begin with `{0}-` belong to the provider `{0}`: expected another")]
    Prefix(String),
}

fn check_name(name: &str) -> Result<(), NameError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || !name.bytes().all(fits) {
        return Err(NameError::Characters(name.to_owned()));
    }
    // `consul-east` could be the provider of a Consul namespace.
    let lower = name.to_lowercase();
    let taken = Providers::reserved().find(|taken| {
        lower.strip_prefix(taken.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    });
    match taken {
        Some(taken) if taken == lower => Err(NameError::Kind(name.to_owned())),
        Some(taken) => Err(NameError::Prefix(taken)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn providers(names: &[&str]) -> Providers {
        let options = providers::Options::ConsulCatalog(consul_catalog::Options {
            namespaces: vec!["a".into(), "b".into()],
            ..consul_catalog::Options::default()
        });
        let instances = names.iter().map(|name| ((*name).to_owned(), options.clone()));
        Providers { instances: instances.collect(), ..Providers::default() }
    }

    #[test]
    fn an_instance_has_the_rank_of_its_kind_by_default() {
        let mut some = providers(&["east", "east-two"]);
        let catalog = some.rank("consulcatalog");
        for name in ["consulcatalog-a", "east", "east-a", "east-two-b"] {
            assert_eq!(some.rank(name), catalog, "{name}");
        }
        assert_eq!((some.rank("dockerish"), some.rank("internal")), (PRECEDENCE.len(), PRECEDENCE.len()));
        some.precedence = ["East-A", "file", "consulcatalog-b", "east-two"].map(str::to_owned).to_vec();
        let ranks = ["east-a", "file", "consulcatalog-b", "east-two-a", "east-b"].map(|name| some.rank(name));
        assert_eq!(ranks, [0, 1, 2, 3, 4]);
        let unknown =
            |some: &Providers| some.check().into_iter().map(|(_, message)| message).collect::<Vec<_>>();
        assert_eq!(unknown(&some), ["provider \"consulcatalog-b\" is not a valid provider name"]);
        some.consul_catalog =
            Some(consul_catalog::Options { namespaces: vec!["b".into()], ..Default::default() });
        assert!(unknown(&some).is_empty());
    }

    #[test]
    fn ambiguous_names_are_refused() {
        for (name, says) in [
            ("docker", "`docker` is the name of a kind"),
            ("ConsulCatalog", "is the name of a kind"),
            ("internal", "is the name of a kind"),
            ("consul-east", "names that begin with `consul-`"),
            ("a@b", "`a@b` is not the name"),
            ("", "`` is not the name"),
        ] {
            assert!(check_name(name).is_err_and(|error| error.to_string().contains(says)), "{name}");
        }
        for name in ["east", "docker2", "Edge_1"] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
    }
}
