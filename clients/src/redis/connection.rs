//! Connections to one server. The crate `redis` encodes, decodes and pipelines; the streams are our own, as
//! TLS has Traefik's options and names may get other addresses.
//!
//! Connect and reply times are limited, as is the size of replies.

use std::pin::pin;
use std::time::Duration;

use ::redis::aio::{MultiplexedConnection, PubSub};
use ::redis::cluster_routing::Slot;
use ::redis::{
    Arg, AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisConnectionInfo, ServerError,
    Value, cmd, from_redis_value,
};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, Either, Fuse, FutureExt, select};
use tidegate_core::values::Secret;
use tokio::time::timeout;

use super::stream::{LimitedStream, Received};
use crate::OptionError;
use crate::connect::{ConnectError, Connector, Syntax, Tls};
use crate::dial::Peer;
use crate::peer_state::System;

/// Timeout for connecting, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a reply in bytes.
const MAX_REPLY: usize = 64 << 20;
/// Maximum size of all messages that are not read yet.
const MAX_MESSAGES: usize = 16 << 20;
/// Maximum number of commands waiting to be written to a connection.
pub const MAX_QUEUE: usize = 1024;

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
    Ok(Connector::new(&syntax, endpoint, tls)?.observed_as(System::Redis))
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
    /// The reply does not match the command.
    #[error("{command}: unexpected reply")]
    UnexpectedReply {
        /// Name of the command.
        command: String,
    },
    /// The server closed the connection.
    #[error("the server has closed the connection")]
    Closed,
    /// A reply is not valid in the protocol.
    #[error("the server does not reply in the protocol of Redis")]
    Protocol,
    /// The connection failed, or exceeded a limit.
    #[error(transparent)]
    Failed(::redis::RedisError),
}

impl From<::redis::RedisError> for RedisError {
    /// For errors of the connection.
    fn from(error: ::redis::RedisError) -> Self {
        match error.kind() {
            // The text may quote the reply.
            ErrorKind::Parse => Self::Protocol,
            // A connection that is closed by the server has no other cause.
            ErrorKind::Io if error.is_connection_dropped() => Self::Closed,
            _ => Self::Failed(error),
        }
    }
}

impl RedisError {
    fn refused(command: &Cmd, error: &ServerError) -> Self {
        Self::Refused { command: name(command), error: error_text(error) }
    }
}

/// Returns the code and message of a server's error, as sent.
pub fn error_text(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

/// Returns the slot and address of a redirection (`MOVED` or `ASK`); `None` if it has no valid ones.
pub fn redirection(error: &ServerError) -> Option<(Slot, String)> {
    let error = ::redis::RedisError::from(error.clone());
    let (address, slot) = error.redirect_node()?;
    let slot = Slot::new(slot)?;
    (!address.starts_with(':')).then(|| (slot, address.to_owned()))
}

/// Returns the name of a command.
fn name(command: &Cmd) -> String {
    match command.args_iter().next() {
        Some(Arg::Simple(name)) => String::from_utf8_lossy(name).into_owned(),
        _ => String::new(),
    }
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

/// The task of a connection: writes commands and reads replies until the connection fails.
pub type Driver = Fuse<BoxFuture<'static, ()>>;

/// Sends commands on a connection while its [`Driver`] runs. Commands of clones are pipelined.
#[derive(Clone)]
pub struct Commands {
    connection: MultiplexedConnection,
    received: Received,
}

impl Commands {
    /// Sends a command and waits for its reply, however long it takes. An error of the server is a
    /// [`Value::ServerError`]. A command that is cancelled before it is written is not sent.
    pub async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let reply = self.connection.send_packed_command(command).await?;
        self.received.reset();
        Ok(reply)
    }

    /// Like [`send`](Self::send), for a server that is importing the key of the command.
    pub async fn send_asking(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        let mut both = Pipeline::with_capacity(2);
        both.add_command(cmd("ASKING")).add_command(command.clone());
        let mut replies = self.connection.send_packed_commands(&both, 0, 2).await?;
        self.received.reset();
        replies.pop().ok_or(RedisError::Protocol)
    }
}

/// A connection to one server.
pub struct Connection {
    commands: Commands,
    driver: Driver,
    peer: Option<Peer>,
}

impl Connection {
    /// Connects, logs in and selects the database.
    pub async fn open(connector: &Connector, login: Login<'_>) -> Result<Self, RedisError> {
        Self::open_within(CONNECT_TIMEOUT, REPLY_TIMEOUT, connector, login).await
    }

    /// Like [`open`](Self::open), with other timeouts for connecting (including TLS) and for writes.
    pub async fn open_within(
        connect_timeout: Duration,
        write_timeout: Duration,
        connector: &Connector,
        login: Login<'_>,
    ) -> Result<Self, RedisError> {
        let opened = Self::log_in(connect_timeout, write_timeout, connector, login).await;
        connector.record(opened.is_ok());
        opened
    }

    async fn log_in(
        connect_timeout: Duration,
        write_timeout: Duration,
        connector: &Connector,
        login: Login<'_>,
    ) -> Result<Self, RedisError> {
        let (stream, peer) = connector.connect_within(connect_timeout).await?;
        let received = Received::new(MAX_REPLY);
        let stream = LimitedStream::new(stream, received.clone(), write_timeout);
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(MAX_QUEUE);
        // Logs in below, as the crate's own login hides why a server refuses.
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
        let commands = Commands { connection, received };
        let mut connection = Self { commands, driver: driver.boxed().fuse(), peer };
        let password = login.password.expose();
        if !password.is_empty() {
            let mut auth = cmd("AUTH");
            if !login.username.is_empty() {
                auth.arg(login.username);
            }
            let answer = connection.query::<()>(auth.arg(password)).await;
            answer.map_err(|error| RedisError::Login {
                endpoint: connector.endpoint().to_owned(),
                source: Box::new(error),
            })?;
        }
        if login.db != 0 {
            connection.query::<()>(cmd("SELECT").arg(login.db)).await?;
        }
        Ok(connection)
    }

    /// Returns the peer, if the server has a host name.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Sends a command and decodes its reply. Returns an error for an error reply.
    pub async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        let request = pin!(self.commands.send(command));
        let work = async {
            match select(request, &mut self.driver).await {
                Either::Left((reply, _)) => reply,
                // The connection has failed, and so does the request.
                Either::Right(((), request)) => request.await,
            }
        };
        let outcome = timeout(REPLY_TIMEOUT, work).await;
        let late = |_| RedisError::TimedOut { command: name(command), limit: REPLY_TIMEOUT };
        match outcome.map_err(late)?? {
            Value::ServerError(error) => Err(RedisError::refused(command, &error)),
            // The text of this error may quote the reply.
            reply => {
                from_redis_value(reply).map_err(|_| RedisError::UnexpectedReply { command: name(command) })
            }
        }
    }

    /// Returns the parts for concurrent use, and the peer, if the server has a host name.
    pub fn into_parts(self) -> (Commands, Driver, Option<Peer>) {
        (self.commands, self.driver, self.peer)
    }
}

/// A connection that receives the messages of channels.
pub struct Subscription {
    messages: PubSub,
    received: Received,
}

impl Subscription {
    /// Connects, logs in and subscribes to the channels that match these patterns.
    pub async fn open(
        connector: &Connector,
        login: Login<'_>,
        patterns: &[String],
    ) -> Result<Self, RedisError> {
        const COMMAND: &str = "PSUBSCRIBE";
        let (stream, _) = connector.connect_within(CONNECT_TIMEOUT).await?;
        let received = Received::new(MAX_MESSAGES);
        let stream = LimitedStream::new(stream, received.clone(), REPLY_TIMEOUT);
        let mut info = RedisConnectionInfo::default().set_skip_set_lib_name().set_db(login.db);
        let password = login.password.expose();
        if !password.is_empty() {
            info = info.set_password(password);
            if !login.username.is_empty() {
                info = info.set_username(login.username);
            }
        }
        let work = async {
            let mut messages = PubSub::new(&info, stream).await?;
            messages.psubscribe(patterns).await?;
            Ok::<_, ::redis::RedisError>(messages)
        };
        let late = |_| RedisError::TimedOut { command: COMMAND.into(), limit: REPLY_TIMEOUT };
        let messages = match timeout(REPLY_TIMEOUT, work).await.map_err(late)? {
            Ok(messages) => messages,
            Err(error) => {
                let server = ServerError::try_from(error).map_err(RedisError::from)?;
                return Err(RedisError::refused(&cmd(COMMAND), &server));
            }
        };
        received.reset();
        Ok(Self { messages, received })
    }

    /// Waits for the next message, and returns its channel. Cancel safe.
    pub async fn next(&mut self) -> Result<String, RedisError> {
        let Some(message) = self.messages.on_message().next().await else {
            self.received.check().map_err(::redis::RedisError::from)?;
            return Err(RedisError::Closed);
        };
        self.received.reset();
        Ok(message.get_channel().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
