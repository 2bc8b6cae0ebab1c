//! A connection to a directory: one request at a time, with limits on what the server sends.

use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::ber::{self, Malformed};
use super::message::{self, Entry, Message, Outcome, Response, Search, code};
use crate::connect::{ConnectError, Connector, Stream};

/// Maximum size of a message in bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// Maximum size of all messages that a request is answered with.
const MAX_ANSWER: usize = 4 << 20;
/// Maximum number of referrals in an answer; they are only counted.
const MAX_REFERENCES: usize = 100;

/// Failure of a connection or an operation. The texts contain no credentials.
#[derive(Debug, thiserror::Error)]
pub(super) enum LdapError {
    /// No connection could be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The server closed the connection, perhaps after announcing it.
    #[error("the server closed the connection")]
    Closed,
    /// The server sent what is not LDAP, or not an answer to the request.
    #[error("unexpected answer")]
    Unexpected,
    /// An answer is too large.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The server refuses to encrypt the connection.
    #[error("the server refuses StartTLS: {0}")]
    StartTls(String),
    /// The user has too many groups.
    #[error("the user has too many groups")]
    TooManyGroups,
    /// The server refuses the gateway's own credentials.
    #[error("the bind as bindDN failed: {0}")]
    OwnBind(String),
    /// The server refuses an operation.
    #[error("{operation} failed: {reason}")]
    Refused {
        /// What was requested.
        operation: &'static str,
        /// The code and the server's text.
        reason: String,
    },
}

impl From<Malformed> for LdapError {
    fn from(_: Malformed) -> Self {
        Self::Unexpected
    }
}

impl LdapError {
    /// Whether a connection that worked earlier may have been closed meanwhile.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Closed)
    }

    /// Whether it fails for all users, not only for this one.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Io(_) | Self::Closed | Self::StartTls(_) | Self::OwnBind(_))
    }

    pub(super) fn refused(operation: &'static str, outcome: Outcome<'_>) -> Self {
        Self::Refused { operation, reason: shown(outcome) }
    }
}

/// How StartTLS is done.
pub(super) type StartTls = (TlsConnector, ServerName<'static>);

/// A connection.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    next_id: u32,
    opened: Instant,
    /// Whether it is bound as the searching DN.
    pub(super) can_search: bool,
}

impl Connection {
    /// Connects, and encrypts the connection if that is requested. If the server refuses, nothing else is sent.
    pub(super) async fn open(
        connector: &Connector,
        start_tls: Option<&StartTls>,
        limit: Duration,
    ) -> Result<Self, LdapError> {
        let (stream, _) = connector.connect_within(limit).await?;
        let opened = Instant::now();
        let mut connection = Self { stream, received: Vec::new(), next_id: 1, opened, can_search: false };
        let Some((tls, name)) = start_tls else { return Ok(connection) };
        let id = connection.send(message::start_tls).await?;
        let answer = connection.receive(&mut 0).await?;
        match message::decode(&answer)? {
            Message { id: own, response: Response::Extended(outcome) } if own == id => {
                if outcome.code != code::SUCCESS {
                    return Err(LdapError::StartTls(shown(outcome)));
                }
            }
            _ => return Err(LdapError::Unexpected),
        }
        // Bytes that arrive before the handshake could be those of an attacker, and would be read as encrypted ones.
        if !connection.received.is_empty() {
            return Err(LdapError::Unexpected);
        }
        connection.stream = Box::new(tls.connect(name.clone(), connection.stream).await?);
        Ok(connection)
    }

    /// The age of the connection.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Binds with a password. Returns the result as it is.
    pub(super) async fn bind<T>(
        &mut self,
        dn: &str,
        password: &[u8],
        read: impl FnOnce(Outcome<'_>) -> T,
    ) -> Result<T, LdapError> {
        self.can_search = false;
        let id = self.send(|id| message::bind(id, dn, password)).await?;
        let answer = self.receive(&mut 0).await?;
        match message::decode(&answer)? {
            Message { id: own, response: Response::Bind(outcome) } if own == id => Ok(read(outcome)),
            // A notice of disconnection (RFC 4511 section 4.4.1).
            Message { id: 0, .. } => Err(LdapError::Closed),
            _ => Err(LdapError::Unexpected),
        }
    }

    /// Returns the entries of a search, and whether these are all. Referrals are not followed.
    pub(super) async fn search(&mut self, search: &Search<'_>) -> Result<(Vec<Entry>, bool), LdapError> {
        let id = self.send(|id| message::search(id, search)).await?;
        let (mut entries, mut references, mut size) = (Vec::new(), 0, 0);
        loop {
            let answer = self.receive(&mut size).await?;
            let Message { id: own, response } = message::decode(&answer)?;
            match response {
                _ if own == 0 => return Err(LdapError::Closed),
                _ if own != id => return Err(LdapError::Unexpected),
                Response::Entry(entry) if entries.len() < search.size_limit as usize => entries.push(entry),
                Response::Reference if references < MAX_REFERENCES => references += 1,
                Response::Done(outcome) => {
                    return match outcome.code {
                        code::SUCCESS | code::NO_SUCH_OBJECT => Ok((entries, true)),
                        code::SIZE_LIMIT_EXCEEDED | code::REFERRAL => Ok((entries, false)),
                        _ => Err(LdapError::refused("the search", outcome)),
                    };
                }
                _ => return Err(LdapError::Unexpected),
            }
        }
    }

    /// Ends the connection; the server is not waited for.
    pub(super) async fn close(mut self) {
        if self.send(message::unbind).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }

    async fn send(&mut self, request: impl FnOnce(u32) -> Vec<u8>) -> Result<u32, LdapError> {
        let id = self.next_id;
        self.next_id = if id >= i32::MAX as u32 { 1 } else { id + 1 };
        self.stream.write_all(&request(id)).await?;
        self.stream.flush().await?;
        Ok(id)
    }

    /// Returns the next message, whose size is added to `size`.
    async fn receive(&mut self, size: &mut usize) -> Result<Vec<u8>, LdapError> {
        loop {
            if let Some((_, start, length)) = ber::header(&self.received)? {
                if length > MAX_MESSAGE {
                    return Err(LdapError::TooLarge(MAX_MESSAGE));
                }
                let end = start + length;
                if self.received.len() >= end {
                    *size += end;
                    if *size > MAX_ANSWER {
                        return Err(LdapError::TooLarge(MAX_ANSWER));
                    }
                    let rest = self.received.split_off(end);
                    return Ok(std::mem::replace(&mut self.received, rest));
                }
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).await? {
                0 => return Err(LdapError::Closed),
                read => self.received.extend_from_slice(&buffer[..read]),
            }
        }
    }
}

/// Returns the code and the server's text for the operator.
pub(super) fn shown(outcome: Outcome<'_>) -> String {
    const MAX_TEXT: usize = 200;
    let text = String::from_utf8_lossy(outcome.diagnostic);
    let text: String = text.chars().filter(|character| !character.is_control()).take(MAX_TEXT).collect();
    match text.is_empty() {
        true => format!("result {}", outcome.code),
        false => format!("result {}: {text}", outcome.code),
    }
}
