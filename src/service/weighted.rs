//! Composites that distribute requests over other services: `weighted` and `highestRandomWeight`.

use std::sync::Arc;

use tidegate_core::{BoxFuture, Handler, Request, Response, UpstreamError, reply};

use super::Service;
use super::balance::{Balance, Load};
use super::preview::{Choice, Preview};
use super::sticky::Sticky;

/// A child service.
pub(super) struct Child(pub(super) Arc<dyn Service>);

/// Child services, chosen by weight or by a hash of the client address.
pub(super) struct WeightedService {
    children: Vec<Child>,
    balance: Arc<Balance>,
    sticky: Option<Sticky>,
}

impl WeightedService {
    pub(super) fn new(children: Vec<Child>, balance: Arc<Balance>, sticky: Option<Sticky>) -> Self {
        Self { children, balance, sticky }
    }

    async fn serve_sticky(&self, sticky: &Sticky, request: Request) -> Response {
        let found = sticky.find(&request.head.headers).filter(|found| self.children[found.index].0.is_up());
        let chosen = match found {
            Some(found) => Some(found.index),
            None => self.choose(&request),
        };
        let Some(index) = chosen else { return reply::upstream_failure(UpstreamError::NoServer) };
        let mut response = self.children[index].0.call(request).await;
        if found.is_none_or(|found| found.old) {
            sticky.set(index, response.headers_mut());
        }
        response
    }

    fn choose(&self, request: &Request) -> Option<usize> {
        self.balance.choose(request.context.exchange.connection.peer.ip(), &Children(&self.children))
    }
}

/// The load of the children.
struct Children<'a>(&'a [Child]);

impl Load for Children<'_> {
    fn allowed(&self, index: usize) -> bool {
        self.0[index].0.is_up()
    }

    fn in_flight(&self, _index: usize) -> usize {
        0
    }

    fn mean_time(&self, _index: usize) -> Option<f64> {
        None
    }
}

impl Handler for WeightedService {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        if let Some(sticky) = &self.sticky {
            return Box::pin(self.serve_sticky(sticky, request));
        }
        match self.choose(&request) {
            Some(index) => self.children[index].0.call(request),
            None => Box::pin(std::future::ready(reply::upstream_failure(UpstreamError::NoServer))),
        }
    }
}

impl Service for WeightedService {
    fn is_up(&self) -> bool {
        self.children.iter().any(|child| child.0.is_up())
    }

    fn preview(&self, request: &Request) -> Preview {
        let sticky = self.sticky.as_ref().and_then(|sticky| sticky.find(&request.head.headers));
        let choice = match sticky.filter(|found| self.children[found.index].0.is_up()) {
            Some(found) => Choice::Next(found.index),
            None => {
                let client = request.context.exchange.connection.peer.ip();
                self.balance.peek(client, &Children(&self.children))
            }
        };
        Preview::Services(self.children.iter().map(|child| child.0.clone()).collect(), choice)
    }
}
