//! A numbered list of what members of a cluster have announced to each other, and what of it is new.
//!
//! The list is bounded: old entries leave it. Who comes back after a while learns from [`Announced::since`] either
//! everything that it has missed, or that it cannot know.

use std::sync::Arc;

use tokio::sync::watch;

use crate::caches::PurgedResponses;

/// The last announcement that somebody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The series of numbers: a store that has lost its data begins another one.
    pub series: String,
    /// The number of the announcement; 0 before the first one.
    pub number: u64,
    /// Its id; empty if it is not known.
    pub id: String,
}

/// An announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered<T> {
    /// Its place in the list.
    pub number: u64,
    /// Identifies it. An announcement that was written twice has two numbers and one id.
    pub id: String,
    /// What it says.
    pub value: T,
}

/// The newest announcements, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announced<T> {
    /// The newest one.
    pub last: Mark,
    /// The lowest number from which on none is missing; one more than that of the last if none is left.
    pub first: u64,
    /// Those that concern the reader, in order.
    pub entries: Vec<Numbered<T>>,
}

/// What somebody has missed.
#[derive(Debug, PartialEq, Eq)]
pub enum Since<'a, T> {
    /// It is not known any more: something has left the list, or was lost with the store.
    Unknown,
    /// These, in order.
    These(Vec<&'a Numbered<T>>),
}

impl<T> Announced<T> {
    /// Creates a list. `number` is the highest number that was given, and `read` are the announcements that are left,
    /// in any order; those with the value `None` cannot be read, and count as missing.
    pub fn new(series: String, number: u64, mut read: Vec<Numbered<Option<T>>>) -> Self {
        read.sort_by_key(|one| one.number);
        let mut entries = Vec::with_capacity(read.len());
        let (mut first, mut last) = (number.saturating_add(1), Mark { series, number, id: String::new() });
        for one in read.into_iter().rev() {
            match one.value {
                Some(value) if one.number.saturating_add(1) == first => {
                    first = one.number;
                    if one.number == number {
                        last.id.clone_from(&one.id);
                    }
                    entries.push(Numbered { number: one.number, id: one.id, value });
                }
                _ => break,
            }
        }
        entries.reverse();
        Self { last, first, entries }
    }

    /// Returns what somebody has missed who knows everything up to `mark`, or nothing at all.
    pub fn since(&self, mark: Option<&Mark>) -> Since<'_, T> {
        let known = match mark {
            None => 0,
            Some(mark) if mark.series == self.last.series && !self.is_forked(mark) => mark.number,
            Some(_) => return Since::Unknown,
        };
        if known > self.last.number || known.saturating_add(1) < self.first {
            return Since::Unknown;
        }
        let is_known = |id: &str, number: u64| {
            self.entries.iter().take_while(|one| one.number < number).any(|one| one.id == id)
        };
        let new = self.entries.iter().filter(|one| one.number > known && !is_known(&one.id, one.number));
        Since::These(new.collect())
    }

    /// Whether the number of the mark was given to another announcement, after the store had lost its data.
    fn is_forked(&self, mark: &Mark) -> bool {
        let id = self.entries.iter().find(|one| one.number == mark.number).map(|one| &one.id);
        !mark.id.is_empty() && id.is_some_and(|id| *id != mark.id)
    }

    /// Returns the same list with only the values that `select` returns.
    pub fn map<U>(&self, select: impl Fn(&T) -> Option<U>) -> Announced<U> {
        let entry = |one: &Numbered<T>| {
            let value = select(&one.value)?;
            Some(Numbered { number: one.number, id: one.id.clone(), value })
        };
        Announced {
            last: self.last.clone(),
            first: self.first,
            entries: self.entries.iter().filter_map(entry).collect(),
        }
    }
}

/// A purge that a member has announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnouncedPurge {
    /// Qualified name of the middleware; all if it is empty.
    pub middleware: String,
    /// What is removed.
    pub which: PurgedResponses,
    /// The member that has announced it.
    pub origin: String,
    /// The operator.
    pub operator: String,
}

/// The announced purges.
pub type AnnouncedPurges = Announced<AnnouncedPurge>;

/// Called with each purge that a cache has applied, the name of the cache, and the number of removed responses. Without
/// a purge, everything was removed because some announcements are lost.
pub type PurgeReport = dyn Fn(Option<&Numbered<AnnouncedPurge>>, &str, usize) + Send + Sync;

/// Where caches learn which purges members of the cluster have announced.
#[derive(Clone, Default)]
pub struct PurgesHandle(Option<Arc<Inner>>);

struct Inner {
    list: watch::Sender<Option<Arc<AnnouncedPurges>>>,
    report: Box<PurgeReport>,
}

impl PurgesHandle {
    /// Creates the handle of a gateway in a cluster. The default is for one that is in none.
    pub fn new(report: Box<PurgeReport>) -> Self {
        Self(Some(Arc::new(Inner { list: watch::Sender::new(None), report })))
    }

    /// Returns true in a cluster.
    pub fn is_clustered(&self) -> bool {
        self.0.is_some()
    }

    /// Replaces the list.
    pub fn publish(&self, list: AnnouncedPurges) {
        if let Some(inner) = &self.0 {
            inner.list.send_replace(Some(Arc::new(list)));
        }
    }

    /// Returns the list, once it was read.
    pub fn current(&self) -> Option<Arc<AnnouncedPurges>> {
        self.0.as_ref()?.list.borrow().clone()
    }

    /// Waits until the list is known, and another one than `seen`.
    pub async fn next(&self, seen: Option<&Arc<AnnouncedPurges>>) -> Arc<AnnouncedPurges> {
        if let Some(inner) = &self.0 {
            let mut changes = inner.list.subscribe();
            let is_new = |list: &Option<Arc<AnnouncedPurges>>| {
                list.as_ref().is_some_and(|list| !seen.is_some_and(|seen| Arc::ptr_eq(seen, list)))
            };
            if let Ok(list) = changes.wait_for(is_new).await
                && let Some(list) = &*list
            {
                return list.clone();
            }
        }
        std::future::pending().await
    }

    /// Reports an applied purge; without one, that everything was removed.
    pub fn applied(&self, purge: Option<&Numbered<AnnouncedPurge>>, cache: &str, number: usize) {
        if let Some(inner) = &self.0 {
            (inner.report)(purge, cache, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(number: u64) -> Numbered<Option<u64>> {
        Numbered { number, id: format!("id{number}"), value: Some(number) }
    }

    fn mark(number: u64) -> Mark {
        Mark { series: "s".into(), number, id: format!("id{number}") }
    }

    fn list(numbers: impl IntoIterator<Item = u64>, number: u64) -> Announced<u64> {
        Announced::new("s".into(), number, numbers.into_iter().map(entry).collect())
    }

    fn new(list: &Announced<u64>, mark: Option<&Mark>) -> Option<Vec<u64>> {
        match list.since(mark) {
            Since::Unknown => None,
            Since::These(these) => Some(these.into_iter().map(|one| one.value).collect()),
        }
    }

    #[test]
    fn who_was_away_gets_what_is_left_or_learns_that_something_is_lost() {
        let whole = list([3, 1, 2], 3);
        assert_eq!((whole.first, &whole.last), (1, &mark(3)));
        assert_eq!(new(&whole, None), Some(vec![1, 2, 3]));
        assert_eq!(new(&whole, Some(&mark(2))), Some(vec![3]));
        assert_eq!(new(&whole, Some(&mark(3))), Some(vec![]));
        let cut = list([3, 4, 5], 5);
        assert_eq!(new(&cut, None), None);
        assert_eq!(new(&cut, Some(&mark(1))), None);
        assert_eq!(new(&cut, Some(&mark(2))), Some(vec![3, 4, 5]));
        assert_eq!(new(&cut, Some(&mark(6))), None, "numbers went back");
        assert_eq!(new(&list([], 0), None), Some(vec![]));
        assert_eq!(new(&list([], 7), Some(&mark(7))), Some(vec![]));
        assert_eq!(new(&list([], 7), Some(&mark(6))), None);
    }

    #[test]
    fn another_series_a_fork_and_what_cannot_be_read_are_unknown() {
        let other = Mark { series: "t".into(), ..mark(3) };
        assert_eq!(new(&list([1, 2, 3], 3), Some(&other)), None);
        let fork = Mark { id: "other".into(), ..mark(2) };
        assert_eq!(new(&list([1, 2, 3], 3), Some(&fork)), None);
        let mut read: Vec<_> = (1..=4).map(entry).collect();
        read[1].value = None;
        let torn = Announced::new("s".into(), 4, read);
        assert_eq!(
            (torn.first, new(&torn, Some(&mark(1))), new(&torn, Some(&mark(2)))),
            (3, None, Some(vec![3, 4]))
        );
    }

    #[test]
    fn what_was_written_twice_counts_once() {
        let mut read: Vec<_> = (1..=4).map(entry).collect();
        read[3].id = "id2".into();
        let twice = Announced::new("s".into(), 4, read);
        assert_eq!(new(&twice, None), Some(vec![1, 2, 3]));
        assert_eq!(new(&twice, Some(&mark(3))), Some(vec![]));
    }

    proptest! {
        /// A reader that looks now and then applies everything exactly once and in order, or knows that it has missed
        /// something: never neither.
        #[test]
        fn readers_miss_nothing_unnoticed(steps in prop::collection::vec((0_u64..6, any::<bool>()), 1..40), kept in 1_u64..8) {
            let (mut written, mut known, mut applied) = (0, None, Vec::new());
            for (more, looks) in steps {
                written += more;
                if !looks {
                    continue;
                }
                let list = list((written + 1).saturating_sub(kept).max(1)..=written, written);
                match list.since(known.as_ref()) {
                    Since::These(these) => applied.extend(these.into_iter().map(|one| one.value)),
                    // It removes everything: as if all had been applied.
                    Since::Unknown => applied = (1..=written).collect(),
                }
                known = Some(list.last);
                prop_assert_eq!(&applied, &(1..=written).collect::<Vec<_>>());
            }
        }
    }
}
