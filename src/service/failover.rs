//! A service with a fallback for when it is down or fails.

use std::ops::RangeInclusive;
use std::sync::Arc;

use http::StatusCode;
use tidegate_config::service::Failover;
use tidegate_core::{
    BoxFuture, BuildError, CollectError, Handler, Reason, Request, Response, UpstreamError, reply,
};

use super::Service;
use super::preview::{Choice, Preview};

/// Default limit for request bodies that are kept for the fallback, in bytes.
const MAX_BODY: u64 = 64 * 1024 * 1024;

/// A service with a fallback.
pub(super) struct FailoverService {
    main: Arc<dyn Service>,
    fallback: Arc<dyn Service>,
    errors: Option<Errors>,
    /// Whether the health of the fallback counts: in Traefik, only if `healthCheck` is set.
    checks_fallback: bool,
}

struct Errors {
    statuses: Vec<RangeInclusive<u16>>,
    max_body: u64,
}

impl FailoverService {
    pub(super) fn build(
        options: &Failover,
        main: Arc<dyn Service>,
        fallback: Arc<dyn Service>,
    ) -> Result<Self, BuildError> {
        let errors = match &options.errors {
            Some(errors) if !errors.status.is_empty() => Some(Errors {
                statuses: errors.status.iter().map(|text| parse_range(text)).collect::<Result<_, _>>()?,
                max_body: u64::try_from(errors.max_request_body_bytes).unwrap_or(MAX_BODY),
            }),
            _ => None,
        };
        Ok(Self { main, fallback, errors, checks_fallback: options.health_check.is_some() })
    }

    /// Sends the request to the main service, and to the fallback if the response has one of the statuses.
    async fn call_with_fallback(&self, errors: &Errors, request: Request) -> Response {
        let Request { head, body, context } = request;
        let body = match body.collect(errors.max_body).await {
            Ok(collected) => collected,
            Err(CollectError::TooLarge { .. }) => {
                return reply::error(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "Request body too large",
                    Reason::RequestTooLarge,
                );
            }
            Err(CollectError::Failed(_)) => return reply::upstream_failure(UpstreamError::ClientGone),
        };
        let spare = head.clone();
        let response = self.main.call(Request::new(head, body.clone().into(), context.clone())).await;
        let status = response.status();
        // After an upgrade there is nothing to retry.
        let stays = status == StatusCode::SWITCHING_PROTOCOLS;
        if stays || !errors.statuses.iter().any(|range| range.contains(&status.as_u16())) {
            return response;
        }
        drop(response);
        context.exchange.replace(status.as_u16());
        self.fallback.call(Request::new(spare, body.into(), context)).await
    }
}

impl Handler for FailoverService {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        if self.main.is_up() {
            return match &self.errors {
                Some(errors) => Box::pin(self.call_with_fallback(errors, request)),
                None => self.main.call(request),
            };
        }
        if !self.checks_fallback || self.fallback.is_up() {
            return self.fallback.call(request);
        }
        Box::pin(std::future::ready(reply::status_text(StatusCode::SERVICE_UNAVAILABLE, Reason::NoServer)))
    }
}

impl Service for FailoverService {
    fn is_up(&self) -> bool {
        self.main.is_up() || self.fallback.is_up()
    }

    fn preview(&self, _: &Request) -> Preview {
        let choice = match () {
            () if self.main.is_up() => Choice::Next(0),
            () if !self.checks_fallback || self.fallback.is_up() => Choice::Next(1),
            () => Choice::Nobody,
        };
        Preview::Services(vec![self.main.clone(), self.fallback.clone()], choice)
    }
}

/// Parses `503` or `500-599`.
fn parse_range(text: &str) -> Result<RangeInclusive<u16>, BuildError> {
    let bad = || {
        BuildError::new(format!(
            "errors.status: invalid status `{text}`: expected a status or a range like `500-599`"
        ))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number =
        |text: &str| text.trim().parse::<u16>().ok().filter(|n| (100..=999).contains(n)).ok_or_else(bad);
    let (first, last) = (number(first)?, number(last)?);
    if first > last { Err(bad()) } else { Ok(first..=last) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_and_ranges_are_parsed() {
        assert_eq!(parse_range("503").unwrap(), 503..=503);
        assert_eq!(parse_range("500-599").unwrap(), 500..=599);
        for bad in ["", "x", "599-500", "5-7", "500-"] {
            assert!(parse_range(bad).unwrap_err().to_string().contains(&format!("`{bad}`")));
        }
    }
}
