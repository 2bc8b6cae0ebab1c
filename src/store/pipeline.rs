//! One connection to Redis, which concurrent commands share.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_clients::connect::Connector;
use tidegate_clients::redis::{Cmd, Commands, Connection, Database, Login, MAX_QUEUE, Sentinel, Value};
use tidegate_core::store::StoreOptions;
use tokio::sync::SetOnce;
use tokio::task::AbortHandle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::NodeError;

/// The address of a server, or of a sentinel that names it, and its credentials.
pub(super) struct ServerAddress {
    pub(super) connector: Connector,
    pub(super) options: Arc<StoreOptions>,
    /// How a sentinel at the address is asked for the server, and how to connect to that.
    pub(super) sentinel: Option<(Sentinel, Database)>,
}

impl ServerAddress {
    /// Connects and logs in.
    pub(super) async fn open(&self) -> Result<Connection, NodeError> {
        let StoreOptions { dial_timeout, read_timeout, .. } = *self.options;
        let limit = dial_timeout + read_timeout;
        timeout(limit, self.connect()).await.map_err(|_| NodeError::LoginTimedOut(limit))?
    }

    /// Connects to the server, or to the one that the sentinel names.
    async fn connect(&self) -> Result<Connection, NodeError> {
        let options = &*self.options;
        let login =
            Login { username: options.username.expose(), password: &options.password, db: options.db };
        let found = match &self.sentinel {
            Some((sentinel, database)) => Some(sentinel.find(&self.connector, database).await?),
            None => None,
        };
        let connector = found.as_ref().unwrap_or(&self.connector);
        Ok(Connection::open_within(options.dial_timeout, options.write_timeout, connector, login).await?)
    }
}

/// The result of opening a connection; `None` if that failed.
pub(super) type Opened = Arc<SetOnce<Option<Commands>>>;

/// A connection that is open or being opened. Its task is cancelled when it is dropped.
pub(super) struct Pipeline {
    commands: Opened,
    waiting: AtomicUsize,
    used: AtomicBool,
    task: AbortHandle,
}

impl Pipeline {
    /// Returns a pipeline. `start` spawns its task, which opens the connection.
    pub(super) fn new(start: impl FnOnce(Weak<Self>, Opened) -> AbortHandle) -> Arc<Self> {
        Arc::new_cyclic(|itself| {
            let commands = Opened::default();
            Self {
                commands: commands.clone(),
                waiting: AtomicUsize::new(0),
                used: AtomicBool::new(true),
                task: start(itself.clone(), commands),
            }
        })
    }

    /// Returns whether the connection is not open yet, and the number of waiting commands.
    pub(super) fn load(&self) -> (bool, usize) {
        (self.commands.get().is_none(), self.waiting.load(Ordering::Relaxed))
    }

    /// Returns true if it was not used since the last call.
    pub(super) fn is_idle(&self) -> bool {
        !self.used.swap(false, Ordering::Relaxed) && self.waiting.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a command of a pipeline until dropped.
pub(super) struct Lease(pub(super) Arc<Pipeline>);

impl Lease {
    /// Counts one more command, unless too many commands are waiting.
    pub(super) fn new(pipeline: Arc<Pipeline>) -> Result<Self, NodeError> {
        let lease = Self(pipeline);
        if lease.0.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_QUEUE {
            return Err(NodeError::QueueFull(MAX_QUEUE));
        }
        lease.0.used.store(true, Ordering::Relaxed);
        Ok(lease)
    }

    /// Sends a command and returns its reply, unless `deadline` is over before. With `asking`, the server is
    /// importing the key.
    pub(super) async fn send(
        &self,
        command: &Cmd,
        asking: bool,
        deadline: Instant,
        read_timeout: Duration,
    ) -> Result<Result<Value, NodeError>, Elapsed> {
        let opened = match self.0.commands.get() {
            Some(opened) => opened,
            None => timeout_at(deadline, self.0.commands.wait()).await?,
        };
        let Some(mut commands) = opened.clone() else { return Ok(Err(NodeError::Closed)) };
        let end = Instant::now() + read_timeout;
        let work = async {
            match asking {
                false => commands.send(command).await,
                // Boxed, as it is rare and would make the future of each command larger.
                true => Box::pin(commands.send_asking(command)).await,
            }
        };
        match timeout_at(end.min(deadline), work).await {
            Err(elapsed) if deadline <= end => Err(elapsed),
            Err(_) => Ok(Err(NodeError::ReadTimedOut(read_timeout))),
            Ok(reply) => Ok(reply.map_err(NodeError::from)),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
