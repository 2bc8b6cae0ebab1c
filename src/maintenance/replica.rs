//! The switches of a cluster as its members and its store have them. They are merged: of each router, the newest wins.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_middlewares::maintenance::Maintenance;
use time::OffsetDateTime;

use super::{MAX_ALLOWED, Switch, SwitchMap};

/// Maximum size of the encoded switches in bytes. With an announcement, they fit into one transaction of Consul.
pub(crate) const MAX_TEXT: usize = 256 << 10;
/// How many ended switches are remembered, so that a member that was away does not bring them back.
const MAX_ENDED: usize = 200;
/// Maximum length of the name of a router in bytes.
const MAX_ROUTER: usize = 1024;
/// Maximum length of other names in characters.
pub(super) const MAX_NAME: usize = 256;
/// The end of the year 9999, in seconds since 1970.
const MAX_TIME: i64 = 253_402_300_799;
/// The highest version: the same time in milliseconds.
const MAX_VERSION: u64 = MAX_TIME as u64 * 1000;
/// Raised when older members must not read what is written.
const FORMAT: u32 = 1;

/// Why the switches of a cluster cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    #[error("the stored switches of routers are longer than {MAX_TEXT} bytes")]
    TooLong,
    #[error("the stored switches of routers cannot be read: {0}")]
    Format(#[from] serde_json::Error),
    #[error("the stored switches of routers have version {0}, expected {FORMAT}")]
    Version(u32),
    #[error("the stored switches of routers have an invalid one: `{0}`")]
    Invalid(String),
}

/// The last switch of a router.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Entry {
    /// When it was made, in milliseconds since 1970, but higher than what it replaces.
    pub(crate) version: u64,
    /// The member that was asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) origin: String,
    /// The operator.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) by: String,
    /// The maintenance; `None` if it was ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) switch: Option<Switch>,
}

/// All switches, with those that have ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Replica {
    /// Ended switches up to this version were forgotten: what is as old and not in the map had ended.
    #[serde(default)]
    floor: u64,
    routers: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    switches: Replica,
}

impl Entry {
    fn is_on(&self, now: OffsetDateTime) -> bool {
        self.switch.as_ref().is_some_and(|switch| switch.is_on(now))
    }

    fn is_newer(&self, other: &Self) -> bool {
        let key = |one: &Self| (one.version, one.origin.clone(), one.switch.is_none());
        // Only a foreign writer uses a version twice. All members must choose the same then.
        let text = |one: &Self| serde_json::to_string(one).unwrap_or_default();
        match key(self).cmp(&key(other)) {
            Ordering::Equal => self != other && text(self) > text(other),
            order => order == Ordering::Greater,
        }
    }

    fn is_valid(&self, router: &str) -> bool {
        let is_name = |name: &str| name.chars().count() <= MAX_NAME;
        let is_time = |time: &i64| (0..=MAX_TIME).contains(time);
        (1..=MAX_ROUTER).contains(&router.len())
            && (1..=MAX_VERSION).contains(&self.version)
            && is_name(&self.origin)
            && is_name(&self.by)
            && self.switch.as_ref().is_none_or(|switch| {
                let Switch { since, until, retry_after, allow, by } = switch;
                let options = || Maintenance {
                    retry_after: *retry_after,
                    allow: allow.clone(),
                    ..Maintenance::default()
                };
                is_time(since)
                    && until.as_ref().is_none_or(is_time)
                    && is_name(by)
                    && allow.len() <= MAX_ALLOWED
                    && options().check().is_ok()
            })
    }
}

impl Replica {
    /// Takes over switches that were made without a cluster.
    pub(super) fn from_switches(switches: &SwitchMap) -> Self {
        let entry = |switch: &Switch| {
            let by: String = switch.by.chars().take(MAX_NAME).collect();
            Entry {
                version: u64::try_from(switch.since).unwrap_or(0).saturating_mul(1000).clamp(1, MAX_VERSION),
                by: by.clone(),
                switch: Some(Switch { by, ..switch.clone() }),
                ..Entry::default()
            }
        };
        let routers = switches.iter().map(|(router, switch)| (router.clone(), entry(switch)));
        Self { floor: 0, routers: routers.collect() }
    }

    /// Returns the switches that are on.
    pub(super) fn switches(&self, now: OffsetDateTime) -> SwitchMap {
        let on = self.routers.iter().filter(|(_, entry)| entry.is_on(now));
        on.filter_map(|(router, entry)| Some((router.clone(), entry.switch.clone()?))).collect()
    }

    /// Returns the last switch of a router.
    pub(super) fn get(&self, router: &str) -> Option<&Entry> {
        self.routers.get(router)
    }

    /// Replaces the switch of a router, with a version that is newer than all before. Returns the version; `None` if a
    /// name is too long.
    pub(super) fn set(&mut self, router: &str, mut entry: Entry, now: OffsetDateTime) -> Option<u64> {
        let before = self.get(router).map_or(0, |entry| entry.version).max(self.floor);
        let time = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        entry.version = time.max(before.saturating_add(1)).min(MAX_VERSION);
        let version = entry.version;
        if !entry.is_valid(router) {
            return None;
        }
        self.routers.insert(router.to_owned(), entry);
        self.forget(now);
        Some(version)
    }

    /// Merges others, and returns the routers whose switch is another one now.
    pub(super) fn merge(&mut self, other: &Self) -> Vec<String> {
        let mut changed = Vec::new();
        for (router, theirs) in &other.routers {
            let is_newer = match self.routers.get(router) {
                Some(ours) => theirs.is_newer(ours),
                None => theirs.version > self.floor,
            };
            if is_newer {
                self.routers.insert(router.clone(), theirs.clone());
                changed.push(router.clone());
            }
        }
        self.routers.retain(|router, ours| {
            let is_kept = ours.version > other.floor || other.routers.contains_key(router);
            if !is_kept {
                changed.push(router.clone());
            }
            is_kept
        });
        self.floor = self.floor.max(other.floor);
        changed
    }

    /// Forgets the oldest of the switches that have ended, if there are too many.
    fn forget(&mut self, now: OffsetDateTime) {
        let ended = self.routers.iter().filter(|(_, entry)| !entry.is_on(now));
        let mut ended: Vec<_> = ended.map(|(router, entry)| (entry.version, router.clone())).collect();
        if ended.len() <= MAX_ENDED {
            return;
        }
        ended.sort_unstable();
        for (version, router) in ended.drain(..ended.len() - MAX_ENDED) {
            self.routers.remove(&router);
            self.floor = self.floor.max(version);
        }
    }

    /// Encodes them for the store.
    pub(super) fn encode(&self) -> Result<String, ReplicaError> {
        let text = serde_json::to_string(&Text { version: FORMAT, switches: self.clone() })?;
        if text.len() > MAX_TEXT { Err(ReplicaError::TooLong) } else { Ok(text) }
    }

    /// Decodes what is in the store; without anything there, there are no switches.
    pub(crate) fn decode(text: Option<&[u8]>) -> Result<Self, ReplicaError> {
        let Some(text) = text else { return Ok(Self::default()) };
        if text.len() > MAX_TEXT {
            return Err(ReplicaError::TooLong);
        }
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        match serde_json::from_slice(text)? {
            Version { version: FORMAT } => serde_json::from_slice::<Text>(text)?.switches.checked(),
            Version { version } => Err(ReplicaError::Version(version)),
        }
    }

    /// Returns them if all are valid.
    pub(super) fn checked(self) -> Result<Self, ReplicaError> {
        match self.routers.iter().find(|(router, entry)| !entry.is_valid(router)) {
            _ if self.floor > MAX_VERSION => Err(ReplicaError::Invalid("floor".to_owned())),
            Some((router, _)) => Err(ReplicaError::Invalid(router.chars().take(MAX_NAME).collect())),
            None => Ok(self),
        }
    }

    /// Returns what replaces the text in the store, with these switches merged into it; `None` if it has them.
    pub(crate) fn merged_into(&self, stored: Option<&[u8]>) -> Result<Option<String>, ReplicaError> {
        let stored = Self::decode(stored)?;
        let mut merged = stored.clone();
        merged.merge(self);
        merged.forget(OffsetDateTime::now_utc());
        if merged == stored { Ok(None) } else { merged.checked()?.encode().map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn entry(version: u64, origin: &str, is_on: bool) -> Entry {
        let switch = is_on.then(|| Switch { since: 1, by: "ann".into(), ..Switch::default() });
        Entry { version, origin: origin.into(), by: "ann".into(), switch }
    }

    fn replica(entries: impl IntoIterator<Item = (&'static str, Entry)>) -> Replica {
        let routers = entries.into_iter().map(|(router, entry)| (router.to_owned(), entry));
        Replica { floor: 0, routers: routers.collect() }
    }

    fn merged(one: &Replica, other: &Replica) -> Replica {
        let mut all = one.clone();
        all.merge(other);
        all
    }

    #[test]
    fn the_newest_switch_wins_and_an_end_is_not_undone() {
        let away = replica([("r", entry(5, "a", true)), ("s", entry(5, "a", true))]);
        let mut store = replica([("r", entry(6, "b", false))]);
        assert_eq!(store.merge(&away), ["s"], "the end is newer");
        assert_eq!(store.switches(NOW).into_keys().collect::<Vec<_>>(), ["s"]);
        assert_eq!(away.clone().merge(&store), ["r"]);
        // A clock that is behind does not matter.
        assert_eq!(store.set("r", entry(0, "c", true), NOW), Some(7));
        assert_eq!(store.switches(NOW).len(), 2);
    }

    #[test]
    fn ends_that_were_forgotten_are_not_undone() {
        let mut store = Replica::default();
        let away = replica([("0", entry(1, "a", true)), ("kept", entry(9_999, "a", true))]);
        store.merge(&away);
        for number in 0..=MAX_ENDED {
            let time = NOW + std::time::Duration::from_millis(10 + number as u64);
            store.set(&number.to_string(), entry(0, "b", false), time).unwrap();
        }
        assert_eq!((store.floor, store.get("0")), (10, None));
        let mut again = merged(&store, &away);
        assert_eq!(again, store);
        assert_eq!(merged(&away, &store), store);
        assert_eq!(again.switches(NOW).into_keys().collect::<Vec<_>>(), ["kept"]);
        assert!(again.set("0", entry(0, "a", true), NOW).unwrap() > store.floor, "it can be switched again");
    }

    #[test]
    fn they_are_merged_into_the_store() {
        let ours = replica([("r", entry(5, "a", true))]);
        let text = ours.merged_into(None).unwrap().unwrap();
        assert_eq!(Replica::decode(Some(text.as_bytes())).unwrap(), ours);
        assert_eq!(ours.merged_into(Some(text.as_bytes())).unwrap(), None);
        assert_eq!(Replica::default().merged_into(Some(text.as_bytes())).unwrap(), None);
        let newer = replica([("r", entry(6, "a", false))]);
        let text = newer.merged_into(Some(text.as_bytes())).unwrap().unwrap();
        assert_eq!(ours.merged_into(Some(text.as_bytes())).unwrap(), None);
    }

    #[test]
    fn what_is_invalid_is_not_read_and_not_replaced() {
        let text = replica([("r@file", entry(5, "a", true))]).encode().unwrap();
        let long = "x".repeat(MAX_NAME + 1);
        let changes = [
            ("\"version\":1", "\"version\":2", "version 2"),
            ("\"since\":1", "\"since\":-1", "r@file"),
            ("\"since\":1", "\"since\":1,\"allow\":[\"x\"]", "r@file"),
            ("\"since\":1", "\"since\":1,\"shape\":1", "unknown field"),
            ("\"version\":5", "\"version\":0", "r@file"),
            ("\"version\":5", "\"version\":99999999999999999", "r@file"),
            ("\"floor\":0", "\"floor\":99999999999999999", "floor"),
            ("\"origin\":\"a\"", &format!("\"origin\":\"{long}\""), "r@file"),
            ("}}", "}", "cannot be read"),
        ];
        for (from, to, expected) in changes {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from}");
            let error = Replica::default().merged_into(Some(changed.as_bytes())).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let many: Vec<_> = (0..4_000).map(|number| (number.to_string(), entry(5, "a", true))).collect();
        let many = Replica { floor: 0, routers: many.into_iter().collect() };
        assert!(matches!(many.encode(), Err(ReplicaError::TooLong)));
        assert!(matches!(Replica::decode(Some(&vec![b' '; MAX_TEXT + 1])), Err(ReplicaError::TooLong)));
    }

    fn any_replica() -> impl Strategy<Value = Replica> {
        let parts = (1_u64..6, prop::sample::select(vec!["a", "b"]), any::<bool>());
        let entry = parts.prop_map(|(version, origin, is_on)| entry(version, origin, is_on));
        let routers = prop::collection::btree_map("[r-t]", entry, 0..4);
        routers.prop_map(|routers| Replica { floor: 0, routers })
    }

    proptest! {
        /// Whoever meets whom, and in which order, all end up with the same.
        #[test]
        fn members_agree(a in any_replica(), b in any_replica(), c in any_replica()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(merged(&a, &a), a);
        }

        #[test]
        fn no_bytes_cause_a_panic(bytes: Vec<u8>) {
            let _ = Replica::decode(Some(&bytes));
        }
    }
}
