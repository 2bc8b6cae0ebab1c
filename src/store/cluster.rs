//! Maps keys to nodes of a Redis Cluster, as learned from redirections.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tidegate_clients::OptionError;
use tidegate_clients::redis::Slot;

use super::node::Node;

/// Maximum number of nodes, to bound the memory.
const MAX_NODES: usize = 1_000;

/// The known nodes and slots of a cluster; empty until a server redirects.
#[derive(Default)]
pub(super) struct Map {
    nodes: Vec<Arc<Node>>,
    slots: HashMap<Slot, Arc<Node>, RandomState>,
}

impl Map {
    /// Returns the node of a key, if known.
    pub(super) fn node(&self, key: &str) -> Option<Arc<Node>> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots.get(&Slot::for_key(key)).cloned()
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
    pub(super) fn set(&mut self, slot: Slot, node: &Arc<Node>) {
        self.slots.insert(slot, node.clone());
    }

    /// Removes the slots of a node: other nodes will redirect.
    pub(super) fn forget(&mut self, node: &Arc<Node>) {
        self.slots.retain(|_, known| !Arc::ptr_eq(known, node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_equal_those_of_redis() {
        // From the specification of Redis Cluster, and CLUSTER KEYSLOT.
        assert_eq!(Some(Slot::for_key("123456789")), Slot::new(0x31C3));
        assert_eq!(Some(Slot::for_key("foo")), Slot::new(12182));
        assert_eq!(Some(Slot::for_key("{foo}.bar")), Slot::new(12182));
        assert_eq!(Some(Slot::for_key("x{foo}{bar}")), Slot::new(12182));
        assert_ne!(Slot::for_key("{}foo"), Slot::for_key("foo"));
    }
}
