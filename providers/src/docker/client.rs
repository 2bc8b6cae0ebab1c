//! The client of the Docker Engine API: bollard, over our own connections.
//!
//! Connect and response times, response sizes and event lengths are limited. What bollard's types cannot hold
//! is left out, so that an unusual container, or an engine other than Docker, does not break the list. No error
//! shows a part of a response, since the environment of containers is in them.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerSummary, EventMessage, Network, Node, Service};
use bollard::query_parameters::{EventsOptions, ListContainersOptions, ListNetworksOptions};
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tidegate_clients::connect::Connector;
use tidegate_clients::http::{HttpClient, Limits, StreamError, basic};

use super::SYNTAX;
use super::model::Container;
use super::options::Engine;
use super::repair::{self, Unusable};
use super::transport::{Transport, TransportError, parse_version};
use crate::Error;

/// Response timeout if `httpClientTimeout` is not set.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum response size in bytes.
const MAX_RESPONSE: usize = 64 << 20;

/// Failure of a request to an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine is unreachable, or responds with an error.
    #[error(transparent)]
    Transport(#[from] TransportError),
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
    /// The response is not JSON.
    #[error("{path}: unexpected response: {source}")]
    UnexpectedAnswer {
        /// The requested path.
        path: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// The response lacks what is needed.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// Any other failure of the library.
    #[error("{path}: {reason}")]
    Library {
        /// The requested path.
        path: String,
        /// The reason.
        reason: String,
    },
}

impl EngineError {
    /// Converts an error of bollard's, other than that the response does not fit.
    fn new(path: &str, error: bollard::errors::Error) -> Self {
        let reason = match error {
            bollard::errors::Error::IOError { err } => match err.downcast::<TransportError>() {
                Ok(error) => return error.into(),
                Err(error) => error.to_string(),
            },
            // The response ends too early.
            bollard::errors::Error::JsonSerdeError { err: source } => {
                return Self::UnexpectedAnswer { path: path.to_owned(), source };
            }
            // Its text shows what does not fit.
            bollard::errors::Error::JsonDataError { .. } => "unexpected response".to_owned(),
            error => error.to_string(),
        };
        Self::Library { path: path.to_owned(), reason }
    }

    fn is_not_found(&self) -> bool {
        matches!(self, Self::Transport(TransportError::Status { status: StatusCode::NOT_FOUND, .. }))
    }
}

/// A client of one engine.
pub(crate) struct Client {
    docker: Docker,
    transport: Arc<Transport>,
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
        let limits = Limits { head: time, time, size: MAX_RESPONSE };
        let http = HttpClient::new(connector, headers, SYNTAX.option)?;
        let transport = Arc::new(Transport::new(http, limits));
        let carrier = transport.clone();
        let carry = move |request: BollardRequest| carrier.clone().send(request);
        // The host is never used, and the transport has its own deadlines.
        let docker = Docker::connect_with_custom_transport(
            carry,
            Some("http://engine"),
            u64::MAX,
            API_DEFAULT_VERSION,
        );
        Ok(Self { docker: docker.map_err(Error::source)?, transport })
    }

    /// Negotiates the API version. `DOCKER_API_VERSION` overrides it, as in Docker's client.
    pub(crate) async fn negotiate(&self) -> Result<(), EngineError> {
        let fixed = std::env::var("DOCKER_API_VERSION").ok().and_then(|version| parse_version(&version));
        self.transport.restart(fixed);
        if fixed.is_none() {
            self.docker.ping().await.map_err(|error| EngineError::new("/_ping", error))?;
        }
        Ok(())
    }

    /// Returns all containers, including stopped ones.
    pub(super) async fn list(&self) -> Result<Vec<ContainerSummary>, EngineError> {
        let options = ListContainersOptions { all: true, ..ListContainersOptions::default() };
        list("/containers/json", self.docker.list_containers(Some(options)).await)
    }

    /// Returns one container; `None` if it does not exist.
    pub(super) async fn inspect(&self, id: &str) -> Result<Option<Container>, EngineError> {
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Err(EngineError::ContainerId { id: id.to_owned() });
        }
        let path = format!("/containers/{id}/json");
        match self.docker.inspect_container(id, None).await {
            Ok(container) => Ok(Some(Container::new(container, &[]))),
            Err(bollard::errors::Error::JsonDataError { contents, .. }) => {
                let container = serde_json::from_str(&contents)
                    .map_err(|source| EngineError::UnexpectedAnswer { path, source })?;
                let repaired = repair::decode(container)?;
                note(&format!("container {id}"), &repaired.removed);
                Ok(Some(Container::new(repaired.value, &repaired.removed)))
            }
            Err(error) => match EngineError::new(&path, error) {
                error if error.is_not_found() => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Returns the services of a swarm.
    pub(crate) async fn services(&self) -> Result<Vec<Service>, EngineError> {
        list("/services", self.docker.list_services(None).await)
    }

    /// Returns the tasks of a swarm that are meant to run, as the engine lists them: bollard's type lacks their
    /// networks.
    pub(crate) async fn tasks(&self) -> Result<Vec<Value>, EngineError> {
        let path = "/tasks";
        // {"desired-state":["running"]}
        let target = "/tasks?filters=%7B%22desired-state%22%3A%5B%22running%22%5D%7D";
        let body = self.transport.get(target).await.map_err(|error| known(path, error.into()))?;
        serde_json::from_slice(&body)
            .map_err(|source| EngineError::UnexpectedAnswer { path: path.to_owned(), source })
    }

    /// Returns the networks of a swarm.
    pub(crate) async fn swarm_networks(&self) -> Result<Vec<Network>, EngineError> {
        let options = ListNetworksOptions { filters: Some(filters(&[("scope", &["swarm"])])) };
        list("/networks", self.docker.list_networks(Some(options)).await)
    }

    /// Returns the nodes of a swarm.
    pub(crate) async fn nodes(&self) -> Result<Vec<Node>, EngineError> {
        list("/nodes", self.docker.list_nodes(None).await)
    }

    /// Subscribes to events that match the filters. Everything that changes after it returns is reported.
    pub(crate) async fn events(&self, filter: &[(&str, &[&str])]) -> Result<Events, EngineError> {
        let options = EventsOptions { filters: Some(filters(filter)), ..EventsOptions::default() };
        let mut stream = self.docker.events(Some(options)).boxed();
        // bollard sends the request only when the stream is polled; the transport's first event says that the
        // engine has responded.
        match stream.next().await {
            Some(Ok(_)) => Ok(Events { stream, ended: self.transport.ended() }),
            Some(Err(error)) => Err(EngineError::new("/events", error)),
            None => Err(EngineError::EventsEnded),
        }
    }
}

/// A running stream of events.
pub(crate) struct Events {
    stream: Pin<Box<dyn Stream<Item = Result<EventMessage, bollard::errors::Error>> + Send>>,
    ended: Arc<Mutex<Option<StreamError>>>,
}

impl Events {
    /// Waits for the next event. An error ends the stream.
    pub(crate) async fn next(&mut self) -> Result<EventMessage, EngineError> {
        match self.stream.next().await {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(EngineError::new("/events", error)),
            None => Err(self.ended.lock().take().map_or(EngineError::EventsEnded, EngineError::Events)),
        }
    }
}

/// Returns a list. If bollard's type cannot hold one of its elements, each is decoded for itself: one that is
/// not usable is left out.
fn list<T: DeserializeOwned>(
    path: &'static str,
    answer: Result<Vec<T>, bollard::errors::Error>,
) -> Result<Vec<T>, EngineError> {
    match answer {
        Ok(elements) => Ok(elements),
        Err(bollard::errors::Error::JsonDataError { contents, .. }) => {
            let elements: Vec<Value> = serde_json::from_str(&contents)
                .map_err(|source| EngineError::UnexpectedAnswer { path: path.to_owned(), source })?;
            Ok(usable(path, elements))
        }
        Err(error) => Err(known(path, EngineError::new(path, error))),
    }
}

/// Decodes the elements of a list, each for itself. One that is not usable is left out, with a warning.
pub(crate) fn usable<T: DeserializeOwned>(path: &str, elements: Vec<Value>) -> Vec<T> {
    let decoded = elements.into_iter().filter_map(|element| match repair::decode(element) {
        Ok(repaired) => {
            note(path, &repaired.removed);
            Some(repaired.value)
        }
        Err(error) => {
            tracing::warn!("{path}: {} is left out: {error}", error.id.as_deref().unwrap_or("an element"));
            None
        }
    });
    decoded.collect()
}

/// Logs which fields are ignored.
fn note(what: &str, removed: &[String]) {
    if !removed.is_empty() {
        tracing::debug!("{what}: fields that do not fit are ignored: {}", removed.join(", "));
    }
}

/// Replaces the status 404 of a list.
fn known(path: &'static str, error: EngineError) -> EngineError {
    if error.is_not_found() { EngineError::UnknownPath { path } } else { error }
}

fn filters(filters: &[(&str, &[&str])]) -> HashMap<String, Vec<String>> {
    let owned = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    filters.iter().map(|(key, values)| ((*key).to_owned(), owned(values))).collect()
}
