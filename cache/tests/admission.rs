//! What a scan displaces: the store in memory against a plain LRU, on requests of which some are for popular objects
//! and others for objects that nobody asks for again.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, HashMap};

use http::{HeaderMap, HeaderValue, StatusCode};
use tidegate_cache::key::{Key, Target, Template};
use tidegate_cache::memory::{MemoryLimits, MemoryStore};
use tidegate_cache::rules::{Rules, Times, storable};
use tidegate_cache::{Head, Timestamp};

const OBJECTS: usize = 5_000;
const REQUESTS: usize = 60_000;
/// A tenth of the popular objects.
const CAPACITY: u64 = 500;
const BODY: usize = 8 * 1024;

/// An index with the probabilities of Zipf's law, exponent 1, or `None` for an object of a scan.
fn trace(scan: f64) -> Vec<Option<usize>> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut sums: Vec<f64> = Vec::with_capacity(OBJECTS);
    let mut sum = 0.0;
    for rank in 1..=OBJECTS {
        sum += 1.0 / f64::from(u32::try_from(rank).unwrap());
        sums.push(sum);
    }
    let popular = |random: &mut fastrand::Rng| {
        let at = random.f64() * sum;
        sums.partition_point(|end| *end < at).min(OBJECTS - 1)
    };
    (0..REQUESTS).map(|_| (random.f64() >= scan).then(|| popular(&mut random))).collect()
}

/// Hits among the requests for popular objects, in per cent.
fn ratio(trace: &[Option<usize>], mut hit: impl FnMut(usize) -> bool) -> f64 {
    let (mut hits, mut popular) = (0.0, 0.0);
    for (number, request) in trace.iter().enumerate() {
        let found = hit(request.unwrap_or(OBJECTS + number));
        if request.is_some() {
            popular += 1.0;
            hits += f64::from(u8::from(found));
        }
    }
    100.0 * hits / popular
}

fn lru(trace: &[Option<usize>]) -> f64 {
    let (mut last_use, mut order, mut clock) = (HashMap::new(), BTreeMap::new(), 0u64);
    ratio(trace, |object| {
        clock += 1;
        order.insert(clock, object);
        let before = last_use.insert(object, clock);
        before.map(|before| order.remove(&before));
        if last_use.len() as u64 > CAPACITY {
            let (_, oldest) = order.pop_first().unwrap();
            last_use.remove(&oldest);
        }
        before.is_some()
    })
}

fn head() -> Head {
    let mut headers = HeaderMap::new();
    headers.insert("cache-control", HeaderValue::from_static("max-age=50"));
    let now = Timestamp::from_millis(1_767_225_600_000);
    let times = Times { requested: now, received: now };
    storable(&Rules::default(), &HeaderMap::new(), StatusCode::OK, &headers, times).unwrap()
}

fn store(trace: &[Option<usize>]) -> f64 {
    // The weight of one object, as the store counts it.
    let one = MemoryStore::new(MemoryLimits::default());
    let (head, none) = (head(), HeaderMap::new());
    let key = |object: usize| -> Key {
        let path = format!("/{object:08}");
        let target = Target {
            scheme: "http",
            authority: "a.example",
            path: &path,
            query: None,
            headers: &none,
            route: b"",
            identity: None,
        };
        Template::default().key(&target).unwrap()
    };
    let put = |store: &std::sync::Arc<MemoryStore>, object| {
        let mut writer = store.write(key(object), head.clone(), store.epoch()).unwrap();
        writer.push(&[0; BODY]).unwrap();
        // Whether it is admitted is the store's decision.
        writer.finish().unwrap_or_default();
    };
    put(&one, 0);
    let total = one.usage().1 * CAPACITY;
    let store = MemoryStore::new(MemoryLimits { total, object: total, ..MemoryLimits::default() });
    let ratio = ratio(trace, |object| {
        let found = store.find(&key(object), &none).matching.is_some();
        if !found {
            put(&store, object);
        }
        found
    });
    let (entries, weight) = store.usage();
    assert!(entries as u64 <= CAPACITY && weight <= total);
    ratio
}

#[test]
fn a_scan_displaces_less_than_in_an_lru() {
    for (scan, lead) in [(0.0, 3.0), (0.5, 10.0)] {
        let trace = trace(scan);
        let (ours, lru) = (store(&trace), lru(&trace));
        eprintln!("scan {scan}: {ours:.1} % of popular requests hit, LRU {lru:.1} %");
        assert!(ours > lru + lead, "scan {scan}: {ours:.1} %, LRU {lru:.1} %");
    }
}
