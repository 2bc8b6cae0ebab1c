//! Changes outside the snapshot that take effect once it is live.

use super::consumers::Publication;
use super::files;
use super::tasks::Tasks;
use crate::{service, store, tcp};

/// Changes to make once a snapshot is live: servers, balancers and stores are registered; the files it names
/// are watched, and no others; its directory of consumers becomes the current one; health checks are started, replaced and stopped; tasks of middlewares are
/// started.
///
/// If dropped, nothing changes.
#[must_use = "without its effects, a snapshot has no health checks and shares no state with the next one"]
pub struct Effects {
    pub(super) http: service::Effects,
    pub(super) tcp: tcp::Effects,
    pub(super) files: files::Effects,
    pub(super) stores: store::Effects,
    pub(super) consumers: Publication,
    pub(super) tasks: Tasks,
}

impl Effects {
    /// Makes the changes. Call this after swapping the snapshot in.
    pub fn apply(self) {
        self.http.apply();
        self.tcp.apply();
        self.files.apply();
        self.stores.apply();
        self.consumers.apply();
        self.tasks.apply();
    }
}
