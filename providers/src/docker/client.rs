//! The little of the Docker Engine API that discovery needs: ping, list, inspect and events, over any of its transports.
//!
//! Everything is limited: time to connect and to answer, size of an answer, length of an event. Unknown fields and
//! values are passed over, so that one odd container, or another engine than Docker, cannot spoil the list.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::Options;
use super::connect::Connector;
use super::model::{Container, Event, Summary};
use crate::Error;

/// Time to connect, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// Time to answer when `httpClientTimeout` is not set.
const ANSWER: Duration = Duration::from_secs(30);
/// Largest answer, in bytes.
const LARGEST: usize = 64 << 20;
/// Longest event, in bytes.
const LONGEST_EVENT: usize = 1 << 20;
/// Idle connections that are kept.
const MOST_IDLE: usize = 8;
/// The newest version of the API whose answers were looked at.
const NEWEST: (u32, u32) = (1, 51);

/// A client of one engine.
pub(super) struct Client {
    connector: Connector,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    answer: Duration,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    /// `/v1.44`, or nothing for the engine's own version.
    version: Mutex<String>,
}

impl Client {
    pub(super) fn new(options: &Options) -> Result<Self, Error> {
        let connector = Connector::new(options)?;
        let bad = |_| Error::Option { option: "endpoint", message: "its host cannot be used".into() };
        let host = HeaderValue::from_str(&connector.host()).map_err(bad)?;
        let timeout = Duration::from(options.http_client_timeout);
        Ok(Self {
            connector,
            host,
            authorization: options.authorization(),
            answer: if timeout.is_zero() { ANSWER } else { timeout },
            idle: Mutex::new(Vec::new()),
            version: Mutex::new(String::new()),
        })
    }

    /// Agrees on a version of the API. `DOCKER_API_VERSION` fixes it, as in Docker's own client.
    pub(super) async fn negotiate(&self) -> Result<(), String> {
        self.idle.lock().clear();
        if let Ok(fixed) = std::env::var("DOCKER_API_VERSION")
            && parse_version(&fixed).is_some()
        {
            *self.version.lock() = format!("/v{fixed}");
            return Ok(());
        }
        *self.version.lock() = String::new();
        // A proxy that forbids `/_ping` may still allow the rest; then the engine's own version is used.
        let response = self.send("/_ping").await?;
        let offered = response.headers().get("api-version").and_then(|value| value.to_str().ok());
        if let Some(offered) = offered.and_then(parse_version) {
            let (major, minor) = offered.min(NEWEST);
            *self.version.lock() = format!("/v{major}.{minor}");
        }
        Ok(())
    }

    /// All containers, stopped ones too.
    pub(super) async fn list(&self) -> Result<Vec<Summary>, String> {
        let containers = self.json::<Vec<serde_json::Value>>("/containers/json?all=true").await?;
        let containers = containers.ok_or("the engine does not know `/containers/json`")?;
        Ok(containers.into_iter().filter_map(|value| serde_json::from_value(value).ok()).collect())
    }

    /// One container; `None` when it is gone.
    pub(super) async fn inspect(&self, id: &str) -> Result<Option<Container>, String> {
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
            return Err(format!("`{id}` is no name of a container"));
        }
        self.json(&format!("/containers/{id}/json")).await
    }

    /// The stream of events of containers and networks.
    pub(super) async fn events(&self) -> Result<Events, String> {
        // {"type":["container","network"]}
        let filter = "%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";
        let response = self.send(&format!("/events?filters={filter}")).await?;
        if !response.status().is_success() {
            return Err(format!("the engine refuses `/events`: {}", response.status()));
        }
        Ok(Events { body: response.into_body(), buffer: BytesMut::new() })
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, String> {
        let work = async {
            let mut sender = self.sender().await?;
            let response = self.send_on(&mut sender, path).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let body = body.map_err(|error| format!("{path}: {error}"))?.to_bytes();
            if !sender.is_closed() {
                let mut idle = self.idle.lock();
                if idle.len() < MOST_IDLE {
                    idle.push(sender);
                }
            }
            match status {
                StatusCode::NOT_FOUND => Ok(None),
                status if status.is_success() => serde_json::from_slice(&body)
                    .map(Some)
                    .map_err(|error| format!("{path}: unexpected answer: {error}")),
                status => Err(format!("{path}: {status}")),
            }
        };
        timeout(self.answer, work).await.map_err(|_| format!("{path}: no answer within {:?}", self.answer))?
    }

    /// Sends a request on a connection of its own.
    async fn send(&self, path: &str) -> Result<http::Response<Incoming>, String> {
        let work = async {
            let mut sender = self.connect().await?;
            self.send_on(&mut sender, path).await
        };
        timeout(self.answer, work).await.map_err(|_| format!("{path}: no answer within {:?}", self.answer))?
    }

    async fn send_on(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        path: &str,
    ) -> Result<http::Response<Incoming>, String> {
        let version = self.version.lock().clone();
        let mut request = Request::get(format!("{version}{path}"))
            .header(header::HOST, self.host.clone())
            .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization.clone());
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        sender.send_request(request).await.map_err(|error| format!("{path}: {error}"))
    }

    async fn sender(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        loop {
            let idle = self.idle.lock().pop();
            match idle {
                Some(mut sender) => {
                    if sender.ready().await.is_ok() {
                        return Ok(sender);
                    }
                }
                None => return self.connect().await,
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = timeout(CONNECT, self.connector.connect());
        let stream = stream
            .await
            .map_err(|_| format!("cannot connect to {} within {CONNECT:?}", self.connector.endpoint()))??;
        let (sender, connection) =
            http1::Builder::new().handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        // Ends when the sender and the response are dropped.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// A running stream of events.
pub(super) struct Events {
    body: Incoming,
    buffer: BytesMut,
}

impl Events {
    /// The next event. An error ends the stream, as does `None`.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| format!("unexpected event: {error}"));
            }
            // Some engines end an event without a line break.
            if let Ok(event) = serde_json::from_slice(&self.buffer)
                && self.buffer.last() == Some(&b'}')
            {
                self.buffer.clear();
                return Ok(Some(event));
            }
            if self.buffer.len() > LONGEST_EVENT {
                return Err("an event is too long".into());
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}
