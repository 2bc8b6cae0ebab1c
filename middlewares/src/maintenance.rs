//! Answers the requests of a router that is in maintenance (`routers.<name>.maintenance`).

use std::sync::Arc;
use std::time::SystemTime;

use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tidegate_core::client_ip::{ClientIp, IpRanges, IpStrategy};
use tidegate_core::values::{Duration, is_default};
use tidegate_core::{
    BoxFuture, BuildError, BuildErrors, Clock, Handler, Middleware, Next, Prediction, Reason, Request,
    Response, reply,
};

/// Status of responses during maintenance.
const STATUS: u16 = 503;
/// `Retry-After` if neither the options nor the end of the maintenance say it.
const RETRY: Duration = Duration::from_secs(300);
/// Maximum value of `retryAfter`.
const MAX_RETRY: Duration = Duration::from_secs(30 * 24 * 3600);

/// A router's `maintenance`: `true`, or options. Not in Traefik.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Maintenance {
    /// Whether the router is in maintenance. If false, the other options are those of the switch at run time.
    pub enabled: bool,
    /// Status of the response: 400 to 599.
    #[serde(skip_serializing_if = "is_usual")]
    pub status: u16,
    /// `Retry-After`; 0 leaves it out. By default until the end of the maintenance if that is known, or else 5 minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// Addresses and ranges (CIDR) whose requests are served.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// How to determine the client's address; by default, the address of the connection.
    #[serde(skip_serializing_if = "is_default")]
    pub ip_strategy: Option<IpStrategy>,
}

impl Default for Maintenance {
    fn default() -> Self {
        Self { enabled: true, status: STATUS, retry_after: None, allow: Vec::new(), ip_strategy: None }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_usual(status: &u16) -> bool {
    *status == STATUS
}

impl Maintenance {
    /// Checks the options.
    ///
    /// # Errors
    ///
    /// What is wrong, with the option.
    pub fn check(&self) -> Result<(), BuildError> {
        self.compile().map(drop)
    }

    /// Builds what stands in front of a router in maintenance. Its responses pass `shaping`, the middlewares of the
    /// router that give responses their form. `until` is when the maintenance ends, if that is known.
    ///
    /// # Errors
    ///
    /// What is wrong, with the option.
    pub fn gate(
        &self,
        until: Option<SystemTime>,
        shaping: Vec<Arc<dyn Middleware>>,
        clock: Clock,
    ) -> Result<Arc<dyn Middleware>, BuildError> {
        let (status, allow, client) = self.compile()?;
        let answer = Arc::new(Answer { status, retry_after: self.retry_after, until, clock });
        let closed = Next::new(shaping.clone(), Next::service(answer.clone()));
        Ok(Arc::new(Gate { allow, client, answer, closed, shaping }))
    }

    fn compile(&self) -> Result<(StatusCode, IpRanges, ClientIp), BuildError> {
        let of = |option: &'static str| {
            move |error: BuildError| error.map(|message| format!("maintenance.{option}: {message}"))
        };
        let mut errors = BuildErrors::default();
        let status = StatusCode::from_u16(self.status).ok();
        let status = status.filter(|status| status.is_client_error() || status.is_server_error());
        if status.is_none() {
            errors.add(format!("maintenance.status: invalid status {}: expected 400 to 599", self.status));
        }
        if let Some(wait) = self.retry_after.filter(|wait| wait.0 > MAX_RETRY.0) {
            errors.add(format!("maintenance.retryAfter: {wait}: expected up to {MAX_RETRY}"));
        }
        let allow = errors.check(IpRanges::parse(&self.allow).map_err(of("allow")));
        let client = match &self.ip_strategy {
            None => Some(ClientIp::default()),
            Some(strategy) => errors.check(ClientIp::new(strategy).map_err(of("ipStrategy"))),
        };
        let made = status.zip(allow).zip(client).map(|((status, allow), client)| (status, allow, client));
        errors.made(made)
    }
}

/// Stands in front of a router in maintenance.
struct Gate {
    allow: IpRanges,
    client: ClientIp,
    answer: Arc<Answer>,
    /// `shaping` and `answer`.
    closed: Next,
    shaping: Vec<Arc<dyn Middleware>>,
}

impl Gate {
    fn admits(&self, request: &Request) -> bool {
        !self.allow.is_empty()
            && self.client.address(request).is_some_and(|address| self.allow.contains(address))
    }
}

impl Middleware for Gate {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        if self.admits(&request) { next.run(request) } else { self.closed.run(request) }
    }

    fn predict(&self, request: Request) -> Prediction {
        if self.admits(&request) {
            return Prediction::passes(request).note("the router is in maintenance, and the client may pass");
        }
        let mut response = self.answer.response();
        let revised: Vec<String> = self
            .shaping
            .iter()
            .rev()
            .filter_map(|middleware| middleware.revise(&request, &mut response))
            .collect();
        let prediction = Prediction::responds(response).note("the router is in maintenance");
        revised.into_iter().fold(prediction, Prediction::note)
    }
}

/// The response during maintenance.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    until: Option<SystemTime>,
    clock: Clock,
}

impl Answer {
    fn response(&self) -> Response {
        let mut response = reply::status_text(self.status, Reason::Maintenance);
        let left =
            self.until.map(|until| until.duration_since(self.clock.wall()).unwrap_or_default().as_secs());
        let seconds = match (self.retry_after, left) {
            (Some(wait), _) => wait.0.as_secs(),
            (None, Some(left)) => left.max(1),
            (None, None) => RETRY.0.as_secs(),
        };
        if seconds > 0 {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl Handler for Answer {
    fn call<'a>(&'a self, _: Request) -> BoxFuture<'a, Response> {
        crate::ready(self.response())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration as StdDuration;

    use tidegate_core::{Body, Verdict};

    use super::*;
    use crate::testing::{self, get};

    const HOUR: StdDuration = StdDuration::from_secs(3600);

    fn answered(options: &Maintenance, until: Option<SystemTime>, clock: Clock) -> Response {
        let gate = options.gate(until, Vec::new(), clock).unwrap();
        let service = testing::Service(|_| Response::new(Body::empty()));
        let response = testing::block_on(testing::run(&gate, get("http://a.test/"), &service));
        if let Verdict::Responds(predicted) = gate.predict(get("http://a.test/")).verdict {
            assert_eq!(predicted.status(), response.status(), "the prediction");
            assert_eq!(predicted.headers(), response.headers(), "the prediction");
        } else {
            assert_eq!(response.reason, None, "the prediction");
        }
        response
    }

    fn retry(options: &Maintenance, until: Option<SystemTime>) -> String {
        let response = answered(options, until, Clock::System);
        assert_eq!((response.status().as_u16(), response.reason), (503, Some(Reason::Maintenance)));
        response.headers().get(RETRY_AFTER).map_or("", |value| value.to_str().unwrap()).to_owned()
    }

    #[test]
    fn clients_learn_when_to_come_back() {
        let usual = Maintenance::default();
        let wait = |seconds: u64| Maintenance {
            retry_after: Some(Duration::from_secs(seconds)),
            ..Maintenance::default()
        };
        assert_eq!((retry(&usual, None), retry(&wait(60), None)), ("300".into(), "60".into()));
        assert_eq!(retry(&wait(0), None), "");
        let manual = Arc::new(tidegate_core::ManualClock::new());
        let clock = Clock::Manual(manual.clone());
        let until = Some(clock.wall() + HOUR);
        let left = || answered(&usual, until, clock.clone()).headers()[RETRY_AFTER].clone();
        assert_eq!(left(), "3600");
        manual.advance(HOUR / 2);
        assert_eq!(left(), "1800");
        manual.advance(HOUR);
        assert_eq!(left(), "1", "the end has passed, and the next snapshot removes the switch");
        assert_eq!(retry(&wait(60), until), "60", "the option comes first");
    }

    #[test]
    fn some_addresses_pass() {
        // The client of these requests.
        let client = get("http://a.test/").context.exchange.connection.peer.ip().to_string();
        for (allow, passes) in
            [(vec![client], true), (vec!["192.0.2.0/24".to_owned()], false), (vec![], false)]
        {
            let options = Maintenance { allow, ..Maintenance::default() };
            let response = answered(&options, None, Clock::System);
            assert_eq!(response.status().as_u16() == 200, passes, "{options:?}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        let options = Maintenance {
            status: 302,
            retry_after: Some(Duration::from_secs(31 * 24 * 3600)),
            allow: vec!["10.0.0.0/40".into()],
            ..Maintenance::default()
        };
        let error = options.check().unwrap_err();
        let expected = [
            "maintenance.status: invalid status 302: expected 400 to 599",
            "maintenance.retryAfter: 744h0m0s: expected up to 720h0m0s",
            "maintenance.allow: invalid address or network `10.0.0.0/40`: expected one like `192.0.2.1` or \
             `10.0.0.0/8`",
        ];
        assert_eq!(error.messages(), expected);
    }
}
