//! Purges that other members of the cluster have announced, applied to the memory and to the disk.
//!
//! Each of them has a mark: the last announcement that holds for what it has. That of the disk is kept beside the
//! responses, since they survive a restart. Who cannot know what it has missed removes everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_cache::Purge;
use tidegate_cache::disk::DiskStore;
use tidegate_cache::key::Template;
use tidegate_cache::memory::MemoryStore;
use tidegate_core::announced::{AnnouncedPurge, AnnouncedPurges, Mark, Numbered, PurgesHandle, Since};

use super::disk::DiskSlot;
use super::marks::Marks;
use super::operate::to_purge;

/// How long to wait until a mark is kept that could not be kept yet.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// A cache that follows announcements.
pub(super) struct Following {
    pub(super) name: String,
    pub(super) purges: PurgesHandle,
    pub(super) memory: Arc<MemoryStore>,
    pub(super) memory_marks: Arc<Marks>,
    pub(super) template: Template,
}

/// A purge, and the announcement that it comes from; none if everything is removed because some are lost.
type Missed<'a> = (Option<&'a Numbered<AnnouncedPurge>>, Purge);

impl Following {
    /// Applies announcements as they come.
    pub(super) async fn follow(self: Arc<Self>, slot: Option<Arc<DiskSlot>>) {
        let (mut seen, mut kept) = (None, None);
        loop {
            tokio::select! {
                list = self.purges.next(seen.as_ref()) => {
                    self.catch_up(&list, slot.as_deref()).await;
                    seen = Some(list);
                }
                () = tokio::time::sleep(NOTE_INTERVAL), if slot.is_some() => {}
            }
            if let Some(slot) = &slot {
                keep_mark(slot, &mut kept).await;
            }
        }
    }

    /// Brings a store up to date before it is used, as soon as the announcements are known.
    pub(super) async fn catch_up_before_use(
        &self,
        store: &Arc<DiskStore>,
        marks: &Marks,
        mark: &mut Option<Mark>,
    ) {
        if !self.purges.is_clustered() {
            return;
        }
        let list = self.purges.next(None).await;
        let reading = store.clone();
        let note = tokio::task::spawn_blocking(move || reading.note()).await;
        // Without a mark, everything that was ever announced may have been missed.
        *mark = note.ok().and_then(Result::ok).flatten().and_then(|text| parse(&text));
        let mut reports = Reports::new(mark.is_some());
        for (announced, purge) in self.missed(&list, mark.as_ref(), marks) {
            reports.add(announced, purge_disk(store, purge).await);
        }
        *mark = Some(list.last.clone());
        reports.send(self);
    }

    /// Applies what is announced since the last time.
    pub(super) async fn catch_up(&self, list: &AnnouncedPurges, slot: Option<&DiskSlot>) {
        let mut memory_mark = self.memory_marks.lock().await;
        let mut reports = Reports::new(memory_mark.is_some());
        for (announced, purge) in self.missed(list, memory_mark.as_ref(), &self.memory_marks) {
            reports.add(announced, self.memory.purge(&purge));
        }
        *memory_mark = Some(list.last.clone());
        // One that is not in use yet catches up when it is.
        if let Some((slot, store)) = slot.and_then(|slot| Some((slot, slot.store()?))) {
            let mut mark = slot.marks.lock().await;
            for (announced, purge) in self.missed(list, mark.as_ref(), &slot.marks) {
                let number = purge_disk(store, purge.clone()).await;
                // The memory again, with what was read from the disk meanwhile.
                reports.add(announced, number + self.memory.purge(&purge));
            }
            *mark = Some(list.last.clone());
        }
        drop(memory_mark);
        reports.send(self);
    }

    fn missed<'a>(&self, list: &'a AnnouncedPurges, mark: Option<&Mark>, marks: &Marks) -> Vec<Missed<'a>> {
        let Since::These(these) = list.since(mark) else { return vec![(None, Purge::All)] };
        let ours = these.into_iter().filter(|one| {
            let middleware = &one.value.middleware;
            (middleware.is_empty() || *middleware == self.name) && !marks.has_applied(&one.id)
        });
        ours.filter_map(|one| match to_purge(&self.template, &one.value.which) {
            Ok(purge) => Some((Some(one), purge)),
            Err(error) => {
                tracing::warn!(middleware = self.name, origin = one.value.origin, %error, "cache: announced purge ignored");
                None
            }
        })
        .collect()
    }
}

/// What is reported of the announcements that were applied.
struct Reports<'a> {
    /// Whether it is known what was missed. Otherwise it may have been applied long ago.
    is_known: bool,
    by_number: BTreeMap<u64, (Option<&'a Numbered<AnnouncedPurge>>, usize)>,
}

impl<'a> Reports<'a> {
    fn new(is_known: bool) -> Self {
        Self { is_known, by_number: BTreeMap::new() }
    }

    fn add(&mut self, announced: Option<&'a Numbered<AnnouncedPurge>>, removed: usize) {
        let number = announced.map_or(0, |announced| announced.number);
        self.by_number.entry(number).or_insert((announced, 0)).1 += removed;
    }

    fn send(self, following: &Following) {
        let reported = self.by_number.into_values().filter(|(_, removed)| self.is_known || *removed > 0);
        for (announced, removed) in reported {
            following.purges.applied(announced, &following.name, removed);
        }
    }
}

async fn purge_disk(store: &Arc<DiskStore>, purge: Purge) -> usize {
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.purge(&purge)).await.unwrap_or(0)
}

/// Keeps the mark of a store beside what it has, unless it is the one that was kept last.
async fn keep_mark(slot: &DiskSlot, kept: &mut Option<Mark>) {
    let Some(store) = slot.store().cloned() else { return };
    let mark = slot.marks.lock().await;
    let Some(new) = mark.as_ref().filter(|mark| kept.as_ref() != Some(mark)) else { return };
    let text = format!("{} {} {}", new.series, new.number, new.id);
    match tokio::task::spawn_blocking(move || store.set_note(&text)).await {
        Ok(Ok(true)) => *kept = Some(new.clone()),
        Ok(Err(error)) => tracing::debug!(%error, "cache: cannot keep the number of the last announcement"),
        Ok(Ok(false)) | Err(_) => {}
    }
}

fn parse(note: &str) -> Option<Mark> {
    let mut words = note.splitn(3, ' ');
    let (series, number, id) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    Some(Mark { series: series.to_owned(), number, id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use http::{HeaderMap, HeaderValue, StatusCode};
    use tempfile::TempDir;
    use tidegate_cache::disk::DiskLimits;
    use tidegate_cache::key::{Key, Target};
    use tidegate_cache::memory::MemoryLimits;
    use tidegate_cache::rules::{Rules, Times, storable};
    use tidegate_cache::{Head, Timestamp};
    use tidegate_core::caches::PurgedResponses;

    use super::super::disk::EarlyRemoval;
    use super::super::opening;
    use super::*;
    use crate::testing::block_on;

    /// A cache with a disk, and what it has reported: numbers of announcements, and of removed responses.
    struct Test {
        following: Arc<Following>,
        slot: Arc<DiskSlot>,
        purges: PurgesHandle,
        reports: Arc<StdMutex<Vec<(u64, usize)>>>,
    }

    impl Test {
        async fn new(folder: &TempDir, list: AnnouncedPurges) -> Self {
            let reports: Arc<StdMutex<Vec<_>>> = Arc::default();
            let seen = reports.clone();
            let purges = PurgesHandle::new(Box::new(move |purge, name, removed| {
                assert_eq!(name, "c@file");
                seen.lock().unwrap().push((purge.map_or(0, |purge| purge.number), removed));
            }));
            let following = Arc::new(Following {
                name: "c@file".into(),
                memory: MemoryStore::new(MemoryLimits::default()),
                memory_marks: Arc::new(Marks::of_empty(&purges)),
                template: Template::default(),
                purges: purges.clone(),
            });
            purges.publish(list);
            let slot = Arc::new(DiskSlot::new(folder.path().to_owned()));
            let test = Self { following, slot, purges, reports };
            opening::open(test.slot.clone(), test.following.clone(), DiskLimits::default()).await;
            test.until("recovery", |store| store.usage().ready).await;
            test
        }

        fn store(&self) -> &Arc<DiskStore> {
            self.slot.store().unwrap()
        }

        async fn until(&self, what: &str, is_so: impl Fn(&DiskStore) -> bool) {
            for _ in 0..20_000 {
                if is_so(self.store()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            panic!("timeout: {what}");
        }

        async fn publish(&self, list: AnnouncedPurges) {
            self.following.catch_up(&list, Some(&self.slot)).await;
            self.purges.publish(list);
        }

        async fn put(&self, names: &[&str]) {
            for name in names {
                let mut writer = self.store().write(key(name), head(name), self.store().epoch()).unwrap();
                writer.push(b"body").unwrap();
                writer.finish().unwrap().await.unwrap().unwrap();
                let memory = &self.following.memory;
                memory.write(key(name), head(name), memory.epoch()).unwrap().finish().unwrap();
            }
        }

        /// Whether memory and disk have it.
        fn has(&self, name: &str) -> (bool, bool) {
            let in_memory = self.following.memory.find(&key(name), &HeaderMap::new()).matching.is_some();
            (in_memory, self.store().find(&key(name), &HeaderMap::new()).matching.is_some())
        }

        async fn stop(self) {
            keep_mark(&self.slot, &mut None).await;
            assert!(self.slot.close(Duration::from_secs(20)));
        }

        fn reports(&self) -> Vec<(u64, usize)> {
            std::mem::take(&mut *self.reports.lock().unwrap())
        }
    }

    fn key(name: &str) -> Key {
        let (path, headers) = (format!("/{name}"), HeaderMap::new());
        let target = Target {
            scheme: "http",
            authority: "h",
            path: &path,
            query: None,
            headers: &headers,
            route: b"",
            identity: None,
        };
        Template::default().key(&target).unwrap()
    }

    fn head(tag: &str) -> Head {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", HeaderValue::from_static("max-age=50"));
        headers.insert("cache-tag", HeaderValue::from_str(tag).unwrap());
        let times = Times { requested: Timestamp::now(), received: Timestamp::now() };
        storable(&Rules::default(), &HeaderMap::new(), StatusCode::OK, &headers, times).unwrap()
    }

    fn purge(number: u64, tag: &str) -> Numbered<Option<AnnouncedPurge>> {
        let value = AnnouncedPurge {
            middleware: String::new(),
            which: PurgedResponses::Tag(tag.into()),
            origin: "gw-2".into(),
            operator: "ann".into(),
        };
        Numbered { number, id: format!("id{number}"), value: Some(value) }
    }

    fn list(purges: Vec<Numbered<Option<AnnouncedPurge>>>) -> AnnouncedPurges {
        let number = purges.iter().map(|one| one.number).max().unwrap_or(0);
        AnnouncedPurges::new("s".into(), number, purges)
    }

    #[test]
    fn announced_purges_are_applied_once_to_memory_and_disk() {
        block_on(async {
            let folder = TempDir::new().unwrap();
            let test = Test::new(&folder, list(vec![])).await;
            test.put(&["a", "b", "c"]).await;
            test.publish(list(vec![purge(1, "a")])).await;
            assert_eq!((test.has("a"), test.has("b")), ((false, false), (true, true)));
            assert_eq!(test.reports(), [(1, 2)]);
            test.put(&["a"]).await;
            let mut other = purge(3, "b");
            test.following.memory_marks.applied("id2");
            test.slot.marks.applied("id2");
            other.value.as_mut().unwrap().middleware = "other@file".into();
            test.publish(list(vec![purge(1, "a"), purge(2, "b"), other, purge(4, "c")])).await;
            assert_eq!(
                (test.has("a"), test.has("b"), test.has("c")),
                ((true, true), (true, true), (false, false))
            );
            assert_eq!(test.reports(), [(4, 2)]);
        });
    }

    #[test]
    fn a_disk_that_outlives_purges_catches_up_or_is_emptied_before_it_is_used() {
        block_on(async {
            let folder = TempDir::new().unwrap();
            let test = Test::new(&folder, list(vec![])).await;
            test.publish(list(vec![purge(1, "x")])).await;
            test.put(&["a", "b"]).await;
            test.stop().await;

            let test = Test::new(&folder, list(vec![purge(1, "b"), purge(2, "a")])).await;
            assert_eq!((test.has("a"), test.has("b")), ((false, false), (false, true)), "1 was known");
            test.stop().await;

            let test = Test::new(&folder, list(vec![purge(4, "x"), purge(5, "x")])).await;
            assert_eq!(test.has("b"), (false, false), "3 may have been anything");
            assert_eq!(test.reports()[0].0, 0);
            test.put(&["b"]).await;
            test.stop().await;

            let other = AnnouncedPurges::new("t".into(), 5, vec![]);
            assert_eq!(Test::new(&folder, other).await.has("b"), (false, false), "another series");
        });
    }

    #[test]
    fn who_misses_announcements_while_running_removes_everything() {
        block_on(async {
            let folder = TempDir::new().unwrap();
            let test = Test::new(&folder, list(vec![purge(1, "x")])).await;
            test.put(&["a"]).await;
            test.publish(list(vec![purge(3, "x")])).await;
            assert_eq!(test.has("a"), (false, false));
            assert_eq!(test.reports(), [(0, 2)]);
        });
    }

    #[test]
    fn what_is_removed_before_the_disk_is_open_is_not_found_on_it() {
        block_on(async {
            let folder = TempDir::new().unwrap();
            let test = Test::new(&folder, list(vec![])).await;
            test.put(&["a", "b", "c"]).await;
            let following = test.following.clone();
            test.stop().await;
            let slot = Arc::new(DiskSlot::new(folder.path().to_owned()));
            assert!(slot.store_or(|| EarlyRemoval::Variant(key("a"), head("a").variant)).is_none());
            assert!(slot.store_or(|| EarlyRemoval::Purge(Purge::Tag(b"b".as_slice().into()))).is_none());
            opening::open(slot.clone(), following.clone(), DiskLimits::default()).await;
            assert!(slot.store_or(|| unreachable!("it is open")).is_some());
            let test = Test { slot, following, purges: PurgesHandle::default(), reports: Arc::default() };
            test.until("recovery", |store| store.usage().ready).await;
            assert_eq!([test.has("a").1, test.has("b").1, test.has("c").1], [false, false, true]);
        });
    }
}
