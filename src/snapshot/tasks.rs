//! Tasks of middlewares: started when the snapshot is live, aborted when the middleware is dropped.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tidegate_core::BoxFuture;
use tidegate_core::building::Task;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// A task and its phase.
pub(super) struct Slot {
    /// Middleware and task name, for the log.
    label: String,
    phase: Mutex<Phase>,
}

enum Phase {
    /// The snapshot is not live yet.
    Waiting(BoxFuture<'static, ()>),
    Running(AbortHandle),
    Ended,
}

/// Aborts a task when dropped.
struct AbortOnDrop(Arc<Slot>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Phase::Running(task) = std::mem::replace(&mut *self.0.phase.lock(), Phase::Ended) {
            task.abort();
        }
    }
}

/// Returns a task that has not started: the handle for its middleware, and the slot that starts it.
pub(super) fn prepare(label: String, future: BoxFuture<'static, ()>) -> (Task, Weak<Slot>) {
    let slot = Arc::new(Slot { label, phase: Mutex::new(Phase::Waiting(future)) });
    let weak = Arc::downgrade(&slot);
    (Task::new(AbortOnDrop(slot)), weak)
}

/// The tasks of the middlewares that a snapshot uses.
pub(super) struct Tasks {
    control: Handle,
    slots: Vec<Weak<Slot>>,
}

impl Tasks {
    /// Returns tasks to run on `control`.
    pub(super) fn new(control: Handle, slots: Vec<Weak<Slot>>) -> Self {
        Self { control, slots }
    }

    /// Starts the tasks that have not started yet and whose middlewares still exist.
    pub(super) fn apply(self) {
        for slot in self.slots.iter().filter_map(Weak::upgrade) {
            let mut phase = slot.phase.lock();
            match std::mem::replace(&mut *phase, Phase::Ended) {
                Phase::Waiting(future) => {
                    let label = slot.label.clone();
                    let watched = async move {
                        // Unwind safe: nothing else uses the future after a panic.
                        if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                            tracing::error!("task {label} panicked");
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

    /// Reports that it has started, and holds the sender until it ends.
    async fn report_start(sender: UnboundedSender<&'static str>) {
        sender.send("started").unwrap();
        std::future::pending().await
    }

    fn reporting_task() -> (Task, Weak<Slot>, UnboundedReceiver<&'static str>) {
        let (sender, receiver) = unbounded_channel();
        let (task, slot) = prepare("t".into(), Box::pin(report_start(sender)));
        (task, slot, receiver)
    }

    fn apply(slots: &[&Weak<Slot>]) {
        Tasks::new(Handle::current(), slots.iter().map(|slot| Weak::clone(slot)).collect()).apply();
    }

    /// Returns the next message of the task; `None` if it has ended.
    async fn next(receiver: &mut UnboundedReceiver<&'static str>) -> Option<&'static str> {
        timeout(Duration::from_secs(20), receiver.recv()).await.expect("in time")
    }

    #[tokio::test]
    async fn a_task_starts_once_and_ends_with_its_middleware() {
        let (task, slot, mut messages) = reporting_task();
        tokio::task::yield_now().await;
        assert_eq!(messages.try_recv(), Err(TryRecvError::Empty));
        apply(&[&slot, &slot]);
        apply(&[&slot]);
        assert_eq!(next(&mut messages).await, Some("started"));
        assert_eq!(messages.try_recv(), Err(TryRecvError::Empty));
        drop(task);
        assert_eq!(next(&mut messages).await, None);
    }

    #[tokio::test]
    async fn a_task_whose_middleware_is_dropped_never_starts() {
        let (task, slot, mut messages) = reporting_task();
        drop(task);
        apply(&[&slot]);
        assert_eq!(next(&mut messages).await, None, "it never messages anything");
    }

    #[tokio::test]
    async fn a_panicking_task_does_not_affect_others() {
        let (_other, slot, mut messages) = reporting_task();
        let (_task, panicking) = prepare("p".into(), Box::pin(async { panic!("panic in test") }));
        apply(&[&panicking, &slot]);
        assert_eq!(next(&mut messages).await, Some("started"));
        assert_eq!(messages.try_recv(), Err(TryRecvError::Empty));
    }
}
