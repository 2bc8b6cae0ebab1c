//! The keys of requests.

use tidegate_cache::key::{Key, Target};
use tidegate_cache::rules::Bypass;
use tidegate_core::{Identity, Request};

use super::shared::Shared;

/// Returns what the response to a request is stored under.
pub(super) fn key_of(shared: &Shared, request: &Request) -> Result<Key, Bypass> {
    let identity = request.context.identity.as_deref().map(partition);
    // Another route may have another service, or another path to it.
    let route = request.context.exchange.route().map_or("", |route| &route.router);
    let target = Target {
        scheme: if request.context.is_tls() { "https" } else { "http" },
        authority: request.host(),
        path: request.path(),
        query: request.head.uri.query(),
        headers: &request.head.headers,
        route: route.as_bytes(),
        identity: identity.as_deref(),
    };
    shared.template.key(&target).map_err(|_| Bypass::KeyTooLong)
}

/// Clients whose identities differ share nothing: neither two with the same name from different middlewares, nor one
/// client with different groups or scopes.
fn partition(identity: &Identity) -> Vec<u8> {
    let consumer = identity.consumer.as_deref().map(|consumer| consumer.name.as_ref());
    format!(
        "{:?}",
        (
            &identity.by,
            identity.method,
            &identity.subject,
            &identity.groups,
            &identity.labels,
            &identity.scopes,
            consumer.unwrap_or("")
        )
    )
    .into_bytes()
}
