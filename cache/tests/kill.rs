//! A process that stores, updates, replaces and purges responses on disk is killed at random moments: with room for all
//! of them, and with a store that is full and evicts. Whatever can be read afterwards must be exactly what was written,
//! and what was purged must not come back.
//!
//! The test starts itself again as the process that writes. `TIDEGATE_CACHE_KILLS` is how often it is killed with either
//! store; `make cache-kills` does so 50 times.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use common::{key, open};
use http::HeaderMap;
use tidegate_cache::disk::DiskLimits;
use tidegate_cache::{Head, Purge, Timestamp};

const NAME: &str = "what_is_read_after_a_kill_is_right";
const KILLS: u64 = 12;
const FOLDER: &str = "TIDEGATE_CACHE_KILL_FOLDER";
const STORE: &str = "TIDEGATE_CACHE_KILL_STORE";
/// What the process prints when its store has evicted something.
const EVICTED: &str = "evicted";

/// A store in which the process writes.
struct Scenario {
    name: &'static str,
    /// Bytes of all files.
    total: u64,
    keys: u64,
    /// Whether the process is only killed while its store is full.
    is_full: bool,
}

/// Bodies have 76 KB on average.
const SCENARIOS: [Scenario; 2] = [
    Scenario { name: "roomy", total: 64 << 20, keys: 40, is_full: false },
    Scenario { name: "full", total: 6 << 20, keys: 400, is_full: true },
];

impl Scenario {
    fn limits(&self) -> DiskLimits {
        DiskLimits {
            total: self.total,
            object: 1 << 20,
            objects: 1000,
            queued: 4 << 20,
            open: 64,
            variants: 4,
        }
    }
}

fn head(number: u64, version: u64, update: u64) -> Head {
    common::head(&[
        ("cache-tag", format!("n{number}")),
        ("version", version.to_string()),
        ("update", update.to_string()),
    ])
}

/// What is stored for a version: its length and bytes follow from its number.
fn body(number: u64, version: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(number << 32 | version);
    let length = if random.bool() { random.usize(..2_000) } else { random.usize(..300_000) };
    let mut body = vec![0; length];
    random.fill(&mut body);
    body
}

/// Writes until it is killed. Each completed purge is a line of the standard output: `<key> <first version after it>`.
fn write_until_killed(folder: &Path, scenario: &Scenario) {
    let store = open(folder, scenario.limits());
    let mut random = fastrand::Rng::new();
    let mut is_told = false;
    for version in u64::from(Timestamp::now().seconds_since(Timestamp::from_millis(0))) * 1_000_000.. {
        let number = random.u64(..scenario.keys);
        let mut writer = match store.write(key(number), head(number, version, 0), store.epoch()) {
            Ok(writer) => writer,
            Err(_) => continue,
        };
        let written = body(number, version).chunks(10_000).try_for_each(|piece| writer.push(piece));
        if random.u8(..10) > 0 && written.is_ok() {
            let stored = writer.finish().unwrap();
            if random.bool() {
                // Purged or evicted meanwhile, or not.
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
        let usage = store.usage();
        if !is_told && usage.evicted > 0 && usage.bytes > scenario.total / 10 * 9 {
            println!("{EVICTED}");
            is_told = true;
        }
    }
}

/// Checks everything that can be read, and returns how many responses and bytes of files that are.
fn verify(folder: &Path, scenario: &Scenario, purged: &[(u64, u64)]) -> (u64, u64) {
    let store = open(folder, scenario.limits());
    let mut readable = 0;
    for number in 0..scenario.keys {
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
    assert!(usage.bytes <= scenario.total, "{} bytes", usage.bytes);
    (readable, usage.bytes)
}

/// Number and bytes of the files of objects.
fn objects(folder: &Path) -> (u64, u64) {
    let shards = fs::read_dir(folder.join("objects")).unwrap();
    let files = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap().map(Result::unwrap));
    files.fold((0, 0), |(number, bytes), file| {
        let is_object = file.file_name().to_str().unwrap().ends_with(".object");
        (number + u64::from(is_object), bytes + file.metadata().unwrap().len())
    })
}

/// Starts the process, kills it, and returns the purges that it has completed.
fn start_and_kill(folder: &Path, scenario: &Scenario, random: &mut fastrand::Rng) -> Vec<(u64, u64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(FOLDER, folder)
        .env(STORE, scenario.name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (evicted, full) = channel();
    let lines = std::thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        lines
            .inspect(|line| {
                if line == EVICTED {
                    evicted.send(()).unwrap()
                }
            })
            .collect::<Vec<_>>()
    });
    if scenario.is_full {
        full.recv_timeout(Duration::from_secs(60)).expect("the store is full");
    }
    // The moment at which it is killed is what is tested.
    std::thread::sleep(Duration::from_millis(random.u64(60..260)));
    child.kill().unwrap();
    child.wait().unwrap();
    let lines = lines.join().unwrap();
    let purges = lines.iter().filter_map(|line| line.split_once(' '));
    purges.filter_map(|(key, version)| Some((key.parse().ok()?, version.parse().ok()?))).collect()
}

fn kill_and_verify(scenario: &Scenario, kills: u64) {
    let (folder, started) = (tempfile::tempdir().unwrap(), Instant::now());
    let mut random = fastrand::Rng::new();
    let (mut readable, mut unfinished, mut purges, mut least) = (0, 0, 0, u64::MAX);
    for round in 0..kills {
        let purged = start_and_kill(folder.path(), scenario, &mut random);
        purges += purged.len();
        unfinished += fs::read_dir(folder.path().join("new")).map_or(0, Iterator::count);
        let (count, bytes) = verify(folder.path(), scenario, &purged);
        let (number, on_disk) = objects(folder.path());
        assert_eq!(number, count, "round {round}: files that nobody finds");
        assert!(on_disk <= scenario.total, "round {round}: {on_disk} bytes");
        readable += count;
        least = least.min(bytes);
    }
    eprintln!(
        "{} store, {kills} kills in {:.1} s: {readable} responses read and right, at least {least} of {} bytes in \
         use, {unfinished} unfinished files, {purges} purges kept",
        scenario.name,
        started.elapsed().as_secs_f64(),
        scenario.total
    );
    assert!(readable > kills && unfinished > 0 && purges > 0, "the process was killed too soon");
    assert!(!scenario.is_full || least > scenario.total / 2, "the store was not full");
}

fn main() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let name = std::env::var(STORE).unwrap();
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
        return write_until_killed(Path::new(&folder), scenario);
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
        let kills = std::env::var("TIDEGATE_CACHE_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
        for scenario in &SCENARIOS {
            kill_and_verify(scenario, kills);
        }
    }
}
