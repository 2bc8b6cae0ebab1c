//! The store in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;

use crate::catalog::{Catalog, Entry, Limits};
use crate::contents::{Listed, StoredObject, most};
use crate::head::Head;
use crate::key::{Key, Variant};
use crate::not_kept::NotKept;
use crate::purge::{Epoch, Purge};

/// Bodies are received in chunks of this many bytes, and a rest.
const CHUNK: usize = 64 * 1024;
/// Bodies are kept in chunks of this many bytes, and a rest: a chunk costs a write to a client at least.
const KEPT_CHUNK: usize = 1 << 20;
/// What an entry costs beside its head, body and key: the index, counters and list nodes.
const OVERHEAD: usize = 256;

/// Limits of a store in memory, in bytes where not said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// All stored responses, with their heads.
    pub total: u64,
    /// One response.
    pub object: u64,
    /// Responses that are being received. Further ones are not stored.
    pub receiving: u64,
    /// The number of variants of a key.
    pub variants: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { total: 64 << 20, object: 1 << 20, receiving: 16 << 20, variants: 16 }
    }
}

/// A stored response.
#[derive(Debug)]
pub struct Object {
    /// Its head.
    pub head: Head,
    body: Vec<Bytes>,
    length: u64,
}

impl Object {
    /// The number of bytes of its body.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its body, in chunks.
    pub fn body(&self) -> &[Bytes] {
        &self.body
    }

    /// The bytes of the body from `first` to `last`, both included, in chunks.
    pub fn part(&self, first: u64, last: u64) -> impl Iterator<Item = Bytes> {
        let mut start = 0u64;
        self.body.iter().filter_map(move |chunk| {
            let (from, end) = (start, start + chunk.len() as u64);
            start = end;
            let (begin, stop) = (first.max(from), last.saturating_add(1).min(end));
            // Both are within the chunk, whose length is a usize.
            (begin < stop).then(|| chunk.slice((begin - from) as usize..(stop - from) as usize))
        })
    }
}

/// A stored response in its store.
#[derive(Clone, Debug)]
pub struct Stored(Arc<Entry<Object>>);

impl Stored {
    /// The response.
    pub fn object(&self) -> &Object {
        &self.0.value
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.0.key
    }
}

/// What is stored for a key.
#[derive(Debug, Default)]
pub struct Found {
    /// The response for the request's fields (RFC 9111 §4.1).
    pub matching: Option<Stored>,
    /// Responses for other fields, which a validation can name (RFC 9111 §4.3.1).
    pub others: Vec<Stored>,
}

/// The store in memory.
pub struct MemoryStore {
    catalog: Catalog<Object>,
    receiving: AtomicU64,
    limits: AtomicLimits,
}

/// Limits that requests read while they may change.
struct AtomicLimits {
    total: AtomicU64,
    object: AtomicU64,
    receiving: AtomicU64,
    variants: AtomicUsize,
}

impl AtomicLimits {
    fn new(limits: MemoryLimits) -> Self {
        let MemoryLimits { total, object, receiving, variants } = limits;
        Self {
            total: total.into(),
            object: object.min(total).into(),
            receiving: receiving.into(),
            variants: variants.into(),
        }
    }

    fn set(&self, limits: MemoryLimits) {
        let MemoryLimits { total, object, receiving, variants } = limits;
        self.total.store(total, Ordering::Relaxed);
        self.object.store(object.min(total), Ordering::Relaxed);
        self.receiving.store(receiving, Ordering::Relaxed);
        self.variants.store(variants, Ordering::Relaxed);
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new(limits: MemoryLimits) -> Arc<Self> {
        let object = limits.object.min(limits.total);
        let catalog = Catalog::new(Limits {
            weight: limits.total,
            entry_weight: object,
            variants: limits.variants.max(1),
        });
        Arc::new(Self { catalog, receiving: AtomicU64::new(0), limits: AtomicLimits::new(limits) })
    }

    /// Changes the limits. What no longer fits is evicted; everything else stays. False if responses of the size that
    /// `limits` allows do not fit until the store is created again, because it was created for smaller ones.
    pub fn resize(&self, limits: MemoryLimits) -> bool {
        let object = limits.object.min(limits.total);
        let variants = limits.variants.max(1);
        self.limits.set(limits);
        self.catalog.resize(Limits { weight: limits.total, entry_weight: object, variants });
        self.catalog.room() >= object
    }

    /// What is stored for a key. Takes a lock for a moment, and counts as a use of the matching response.
    pub fn find(&self, key: &Key, request: &HeaderMap) -> Found {
        let found = self.catalog.find(key, request);
        Found { matching: found.entry.map(Stored), others: found.others.into_iter().map(Stored).collect() }
    }

    /// The moment at which a request begins: to be taken before it is sent to the server.
    pub fn epoch(&self) -> Epoch {
        self.catalog.epoch()
    }

    /// Begins to store a response. Nothing can be found before [`Writer::finish`].
    pub fn write(self: &Arc<Self>, key: Key, head: Head, epoch: Epoch) -> Result<Writer, NotKept> {
        let expected = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let limit = self.limits.object.load(Ordering::Relaxed);
        if expected.is_some_and(|expected| expected > limit) {
            return Err(NotKept::TooLarge(limit));
        }
        let fixed = (head.size() + 2 * key.as_bytes().len() + OVERHEAD) as u64;
        let mut reserved = Reserved { store: self.clone(), bytes: 0 };
        reserved.add(fixed)?;
        Ok(Writer {
            key,
            head: head.compact(),
            epoch,
            chunks: Vec::new(),
            open: BytesMut::new(),
            received: 0,
            expected,
            is_reserved: false,
            is_sealed: false,
            reserved,
        })
    }

    /// Replaces the head of a stored response, after a 304 or a response to HEAD. False if it is not stored any
    /// longer, or was purged since `epoch`.
    pub fn update(&self, stored: &Stored, head: Head, epoch: Epoch) -> bool {
        let (object, head) = (stored.object(), head.compact());
        let weight = (head.size() + 2 * stored.0.key.as_bytes().len() + OVERHEAD) as u64 + object.length;
        let entry = Entry {
            key: stored.0.key.clone(),
            variant: head.variant.clone(),
            tags: head.tags.clone(),
            weight,
            uses: AtomicU64::new(stored.0.uses.load(Ordering::Relaxed)),
            value: Object { head, body: object.body.clone(), length: object.length },
        };
        if entry.variant != stored.0.variant {
            self.catalog.remove(&stored.0);
        }
        self.catalog.insert(entry, epoch).is_some_and(|inserted| inserted.stored)
    }

    /// Removes a stored response, unless it has been replaced.
    pub fn remove(&self, stored: &Stored) -> bool {
        self.catalog.remove(&stored.0)
    }

    /// Removes what a purge covers, and returns its number.
    pub fn purge(&self, purge: &Purge) -> usize {
        self.catalog.purge(purge).len()
    }

    /// The number of stored responses, and their bytes.
    pub fn usage(&self) -> (usize, u64) {
        self.catalog.usage()
    }

    /// Bytes of responses that are being received.
    pub fn receiving(&self) -> u64 {
        self.receiving.load(Ordering::Relaxed)
    }

    /// The limits.
    pub fn limits(&self) -> MemoryLimits {
        let AtomicLimits { total, object, receiving, variants } = &self.limits;
        MemoryLimits {
            total: total.load(Ordering::Relaxed),
            object: object.load(Ordering::Relaxed),
            receiving: receiving.load(Ordering::Relaxed),
            variants: variants.load(Ordering::Relaxed),
        }
    }

    /// Removes the response for a key and variant.
    pub fn remove_variant(&self, key: &Key, variant: &Variant) -> bool {
        self.catalog.remove_variant(key, variant).is_some()
    }

    /// The number of responses that were evicted because others needed their place.
    pub fn evicted(&self) -> u64 {
        self.catalog.evicted()
    }

    /// Some of what is stored. Looks at every response.
    pub fn list(&self, listed: &Listed<'_>) -> Vec<StoredObject> {
        let entries = match listed {
            Listed::Resource(resource) => self.catalog.of_resource(resource),
            Listed::Largest(_) | Listed::Hottest(_) => self.catalog.all(),
        };
        most(entries, listed, |object| object.length, |entry| Some(entry.value.head.policy))
    }
}

/// A response that is being received. Dropping it stores nothing.
pub struct Writer {
    key: Key,
    head: Head,
    epoch: Epoch,
    chunks: Vec<Bytes>,
    open: BytesMut,
    received: u64,
    expected: Option<u64>,
    /// All that is expected is reserved.
    is_reserved: bool,
    /// `chunks` are as they are kept.
    is_sealed: bool,
    reserved: Reserved,
}

/// A share of what may be received at once.
struct Reserved {
    store: Arc<MemoryStore>,
    bytes: u64,
}

impl Reserved {
    fn add(&mut self, bytes: u64) -> Result<(), NotKept> {
        let limits = &self.store.limits;
        let object = limits.object.load(Ordering::Relaxed);
        if self.bytes + bytes > object {
            return Err(NotKept::TooLarge(object));
        }
        let before = self.store.receiving.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > limits.receiving.load(Ordering::Relaxed) {
            self.store.receiving.fetch_sub(bytes, Ordering::Relaxed);
            return Err(NotKept::Busy);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.store.receiving.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Writer {
    /// Adds a piece of the body. It is copied: a piece may keep a much larger buffer alive. After an error, the writer
    /// is of no use.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), NotKept> {
        let received = self.received + piece.len() as u64;
        match self.expected {
            Some(expected) if self.is_reserved && received > expected => {
                return Err(NotKept::Incomplete { expected, received });
            }
            Some(_) if self.is_reserved => {}
            _ => self.reserved.add(piece.len() as u64)?,
        }
        self.received = received;
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(CHUNK - self.open.len()));
            self.open.extend_from_slice(now);
            piece = later;
            if self.open.len() == CHUNK {
                self.chunks.push(self.open.split().freeze());
            }
        }
        Ok(())
    }

    /// The head of the response.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The length of the body, if the head says it, and what is missing of it.
    pub fn expected(&self) -> Option<(u64, u64)> {
        self.expected.map(|expected| (expected, expected.saturating_sub(self.received)))
    }

    /// Whether a purge since the request began covers the response.
    pub fn is_purged(&self) -> bool {
        self.reserved.store.catalog.is_purged(self.epoch, &self.key, &self.head.tags)
    }

    /// Reserves what is still to be received, so that only a body of another length makes [`push`](Self::push) fail.
    /// False if that is not known, or more than may be received at once.
    pub fn reserve(&mut self) -> bool {
        let Some((_, missing)) = self.expected() else { return false };
        self.is_reserved = self.is_reserved || self.reserved.add(missing).is_ok();
        self.is_reserved
    }

    /// What has been received after the first `start` bytes, or the beginning of it. `None` if that is nothing.
    pub fn read(&self, start: u64) -> Option<Bytes> {
        let start = usize::try_from(start).ok()?;
        let (chunk, offset) = (start / CHUNK, start % CHUNK);
        match self.chunks.get(chunk) {
            Some(chunk) => Some(chunk.slice(offset..)),
            // Copied, since the chunk still grows.
            None => self.open.get(offset..).filter(|rest| !rest.is_empty()).map(Bytes::copy_from_slice),
        }
    }

    /// Returns the body as it is kept. To be called when it has ended: nothing can be added or read afterwards.
    pub fn seal(&mut self) -> &[Bytes] {
        if !std::mem::replace(&mut self.is_sealed, true) {
            let mut chunks = std::mem::take(&mut self.chunks);
            let open = std::mem::take(&mut self.open);
            if !open.is_empty() {
                chunks.push(open.freeze());
            }
            self.chunks =
                chunks.chunks(KEPT_CHUNK / CHUNK).map(|chunks| Bytes::from(chunks.concat())).collect();
        }
        &self.chunks
    }

    /// Stores the response. To be called only when the body has ended as it should.
    pub fn finish(self) -> Result<(), NotKept> {
        self.store(false)
    }

    /// The same, unless a response for the key and variant is stored, which is at least as new: for what comes from
    /// another store.
    pub fn finish_unless_stored(self) -> Result<(), NotKept> {
        self.store(true)
    }

    fn store(mut self, unless_stored: bool) -> Result<(), NotKept> {
        if let Some(expected) = self.expected.filter(|expected| *expected != self.received) {
            return Err(NotKept::Incomplete { expected, received: self.received });
        }
        self.seal();
        let Self { key, head, epoch, chunks: body, received, reserved, .. } = self;
        let (variant, tags) = (head.variant.clone(), head.tags.clone());
        let value = Object { head, body, length: received };
        let entry = Entry { key, variant, tags, weight: reserved.bytes, uses: AtomicU64::new(0), value };
        match reserved.store.catalog.insert_unless(entry, epoch, |_| unless_stored) {
            None => Err(NotKept::Purged),
            Some(inserted) if inserted.stored => Ok(()),
            Some(_) => Err(NotKept::NotAdmitted),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};

    use super::*;
    use crate::rules::{Rules, Times, storable};
    use crate::time::Timestamp;

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

    fn key(name: &str) -> Key {
        Key::from_bytes(format!("http://{name}\0").as_bytes())
    }

    fn store(total: u64, object: u64) -> Arc<MemoryStore> {
        MemoryStore::new(MemoryLimits { total, object, receiving: 1 << 20, variants: 4 })
    }

    fn put(store: &Arc<MemoryStore>, name: &str, head: Head, body: &[u8]) -> Result<(), NotKept> {
        let mut writer = store.write(key(name), head, store.epoch())?;
        for piece in body.chunks(1000) {
            writer.push(piece)?;
        }
        writer.finish()
    }

    #[test]
    fn bodies_come_back_whole_and_in_parts() {
        let store = store(4 << 20, 1 << 20);
        let body: Vec<u8> = (0..200_000u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();
        put(&store, "x", head(&[]), &body).unwrap();
        let found = store.find(&key("x"), &HeaderMap::new()).matching.unwrap();
        let object = found.object();
        assert_eq!((object.length(), object.body().concat()), (200_000, body.clone()));
        for (first, last) in [(0, 0), (0, 199_999), (65_535, 65_536), (65_536, 131_071), (199_999, u64::MAX)]
        {
            let part = object.part(first, last).collect::<Vec<_>>().concat();
            let end = usize::try_from(last.min(199_999)).unwrap();
            assert_eq!(part, &body[usize::try_from(first).unwrap()..=end], "{first}-{last}");
        }
        assert_eq!(store.receiving(), 0);
    }

    #[test]
    fn incomplete_and_large_responses_are_not_stored() {
        let store = store(1 << 20, 20_000);
        let length = |text| head(&[("content-length", text)]);
        assert_eq!(
            put(&store, "x", length("5"), b"1234"),
            Err(NotKept::Incomplete { expected: 5, received: 4 })
        );
        assert_eq!(
            put(&store, "x", length("3"), b"1234"),
            Err(NotKept::Incomplete { expected: 3, received: 4 })
        );
        assert_eq!(put(&store, "x", length("20001"), b""), Err(NotKept::TooLarge(20_000)));
        assert_eq!(put(&store, "x", head(&[]), &[0; 20_001]), Err(NotKept::TooLarge(20_000)));
        let mut dropped = store.write(key("x"), head(&[]), store.epoch()).unwrap();
        dropped.push(b"1234").unwrap();
        assert!(store.receiving() > 4);
        drop(dropped);
        assert_eq!((store.usage(), store.receiving()), ((0, 0), 0));
        put(&store, "x", length("4"), b"1234").unwrap();
        assert_eq!(store.usage().0, 1);
    }

    #[test]
    fn what_is_received_at_once_is_bounded() {
        let limits = MemoryLimits { total: 10 << 20, object: 1 << 20, receiving: 100_000, variants: 4 };
        let store = MemoryStore::new(limits);
        let mut writers: Vec<_> =
            (0..4).map(|_| store.write(key("x"), head(&[]), store.epoch()).unwrap()).collect();
        let refused =
            writers.iter_mut().map(|writer| writer.push(&[0; 30_000])).filter(Result::is_err).count();
        assert_eq!(refused, 1);
        drop(writers);
        assert!(put(&store, "x", head(&[]), &[0; 30_000]).is_ok());
    }

    #[test]
    fn what_is_received_can_be_read() {
        let store = store(10 << 20, 1 << 20);
        let body: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        let mut writer = store.write(key("x"), head(&[("content-length", "200000")]), store.epoch()).unwrap();
        assert!(writer.reserve());
        let mut read = Vec::new();
        for piece in body.chunks(30_000) {
            writer.push(piece).unwrap();
            while let Some(more) = writer.read(read.len() as u64) {
                read.extend_from_slice(&more);
            }
        }
        assert_eq!((read == body, writer.expected()), (true, Some((200_000, 0))));
        assert_eq!(writer.seal().concat(), body);
        assert!(!writer.is_purged());
        writer.finish().unwrap();
        let found = store.find(&key("x"), &HeaderMap::new()).matching.unwrap();
        assert_eq!((found.object().body().concat(), store.receiving()), (body, 0));
    }

    #[test]
    fn what_is_reserved_counts_as_received() {
        let limits = MemoryLimits { total: 10 << 20, object: 1 << 20, receiving: 100_000, variants: 4 };
        let store = MemoryStore::new(limits);
        let mut writers: Vec<_> = (0..2)
            .map(|_| store.write(key("x"), head(&[("content-length", "60000")]), store.epoch()).unwrap())
            .collect();
        assert!(writers[0].reserve() && writers[0].reserve());
        let before = store.receiving();
        assert!(!writers[1].reserve());
        assert_eq!(store.receiving(), before, "a refusal reserves nothing");
        writers[0].push(&[0; 60_000]).unwrap();
        assert_eq!(store.receiving(), before);
        assert!(writers[0].push(&[0]).is_err(), "longer than it should be");
        let mut unknown = store.write(key("x"), head(&[]), store.epoch()).unwrap();
        assert!(!unknown.reserve());
        drop((writers, unknown));
        assert_eq!(store.receiving(), 0);
    }

    #[test]
    fn heads_are_updated_in_place() {
        let store = store(1 << 20, 1 << 20);
        put(&store, "x", head(&[("x", "1")]), b"body").unwrap();
        let stored = store.find(&key("x"), &HeaderMap::new()).matching.unwrap();
        assert!(store.update(&stored, head(&[("x", "2")]), store.epoch()));
        let new = store.find(&key("x"), &HeaderMap::new()).matching.unwrap();
        assert_eq!(
            (new.object().head.headers["x"].as_bytes(), &new.object().body()[0][..]),
            (&b"2"[..], &b"body"[..])
        );
        assert!(!store.remove(&stored), "it has been replaced");
        let before = store.epoch();
        assert_eq!(store.purge(&Purge::All), 1);
        assert!(!store.update(&new, head(&[]), before), "purged meanwhile");
        assert_eq!(store.usage(), (0, 0));
    }

    #[test]
    fn limits_change_without_losing_what_fits() {
        let store = store(1 << 20, 300_000);
        for number in 0..8 {
            put(&store, &number.to_string(), head(&[]), &[0; 100_000]).unwrap();
        }
        store.find(&key("7"), &HeaderMap::new());
        assert_eq!((store.usage().0, store.evicted()), (8, 0));
        let hottest = store.list(&Listed::Hottest(1));
        assert_eq!((hottest[0].key.clone(), hottest[0].uses), (key("7"), 1));
        assert!(store.resize(MemoryLimits { total: 8 << 20, ..store.limits() }));
        assert_eq!(store.usage().0, 8);
        assert!(store.resize(MemoryLimits { total: 350_000, ..store.limits() }));
        let (objects, bytes) = store.usage();
        assert!(objects > 0 && bytes <= 350_000, "{objects} {bytes}");
        assert_eq!(store.evicted(), 8 - objects as u64);
        let left = (0..8)
            .filter(|number| store.find(&key(&number.to_string()), &HeaderMap::new()).matching.is_some());
        assert_eq!(left.count(), objects);
        assert_eq!(store.purge(&Purge::All), objects, "the index has no others");
    }

    #[test]
    fn what_comes_from_elsewhere_replaces_nothing() {
        let store = store(1 << 20, 300_000);
        put(&store, "x", head(&[]), b"new").unwrap();
        let mut old = store.write(key("x"), head(&[]), store.epoch()).unwrap();
        old.push(b"old").unwrap();
        assert!(old.finish_unless_stored().is_err());
        let found = store.find(&key("x"), &HeaderMap::new()).matching.unwrap();
        assert_eq!(found.object().body()[0], b"new"[..]);
        assert!(store.remove_variant(&key("x"), &head(&[]).variant));
        assert_eq!(store.usage(), (0, 0));
    }
}
