//! HTTP to the certificate authority (and to DNS services), on the gateway's own client.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use tidegate_config::transport::{ForwardingTimeouts, ServersTransport};
use tidegate_core::{Body, Connection, Context, Request};

use super::error::Error;
use crate::settings::Acme;
use crate::upstream::{Endpoint, Transport};

/// Largest answer that is read, in bytes.
const LARGEST: u64 = 4 << 20;
/// Most servers that are remembered.
const MAX_ENDPOINTS: usize = 16;
const AGENT: &str = concat!("tidegate/", env!("CARGO_PKG_VERSION"));

/// Sends requests under one set of TLS options and timeouts.
pub(super) struct Http {
    transport: Arc<Transport>,
    timeout: Duration,
    endpoints: Mutex<HashMap<String, Arc<Endpoint>>>,
}

/// An answer, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What is sent.
#[derive(Default)]
pub(super) struct Message<'a> {
    pub(super) content_type: &'a str,
    pub(super) headers: Vec<(&'a str, String)>,
    pub(super) body: Vec<u8>,
}

impl Http {
    /// For the authority of a resolver. Reads the files that it names.
    pub(super) fn for_authority(options: &Acme) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut roots = options.ca_certificates.clone();
        if roots.is_empty() {
            let listed = variable("LEGO_CA_CERTIFICATES").unwrap_or_default();
            let paths = std::env::split_paths(&listed).map(|path| path.display().to_string());
            roots = paths.filter(|path| !path.is_empty()).collect();
        }
        let system = options.ca_system_cert_pool
            || variable("LEGO_CA_SYSTEM_CERT_POOL").is_some_and(|value| value == "true" || value == "1");
        if system && !roots.is_empty() {
            roots.extend(rustls_native_certs::load_native_certs().certs.iter().map(|der| pem(der)));
        }
        let mut server_name = options.ca_server_name.clone();
        if server_name.is_empty() {
            server_name = variable("LEGO_CA_SERVER_NAME").unwrap_or_default();
        }
        let transport = ServersTransport {
            root_cas: roots,
            server_name,
            forwarding_timeouts: Some(ForwardingTimeouts {
                response_header_timeout: options.client_response_header_timeout.into(),
                ..ForwardingTimeouts::default()
            }),
            ..ServersTransport::default()
        };
        Self::new(&transport, options.client_timeout.0)
    }

    /// For any other server, under the system's authorities.
    pub(super) fn plain(timeout: Duration) -> Result<Self, Error> {
        Self::new(&ServersTransport::default(), timeout)
    }

    fn new(options: &ServersTransport, timeout: Duration) -> Result<Self, Error> {
        let mut read = |path: &str| {
            std::fs::read(path)
                .map_err(|error| tidegate_core::BuildError::new(format!("caCertificates: `{path}`: {error}")))
        };
        let transport =
            Transport::build(options, &mut read).map_err(|error| Error::local(error.to_string()))?;
        let timeout = if timeout.is_zero() { Duration::from_secs(120) } else { timeout };
        Ok(Self { transport, timeout, endpoints: Mutex::default() })
    }

    /// Sends a request and reads the answer, whatever its status. Every failure is one of the network.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        message: Message<'_>,
    ) -> Result<Answer, Error> {
        let parsed = url::Url::parse(url).map_err(|error| Error::network(format!("`{url}`: {error}")))?;
        let origin = parsed.origin().ascii_serialization();
        let endpoint = self.endpoint(&origin)?;
        let target = parsed[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
        let mut head = http::Request::builder()
            .method(method)
            .uri(target)
            .header(HOST, endpoint.authority())
            .header(USER_AGENT, AGENT)
            .header(ACCEPT, "*/*");
        if !message.content_type.is_empty() {
            head = head.header(CONTENT_TYPE, message.content_type);
        }
        for (name, value) in &message.headers {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| Error::local(format!("header {name} has characters it may not have")))?;
            value.set_sensitive(true);
            head = head.header(*name, value);
        }
        let head = head.body(()).map_err(|error| Error::local(format!("`{url}`: {error}")))?.into_parts().0;
        let nobody = Arc::new(Connection::plain((Ipv4Addr::LOCALHOST, 0).into()));
        let request = Request::new(head, Body::full(message.body), Context::new(nobody));
        let exchange = async {
            let response = endpoint.send(request).await.map_err(|error| Error::network(error.to_string()))?;
            let (parts, body) = response.into_parts();
            let body = body.collect(LARGEST).await;
            let body = body.map_err(|error| Error::network(format!("{}: {error}", endpoint.address())))?;
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.bytes })
        };
        tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            Err(Error::network(format!("{} did not answer within {:?}", endpoint.address(), self.timeout)))
        })
    }

    fn endpoint(&self, origin: &str) -> Result<Arc<Endpoint>, Error> {
        let mut endpoints = self.endpoints.lock();
        if let Some(known) = endpoints.get(origin) {
            return Ok(known.clone());
        }
        let made = Endpoint::new(origin, self.transport.clone(), 1)
            .map_err(|error| Error::local(error.to_string()))?;
        if endpoints.len() >= MAX_ENDPOINTS {
            endpoints.clear();
        }
        endpoints.insert(origin.to_owned(), made.clone());
        Ok(made)
    }

    /// Closes connections that have been idle for too long.
    pub(super) fn sweep(&self) {
        for endpoint in self.endpoints.lock().values() {
            endpoint.sweep();
        }
    }
}

impl Answer {
    /// What `Retry-After` asks for (RFC 9110 section 10.2.3).
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = httpdate::parse_http_date(text).ok()?;
        Some(at.duration_since(std::time::SystemTime::now()).unwrap_or_default())
    }

    /// The value of a header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON, or what came instead.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Error::network(format!(
                "{what}: the answer ({}) is no JSON of the expected form: {error}",
                self.status
            ))
        })
    }

    /// The beginning of the body, for messages.
    pub(super) fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().filter(|c| !c.is_control()).take(300).collect()
    }
}

/// A certificate as PEM.
fn pem(der: &[u8]) -> String {
    let text = base64::prelude::BASE64_STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}
