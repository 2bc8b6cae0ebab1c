//! What the APIs that change something have in common: requests of an operator who has signed in, and their responses.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_core::caches::InvalidUrl;
use tidegate_core::sessions::EndError;
use tidegate_core::{AuditEvent, CollectError, Exchange, Identity, Reason, Request, Response, reply};

use super::json::as_go;
use super::maintenance::refusal::Refusal;
use super::{body, refusal};
use crate::announcements::AnnounceError;
use crate::cluster::Cluster;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Maximum size of a request, in bytes.
const MAX_REQUEST: u64 = 16 * 1024;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("404 page not found")]
    UnknownPath,
    #[error("method not allowed")]
    Method,
    #[error("the request is from another site")]
    OtherSite,
    #[error("expected the content type application/json")]
    NotJson,
    #[error("{0} requires an operator who has signed in: protect the API with a login (api.middlewares)")]
    NoLogin(&'static str),
    #[error("{0}")]
    Unreadable(CollectError),
    #[error("{0}")]
    Invalid(#[from] serde_json::Error),
    /// The request names too little, too much or something contradictory.
    #[error("{0}")]
    Ambiguous(&'static str),
    #[error("{kind} not found: {name}")]
    UnknownObject { kind: &'static str, name: String },
    #[error(transparent)]
    InvalidUrl(#[from] InvalidUrl),
    #[error(transparent)]
    NotEnded(#[from] EndError),
    #[error(transparent)]
    NotSwitched(#[from] Refusal),
    /// It is done, but the other members of the cluster do not know it. `shown` is what the response would be.
    #[error("only this gateway has {action}: {error}{}", if error.is_pending() {
        "; the others follow when the cluster's store is available, unless this gateway stops before"
    } else {
        ""
    })]
    OnlyHere { action: &'static str, shown: Value, error: AnnounceError },
}

impl Refused {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unreadable(_) | Self::Invalid(_) | Self::Ambiguous(_) | Self::InvalidUrl(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::OtherSite | Self::NoLogin(_) => StatusCode::FORBIDDEN,
            Self::UnknownPath
            | Self::UnknownObject { .. }
            | Self::NotEnded(EndError::UnknownSession | EndError::UnknownProvider(_)) => {
                StatusCode::NOT_FOUND
            }
            Self::NotSwitched(refusal) => refusal.status(),
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotEnded(EndError::Store(_)) | Self::OnlyHere { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Who has sent a request, and where it is recorded.
pub(super) struct Operator {
    exchange: Arc<Exchange>,
    identity: Option<Arc<Identity>>,
}

impl Operator {
    /// Returns the subject of the operator's identity.
    pub(super) fn name(&self) -> &str {
        self.identity.as_deref().map_or("", |identity| &identity.subject)
    }

    /// Returns the name of the router through which the request came; empty for none.
    pub(super) fn router(&self) -> String {
        self.exchange.route().map(|route| route.router.to_string()).unwrap_or_default()
    }

    /// Records for the audit log what the operator has changed.
    pub(super) fn note(&self, event: AuditEvent, subject: &str) {
        self.exchange.note(event, subject);
    }
}

/// Reads the JSON of a request that changes something, if an operator wants this, and not a page of another site in the
/// operator's browser. Without a body, it is an empty object.
///
/// `action` is what the operator does, for the message.
pub(super) async fn read_json<T: DeserializeOwned>(
    request: Request,
    action: &'static str,
) -> Result<(T, Operator), Refused> {
    check(&request, action)?;
    let operator = Operator { exchange: request.context.exchange, identity: request.context.identity };
    let read = request.body.collect(MAX_REQUEST).await.map_err(Refused::Unreadable)?;
    let bytes = if read.bytes.is_empty() { &b"{}"[..] } else { &read.bytes };
    Ok((serde_json::from_slice(bytes)?, operator))
}

/// Adds to a response what became of the announcement to the cluster; `None` without a cluster. `action` is what this
/// gateway has done.
///
/// # Errors
///
/// The other members do not know it.
pub(super) fn with_announcement(
    mut shown: Value,
    cluster: &Cluster,
    action: &'static str,
    announced: Option<Result<u64, AnnounceError>>,
) -> Result<Value, Refused> {
    match announced {
        None => {}
        Some(Ok(announcement)) => {
            let members = cluster.view().members.len().saturating_sub(1);
            shown["cluster"] = json!({"announcement": announcement, "members": members});
        }
        Some(Err(error)) => return Err(Refused::OnlyHere { action, shown, error }),
    }
    Ok(shown)
}

/// Returns the response, which nothing may store.
pub(super) fn respond(answered: Result<Value, Refused>) -> Response {
    let mut response = match answered {
        Ok(value) => body(&value),
        Err(Refused::UnknownPath) => reply::not_found(Reason::OwnService),
        Err(error @ Refused::Method) => reply::empty(error.status(), Reason::OwnService),
        Err(Refused::OnlyHere { action, mut shown, error }) => {
            let error = Refused::OnlyHere { action, shown: Value::Null, error };
            shown["message"] = error.to_string().into();
            reply::error(error.status(), as_go(&shown).trim_end(), Reason::OwnService)
        }
        Err(error) => refusal(error.status(), &error.to_string()),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn check(request: &Request, action: &'static str) -> Result<(), Refused> {
    let headers = &request.head.headers;
    if !is_same_site(headers, request.host()) {
        return Err(Refused::OtherSite);
    }
    let media = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media = media.split(';').next().unwrap_or("").trim();
    if !media.eq_ignore_ascii_case("application/json") {
        return Err(Refused::NotJson);
    }
    // Only a middleware or a verified certificate can have set it.
    if request.context.identity.is_none() {
        return Err(Refused::NoLogin(action));
    }
    Ok(())
}

/// Returns true for requests of the dashboard, and of programs that are not browsers.
fn is_same_site(headers: &HeaderMap, host: &str) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site == "same-origin";
    }
    // Browsers send it with every POST, and leave out the header above without TLS.
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (None, _) => true,
        (Some(origin), None) => {
            let origin = origin.to_str().unwrap_or("");
            let own = origin.split_once("://").map_or("", |(_, own)| own);
            !own.is_empty() && own.eq_ignore_ascii_case(host)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_own_site_and_programs_may_change_something() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            is_same_site(&headers, "gw.test:8080")
        };
        assert!(with(&[]));
        assert!(with(&[("origin", "http://gw.test:8080")]));
        assert!(with(&[("origin", "https://GW.test:8080"), ("sec-fetch-site", "same-origin")]));
        for origin in [
            "null",
            "",
            "http://gw.test",
            "http://evil.test:8080",
            "http://gw.test:8080.evil.test",
            "gw.test:8080",
        ] {
            assert!(!with(&[("origin", origin)]), "{origin}");
        }
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!with(&[("origin", "http://gw.test:8080"), ("sec-fetch-site", site)]), "{site}");
        }
        assert!(!with(&[("origin", "http://gw.test:8080"), ("origin", "http://evil.test")]));
    }
}
