//! HTTP client for the certificate authority and DNS services.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use tidegate_clients::connect::{Connector, Syntax};
use tidegate_clients::http::{HttpClient, HttpError, Limits};
use tidegate_clients::tls::{TlsOptions, is_pem};

use super::error::Error;
use crate::options::Acme;

/// Maximum size of a response, in bytes.
const MAX_SIZE: usize = 4 << 20;
/// Maximum number of servers whose connections are kept.
const MAX_SERVERS: usize = 16;
/// Timeout for connecting, as in Traefik's default transport.
const CONNECT: Duration = Duration::from_secs(30);
/// Timeout of a request if `clientTimeout` is 0.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);
/// The form of an origin.
const SYNTAX: Syntax = Syntax {
    option: "URL",
    plain: &["http"],
    secure: &["https"],
    otherwise: "https",
    ports: (80, 443),
    example: "https://ca.example",
};

/// Sends requests with one set of TLS options and timeouts.
pub(super) struct Http {
    tls: TlsOptions,
    /// The expected name in certificates; empty for the host.
    server_name: String,
    limits: Limits,
    /// Connections by origin.
    clients: Mutex<HashMap<String, Arc<HttpClient>>>,
}

/// A complete response.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A request.
#[derive(Default)]
pub(super) struct Message<'a> {
    pub(super) content_type: &'a str,
    pub(super) headers: Vec<(&'a str, String)>,
    pub(super) body: Vec<u8>,
}

impl Http {
    /// Creates the client for the authority of a resolver. Reads the files that the options name.
    pub(super) fn for_authority(options: &Acme) -> Result<Self, Error> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut roots = options.ca_certificates.clone();
        if roots.is_empty() {
            let listed = variable("LEGO_CA_CERTIFICATES").unwrap_or_default();
            let paths = std::env::split_paths(&listed).map(|path| path.display().to_string());
            roots = paths.filter(|path| !path.is_empty()).collect();
        }
        let system_roots = options.ca_system_cert_pool
            || variable("LEGO_CA_SYSTEM_CERT_POOL").is_some_and(|value| value == "true" || value == "1");
        let mut server_name = options.ca_server_name.clone();
        if server_name.is_empty() {
            server_name = variable("LEGO_CA_SERVER_NAME").unwrap_or_default();
        }
        let roots = roots.iter().map(|root| read_root(root)).collect::<Result<Vec<_>, _>>()?;
        let tls = TlsOptions { roots, system_roots, ..TlsOptions::default() };
        if !tls.roots.is_empty() {
            tls.client_config().map_err(|error| Error::local(format!("caCertificates: {error}")))?;
        }
        let time = options.client_timeout.0;
        let head = options.client_response_header_timeout.0;
        Ok(Self { tls, server_name, ..Self::with_limits(time, head) })
    }

    /// Creates a client for other servers, with the system's authorities.
    pub(super) fn plain(timeout: Duration) -> Self {
        Self::with_limits(timeout, Duration::ZERO)
    }

    /// `time` is the timeout of a request, and `head` that of the response head; zero for none.
    fn with_limits(time: Duration, head: Duration) -> Self {
        let time = if time.is_zero() { DEFAULT_TIMEOUT } else { time };
        let head = if head.is_zero() { time } else { head.min(time) };
        Self {
            tls: TlsOptions::default(),
            server_name: String::new(),
            limits: Limits { head, time, size: MAX_SIZE },
            clients: Mutex::default(),
        }
    }

    /// Sends a request and reads the response, whatever its status.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        message: Message<'_>,
    ) -> Result<Answer, Error> {
        let parsed = url::Url::parse(url).map_err(|error| Error::network(format!("`{url}`: {error}")))?;
        let origin = parsed.origin().ascii_serialization();
        let client = self.client(&origin)?;
        let target = parsed[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
        let mut head = http::Request::builder().method(method).uri(target);
        if !message.content_type.is_empty() {
            head = head.header(CONTENT_TYPE, message.content_type);
        }
        for (name, value) in &message.headers {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| Error::local(format!("header {name} has characters it may not have")))?;
            value.set_sensitive(true);
            head = head.header(*name, value);
        }
        let request = head
            .body(Bytes::from(message.body))
            .map_err(|error| Error::local(format!("`{url}`: {error}")))?;
        let response = client.send(request, self.limits).await.map_err(|error| {
            Error::network(match error {
                HttpError::Connect(_) | HttpError::Handshake(_) => error.to_string(),
                // These begin with the path.
                error => format!("{origin}{error}"),
            })
        })?;
        let (parts, body) = response.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    fn client(&self, origin: &str) -> Result<Arc<HttpClient>, Error> {
        let mut clients = self.clients.lock();
        if let Some(known) = clients.get(origin) {
            return Ok(known.clone());
        }
        let unusable = |error: &dyn std::fmt::Display| Error::local(format!("`{origin}`: {error}"));
        let connector = Connector::with_tls(&SYNTAX, origin, &self.tls, &self.server_name)
            .map_err(|error| unusable(&error))?;
        // Authorities build URLs from it, so the default port is omitted.
        let host = origin.split_once("://").map_or(origin, |(_, host)| host);
        let host = HeaderValue::from_str(host).map_err(|error| unusable(&error))?;
        let headers = HeaderMap::from_iter([(HOST, host), (ACCEPT, HeaderValue::from_static("*/*"))]);
        let client = HttpClient::new(connector, headers, SYNTAX.option).map_err(|error| unusable(&error))?;
        let client = Arc::new(client.with_connect_timeout(CONNECT));
        if clients.len() >= MAX_SERVERS {
            clients.clear();
        }
        clients.insert(origin.to_owned(), client.clone());
        Ok(client)
    }

    /// Closes idle connections: the server may close old ones, and unsafe requests are not retried.
    pub(super) fn close_idle(&self) {
        for client in self.clients.lock().values() {
            client.close_idle();
        }
    }
}

/// Reads a certificate, given as PEM or as a path.
fn read_root(root: &str) -> Result<Vec<u8>, Error> {
    if is_pem(root) {
        return Ok(root.as_bytes().to_vec());
    }
    std::fs::read(Path::new(root)).map_err(|error| Error::local(format!("caCertificates: `{root}`: {error}")))
}

impl Answer {
    /// Returns the delay in `Retry-After` (RFC 9110 section 10.2.3).
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let at = httpdate::parse_http_date(text).ok()?;
        Some(at.duration_since(std::time::SystemTime::now()).unwrap_or_default())
    }

    /// Returns the value of a header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Parses the body as JSON. The error quotes a body that is not.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Error::network(format!(
                "{what}: the answer ({}) is no JSON of the expected form: {error}",
                self.status
            ))
        })
    }

    /// Returns the start of the body, for messages.
    pub(super) fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().filter(|c| !c.is_control()).take(300).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_host_is_named_without_a_default_port_and_failures_name_the_url() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = stream.read(&mut head).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            // Accepts nothing further.
            (String::from_utf8_lossy(&head[..length]).to_lowercase(), stream, listener)
        });
        let http = Http::plain(Duration::from_millis(500));
        let answer = http.send(Method::GET, &format!("{origin}/dir?x=1"), Message::default()).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, &b"ok"[..]));
        let (head, _stream, _listener) = server.await.unwrap();
        assert!(head.starts_with("get /dir?x=1 http/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("host: {}\r\n", &origin["http://".len()..])), "{head}");
        assert!(head.contains("accept: */*\r\n") && head.contains("user-agent: tidegate/"), "{head}");
        let late = http.send(Method::POST, &format!("{origin}/new"), Message::default()).await.err().unwrap();
        assert_eq!(late.to_string(), format!("{origin}/new: no response within 500ms"));
    }

    #[test]
    fn roots_are_checked_before_anybody_is_asked() {
        let error = |root: &str| {
            let options = Acme { ca_certificates: vec![root.to_owned()], ..Acme::default() };
            Http::for_authority(&options).err().unwrap().to_string()
        };
        assert!(error("/nowhere/ca.pem").starts_with("caCertificates: `/nowhere/ca.pem`: "));
        assert!(error("-----BEGIN NOTHING-----").starts_with("caCertificates: "));
    }
}
