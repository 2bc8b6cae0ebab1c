//! What a store has, for operators.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::catalog::Entry;
use crate::key::{Key, Tag};
use crate::rules::Policy;

/// Which responses are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed<'a> {
    /// The largest ones, at most this many.
    Largest(usize),
    /// Those that were found most often, at most this many.
    Hottest(usize),
    /// Those of a resource: what [`Template::resource`](crate::key::Template::resource) returns.
    Resource(&'a [u8]),
}

/// A stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Its key.
    pub key: Key,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// Bytes of its body.
    pub length: u64,
    /// How often it was found since it is stored, or since the start.
    pub uses: u64,
    /// How long it may be used; `None` if its file cannot be read.
    pub policy: Option<Policy>,
}

/// Those of some entries that are listed.
pub(crate) fn most<T>(
    mut entries: Vec<Arc<Entry<T>>>,
    listed: &Listed<'_>,
    length: impl Fn(&T) -> u64,
    policy: impl Fn(&Arc<Entry<T>>) -> Option<Policy>,
) -> Vec<StoredObject> {
    let uses = |entry: &Entry<T>| entry.uses.load(Ordering::Relaxed);
    let number = match listed {
        Listed::Largest(number) => {
            entries.sort_by_cached_key(|entry| Reverse(length(&entry.value)));
            *number
        }
        Listed::Hottest(number) => {
            // Uses go on being counted.
            entries.sort_by_cached_key(|entry| Reverse(uses(entry)));
            *number
        }
        Listed::Resource(_) => usize::MAX,
    };
    let objects = entries.iter().take(number).map(|entry| StoredObject {
        key: entry.key.clone(),
        tags: entry.tags.clone(),
        length: length(&entry.value),
        uses: uses(entry),
        policy: policy(entry),
    });
    objects.collect()
}
