//! The request that a thread is working on, for messages of the process log.

use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::{BoxFuture, Exchange};

thread_local! {
    static CURRENT: RefCell<Option<Arc<Exchange>>> = const { RefCell::new(None) };
}

/// Runs a future that handles a request. While it is polled, [`current`] is that request.
pub fn within<T>(exchange: Arc<Exchange>, future: BoxFuture<'_, T>) -> Within<'_, T> {
    Within { exchange: Some(exchange), future }
}

/// Returns what `read` finds in the request that this thread is working on; `None` if it is not known.
pub fn current<T>(read: impl FnOnce(&Exchange) -> T) -> Option<T> {
    CURRENT.try_with(|current| current.try_borrow().ok()?.as_deref().map(read)).ok().flatten()
}

/// A future that handles a request.
pub struct Within<'a, T> {
    /// The request while the future is not polled, and the outer one, if any, while it is.
    exchange: Option<Arc<Exchange>>,
    future: BoxFuture<'a, T>,
}

impl<T> Future for Within<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        swap(&mut this.exchange);
        // A future that panics also gives way to the outer request.
        let _outer = Outer(&mut this.exchange);
        this.future.as_mut().poll(context)
    }
}

struct Outer<'a>(&'a mut Option<Arc<Exchange>>);

impl Drop for Outer<'_> {
    fn drop(&mut self) {
        swap(self.0);
    }
}

fn swap(exchange: &mut Option<Arc<Exchange>>) {
    // Fails only while the thread ends, when nothing reads it any more.
    let _ = CURRENT.try_with(|current| {
        if let Ok(mut current) = current.try_borrow_mut() {
            mem::swap(&mut *current, exchange);
        }
    });
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;
    use crate::Connection;

    fn exchange(id: &str) -> Arc<Exchange> {
        let connection = Arc::new(Connection::plain(([127, 0, 0, 1], 4000).into()));
        let exchange = Exchange::begin(connection, Version::HTTP_11);
        exchange.set_request_id(id);
        Arc::new(exchange)
    }

    fn id() -> Option<String> {
        current(|exchange| exchange.request_id().map(str::to_owned)).flatten()
    }

    #[tokio::test]
    async fn each_future_sees_its_own_request() {
        let inner = || -> BoxFuture<'_, _> {
            Box::pin(async {
                let before = id();
                tokio::task::yield_now().await;
                (before, id())
            })
        };
        let outer = within(
            exchange("a"),
            Box::pin(async {
                let other = within(exchange("b"), inner()).await;
                (other, id())
            }),
        );
        let (one, two) = tokio::join!(outer, within(exchange("c"), inner()));
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(one, ((named("b"), named("b")), named("a")));
        assert_eq!(two, (named("c"), named("c")));
        assert_eq!(id(), None);
    }

    #[test]
    fn a_panic_leaves_no_request_behind() {
        let mut future = within::<()>(exchange("a"), Box::pin(async { panic!("deliberate") }));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let poll = std::panic::AssertUnwindSafe(|| Pin::new(&mut future).poll(&mut context));
        assert!(std::panic::catch_unwind(poll).is_err());
        assert_eq!(id(), None);
    }
}
