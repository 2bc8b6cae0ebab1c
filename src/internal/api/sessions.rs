//! Sessions of logins, and how an operator ends them: `/api/sessions` and `/api/sessions/end`.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_core::sessions::{EndError, SessionInfo, SessionPlace, WhichSessions};
use tidegate_core::{AuditEvent, CollectError, Reason, Request, Response, reply};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::operator::{self, NotOperator};
use super::{body, parameter, refusal};
use crate::snapshot::Snapshot;

/// Maximum number of sessions of each middleware that are shown.
const MAX_SHOWN: usize = 500;
/// Maximum size of a request to end sessions, in bytes.
const MAX_REQUEST: u64 = 16 * 1024;

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
    #[error(transparent)]
    NotOperator(#[from] NotOperator),
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
            Self::NotOperator(error) => error.status(),
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
    operator::check(&request, "ending sessions")?;
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

fn time_text(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}
