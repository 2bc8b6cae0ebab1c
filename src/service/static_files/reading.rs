//! Where files are opened and read: on threads that may block, and on a limited number of them, so that a disk that
//! hangs does not take the threads of other services.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// How long a read waits for others to end.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotRead {
    /// As many reads as may run at once have not ended in time.
    #[error("too many reads of files wait for the disk")]
    Busy,
    /// It has panicked, or the runtime stops.
    #[error(transparent)]
    Failed(#[from] JoinError),
}

/// Reads for one service.
#[derive(Clone)]
pub(super) struct Reader {
    slots: Arc<Semaphore>,
    max_wait: Duration,
}

impl Reader {
    /// Creates one for at most `limit` reads at once.
    pub(super) fn new(limit: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(limit)), max_wait: MAX_WAIT }
    }

    /// Runs something that may block. It keeps its place until it ends, also if nobody waits for it any longer.
    ///
    /// # Errors
    ///
    /// Others have taken all places for too long, or it has panicked.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotRead> {
        let slot = match self.slots.clone().try_acquire_owned() {
            Ok(slot) => slot,
            Err(_) => match tokio::time::timeout(self.max_wait, self.slots.clone().acquire_owned()).await {
                Ok(Ok(slot)) => slot,
                Ok(Err(_)) | Err(_) => return Err(NotRead::Busy),
            },
        };
        let reading = tokio::task::spawn_blocking(move || {
            let done = read();
            drop(slot);
            done
        });
        Ok(reading.await?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn reads_that_hang_take_no_more_places_than_they_may() {
        let reader = Reader { max_wait: Duration::from_millis(10), ..Reader::new(2) };
        let (release, blocked) = mpsc::channel::<()>();
        let (hung, mut started) = tokio::sync::mpsc::unbounded_channel();
        let blocked = Arc::new(parking_lot::Mutex::new(blocked));
        for _ in 0..2 {
            let (reader, blocked, hung) = (reader.clone(), blocked.clone(), hung.clone());
            let task = tokio::spawn(async move {
                let read = reader.run(move || {
                    hung.send(()).unwrap();
                    let _ = blocked.lock().recv();
                });
                read.await.unwrap();
            });
            started.recv().await.unwrap();
            // Its client leaves, and it goes on.
            task.abort();
        }
        assert!(matches!(reader.run(|| 1).await, Err(NotRead::Busy)));
        release.send(()).unwrap();
        let patient = Reader { max_wait: MAX_WAIT, ..reader.clone() };
        assert_eq!(patient.run(|| 1).await.unwrap(), 1);
        assert!(matches!(patient.run(|| panic!("a fault")).await, Err(NotRead::Failed(_))));
        assert_eq!(patient.run(|| 2).await.unwrap(), 2, "its place is free again");
        drop(release);
    }
}
