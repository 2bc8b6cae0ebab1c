//! Which node of a Redis Cluster holds a key, as far as redirections have told.

use std::sync::Arc;

use tidegate_clients::OptionError;

use super::node::Node;

const SLOTS: u16 = 16_384;
/// Most nodes, so that odd answers do not fill the memory.
const MOST_NODES: usize = 1_000;

/// What is known of a cluster: nothing, until a server redirects for the first time.
#[derive(Default)]
pub(super) struct Map {
    nodes: Vec<Arc<Node>>,
    /// For each slot the place in `nodes`, plus one.
    slots: Vec<u16>,
}

impl Map {
    /// The node of a key, when it is known.
    pub(super) fn node(&self, key: &str) -> Option<Arc<Node>> {
        let place = self.slots.get(usize::from(slot(key)))?.checked_sub(1)?;
        self.nodes.get(usize::from(place)).cloned()
    }

    /// The node with this address; `make` makes it when there is none yet.
    pub(super) fn at(
        &mut self,
        address: &str,
        make: impl FnOnce() -> Result<Arc<Node>, OptionError>,
    ) -> Result<Arc<Node>, OptionError> {
        if let Some(node) = self.nodes.iter().find(|node| node.endpoint() == address) {
            return Ok(node.clone());
        }
        if self.nodes.len() >= MOST_NODES {
            // Addresses change when a cluster moves: begin anew.
            *self = Self::default();
        }
        let node = make()?;
        self.nodes.push(node.clone());
        Ok(node)
    }

    /// Remembers where a slot is.
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

    /// Forgets that this node holds anything: others will tell who does.
    pub(super) fn forget(&mut self, node: &Arc<Node>) {
        let Some(place) = self.nodes.iter().position(|known| Arc::ptr_eq(known, node)) else { return };
        for slot in &mut self.slots {
            if usize::from(*slot) == place + 1 {
                *slot = 0;
            }
        }
    }
}

/// A redirection: `MOVED 3999 127.0.0.1:6381` or `ASK …`. Gives the slot and the address.
pub(super) fn redirection(error: &str) -> Option<(u16, &str)> {
    let mut words = error.split(' ').skip(1);
    let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
    let address = words.next().filter(|address| !address.is_empty() && !address.starts_with(':'))?;
    Some((slot, address))
}

/// The slot of a key: CRC16 of the key, or of what stands in its first braces.
fn slot(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    crc16(hashed.as_bytes()) % SLOTS
}

/// CRC-16/XMODEM.
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
    fn slots_are_those_of_redis() {
        // From the specification of Redis Cluster, and CLUSTER KEYSLOT.
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot("foo"), 12182);
        assert_eq!(slot("{foo}.bar"), 12182);
        assert_eq!(slot("x{foo}{bar}"), 12182);
        assert_eq!(slot("{}foo"), crc16(b"{}foo") % SLOTS);
    }

    #[test]
    fn redirections() {
        assert_eq!(redirection("MOVED 3999 127.0.0.1:6381"), Some((3999, "127.0.0.1:6381")));
        for odd in ["MOVED", "MOVED x h:1", "MOVED 99999 h:1", "MOVED 1 :6379", "ASK 1"] {
            assert_eq!(redirection(odd), None, "{odd}");
        }
    }
}
