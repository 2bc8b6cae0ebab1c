//! A process that stores, updates, replaces and purges responses on disk is killed at random moments. Whatever can be
//! read afterwards must be exactly what was written, and what was purged must not come back.
//!
//! The test starts itself again as the process that writes.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode};
use tidegate_cache::disk::{DiskLimits, DiskStore};
use tidegate_cache::key::{Key, Target, Template};
use tidegate_cache::rules::{Rules, Times, storable};
use tidegate_cache::{Head, Purge, Timestamp};

const NAME: &str = "what_is_read_after_a_kill_is_right";
const ROUNDS: u64 = 50;
const KEYS: u64 = 40;
const FOLDER: &str = "TIDEGATE_CACHE_KILL_FOLDER";
const LIMITS: DiskLimits =
    DiskLimits { total: 64 << 20, object: 1 << 20, objects: 1000, queued: 4 << 20, open: 64, variants: 4 };

fn key(number: u64) -> Key {
    let (path, headers) = (format!("/{number}"), HeaderMap::new());
    let target = Target {
        scheme: "http",
        authority: "a.example",
        path: &path,
        query: None,
        headers: &headers,
        route: b"",
        identity: None,
    };
    Template::default().key(&target).unwrap()
}

fn head(number: u64, version: u64, update: u64) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert("cache-control", HeaderValue::from_static("max-age=1000000"));
    headers.insert("cache-tag", HeaderValue::from_str(&format!("n{number}")).unwrap());
    headers.insert("version", HeaderValue::from(version));
    headers.insert("update", HeaderValue::from(update));
    let times = Times { requested: Timestamp::now(), received: Timestamp::now() };
    storable(&Rules::default(), &HeaderMap::new(), StatusCode::OK, &headers, times).unwrap()
}

/// What is stored for a version: its length and bytes follow from its number.
fn body(number: u64, version: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number << 32 | version);
    let length = if random.bool() { random.usize(..2_000) } else { random.usize(..300_000) };
    let mut body = vec![0; length];
    random.fill(&mut body);
    body
}

fn open(folder: &Path) -> Arc<DiskStore> {
    let store = DiskStore::open(folder, LIMITS, Box::new(|_| {})).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !store.usage().ready {
        assert!(Instant::now() < deadline, "no recovery");
        std::thread::sleep(Duration::from_millis(1));
    }
    store
}

/// Writes until it is killed. Each completed purge is a line of the standard output: `<key> <first version after it>`.
fn write_until_killed(folder: &Path) {
    let store = open(folder);
    let mut random = fastrand::Rng::new();
    for version in u64::from(Timestamp::now().seconds_since(Timestamp::from_millis(0))) * 1_000_000.. {
        let number = random.u64(..KEYS);
        let mut writer = match store.write(key(number), head(number, version, 0), store.epoch()) {
            Ok(writer) => writer,
            Err(_) => continue,
        };
        let written = body(number, version).chunks(10_000).try_for_each(|piece| writer.push(piece));
        if random.u8(..10) > 0 && written.is_ok() {
            let stored = writer.finish().unwrap();
            if random.bool() {
                // Purged meanwhile, or not.
                let _ = stored.blocking_recv();
            }
        }
        if let Some(found) = store.find(&key(number), &HeaderMap::new()).matching
            && random.u8(..3) == 0
            && let Ok(object) = store.read(&found)
        {
            let stored: u64 = object.head().headers["version"].to_str().unwrap().parse().unwrap();
            let _ = store.update(&found, head(number, stored, version), store.epoch());
        }
        if random.u8(..8) == 0 {
            store.purge(&Purge::Tag(format!("n{number}").into_bytes().as_slice().into()));
            println!("{number} {}", version + 1);
        }
    }
}

/// Checks everything that can be read, and returns how many responses that are.
fn verify(folder: &Path, purged: &[(u64, u64)]) -> u64 {
    let store = open(folder);
    let mut readable = 0;
    for number in 0..KEYS {
        let Some(found) = store.find(&key(number), &HeaderMap::new()).matching else { continue };
        let mut object = store.read(&found).expect("what is found can be read");
        let version: u64 = object.head().headers["version"].to_str().unwrap().parse().unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = object.read().expect("every block is right") {
            bytes.extend_from_slice(&piece);
        }
        assert!(bytes == body(number, version), "key {number}, version {version}: wrong bytes");
        for (key, first) in purged.iter().filter(|(key, _)| *key == number) {
            assert!(version >= *first, "key {key}: version {version} is back after a purge");
        }
        readable += 1;
    }
    let usage = store.usage();
    assert_eq!((usage.corrupt, usage.objects as u64), (0, readable));
    readable
}

/// Files that are in the folder, except the lock.
fn files(folder: &Path) -> HashSet<String> {
    let mut found = HashSet::new();
    for shard in fs::read_dir(folder.join("objects")).unwrap() {
        for file in fs::read_dir(shard.unwrap().path()).unwrap() {
            found.insert(file.unwrap().file_name().into_string().unwrap());
        }
    }
    found
}

fn kill_and_verify() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::new();
    let (mut readable, mut unfinished, mut purges) = (0, 0, 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = std::thread::spawn(move || output.lines().map_while(Result::ok).collect::<Vec<_>>());
        // The moment at which it is killed is what is tested.
        std::thread::sleep(Duration::from_millis(random.u64(60..260)));
        child.kill().unwrap();
        child.wait().unwrap();
        let purged: Vec<(u64, u64)> = lines
            .join()
            .unwrap()
            .iter()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(key, version)| Some((key.parse().ok()?, version.parse().ok()?)))
            .collect();
        purges += purged.len();
        unfinished += fs::read_dir(folder.path().join("new")).map_or(0, Iterator::count);
        let count = verify(folder.path(), &purged);
        let objects = files(folder.path()).iter().filter(|name| name.ends_with(".object")).count();
        assert_eq!(objects as u64, count, "round {round}: files that nobody finds");
        readable += count;
    }
    eprintln!(
        "{ROUNDS} kills: {readable} responses read and right, {unfinished} unfinished files, {purges} purges kept"
    );
    assert!(readable > ROUNDS && unfinished > 0 && purges > 0, "the process was killed too soon");
}

fn main() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return write_until_killed(Path::new(&folder));
    }
    // What test runners ask for.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ignored = arguments.iter().any(|argument| argument == "--ignored");
    if arguments.iter().any(|argument| argument == "--list") {
        if !ignored {
            println!("{NAME}: test");
        }
        return;
    }
    // A value of another option is no filter.
    let value =
        |index: usize| index > 0 && ["--skip", "--test-threads"].contains(&arguments[index - 1].as_str());
    let is_filter = |(index, argument): &(usize, &String)| !argument.starts_with('-') && !value(*index);
    let mut filters = arguments.iter().enumerate().filter(is_filter).map(|(_, argument)| argument).peekable();
    let is_chosen = filters.peek().is_none() || filters.any(|filter| NAME.contains(filter.as_str()));
    if !ignored && is_chosen {
        kill_and_verify();
    }
}
