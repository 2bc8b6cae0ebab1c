//! The store on disk: restarts, damage, full and slow disks, limits.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::rules::{Rules, Times, storable};
use crate::time::Timestamp;

const LIMITS: DiskLimits =
    DiskLimits { total: 64 << 20, object: 16 << 20, objects: 10_000, queued: 1 << 20, open: 16, variants: 4 };

fn wait(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "timeout: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn open_with(folder: &TempDir, limits: DiskLimits) -> Arc<DiskStore> {
    let store = DiskStore::open(folder.path(), limits, Box::new(|_| {})).unwrap();
    wait("recovery", || store.usage().ready);
    store
}

fn open(folder: &TempDir) -> Arc<DiskStore> {
    open_with(folder, LIMITS)
}

/// Closes a store, and waits until its threads have left the folder.
fn close(store: Arc<DiskStore>) {
    let inner = Arc::downgrade(&store.inner);
    drop(store);
    wait("threads", || inner.strong_count() == 0);
}

fn key(name: &str) -> Key {
    Key::from_bytes(format!("http://{name}\0").as_bytes())
}

fn head(lines: &[(&'static str, &str)]) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert("cache-control", HeaderValue::from_static("max-age=50"));
    for (name, value) in lines {
        headers.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    let now = Timestamp::from_millis(1_767_225_600_000);
    let times = Times { requested: now, received: now };
    storable(&Rules::default(), &HeaderMap::new(), StatusCode::OK, &headers, times).unwrap()
}

fn body(seed: u32, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed.into());
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

fn put(store: &DiskStore, name: &str, head: Head, body: &[u8]) -> Result<(), NotKept> {
    let mut writer = store.write(key(name), head, store.epoch())?;
    for piece in body.chunks(10_000) {
        writer.push(piece)?;
    }
    writer.finish()?.blocking_recv().unwrap()
}

fn found(store: &DiskStore, name: &str) -> Option<DiskRef> {
    store.find(&key(name), &HeaderMap::new()).matching
}

fn read_all(mut object: OpenObject) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    while let Some(piece) = object.read()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn get(store: &DiskStore, name: &str) -> Option<Vec<u8>> {
    read_all(store.read(&found(store, name)?).ok()?).ok()
}

fn files(folder: &TempDir) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for shard in fs::read_dir(folder.path().join("objects")).unwrap() {
        files.extend(fs::read_dir(shard.unwrap().path()).unwrap().map(|file| file.unwrap().path()));
    }
    files.extend(fs::read_dir(folder.path().join("new")).unwrap().map(|file| file.unwrap().path()));
    files.sort();
    files
}

#[test]
fn responses_survive_a_restart_whole_and_in_parts() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let sizes = [0, 1, 65_535, 65_536, 65_537, 200_000];
    for (seed, size) in sizes.into_iter().enumerate() {
        put(&store, &size.to_string(), head(&[("x", "1")]), &body(seed as u32, size)).unwrap();
    }
    close(store);
    let store = open(&folder);
    assert_eq!(store.usage().recovered, 6);
    for (seed, size) in sizes.into_iter().enumerate() {
        let all = body(seed as u32, size);
        assert_eq!(get(&store, &size.to_string()), Some(all.clone()), "{size}");
        let mut object = store.read(&found(&store, &size.to_string()).unwrap()).unwrap();
        assert_eq!((object.head(), object.length()), (&head(&[("x", "1")]), size as u64));
        object.select(1, 65_536);
        assert_eq!(read_all(object).unwrap(), all.get(1..size.min(65_537)).unwrap_or_default(), "{size}");
    }
}

#[test]
fn no_damaged_byte_is_read() {
    let folder = TempDir::new().unwrap();
    let expected = body(1, 100_000);
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..200 {
        let store = open(&folder);
        put(&store, "x", head(&[("cache-tag", "t")]), &expected).unwrap();
        let [file] = files(&folder)[..].to_vec().try_into().unwrap();
        if round % 2 == 1 {
            close(store);
        }
        let mut bytes = fs::read(&file).unwrap();
        // The head and the footer are at the end, in the last 200 bytes.
        let at =
            if round % 4 < 2 { random.usize(..bytes.len()) } else { bytes.len() - 1 - random.usize(..200) };
        if round % 8 == 7 {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << random.u8(..8);
        }
        fs::write(&file, bytes).unwrap();
        let store = open_again(&folder, round);
        if let Some(entry) = found(&store.0, "x") {
            let result = store.0.read(&entry).and_then(read_all);
            assert!(result.is_err(), "round {round}, byte {at}");
            assert!(found(&store.0, "x").is_none(), "it is removed");
        }
        assert_eq!(files(&folder), Vec::<PathBuf>::new(), "round {round}");
        close(store.0);
    }

    /// A store after a restart, or the one that has not noticed anything yet.
    struct Again(Arc<DiskStore>);
    fn open_again(folder: &TempDir, round: usize) -> Again {
        if round % 2 == 1 { Again(open(folder)) } else { Again(open_shared(folder)) }
    }
    /// In place of the store that is open: it reads the same folder without its lock.
    fn open_shared(folder: &TempDir) -> Arc<DiskStore> {
        fs::remove_file(folder.path().join("lock")).unwrap();
        open(folder)
    }
}

#[test]
fn damage_while_it_is_open_is_noticed() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    put(&store, "x", head(&[]), &body(1, 200_000)).unwrap();
    let file = files(&folder).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[150_000] ^= 1;
    fs::write(&file, bytes).unwrap();
    let mut object = store.read(&found(&store, "x").unwrap()).unwrap();
    assert_eq!(object.read().unwrap().unwrap(), body(1, 200_000)[..65_536], "the first block is right");
    object.read().unwrap();
    assert!(matches!(object.read(), Err(ReadError::Corrupt)));
    assert_eq!(store.usage().corrupt, 1);
    assert!(matches!(store.usage().problem, Some(DiskProblem::Corrupt { .. })));
    assert!(found(&store, "x").is_none() && files(&folder).is_empty());
}

#[test]
fn a_full_disk_is_reported_and_harmless() {
    let folder = TempDir::new().unwrap();
    let reported = Arc::new(Mutex::new(Vec::new()));
    let report = reported.clone();
    let store =
        DiskStore::open(folder.path(), LIMITS, Box::new(move |problem| report.lock().push(problem.clone())))
            .unwrap();
    wait("recovery", || store.usage().ready);
    put(&store, "before", head(&[]), b"1").unwrap();
    store.inner.faults.full.store(true, Ordering::Relaxed);
    assert_eq!(
        put(&store, "x", head(&[]), &body(1, 200_000)),
        Err(NotKept::Failed(io::ErrorKind::StorageFull))
    );
    assert!(matches!(&reported.lock()[0], DiskProblem::Write { kind: io::ErrorKind::StorageFull, .. }));
    assert_eq!(put(&store, "y", head(&[]), b"1"), Err(NotKept::Unavailable), "a pause");
    assert_eq!(get(&store, "before").as_deref(), Some(&b"1"[..]));
    assert_eq!(files(&folder).len(), 1, "nothing is left of it");
    store.inner.faults.full.store(false, Ordering::Relaxed);
    wait("end of the pause", || put(&store, "y", head(&[]), b"1").is_ok());
    assert_eq!((store.usage().failed, store.usage().objects), (1, 2));
}

#[test]
fn a_slow_disk_loses_stores_and_stops_nobody() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let gate = store.inner.faults.gate.lock();
    let mut waiting = Vec::new();
    let refused = loop {
        let mut writer = match store.write(key(&waiting.len().to_string()), head(&[]), store.epoch()) {
            Ok(writer) => writer,
            Err(reason) => break reason,
        };
        match writer.push(&body(1, 100_000)) {
            Ok(()) => waiting.push(writer.finish().unwrap()),
            Err(reason) => break reason,
        }
    };
    assert_eq!(refused, NotKept::Busy);
    assert!(waiting.len() >= 4 && store.usage().queued <= LIMITS.queued, "{}", waiting.len());
    assert!(store.usage().lost > 0);
    drop(gate);
    for stored in waiting {
        stored.blocking_recv().unwrap().unwrap();
    }
    wait("queue", || store.usage().queued == 0 && store.inner.open.load(Ordering::Relaxed) == 0);
    assert_eq!(get(&store, "0"), Some(body(1, 100_000)));
}

#[test]
fn incomplete_and_large_responses_leave_nothing() {
    let folder = TempDir::new().unwrap();
    let store = open_with(&folder, DiskLimits { object: 150_000, ..LIMITS });
    assert_eq!(put(&store, "x", head(&[]), &body(1, 150_001)), Err(NotKept::TooLarge(150_000)));
    let length = head(&[("content-length", "100001")]);
    let error = Err(NotKept::Incomplete { expected: 100_001, received: 100_000 });
    assert_eq!(put(&store, "x", length, &body(1, 100_000)), error);
    let mut dropped = store.write(key("x"), head(&[]), store.epoch()).unwrap();
    dropped.push(&body(1, 140_000)).unwrap();
    wait("a file", || !files(&folder).is_empty());
    drop(dropped);
    wait("no file", || files(&folder).is_empty());
    wait("no reservation", || store.usage().queued == 0 && store.inner.open.load(Ordering::Relaxed) == 0);
    assert_eq!(store.usage().objects, 0);
}

#[test]
fn the_limits_of_bytes_and_objects_hold_on_disk() {
    let folder = TempDir::new().unwrap();
    let limits = DiskLimits { total: 1 << 20, objects: 50, ..LIMITS };
    let store = open_with(&folder, limits);
    for i in 0..200 {
        let size = if i % 2 == 0 { 100 } else { 60_000 };
        // Whether it is admitted is the store's decision.
        let result = put(&store, &i.to_string(), head(&[]), &body(i, size));
        assert!(matches!(result, Ok(()) | Err(NotKept::NotAdmitted)), "{result:?}");
    }
    let on_disk = files(&folder);
    let bytes: u64 = on_disk.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(on_disk.len() <= 50 && bytes <= 1 << 20, "{} files, {bytes} bytes", on_disk.len());
    assert_eq!(on_disk.len(), store.usage().objects);
    close(store);
    let store = open_with(&folder, DiskLimits { objects: 10, ..limits });
    assert!(store.usage().objects <= 10);
    assert_eq!(files(&folder).len(), store.usage().objects, "smaller limits remove files");
}

#[test]
fn a_purge_is_complete_when_it_returns() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    for i in 0..20 {
        put(&store, &format!("x/{i}"), head(&[("cache-tag", if i % 2 == 0 { "even" } else { "odd" })]), b"1")
            .unwrap();
    }
    let late = store.write(key("x/1late"), head(&[]), store.epoch()).unwrap();
    assert_eq!(store.purge(&Purge::Tag(b"even".as_slice().into())), 10);
    assert_eq!(files(&folder).len(), 10);
    assert_eq!(store.purge(&Purge::Prefix(b"http://x/1".to_vec())), 6);
    assert_eq!(late.finish().unwrap().blocking_recv().unwrap(), Err(NotKept::Purged));
    close(store);
    let store = open(&folder);
    assert_eq!((store.usage().objects, files(&folder).len()), (4, 4));
    assert_eq!(get(&store, "x/3").as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_newer_head_survives_a_restart() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    put(&store, "x", head(&[("x", "1")]), &body(1, 100_000)).unwrap();
    for (value, tags) in [("2", "a"), ("3", "b")] {
        let update = head(&[("x", value), ("cache-tag", tags)]);
        store.update(&found(&store, "x").unwrap(), update, store.epoch()).unwrap();
        let current = || store.read(&found(&store, "x").unwrap()).unwrap().head().headers["x"].clone();
        wait("update", || current() == value && store.usage().queued == 0);
    }
    close(store);
    let store = open(&folder);
    assert_eq!(store.read(&found(&store, "x").unwrap()).unwrap().head().headers["x"], "3");
    assert_eq!(get(&store, "x"), Some(body(1, 100_000)));
    assert_eq!(store.purge(&Purge::Tag(b"a".as_slice().into())), 0);
    assert_eq!(store.purge(&Purge::Tag(b"b".as_slice().into())), 1);
    assert!(files(&folder).is_empty());
}

#[test]
fn of_two_files_for_a_key_the_newer_one_counts() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    put(&store, "x", head(&[]), b"old").unwrap();
    let old = files(&folder).remove(0);
    let bytes = fs::read(&old).unwrap();
    put(&store, "x", head(&[]), b"new").unwrap();
    assert!(!old.exists());
    close(store);
    // As after a crash between the two steps.
    fs::write(&old, bytes).unwrap();
    fs::write(old.with_extension("txt"), b"").unwrap();
    fs::write(old.with_file_name("00000000000000ff.head"), b"").unwrap();
    let store = open(&folder);
    assert_eq!(get(&store, "x").as_deref(), Some(&b"new"[..]));
    assert_eq!(files(&folder).len(), 1);
}

#[test]
fn a_folder_has_one_user() {
    let folder = TempDir::new().unwrap();
    let first = open(&folder);
    put(&first, "x", head(&[]), b"1").unwrap();
    let second = DiskStore::open(folder.path(), LIMITS, Box::new(|_| {})).unwrap();
    wait("report", || matches!(second.usage().problem, Some(DiskProblem::InUse { .. })));
    assert_eq!(put(&second, "y", head(&[]), b"1"), Err(NotKept::Unavailable));
    assert!(found(&second, "x").is_none());
    close(first);
    wait("its turn", || second.usage().ready);
    assert_eq!(get(&second, "x").as_deref(), Some(&b"1"[..]));
}

#[test]
fn limits_change_without_losing_what_fits() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    for number in 0..8 {
        put(&store, &number.to_string(), head(&[]), &body(number, 1 << 20)).unwrap();
    }
    assert_eq!(store.usage().objects, 8);
    store.resize(DiskLimits { total: 4 << 20, ..LIMITS });
    let usage = store.usage();
    assert!((1..4).contains(&usage.objects), "{usage:?}");
    assert_eq!(usage.evicted, 8 - usage.objects as u64);
    let files: usize = (0..8u32).filter(|number| found(&store, &number.to_string()).is_some()).count();
    assert_eq!(files, usage.objects);
    close(store);
    let again = open(&folder);
    assert_eq!(again.usage().objects, usage.objects, "the files of the others are gone");
    again.resize(DiskLimits { total: 128 << 20, ..LIMITS });
    assert_eq!(again.usage().objects, usage.objects);
    let listed = again.list(&Listed::Largest(1));
    assert_eq!((listed.len(), listed[0].length), (1, 1 << 20));
    let key = listed[0].key.clone();
    again.remove_variant(&key, &head(&[]).variant);
    assert_eq!(again.usage().objects, usage.objects - 1);
}

#[test]
fn a_response_that_was_read_is_read_again_without_the_disk() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    let expected = body(1, 200_000);
    put(&store, "x", head(&[("x", "1")]), &expected).unwrap();
    let entry = found(&store, "x").unwrap();
    assert!(store.opened(&entry).is_none());
    assert_eq!(read_all(store.read(&entry).unwrap()).unwrap(), expected);

    let mut object = store.opened(&entry).unwrap();
    assert_eq!(object.head(), &head(&[("x", "1")]));
    object.select(1, 150_000);
    // The file system may not be able to tell.
    if let Some(first) = object.read_from_memory() {
        let mut bytes = first.to_vec();
        while let Some(piece) = object.read_from_memory() {
            bytes.extend_from_slice(&piece);
        }
        assert_eq!(bytes, expected[1..=150_000]);
    }

    // A newer head is seen, and a removed file is closed.
    store.update(&entry, head(&[("x", "2")]), store.epoch()).unwrap();
    wait("the head", || {
        let entry = found(&store, "x").unwrap();
        store.opened(&entry).is_none()
            && store.read(&entry).is_ok_and(|object| object.head().headers["x"] == "2")
    });
    let entry = found(&store, "x").unwrap();
    assert!(store.opened(&entry).is_some());
    assert_eq!(store.purge(&Purge::All), 1);
    assert!(store.opened(&entry).is_none());
    assert!(matches!(store.read(&entry), Err(ReadError::Gone)));
    assert!(store.opened(&entry).is_none());
}

#[test]
fn a_damaged_byte_in_an_open_file_is_not_read() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    put(&store, "x", head(&[]), &body(1, 1000)).unwrap();
    let entry = found(&store, "x").unwrap();
    store.read(&entry).unwrap();
    let [file] = files(&folder)[..].to_vec().try_into().unwrap();
    let mut bytes = fs::read(&file).unwrap();
    bytes[500] ^= 1;
    fs::write(&file, bytes).unwrap();
    let mut object = store.opened(&entry).unwrap();
    assert!(object.read_from_memory().is_none());
    assert!(matches!(object.read(), Err(ReadError::Corrupt)));
    assert!(found(&store, "x").is_none() && files(&folder).is_empty());
}

/// Keeps the store from reading the folder until it is dropped.
fn hold(folder: &TempDir) -> fs::File {
    let lock = fs::File::options().create(true).truncate(false).write(true).open(folder.path().join("lock"));
    let lock = lock.unwrap();
    lock.try_lock().unwrap();
    lock
}

#[test]
fn what_is_removed_before_it_is_found_is_not_found() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    for name in ["a", "b", "c"] {
        put(&store, name, head(&[]), &body(1, 1000)).unwrap();
    }
    close(store);
    let lock = hold(&folder);
    let store = DiskStore::open(folder.path(), LIMITS, Box::new(|_| {})).unwrap();
    wait("it waits", || store.usage().problem.is_some());
    store.remove_variant(&key("a"), &head(&[]).variant);
    assert_eq!(store.purge(&Purge::Resource(b"http://c\0".to_vec())), 0);
    drop(lock);
    wait("recovery", || store.usage().ready);
    assert_eq!((get(&store, "a"), get(&store, "c")), (None, None));
    assert_eq!((store.usage().recovered, files(&folder).len()), (1, 1));
    put(&store, "a", head(&[]), &body(2, 1000)).unwrap();
    assert_eq!(get(&store, "a"), Some(body(2, 1000)));
}

#[test]
fn closing_writes_what_waits_and_leaves_the_folder() {
    let folder = TempDir::new().unwrap();
    let store = open(&folder);
    for number in 0..12 {
        let mut writer = store.write(key(&number.to_string()), head(&[]), store.epoch()).unwrap();
        writer.push(&body(number, 80_000)).unwrap();
        writer.finish().unwrap();
    }
    let late = store.write(key("late"), head(&[]), store.epoch()).unwrap();
    assert!(store.close(Duration::from_secs(20)));
    assert_eq!(late.finish().unwrap().blocking_recv().unwrap(), Err(NotKept::Unavailable));
    assert!(matches!(store.write(key("new"), head(&[]), store.epoch()), Err(NotKept::Unavailable)));
    // The first one is still there, as it is while a request uses it.
    let next = open(&folder);
    assert_eq!(next.usage().recovered, 12);
    assert!((0..12).all(|number| get(&next, &number.to_string()) == Some(body(number, 80_000))));
    assert_eq!(get(&next, "late"), None);
}

#[test]
fn a_note_is_kept_beside_the_responses_once_they_are_known() {
    let folder = TempDir::new().unwrap();
    let lock = hold(&folder);
    let store = DiskStore::open(folder.path(), LIMITS, Box::new(|_| {})).unwrap();
    assert!(!store.set_note("early").unwrap());
    drop(lock);
    wait("recovery", || store.usage().ready);
    assert_eq!(store.note().unwrap(), None);
    assert!(store.set_note("one").unwrap() && store.set_note("two").unwrap());
    close(store);
    let store = open(&folder);
    assert_eq!(store.note().unwrap().as_deref(), Some("two"));
    fs::write(folder.path().join("note"), "x".repeat(2000)).unwrap();
    assert_eq!(store.note().unwrap(), None, "not a note");
    assert!(store.close(Duration::from_secs(20)));
    assert!(!store.set_note("late").unwrap(), "the folder is not ours any more");
}
