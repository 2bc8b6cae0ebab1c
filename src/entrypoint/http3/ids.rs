//! Connection IDs that say which worker owns the connection.

use std::hash::{BuildHasher, RandomState};

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;

/// Length of connection IDs in bytes: a random part, the masked index of the worker, and a check byte.
const LENGTH: usize = 8;
const RANDOM: usize = 5;

/// Long header (RFC 9000 section 17.2): its bit in the first byte, where its type is, and where the length of the
/// destination ID is.
const LONG_HEADER: u8 = 0x80;
const TYPE: u8 = 0x30;
const HANDSHAKE: u8 = 0x20;
const LONG_ID_LENGTH: usize = 5;

/// Encodes workers into connection IDs of one entry point.
///
/// The worker is masked with a keyed hash of the random part, so that others cannot tell which IDs belong together (RFC
/// 9000 section 5.1).
#[derive(Clone, Debug)]
pub(super) struct Ids {
    key: RandomState,
    workers: usize,
}

/// Who handles a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The worker with this index, which has issued the connection ID.
    Worker(usize),
    /// Whoever receives it: it may begin a connection.
    New,
    /// Unknown: the connection ID is not one of ours.
    Unknown,
}

impl Ids {
    /// Creates a key for this number of workers.
    pub(super) fn new(workers: usize) -> Self {
        Self { key: RandomState::new(), workers }
    }

    /// Returns the number of workers.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// Returns who handles a datagram, by the connection ID of its first packet.
    pub(super) fn owner(&self, datagram: &[u8]) -> Owner {
        let Some(&first) = datagram.first() else { return Owner::Unknown };
        if first & LONG_HEADER == 0 {
            let id = datagram.get(1..1 + LENGTH);
            return id.and_then(|id| self.worker(id)).map_or(Owner::Unknown, Owner::Worker);
        }
        let id = match datagram.get(LONG_ID_LENGTH) {
            Some(&length) if usize::from(length) == LENGTH => datagram[LONG_ID_LENGTH + 1..].get(..LENGTH),
            _ => None,
        };
        match id.and_then(|id| self.worker(id)) {
            Some(worker) => Owner::Worker(worker),
            // Clients choose the first ID.
            None if first & TYPE < HANDSHAKE => Owner::New,
            None => Owner::Unknown,
        }
    }

    /// Returns the worker that has issued an ID.
    fn worker(&self, id: &[u8]) -> Option<usize> {
        let (random, rest) = id.split_at_checked(RANDOM)?;
        let mask = self.mask(random);
        let &[high, low, check] = rest else { return None };
        let worker = usize::from(u16::from_be_bytes([high ^ mask[0], low ^ mask[1]]));
        (check == mask[2] && worker < self.workers).then_some(worker)
    }

    fn mask(&self, random: &[u8]) -> [u8; 8] {
        self.key.hash_one(random).to_ne_bytes()
    }
}

/// Generates connection IDs for one worker.
pub(super) struct Generator {
    pub(super) ids: Ids,
    /// Index of the worker.
    pub(super) worker: usize,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; LENGTH];
        let _ = aws_lc_rs::rand::fill(&mut id[..RANDOM]);
        let mask = self.ids.mask(&id[..RANDOM]);
        let [.., high, low] = self.worker.to_be_bytes();
        id[RANDOM..].copy_from_slice(&[high ^ mask[0], low ^ mask[1], mask[2]]);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.ids.worker(id) == Some(self.worker) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_belong_to_the_worker_in_their_connection_id() {
        let ids = Ids::new(300);
        for worker in [0, 1, 255, 256, 299] {
            let mut generator = Generator { ids: ids.clone(), worker };
            let id = generator.generate_cid();
            assert!(generator.validate(&id).is_ok());
            assert!(Generator { ids: ids.clone(), worker: 2 }.validate(&id).is_err());
            let short = [&[0x43][..], &id, b"rest"].concat();
            assert_eq!(ids.owner(&short), Owner::Worker(worker));
            for kind in [0xc0, 0xd0, 0xe0] {
                let long = [&[kind, 0, 0, 0, 1, LENGTH as u8][..], &id, b"\0rest"].concat();
                assert_eq!(ids.owner(&long), Owner::Worker(worker), "{kind:x}");
            }
            let mut other = id.to_vec();
            other[LENGTH - 1] ^= 1;
            assert_eq!(ids.owner(&[&[0x43][..], &other].concat()), Owner::Unknown);
        }
    }

    #[test]
    fn first_datagrams_belong_to_whoever_receives_them() {
        let ids = Ids::new(2);
        for length in [0, 7, 20] {
            let id = vec![0x5a; length];
            let initial = [&[0xc3, 0, 0, 0, 1, length as u8][..], &id].concat();
            assert_eq!(ids.owner(&initial), Owner::New);
            let handshake = [&[0xe3, 0, 0, 0, 1, length as u8][..], &id].concat();
            assert_eq!(ids.owner(&handshake), Owner::Unknown);
        }
        for truncated in [&b""[..], b"\x40", b"\x40\x01\x02", b"\xe0\0\0\0\x01", b"\xe0\0\0\0\x01\x08abc"] {
            assert_eq!(ids.owner(truncated), Owner::Unknown, "{truncated:?}");
        }
    }
}
