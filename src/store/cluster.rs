//! Maps keys to nodes of a Redis Cluster, as learned from redirections.

use std::sync::Arc;

use tidegate_clients::OptionError;

use super::node::Node;

const SLOTS: u16 = 16_384;
/// Maximum number of nodes, to bound the memory.
const MAX_NODES: usize = 1_000;

/// The known nodes and slots of a cluster; empty until a server redirects.
#[derive(Default)]
pub(super) struct Map {
    nodes: Vec<Arc<Node>>,
    /// For each slot, the index in `nodes` plus one, or 0 if unknown.
    slots: Vec<u16>,
}

impl Map {
    /// Returns the node of a key, if known.
    pub(super) fn node(&self, key: &str) -> Option<Arc<Node>> {
        let place = self.slots.get(usize::from(slot(key)))?.checked_sub(1)?;
        self.nodes.get(usize::from(place)).cloned()
    }

    /// Returns the node with this address; `make` creates it if needed.
    pub(super) fn get_or_insert(
        &mut self,
        address: &str,
        make: impl FnOnce() -> Result<Arc<Node>, OptionError>,
    ) -> Result<Arc<Node>, OptionError> {
        if let Some(node) = self.nodes.iter().find(|node| node.endpoint() == address) {
            return Ok(node.clone());
        }
        if self.nodes.len() >= MAX_NODES {
            // Addresses change when a cluster moves: start over.
            *self = Self::default();
        }
        let node = make()?;
        self.nodes.push(node.clone());
        Ok(node)
    }

    /// Records the node of a slot.
    pub(super) fn set(&mut self, slot: u16, node: &Arc<Node>) {
        let place = self.nodes.iter().position(|known| Arc::ptr_eq(known, node));
        let Some(place) = place.and_then(|place| u16::try_from(place + 1).ok()) else { return };
        if self.slots.is_empty() {
            self.slots = vec![0; usize::from(SLOTS)];
        }
        if let Some(known) = self.slots.get_mut(usize::from(slot)) {
            *known = place;
        }
    }

    /// Removes the slots of a node: other nodes will redirect.
    pub(super) fn forget(&mut self, node: &Arc<Node>) {
        let Some(place) = self.nodes.iter().position(|known| Arc::ptr_eq(known, node)) else { return };
        for slot in &mut self.slots {
            if usize::from(*slot) == place + 1 {
                *slot = 0;
            }
        }
    }
}

/// Parses a redirection (`MOVED 3999 127.0.0.1:6381` or `ASK …`) into slot and address.
pub(super) fn redirection(error: &str) -> Option<(u16, &str)> {
    let mut words = error.split(' ').skip(1);
    let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
    let address = words.next().filter(|address| !address.is_empty() && !address.starts_with(':'))?;
    Some((slot, address))
}

/// Returns the slot of a key: the CRC16 of the key or of its hash tag.
fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16(hashed.as_bytes()) % SLOTS
}

/// Returns the CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_equal_those_of_redis() {
        // From the specification of Redis Cluster, and CLUSTER KEYSLOT.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("{foo}.bar"), 12182);
        assert_eq!(slot("x{foo}{bar}"), 12182);
        assert_eq!(slot("{}foo"), crc16(b"{}foo") % SLOTS);
    }

    #[test]
    fn redirections_are_parsed() {
        assert_eq!(redirection("MOVED 3999 127.0.0.1:6381"), Some((3999, "127.0.0.1:6381")));
        for odd in ["MOVED", "MOVED x h:1", "MOVED 99999 h:1", "MOVED 1 :6379", "ASK 1"] {
            assert_eq!(redirection(odd), None, "{odd}");
        }
    }
}
