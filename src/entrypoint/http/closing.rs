//! The end of an exchange: counts the bytes sent to the client, and lets the observers of the request read it.

use std::sync::Arc;

use http::HeaderMap;
use tidegate_core::{BodyErrorKind, End, Exchange, Guard, Reason, Response};

use crate::observability::Observers;

/// The status of a request whose client disconnected, or was disconnected, before there was a response.
const CLIENT_CLOSED: u16 = 499;

/// An open exchange. It ends with the body of its response, or when it is dropped because the client disconnected.
pub(in crate::entrypoint) struct Closing {
    exchange: Arc<Exchange>,
    observers: Observers,
    is_over: bool,
}

impl Closing {
    /// Creates the end of an exchange with its observers.
    pub(in crate::entrypoint) fn observed(exchange: Arc<Exchange>, observers: Observers) -> Self {
        Self { exchange, observers, is_over: false }
    }

    /// Returns the exchange.
    pub(in crate::entrypoint) fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Records the head of the response to the client.
    pub(in crate::entrypoint) fn record_response(&mut self, response: &Response) {
        self.exchange.answer(response.status().as_u16(), response.reason);
        self.observers.record_response(response.headers());
    }

    /// Records trailers of the response.
    pub(in crate::entrypoint) fn record_fields(&mut self, fields: &HeaderMap) {
        self.observers.record_fields(fields);
    }

    /// Counts bytes of the response's body.
    pub(in crate::entrypoint) fn add_sent(&self, bytes: usize) {
        self.exchange.add_sent(bytes);
    }

    /// Ends the exchange the way its response body ended. Further calls do nothing.
    pub(in crate::entrypoint) fn finish(&mut self, end: End) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        if self.exchange.status() == 0 {
            let is_late = matches!(end, End::Failed(BodyErrorKind::TimedOut));
            let reason = if is_late { Reason::ClientTimeout } else { Reason::ClientGone };
            self.exchange.answer(CLIENT_CLOSED, Some(reason));
        }
        self.observers.finish(&self.exchange, end);
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.finish(End::Dropped);
    }
}

impl Guard for Closing {
    fn data(&mut self, length: usize) {
        self.add_sent(length);
    }

    fn end(mut self: Box<Self>, end: End) {
        self.finish(end);
    }
}

#[cfg(test)]
mod tests {
    use http::Version;
    use tidegate_core::{Body, Connection, Origin};

    use super::*;

    fn exchange() -> Arc<Exchange> {
        let connection = Connection::plain(([127, 0, 0, 1], 4000).into());
        Arc::new(Exchange::begin(Arc::new(connection), Version::HTTP_3))
    }

    #[test]
    fn a_client_that_disconnects_is_recorded_as_499() {
        let exchange = exchange();
        drop(Closing::observed(exchange.clone(), Observers::default()));
        assert_eq!((exchange.status(), exchange.origin()), (499, Some(Origin::Client)));
    }

    #[tokio::test]
    async fn bytes_sent_to_the_client_are_counted() {
        let exchange = exchange();
        let mut closing = Closing::observed(exchange.clone(), Observers::default());
        let response = Response::new(Body::full("hello"));
        closing.record_response(&response);
        let body = response.into_body().with_guard(Box::new(closing));
        assert_eq!(body.collect(10).await.unwrap().bytes.as_ref(), b"hello");
        assert_eq!((exchange.status(), exchange.sent()), (200, 5));
    }
}
