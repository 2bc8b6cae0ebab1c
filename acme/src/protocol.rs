//! The protocol (RFC 8555): directory, nonces, signed requests, errors.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Answer, Http, Message};
use super::error::{Error, Kind, ProblemType};
use super::key::AccountKey;

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

/// Who signs: a new key, or an account, which is named by its URL.
#[derive(Clone, Copy)]
pub(super) enum Signer<'a> {
    New(&'a AccountKey),
    Account(&'a AccountKey, &'a str),
}

/// Whether a request is retried after network failures.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Repeat {
    /// Never: it might be done twice.
    Never,
    /// A few times.
    Safe,
}

/// An error of the authority (RFC 8555 section 6.7).
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Problem {
    #[serde(default, rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default)]
    pub(super) subproblems: Vec<Subproblem>,
}

/// An error about one name.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Subproblem {
    #[serde(default)]
    pub(super) identifier: Option<Identifier>,
    #[serde(default)]
    pub(super) detail: String,
}

/// An identifier (RFC 8555 section 9.7.7).
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Identifier {
    #[serde(default)]
    pub(super) value: String,
}

impl Problem {
    /// Its type.
    fn problem_type(&self) -> ProblemType {
        ProblemType::of_urn(&self.kind)
    }

    /// Returns the text, with those of its subproblems. Types are shortened to their last part: `rateLimited`.
    fn text(&self) -> String {
        let short = self.kind.rsplit(':').next().unwrap_or_default();
        let mut text = format!("{short}: {}", self.detail);
        for part in &self.subproblems {
            let name = part.identifier.as_ref().map_or("", |identifier| identifier.value.as_str());
            text.push_str(&format!("; {name}: {}", part.detail));
        }
        text
    }

    /// Converts it to an error.
    pub(super) fn error(&self, retry_after: Option<Duration>) -> Error {
        let problem = self.problem_type();
        let kind = match problem {
            ProblemType::RateLimited => Kind::RateLimited,
            ProblemType::ServerInternal => Kind::Network,
            ProblemType::Dns => Kind::Dns,
            _ => Kind::Refused,
        };
        let mut error = Error::new(kind, self.text());
        error.problem = Some(problem);
        error.retry_after = retry_after;
        let blamed = self.subproblems.iter().filter_map(|part| part.identifier.as_ref());
        error.names = blamed.map(|identifier| identifier.value.clone()).collect();
        error
    }
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

    /// Sends a signed request; `None` is POST-as-GET. Retries with another nonce if one is rejected.
    pub(super) async fn post(
        &self,
        signer: Signer<'_>,
        url: &str,
        payload: Option<&Value>,
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

    async fn post_once(
        &self,
        signer: Signer<'_>,
        url: &str,
        payload: Option<&Value>,
    ) -> Result<Answer, Error> {
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
            if problem.problem_type() != ProblemType::BadNonce {
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

/// A flattened JSON Web Signature (RFC 7515 section 7.2.2).
fn signed(
    signer: Signer<'_>,
    url: &str,
    nonce: Option<&str>,
    payload: Option<&Value>,
) -> Result<Value, Error> {
    let (key, who) = match signer {
        Signer::New(key) => (key, format!(r#""jwk":{}"#, key.jwk())),
        Signer::Account(key, account) => (key, format!(r#""kid":{}"#, json!(account))),
    };
    let nonce = nonce.map(|nonce| format!(r#""nonce":{},"#, json!(nonce))).unwrap_or_default();
    let header = format!(r#"{{"alg":"{}",{who},{nonce}"url":{}}}"#, key.algorithm(), json!(url));
    let protected = BASE64_URL_SAFE_NO_PAD.encode(header);
    let payload =
        payload.map(|payload| BASE64_URL_SAFE_NO_PAD.encode(payload.to_string())).unwrap_or_default();
    let signature = key.sign(format!("{protected}.{payload}").as_bytes())?;
    Ok(json!({
        "protected": protected,
        "payload": payload,
        "signature": BASE64_URL_SAFE_NO_PAD.encode(signature),
    }))
}

/// Builds the external account binding (RFC 8555 section 7.3.4).
pub(super) fn binding(key: &AccountKey, url: &str, kid: &str, hmac: &str) -> Result<Value, Error> {
    let secret = BASE64_URL_SAFE_NO_PAD
        .decode(hmac.trim_end_matches('='))
        .map_err(|error| Error::local(format!("eab.hmacEncoded is not base64url: {error}")))?;
    let header = format!(r#"{{"alg":"HS256","kid":{},"url":{}}}"#, json!(kid), json!(url));
    let protected = BASE64_URL_SAFE_NO_PAD.encode(header);
    let payload = BASE64_URL_SAFE_NO_PAD.encode(key.jwk());
    let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &secret);
    let tag = aws_lc_rs::hmac::sign(&secret, format!("{protected}.{payload}").as_bytes());
    Ok(json!({
        "protected": protected,
        "payload": payload,
        "signature": BASE64_URL_SAFE_NO_PAD.encode(tag.as_ref()),
    }))
}

/// Builds the request to change the key of an account, signed by the new key (RFC 8555 section 7.3.5).
pub(super) fn key_change(
    old: &AccountKey,
    new: &AccountKey,
    account: &str,
    url: &str,
) -> Result<Value, Error> {
    let old: Value = serde_json::from_str(&old.jwk()).map_err(|error| Error::local(error.to_string()))?;
    signed(Signer::New(new), url, None, Some(&json!({ "account": account, "oldKey": old })))
}

/// Converts an unsuccessful answer to an error.
fn problem_of(answer: &Answer) -> Result<Problem, Error> {
    let parsed =
        serde_json::from_slice::<Problem>(&answer.body).ok().filter(|problem| !problem.kind.is_empty());
    match parsed {
        Some(problem) => Ok(problem),
        None if answer.status == StatusCode::TOO_MANY_REQUESTS => {
            Ok(Problem { kind: "rateLimited".into(), detail: answer.excerpt(), ..Problem::default() })
        }
        None => {
            let mut error = Error::network(format!("status {}: {}", answer.status, answer.excerpt()));
            error.retry_after = answer.retry_after();
            Err(error)
        }
    }
}

fn refusal(answer: &Answer, problem: &Problem) -> Error {
    let mut error = problem.error(answer.retry_after());
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
        let error = problem.error(None);
        assert_eq!(error.problem, Some(ProblemType::RejectedIdentifier));
        assert_eq!((error.kind, &error.names[..]), (Kind::Refused, &["bad.test".to_owned()][..]));
        assert_eq!(error.message, "rejectedIdentifier: no; bad.test: is blocked");
        let limited = Problem { kind: "urn:ietf:params:acme:error:rateLimited".into(), ..Problem::default() };
        assert_eq!(limited.error(Some(Duration::from_secs(9))).kind, Kind::RateLimited);
    }

    #[test]
    fn a_signature_names_key_or_account() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = AccountKey::read(&pair.serialize_der()).unwrap();
        let header = |signer| {
            let whole = signed(signer, "https://ca/x", Some("n"), None).unwrap();
            assert_eq!(whole["payload"], "");
            let protected = BASE64_URL_SAFE_NO_PAD.decode(whole["protected"].as_str().unwrap()).unwrap();
            serde_json::from_slice::<Value>(&protected).unwrap()
        };
        assert_eq!(header(Signer::New(&key))["jwk"]["kty"], "EC");
        let known = header(Signer::Account(&key, "https://ca/acct/1"));
        assert_eq!(
            (&known["kid"], &known["nonce"], &known["alg"]),
            (&json!("https://ca/acct/1"), &json!("n"), &json!("ES256"))
        );
    }
}
