//! What is removed on request, and what must not be stored because of it.

use std::collections::VecDeque;

use crate::key::{Key, Tag};

/// Which responses are removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purge {
    /// All.
    All,
    /// Those of one resource: what [`Template::resource`](crate::key::Template::resource) returns.
    Resource(Vec<u8>),
    /// Those whose resource begins so: the same, without its last byte.
    Prefix(Vec<u8>),
    /// Those with a tag.
    Tag(Tag),
}

impl Purge {
    /// Whether a response with this key and these tags is removed.
    pub fn covers(&self, key: &Key, tags: &[Tag]) -> bool {
        match self {
            Self::All => true,
            Self::Resource(start) | Self::Prefix(start) => key.as_bytes().starts_with(start),
            Self::Tag(tag) => tags.contains(tag),
        }
    }
}

/// The number of purges before a moment: responses whose requests began then must not be stored if a later purge
/// covers them, since they may be from before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(pub(crate) u64);

/// The newest purges.
#[derive(Debug, Default)]
pub(crate) struct PurgeLog {
    purges: VecDeque<Purge>,
    /// The number of purges so far.
    count: u64,
}

impl PurgeLog {
    /// Purges that are remembered. A request that began before the oldest of them is not stored.
    const LIMIT: usize = 1024;

    /// Adds a purge, and returns their number.
    pub(crate) fn push(&mut self, purge: Purge) -> u64 {
        if self.purges.len() == Self::LIMIT {
            self.purges.pop_front();
        }
        self.purges.push_back(purge);
        self.count += 1;
        self.count
    }

    /// Whether a purge since `epoch` covers a response, or may do so.
    pub(crate) fn covers(&self, epoch: Epoch, key: &Key, tags: &[Tag]) -> bool {
        let since = usize::try_from(self.count.saturating_sub(epoch.0)).unwrap_or(usize::MAX);
        since > self.purges.len() || self.purges.iter().rev().take(since).any(|purge| purge.covers(key, tags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_purges_since_the_epoch_count() {
        let key = Key::from_bytes(b"http://a/x\0");
        let mut log = PurgeLog::default();
        log.push(Purge::Prefix(b"http://a/".to_vec()));
        log.push(Purge::Tag(b"t".as_slice().into()));
        assert!(log.covers(Epoch(0), &key, &[]));
        assert!(!log.covers(Epoch(1), &key, &[]));
        assert!(log.covers(Epoch(1), &key, &[b"t".as_slice().into()]));
        assert!(!log.covers(Epoch(2), &key, &[b"t".as_slice().into()]));
        for _ in 0..PurgeLog::LIMIT {
            log.push(Purge::Resource(b"http://b/\0".to_vec()));
        }
        assert!(!log.covers(Epoch(2), &key, &[]));
        assert!(log.covers(Epoch(1), &key, &[]), "forgotten purges may cover it");
    }
}
