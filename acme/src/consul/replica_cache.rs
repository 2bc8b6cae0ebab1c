//! A replica's copy of the store, kept up to date by blocking queries.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidegate_clients::consul::keys::{decode, encode};
use tidegate_clients::consul::store::{Entry, Listing};

use super::challenges::SharedProof;
use super::keys::{Keys, hash_in, read};
use crate::backoff::Record;
use crate::storage::{Stored, StoredAccount, StoredCertificate};

/// How long an answer that is older than the copy is distrusted, since it may have been delayed. After that it means
/// that the index of Consul was reset, by a restored backup.
const DISTRUST: Duration = Duration::from_secs(10);

/// A gateway that shares the store.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Replica {
    /// Its machine and process: `machine:process`.
    pub(super) node: String,
    /// Since when it runs, or leads (RFC 3339).
    pub(super) since: String,
    /// Sets of names that it lacks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) lacks: Vec<Vec<String>>,
}

/// Everything but the certificates.
#[derive(Default)]
pub(super) struct Live {
    pub(super) account: Option<StoredAccount>,
    /// The session of the leader, and the leader.
    pub(super) leader: Option<(String, Replica)>,
    /// By session.
    pub(super) replicas: BTreeMap<String, Replica>,
    pub(super) proofs: Vec<SharedProof>,
    pub(super) failures: BTreeMap<String, Record>,
    pub(super) renew: Vec<String>,
    /// Keys of failures and renewals as older versions wrote them, with the names.
    pub(super) old: Vec<OldKey>,
}

/// A key of an older version.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct OldKey {
    pub(super) key: String,
    pub(super) name: String,
    /// It asks for a renewal; otherwise it is about failures.
    pub(super) renews: bool,
}

impl Live {
    pub(super) fn read(keys: &Keys, listing: &Listing) -> Self {
        let mut live = Self::default();
        let base = keys.live();
        for entry in &listing.entries {
            let Some(path) = entry.key.strip_prefix(&base) else { continue };
            match path.split_once('/').unwrap_or((path, "")) {
                ("account", _) => live.account = read(entry),
                ("leader", _) => {
                    // One that is not locked is a leftover.
                    live.leader = entry.session.clone().zip(read(entry));
                }
                ("replicas", session) => {
                    let replica = entry.session.as_ref().and_then(|_| read(entry));
                    live.replicas.extend(replica.map(|replica| (session.to_owned(), replica)));
                }
                ("proofs", _) => live.proofs.extend(read::<SharedProof>(entry)),
                (kind @ ("failures" | "renew"), step) => live.take(kind == "renew", step, entry),
                _ => {}
            }
        }
        live
    }

    /// Adds a key about one name. A new key has precedence over an old one, whose renewal is carried out once it is
    /// rewritten.
    fn take(&mut self, renews: bool, step: &str, entry: &Entry) {
        let name = decode(step).into_owned();
        let is_old = encode(&name) != step;
        if is_old {
            self.old.push(OldKey { key: entry.key.clone(), name: name.clone(), renews });
        }
        if renews {
            if !is_old {
                self.renew.push(name);
            }
        } else if let Some(record) = read(entry) {
            if is_old {
                self.failures.entry(name).or_insert(record);
            } else {
                self.failures.insert(name, record);
            }
        }
    }
}

/// The copy of the store.
#[derive(Default)]
pub(super) struct ReplicaCache {
    /// By key, each set of names once; `None` before the first read.
    certificates: Option<BTreeMap<String, (u64, StoredCertificate)>>,
    /// Redundant keys of older versions.
    doubles: Vec<String>,
    pub(super) live: Option<Live>,
    /// Counts up with each change of certificates or account.
    pub(super) version: u64,
    /// The version that each caller has seen.
    seen: HashMap<String, u64>,
    /// The index of the certificates, including changes of this gateway, and when it was received.
    newest: (u64, Option<Instant>),
}

impl ReplicaCache {
    /// True once everything has been read.
    pub(super) fn is_complete(&self) -> bool {
        self.certificates.is_some() && self.live.is_some()
    }

    /// True for an answer that is older than the copy and not trusted yet. It must be requested again.
    pub(super) fn distrusts(&self, listing: &Listing) -> bool {
        listing.index < self.newest.0 && self.newest.1.is_some_and(|at| at.elapsed() < DISTRUST)
    }

    /// Adopts a trusted answer about certificates. True if they have changed.
    pub(super) fn set_certificates(&mut self, listing: &Listing) -> bool {
        if self.distrusts(listing) {
            return false;
        }
        self.newest = (listing.index, Some(Instant::now()));
        let mut old = self.certificates.take().unwrap_or_default();
        let before: Vec<(String, u64)> = old.iter().map(|(key, (index, _))| (key.clone(), *index)).collect();
        let mut new = BTreeMap::new();
        for entry in &listing.entries {
            let known = old.remove(&entry.key).filter(|(index, _)| *index == entry.index);
            let certificate = known.map(|(_, certificate)| certificate).or_else(|| read(entry));
            new.extend(certificate.map(|certificate| (entry.key.clone(), (entry.index, certificate))));
        }
        self.doubles = doubles(&mut new);
        let changed =
            !before.iter().map(|(key, index)| (key, index)).eq(new.iter().map(|(k, (i, _))| (k, i)));
        self.certificates = Some(new);
        self.version += u64::from(changed);
        changed
    }

    /// Adopts an answer about the rest. An account is replaced, but never dropped.
    pub(super) fn set_live(&mut self, mut live: Live) {
        let known = self.live.take().and_then(|live| live.account);
        live.account = live.account.or_else(|| known.clone());
        self.version += u64::from(known != live.account);
        self.live = Some(live);
    }

    /// True if there are certificates.
    pub(super) fn has_certificates(&self) -> bool {
        self.certificates.as_ref().is_some_and(|all| !all.is_empty())
    }

    /// Adopts a write of this gateway at once.
    pub(super) fn wrote(&mut self, index: u64, new: Option<(String, StoredCertificate)>, gone: &[String]) {
        // A lower one means that the index was reset, which is trusted after a while.
        if index >= self.newest.0 {
            self.newest = (index, Some(Instant::now()));
        }
        if let Some((key, _)) = &new {
            self.doubles.retain(|known| known != key);
        }
        if let Some(all) = &mut self.certificates {
            let replaced = new.iter().map(|(key, _)| key).chain(gone);
            let hashes: Vec<&str> = replaced.map(|key| hash_in(key)).collect();
            all.retain(|key, _| !hashes.contains(&hash_in(key)));
            all.extend(new.map(|(key, certificate)| (key, (index, certificate))));
        }
    }

    /// Returns account and certificates, and marks them as seen by the caller.
    pub(super) fn stored(&mut self, asker: &str) -> Stored {
        self.seen.insert(asker.to_owned(), self.version);
        let certificates = self.certificates.iter().flat_map(BTreeMap::values);
        Stored {
            account: self.live.as_ref().and_then(|live| live.account.clone()),
            certificates: Some(certificates.map(|(_, certificate)| certificate.clone()).collect()),
        }
    }

    /// Marks everything as unseen by the caller.
    pub(super) fn overlooked(&mut self, asker: &str) {
        self.seen.insert(asker.to_owned(), u64::MAX);
    }

    /// True if something has changed since the caller last saw it.
    pub(super) fn is_changed(&mut self, asker: &str) -> bool {
        self.seen.insert(asker.to_owned(), self.version).is_some_and(|seen| seen != self.version)
    }

    /// Returns all certificates by their keys, and the account.
    pub(super) fn all(&self) -> (Vec<(String, StoredCertificate)>, Option<StoredAccount>) {
        let certificates = self.certificates.iter().flatten();
        let certificates = certificates.map(|(key, (_, certificate))| (key.clone(), certificate.clone()));
        (certificates.collect(), self.live.as_ref().and_then(|live| live.account.clone()))
    }

    /// Returns certificates under keys of older versions, and redundant keys of older versions.
    pub(super) fn old(&self, keys: &Keys) -> (Vec<(String, StoredCertificate)>, Vec<String>) {
        let all = self.certificates.iter().flatten();
        let is_old = |key: &str, one: &StoredCertificate| keys.certificate(&one.domain) != key;
        let old = all.filter(|(key, (_, certificate))| is_old(key, certificate));
        let old = old.map(|(key, (_, certificate))| (key.clone(), certificate.clone()));
        (old.collect(), self.doubles.clone())
    }

    /// Returns the keys under which older versions store these certificates.
    pub(super) fn old_keys_of(&self, keys: &[String]) -> Vec<String> {
        let all = self.certificates.iter().flatten().map(|(key, _)| key).chain(&self.doubles);
        let is_one =
            |known: &&String| !keys.contains(known) && keys.iter().any(|key| hash_in(key) == hash_in(known));
        all.filter(is_one).cloned().collect()
    }

    /// Returns all certificates, for the copy on disk.
    pub(super) fn certificates(&self) -> Option<Vec<StoredCertificate>> {
        let all = self.certificates.as_ref()?;
        Some(all.values().map(|(_, certificate)| certificate.clone()).collect())
    }
}

/// Removes all but the newest of several keys with the same names, and returns the removed ones.
fn doubles(all: &mut BTreeMap<String, (u64, StoredCertificate)>) -> Vec<String> {
    let mut newest: HashMap<String, (u64, String)> = HashMap::new();
    let mut out = Vec::new();
    for (key, (index, _)) in all.iter() {
        let Some((known, best)) = newest.get_mut(hash_in(key)) else {
            newest.insert(hash_in(key).to_owned(), (*index, key.clone()));
            continue;
        };
        if index > known {
            out.push(std::mem::replace(best, key.clone()));
            *known = *index;
        } else {
            out.push(key.clone());
        }
    }
    out.iter().for_each(|key| {
        all.remove(key);
    });
    out
}

/// Returns the entry of a key in a listing.
pub(super) fn entry_of<'l>(listing: &'l Listing, key: &str) -> Option<&'l Entry> {
    listing.entries.iter().find(|entry| entry.key == key)
}

#[cfg(test)]
mod tests {
    use crate::storage::Domain;

    use super::*;

    fn certificate(name: &str) -> StoredCertificate {
        StoredCertificate {
            domain: Domain { main: name.to_owned(), sans: Vec::new() },
            ..StoredCertificate::default()
        }
    }

    fn listing(index: u64, names: &[(&str, u64)]) -> Listing {
        let entry = |(name, index): &(&str, u64)| Entry {
            key: format!("p/le/certificates/{name}"),
            value: serde_json::to_vec(&certificate(name)).unwrap(),
            index: *index,
            session: None,
        };
        Listing { entries: names.iter().map(entry).collect(), index }
    }

    fn names(mirror: &mut ReplicaCache) -> Vec<String> {
        let all = mirror.stored("le").certificates.unwrap();
        all.into_iter().map(|one| one.domain.main).collect()
    }

    #[test]
    fn only_what_changes_is_a_change() {
        let mut mirror = ReplicaCache::default();
        assert!(mirror.set_certificates(&listing(5, &[("a", 5)])));
        assert_eq!(names(&mut mirror), ["a"]);
        assert!(!mirror.set_certificates(&listing(6, &[("a", 5)])));
        assert!(!mirror.is_changed("le"));
        assert!(mirror.set_certificates(&listing(7, &[("a", 7)])), "renewed");
        assert!(mirror.is_changed("le") && !mirror.is_changed("le"));
        assert!(mirror.set_certificates(&listing(8, &[])), "removed");
    }

    #[test]
    fn an_answer_from_before_our_own_change_does_not_undo_it() {
        let mut mirror = ReplicaCache::default();
        mirror.set_certificates(&listing(5, &[("a", 5)]));
        let key = "p/le/certificates/b".to_owned();
        mirror.wrote(9, Some((key, certificate("b"))), &["p/le/certificates/a".to_owned()]);
        assert_eq!(names(&mut mirror), ["b"]);
        assert!(!mirror.set_certificates(&listing(5, &[("a", 5)])));
        assert_eq!(names(&mut mirror), ["b"]);
        assert!(mirror.distrusts(&listing(5, &[])) && !mirror.distrusts(&listing(9, &[])));
        assert!(!mirror.set_certificates(&listing(9, &[("b", 9)])), "we knew that");
        mirror.wrote(3, None, &[]);
        assert!(mirror.distrusts(&listing(5, &[])), "an index from a new count does not hide what is known");
        assert!(mirror.set_certificates(&listing(10, &[("b", 9), ("c", 10)])));
    }

    #[test]
    fn the_newest_of_two_keys_for_the_same_names_counts() {
        let keys = Keys::new("p", "le");
        let domain = |name: &str| Domain { main: name.to_owned(), sans: Vec::new() };
        let new = keys.certificate(&domain("*.a.test"));
        let old = new.replace("__2A", "*");
        let entry = |key: &str, name: &str, index| Entry {
            key: key.to_owned(),
            value: serde_json::to_vec(&certificate(name)).unwrap(),
            index,
            session: None,
        };
        let mut mirror = ReplicaCache::default();
        let entries = vec![entry(&old, "*.a.test", 5)];
        mirror.set_certificates(&Listing { entries, index: 5 });
        assert_eq!(mirror.old(&keys).0[0].0, old);
        assert_eq!(mirror.old_keys_of(std::slice::from_ref(&new)), [old.as_str()]);
        let entries = vec![entry(&old, "*.a.test", 5), entry(&new, "*.a.test", 7)];
        assert!(mirror.set_certificates(&Listing { entries, index: 7 }));
        assert_eq!(mirror.old(&keys), (Vec::new(), vec![old.clone()]));
        assert_eq!(names(&mut mirror), ["*.a.test"]);
        // An older version has written it again.
        let entries = vec![entry(&old, "*.a.test", 8), entry(&new, "*.a.test", 7)];
        assert!(mirror.set_certificates(&Listing { entries, index: 8 }));
        assert_eq!(mirror.old(&keys).1, std::slice::from_ref(&new));
        mirror.wrote(9, Some((new.clone(), certificate("*.a.test"))), &[]);
        assert_eq!(mirror.old(&keys), (Vec::new(), Vec::new()), "what was written is not removed");
        mirror.wrote(10, None, &[new]);
        assert_eq!(names(&mut mirror), [""; 0]);
    }

    #[test]
    fn broken_keys_spoil_only_themselves() {
        let keys = Keys::new("p", "le");
        let entry = |path: &str, value: &str, session: Option<&str>| Entry {
            key: format!("p/le/live/{path}"),
            value: value.as_bytes().to_vec(),
            index: 1,
            session: session.map(str::to_owned),
        };
        let entries = vec![
            entry("leader", r#"{"node": "n1"}"#, Some("s1")),
            entry("replicas/s1", r#"{"node": "n1", "lacks": [["a.test"]]}"#, Some("s1")),
            entry("replicas/s2", r#"{"node": "n2"}"#, None),
            entry("failures/a.test", r#"{"attempts": [7]}"#, None),
            entry("failures/b.test", "nonsense", None),
            entry("renew/*.c.test", "", None),
            entry("renew/__2A.d.test", "", None),
            entry("unknown", "", None),
        ];
        let live = Live::read(&keys, &Listing { entries, index: 1 });
        assert_eq!(live.leader.map(|(session, one)| (session, one.node)), Some(("s1".into(), "n1".into())));
        assert_eq!(live.replicas.len(), 1, "one without a session is gone");
        assert_eq!(live.failures.keys().collect::<Vec<_>>(), ["a.test"]);
        assert_eq!(live.renew, ["*.d.test"]);
        let old = OldKey { key: "p/le/live/renew/*.c.test".into(), name: "*.c.test".into(), renews: true };
        assert_eq!(live.old, [old]);
    }
}
