//! The authority's server: its directory, nonces, signed requests with retries, and errors (RFC 8555).

use std::time::Duration;

use http::{Method, StatusCode};
use instant_acme::{Problem, Subproblem};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::client::{Answer, Http, Message};
use super::error::{Error, Kind, ProblemType};
use super::jws::{Signer, signed};

/// Maximum number of retries after rejected nonces. A sound authority rejects one now and then; with this many, even
/// one that rejects nine of ten works.
const NONCE_RETRIES: usize = 150;
/// How many of these retries come without a pause.
const NONCE_RETRIES_AT_ONCE: usize = 8;
const NONCE_PAUSE: Duration = Duration::from_millis(20);
/// Maximum number of unused nonces.
const MAX_NONCES: usize = 32;
/// Pauses after network failures within an order.
const NETWORK_PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(15),
];

/// Maximum `Retry-After` that is waited for within an order.
const MAX_PAUSE: Duration = Duration::from_secs(15);

/// The directory (RFC 8555 section 7.1.1).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Directory {
    pub(super) new_nonce: String,
    pub(super) new_account: String,
    pub(super) new_order: String,
    #[serde(default)]
    pub(super) key_change: Option<String>,
    #[serde(default)]
    pub(super) revoke_cert: Option<String>,
    #[serde(default)]
    pub(super) renewal_info: Option<String>,
    #[serde(default)]
    pub(super) meta: Meta,
}

/// `meta` of a directory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) external_account_required: bool,
    #[serde(default)]
    pub(super) profiles: serde_json::Map<String, Value>,
}

/// An authority, with its directory and unused nonces.
pub(super) struct Server {
    pub(super) http: Http,
    pub(super) directory: Directory,
    nonces: Mutex<Vec<String>>,
}

/// Whether a request is retried after network failures.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Repeat {
    /// Never: it might be done twice.
    Never,
    /// A few times.
    Safe,
}

impl Server {
    /// Reads the directory.
    pub(super) async fn open(http: Http, url: &str) -> Result<Self, Error> {
        let answer = http.send(Method::GET, url, Message::default()).await?;
        if answer.status != StatusCode::OK {
            let mut error = Error::network(format!("{url}: status {} instead of a directory", answer.status));
            error.retry_after = answer.retry_after();
            return Err(error);
        }
        let directory = answer.json(url)?;
        Ok(Self { http, directory, nonces: Mutex::default() })
    }

    /// Sends a signed request; an empty payload is POST-as-GET. Retries with another nonce if one is rejected.
    pub(super) async fn post(
        &self,
        signer: Signer<'_>,
        url: &str,
        payload: &[u8],
        repeat: Repeat,
    ) -> Result<Answer, Error> {
        let mut pauses = NETWORK_PAUSES.iter();
        loop {
            let error = match self.post_once(signer, url, payload).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            match pauses.next() {
                Some(pause) if error.kind == Kind::Network && repeat == Repeat::Safe => {
                    let wanted = error.retry_after.unwrap_or_default();
                    if wanted > MAX_PAUSE {
                        return Err(error);
                    }
                    tracing::debug!(%url, %error, "asking the certificate authority again");
                    tokio::time::sleep((*pause).max(wanted)).await;
                }
                _ => return Err(error),
            }
        }
    }

    async fn post_once(&self, signer: Signer<'_>, url: &str, payload: &[u8]) -> Result<Answer, Error> {
        for attempt in 0..NONCE_RETRIES {
            let nonce = self.nonce().await?;
            let body = signed(signer, url, Some(&nonce), payload)?.to_string().into_bytes();
            let message = Message { content_type: "application/jose+json", body, ..Message::default() };
            let answer = self.http.send(Method::POST, url, message).await?;
            self.keep_nonce(&answer);
            if answer.status.is_success() {
                return Ok(answer);
            }
            let problem = problem_of(&answer)?;
            if problem_type(&problem) != ProblemType::BadNonce {
                return Err(refusal(&answer, &problem));
            }
            if attempt >= NONCE_RETRIES_AT_ONCE {
                tokio::time::sleep(NONCE_PAUSE).await;
            }
        }
        Err(Error::network(format!("{url}: {NONCE_RETRIES} nonces were rejected one after the other")))
    }

    async fn nonce(&self) -> Result<String, Error> {
        if let Some(nonce) = self.nonces.lock().pop() {
            return Ok(nonce);
        }
        let url = &self.directory.new_nonce;
        let answer = self.http.send(Method::HEAD, url, Message::default()).await?;
        let nonce = answer.header("replay-nonce").map(str::to_owned);
        nonce.ok_or_else(|| {
            let mut error = Error::network(format!("{url}: status {} without a nonce", answer.status));
            error.retry_after = answer.retry_after();
            error
        })
    }

    fn keep_nonce(&self, answer: &Answer) {
        let Some(nonce) = answer.header("replay-nonce") else { return };
        let mut nonces = self.nonces.lock();
        if nonces.len() < MAX_NONCES {
            nonces.push(nonce.to_owned());
        }
    }
}

/// Converts a problem document (RFC 8555 section 6.7) to an error. Types are shortened to their last part:
/// `rateLimited`.
pub(super) fn error_of(problem: &Problem, retry_after: Option<Duration>) -> Error {
    let kind = match problem_type(problem) {
        ProblemType::RateLimited => Kind::RateLimited,
        ProblemType::ServerInternal => Kind::Network,
        ProblemType::Dns => Kind::Dns,
        _ => Kind::Refused,
    };
    let short = urn(problem).rsplit(':').next().unwrap_or_default();
    let mut error = Error::new(kind, format!("{short}: {}", problem.detail.as_deref().unwrap_or_default()));
    error.problem = Some(problem_type(problem));
    error.retry_after = retry_after;
    for part in &problem.subproblems {
        let name = part.identifier.as_ref().map(|identifier| identifier.authorized(false).to_string());
        let detail = part.detail.as_deref().unwrap_or_default();
        error.message.push_str(&format!("; {}: {detail}", name.as_deref().unwrap_or_default()));
        error.names.extend(name);
    }
    error
}

fn urn(problem: &Problem) -> &str {
    problem.r#type.as_deref().unwrap_or_default()
}

fn problem_type(problem: &Problem) -> ProblemType {
    ProblemType::of_urn(urn(problem))
}

/// Reads the problem document of an unsuccessful answer. Of its members, those that are malformed are left out.
fn problem_of(answer: &Answer) -> Result<Problem, Error> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |name: &str| body[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let parts = body["subproblems"].as_array().into_iter().flatten();
    let mut problem = Problem {
        r#type: text("type"),
        detail: text("detail"),
        status: None,
        subproblems: parts.filter_map(|part| Subproblem::deserialize(part).ok()).collect(),
    };
    if problem.r#type.is_none() {
        if answer.status != StatusCode::TOO_MANY_REQUESTS {
            let mut error = Error::network(format!("status {}: {}", answer.status, answer.excerpt()));
            error.retry_after = answer.retry_after();
            return Err(error);
        }
        problem.r#type = Some("rateLimited".into());
        problem.detail = Some(answer.excerpt());
    }
    Ok(problem)
}

fn refusal(answer: &Answer, problem: &Problem) -> Error {
    let mut error = error_of(problem, answer.retry_after());
    if answer.status == StatusCode::TOO_MANY_REQUESTS {
        error.kind = Kind::RateLimited;
    } else if answer.status.is_server_error() {
        error.kind = Kind::Network;
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_sorted_by_what_is_to_be_done() {
        let problem: Problem = serde_json::from_str(
            r#"{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"no","status":400,"subproblems":
            [{"type":"x","detail":"is blocked","identifier":{"type":"dns","value":"bad.test"}}]}"#,
        )
        .unwrap();
        let error = error_of(&problem, None);
        assert_eq!(error.problem, Some(ProblemType::RejectedIdentifier));
        assert_eq!((error.kind, &error.names[..]), (Kind::Refused, &["bad.test".to_owned()][..]));
        assert_eq!(error.message, "rejectedIdentifier: no; bad.test: is blocked");
        let limited: Problem =
            serde_json::from_str(r#"{"type":"urn:ietf:params:acme:error:rateLimited"}"#).unwrap();
        assert_eq!(error_of(&limited, Some(Duration::from_secs(9))).kind, Kind::RateLimited);
    }
}
