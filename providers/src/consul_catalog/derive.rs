//! Derives routers and services from registered services, as in Traefik.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_config::Provided;
use tidegate_core::word::Word;

use super::Options;
use super::connect::Identity;
use super::model::Instance;
use crate::Error;
use crate::template::functions::normalize;
use crate::workload::{self, Carrier, Labels, Locate, LocateError, PREFIXES, Rules, Said, Workload};

/// The options that determine the derived configuration.
pub(super) struct Deriver {
    pub(super) options: Options,
    rules: Rules,
    /// The prefixes of tags and of the corresponding labels.
    prefixes: Vec<(String, &'static str)>,
}

impl Deriver {
    pub(super) fn new(options: Options) -> Result<Self, Error> {
        let rules = Rules::for_tags(&options.default_rule, &options.constraints)?;
        let prefixes = match options.prefix.as_str() {
            "traefik" => PREFIXES.iter().map(|prefix| ((*prefix).to_owned(), *prefix)).collect(),
            other => vec![(other.to_owned(), "traefik")],
        };
        Ok(Self { options, rules, prefixes })
    }

    /// Returns false if no instance of a service with these tags can be exposed.
    pub(super) fn wants(&self, tags: &[String]) -> bool {
        let enables = |tag: &String| {
            let mut prefixes = self.prefixes.iter();
            prefixes.any(|(prefix, _)| tag.eq_ignore_ascii_case(&format!("{prefix}.enable=true")))
        };
        self.options.exposed_by_default || tags.iter().any(enables)
    }

    /// Returns true if a service with these tags is reached through Connect.
    pub(super) fn connects(&self, tags: &[String]) -> bool {
        if !self.options.connect_aware {
            return false;
        }
        let said = self.labels(tags).into_iter().find_map(|(key, value)| {
            let key = key.to_ascii_lowercase();
            key.ends_with(".consulcatalog.connect").then(|| value.trim() == "true")
        });
        said.unwrap_or(self.options.connect_by_default)
    }

    /// Returns the configuration of the usable instances of a service. With an identity, they are Connect instances.
    pub(super) fn service(
        &self,
        name: &str,
        instances: &[Instance],
        identity: Option<&Identity>,
        earlier: &Provided,
    ) -> Provided {
        self.merged(name, instances.iter().filter(|instance| self.is_usable(instance)), identity, earlier)
    }

    /// Returns what the instances of a service define, whether or not they are usable.
    pub(super) fn defined(
        &self,
        name: &str,
        instances: &[Instance],
        identity: Option<&Identity>,
        earlier: &Provided,
    ) -> Provided {
        self.merged(name, instances.iter(), identity, earlier)
    }

    /// Returns true if the checks of an instance admit requests.
    fn is_usable(&self, instance: &Instance) -> bool {
        let mut wanted = self.options.strict_checks.iter().filter_map(Word::known);
        wanted.any(|wanted| wanted.admits(instance.state))
    }

    fn merged<'i>(
        &self,
        name: &str,
        instances: impl Iterator<Item = &'i Instance>,
        identity: Option<&Identity>,
        earlier: &Provided,
    ) -> Provided {
        let mut parts: Vec<_> = instances
            .filter_map(|instance| {
                let part = self.instance(name, instance, identity)?;
                Some((normalize(&format!("{}-{name}-{}", instance.node, instance.id)), part))
            })
            .collect();
        // Traefik's order, which determines the order of servers.
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        workload::merge(parts.iter().map(|(_, part)| Said { part, serves: true }), earlier)
    }

    fn instance(&self, name: &str, instance: &Instance, identity: Option<&Identity>) -> Option<Provided> {
        let labels = self.labels(&instance.tags);
        let owner: Arc<str> = format!("{name} ({} on {})", instance.id, instance.node).into();
        let canonical = normalize(name);
        let mut workload = Workload {
            name: &canonical,
            title: name,
            owner: &owner,
            labels: &labels,
            carrier: Carrier::Service { prefix: &self.options.prefix },
        };
        let mut read = Labels::read(&workload);
        let options = &self.options;
        let enabled = read.take_enable(options.exposed_by_default);
        let connect = read.take_bool(&["consulcatalog", "connect"], options.connect_by_default);
        let canary = read.take_bool(&["consulcatalog", "canary"], false);
        if enabled == Some(false) || (connect && identity.is_none()) || !self.rules.admit_tags(&instance.tags)
        {
            return None;
        }
        if enabled.is_none() {
            return Some(read.left_out());
        }
        let canary = canary.then(|| canary_name(name, &instance.tags));
        if let Some(canary) = &canary {
            workload.name = canary;
        }
        let mut provided = workload::build(&workload, read, &self.rules, &InstanceLocation(instance));
        if let Some(identity) = identity {
            identity.secure(&mut provided, name, instance, &workload.origin(""));
        }
        Some(provided)
    }

    /// Returns tags `prefix.key=value` as labels. Unlike keys, prefixes are case-sensitive.
    fn labels(&self, tags: &[String]) -> BTreeMap<String, String> {
        let label = |tag: &String| {
            let (key, value) = tag.split_once('=')?;
            let (prefix, rest) = self.prefixes.iter().find_map(|(prefix, neutral)| {
                let rest = key.strip_prefix(prefix.as_str())?.strip_prefix('.')?;
                Some((neutral, rest))
            })?;
            Some((format!("{prefix}.{rest}"), value.to_owned()))
        };
        tags.iter().filter_map(label).collect()
    }
}

/// Locates an instance.
struct InstanceLocation<'i>(&'i Instance);

impl Locate for InstanceLocation<'_> {
    fn locate(&self, port: Option<&str>) -> Result<Option<(String, String)>, LocateError> {
        if self.0.address.is_empty() {
            return Err(LocateError::NoInstanceAddress);
        }
        let port = port.map_or_else(|| self.0.port.to_string(), str::to_owned);
        Ok(Some((self.0.address.clone(), port)))
    }
}

/// Returns the name of a canary: that of its service with a hash of its tags (64-bit FNV-1, as in Traefik).
fn canary_name(name: &str, tags: &[String]) -> String {
    let mut tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    tags.sort_unstable();
    let number = tags
        .concat()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
    normalize(&format!("{name}-{number}"))
}
