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

use std::cell::RefCell;
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

/// The stores of a configuration that is being compiled. [`Stores`] stays as it is.
pub struct Draft {
    stores: Stores,
    new: RefCell<Vec<Arc<RedisStore>>>,
}

/// Enters the new stores of a draft, and forgets those that nobody uses any more.
#[must_use = "the next configuration opens connections of its own"]
pub struct Effects(Draft);

impl Stores {
    /// No stores yet. Their connections will live on `control`.
    pub fn new(control: Handle) -> Self {
        Self { control, known: Arc::default() }
    }

    /// Begins a draft without stores.
    pub fn draft(&self) -> Draft {
        Draft { stores: self.clone(), new: RefCell::default() }
    }
}

impl Draft {
    /// Returns the store with these options. Nothing is connected yet.
    pub fn get(&self, options: &StoreOptions) -> Result<Arc<dyn SharedStore>, BuildError> {
        let known =
            self.stores.known.lock().iter().filter_map(Weak::upgrade).find(|store| store.has(options));
        let mut new = self.new.borrow_mut();
        if let Some(store) = known.or_else(|| new.iter().find(|store| store.has(options)).cloned()) {
            return Ok(store);
        }
        let store = RedisStore::new(options, self.stores.control.clone())
            .map_err(|error| BuildError::new(format!("redis: {error}")))?;
        let store = Arc::new(store);
        new.push(store.clone());
        Ok(store)
    }

    /// Ends the draft.
    pub fn finish(self) -> Effects {
        Effects(self)
    }
}

impl Effects {
    /// Makes the changes. To be called when the middlewares serve.
    pub fn apply(self) {
        let Draft { stores, new } = self.0;
        let new = new.into_inner();
        let mut known = stores.known.lock();
        known.extend(new.iter().map(Arc::downgrade));
        drop(new);
        known.retain(|store| store.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests;
