//! A service that responds, and mirrors that receive copies of its requests.

use std::sync::Arc;
use std::time::Duration;

use http::request;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_config::service::Mirroring;
use tidegate_core::{BoxFuture, BuildError, Collected, Handler, Request, Response};
use tokio::sync::Semaphore;

use super::Service;
use super::preview::{Choice, Preview};
use crate::observability::metrics::count_aside;

/// Default limit for bodies that are copied, in bytes.
const MAX_BODY: u64 = 64 * 1024 * 1024;
/// Maximum number of requests with copies in flight; further requests are not copied.
const MAX_REQUESTS: usize = 1024;
/// Timeout for one copy.
const COPY_TIMEOUT: Duration = Duration::from_secs(60);

/// A service with mirrors.
pub(super) struct MirrorService {
    main: Arc<dyn Service>,
    mirrors: Vec<Arc<dyn Service>>,
    counts: Mutex<Counts>,
    copy_body: bool,
    max_body: u64,
    running: Arc<Semaphore>,
}

/// Number of requests, and of copies by mirror: shares are exact, not random.
struct Counts {
    total: u64,
    copies: Vec<(u64, u64)>,
}

impl MirrorService {
    pub(super) fn build(
        options: &Mirroring,
        main: Arc<dyn Service>,
        mirrors: Vec<(u8, Arc<dyn Service>)>,
    ) -> Result<Self, BuildError> {
        if mirrors.iter().any(|(percent, _)| *percent > 100) {
            return Err(BuildError::new("percent must be between 0 and 100"));
        }
        let copies = mirrors.iter().map(|(percent, _)| (u64::from(*percent), 0)).collect();
        Ok(Self {
            main,
            mirrors: mirrors.into_iter().map(|(_, service)| service).collect(),
            counts: Mutex::new(Counts { total: 0, copies }),
            copy_body: options.mirror_body,
            max_body: u64::try_from(options.max_body_size).unwrap_or(MAX_BODY),
            running: Arc::new(Semaphore::new(MAX_REQUESTS)),
        })
    }

    /// Returns the mirrors that receive a copy of the next request.
    fn due(&self) -> SmallVec<[usize; 4]> {
        let mut counts = self.counts.lock();
        counts.total += 1;
        let total = counts.total;
        let mut due = SmallVec::new();
        for (index, (percent, done)) in counts.copies.iter_mut().enumerate() {
            if *done * 100 < total * *percent {
                *done += 1;
                due.push(index);
            }
        }
        due
    }

    async fn call_and_mirror(&self, due: SmallVec<[usize; 4]>, request: Request) -> Response {
        let Ok(permit) = self.running.clone().try_acquire_owned() else {
            return self.main.call(request).await;
        };
        let Request { head, body, context } = request;
        let (body, copied) = if self.copy_body {
            match body.collect(self.max_body).await {
                Ok(collected) => (collected.clone().into(), collected),
                Err(error) => {
                    return self.main.call(Request::new(head, error.into_body(), context)).await;
                }
            }
        } else {
            (body, Collected::default())
        };
        let copy = copy_head(&head, self.copy_body);
        let copy_context = context.aside();
        // If the client goes away, this future is dropped and nothing is copied.
        let response = self.main.call(Request::new(head, body, context)).await;
        let mirrors: Vec<_> = due.iter().map(|index| self.mirrors[*index].clone()).collect();
        let length = copied.bytes.len();
        tokio::spawn(async move {
            for mirror in mirrors {
                let request = Request::new(copy.clone(), copied.clone().into(), copy_context.aside());
                // A copy that takes too long is not counted.
                let _ = tokio::time::timeout(COPY_TIMEOUT, send_copy(&*mirror, request, length)).await;
            }
            drop(permit);
        });
        response
    }
}

/// Sends a copy to a mirror and discards the response, so that the connection can be reused.
async fn send_copy(mirror: &dyn Service, request: Request, length: usize) {
    let exchange = request.context.exchange.clone();
    exchange.add_received(length);
    let response = mirror.call(request).await;
    exchange.answer(response.status().as_u16(), response.reason);
    let headers = response.headers().clone();
    let mut body = response.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        exchange.add_sent(frame.data_ref().map_or(0, |data| data.len()));
    }
    count_aside(&exchange, &headers);
}

fn copy_head(head: &request::Parts, with_body: bool) -> request::Parts {
    let mut copy = head.clone();
    // Only one service can upgrade the connection.
    copy.headers.remove(http::header::UPGRADE);
    if !with_body {
        copy.headers.remove(http::header::CONTENT_LENGTH);
    }
    copy
}

impl Handler for MirrorService {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        let due = self.due();
        if due.is_empty() { self.main.call(request) } else { Box::pin(self.call_and_mirror(due, request)) }
    }
}

impl Service for MirrorService {
    fn is_up(&self) -> bool {
        self.main.is_up()
    }

    fn preview(&self, _: &Request) -> Preview {
        let all = std::iter::once(&self.main).chain(&self.mirrors).cloned();
        Preview::Services(all.collect(), Choice::Next(0))
    }
}
