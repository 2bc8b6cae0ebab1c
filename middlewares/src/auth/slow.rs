//! Checks that take long, such as bcrypt: on other threads, as many at a time as the machine has cores.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use tidegate_core::{Reason, Response, reply};
use tokio::sync::Semaphore;

/// Maximum number of checks waiting for a core; further ones are refused.
const MAX_QUEUED: usize = 1024;

/// Limits concurrent checks to the number of cores.
static CORES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, |cores| cores.get())));

static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// Runs a check. Returns `None` when too many checks are queued.
pub(crate) async fn run<T: Default + Send + 'static>(
    check: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let slot = QueueSlot::acquire()?;
    let permit = CORES.acquire().await.ok()?;
    let check = tokio::task::spawn_blocking(move || {
        // Held by the task, which goes on when the client disconnects.
        let _held = (slot, permit);
        check()
    });
    Some(check.await.unwrap_or_default())
}

/// Returns the response when too many checks are queued.
pub(crate) fn too_busy() -> Response {
    let mut response = reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::AuthenticationUnavailable);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// A slot in the queue for a core.
struct QueueSlot;

impl QueueSlot {
    fn acquire() -> Option<Self> {
        let slot = Self;
        (QUEUED.fetch_add(1, Ordering::Relaxed) < MAX_QUEUED).then_some(slot)
    }
}

impl Drop for QueueSlot {
    fn drop(&mut self) {
        QUEUED.fetch_sub(1, Ordering::Relaxed);
    }
}
