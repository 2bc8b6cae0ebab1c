//! A gigabyte on disk with little memory.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::time::Instant;

use common::{head, key, open, wait};
use http::HeaderMap;
use tidegate_cache::disk::DiskLimits;

const OBJECT: u64 = 64 << 20;
const OBJECTS: u64 = 16;
const PIECE: usize = 64 * 1024;

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
    let store = open(folder.path(), limits);
    let head = head(&[]);
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
