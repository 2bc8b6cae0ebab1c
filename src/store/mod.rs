//! Stores shared by several gateways: Redis, for common limits and shared values.
//!
//! Connections run on the control plane and are shared by all workers: concurrent commands are pipelined. A
//! store lives as long as a middleware that uses it, so it survives reloads.

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

/// The stores in use, one per set of options.
#[derive(Clone)]
pub struct Stores {
    control: Handle,
    known: Arc<Mutex<Vec<Weak<RedisStore>>>>,
}

/// The stores of the configuration being compiled. [`Stores`] does not change.
pub struct Draft {
    stores: Stores,
    new: RefCell<Vec<Arc<RedisStore>>>,
}

/// Registers the new stores of a draft, and removes unused ones.
#[must_use = "without it, the next configuration opens separate connections"]
pub struct Effects(Draft);

impl Stores {
    /// Returns an empty set of stores, whose connections run on `control`.
    pub fn new(control: Handle) -> Self {
        Self { control, known: Arc::default() }
    }

    /// Returns an empty draft.
    pub fn draft(&self) -> Draft {
        Draft { stores: self.clone(), new: RefCell::default() }
    }
}

impl Draft {
    /// Returns the store with these options, without connecting.
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

    /// Returns the effects of the draft.
    pub fn finish(self) -> Effects {
        Effects(self)
    }
}

impl Effects {
    /// Makes the changes. Call this once the middlewares are live.
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
