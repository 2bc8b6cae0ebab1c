//! A gigabyte on disk with little memory.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, StatusCode};
use tidegate_cache::Timestamp;
use tidegate_cache::disk::{DiskLimits, DiskStore};
use tidegate_cache::key::{Key, Target, Template};
use tidegate_cache::rules::{Rules, Times, storable};

const OBJECT: u64 = 64 << 20;
const OBJECTS: u64 = 16;
const PIECE: usize = 64 * 1024;

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

fn wait(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "timeout: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The pieces of an object differ from those of others, and from each other.
fn stamp(piece: &mut [u8], number: u64, at: u64) {
    piece[..8].copy_from_slice(&number.to_le_bytes());
    piece[8..16].copy_from_slice(&at.to_le_bytes());
}

/// The largest memory that the process has had, in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_gigabyte_needs_little_memory() {
    let folder = tempfile::tempdir().unwrap();
    let limits = DiskLimits { total: 2 << 30, object: OBJECT, ..DiskLimits::default() };
    let store = DiskStore::open(folder.path(), limits, Box::new(|problem| eprintln!("{problem}"))).unwrap();
    wait("recovery", || store.usage().ready);
    let mut headers = HeaderMap::new();
    headers.insert("cache-control", HeaderValue::from_static("max-age=50"));
    let times = Times { requested: Timestamp::now(), received: Timestamp::now() };
    let head = storable(&Rules::default(), &HeaderMap::new(), StatusCode::OK, &headers, times).unwrap();
    let mut piece = vec![7; PIECE];
    let started = Instant::now();
    for number in 0..OBJECTS {
        let mut writer = store.write(key(number), head.clone(), store.epoch()).unwrap();
        for at in 0..OBJECT / PIECE as u64 {
            wait("the disk", || store.usage().queued < limits.queued / 2);
            stamp(&mut piece, number, at);
            writer.push(&piece).unwrap();
        }
        writer.finish().unwrap().blocking_recv().unwrap().unwrap();
    }
    let written = started.elapsed();
    for number in 0..OBJECTS {
        let found = store.find(&key(number), &HeaderMap::new()).matching.unwrap();
        let mut object = store.read(&found).unwrap();
        let mut at = 0;
        while let Some(read) = object.read().unwrap() {
            stamp(&mut piece, number, at);
            assert!(read == piece, "object {number}, piece {at}");
            at += 1;
        }
        assert_eq!(at, OBJECT / PIECE as u64);
    }
    let peak = peak();
    eprintln!(
        "{} MiB written in {:.1} s, read in {:.1} s, at most {} MiB of memory",
        (OBJECT * OBJECTS) >> 20,
        written.as_secs_f64(),
        (started.elapsed() - written).as_secs_f64(),
        peak / 1024
    );
    assert!(store.usage().bytes >= 1 << 30);
    assert!(peak < 64 * 1024, "{peak} KiB");
}
