//! What a new snapshot changes outside itself.

use super::files;
use super::tasks::Tasks;
use crate::{service, store, tcp};

/// What has to be done once a snapshot serves: servers, balances and stores are entered in their registries; the files
/// that it names are watched, and no others; health checks are started, replaced and stopped; tasks of middlewares
/// begin.
///
/// Dropping it changes nothing, and leaves everything that serves now as it is.
#[must_use = "without its effects, a snapshot has no health checks and shares no state with the next one"]
pub struct Effects {
    pub(super) http: service::Effects,
    pub(super) tcp: tcp::Effects,
    pub(super) files: files::Effects,
    pub(super) stores: store::Effects,
    pub(super) tasks: Tasks,
}

impl Effects {
    /// Makes the changes. To be called after the snapshot was swapped in.
    pub fn apply(self) {
        self.http.apply();
        self.tcp.apply();
        self.files.apply();
        self.stores.apply();
        self.tasks.apply();
    }
}
