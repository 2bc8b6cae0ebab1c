//! One TCP server of a service and its health.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tidegate_config::tcp::TcpHealthCheck;
use tidegate_core::{BuildError, Connection};
use tokio::task::AbortHandle;

use super::transport::{Stream, Transport};
use crate::upstream::Host;

/// A TCP server.
pub struct Server {
    address: String,
    host: Host,
    port: u16,
    tls: bool,
    transport: Arc<Transport>,
    up: AtomicBool,
    checker: Mutex<Option<(TcpHealthCheck, AbortHandle)>>,
}

impl Server {
    /// Returns a server at `host:port`, which is assumed to be up.
    pub fn new(address: &str, tls: bool, transport: Arc<Transport>) -> Result<Self, BuildError> {
        let (host, port) = split(address)?;
        Ok(Self {
            address: address.to_owned(),
            host,
            port,
            tls,
            transport,
            up: AtomicBool::new(true),
            checker: Mutex::default(),
        })
    }

    /// Returns `host:port` as configured.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns its transport.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Returns false if its health check has failed.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Opens a connection for a client.
    pub async fn connect(&self, client: &Connection) -> io::Result<Stream> {
        self.transport.connect(&self.host, self.port, self.tls, Some(client)).await
    }

    /// Opens a connection for a health check, to another port unless `port` is 0.
    pub(super) async fn probe(&self, port: u16) -> io::Result<Stream> {
        let port = if port == 0 { self.port } else { port };
        self.transport.connect(&self.host, port, self.tls, None).await
    }

    /// Records the result of a health check. Returns true if the state has changed.
    pub(super) fn checked(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::Relaxed) != up
    }

    /// Replaces the running health check by one that `start` spawns, unless it has equal options. Without a
    /// check, the server is assumed to be up.
    pub(super) fn replace_check(
        &self,
        options: Option<TcpHealthCheck>,
        start: impl FnOnce(TcpHealthCheck) -> AbortHandle,
    ) {
        let mut checker = self.checker.lock();
        if checker.as_ref().map(|(known, _)| known) == options.as_ref() {
            return;
        }
        if let Some((_, task)) = checker.take() {
            task.abort();
            self.up.store(true, Ordering::Relaxed);
        }
        *checker = options.map(|options| (options.clone(), start(options)));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((_, task)) = self.checker.get_mut().take() {
            task.abort();
        }
    }
}

/// Parses `host:port`.
pub(crate) fn split(address: &str) -> Result<(Host, u16), BuildError> {
    let bad = |why: &str| BuildError::new(format!("server address `{address}`: {why}; expected host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(|| bad("missing port"))?;
    let port = port.parse().map_err(|_| bad("invalid port"))?;
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if bare.is_none() && host.contains(':') {
        return Err(bad("too many colons: put IPv6 addresses in brackets"));
    }
    let bare = bare.unwrap_or(host);
    Ok(match bare.parse() {
        Ok(ip) => (Host::Address(ip), port),
        // As in Go, an empty host is the local machine.
        Err(_) if bare.is_empty() => (Host::Address([127, 0, 0, 1].into()), port),
        Err(_) => (Host::Name(bare.to_owned()), port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed() {
        for (text, host, port) in [
            ("10.0.0.1:80", Host::Address([10, 0, 0, 1].into()), 80),
            ("[::1]:5432", Host::Address("::1".parse().unwrap()), 5432),
            ("db.internal:5432", Host::Name("db.internal".into()), 5432),
            (":80", Host::Address([127, 0, 0, 1].into()), 80),
        ] {
            assert_eq!(split(text), Ok((host, port)), "{text}");
        }
        for text in ["", "db", "db:x", "db:70000", "::1:80"] {
            assert!(split(text).unwrap_err().to_string().contains(&format!("`{text}`")), "{text}");
        }
    }
}
