//! A minimal client of the Docker Engine API: ping, list, inspect and events, over any of its transports.
//!
//! Connect and response times, response sizes and event lengths are limited. Unknown fields and values are
//! ignored, so that an unusual container, or an engine other than Docker, does not break the list.

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

/// Response timeout if `httpClientTimeout` is not set.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum response size in bytes.
const MAX_RESPONSE: usize = 64 << 20;
/// Maximum length of an event in bytes.
const MAX_EVENT: usize = 1 << 20;
/// The newest supported API version.
const MAX_VERSION: (u32, u32) = (1, 51);

/// Failure of a request to an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine is unreachable or closes the connection.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The stream of events failed.
    #[error(transparent)]
    Events(#[from] StreamError),
    /// The engine closed the stream of events.
    #[error("the engine closed the event stream")]
    EventsEnded,
    /// The engine does not have this part of the API.
    #[error("the engine does not support `{path}`")]
    UnknownPath {
        /// The requested path.
        path: &'static str,
    },
    /// A container id that cannot be part of a path.
    #[error("invalid container id `{id}`: expected letters, digits, `-`, `_` and `.`")]
    ContainerId {
        /// The id as the engine listed it.
        id: String,
    },
    /// The engine does not stream events.
    #[error("the engine rejected `/events`: {status}")]
    EventsRefused {
        /// The status.
        status: StatusCode,
    },
    /// The engine responds with an error.
    #[error("{path}: {status}")]
    Status {
        /// The requested path.
        path: String,
        /// The status.
        status: StatusCode,
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

/// A client of one engine.
pub(crate) struct Client {
    http: HttpClient,
    limits: Limits,
    /// `/v1.44`, or empty for the engine's default version.
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
        let time = if timeout.is_zero() { DEFAULT_TIMEOUT } else { timeout };
        Ok(Self {
            http: HttpClient::new(connector, headers, SYNTAX.option)?,
            limits: Limits { head: time, time, size: MAX_RESPONSE },
            version: Mutex::new(String::new()),
        })
    }

    /// Negotiates the API version. `DOCKER_API_VERSION` overrides it, as in Docker's client.
    pub(crate) async fn negotiate(&self) -> Result<(), EngineError> {
        self.http.close_idle();
        if let Ok(fixed) = std::env::var("DOCKER_API_VERSION")
            && parse_version(&fixed).is_some()
        {
            *self.version.lock() = format!("/v{fixed}");
            return Ok(());
        }
        *self.version.lock() = String::new();
        // A proxy may forbid only `/_ping`; then the engine's default version is used.
        let response = self.http.open("/_ping", self.limits.time).await?;
        let offered = response.headers().get("api-version").and_then(|value| value.to_str().ok());
        if let Some(offered) = offered.and_then(parse_version) {
            let (major, minor) = offered.min(MAX_VERSION);
            *self.version.lock() = format!("/v{major}.{minor}");
        }
        Ok(())
    }

    /// Returns all containers, including stopped ones.
    pub(super) async fn list(&self) -> Result<Vec<Summary>, EngineError> {
        let containers = self.json::<Vec<serde_json::Value>>("/containers/json?all=true").await?;
        let containers = containers.ok_or(EngineError::UnknownPath { path: "/containers/json" })?;
        Ok(containers.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
    }

    /// Returns one container; `None` if it does not exist.
    pub(super) async fn inspect(&self, id: &str) -> Result<Option<Container>, EngineError> {
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Err(EngineError::ContainerId { id: id.to_owned() });
        }
        self.json(&format!("/containers/{id}/json")).await
    }

    /// Returns the stream of events of containers and networks.
    pub(super) async fn events(&self) -> Result<Events, EngineError> {
        // {"type":["container","network"]}
        self.events_of("%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D").await
    }

    /// Returns the stream of events that match a percent-encoded filter.
    pub(crate) async fn events_of(&self, filter: &str) -> Result<Events, EngineError> {
        let path = format!("{}/events?filters={filter}", self.version.lock().clone());
        let response = self.http.open(&path, self.limits.time).await?;
        if !response.status().is_success() {
            return Err(EngineError::EventsRefused { status: response.status() });
        }
        Ok(JsonStream::new(response.into_body(), MAX_EVENT))
    }

    /// Sends a request; returns `None` if the object does not exist.
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
