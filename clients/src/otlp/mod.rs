//! The OpenTelemetry protocol (OTLP): sends traces, metrics and logs to a collector over gRPC or HTTP.
//!
//! Runs on the control plane. [`Exporter`] sends one message, with retries or without; [`Queue`] collects items from
//! requests, which never wait for the collector, and sends them in batches.

mod error;
mod grpc;
mod http;
mod options;
mod queue;
mod resource;

use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};

use crate::OptionError;
pub use error::ExportError;
use grpc::GrpcClient;
use http::Endpoint;
pub use options::{Grpc, Http, Otlp};
pub use queue::{Queue, Sender, dropped, waiting};
pub use resource::{attribute, detect, resource, scope};

/// Timeout of one attempt, as in OpenTelemetry's exporters.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause before a retry.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause before a retry, unless the collector asks for more.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Time after which a message is given up.
const MAX_ELAPSED: Duration = Duration::from_secs(60);
/// Maximum size of a response of the collector, in bytes.
const MAX_RESPONSE: usize = 64 << 10;

/// A kind of telemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Metrics.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// Returns the default path over HTTP.
    fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }

    /// Returns the method over gRPC.
    fn method(self) -> &'static str {
        match self {
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        }
    }

    /// Returns its name, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }
}

/// Sends the messages of one signal to a collector.
pub struct Exporter {
    signal: Signal,
    transport: Transport,
}

enum Transport {
    Grpc(GrpcClient),
    Http(Endpoint),
}

impl Exporter {
    /// Prepares a connection, without connecting. gRPC is used if both are configured, as in Traefik.
    pub fn new(options: &Otlp, signal: Signal) -> Result<Self, OptionError> {
        let transport = match (&options.grpc, &options.http) {
            (Some(grpc), _) => Transport::Grpc(GrpcClient::new(grpc, signal)?),
            (None, Some(http)) => Transport::Http(Endpoint::new(http, signal)?),
            (None, None) => Transport::Http(Endpoint::new(&Http::default(), signal)?),
        };
        Ok(Self { signal, transport })
    }

    /// Returns what is sent.
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// Returns the collector, for messages.
    pub fn endpoint(&self) -> &str {
        match &self.transport {
            Transport::Grpc(client) => client.endpoint(),
            Transport::Http(endpoint) => endpoint.endpoint(),
        }
    }

    /// Sends an `Export…ServiceRequest`. Failures that may pass are retried for up to a minute; the error is
    /// that of the last attempt.
    pub async fn export(&self, message: &impl Message) -> Result<(), ExportError> {
        let message = compress(&message.encode_to_vec());
        let until = Instant::now() + MAX_ELAPSED;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.attempt(&message).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let Some(wanted) = error.retry_after() else { return Err(error) };
            // Half to one and a half times the pause, so that gateways do not retry together.
            let wait = wanted.unwrap_or_else(|| pause.mul_f64(0.5 + fastrand::f64()));
            if Instant::now() + wait > until {
                return Err(error);
            }
            tracing::debug!(%error, endpoint = self.endpoint(), "OTLP: retrying");
            sleep(wait).await;
            pause = (pause * 3 / 2).min(MAX_PAUSE);
        }
    }

    /// Sends an `Export…ServiceRequest` without retries, for what a later message makes up for.
    pub async fn export_once(&self, message: &impl Message) -> Result<(), ExportError> {
        self.attempt(&compress(&message.encode_to_vec())).await
    }

    async fn attempt(&self, message: &Bytes) -> Result<(), ExportError> {
        let until = Instant::now() + ATTEMPT_TIMEOUT;
        let attempt = async {
            match &self.transport {
                Transport::Grpc(client) => client.call(message, ATTEMPT_TIMEOUT).await,
                Transport::Http(endpoint) => endpoint.post(message, ATTEMPT_TIMEOUT).await,
            }
        };
        timeout_at(until, attempt).await.unwrap_or(Err(ExportError::TimedOut { limit: ATTEMPT_TIMEOUT }))
    }
}

/// Returns the size of a message before compression.
pub fn encoded_size(message: &impl Message) -> usize {
    message.encoded_len()
}

/// Compresses a message with gzip, as Traefik does.
fn compress(message: &[u8]) -> Bytes {
    use std::io::Write;
    let mut encoder = GzEncoder::new(Vec::with_capacity(message.len() / 4), Compression::fast());
    // Writing to memory cannot fail.
    let _ = encoder.write_all(message);
    encoder.finish().unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
