//! Carries bollard's requests over our HTTP client, which keeps deadlines and sizes and does TLS.
//!
//! It also adds what bollard lacks: the version of the API in each path, a limit on the size of events, and a
//! stream of events that goes on after one that bollard's type cannot hold.

use std::io;
use std::sync::Arc;

use bollard::models::EventMessage;
use bollard::{API_DEFAULT_VERSION, BollardRequest};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::StatusCode;
use parking_lot::Mutex;
use serde_json::Value;
use tidegate_clients::http::{HttpClient, HttpError, JsonStream, Limits, StreamError};
use tidegate_clients::loopback::{self, Response};

use super::repair;

/// Maximum length of an event in bytes.
const MAX_EVENT: usize = 1 << 20;
/// The newest version of the API that bollard's types describe.
const MAX_VERSION: (usize, usize) = (API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version);
/// An event without meaning.
const OPENED: &[u8] = b"{}\n";
/// An event that says only that something has changed.
const HINT: &[u8] = b"{\"Type\":\"container\",\"Action\":\"update\"}\n";

/// Failure to get a successful response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// The engine is unreachable or closes the connection.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The engine responds with an error.
    #[error("{path}: {status}")]
    Status {
        /// The requested path.
        path: String,
        /// The status.
        status: StatusCode,
    },
    /// The response cannot be passed on in memory.
    #[error("{0}")]
    Loopback(#[from] loopback::Error),
}

/// Why the current stream of events ended.
type Ended = Arc<Mutex<Option<StreamError>>>;

/// The connections to one engine.
pub(super) struct Transport {
    http: HttpClient,
    limits: Limits,
    /// `/v1.44`, or empty for the engine's default version.
    version: Mutex<String>,
    ended: Mutex<Ended>,
}

impl Transport {
    pub(super) fn new(http: HttpClient, limits: Limits) -> Self {
        Self { http, limits, version: Mutex::default(), ended: Mutex::default() }
    }

    /// Closes idle connections, and uses this version of the API: `None` for the one that the engine offers
    /// in its response to `/_ping`, or else its default.
    pub(super) fn restart(&self, version: Option<(usize, usize)>) {
        self.http.close_idle();
        *self.version.lock() = version.map(prefix).unwrap_or_default();
    }

    /// Returns the place for the reason why the stream of events that was opened last ends.
    pub(super) fn ended(&self) -> Ended {
        self.ended.lock().clone()
    }

    /// Sends a request of bollard's, of which only the path and the query matter.
    pub(super) async fn send(
        self: Arc<Self>,
        request: BollardRequest,
    ) -> Result<Response, bollard::errors::Error> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let response = match request.uri().path() {
            "/_ping" => self.ping(target).await,
            "/events" => self.open_events(target).await,
            _ => self.answer(target).await,
        };
        response.map_err(|error| io::Error::other(error).into())
    }

    async fn answer(&self, target: &str) -> Result<Response, TransportError> {
        Ok(loopback::whole(self.get(target).await?).await?)
    }

    /// Returns the body of a successful response.
    pub(super) async fn get(&self, target: &str) -> Result<Bytes, TransportError> {
        let response = self.http.get(&self.versioned(target), self.limits).await?;
        check(target, response.status())?;
        Ok(response.into_body())
    }

    /// Asks for the version of the API. A proxy may forbid only that; then the default version is used.
    async fn ping(&self, target: &str) -> Result<Response, TransportError> {
        let response = self.http.get(target, self.limits).await?;
        let offered = response.headers().get("api-version").and_then(|value| value.to_str().ok());
        if let Some(offered) = offered.and_then(parse_version) {
            *self.version.lock() = prefix(offered.min(MAX_VERSION));
        }
        Ok(loopback::whole(Bytes::new()).await?)
    }

    /// Opens the stream of events. Its first event, which has no meaning, says that it is open.
    async fn open_events(&self, target: &str) -> Result<Response, TransportError> {
        let response = self.http.open(&self.versioned(target), self.limits.time).await?;
        check(target, response.status())?;
        let ended = Ended::default();
        *self.ended.lock() = ended.clone();
        let events = JsonStream::new(response.into_body(), MAX_EVENT);
        let opened = stream::iter([Bytes::from_static(OPENED)]);
        Ok(loopback::streamed(opened.chain(lines(events, ended))).await?)
    }

    fn versioned(&self, target: &str) -> String {
        format!("{}{target}", self.version.lock())
    }
}

fn check(target: &str, status: StatusCode) -> Result<(), TransportError> {
    let path = target.split('?').next().unwrap_or_default().to_owned();
    if status.is_success() { Ok(()) } else { Err(TransportError::Status { path, status }) }
}

/// Returns a line for each event, and stores why there are no more.
fn lines(events: JsonStream<Value>, ended: Ended) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold((events, ended), |(mut events, ended)| async move {
        match events.next().await {
            Ok(event) => Some((line(event?), (events, ended))),
            Err(error) => {
                *ended.lock() = Some(error);
                None
            }
        }
    })
}

/// Returns an event as a line that bollard can decode. One whose meaning would be lost becomes a hint.
fn line(event: Value) -> Bytes {
    let is_meaning = |path: &str| ["Type", "Action", "Actor"].iter().any(|field| path.starts_with(field));
    let repaired = repair::decode::<EventMessage>(event).ok();
    let repaired = repaired.filter(|event| !event.removed.iter().any(|path| is_meaning(path)));
    match repaired.and_then(|event| serde_json::to_vec(&event.value).ok()) {
        Some(mut line) => {
            line.push(b'\n');
            line.into()
        }
        None => Bytes::from_static(HINT),
    }
}

/// Parses a version, such as `1.44`.
pub(super) fn parse_version(text: &str) -> Option<(usize, usize)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn prefix((major, minor): (usize, usize)) -> String {
    format!("/v{major}.{minor}")
}
