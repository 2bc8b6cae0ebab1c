//! Stores that several gateways share: Redis, in which limits are counted for all of them together, and values are kept
//! for each other.
//!
//! Connections live on the control plane and are shared by all workers: what many requests ask at the same time is
//! sent together. A store lives as long as a middleware that uses it, so it survives reloads.

mod cluster;
mod command;
mod error;
mod node;
mod pipeline;
mod redis;

use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tidegate_core::BuildError;
use tidegate_core::store::{SharedStore, StoreOptions};
use tokio::runtime::Handle;

use redis::RedisStore;

/// The stores that are in use, one for all that have the same options.
#[derive(Clone)]
pub struct Stores {
    control: Handle,
    known: Arc<Mutex<Vec<Weak<RedisStore>>>>,
}

impl Stores {
    /// No stores yet. Their connections will live on `control`.
    pub fn new(control: Handle) -> Self {
        Self { control, known: Arc::default() }
    }

    /// The store with these options. Nothing is connected yet.
    pub fn get(&self, options: &StoreOptions) -> Result<Arc<dyn SharedStore>, BuildError> {
        let mut known = self.known.lock();
        known.retain(|store| store.strong_count() > 0);
        if let Some(store) = known.iter().filter_map(Weak::upgrade).find(|store| store.has(options)) {
            return Ok(store);
        }
        let store = RedisStore::new(options, self.control.clone())
            .map_err(|error| BuildError::new(format!("redis: {error}")))?;
        let store = Arc::new(store);
        known.push(Arc::downgrade(&store));
        Ok(store)
    }
}

#[cfg(test)]
mod tests;
