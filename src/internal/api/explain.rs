//! `/api/explain`, which does not exist in Traefik: what would happen to a request.

use std::sync::{Arc, LazyLock};

use http::{Method, StatusCode};
use tidegate_core::{Reason, Request, Response, reply};
use tokio::sync::Semaphore;

use super::{body, json, refusal};
use crate::explain::{Question, explain};
use crate::settings::Settings;
use crate::snapshot::Snapshot;

/// Maximum size of a question in bytes.
const MAX_QUESTION: u64 = 64 * 1024;
/// Maximum number of questions that are answered at once.
const MAX_CONCURRENT: usize = 4;

/// Questions that are being answered. They are answered on threads of their own, since each looks at all routers.
static ANSWERING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MAX_CONCURRENT)));

/// Answers a question in the query (GET) or in JSON (POST).
pub(super) async fn answer(snapshot: Arc<Snapshot>, settings: Arc<Settings>, request: Request) -> Response {
    let question = match request.head.method {
        Method::GET => Question::from_query(request.head.uri.query().unwrap_or("")),
        Method::POST => match request.body.collect(MAX_QUESTION).await {
            Ok(collected) => Question::from_json(&collected.bytes),
            Err(_) => {
                let message = format!("the question is incomplete or larger than {MAX_QUESTION} bytes");
                return refusal(StatusCode::PAYLOAD_TOO_LARGE, &message);
            }
        },
        _ => return reply::empty(StatusCode::METHOD_NOT_ALLOWED, Reason::OwnService),
    };
    let question = match question {
        Ok(question) => question,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let Ok(permit) = ANSWERING.clone().try_acquire_owned() else {
        let message = format!("{MAX_CONCURRENT} questions are being answered: ask again");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, &message);
    };
    let answering = tokio::task::spawn_blocking(move || {
        // Held by the thread, which continues when the client disconnects.
        let _held = permit;
        explain(&snapshot, &settings, &question).map(|explanation| json::json(&explanation))
    });
    match answering.await {
        Ok(Ok(explanation)) => body(&explanation),
        Ok(Err(error)) => refusal(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(_) => reply::status_text(StatusCode::INTERNAL_SERVER_ERROR, Reason::InternalError),
    }
}
