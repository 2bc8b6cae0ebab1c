//! Where the buckets of policies are: in this process or in a store.

use std::sync::Arc;
use std::time::Duration;

use tidegate_core::store::SharedStore;
use tidegate_core::{BuildContext, BuildError};

use super::super::shared::{FailureMode, Redis};

/// Where buckets are.
pub(crate) enum Backend {
    Local,
    Shared(Arc<SharedBuckets>),
}

/// Buckets in a store.
pub(crate) struct SharedBuckets {
    pub(super) store: Arc<dyn SharedStore>,
    pub(super) deadline: Duration,
    pub(super) on_failure: FailureMode,
}

impl Backend {
    pub(crate) fn new(redis: Option<&Redis>, context: &BuildContext<'_>) -> Result<Self, BuildError> {
        let Some(redis) = redis else { return Ok(Self::Local) };
        let (deadline, on_failure) = redis.behaviour()?;
        let store = context.store(&redis.store_options(context)?)?;
        Ok(Self::Shared(Arc::new(SharedBuckets { store, deadline, on_failure })))
    }
}
