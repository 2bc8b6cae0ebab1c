//! The middleware that asks its own policies.

use http::StatusCode;
use tidegate_core::occupancy::{self, Occupancy, PolicyState};
use tidegate_core::{BoxFuture, Middleware, Next, Prediction, Reason, Request, Response, boxed, reply};

use super::backend::Backend;
use super::engine::{Engine, Foreseen, NotAdmitted};
use super::set::PolicySet;

/// The policies of one middleware.
pub(super) struct Policies {
    pub(super) set: PolicySet,
    pub(super) engine: Engine,
}

impl Policies {
    async fn admit(&self, request: Request, next: &Next) -> Response {
        let asks = self.engine.asks(&self.set, &request, true);
        match self.engine.admit(&self.set, asks).await {
            Ok(admitted) => self.engine.finish(admitted, next.run(request).await),
            Err(NotAdmitted::Refused(response)) => response,
            Err(NotAdmitted::Unavailable) => reply::error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Could not insert/update bucket",
                Reason::LimitUnavailable,
            ),
        }
    }
}

impl Middleware for Policies {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        boxed(move || self.admit(request, next))
    }

    fn limit(&self) -> Option<&dyn occupancy::Limit> {
        Some(self)
    }

    fn predict(&self, request: Request) -> Prediction {
        let predicted = self.engine.predict(&self.set, &request);
        let prediction = match predicted.verdict {
            Foreseen::Admitted => Prediction::passes(request),
            Foreseen::Refused(response) => Prediction::responds(response),
            Foreseen::Shared => Prediction::depends(request, "asks Redis for the buckets of its policies"),
        };
        predicted.notes.into_iter().fold(prediction, Prediction::note)
    }
}

impl occupancy::Limit for Policies {
    fn kind(&self) -> &'static str {
        "rateLimit"
    }

    fn occupancy(&self) -> Occupancy {
        // Redis has the buckets of shared limits.
        self.set.occupancy(matches!(self.engine.backend, Backend::Local))
    }

    fn policies(&self) -> Vec<PolicyState> {
        self.set.counted()
    }
}
