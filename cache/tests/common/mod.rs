//! What the tests of the store on disk share.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tidegate_cache::disk::{DiskLimits, DiskStore};
use tidegate_cache::key::{Key, Target, Template};
use tidegate_cache::rules::{Rules, Times, storable};
use tidegate_cache::{Head, Timestamp};

pub(crate) fn wait(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "timeout: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Opens a store, and waits until it knows what it has.
pub(crate) fn open(folder: &Path, limits: DiskLimits) -> Arc<DiskStore> {
    let store = DiskStore::open(folder, limits, Box::new(|problem| eprintln!("{problem}"))).unwrap();
    wait("recovery", || store.usage().ready);
    store
}

pub(crate) fn key(number: u64) -> Key {
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

/// The head of a response with these fields, which can be stored for long.
pub(crate) fn head(lines: &[(&'static str, String)]) -> Head {
    let mut headers = HeaderMap::new();
    headers.insert("cache-control", HeaderValue::from_static("max-age=1000000"));
    for (name, value) in lines {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    let times = Times { requested: Timestamp::now(), received: Timestamp::now() };
    storable(&Rules::default(), &HeaderMap::new(), StatusCode::OK, &headers, times).unwrap()
}
