//! Charges responses to buckets once they are sent.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use tidegate_core::store::{Allowance, Demand, Draw};
use tidegate_core::{Clock, End, Guard, Response};

use super::backend::SharedBuckets;
use super::cost::{Cost, Sent};
use super::state::State;

/// A bucket that a response is charged to.
pub(super) struct Account {
    pub(super) state: Arc<State>,
    pub(super) key: String,
    /// The key in the store.
    pub(super) shared_key: String,
    pub(super) allowance: Allowance,
}

/// What is charged once a response is sent.
pub(super) struct Charge {
    pub(super) accounts: Vec<Account>,
    pub(super) costs: Vec<Arc<Cost>>,
    pub(super) shared: Option<Arc<SharedBuckets>>,
    pub(super) clock: Clock,
}

impl Charge {
    /// Charges the response when its body ends, however it ends.
    pub(super) fn when_sent(self, response: Response) -> Response {
        let meter = Meter {
            charge: Some(self),
            status: response.status(),
            headers: response.headers().clone(),
            bytes: 0,
        };
        response.map(|body| body.with_guard(Box::new(meter)))
    }

    fn pay(self, sent: &Sent<'_>) {
        let costs = self.costs.iter().map(|cost| cost.of_response(sent));
        let due = self.accounts.into_iter().zip(costs).filter(|(_, cost)| *cost > 0);
        let Some(shared) = self.shared else {
            let now = self.clock.uptime().as_nanos() as f64 / 1e3;
            for (account, cost) in due {
                account.state.lock(&account.key, now, account.allowance).take(cost);
            }
            return;
        };
        let draw = |(account, cost): (Account, u64)| Draw {
            key: account.shared_key,
            allowance: account.allowance,
            cost,
            demand: Demand::Charge,
            lifetime: None,
        };
        let draws: Vec<Draw> = due.map(draw).collect();
        if draws.is_empty() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Nothing waits for it. The store logs failures.
            runtime.spawn(async move {
                let _ = shared.store.draw(&draws, shared.deadline).await;
            });
        }
    }
}

/// Measures a response while it is sent.
struct Meter {
    charge: Option<Charge>,
    status: StatusCode,
    headers: HeaderMap,
    bytes: u64,
}

impl Guard for Meter {
    fn data(&mut self, length: usize) {
        self.bytes = self.bytes.saturating_add(length as u64);
    }

    fn end(mut self: Box<Self>, _: End) {
        let sent = Sent { status: self.status, headers: &self.headers, bytes: self.bytes };
        if let Some(charge) = self.charge.take() {
            charge.pay(&sent);
        }
    }
}
