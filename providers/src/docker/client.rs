//! A minimal client of the Docker Engine API: ping, list, inspect and events, over any of its transports.
//!
//! Everything is limited: time to connect and to answer, size of an answer, length of an event. Unknown fields and
//! values are passed over, so that one odd container, or another engine than Docker, cannot spoil the list.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tidegate_clients::connect::Connector;
use tidegate_clients::http::{HttpClient, HttpError, JsonStream, Limits, StreamError, basic};

use super::SYNTAX;
use super::model::{Container, Event, Summary};
use super::options::Engine;
use crate::Error;

/// Time to answer when `httpClientTimeout` is not set.
const ANSWER: Duration = Duration::from_secs(30);
/// Largest answer, in bytes.
const LARGEST: usize = 64 << 20;
/// Longest event, in bytes.
const LONGEST_EVENT: usize = 1 << 20;
/// The newest version of the API whose answers were looked at.
const NEWEST: (u32, u32) = (1, 51);

/// Failure of a question to an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine cannot be reached, or breaks off.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The stream of events broke off.
    #[error(transparent)]
    Events(#[from] StreamError),
    /// The engine closed the stream of events.
    #[error("the engine ended the stream of events")]
    EventsEnded,
    /// The engine does not have this part of the API.
    #[error("the engine does not know `{path}`")]
    UnknownPath {
        /// The path that was asked for.
        path: &'static str,
    },
    /// A container id that cannot be part of a path.
    #[error("invalid container id `{id}`: expected letters, digits, `-`, `_` and `.`")]
    ContainerId {
        /// The id as the engine listed it.
        id: String,
    },
    /// The engine refuses to stream events.
    #[error("the engine refuses `/events`: {status}")]
    EventsRefused {
        /// Its answer.
        status: StatusCode,
    },
    /// The engine answers with an error.
    #[error("{path}: {status}")]
    Status {
        /// The path that was asked for.
        path: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The engine answers with other JSON than expected.
    #[error("{path}: unexpected answer: {source}")]
    UnexpectedAnswer {
        /// The path that was asked for.
        path: String,
        /// The cause.
        source: serde_json::Error,
    },
}

/// A client of one engine.
pub(crate) struct Client {
    http: HttpClient,
    limits: Limits,
    /// `/v1.44`, or nothing for the engine's own version.
    version: Mutex<String>,
}

impl Client {
    pub(crate) fn new(engine: &Engine<'_>) -> Result<Self, Error> {
        let connector = Connector::new(&SYNTAX, engine.endpoint, engine.tls)?;
        let mut headers = HeaderMap::new();
        if !engine.username.is_empty()
            && !engine.password.is_empty()
            && let Some(authorization) = basic(engine.username, engine.password)
        {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        let timeout = Duration::from(engine.timeout);
        let time = if timeout.is_zero() { ANSWER } else { timeout };
        Ok(Self {
            http: HttpClient::new(connector, headers, SYNTAX.option)?,
            limits: Limits { head: time, time, size: LARGEST },
            version: Mutex::new(String::new()),
        })
    }

    /// Agrees on a version of the API. `DOCKER_API_VERSION` fixes it, as in Docker's own client.
    pub(crate) async fn negotiate(&self) -> Result<(), EngineError> {
        self.http.close_idle();
        if let Ok(fixed) = std::env::var("DOCKER_API_VERSION")
            && parse_version(&fixed).is_some()
        {
            *self.version.lock() = format!("/v{fixed}");
            return Ok(());
        }
        *self.version.lock() = String::new();
        // A proxy that forbids `/_ping` may still allow the rest; then the engine's own version is used.
        let response = self.http.open("/_ping", self.limits.time).await?;
        let offered = response.headers().get("api-version").and_then(|value| value.to_str().ok());
        if let Some(offered) = offered.and_then(parse_version) {
            let (major, minor) = offered.min(NEWEST);
            *self.version.lock() = format!("/v{major}.{minor}");
        }
        Ok(())
    }

    /// All containers, stopped ones too.
    pub(super) async fn list(&self) -> Result<Vec<Summary>, EngineError> {
        let containers = self.json::<Vec<serde_json::Value>>("/containers/json?all=true").await?;
        let containers = containers.ok_or(EngineError::UnknownPath { path: "/containers/json" })?;
        Ok(containers.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
    }

    /// One container; `None` when it is gone.
    pub(super) async fn inspect(&self, id: &str) -> Result<Option<Container>, EngineError> {
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Err(EngineError::ContainerId { id: id.to_owned() });
        }
        self.json(&format!("/containers/{id}/json")).await
    }

    /// The stream of events of containers and networks.
    pub(super) async fn events(&self) -> Result<Events, EngineError> {
        // {"type":["container","network"]}
        self.events_of("%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D").await
    }

    /// The stream of events that an escaped filter lets through.
    pub(crate) async fn events_of(&self, filter: &str) -> Result<Events, EngineError> {
        let path = format!("{}/events?filters={filter}", self.version.lock().clone());
        let response = self.http.open(&path, self.limits.time).await?;
        if !response.status().is_success() {
            return Err(EngineError::EventsRefused { status: response.status() });
        }
        Ok(JsonStream::new(response.into_body(), LONGEST_EVENT))
    }

    /// Any answer of the engine; `None` when it knows nothing of the kind.
    pub(crate) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, EngineError> {
        let versioned = format!("{}{path}", self.version.lock().clone());
        let response = self.http.get(&versioned, self.limits).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => serde_json::from_slice(response.body())
                .map(Some)
                .map_err(|source| EngineError::UnexpectedAnswer { path: path.to_owned(), source }),
            status => Err(EngineError::Status { path: path.to_owned(), status }),
        }
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A running stream of events.
pub(crate) type Events = JsonStream<Event>;
