//! What a store has: entries by key and variant, bounded in weight, with an index for purges.
//!
//! Which entries stay is decided by S3-FIFO (quick_cache): entries that are used once leave through a small queue, so
//! a scan does not displace what is used again. The index is changed under the lock of one of its shards, never across
//! an await; evicted entries leave it at once, so it is as bounded as the entries are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use http::HeaderMap;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};
use smallvec::SmallVec;

use crate::key::{Key, Tag, Variant};
use crate::purge::{Epoch, Purge, PurgeLog};

/// Shards of the index. Each has a lock.
const SHARDS: usize = 16;
/// Entries that a purge removes before it gives others the lock.
const BATCH: usize = 256;

/// An entry and its names.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) key: Key,
    pub(crate) variant: Variant,
    pub(crate) tags: Vec<Tag>,
    pub(crate) weight: u64,
    /// How often it was found.
    pub(crate) uses: AtomicU64,
    pub(crate) value: T,
}

/// The limits of a catalog.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The largest sum of weights.
    pub(crate) weight: u64,
    /// The largest weight of an entry.
    pub(crate) entry_weight: u64,
    /// The largest number of variants of a key. A new one replaces the oldest.
    pub(crate) variants: usize,
}

/// What is stored for a key.
pub(crate) struct Found<T> {
    /// The entry for the request's fields.
    pub(crate) entry: Option<Arc<Entry<T>>>,
    /// Entries for other fields.
    pub(crate) others: SmallVec<[Arc<Entry<T>>; 2]>,
}

/// The result of an insertion.
pub(crate) struct Inserted<T> {
    /// Whether the entry is stored now.
    pub(crate) stored: bool,
    /// Entries that were replaced, evicted or, if the new one does not fit, refused.
    pub(crate) removed: Vec<Arc<Entry<T>>>,
}

#[derive(Clone, Copy, Debug)]
struct ByWeight;

impl<T> Weighter<u64, Arc<Entry<T>>> for ByWeight {
    fn weight(&self, _: &u64, entry: &Arc<Entry<T>>) -> u64 {
        entry.weight.max(1)
    }
}

/// Collects evicted entries, so that they are handled after the locks are released.
#[derive(Clone, Copy, Debug)]
struct Collect;

type Evicted<T> = Vec<(u64, Arc<Entry<T>>)>;

impl<T> Lifecycle<u64, Arc<Entry<T>>> for Collect {
    type RequestState = Evicted<T>;

    fn on_evict(&self, evicted: &mut Evicted<T>, id: u64, entry: Arc<Entry<T>>) {
        evicted.push((id, entry));
    }
}

/// Ids of the variants of each key, the oldest first; and of the entries with each tag.
#[derive(Default)]
struct Shard {
    keys: BTreeMap<Key, SmallVec<[u64; 2]>>,
    tags: HashMap<Tag, BTreeSet<(Key, u64)>, RandomState>,
}

impl Shard {
    fn list(&mut self, id: u64, key: &Key, tags: &[Tag]) {
        let ids = self.keys.entry(key.clone()).or_default();
        ids.retain(|other| *other != id);
        ids.push(id);
        for tag in tags {
            self.tags.entry(tag.clone()).or_default().insert((key.clone(), id));
        }
    }

    fn unlist(&mut self, id: u64, key: &Key, tags: &[Tag]) {
        if let Some(ids) = self.keys.get_mut(key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.keys.remove(key);
            }
        }
        for tag in tags {
            if let Some(entries) = self.tags.get_mut(tag) {
                entries.remove(&(key.clone(), id));
                if entries.is_empty() {
                    self.tags.remove(tag);
                }
            }
        }
    }

    /// Up to [`BATCH`] entries that a purge covers.
    fn covered(&self, purge: &Purge) -> Vec<(Key, u64)> {
        let every = |(key, ids): (&Key, &SmallVec<[u64; 2]>)| -> Vec<(Key, u64)> {
            ids.iter().map(|id| (key.clone(), *id)).collect()
        };
        match purge {
            Purge::All => self.keys.iter().flat_map(every).take(BATCH).collect(),
            Purge::Resource(start) | Purge::Prefix(start) => {
                let from = (Bound::Included(start.as_slice()), Bound::Unbounded);
                let keys = self.keys.range::<[u8], _>(from);
                keys.take_while(|(key, _)| key.as_bytes().starts_with(start))
                    .flat_map(every)
                    .take(BATCH)
                    .collect()
            }
            Purge::Tag(tag) => self.tags.get(tag).into_iter().flatten().take(BATCH).cloned().collect(),
        }
    }
}

pub(crate) struct Catalog<T> {
    entries: Cache<u64, Arc<Entry<T>>, ByWeight, RandomState, Collect>,
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    purges: Mutex<PurgeLog>,
    epoch: AtomicU64,
    variants: AtomicUsize,
    evicted: AtomicU64,
}

impl<T> Catalog<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        // An entry must fit into one shard, and should not displace all of it.
        let shards = (limits.weight / limits.entry_weight.max(1) / 8).clamp(1, 8);
        let estimate = (limits.weight / (16 * 1024)).clamp(64, 100_000);
        let options = OptionsBuilder::new()
            .shards(usize::try_from(shards).unwrap_or(1))
            .estimated_items_capacity(usize::try_from(estimate).unwrap_or(64))
            .weight_capacity(limits.weight)
            .build();
        let entries = match options {
            Ok(options) => Cache::with_options(options, ByWeight, RandomState::default(), Collect),
            Err(_) => Cache::with(64, limits.weight, ByWeight, RandomState::default(), Collect),
        };
        Self {
            entries,
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::default(),
            purges: Mutex::default(),
            epoch: AtomicU64::new(0),
            variants: AtomicUsize::new(limits.variants),
            evicted: AtomicU64::new(0),
        }
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one(key.as_bytes());
        &self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)]
    }

    /// The number of purges so far. To be read when a request begins.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    pub(crate) fn find(&self, key: &Key, request: &HeaderMap) -> Found<T> {
        let ids = self.shard(key).lock().keys.get(key).cloned().unwrap_or_default();
        let mut found = Found { entry: None, others: SmallVec::new() };
        // The newest first: after a change of `Vary`, two may match.
        for id in ids.into_iter().rev() {
            let Some(entry) = self.entries.peek(&id).filter(|entry| entry.key == *key) else { continue };
            if found.entry.is_none() && entry.variant.matches(request) {
                // Counts as a use.
                found.entry = self.entries.get(&id).filter(|entry| entry.key == *key);
                if let Some(entry) = &found.entry {
                    entry.uses.fetch_add(1, Ordering::Relaxed);
                }
            } else {
                found.others.push(entry);
            }
        }
        found
    }

    /// The id of a key and variant is always the same: S3-FIFO recognizes what it has evicted not long ago. It is a hash,
    /// so an entry is only used if its key is the right one.
    pub(crate) fn id(&self, key: &Key, variant: &Variant) -> u64 {
        self.hasher.hash_one((key.as_bytes(), variant))
    }

    /// Stores an entry in place of that for the same key and variant. `None` if a purge since `epoch` covers it.
    pub(crate) fn insert(&self, entry: Entry<T>, epoch: Epoch) -> Option<Inserted<T>> {
        self.insert_unless(entry, epoch, |_| false)
    }

    /// The same, unless the one that is stored for the key and variant is to stay, which also returns `None`.
    pub(crate) fn insert_unless(
        &self,
        entry: Entry<T>,
        epoch: Epoch,
        stays: impl Fn(&T) -> bool,
    ) -> Option<Inserted<T>> {
        let mut removed = Vec::new();
        let mut evicted = Evicted::new();
        let id = self.id(&entry.key, &entry.variant);
        let entry = Arc::new(entry);
        {
            let mut shard = self.shard(&entry.key).lock();
            if self.is_purged(epoch, &entry.key, &entry.tags) {
                return None;
            }
            if self.entries.peek(&id).is_some_and(|stored| stored.key == entry.key && stays(&stored.value)) {
                return None;
            }
            self.make_room(&mut shard, id, &entry, &mut removed);
            shard.list(id, &entry.key, &entry.tags);
            self.entries.insert_with_lifecycle(id, entry.clone(), &mut evicted);
        }
        let stored = !evicted.iter().any(|(_, other)| Arc::ptr_eq(other, &entry));
        let count = evicted.len().saturating_sub(usize::from(!stored));
        self.evicted.fetch_add(count as u64, Ordering::Relaxed);
        self.unlist_gone(evicted, &mut removed);
        Some(Inserted { stored, removed })
    }

    /// Takes evicted entries out of the index.
    fn unlist_gone(&self, evicted: Evicted<T>, removed: &mut Vec<Arc<Entry<T>>>) {
        for (id, entry) in evicted {
            let mut shard = self.shard(&entry.key).lock();
            // It may have been replaced, or be stored again by now.
            let replaced = self.entries.peek(&id).is_some_and(|stored| stored.key == entry.key);
            if !replaced {
                shard.unlist(id, &entry.key, &entry.tags);
            }
            drop(shard);
            removed.push(entry);
        }
    }

    /// Changes the largest sum of weights and the number of variants. Returns the entries that no longer fit. The number
    /// of locks stays, so the largest entry may be smaller than in a catalog that begins with these limits.
    pub(crate) fn resize(&self, limits: Limits) -> Vec<Arc<Entry<T>>> {
        self.variants.store(limits.variants, Ordering::Relaxed);
        let before: Evicted<T> = if limits.weight < self.entries.capacity() {
            self.entries.iter().collect()
        } else {
            Evicted::new()
        };
        self.entries.set_capacity(limits.weight);
        let gone = |(id, entry): &(u64, Arc<Entry<T>>)| {
            !self.entries.peek(id).is_some_and(|stored| Arc::ptr_eq(&stored, entry))
        };
        let evicted: Evicted<T> = before.into_iter().filter(gone).collect();
        self.evicted.fetch_add(evicted.len() as u64, Ordering::Relaxed);
        let mut removed = Vec::with_capacity(evicted.len());
        self.unlist_gone(evicted, &mut removed);
        removed
    }

    /// The largest weight that an entry can have, which its part of the catalog bounds.
    pub(crate) fn room(&self) -> u64 {
        self.entries.capacity() / u64::try_from(self.entries.num_shards()).unwrap_or(1).max(1)
    }

    /// Removes the entry of a key and variant.
    pub(crate) fn remove_variant(&self, key: &Key, variant: &Variant) -> Option<Arc<Entry<T>>> {
        let entry = self.entries.peek(&self.id(key, variant)).filter(|entry| entry.key == *key)?;
        self.remove(&entry).then_some(entry)
    }

    /// Entries that were evicted because others needed their place.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Ordering::Relaxed)
    }

    /// All entries, in no order. Copies one reference for each.
    pub(crate) fn all(&self) -> Vec<Arc<Entry<T>>> {
        self.entries.iter().map(|(_, entry)| entry).collect()
    }

    /// Up to [`BATCH`] entries of a resource.
    pub(crate) fn of_resource(&self, resource: &[u8]) -> Vec<Arc<Entry<T>>> {
        let purge = Purge::Resource(resource.to_vec());
        let ids = self.shards.iter().flat_map(|shard| shard.lock().covered(&purge));
        let found = ids.filter_map(|(key, id)| self.entries.peek(&id).filter(|entry| entry.key == key));
        found.take(BATCH).collect()
    }

    /// Takes the entry that a new one replaces out of the index, and the oldest variants if there are too many.
    fn make_room(&self, shard: &mut Shard, id: u64, new: &Entry<T>, removed: &mut Vec<Arc<Entry<T>>>) {
        let mut kept = 0;
        for other in shard.keys.get(&new.key).cloned().unwrap_or_default().into_iter().rev() {
            let Some(entry) = self.entries.peek(&other) else { continue };
            if other == id {
                shard.unlist(id, &entry.key, &entry.tags);
            } else if kept + 1 >= self.variants.load(Ordering::Relaxed) {
                shard.unlist(other, &entry.key, &entry.tags);
                self.entries.remove(&other);
                removed.push(entry);
            } else {
                kept += 1;
            }
        }
    }

    /// Whether a purge since `epoch` covers a response.
    pub(crate) fn is_purged(&self, epoch: Epoch, key: &Key, tags: &[Tag]) -> bool {
        epoch != self.epoch() && self.purges.lock().covers(epoch, key, tags)
    }

    /// Whether this very entry is stored.
    pub(crate) fn contains(&self, entry: &Arc<Entry<T>>) -> bool {
        let id = self.id(&entry.key, &entry.variant);
        self.entries.peek(&id).is_some_and(|stored| Arc::ptr_eq(&stored, entry))
    }

    /// Removes this very entry, not one that has replaced it.
    pub(crate) fn remove(&self, entry: &Arc<Entry<T>>) -> bool {
        let mut shard = self.shard(&entry.key).lock();
        if !self.contains(entry) {
            return false;
        }
        let id = self.id(&entry.key, &entry.variant);
        shard.unlist(id, &entry.key, &entry.tags);
        self.entries.remove(&id);
        true
    }

    /// Removes what a purge covers, and returns it. Responses to requests that have begun before are not stored.
    pub(crate) fn purge(&self, purge: &Purge) -> Vec<Arc<Entry<T>>> {
        {
            let mut purges = self.purges.lock();
            let count = purges.push(purge.clone());
            self.epoch.store(count, Ordering::Release);
        }
        let mut removed = Vec::new();
        for shard in &self.shards {
            loop {
                let mut shard = shard.lock();
                let covered = shard.covered(purge);
                if covered.is_empty() {
                    break;
                }
                for (key, id) in covered {
                    match self.entries.remove(&id) {
                        Some((_, entry)) => {
                            shard.unlist(id, &key, &entry.tags);
                            removed.push(entry);
                        }
                        // Evicted a moment ago: whoever evicted it knows its other tags.
                        None => match purge {
                            Purge::Tag(tag) => shard.unlist(id, &key, std::slice::from_ref(tag)),
                            _ => shard.unlist(id, &key, &[]),
                        },
                    }
                }
            }
        }
        removed
    }

    /// The number of entries, and the sum of their weights.
    pub(crate) fn usage(&self) -> (usize, u64) {
        (self.entries.len(), self.entries.weight())
    }

    /// Names in the index: keys with entries, and pairs of tag and entry.
    #[cfg(test)]
    fn indexed(&self) -> (usize, usize) {
        self.shards.iter().fold((0, 0), |(keys, tags), shard| {
            let shard = shard.lock();
            let ids: usize = shard.keys.values().map(SmallVec::len).sum();
            (keys + ids, tags + shard.tags.values().map(BTreeSet::len).sum::<usize>())
        })
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::key::VaryNames;

    fn catalog(weight: u64, entry_weight: u64) -> Catalog<u32> {
        Catalog::new(Limits { weight, entry_weight, variants: 3 })
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        lines.iter().map(line).collect()
    }

    fn entry(key: &str, foo: Option<&str>, tags: &[&str], weight: u64, value: u32) -> Entry<u32> {
        let names =
            VaryNames::from_headers(&headers(&[("vary", if foo.is_some() { "foo" } else { "" })])).unwrap();
        let request = foo.map(|foo| headers(&[("foo", foo)])).unwrap_or_default();
        Entry {
            key: Key::from_bytes(format!("http://{key}\0").as_bytes()),
            variant: Variant::new(&names, &request).unwrap(),
            tags: tags.iter().map(|tag| Tag::from(tag.as_bytes())).collect(),
            weight,
            uses: AtomicU64::new(0),
            value,
        }
    }

    fn get(catalog: &Catalog<u32>, key: &str, foo: &str) -> (Option<u32>, usize) {
        let key = Key::from_bytes(format!("http://{key}\0").as_bytes());
        let found = catalog.find(&key, &headers(&[("foo", foo)]));
        (found.entry.map(|entry| entry.value), found.others.len())
    }

    #[test]
    fn entries_are_found_by_key_and_variant_and_replaced() {
        let catalog = catalog(1000, 100);
        for (foo, value) in [(Some("a"), 1), (Some("b"), 2), (Some("a"), 3)] {
            assert!(catalog.insert(entry("x/", foo, &["t"], 10, value), catalog.epoch()).unwrap().stored);
        }
        assert_eq!(get(&catalog, "x/", "a"), (Some(3), 1));
        assert_eq!(get(&catalog, "x/", "b"), (Some(2), 1));
        assert_eq!(get(&catalog, "x/", "c"), (None, 2));
        assert_eq!(get(&catalog, "y/", "a"), (None, 0));
        assert_eq!((catalog.usage(), catalog.indexed()), ((2, 20), (2, 2)));
        catalog.insert(entry("x/", Some("a"), &[], 10, 4), catalog.epoch());
        assert_eq!(catalog.indexed(), (2, 1), "tags of the replaced entry are gone");
    }

    #[test]
    fn variants_of_a_key_are_bounded() {
        let catalog = catalog(100_000, 100);
        let mut removed = 0;
        for i in 0..100 {
            let inserted =
                catalog.insert(entry("x/", Some(&i.to_string()), &["t"], 10, i), catalog.epoch()).unwrap();
            removed += inserted.removed.len();
        }
        assert_eq!((catalog.usage(), catalog.indexed(), removed), ((3, 30), (3, 3), 97));
        assert_eq!(get(&catalog, "x/", "99"), (Some(99), 2));
    }

    #[test]
    fn the_index_shrinks_with_evictions() {
        let catalog = catalog(1000, 100);
        let mut left = 0;
        for i in 0..10_000 {
            let name = format!("x/{}", i % 3000);
            let inserted = catalog.insert(entry(&name, None, &["t", &name], 10, i), catalog.epoch()).unwrap();
            left += 1 - inserted.removed.len() as isize;
        }
        let (entries, weight) = catalog.usage();
        assert!(weight <= 1000);
        assert_eq!((catalog.indexed(), left), ((entries, 2 * entries), entries as isize));
        let inserted = catalog.insert(entry("large", None, &["t"], 2000, 0), catalog.epoch()).unwrap();
        assert!(!inserted.stored);
        assert_eq!(catalog.indexed().0, catalog.usage().0);
    }

    #[test]
    fn purges_remove_what_they_cover() {
        let catalog = catalog(100_000, 100);
        for i in 0..1000 {
            let tags = if i % 2 == 0 { ["even", "all"] } else { ["odd", "all"] };
            catalog.insert(entry(&format!("x/{i}"), None, &tags, 10, i), catalog.epoch());
        }
        catalog.insert(entry("x/12", Some("a"), &[], 10, 0), catalog.epoch());
        let purge = |purge| catalog.purge(&purge).len();
        assert_eq!(purge(Purge::Resource(b"http://x/12\0".to_vec())), 2);
        assert_eq!(purge(Purge::Prefix(b"http://x/12".to_vec())), 10, "x/120 to x/129");
        assert_eq!(purge(Purge::Tag(b"even".as_slice().into())), 494);
        assert_eq!(purge(Purge::Tag(b"even".as_slice().into())), 0);
        assert_eq!((catalog.usage().0, catalog.indexed()), (495, (495, 990)));
        assert_eq!(purge(Purge::All), 495);
        assert_eq!((catalog.usage(), catalog.indexed()), ((0, 0), (0, 0)));
    }

    #[test]
    fn what_was_requested_before_a_purge_is_not_stored() {
        let catalog = catalog(1000, 100);
        let before = catalog.epoch();
        catalog.purge(&Purge::Prefix(b"http://x/".to_vec()));
        assert!(catalog.insert(entry("x/1", None, &[], 10, 1), before).is_none());
        assert!(catalog.insert(entry("y/1", None, &[], 10, 1), before).is_some());
        assert!(catalog.insert(entry("x/1", None, &[], 10, 1), catalog.epoch()).is_some());
    }

    #[test]
    fn threads_leave_a_consistent_index() {
        let catalog = catalog(2000, 100);
        std::thread::scope(|scope| {
            for thread in 0..4u32 {
                let catalog = &catalog;
                scope.spawn(move || {
                    for i in 0..3000 {
                        let name = format!("x/{}", (i * 7 + thread) % 300);
                        catalog
                            .insert(entry(&name, Some(&(i % 4).to_string()), &["t"], 10, i), catalog.epoch());
                        get(catalog, &name, "1");
                        if i % 500 == 499 {
                            catalog.purge(&Purge::Prefix(b"http://x/1".to_vec()));
                        }
                    }
                });
            }
        });
        let entries = catalog.usage().0;
        assert!(entries > 0);
        assert_eq!(catalog.indexed(), (entries, entries));
    }
}
