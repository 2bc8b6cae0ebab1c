//! A minimal client of the Redis protocol (RESP2): commands, pipelines, and pub/sub messages.
//!
//! Connect and reply times are limited, as are the size, depth and length of replies.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tidegate_core::values::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::OptionError;
use crate::connect::{ConnectError, Connector, Stream, Syntax, Tls};
use crate::dial::Peer;

/// Timeout for connecting, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a reply in bytes, number of elements of a list, and depth of lists.
const MAX_SIZE: usize = 64 << 20;
const MAX_ELEMENTS: usize = 1 << 20;
const MAX_DEPTH: usize = 4;

/// Returns a connector for a server. `option` holds the endpoint: `host`, `host:port`, or a URL with
/// `redis://`, `rediss://` or `unix://`.
pub fn connector(option: &'static str, endpoint: &str, tls: Option<&Tls>) -> Result<Connector, OptionError> {
    let syntax = Syntax {
        option,
        plain: &["redis", "tcp"],
        secure: &["rediss"],
        otherwise: "redis",
        ports: (6379, 6379),
        example: "127.0.0.1:6379",
    };
    Connector::new(&syntax, endpoint, tls)
}

/// Failure of a connection to a server, or of a command.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// No connection could be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server rejects the login.
    #[error("{endpoint}: the login is refused: {source}")]
    Login {
        /// The configured endpoint.
        endpoint: String,
        /// The cause.
        source: Box<RedisError>,
    },
    /// The server replies to a command with an error.
    #[error("{command}: {error}")]
    Refused {
        /// Name of the command.
        command: String,
        /// The error code and message.
        error: String,
    },
    /// The server did not reply to a command in time.
    #[error("{command}: no reply within {limit:?}")]
    TimedOut {
        /// Name of the command.
        command: String,
        /// The time limit.
        limit: Duration,
    },
    /// The server closed the connection.
    #[error("the server has closed the connection")]
    Closed,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A reply exceeds the maximum size.
    #[error("a reply is larger than {} MiB", MAX_SIZE >> 20)]
    ReplyTooLarge,
    /// A reply is not RESP2, or exceeds a limit.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// Why a reply cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A line exceeds the maximum length.
    #[error("a line of the reply is too long")]
    LineTooLong,
    /// A length or an integer is not a number.
    #[error("invalid number `{0}` in the reply")]
    Number(String),
    /// A value exceeds the maximum size.
    #[error("a value is larger than {} MiB", MAX_SIZE >> 20)]
    ValueTooLarge,
    /// A list has too many elements, or is nested too deeply.
    #[error("a list in the reply is too long or too deep")]
    ListTooLarge,
    /// A reply has an unknown type.
    #[error("unexpected type of reply: byte {0}")]
    UnknownType(u8),
}

/// The credentials and the database to use.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// User name; empty for the default user.
    pub username: &'a str,
    /// Password; empty for no login.
    pub password: &'a Secret,
    /// Number of the database.
    pub db: i64,
}

/// A reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A simple string, such as `OK`.
    Text(String),
    /// An error code and message.
    Error(String),
    /// An integer.
    Integer(i64),
    /// A bulk string.
    Bytes(Vec<u8>),
    /// No value.
    Nil,
    /// A list of replies.
    List(Vec<Reply>),
}

impl Reply {
    /// Returns the elements of a list; empty for other replies.
    pub fn list(self) -> Vec<Reply> {
        match self {
            Self::List(list) => list,
            _ => Vec::new(),
        }
    }

    /// Returns the bytes of a simple or bulk string.
    pub fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.into_bytes()),
            Self::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// Returns the text of a simple or bulk string.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
            Self::Integer(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// A connection to one server.
pub struct Connection {
    stream: Box<dyn Stream>,
    peer: Option<Peer>,
    buffer: BytesMut,
}

impl Connection {
    /// Connects, logs in and selects the database.
    pub async fn open(connector: &Connector, login: Login<'_>) -> Result<Self, RedisError> {
        Self::open_within(CONNECT_TIMEOUT, connector, login).await
    }

    /// Like [`open`](Self::open), with another timeout for connecting (including TLS).
    pub async fn open_within(
        time: Duration,
        connector: &Connector,
        login: Login<'_>,
    ) -> Result<Self, RedisError> {
        let (stream, peer) = connector.connect_within(time).await?;
        let mut connection = Self { stream, peer, buffer: BytesMut::new() };
        let password = login.password.expose();
        if !password.is_empty() {
            let answer = match login.username {
                "" => connection.command(&["AUTH", password]).await,
                name => connection.command(&["AUTH", name, password]).await,
            };
            answer.map_err(|error| RedisError::Login {
                endpoint: connector.endpoint().to_owned(),
                source: Box::new(error),
            })?;
        }
        if login.db != 0 {
            connection.command(&["SELECT", &login.db.to_string()]).await?;
        }
        Ok(connection)
    }

    /// Returns the peer, if the server has a host name.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Sends a command and reads its reply. Returns an error for an error reply.
    pub async fn command<T: AsRef<[u8]>>(&mut self, parts: &[T]) -> Result<Reply, RedisError> {
        let mut request = Vec::new();
        encode(&mut request, parts);
        let name = || match parts.first() {
            Some(name) => String::from_utf8_lossy(name.as_ref()).into_owned(),
            None => String::new(),
        };
        let work = async {
            self.write(&request).await?;
            self.read().await
        };
        let outcome = timeout(REPLY_TIMEOUT, work).await;
        match outcome.map_err(|_| RedisError::TimedOut { command: name(), limit: REPLY_TIMEOUT })? {
            Ok(Reply::Error(error)) => Err(RedisError::Refused { command: name(), error }),
            outcome => outcome,
        }
    }

    /// Sends encoded commands (see [`encode`]) without waiting for replies.
    pub async fn write(&mut self, commands: &[u8]) -> Result<(), RedisError> {
        self.stream.write_all(commands).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads the next reply or message, however long it takes. Cancel safe.
    pub async fn read(&mut self) -> Result<Reply, RedisError> {
        loop {
            if let Some((reply, length)) = parse(&self.buffer, 0)? {
                self.buffer.advance(length);
                return Ok(reply);
            }
            if self.buffer.len() > MAX_SIZE {
                return Err(RedisError::ReplyTooLarge);
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(RedisError::Closed),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Appends a command to `out`, in the encoding of the protocol.
pub fn encode<T: AsRef<[u8]>>(out: &mut Vec<u8>, parts: &[T]) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts.iter().map(AsRef::as_ref) {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// Parses the reply at the start of these bytes, and returns it with its length; `None` if it is incomplete.
fn parse(bytes: &[u8], depth: usize) -> Result<Option<(Reply, usize)>, ProtocolError> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() > 64 << 10 && bytes.first() != Some(&b'$') {
            Err(ProtocolError::LineTooLong)
        } else {
            Ok(None)
        };
    };
    let (kind, line) = (bytes[0], String::from_utf8_lossy(&bytes[1.min(end)..end]).into_owned());
    let after = end + 2;
    let number = || line.parse::<i64>().map_err(|_| ProtocolError::Number(line.clone()));
    match kind {
        b'+' => Ok(Some((Reply::Text(line), after))),
        b'-' => Ok(Some((Reply::Error(line), after))),
        b':' => Ok(Some((Reply::Integer(number()?), after))),
        b'$' => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Some((Reply::Nil, after))) };
            if length > MAX_SIZE {
                return Err(ProtocolError::ValueTooLarge);
            }
            let whole = bytes.get(after..after + length + 2);
            Ok(whole.map(|whole| (Reply::Bytes(whole[..length].to_vec()), after + length + 2)))
        }
        b'*' => {
            let Ok(length) = usize::try_from(number()?) else { return Ok(Some((Reply::Nil, after))) };
            if length > MAX_ELEMENTS || depth >= MAX_DEPTH {
                return Err(ProtocolError::ListTooLarge);
            }
            let (mut list, mut at) = (Vec::new(), after);
            for _ in 0..length {
                let Some((reply, length)) = parse(&bytes[at..], depth + 1)? else { return Ok(None) };
                list.push(reply);
                at += length;
            }
            Ok(Some((Reply::List(list), at)))
        }
        other => Err(ProtocolError::UnknownType(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_are_decoded_once_complete() {
        let bytes = b"*4\r\n$3\r\nfoo\r\n:7\r\n$-1\r\n*1\r\n+OK\r\n";
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length], 0), Ok(None), "{length}");
        }
        let inner = Reply::List(vec![Reply::Text("OK".into())]);
        let list = vec![Reply::Bytes(b"foo".to_vec()), Reply::Integer(7), Reply::Nil, inner];
        assert_eq!(parse(bytes, 0), Ok(Some((Reply::List(list), bytes.len()))));
        assert_eq!(parse(b"-ERR no\r\n+", 0), Ok(Some((Reply::Error("ERR no".into()), 9))));
        for bad in
            ["?\r\n", ":x\r\n", "$99999999999\r\n", "*9999999\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", "\r\n"]
        {
            assert!(parse(bad.as_bytes(), 0).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), any::<u8>()], 0..60)) {
            let _ = parse(&bytes, 0);
        }
    }
}
