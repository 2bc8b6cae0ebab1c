//! Sessions of logins, and how an operator ends them: `/api/sessions` and `/api/sessions/end`.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN};
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_core::sessions::{EndError, SessionInfo, SessionPlace, WhichSessions};
use tidegate_core::{AuditEvent, CollectError, Reason, Request, Response, reply};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{body, parameter, refusal};
use crate::snapshot::Snapshot;

/// Maximum number of sessions of each middleware that are shown.
const MAX_SHOWN: usize = 500;
/// Maximum size of a request to end sessions, in bytes.
const MAX_REQUEST: u64 = 16 * 1024;
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A request to end sessions.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct End {
    middleware: String,
    #[serde(default)]
    session: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    provider: String,
}

/// Why a request to end sessions is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the request is from another site")]
    OtherSite,
    #[error("expected the content type application/json")]
    NotJson,
    #[error(
        "ending sessions requires an operator who has signed in: protect the API with a login (api.middlewares)"
    )]
    NoLogin,
    #[error("{0}")]
    Unreadable(CollectError),
    #[error("{0}")]
    Invalid(#[from] serde_json::Error),
    #[error("expected one of `session` and `subject`")]
    Ambiguous,
    #[error("middleware not found: {0}")]
    UnknownMiddleware(String),
    #[error(transparent)]
    NotEnded(#[from] EndError),
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::OtherSite | Self::NoLogin => StatusCode::FORBIDDEN,
            Self::Unreadable(_) | Self::Invalid(_) | Self::Ambiguous => StatusCode::BAD_REQUEST,
            Self::UnknownMiddleware(_)
            | Self::NotEnded(EndError::UnknownSession | EndError::UnknownProvider(_)) => {
                StatusCode::NOT_FOUND
            }
            Self::NotEnded(EndError::Store(_)) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Answers a request below `/api/sessions`; `path` is the rest.
pub(super) async fn answer(snapshot: Arc<Snapshot>, path: String, request: Request) -> Response {
    let mut response = match (path.as_str(), &request.head.method) {
        ("", &Method::GET) => list(&snapshot, request.head.uri.query().unwrap_or("")).await,
        ("/end", &Method::POST) => match end(&snapshot, request).await {
            Ok(subject) => body(&json!({"subject": subject})),
            Err(error) => refusal(error.status(), &error.to_string()),
        },
        ("" | "/end", _) => reply::empty(StatusCode::METHOD_NOT_ALLOWED, Reason::OwnService),
        _ => reply::not_found(Reason::OwnService),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn list(snapshot: &Snapshot, query: &str) -> Response {
    let wanted = parameter(query, "middleware");
    let mut all: Vec<Value> = Vec::new();
    for (name, middleware) in &snapshot.sessions {
        let Some(sessions) = middleware.sessions() else { continue };
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        all.push(match sessions.list(MAX_SHOWN).await {
            Ok(list) => json!({
                "middleware": name,
                "place": if list.place == SessionPlace::Redis { "redis" } else { "cookies" },
                "providers": list.providers,
                "hasMore": list.has_more,
                "sessions": list.sessions.iter().map(session).collect::<Vec<_>>(),
            }),
            Err(error) => json!({"middleware": name, "place": "redis", "error": error.to_string()}),
        });
    }
    body(&all.into())
}

fn session(session: &SessionInfo) -> Value {
    json!({
        "key": session.key,
        "provider": session.provider,
        "subject": session.subject,
        "user": session.user,
        "consumer": session.consumer,
        "began": time_text(session.began),
        "extended": time_text(session.extended),
        "ends": time_text(session.ends),
    })
}

/// Ends what the request names, and returns whose sessions they were.
async fn end(snapshot: &Snapshot, request: Request) -> Result<String, Refused> {
    check(&request)?;
    let (exchange, operator) = (request.context.exchange, request.context.identity);
    let read = request.body.collect(MAX_REQUEST).await.map_err(Refused::Unreadable)?;
    let End { middleware, session, subject, provider } = serde_json::from_slice(&read.bytes)?;
    let which = match (session.is_empty(), subject.is_empty()) {
        (false, true) => WhichSessions::One(session),
        (true, false) => WhichSessions::Subject { provider, subject },
        _ => return Err(Refused::Ambiguous),
    };
    let found = snapshot.sessions.get(&middleware).and_then(|middleware| middleware.sessions());
    let subject = match found {
        Some(sessions) => sessions.end(&which).await?,
        None => return Err(Refused::UnknownMiddleware(middleware)),
    };
    exchange.note(AuditEvent::SessionEnded, &subject);
    let operator = operator.as_deref().map_or("", |identity| &identity.subject);
    tracing::info!(middleware, subject, operator, "oidc: sessions ended by an operator");
    Ok(subject)
}

/// Checks that an operator wants this, and not a page of another site in the operator's browser.
fn check(request: &Request) -> Result<(), Refused> {
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
        return Err(Refused::NoLogin);
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

fn time_text(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_site_and_programs_may_end_sessions() {
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
