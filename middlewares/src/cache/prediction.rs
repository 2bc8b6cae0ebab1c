//! What the cache would do with a request, found out without sending it.

use tidegate_cache::rules::{self, RequestDirectives, Reuse, Why};
use tidegate_core::{Prediction, Request};

use super::answer;
use super::key::key_of;
use super::shared::Shared;
use super::tiers::Found;

/// Predicts what becomes of a request. Blocks while a response is read from the disk.
pub(super) fn predict(shared: &Shared, request: Request) -> Prediction {
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
            return Prediction::passes(request).note(what).note(key);
        }
    };
    let (method, headers) = (&request.head.method, &request.head.headers);
    let answer = answer::from_store(method, headers, stored.head(), &stored.body(), now);
    Prediction::responds(answer).note(what).note(key)
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
