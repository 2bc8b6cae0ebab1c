//! One connection to Redis: a task that sends all commands received since the last replies as a batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::OptionFuture;
use tidegate_clients::connect::Connector;
use tidegate_clients::redis::{Connection, Login, Reply};
use tidegate_core::store::StoreOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::error::NodeError;

/// Maximum number of commands waiting for one connection.
const MAX_QUEUE: usize = 1024;
/// Maximum number of commands per batch.
const MAX_BATCH: usize = 128;
/// Timeout of idle connections, except those to keep.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Interval of lookups of a connected server's name.
const CONFIRM_INTERVAL: Duration = Duration::from_millis(500);

/// A command waiting for its reply.
pub(super) struct Job {
    /// One or more commands, encoded by [`tidegate_clients::redis::encode`].
    pub(super) command: Bytes,
    /// The number of commands. The reply to the last one is returned.
    pub(super) commands: usize,
    pub(super) answer: oneshot::Sender<Result<Reply, NodeError>>,
    waiting: Waiting,
}

/// Counts a job until dropped.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The address of a server and its credentials.
pub(super) struct ServerAddress {
    pub(super) connector: Connector,
    pub(super) options: Arc<StoreOptions>,
}

impl ServerAddress {
    /// Connects and logs in.
    pub(super) async fn open(&self) -> Result<Connection, NodeError> {
        let options = &*self.options;
        let login =
            Login { username: options.username.expose(), password: &options.password, db: options.db };
        let work = Connection::open_within(options.dial_timeout, &self.connector, login);
        let most = options.dial_timeout + options.read_timeout;
        Ok(timeout(most, work).await.map_err(|_| NodeError::LoginTimedOut(most))??)
    }
}

/// A handle to a connection, which is closed when all handles are dropped.
#[derive(Clone)]
pub(super) struct Pipeline {
    jobs: mpsc::Sender<Job>,
    waiting: Arc<AtomicUsize>,
    open: Arc<AtomicBool>,
}

impl Pipeline {
    /// Returns a pipeline, and the end for [`run`].
    pub(super) fn new() -> (Self, End) {
        let (jobs, incoming) = mpsc::channel(MAX_QUEUE);
        let open = Arc::new(AtomicBool::new(false));
        (Self { jobs, waiting: Arc::default(), open: open.clone() }, End { jobs: incoming, open })
    }

    /// Returns true if nothing can be sent any more.
    pub(super) fn has_ended(&self) -> bool {
        self.jobs.is_closed()
    }

    /// Returns whether the connection is not open yet, and the number of waiting commands.
    pub(super) fn load(&self) -> (bool, usize) {
        (!self.open.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed))
    }

    /// Sends a command.
    pub(super) fn send(
        &self,
        command: Bytes,
        commands: usize,
    ) -> Result<oneshot::Receiver<Result<Reply, NodeError>>, NodeError> {
        let (answer, answered) = oneshot::channel();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let job = Job { command, commands, answer, waiting: Waiting(self.waiting.clone()) };
        match self.jobs.try_send(job) {
            Ok(()) => Ok(answered),
            Err(mpsc::error::TrySendError::Full(_)) => Err(NodeError::QueueFull(MAX_QUEUE)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(NodeError::Closed),
        }
    }
}

/// The other end of a [`Pipeline`].
pub(super) struct End {
    jobs: mpsc::Receiver<Job>,
    open: Arc<AtomicBool>,
}

/// Sends commands and reads replies, until all senders are dropped, the connection fails (which is reported
/// to waiting commands), the server's name has another address, or `may_end` allows an idle connection to
/// close.
pub(super) async fn run(
    place: &ServerAddress,
    mut connection: Connection,
    mut end: End,
    may_end: impl Fn() -> bool,
) {
    end.open.store(true, Ordering::Relaxed);
    let peer = connection.peer().cloned();
    let mut moved = OptionFuture::from(peer.as_ref().map(|peer| Box::pin(peer.lost(CONFIRM_INTERVAL))));
    let mut bytes = Vec::new();
    let mut batch = VecDeque::new();
    loop {
        let first = tokio::select! {
            job = end.jobs.recv() => job,
            // Queued commands are completed; others open a connection to the new address.
            Some(()) = &mut moved, if !end.jobs.is_closed() => {
                end.jobs.close();
                continue;
            }
            // Without a command, the server has closed the connection or sent garbage.
            _ = connection.read() => return,
            () = tokio::time::sleep(IDLE_TIMEOUT) => {
                if may_end() { return }
                continue;
            }
        };
        let Some(first) = first else { return };
        batch.push_back(first);
        while batch.len() < MAX_BATCH
            && let Ok(job) = end.jobs.try_recv()
        {
            batch.push_back(job);
        }
        // Skip cancelled commands.
        batch.retain(|job| !job.answer.is_closed());
        bytes.clear();
        for job in &batch {
            bytes.extend_from_slice(&job.command);
        }
        if let Err(error) = exchange(place, &mut connection, &bytes, &mut batch).await {
            end.jobs.close();
            while let Ok(job) = end.jobs.try_recv() {
                batch.push_back(job);
            }
            for job in batch {
                // The receiver may be gone.
                let _ = job.answer.send(Err(error.clone()));
            }
            return;
        }
    }
}

async fn exchange(
    place: &ServerAddress,
    connection: &mut Connection,
    bytes: &[u8],
    batch: &mut VecDeque<Job>,
) -> Result<(), NodeError> {
    let most = place.options.write_timeout;
    timeout(most, connection.write(bytes)).await.map_err(|_| NodeError::WriteTimedOut(most))??;
    while let Some(commands) = batch.front().map(|job| job.commands) {
        let most = place.options.read_timeout;
        let mut reply = Reply::Nil;
        for _ in 0..commands {
            reply = timeout(most, connection.read()).await.map_err(|_| NodeError::ReadTimedOut(most))??;
        }
        if let Some(Job { answer, waiting, .. }) = batch.pop_front() {
            // Stop counting it before the reply is visible.
            drop(waiting);
            // The receiver may be gone.
            let _ = answer.send(Ok(reply));
        }
    }
    Ok(())
}
