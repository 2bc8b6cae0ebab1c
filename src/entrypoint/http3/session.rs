//! TLS inside QUIC: selects the options of a handshake by server name.
//!
//! The QUIC library creates a session before the server name is known. So ours reads the ClientHello itself, and then
//! starts the real session with the options and certificates of the current snapshot.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::crypto::{
    ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::quic::{Connection, KeyChange, Secrets, ServerConnection, Version};
use rustls::server::Acceptor;
use tidegate_core::{BuildError, TlsInfo};
use tokio::runtime::Handle;

use crate::entrypoint::http::chosen_options::ChosenOptions;
use crate::snapshot::{Snapshot, SnapshotHandle};

/// The ALPN name of HTTP/3 (RFC 9114 section 3.1).
const PROTOCOL: &[u8] = b"h3";
/// Maximum size of a ClientHello in bytes, which is also the library's limit for data out of order.
const MAX_HELLO: usize = 16 * 1024;
/// TLS alerts (RFC 8446 section 6).
const HANDSHAKE_FAILURE: u8 = 40;
const INTERNAL_ERROR: u8 = 80;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Creates TLS sessions.
#[derive(Clone)]
pub(super) struct Sessions {
    snapshots: SnapshotHandle,
    /// Index of the entry point in the settings.
    entry_point: usize,
    /// The address that the client connects to.
    local: IpAddr,
    /// Provides what does not depend on certificates: the keys of initial packets.
    initial: Arc<QuicServerConfig>,
}

/// The result of a handshake.
pub(super) struct Outcome {
    /// What requests can use.
    pub(super) info: TlsInfo,
    /// The selected options.
    pub(in crate::entrypoint) options: ChosenOptions,
}

impl Sessions {
    /// Creates sessions for an address, with the options of the current snapshot.
    pub(super) fn new(
        snapshots: SnapshotHandle,
        entry_point: usize,
        local: IpAddr,
    ) -> Result<Self, BuildError> {
        let failed = |error: &dyn std::fmt::Display| BuildError::new(format!("no keys for QUIC: {error}"));
        let config = rustls::ServerConfig::builder_with_provider(crate::tls::crypto())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| failed(&error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let initial = QuicServerConfig::try_from(config).map_err(|error| failed(&error))?;
        Ok(Self { snapshots, entry_point, local, initial: Arc::new(initial) })
    }

    /// Returns the same for another address.
    pub(super) fn at(&self, local: IpAddr) -> Self {
        Self { local, ..self.clone() }
    }
}

impl ServerConfig for Sessions {
    fn initial_keys(&self, version: u32, destination: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        self.initial.initial_keys(version, destination)
    }

    fn retry_tag(&self, version: u32, original: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        self.initial.retry_tag(version, original, packet)
    }

    fn start_session(self: Arc<Self>, version: u32, parameters: &TransportParameters) -> Box<dyn Session> {
        Box::new(Handshake {
            first: self.initial.clone().start_session(version, parameters),
            sessions: self,
            // The library has already requested the keys of this version.
            version: if matches!(version, 0xff00_001d..=0xff00_0020) {
                Version::V1Draft
            } else {
                Version::V1
            },
            parameters: *parameters,
            acceptor: Acceptor::default(),
            hello: Vec::new(),
            waiting: None,
            chosen: None,
            next: None,
            reported: false,
        })
    }
}

/// A session before and after the server name is known.
struct Handshake {
    /// A session for what does not depend on TLS; its handshake is never used.
    first: Box<dyn Session>,
    sessions: Arc<Sessions>,
    version: Version,
    parameters: TransportParameters,
    acceptor: Acceptor,
    hello: Vec<u8>,
    waiting: Option<Waiting>,
    chosen: Option<Chosen>,
    next: Option<Secrets>,
    /// The library has been told that handshake data is available.
    reported: bool,
}

/// A session that waits for a certificate to be obtained.
struct Waiting {
    server_name: Option<String>,
    /// Set once the attempt has ended.
    over: Arc<AtomicBool>,
}

struct Chosen {
    session: Connection,
    server_name: Option<String>,
    options: ChosenOptions,
}

impl Handshake {
    /// Reads more of the ClientHello, and starts the session when it is complete.
    fn choose(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        if self.hello.len() + bytes.len() > MAX_HELLO {
            return Err(error(TransportErrorCode::CRYPTO_BUFFER_EXCEEDED, "ClientHello is too long"));
        }
        self.hello.extend_from_slice(bytes);
        let no_tls = |what: &dyn std::fmt::Display| {
            error(TransportErrorCode::PROTOCOL_VIOLATION, &format!("no TLS: {what}"))
        };
        // The acceptor expects TLS records, which QUIC does not use.
        let mut record = vec![0x16, 3, 3];
        record.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        record.extend_from_slice(bytes);
        let mut rest = &record[..];
        while !rest.is_empty() {
            self.acceptor.read_tls(&mut rest).map_err(|error| no_tls(&error))?;
        }
        let Some(accepted) = self.acceptor.accept().map_err(|(error, _)| no_tls(&error))? else {
            return Ok(());
        };
        let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
        let snapshot = self.sessions.snapshots.load();
        let tls = snapshot.tls.clone();
        let chosen = self.options_of(&snapshot, name.as_deref());
        if chosen.is_none_or(|chosen| tls.config_of(&chosen.options.name).is_none()) {
            return Err(not_served());
        }
        if tls.is_on_demand(name.as_deref())
            && let Ok(runtime) = Handle::try_current()
        {
            let over = Arc::new(AtomicBool::new(false));
            let waiting = Waiting { server_name: name.clone(), over: over.clone() };
            runtime.spawn(async move {
                tls.demand(name.as_deref()).await;
                over.store(true, Ordering::Release);
            });
            self.waiting = Some(waiting);
            return Ok(());
        }
        self.begin(name)
    }

    /// Returns the options for a server name.
    fn options_of(&self, snapshot: &Snapshot, name: Option<&str>) -> Option<ChosenOptions> {
        ChosenOptions::new(snapshot, self.sessions.entry_point, name, self.sessions.local)
    }

    /// Starts the session for a server name.
    fn begin(&mut self, name: Option<String>) -> Result<(), TransportError> {
        let snapshot = self.sessions.snapshots.load();
        let tls = &snapshot.tls;
        let options = self.options_of(&snapshot, name.as_deref()).ok_or_else(not_served)?;
        let config = tls.config_of(&options.options.name).ok_or_else(not_served)?;
        let config = tls.at_address(config, name.as_deref(), self.sessions.local);
        let config = Arc::new(for_quic(&config));
        let mut parameters = Vec::new();
        self.parameters.write(&mut parameters);
        let session = ServerConnection::new(config, self.version, parameters).map_err(|_| not_served())?;
        let mut session = Connection::Server(session);
        read(&mut session, &std::mem::take(&mut self.hello))?;
        self.chosen = Some(Chosen { session, server_name: name, options });
        Ok(())
    }

    /// Starts a session whose wait is over. Clients repeat an unanswered ClientHello, and the library polls the session
    /// then.
    fn resume(&mut self) -> Result<(), TransportError> {
        match self.waiting.take_if(|waiting| waiting.over.load(Ordering::Acquire)) {
            Some(waiting) => self.begin(waiting.server_name),
            None => Ok(()),
        }
    }

    fn session(&self) -> Option<&Connection> {
        self.chosen.as_ref().map(|chosen| &chosen.session)
    }
}

impl Session for Handshake {
    fn initial_keys(&self, destination: &ConnectionId, side: Side) -> Keys {
        self.first.initial_keys(destination, side)
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let chosen = self.chosen.as_ref().filter(|chosen| !chosen.session.is_handshaking())?;
        let Chosen { session, server_name, options } = chosen;
        let chain = session.peer_certificates().unwrap_or_default();
        let info = TlsInfo {
            server_name: server_name.clone(),
            version: "1.3",
            cipher: session
                .negotiated_cipher_suite()
                .map_or("", |suite| crate::entrypoint::connection::go_name(suite.suite())),
            client_certificates: chain.iter().map(|certificate| certificate.to_vec()).collect(),
        };
        Some(Box::new(Outcome { info, options: options.clone() }))
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.session().is_none_or(|session| session.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        match &mut self.chosen {
            // Clients must wait for the response to the ClientHello.
            None if self.waiting.is_some() => {
                return Err(error(TransportErrorCode::PROTOCOL_VIOLATION, "data after the ClientHello"));
            }
            None => self.choose(bytes)?,
            Some(chosen) => read(&mut chosen.session, bytes)?,
        }
        if let Some(session) = self.session().filter(|session| session.alpn_protocol().is_none()) {
            // Without ALPN, the client speaks another protocol.
            if session.quic_transport_parameters().is_some() {
                let code = TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
                return Err(error(code, "expected the protocol h3"));
            }
        }
        let is_new = !self.reported && !self.is_handshaking();
        self.reported |= is_new;
        Ok(is_new)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let Some(mut bytes) = self.session().and_then(Connection::quic_transport_parameters) else {
            return Ok(None);
        };
        Ok(Some(TransportParameters::read(Side::Server, &mut bytes)?))
    }

    fn write_handshake(&mut self, bytes: &mut Vec<u8>) -> Option<Keys> {
        // Errors cannot be returned from here: the client times out.
        if self.waiting.is_some() && self.resume().is_err() {
            return None;
        }
        let keys = match self.chosen.as_mut()?.session.write_hs(bytes)? {
            KeyChange::Handshake { keys } => keys,
            KeyChange::OneRtt { keys, next } => {
                self.next = Some(next);
                keys
            }
        };
        Some(Keys {
            header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
            packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
        })
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    fn is_valid_retry(&self, original: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.first.is_valid_retry(original, header, payload)
    }

    fn export_keying_material(
        &self,
        output: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        let session = self.session().ok_or(ExportKeyingMaterialError)?;
        session
            .export_keying_material(output, label, Some(context))
            .map(|_| ())
            .map_err(|_| ExportKeyingMaterialError)
    }
}

/// Returns the error for options that are missing or broken, or do not allow TLS 1.3.
fn not_served() -> TransportError {
    error(TransportErrorCode::crypto(HANDSHAKE_FAILURE), "not served over QUIC")
}

/// Returns the configuration for HTTP/3, without other protocols and early data.
fn for_quic(config: &rustls::ServerConfig) -> rustls::ServerConfig {
    let mut config = config.clone();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.max_early_data_size = 0;
    config
}

fn read(session: &mut Connection, bytes: &[u8]) -> Result<(), TransportError> {
    session.read_hs(bytes).map_err(|failure| {
        let alert = session.alert().map_or(INTERNAL_ERROR, u8::from);
        error(TransportErrorCode::crypto(alert), &failure.to_string())
    })
}

fn error(code: TransportErrorCode, reason: &str) -> TransportError {
    TransportError { code, frame: None, reason: reason.to_owned() }
}
