//! Tasks of middlewares: they begin when the snapshot serves, and end with the middleware.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tidegate_core::BoxFuture;
use tidegate_core::building::Task;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// A task, wherever it is in its life.
pub(super) struct Slot {
    /// Whose it is, and what it is called: for the log.
    label: String,
    phase: Mutex<Phase>,
}

enum Phase {
    /// The snapshot does not serve yet.
    Waiting(BoxFuture<'static, ()>),
    Running(AbortHandle),
    Ended,
}

/// Ends a task when it is dropped.
struct End(Arc<Slot>);

impl Drop for End {
    fn drop(&mut self) {
        if let Phase::Running(task) = std::mem::replace(&mut *self.0.phase.lock(), Phase::Ended) {
            task.abort();
        }
    }
}

/// A task that has not begun: what its middleware holds, and what begins it.
pub(super) fn prepare(label: String, future: BoxFuture<'static, ()>) -> (Task, Weak<Slot>) {
    let slot = Arc::new(Slot { label, phase: Mutex::new(Phase::Waiting(future)) });
    let weak = Arc::downgrade(&slot);
    (Task::new(End(slot)), weak)
}

/// The tasks of the middlewares that a snapshot uses.
pub(super) struct Tasks {
    control: Handle,
    slots: Vec<Weak<Slot>>,
}

impl Tasks {
    /// They will run on `control`.
    pub(super) fn new(control: Handle, slots: Vec<Weak<Slot>>) -> Self {
        Self { control, slots }
    }

    /// Begins those that have not begun yet and whose middlewares are still there.
    pub(super) fn apply(self) {
        for slot in self.slots.iter().filter_map(Weak::upgrade) {
            let mut phase = slot.phase.lock();
            match std::mem::replace(&mut *phase, Phase::Ended) {
                Phase::Waiting(future) => {
                    let label = slot.label.clone();
                    let watched = async move {
                        // Whatever it has broken is its own.
                        if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                            tracing::error!("the task {label} has ended with a panic");
                        }
                    };
                    *phase = Phase::Running(self.control.spawn(watched).abort_handle());
                }
                other => *phase = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, error::TryRecvError, unbounded_channel};
    use tokio::time::timeout;

    use super::*;

    /// Says that it has begun, and holds the sender until it ends.
    async fn announce(sender: UnboundedSender<&'static str>) {
        sender.send("begun").unwrap();
        std::future::pending().await
    }

    fn announcing() -> (Task, Weak<Slot>, UnboundedReceiver<&'static str>) {
        let (sender, receiver) = unbounded_channel();
        let (task, slot) = prepare("t".into(), Box::pin(announce(sender)));
        (task, slot, receiver)
    }

    fn apply(slots: &[&Weak<Slot>]) {
        Tasks::new(Handle::current(), slots.iter().map(|slot| Weak::clone(slot)).collect()).apply();
    }

    /// What it says next; `None` when it has ended.
    async fn next(receiver: &mut UnboundedReceiver<&'static str>) -> Option<&'static str> {
        timeout(Duration::from_secs(20), receiver.recv()).await.expect("in time")
    }

    #[tokio::test]
    async fn a_task_begins_once_when_it_is_told_and_ends_with_its_holder() {
        let (task, slot, mut said) = announcing();
        tokio::task::yield_now().await;
        assert_eq!(said.try_recv(), Err(TryRecvError::Empty));
        apply(&[&slot, &slot]);
        apply(&[&slot]);
        assert_eq!(next(&mut said).await, Some("begun"));
        assert_eq!(said.try_recv(), Err(TryRecvError::Empty));
        drop(task);
        assert_eq!(next(&mut said).await, None);
    }

    #[tokio::test]
    async fn a_task_whose_holder_is_gone_never_begins() {
        let (task, slot, mut said) = announcing();
        drop(task);
        apply(&[&slot]);
        assert_eq!(next(&mut said).await, None, "it never said anything");
    }

    #[tokio::test]
    async fn a_task_that_panics_harms_no_other() {
        let (_other, slot, mut said) = announcing();
        let (_task, panicking) = prepare("p".into(), Box::pin(async { panic!("as the test wants it") }));
        apply(&[&panicking, &slot]);
        assert_eq!(next(&mut said).await, Some("begun"));
        assert_eq!(said.try_recv(), Err(TryRecvError::Empty));
    }
}
