//! A minimal client of etcd's JSON gateway (v3): reads keys and follows their changes.
//!
//! Keys and values are base64, numbers are strings, and zero or empty fields are omitted.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tidegate_clients::connect::{Connector, Syntax, Tls};
use tidegate_clients::http::{HttpClient, HttpError, JsonStream, Limits, StreamError, request};
use tidegate_core::values::Secret;

use crate::Error;

/// Syntax of endpoints.
const SYNTAX: Syntax = Syntax {
    option: "endpoints",
    plain: &["http", "tcp"],
    secure: &["https"],
    otherwise: "http",
    ports: (2379, 2379),
    example: "127.0.0.1:2379",
};
/// Limits of one response. Pages of keys and batches of changes are far smaller.
const TIMEOUT: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits { head: TIMEOUT, time: TIMEOUT, size: MAX_RESPONSE };
const MAX_RESPONSE: usize = 64 << 20;
/// Number of keys per request.
const PAGE: usize = 1000;
/// Maximum length of a quoted response in errors, in characters.
const MAX_QUOTE: usize = 200;

/// Failure of a request to a server, or of a watch.
#[derive(Debug, thiserror::Error)]
pub(super) enum EtcdError {
    /// The server is unreachable or closes the connection.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The stream of changes failed.
    #[error(transparent)]
    Changes(#[from] StreamError),
    /// The server closed the stream of changes.
    #[error("the server closed the stream of changes")]
    WatchEnded,
    /// The server does not stream changes.
    #[error("/v3/watch: {status}")]
    WatchRefused {
        /// The status.
        status: StatusCode,
    },
    /// The server reports an error on the stream of changes.
    #[error("the watch failed: {error}")]
    WatchFailed {
        /// The error as returned by the gateway.
        error: Value,
    },
    /// The server cancelled the watch.
    #[error("the watch was canceled: {reason}")]
    WatchCanceled {
        /// The reason given.
        reason: String,
    },
    /// The revision to follow from was compacted.
    #[error("changes were compacted before they were seen: everything is read again")]
    Compacted,
    /// The keys differ from those of the server, although the watch reported nothing.
    #[error("the watch has missed changes: everything is read again")]
    MissedChanges,
    /// There are too many keys below the roots.
    #[error("more than {limit} keys")]
    TooManyKeys {
        /// The maximum number of keys.
        limit: usize,
    },
    /// The login failed.
    #[error("the login is refused: {0}")]
    Login(#[source] Box<EtcdError>),
    /// The server does not require a login.
    #[error("{path}: authentication is not enabled")]
    AuthDisabled {
        /// The requested path.
        path: String,
    },
    /// The token of the login is not a valid header value.
    #[error("the login returned an invalid token")]
    Token,
    /// The server has no JSON gateway at this path.
    #[error("{path}: 404: this is not etcd 3.4 or newer, or its JSON gateway is off (`enable-grpc-gateway`)")]
    NoGateway {
        /// The requested path.
        path: String,
    },
    /// The server responds with an error.
    #[error("{path}: {status}: {text}")]
    Status {
        /// The requested path.
        path: String,
        /// The status.
        status: StatusCode,
        /// Its message, or the start of the body.
        text: String,
    },
    /// The response is not the expected JSON.
    #[error("{path}: unexpected response: {source}")]
    UnexpectedAnswer {
        /// The requested path.
        path: String,
        /// The cause.
        source: serde_json::Error,
    },
}

/// A client of one server.
pub(super) struct Client {
    http: HttpClient,
    username: String,
    password: Secret,
    /// The token of the login.
    token: Mutex<Option<HeaderValue>>,
}

/// A key and its value.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pair {
    #[serde(deserialize_with = "bytes")]
    pub(super) key: Vec<u8>,
    #[serde(deserialize_with = "bytes")]
    pub(super) value: Vec<u8>,
    /// The revision of its last change.
    #[serde(deserialize_with = "number")]
    pub(super) mod_revision: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Header {
    #[serde(deserialize_with = "number")]
    revision: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RangeAnswer {
    header: Header,
    kvs: Vec<Pair>,
    more: bool,
    #[serde(deserialize_with = "number")]
    count: u64,
}

/// The number of keys below the roots, and the latest revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) count: u64,
    pub(super) newest: u64,
}

/// One message of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WatchMessage {
    result: WatchAnswer,
    error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WatchAnswer {
    canceled: bool,
    cancel_reason: String,
    #[serde(deserialize_with = "number")]
    compact_revision: u64,
    events: Vec<Event>,
}

/// A change of one key.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Event {
    /// `DELETE`, or empty for a write.
    #[serde(rename = "type")]
    kind: String,
    pub(super) kv: Pair,
}

impl Event {
    /// Returns true if the key was deleted.
    pub(super) fn deletes(&self) -> bool {
        self.kind == "DELETE"
    }
}

/// A stream of changes.
pub(super) struct Watch(JsonStream<WatchMessage>);

impl Watch {
    /// Returns the next changes; empty for a progress message.
    pub(super) async fn next(&mut self) -> Result<Vec<Event>, EtcdError> {
        let told = self.0.next().await?.ok_or(EtcdError::WatchEnded)?;
        if let Some(error) = told.error {
            return Err(EtcdError::WatchFailed { error });
        }
        let WatchAnswer { canceled, cancel_reason, compact_revision, events } = told.result;
        if compact_revision > 0 {
            return Err(EtcdError::Compacted);
        }
        if canceled {
            return Err(EtcdError::WatchCanceled { reason: cancel_reason });
        }
        Ok(events)
    }
}

impl Client {
    /// Returns a client, which connects on the first request.
    pub(super) fn new(
        endpoint: &str,
        tls: Option<&Tls>,
        username: &str,
        password: &Secret,
    ) -> Result<Self, Error> {
        // An explicit scheme takes precedence over TLS options.
        let tls = tls.filter(|_| !endpoint.trim().starts_with("http://"));
        let connector = Connector::new(&SYNTAX, endpoint, tls)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self {
            http: HttpClient::new(connector, headers, SYNTAX.option)?,
            username: username.to_owned(),
            password: password.clone(),
            token: Mutex::new(None),
        })
    }

    /// Returns the endpoint, for messages.
    pub(super) fn endpoint(&self) -> &str {
        self.http.endpoint()
    }

    /// Returns all keys below the roots at one revision, and the revision.
    pub(super) async fn read(
        &self,
        roots: &[String],
        max_keys: usize,
    ) -> Result<(Vec<Pair>, u64), EtcdError> {
        let (mut pairs, mut revision) = (Vec::new(), 0);
        for root in roots {
            let (mut from, end) = range(root);
            loop {
                let question = json!({"key": STANDARD.encode(&from), "range_end": STANDARD.encode(&end),
                    "limit": PAGE, "revision": revision});
                let answer: RangeAnswer = self.request("/v3/kv/range", &question).await?;
                // Further pages are read at the revision of the first.
                revision = if revision == 0 { answer.header.revision } else { revision };
                let last = answer.kvs.last().map(|pair| pair.key.clone());
                pairs.extend(answer.kvs);
                if pairs.len() > max_keys {
                    return Err(EtcdError::TooManyKeys { limit: max_keys });
                }
                match last {
                    Some(last) if answer.more => from = [&last[..], &[0]].concat(),
                    _ => break,
                }
            }
        }
        Ok((pairs, revision))
    }

    /// Returns the current extent of the roots.
    pub(super) async fn extent(&self, roots: &[String]) -> Result<Extent, EtcdError> {
        let mut extent = Extent::default();
        for root in roots {
            let (from, end) = range(root);
            let question = json!({"key": STANDARD.encode(from), "range_end": STANDARD.encode(end), "limit": 1,
                "sort_order": "DESCEND", "sort_target": "MOD", "keys_only": true});
            let answer: RangeAnswer = self.request("/v3/kv/range", &question).await?;
            let newest = answer.kvs.first().map_or(0, |pair| pair.mod_revision);
            extent = Extent { count: extent.count + answer.count, newest: extent.newest.max(newest) };
        }
        Ok(extent)
    }

    /// Watches changes below the roots from a revision on.
    pub(super) async fn watch(&self, roots: &[String], revision: u64) -> Result<Watch, EtcdError> {
        let questions = roots.iter().zip(1..).map(|(root, id)| {
            let (from, end) = range(root);
            json!({"create_request": {"key": STANDARD.encode(from), "range_end": STANDARD.encode(end),
                "start_revision": revision, "watch_id": id}})
            .to_string()
        });
        let body = questions.collect::<Vec<_>>().join("\n");
        let mut request = request(Method::POST, "/v3/watch", body.into())?;
        if let Some(token) = self.token.lock().clone() {
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        // The response head arrives with the first message, which confirms the watch.
        let response = self.http.open_with(request, TIMEOUT).await?;
        if !response.status().is_success() {
            return Err(EtcdError::WatchRefused { status: response.status() });
        }
        Ok(Watch(JsonStream::new(response.into_body(), MAX_RESPONSE)))
    }

    /// Sends a request, after a login if needed.
    async fn request<T: DeserializeOwned>(&self, path: &str, question: &Value) -> Result<T, EtcdError> {
        if !self.username.is_empty() && self.token.lock().is_none() {
            self.log_in().await?;
        }
        let mut response = self.post(path, question).await?;
        if response.status() == StatusCode::UNAUTHORIZED && !self.username.is_empty() {
            // Tokens expire.
            self.log_in().await?;
            response = self.post(path, question).await?;
        }
        read(path, &response)
    }

    async fn log_in(&self) -> Result<(), EtcdError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Answer {
            token: String,
        }
        let path = "/v3/auth/authenticate";
        *self.token.lock() = None;
        let question = json!({"name": self.username, "password": self.password.expose()});
        let answer: Answer = match read(path, &self.post(path, &question).await?) {
            Ok(answer) => answer,
            // As in Traefik's client, credentials are ignored if authentication is disabled.
            Err(EtcdError::AuthDisabled { .. }) => return Ok(()),
            Err(error) => return Err(EtcdError::Login(Box::new(error))),
        };
        let mut token = HeaderValue::from_str(&answer.token).map_err(|_| EtcdError::Token)?;
        token.set_sensitive(true);
        *self.token.lock() = Some(token);
        Ok(())
    }

    async fn post(&self, path: &str, question: &Value) -> Result<Response<Bytes>, EtcdError> {
        let mut request = request(Method::POST, path, question.to_string().into())?;
        if let Some(token) = self.token.lock().clone() {
            request.headers_mut().insert(header::AUTHORIZATION, token);
        }
        Ok(self.http.send_idempotent(request, LIMITS).await?)
    }
}

/// Returns the range of keys below a root: the first key, and the one after the last.
fn range(root: &str) -> (Vec<u8>, Vec<u8>) {
    // `0` comes right after `/`.
    (format!("{root}/").into_bytes(), format!("{root}0").into_bytes())
}

fn read<T: DeserializeOwned>(path: &str, response: &Response<Bytes>) -> Result<T, EtcdError> {
    match response.status() {
        StatusCode::NOT_FOUND => Err(EtcdError::NoGateway { path: path.to_owned() }),
        status if !status.is_success() => {
            let text = String::from_utf8_lossy(response.body());
            let said = serde_json::from_str::<Value>(&text).ok();
            let said = said.as_ref().and_then(|value| value.get("message")?.as_str()).unwrap_or(text.trim());
            // The gRPC code only says that a precondition failed, so the text has to be matched.
            if said.contains("authentication is not enabled") {
                return Err(EtcdError::AuthDisabled { path: path.to_owned() });
            }
            let text = said.chars().take(MAX_QUOTE).collect();
            Err(EtcdError::Status { path: path.to_owned(), status, text })
        }
        _ => serde_json::from_slice(response.body())
            .map_err(|source| EtcdError::UnexpectedAnswer { path: path.to_owned(), source }),
    }
}

/// Decodes a number, which the gateway sends as a string.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => text.parse().map_err(serde::de::Error::custom),
        Value::Number(number) => {
            number.as_u64().ok_or_else(|| serde::de::Error::custom("expected a number of at least 0"))
        }
        _ => Err(serde::de::Error::custom("expected a number")),
    }
}

fn bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    STANDARD.decode(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_messages_are_decoded() {
        let text = r#"{"result": {"header": {"revision": "7"}, "events": [
            {"kv": {"key": "YS9i", "mod_revision": "6", "value": "dg=="}},
            {"type": "DELETE", "kv": {"key": "YS9j", "mod_revision": "7"}}]}}"#;
        let told: WatchMessage = serde_json::from_str(text).expect("read");
        let [put, delete] = &told.result.events[..] else { panic!("{told:?}") };
        assert_eq!((&put.kv.key[..], &put.kv.value[..], put.deletes()), (&b"a/b"[..], &b"v"[..], false));
        assert_eq!((&delete.kv.key[..], delete.deletes(), delete.kv.mod_revision), (&b"a/c"[..], true, 7));
        for bad in
            [r#"{"result": {"events": [{"kv": {"key": "*"}}]}}"#, r#"{"result": {"compact_revision": -1}}"#]
        {
            assert!(serde_json::from_str::<WatchMessage>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_has_the_keys_below_its_root_and_no_others() {
        let (from, end) = range("edge");
        for (key, inside) in [("edge/", true), ("edge/http/x", true), ("edge", false), ("edges/x", false)] {
            assert_eq!(&from[..] <= key.as_bytes() && key.as_bytes() < &end[..], inside, "{key}");
        }
    }

    #[test]
    fn endpoints_are_parsed() {
        let client = |endpoint: &str| Client::new(endpoint, None, "", &Secret::default());
        assert!(client("etcd.test:2379").is_ok());
        assert!(client("https://[::1]:2379").is_ok());
        assert!(client("grpc://h:1").is_err());
    }
}
