//! Requests that wait because their service has no usable server (`loadBalancer.hold`).
//!
//! A queue belongs to the name of a service and outlives it: the next configuration may bring the server, in a service
//! of the same name. Whoever waits looks again when that happens, and from time to time, as servers also recover.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use http::header::RETRY_AFTER;
use parking_lot::Mutex;
use tidegate_config::hold::Hold as Options;
use tidegate_core::{BuildError, Request, Response, UpstreamError, reply};
use tokio::sync::Notify;

use super::Service;

/// First pause between two attempts, and the longest. A server that has recovered is found after the pause.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(250);
/// Longest time for which requests may wait.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Most requests that may wait for a service.
const MAX_QUEUE: usize = 100_000;

/// The requests of one service that wait.
#[derive(Default)]
pub(super) struct Queue {
    waiting: AtomicUsize,
    changed: Notify,
    /// The service of this name in the current configuration.
    current: Mutex<Option<Weak<dyn Service>>>,
}

/// A request's place in a queue.
struct Place<'a>(&'a Queue);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Queue {
    /// Makes a service the current one. Those who wait try it.
    pub(super) fn replace(&self, service: Weak<dyn Service>) {
        *self.current.lock() = Some(service);
        self.changed.notify_waiters();
    }

    /// Returns the number of requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn enter(&self, limit: usize) -> Option<Place<'_>> {
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Place(self);
        (waiting < limit).then_some(place)
    }

    fn current(&self) -> Option<Arc<dyn Service>> {
        self.current.lock().as_ref()?.upgrade()
    }
}

/// How requests of a service wait.
pub(super) struct Hold {
    pub(super) queue: Arc<Queue>,
    pub(super) options: Options,
}

impl Hold {
    /// Checks the options.
    pub(super) fn check(options: &Options) -> Result<(), BuildError> {
        let Options { max_wait, max_queue, .. } = options;
        if max_wait.is_zero() || max_wait.0 > MAX_WAIT {
            return Err(BuildError::new(format!("hold.maxWait: {max_wait}: expected up to 10m")));
        }
        if *max_queue == 0 || *max_queue > MAX_QUEUE {
            return Err(BuildError::new(format!("hold.maxQueue: {max_queue}: expected 1 to {MAX_QUEUE}")));
        }
        Ok(())
    }

    /// Waits until a server takes the request, and returns its response. After `maxWait`, or if too many wait already,
    /// no server is available, whatever has kept the last attempt from one. Requests with another response do
    /// not wait ([`Context::has_substitute`](tidegate_core::Context::has_substitute)).
    pub(super) async fn wait(&self, mut request: Request) -> Response {
        if request.context.has_substitute {
            return self.in_vain();
        }
        let Some(place) = self.queue.enter(self.options.max_queue) else {
            return self.in_vain();
        };
        let end = Instant::now() + self.options.max_wait.0;
        let mut pause = FIRST_PAUSE;
        loop {
            let changed = self.queue.changed.notified();
            let now = Instant::now();
            if now >= end {
                return self.in_vain();
            }
            // If it was replaced before this waits, that is seen after the pause.
            let _ = tokio::time::timeout(pause.min(end - now), changed).await;
            pause = (pause * 2).min(MAX_PAUSE);
            let Some(service) = self.queue.current().filter(|service| service.is_up()) else { continue };
            let mut unsent = None;
            let response = service.try_call(request, &mut unsent).await;
            match unsent {
                None => {
                    drop(place);
                    return response;
                }
                Some(again) => request = again,
            }
        }
    }

    fn in_vain(&self) -> Response {
        let mut failed = reply::upstream_failure(UpstreamError::NoServer);
        let seconds = self.options.retry_after.0.as_secs();
        if seconds > 0 {
            failed.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        failed
    }
}
