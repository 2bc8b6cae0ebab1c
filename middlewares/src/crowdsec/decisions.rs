//! Decisions of CrowdSec: how they are read, and a set of them that is searched by address.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use tidegate_core::values;

/// Maximum number of networks in a set. An entry takes about 40 bytes.
pub(super) const MAX_NETWORKS: usize = 500_000;

/// What a decision asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remediation {
    /// The client is refused. Types that are unknown count as this one.
    Ban,
    /// The client has to solve a captcha.
    Captcha,
}

/// A decision about addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) network: IpNet,
    pub(super) remediation: Remediation,
    /// The remaining time; zero if the decision has expired or the text cannot be parsed.
    pub(super) duration: Duration,
}

/// A decision as CrowdSec writes it.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, default)]
    scope: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    value: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    duration: Option<Cow<'a, str>>,
    #[serde(default)]
    simulated: Option<bool>,
}

impl Written<'_> {
    /// Returns the decision if it is about addresses and not simulated.
    fn read(&self) -> Option<Decision> {
        let scope = self.scope.as_deref().unwrap_or("ip");
        let is_address = ["ip", "range"].iter().any(|known| known.eq_ignore_ascii_case(scope));
        if !is_address || self.simulated == Some(true) {
            return None;
        }
        let kind = self.kind.as_deref().unwrap_or_default();
        let is_captcha = kind.eq_ignore_ascii_case("captcha");
        let duration = self.duration.as_deref().and_then(|text| text.parse::<values::Duration>().ok());
        Some(Decision {
            network: network(self.value.as_deref()?)?,
            remediation: if is_captcha { Remediation::Captcha } else { Remediation::Ban },
            duration: duration.map(Duration::from).unwrap_or_default(),
        })
    }
}

/// Reads an address or a range. IPv4-mapped IPv6 addresses become IPv4.
fn network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address.to_canonical().into()),
        Err(_) => text.parse::<IpNet>().ok().map(|range| range.trunc()),
    }
}

/// A list of decisions. Those that are not about addresses are skipped, and those beyond the limit are counted.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    pub(super) list: Vec<Decision>,
    pub(super) omitted: usize,
}

impl<'de> Deserialize<'de> for Decisions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Decisions;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of decisions")
            }

            fn visit_unit<E>(self) -> Result<Decisions, E> {
                Ok(Decisions::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Decisions, A::Error> {
                let mut decisions = Decisions::default();
                while let Some(written) = items.next_element::<Written<'de>>()? {
                    let Some(decision) = written.read() else { continue };
                    if decisions.list.len() < MAX_NETWORKS {
                        decisions.list.push(decision);
                    } else {
                        decisions.omitted += 1;
                    }
                }
                Ok(decisions)
            }
        }
        deserializer.deserialize_any(List)
    }
}

/// What has changed since the last question, or everything for the first one.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta {
    pub(super) new: Decisions,
    pub(super) deleted: Decisions,
}

/// When the decisions about a network end, as uptime in seconds. Zero if there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    ban: u64,
    captcha: u64,
}

impl Ends {
    fn of(&mut self, remediation: Remediation) -> &mut u64 {
        match remediation {
            Remediation::Ban => &mut self.ban,
            Remediation::Captcha => &mut self.captcha,
        }
    }
}

/// The decisions in effect.
#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    networks: HashMap<IpNet, Ends, RandomState>,
    /// Prefix lengths that occur, for IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
}

impl Set {
    /// Returns the set after a change. `now` is the uptime. The second value is the number of decisions that are
    /// omitted because the set is full.
    pub(super) fn changed(mut self, delta: &Delta, now: Duration) -> (Self, usize) {
        let now = now.as_secs();
        for Decision { network, remediation, .. } in &delta.deleted.list {
            if let Some(ends) = self.networks.get_mut(network) {
                *ends.of(*remediation) = 0;
            }
        }
        self.networks.retain(|_, ends| ends.ban > now || ends.captcha > now);
        let mut omitted = delta.new.omitted;
        for Decision { network, remediation, duration } in &delta.new.list {
            let end = now.saturating_add(duration.as_secs());
            if end == now {
                continue;
            }
            if self.networks.len() >= MAX_NETWORKS && !self.networks.contains_key(network) {
                omitted += 1;
                continue;
            }
            let kept = self.networks.entry(*network).or_default().of(*remediation);
            *kept = end.max(*kept);
        }
        self.note_lengths();
        (self, omitted)
    }

    fn note_lengths(&mut self) {
        let mut occurs = [[false; 129]; 2];
        for network in self.networks.keys() {
            let family = usize::from(matches!(network, IpNet::V6(_)));
            occurs[family][usize::from(network.prefix_len())] = true;
        }
        self.lengths = occurs.map(|occurs| (0..=128).filter(|length| occurs[usize::from(*length)]).collect());
    }

    /// Returns what the decisions ask for. A ban of any network that has the address comes first.
    pub(super) fn find(&self, address: IpAddr, now: Duration) -> Option<Remediation> {
        let now = now.as_secs();
        let family = usize::from(address.is_ipv6());
        let mut found = None;
        for length in &self.lengths[family] {
            let network = IpNet::new(address, *length).ok().map(|network| network.trunc());
            match network.and_then(|network| self.networks.get(&network)) {
                Some(ends) if ends.ban > now => return Some(Remediation::Ban),
                Some(ends) if ends.captcha > now => found = Some(Remediation::Captcha),
                _ => {}
            }
        }
        found
    }

    /// Returns the number of networks.
    pub(super) fn len(&self) -> usize {
        self.networks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(text: &str) -> Delta {
        serde_json::from_str(text).unwrap()
    }

    fn decision(scope: &str, kind: &str, value: &str, duration: &str) -> String {
        format!(
            r#"{{"id":1,"origin":"cscli","type":"{kind}","scope":"{scope}","value":"{value}","duration":"{duration}","scenario":"x"}}"#
        )
    }

    fn new(decisions: &[String]) -> Delta {
        delta(&format!(r#"{{"new":[{}],"deleted":null}}"#, decisions.join(",")))
    }

    fn find(set: &Set, address: &str, now: u64) -> Option<Remediation> {
        set.find(address.parse().unwrap(), Duration::from_secs(now))
    }

    #[test]
    fn addresses_and_ranges_of_both_families_are_found_until_they_end() {
        use Remediation::{Ban, Captcha};
        let all = new(&[
            decision("Ip", "ban", "192.0.2.1", "4h"),
            decision("Range", "ban", "198.51.100.0/24", "10s"),
            decision("ip", "captcha", "2001:db8::1", "1m"),
            decision("Range", "ban", "2001:db8:1::/48", "1h59m59.5s"),
            decision("Range", "captcha", "192.0.0.0/16", "1h"),
            decision("Ip", "throttle", "203.0.113.1", "1h"),
            decision("Ip", "ban", "203.0.113.2", "-1s"),
            decision("Country", "ban", "FR", "1h"),
            decision("Ip", "ban", "nonsense", "1h"),
        ]);
        let (set, omitted) = Set::default().changed(&all, Duration::from_secs(100));
        assert_eq!((set.len(), omitted), (6, 0));
        for (address, now, expected) in [
            ("192.0.2.1", 101, Some(Ban)),
            ("192.0.2.2", 101, Some(Captcha)),
            ("192.0.2.1", 100 + 3600 * 4, None),
            ("198.51.100.77", 109, Some(Ban)),
            ("198.51.100.77", 110, None),
            ("198.51.101.77", 109, None),
            ("2001:db8::1", 109, Some(Captcha)),
            ("2001:db8:1:ffff::9", 109, Some(Ban)),
            ("2001:db8:2::9", 109, None),
            ("203.0.113.1", 109, Some(Ban)),
            ("203.0.113.2", 101, None),
        ] {
            assert_eq!(find(&set, address, now), expected, "{address} at {now}");
        }
    }

    #[test]
    fn deletions_remove_decisions_of_their_type_before_additions() {
        let first = new(&[
            decision("Ip", "ban", "192.0.2.1", "1h"),
            decision("Ip", "captcha", "192.0.2.1", "2h"),
            decision("Ip", "ban", "192.0.2.2", "1h"),
        ]);
        let (set, _) = Set::default().changed(&first, Duration::ZERO);
        let second = delta(&format!(
            r#"{{"new":[{0}],"deleted":[{0},{1}]}}"#,
            decision("Ip", "ban", "192.0.2.2", "1h"),
            decision("Ip", "ban", "192.0.2.1", "-1s")
        ));
        let (set, _) = set.changed(&second, Duration::from_secs(1));
        assert_eq!(find(&set, "192.0.2.1", 2), Some(Remediation::Captcha));
        assert_eq!(find(&set, "192.0.2.2", 2), Some(Remediation::Ban));
        let (set, _) = set.changed(&Delta::default(), Duration::from_secs(3601));
        assert_eq!(set.len(), 1, "what has ended is removed");
    }

    #[test]
    fn a_huge_list_is_bounded() {
        let decision = |number: u32| Decision {
            network: IpAddr::from(number.to_be_bytes()).into(),
            remediation: Remediation::Ban,
            duration: Duration::from_secs(60),
        };
        let many = u32::try_from(MAX_NETWORKS).unwrap() + 7;
        let delta = Delta {
            new: Decisions { list: (0..many).map(decision).collect(), omitted: 3 },
            deleted: Decisions::default(),
        };
        let (set, omitted) = Set::default().changed(&delta, Duration::ZERO);
        assert_eq!((set.len(), omitted), (MAX_NETWORKS, 10));
        let again =
            Delta { new: Decisions { list: vec![decision(0)], omitted: 0 }, deleted: Decisions::default() };
        assert_eq!(set.changed(&again, Duration::ZERO).1, 0, "known networks are updated");
    }

    #[test]
    fn simulated_decisions_and_nothing_are_no_decisions() {
        assert!(serde_json::from_str::<Decisions>("null").unwrap().list.is_empty());
        let simulated =
            r#"[{"value":"192.0.2.1","scope":"Ip","type":"ban","duration":"1h","simulated":true}]"#;
        assert!(serde_json::from_str::<Decisions>(simulated).unwrap().list.is_empty());
        assert!(serde_json::from_str::<Decisions>("{}").is_err());
    }
}
