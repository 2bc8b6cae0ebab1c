//! One connection to Redis, as a task that sends what has come in since the last answers, all at once.

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

/// Commands that may wait for one connection.
const QUEUE: usize = 1024;
/// Commands that are sent at once.
const BATCH: usize = 128;
/// A connection without anything to do is closed after this time, unless it is to stay.
const IDLE: Duration = Duration::from_secs(300);
/// Pause between two look-ups of a server's name while there is a connection to it.
const CONFIRM: Duration = Duration::from_millis(500);

/// A command that waits for its answer.
pub(super) struct Job {
    /// As [`tidegate_clients::redis::encode`] has written it. It may be several commands.
    pub(super) command: Bytes,
    /// How many commands it is. The answer to the last one counts.
    pub(super) commands: usize,
    pub(super) answer: oneshot::Sender<Result<Reply, NodeError>>,
    waiting: Waiting,
}

/// Counts a job for as long as it lives.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a server is, and how to log in.
pub(super) struct Place {
    pub(super) connector: Connector,
    pub(super) options: Arc<StoreOptions>,
}

impl Place {
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

/// What is kept of a connection by those who use it. It ends when this is dropped.
#[derive(Clone)]
pub(super) struct Pipeline {
    jobs: mpsc::Sender<Job>,
    waiting: Arc<AtomicUsize>,
    open: Arc<AtomicBool>,
}

impl Pipeline {
    /// A line, and the end that [`carry`] serves.
    pub(super) fn new() -> (Self, End) {
        let (jobs, incoming) = mpsc::channel(QUEUE);
        let open = Arc::new(AtomicBool::new(false));
        (Self { jobs, waiting: Arc::default(), open: open.clone() }, End { jobs: incoming, open })
    }

    /// True when nothing can be sent any more.
    pub(super) fn has_ended(&self) -> bool {
        self.jobs.is_closed()
    }

    /// How many commands wait for their answers, those behind open connections first.
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
            Err(mpsc::error::TrySendError::Full(_)) => Err(NodeError::QueueFull(QUEUE)),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(NodeError::Closed),
        }
    }
}

/// The other end of a [`Pipeline`].
pub(super) struct End {
    jobs: mpsc::Receiver<Job>,
    open: Arc<AtomicBool>,
}

/// Sends what comes in and reads the answers, until nobody sends any more, the connection is lost (then the error
/// goes to those who wait), the server's name has another address, or `may_end` says that an idle one is not needed.
pub(super) async fn carry(
    place: &Place,
    mut connection: Connection,
    mut end: End,
    may_end: impl Fn() -> bool,
) {
    end.open.store(true, Ordering::Relaxed);
    let peer = connection.peer().cloned();
    let mut moved = OptionFuture::from(peer.as_ref().map(|peer| Box::pin(peer.lost(CONFIRM))));
    let mut bytes = Vec::new();
    let mut batch = VecDeque::new();
    loop {
        let first = tokio::select! {
            job = end.jobs.recv() => job,
            // What waits already is answered; others open a connection to where the server is now.
            Some(()) = &mut moved, if !end.jobs.is_closed() => {
                end.jobs.close();
                continue;
            }
            // Nothing was asked: the server has closed the connection, or talks nonsense.
            _ = connection.read() => return,
            () = tokio::time::sleep(IDLE) => {
                if may_end() { return }
                continue;
            }
        };
        let Some(first) = first else { return };
        batch.push_back(first);
        while batch.len() < BATCH
            && let Ok(job) = end.jobs.try_recv()
        {
            batch.push_back(job);
        }
        // Those who have given up meanwhile need no answer.
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
                // Who does not wait any more need not know.
                let _ = job.answer.send(Err(error.clone()));
            }
            return;
        }
    }
}

async fn exchange(
    place: &Place,
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
            // Counted no more before the answer is seen.
            drop(waiting);
            // Who does not wait any more need not know.
            let _ = answer.send(Ok(reply));
        }
    }
    Ok(())
}
