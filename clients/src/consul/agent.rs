//! A minimal client of Consul's HTTP API: reads, blocking queries and writes.
//!
//! Blocking queries follow Consul's rules for clients: an index that goes backwards is reset, one below 1
//! counts as 1, and an agent that returns immediately without changes is queried with increasing delays.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use serde::de::DeserializeOwned;
use tidegate_core::values::Secret;

use crate::OptionError;
use crate::connect::{Connector, Syntax, Tls};
use crate::http::{HttpClient, HttpError, Limits, basic, escape, request};
use crate::peer_state::{PeerState, System};

/// Timeout for the head of a response, in addition to the time that a query blocks.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a response, in bytes.
const MAX_RESPONSE: usize = 256 << 20;
/// Default time that a query blocks.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// Maximum length of the excerpt of a response in an error, in characters.
const MAX_EXCERPT: usize = 200;
/// Minimum delay between two responses to a blocking query, and the additional delay per byte of a response.
const MIN_DELAY: Duration = Duration::from_millis(25);
const DELAY_PER_BYTE: Duration = Duration::from_nanos(50);
/// First delay after a failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(10);
/// First delay after the agent rejected a request, as it is overloaded or the token lacks permissions.
const FIRST_DELAY_WHEN_REJECTED: Duration = Duration::from_secs(1);
/// A response without changes within this time means that the query did not block.
const TOO_SOON: Duration = Duration::from_millis(500);

/// The address and connection options of an agent.
pub struct Address<'a> {
    /// The option that holds the address.
    pub option: &'static str,
    /// Host and port, or a URL; empty for `CONSUL_HTTP_ADDR` or the local agent.
    pub address: &'a str,
    /// `http` or `https`; empty for that of the address.
    pub scheme: &'a str,
    /// TLS options for the agent.
    pub tls: Option<&'a Tls>,
    /// ACL token; empty for `CONSUL_HTTP_TOKEN`.
    pub token: &'a Secret,
    /// User name and password of basic authentication.
    pub basic: Option<(&'a str, &'a Secret)>,
    /// Datacenter; empty for that of the agent.
    pub datacenter: &'a str,
    /// Namespace; empty for the default one.
    pub namespace: &'a str,
    /// Admin partition; empty for that of the agent.
    pub partition: &'a str,
    /// How long queries block; 0 for a minute.
    pub wait: Duration,
}

/// A client for one agent.
pub struct Agent {
    http: HttpClient,
    state: Arc<PeerState>,
    /// Common parameters of all queries: `dc=…&ns=…`.
    scope: String,
    wait: Duration,
}

/// A response.
#[derive(Debug)]
pub struct Answer<T> {
    /// The value; `None` if it does not exist.
    pub value: Option<T>,
    /// `X-Consul-Index`.
    pub index: u64,
    /// Size of the body, in bytes.
    pub size: usize,
}

/// The permissions of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// All requested permissions.
    All,
    /// Not all requested permissions.
    Fewer,
    /// ACLs are disabled.
    NotChecked,
}

/// Failure of a request to an agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent is unreachable or closes the connection.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The agent responds with an error.
    #[error("{path}: {status}: {text}")]
    Status {
        /// The requested path.
        path: String,
        /// The status.
        status: StatusCode,
        /// The start of the body.
        text: String,
    },
    /// The cluster has no leader, so the response may be out of date.
    #[error("{path}: the cluster has no leader, so the response may be out of date")]
    NoLeader {
        /// The requested path.
        path: String,
    },
    /// The response is not the expected JSON.
    #[error("{path}: unexpected response: {source}")]
    UnexpectedAnswer {
        /// The requested path.
        path: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// The agent is too old for this request.
    #[error("{path}: not supported by the agent")]
    Unsupported {
        /// The requested path.
        path: String,
    },
}

impl AgentError {
    /// Returns true if the agent responded, but not with a usable result.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Status { .. } | Self::NoLeader { .. } | Self::UnexpectedAnswer { .. } => true,
            Self::Http(_) | Self::Unsupported { .. } => false,
        }
    }
}

impl Agent {
    /// Creates a client without connecting.
    pub fn new(place: &Address<'_>) -> Result<Self, OptionError> {
        let syntax = Syntax {
            option: place.option,
            plain: &["http", "tcp"],
            secure: &["https"],
            otherwise: "http",
            ports: (8500, 8500),
            example: "127.0.0.1:8500",
        };
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let address = match place.address {
            "" => variable("CONSUL_HTTP_ADDR").unwrap_or_else(|| "127.0.0.1:8500".to_owned()),
            address => address.to_owned(),
        };
        let from_env =
            variable("CONSUL_HTTP_SSL").is_some_and(|value| matches!(value.as_str(), "1" | "true"));
        let scheme = match place.scheme {
            "" if from_env => "https",
            "" if place.tls.is_some() => "https",
            scheme => scheme,
        };
        if !matches!(scheme, "" | "http" | "https") {
            let message = format!("`{scheme}` is not supported: expected `http` or `https`");
            return Err(OptionError::new("endpoint.scheme", message));
        }
        let address = match address.contains("://") || scheme.is_empty() {
            true => address,
            false => format!("{scheme}://{address}"),
        };
        // An explicit scheme takes precedence over TLS options.
        let tls = place.tls.filter(|_| !address.starts_with("http://"));
        let connector = Connector::new(&syntax, &address, tls)?;
        let mut headers = HeaderMap::new();
        let token = match place.token.is_empty() {
            true => variable("CONSUL_HTTP_TOKEN").unwrap_or_default(),
            false => place.token.expose().to_owned(),
        };
        if !token.is_empty() {
            let mut value = HeaderValue::from_str(&token)
                .map_err(|_| OptionError::new("token", "invalid characters in the token"))?;
            value.set_sensitive(true);
            headers.insert("x-consul-token", value);
        }
        if let Some(value) = place.basic.and_then(|(username, password)| basic(username, password)) {
            headers.insert(header::AUTHORIZATION, value);
        }
        let mut scope = String::new();
        for (key, value) in
            [("dc", place.datacenter), ("ns", place.namespace), ("partition", place.partition)]
        {
            if !value.is_empty() {
                scope.push_str(&format!("{key}={}&", escape(value)));
            }
        }
        let wait = if place.wait.is_zero() { DEFAULT_WAIT } else { place.wait };
        let http = HttpClient::new(connector, headers, place.option)?;
        Ok(Self { state: PeerState::of(System::Consul, http.endpoint()), http, scope, wait })
    }

    /// Returns the endpoint of the agent, for messages.
    pub fn endpoint(&self) -> &str {
        self.http.endpoint()
    }

    /// Reads a path once. `path` and `query` (`stale&cached`) are escaped.
    pub async fn ask<T: DeserializeOwned>(&self, path: &str, query: &str) -> Result<Answer<T>, AgentError> {
        let limits = Limits { head: HEAD_TIMEOUT, time: TIMEOUT, size: MAX_RESPONSE };
        let target = self.target(path, query);
        self.record(read(path, self.http.get(&target, limits).await))
    }

    /// Reads a path once its index differs from `index`, or when the blocking time is over.
    async fn ask_blocking<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &str,
        index: u64,
    ) -> Result<Answer<T>, AgentError> {
        if index == 0 {
            return self.ask(path, query).await;
        }
        // The agent adds up to a sixteenth as jitter.
        let wait = self.wait * 17 / 16;
        let limits = Limits { head: wait + HEAD_TIMEOUT, time: wait + TIMEOUT, size: MAX_RESPONSE };
        let wait = self.wait.as_millis();
        let target = self.target(path, &format!("{query}&index={index}&wait={wait}ms"));
        // On a reused connection, a retry could reach another agent with other indexes.
        self.record(read(path, self.http.get_on_new_connection(&target, limits).await))
    }

    /// Writes to a path and returns the response with any status. A failed write may still have been applied.
    pub async fn put(&self, path: &str, query: &str, body: Bytes) -> Result<Response<Bytes>, AgentError> {
        let limits = Limits { head: WRITE_TIMEOUT, time: WRITE_TIMEOUT, size: MAX_RESPONSE };
        let request = request(Method::PUT, &self.target(path, query), body)?;
        let answer = self.http.send(request, limits).await;
        self.state.record(answer.as_ref().is_ok_and(|answer| !answer.status().is_server_error()));
        Ok(answer?)
    }

    /// Records whether the agent gave a usable answer.
    fn record<T>(&self, outcome: Result<T, AgentError>) -> Result<T, AgentError> {
        self.state.record(outcome.is_ok());
        outcome
    }

    /// Returns whether the token may read all of these, as lists silently omit what it may not read. Uses the
    /// endpoint of Consul's dashboard, available since 1.7.
    pub async fn rights(&self, resource: &str, names: &[String]) -> Result<Rights, AgentError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Right {
            allow: bool,
        }
        let path = "/v1/internal/acl/authorize";
        let question: Vec<_> = names
            .iter()
            .map(|name| serde_json::json!({"Resource": resource, "Segment": name, "Access": "read"}))
            .collect();
        let body = Bytes::from(serde_json::Value::from(question).to_string());
        let limits = Limits { head: HEAD_TIMEOUT, time: TIMEOUT, size: MAX_RESPONSE };
        let request = request(Method::POST, &self.target(path, ""), body)?;
        let answer = self.http.send_idempotent(request, limits).await;
        if answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED) {
            return Ok(Rights::NotChecked);
        }
        match read::<Vec<Right>>(path, answer)?.value {
            Some(rights) if rights.len() == names.len() => match rights.iter().all(|right| right.allow) {
                true => Ok(Rights::All),
                false => Ok(Rights::Fewer),
            },
            _ => Err(AgentError::Unsupported { path: path.to_owned() }),
        }
    }

    fn target(&self, path: &str, query: &str) -> String {
        let query = format!("{}{query}", self.scope);
        let query = query.trim_matches('&');
        if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
    }
}

/// Decodes a response of the agent.
fn read<T: DeserializeOwned>(
    path: &str,
    answer: Result<Response<Bytes>, HttpError>,
) -> Result<Answer<T>, AgentError> {
    let answer = answer?;
    let index = header_value(&answer, "x-consul-index").and_then(|text| text.parse().ok()).unwrap_or(0);
    let size = answer.body().len();
    match answer.status() {
        StatusCode::NOT_FOUND => return Ok(Answer { value: None, index, size }),
        status if !status.is_success() => {
            let text = String::from_utf8_lossy(answer.body());
            let text: String = text.trim().chars().take(MAX_EXCERPT).collect();
            return Err(AgentError::Status { path: path.to_owned(), status, text });
        }
        _ => {}
    }
    // Local data of the agent, such as certificates, does not depend on a leader.
    let of_servers = !path.starts_with("/v1/agent/");
    if of_servers && header_value(&answer, "x-consul-knownleader") == Some("false") {
        return Err(AgentError::NoLeader { path: path.to_owned() });
    }
    let value = serde_json::from_slice(answer.body())
        .map_err(|source| AgentError::UnexpectedAnswer { path: path.to_owned(), source })?;
    Ok(Answer { value: Some(value), index, size })
}

fn header_value<'r>(answer: &'r Response<Bytes>, name: &str) -> Option<&'r str> {
    answer.headers().get(name).and_then(|value| value.to_str().ok())
}

/// Returns the delay after a response of this size in bytes.
pub fn pause_after(size: usize) -> Duration {
    MIN_DELAY + DELAY_PER_BYTE * u32::try_from(size).unwrap_or(u32::MAX)
}

/// A repeated blocking query.
pub struct Query {
    path: String,
    query: String,
    index: u64,
    /// Number of consecutive responses that failed, came too soon, or had a lower index.
    bad: u32,
    /// Whether the last index went backwards.
    backwards: bool,
    /// Delay before the next request.
    pause: Duration,
}

impl Query {
    /// Creates a query. The first response comes immediately.
    pub fn new(path: impl Into<String>, query: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            query: query.into(),
            index: 0,
            bad: 0,
            backwards: false,
            pause: Duration::ZERO,
        }
    }

    /// Returns the next response that may have changes. After failures, calls wait with exponential backoff
    /// and jitter.
    pub async fn next<T: DeserializeOwned>(&mut self, agent: &Agent) -> Result<Answer<T>, AgentError> {
        loop {
            if !self.pause.is_zero() {
                tokio::time::sleep(std::mem::take(&mut self.pause)).await;
            }
            let asked = tokio::time::Instant::now();
            match agent.ask_blocking(&self.path, &self.query, self.index).await {
                Ok(answer) => {
                    if self.record(answer.index, asked.elapsed(), answer.size) {
                        return Ok(answer);
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    return Err(error);
                }
            }
        }
    }

    /// Records a response. Returns true if it may have changes.
    fn record(&mut self, index: u64, took: Duration, size: usize) -> bool {
        let index = index.max(1);
        let before = self.index;
        let news = index != before;
        let backwards = index < before;
        self.index = if backwards { 0 } else { index };
        let gap = pause_after(size);
        if backwards || (!news && took < TOO_SOON) {
            self.bad += 1;
            self.pause = backed_off(FIRST_DELAY, self.bad).max(gap);
        } else {
            // The response right after a lower index does not count as a success.
            self.bad = if self.backwards { self.bad } else { 0 };
            self.pause = gap;
        }
        self.backwards = backwards;
        // After a lower index, the query is repeated without an index, and that response is used.
        news
    }

    fn failed(&mut self, error: &AgentError) {
        // The agent may have restarted with a lower index, and would then block until the next change.
        self.index = 0;
        self.bad += 1;
        let first = if error.is_refusal() { FIRST_DELAY_WHEN_REJECTED } else { FIRST_DELAY };
        self.pause = backed_off(first, self.bad);
    }
}

/// Returns the delay before another attempt: exponential backoff with jitter.
pub fn backed_off(first: Duration, failures: u32) -> Duration {
    let pause = first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_DELAY);
    pause.mul_f64(0.75 + fastrand::f64() * 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn query() -> Query {
        Query::new("/v1/catalog/services", "")
    }

    #[test]
    fn an_index_that_goes_backwards_is_reset() {
        let mut query = query();
        assert!(query.record(7, LONG, 10));
        assert!(!query.record(7, LONG, 10), "nothing new");
        assert!(query.record(9, LONG, 10));
        assert_eq!(query.index, 9);
        assert!(query.record(3, LONG, 10));
        assert_eq!(query.index, 0, "the next query does not block");
        assert!(query.pause >= FIRST_DELAY.mul_f64(0.75), "{:?}", query.pause);
        assert!(query.record(3, LONG, 10));
        assert_eq!(query.index, 3);
    }

    #[test]
    fn an_index_of_zero_counts_as_one() {
        let mut query = query();
        assert!(query.record(0, LONG, 10));
        assert_eq!(query.index, 1, "with 0, the agent would never block");
    }

    #[test]
    fn an_agent_that_does_not_block_is_queried_with_increasing_delays() {
        let mut query = query();
        assert!(query.record(5, Duration::ZERO, 10));
        let mut last = Duration::ZERO;
        for _ in 0..12 {
            assert!(!query.record(5, Duration::ZERO, 10));
            last = query.pause;
        }
        assert!(last >= MAX_DELAY.mul_f64(0.75), "{last:?}");
        assert!(query.record(6, LONG, 10));
        assert!(query.pause < FIRST_DELAY, "the delay is reset");
        // An index that alternates between two servers must not cause a flood of requests.
        for _ in 0..12 {
            query.record(1, LONG, 10);
            last = query.pause;
            query.record(9, Duration::ZERO, 10);
        }
        assert!(last >= MAX_DELAY.mul_f64(0.75), "{last:?}");
    }

    #[test]
    fn large_responses_are_requested_less_often() {
        let mut query = query();
        query.record(5, LONG, 10 << 20);
        assert!(query.pause >= Duration::from_millis(500), "{:?}", query.pause);
    }

    #[test]
    fn addresses_and_schemes_are_parsed() {
        let agent = |address: &str, scheme: &str| {
            Agent::new(&Address {
                option: "endpoint.address",
                address,
                scheme,
                tls: None,
                token: &Secret::default(),
                basic: None,
                datacenter: "",
                namespace: "",
                partition: "",
                wait: Duration::ZERO,
            })
            .map(|agent| agent.endpoint().to_owned())
            .map_err(|error| error.to_string())
        };
        assert_eq!(agent("consul.test:8500", "").as_deref(), Ok("consul.test:8500"));
        assert_eq!(agent("consul.test:8501", "https").as_deref(), Ok("https://consul.test:8501"));
        assert_eq!(agent("unix:///run/consul.sock", "").as_deref(), Ok("unix:///run/consul.sock"));
        assert!(agent("h:1", "ftp").is_err_and(|error| error.contains("endpoint.scheme")));
        assert!(agent("h:1/path", "").is_err_and(|error| error.contains("endpoint.address")));
    }
}
