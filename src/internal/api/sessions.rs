//! Sessions of logins, and how an operator ends them: `/api/sessions` and `/api/sessions/end`.

use std::sync::Arc;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_core::sessions::{SessionInfo, SessionPlace, WhichSessions};
use tidegate_core::{AuditEvent, Request, Response};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::operator::{self, Refused};
use super::parameter;
use crate::snapshot::Snapshot;

/// Maximum number of sessions of each middleware that are shown.
const MAX_SHOWN: usize = 500;

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

/// Answers a request below `/api/sessions`; `path` is the rest.
pub(super) async fn answer(snapshot: Arc<Snapshot>, path: String, request: Request) -> Response {
    operator::respond(match (path.as_str(), &request.head.method) {
        ("", &Method::GET) => Ok(list(&snapshot, request.head.uri.query().unwrap_or("")).await),
        ("/end", &Method::POST) => end(&snapshot, request).await,
        ("" | "/end", _) => Err(Refused::Method),
        _ => Err(Refused::UnknownPath),
    })
}

async fn list(snapshot: &Snapshot, query: &str) -> Value {
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
    all.into()
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
async fn end(snapshot: &Snapshot, request: Request) -> Result<Value, Refused> {
    let (End { middleware, session, subject, provider }, operator) =
        operator::read_json(request, "ending sessions").await?;
    let which = match (session.is_empty(), subject.is_empty()) {
        (false, true) => WhichSessions::One(session),
        (true, false) => WhichSessions::Subject { provider, subject },
        _ => return Err(Refused::Ambiguous("expected one of `session` and `subject`")),
    };
    let found = snapshot.sessions.get(&middleware).and_then(|middleware| middleware.sessions());
    let Some(sessions) = found else {
        return Err(Refused::UnknownObject { kind: "middleware", name: middleware });
    };
    let subject = sessions.end(&which).await?;
    operator.note(AuditEvent::SessionEnded, &subject);
    let operator = operator.name();
    tracing::info!(middleware, subject, operator, "oidc: sessions ended by an operator");
    Ok(json!({"subject": subject}))
}

fn time_text(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}
