//! What all requests to a cache use.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_cache::collapse::Collapser;
use tidegate_cache::key::Template;
use tidegate_cache::rules::Rules;
use tidegate_cache::{Timestamp, UseCounter};
use tidegate_core::Clock;
use tidegate_core::building::Task;

use super::counters::Counters;
use super::fill::Fill;
use super::history::History;
use super::tiers::Tiers;

/// The stores, options and counters of a cache.
pub(super) struct Shared {
    pub(super) tiers: Tiers,
    pub(super) counters: Arc<Counters>,
    pub(super) history: Arc<History>,
    /// Adds to the history.
    pub(super) _sampling: Task,
    pub(super) collapser: Collapser<Weak<Fill>>,
    pub(super) rules: Rules,
    pub(super) template: Template,
    pub(super) clock: Clock,
    /// Counts uses, and how many a response needs to be stored, if it needs more than one.
    pub(super) uses: Option<(UseCounter, u32)>,
    pub(super) max_wait: Duration,
    pub(super) stale_without_server: bool,
    pub(super) status_header: bool,
    pub(super) x_cache_status: bool,
}

impl Shared {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.wall().into()
    }
}
