//! What the cache would do with a request, found out without sending it.

use tidegate_cache::rules::{self, RequestDirectives, Reuse, Why};
use tidegate_core::{Prediction, Request, Response};

use super::answer;
use super::failure::{is_disconnected, is_failed, is_replaced_by};
use super::key::key_of;
use super::shared::Shared;
use super::tiers::Found;

/// Predicts what becomes of a request. Blocks while a response is read from the disk.
pub(super) fn predict(shared: &Shared, mut request: Request) -> Prediction {
    let (directives, key) = match asked(shared, &request) {
        Ok(asked) => asked,
        Err(why) => return Prediction::passes(request).note(format!("passes the cache by: {why}")),
    };
    let Found { matching, has_others } = shared.tiers.peek(&key, &request.head.headers);
    let key = format!("key: {}", key.describe());
    let Some(stored) = matching else {
        let why = if has_others { "other variants are stored" } else { "nothing is stored" };
        return Prediction::passes(request).note(format!("miss: {why}")).note(key);
    };
    let now = shared.now();
    let what = match rules::reuse(&stored.head().policy, &directives, now) {
        Reuse::Fresh => "hit: answered from the cache",
        Reuse::Stale { revalidate: true } => {
            "stale: answered from the cache, and validated in the background"
        }
        Reuse::Stale { revalidate: false } => "stale: answered from the cache",
        Reuse::Validate(why) => {
            let what = match why {
                Why::Request => "miss: the request asks for the stored response to be validated",
                Why::Stale | Why::NoCache => "miss: the stored response is stale and is validated",
            };
            let (on_error, disconnected) = (
                is_replaced_by(shared, &stored, &directives, false),
                is_replaced_by(shared, &stored, &directives, true),
            );
            request.context.has_substitute |= disconnected;
            let prediction = Prediction::passes(request).note(what).note(key);
            return match (on_error, disconnected) {
                (true, _) => prediction.note("the stored response is sent if the server fails"),
                (false, true) => prediction.note("the stored response is sent if no server can be reached"),
                (false, false) => prediction,
            };
        }
    };
    let (method, headers) = (&request.head.method, &request.head.headers);
    let answer = answer::from_store(method, headers, stored.head(), &stored.body(), now);
    Prediction::responds(answer).note(what).note(key)
}

/// Replaces a predicted failure by a stored response, as the cache would.
pub(super) fn revise(shared: &Shared, request: &Request, response: &mut Response) -> Option<String> {
    if !is_failed(response) {
        return None;
    }
    let (directives, key) = asked(shared, request).ok()?;
    let stored = shared.tiers.peek(&key, &request.head.headers).matching?;
    if !is_replaced_by(shared, &stored, &directives, is_disconnected(response)) {
        return None;
    }
    let status = response.status().as_u16();
    let (method, headers) = (&request.head.method, &request.head.headers);
    *response = answer::from_store(method, headers, stored.head(), &stored.body(), shared.now());
    Some(format!("sends a stored response instead of the one with status {status}"))
}

/// Returns what the request asks of the cache and its key, or why it passes the cache by.
fn asked(
    shared: &Shared,
    request: &Request,
) -> Result<(RequestDirectives, tidegate_cache::key::Key), &'static str> {
    let has_body = !http_body::Body::is_end_stream(&request.body);
    let (method, headers) = (&request.head.method, &request.head.headers);
    let lookup = rules::inspect(&shared.rules, method, headers, has_body);
    let lookup = lookup.and_then(|lookup| Ok((lookup.directives, key_of(shared, request)?)));
    lookup.map_err(|bypass| bypass.as_str())
}
