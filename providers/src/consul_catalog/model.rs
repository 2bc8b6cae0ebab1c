//! The parts of Consul's responses that are used. All fields are optional.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use tidegate_core::word::Vocabulary;

/// `/v1/catalog/services`: the tags of all instances, by the name of the service.
pub(super) type Names = HashMap<String, Option<Vec<String>>>;

/// One instance in `/v1/health/service/<name>`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Entry {
    pub(super) node: Node,
    pub(super) service: Service,
    pub(super) checks: Vec<Check>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Node {
    pub(super) node: String,
    pub(super) address: String,
    pub(super) datacenter: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Service {
    #[serde(rename = "ID")]
    pub(super) id: String,
    /// The registered name. That of a proxy differs from that of its service.
    pub(super) service: String,
    pub(super) namespace: String,
    pub(super) partition: String,
    pub(super) address: String,
    pub(super) port: u32,
    pub(super) tags: Option<Vec<String>>,
}

/// A health check of an instance.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Check {
    #[serde(rename = "CheckID")]
    pub(super) check_id: String,
    pub(super) status: String,
}

/// A health check in `/v1/health/state/<state>`. As there may be very many, nothing is copied.
#[derive(Default, Hash, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Listed<'a> {
    #[serde(borrow)]
    node: Cow<'a, str>,
    #[serde(rename = "CheckID", borrow)]
    check_id: Cow<'a, str>,
    #[serde(rename = "ServiceID", borrow)]
    service_id: Cow<'a, str>,
    /// Empty for a check of the whole node.
    #[serde(borrow)]
    service_name: Cow<'a, str>,
}

/// One instance of a service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Instance {
    pub(super) node: String,
    pub(super) datacenter: String,
    pub(super) namespace: String,
    /// Empty in the default partition, and without partitions.
    pub(super) partition: String,
    /// The registered name, as in checks.
    pub(super) registered: String,
    pub(super) id: String,
    pub(super) address: String,
    pub(super) port: u32,
    pub(super) tags: Vec<String>,
    pub(super) state: State,
}

impl Instance {
    pub(super) fn new(entry: Entry) -> Self {
        let Entry { node, service, checks } = entry;
        let address = if service.address.is_empty() { node.address } else { service.address };
        let namespace = if service.namespace.is_empty() { "default".into() } else { service.namespace };
        Self {
            node: node.node,
            datacenter: node.datacenter,
            namespace,
            partition: if service.partition == "default" { String::new() } else { service.partition },
            registered: service.service,
            id: service.id,
            address,
            port: service.port,
            tags: service.tags.unwrap_or_default(),
            state: State::from_checks(&checks),
        }
    }
}

/// The health state of an instance, which is that of its worst check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// All checks pass, or there are none.
    Passing,
    /// A check warns.
    Warning,
    /// A check fails.
    Critical,
    /// The instance or its node is in maintenance.
    Maintenance,
}

/// A word of `strictChecks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StrictCheck {
    /// Instances in this state get requests.
    State(State),
    /// All instances get requests.
    Any,
}

impl StrictCheck {
    /// Returns true when instances in this state get requests.
    pub(super) fn admits(self, state: State) -> bool {
        match self {
            Self::State(wanted) => wanted == state,
            Self::Any => true,
        }
    }
}

impl Vocabulary for StrictCheck {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("passing", Self::State(State::Passing)),
        ("warning", Self::State(State::Warning)),
        ("critical", Self::State(State::Critical)),
        ("maintenance", Self::State(State::Maintenance)),
        ("any", Self::Any),
    ];
}

impl State {
    fn from_checks(checks: &[Check]) -> Self {
        let worst = checks.iter().map(|check| {
            let maintenance =
                check.check_id == "_node_maintenance" || check.check_id.starts_with("_service_maintenance:");
            match check.status.as_str() {
                _ if maintenance => Self::Maintenance,
                "passing" => Self::Passing,
                "warning" => Self::Warning,
                // Consul has no other states; treat unknown ones as critical.
                _ => Self::Critical,
            }
        });
        worst.max().unwrap_or(Self::Passing)
    }
}

/// A hash of the checks of each service and each node, to detect where they have changed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Digests {
    services: HashMap<String, u64>,
    nodes: HashMap<String, u64>,
    /// The number of checks.
    pub(super) count: usize,
}

impl Digests {
    fn add(&mut self, check: Listed<'_>) {
        let mut hasher = DefaultHasher::new();
        check.hash(&mut hasher);
        let digest = hasher.finish();
        let (slots, name) = match check.service_name.is_empty() {
            true => (&mut self.nodes, check.node),
            false => (&mut self.services, check.service_name),
        };
        // Not XOR: the order must not matter, but equal checks must not cancel each other.
        match slots.get_mut(&*name) {
            Some(slot) => *slot = slot.wrapping_add(digest),
            None => drop(slots.insert(name.into_owned(), digest)),
        }
        self.count += 1;
    }

    /// Returns the services and nodes whose checks differ.
    pub(super) fn differing<'d>(&'d self, other: &'d Self) -> (HashSet<&'d str>, HashSet<&'d str>) {
        (differing(&self.services, &other.services), differing(&self.nodes, &other.nodes))
    }
}

impl<'de> Deserialize<'de> for Digests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Checks;
        impl<'de> Visitor<'de> for Checks {
            type Value = Digests;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list of checks")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Digests, A::Error> {
                let mut digests = Digests::default();
                while let Some(check) = list.next_element()? {
                    digests.add(check);
                }
                Ok(digests)
            }

            fn visit_unit<E>(self) -> Result<Digests, E> {
                Ok(Digests::default())
            }
        }
        deserializer.deserialize_any(Checks)
    }
}

fn differing<'d>(a: &'d HashMap<String, u64>, b: &'d HashMap<String, u64>) -> HashSet<&'d str> {
    let missing_or_other = |from: &'d HashMap<String, u64>, to: &'d HashMap<String, u64>| {
        from.iter().filter(|(name, digest)| to.get(*name) != Some(*digest)).map(|(name, _)| name.as_str())
    };
    missing_or_other(a, b).chain(missing_or_other(b, a)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(id: &str, status: &str) -> Check {
        Check { check_id: id.into(), status: status.into() }
    }

    #[test]
    fn an_instance_has_the_state_of_its_worst_check() {
        let state = |checks: &[(&str, &str)]| {
            State::from_checks(&checks.iter().map(|(id, status)| check(id, status)).collect::<Vec<_>>())
        };
        assert_eq!(state(&[]), State::Passing);
        assert_eq!(state(&[("a", "passing"), ("b", "warning")]), State::Warning);
        assert_eq!(state(&[("a", "critical"), ("b", "warning")]), State::Critical);
        assert_eq!(state(&[("a", "passing"), ("_service_maintenance:s", "critical")]), State::Maintenance);
        assert_eq!(state(&[("_node_maintenance", "critical"), ("a", "critical")]), State::Maintenance);
        assert_eq!(state(&[("a", "odd")]), State::Critical);
    }

    fn digests(checks: &[(&str, &str)]) -> Digests {
        let check = |(id, service): &(&str, &str)| serde_json::json!({"Node": "n", "CheckID": id, "ServiceID": service, "ServiceName": service, "Odd": {}});
        let text = serde_json::Value::from(checks.iter().map(check).collect::<Vec<_>>()).to_string();
        serde_json::from_str(&text).expect("read")
    }

    #[test]
    fn changed_checks_identify_their_service_or_node() {
        let before = digests(&[("1", "a"), ("2", "b"), ("serf", "")]);
        assert_eq!(before, digests(&[("serf", ""), ("2", "b"), ("1", "a")]), "the order does not matter");
        let after =
            digests(&[("1", "a"), ("1b", "a"), ("3", "c\"d"), ("2", "b"), ("serf", ""), ("other", "")]);
        let (services, nodes) = before.differing(&after);
        assert_eq!(services, HashSet::from(["a", "c\"d"]));
        assert_eq!(nodes, HashSet::from(["n"]));
        assert_eq!((before.count, after.count), (3, 6));
        assert_eq!(serde_json::from_str::<Digests>("null").expect("read"), Digests::default());
        assert!(serde_json::from_str::<Digests>("[7]").is_err());
    }

    #[test]
    fn responses_with_missing_and_null_fields_are_decoded() {
        let text = r#"[{"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": {"ID": "a", "Tags": null}},
            {"Node": {"Address": "10.0.0.1"}, "Service": {"Address": "10.0.0.2", "Port": 80, "Odd": {}}}]"#;
        let entries: Vec<Entry> = serde_json::from_str(text).expect("read");
        let instances: Vec<Instance> = entries.into_iter().map(Instance::new).collect();
        assert_eq!((instances[0].address.as_str(), instances[0].port), ("10.0.0.1", 0));
        assert_eq!((instances[1].address.as_str(), instances[1].port), ("10.0.0.2", 80));
    }
}
