//! How a store on disk is opened: by a task, once the configuration takes effect.

use std::sync::Arc;
use std::time::Duration;

use tidegate_cache::disk::DiskLimits;

use super::announced::Following;
use super::disk::DiskSlot;

/// How long to wait before the next attempt to open a folder.
const RETRY: Duration = Duration::from_secs(2);
/// When it becomes a problem that the cluster is not reached.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens the store of a slot, and tries again until it succeeds; or changes the limits if it is open. Requests are
/// served without it meanwhile. In a cluster, it is used once the purges that it may have missed are known.
pub(super) async fn open(slot: Arc<DiskSlot>, following: Arc<Following>, limits: DiskLimits) {
    // The task of the previous configuration may still be at it.
    let mut mark = slot.marks.lock().await;
    let store = loop {
        if let Some(store) = slot.store().cloned() {
            let _ = tokio::task::spawn_blocking(move || store.resize(limits)).await;
            return;
        }
        let (blocking, name) = (slot.clone(), following.name.clone());
        let opened = tokio::task::spawn_blocking(move || blocking.open(&name, limits)).await;
        let opened = match opened {
            Ok(opened) => opened.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let problem = opened.as_ref().err().cloned();
        let is_new = slot.set_problem(problem.as_ref());
        if let Some(problem) = problem.filter(|_| is_new) {
            tracing::error!(
                middleware = following.name,
                "cache: {problem}; responses are kept in memory only"
            );
        }
        match opened {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    };
    tell_if_waiting(&slot, &following).await;
    following.catch_up_before_use(&store, &slot.marks, &mut mark).await;
    let blocking = slot.clone();
    let _ = tokio::task::spawn_blocking(move || blocking.publish(store)).await;
    drop(mark);
    slot.set_problem(None);
    // What was announced meanwhile.
    if let Some(list) = following.purges.current() {
        following.catch_up(&list, Some(&slot)).await;
    }
}

/// Reports that the disk is not used until the cluster is reached, if that takes long.
async fn tell_if_waiting(slot: &DiskSlot, following: &Following) {
    if !following.purges.is_clustered()
        || tokio::time::timeout(PATIENCE, following.purges.next(None)).await.is_ok()
    {
        return;
    }
    let problem = format!("{} is not used until the cluster is reached", slot.path().display());
    tracing::warn!(middleware = following.name, "cache: {problem}, as purges may have been missed");
    slot.set_problem(Some(&problem));
}
