//! Writes lines to a file or to standard output, on a separate thread.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::log_file::{LogFile, Rotation};

/// Minimum number of lines that the queue holds; `bufferingSize` may be larger.
const MIN_QUEUE: usize = 8192;
/// Maximum number of bytes per write.
const BATCH: usize = 64 * 1024;
/// How long to collect lines before they are written together. Meanwhile, requests need not wake the thread.
const COLLECT_INTERVAL: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    Reopen,
    Flush(Sender<()>),
}

/// The queue of the writer thread. The thread ends when this is dropped and all lines are written.
pub(crate) struct LineWriter {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

impl LineWriter {
    /// Opens the file (standard output for an empty path) and starts the thread. `what` names the log in messages.
    pub(super) fn start(
        what: &'static str,
        path: &str,
        rotation: Option<Rotation>,
        buffering: usize,
    ) -> io::Result<Self> {
        let target = match path {
            "" => Target::Stdout,
            path => Target::File(LogFile::open(Path::new(path), rotation)?),
        };
        let (queue, messages) = sync_channel(buffering.max(MIN_QUEUE));
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        let thread = std::thread::Builder::new()
            .name(what.replace(' ', "-"))
            .spawn(move || target.run(what, &messages, &counter))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), lost })
    }

    /// Queues a line. If the queue is full, the line is counted as lost, so that requests never wait for the disk.
    pub(super) fn write(&self, line: Vec<u8>) {
        let sent = self.queue.as_ref().is_some_and(|queue| queue.try_send(Message::Line(line)).is_ok());
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn reopen(&self) {
        if let Some(queue) = &self.queue {
            // The thread outlives the queue.
            let _ = queue.send(Message::Reopen);
        }
    }

    pub(super) fn flush(&self) {
        let (done, wait) = channel();
        if self.queue.as_ref().is_some_and(|queue| queue.send(Message::Flush(done)).is_ok()) {
            let _ = wait.recv();
        }
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

enum Target {
    Stdout,
    File(LogFile),
}

impl Target {
    /// Writes lines in batches until the queue is closed.
    fn run(mut self, what: &str, messages: &Receiver<Message>, lost: &AtomicU64) {
        let mut batch = Vec::new();
        let mut reported = 0;
        while let Ok(first) = messages.recv() {
            if matches!(first, Message::Line(_)) {
                std::thread::sleep(COLLECT_INTERVAL);
            }
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Line(line) => batch.extend_from_slice(&line),
                    Message::Reopen => {
                        self.write(what, &mut batch);
                        self.reopen(what);
                    }
                    Message::Flush(done) => {
                        self.write(what, &mut batch);
                        let _ = done.send(());
                    }
                }
                if batch.len() >= BATCH {
                    self.write(what, &mut batch);
                }
                next = messages.try_recv().ok();
            }
            self.write(what, &mut batch);
            let now = lost.load(Ordering::Relaxed);
            if now > reported {
                tracing::warn!(lines = now - reported, "{what}: the disk is too slow: lines were lost");
                reported = now;
            }
        }
    }

    fn write(&mut self, what: &str, batch: &mut Vec<u8>) {
        if batch.is_empty() {
            return;
        }
        let written = match self {
            Self::Stdout => {
                let mut out = io::stdout();
                out.write_all(batch).and_then(|()| out.flush())
            }
            Self::File(file) => file.write_all(batch).and_then(|()| file.flush()),
        };
        if let Err(error) = written {
            tracing::error!(%error, "{what}: cannot write");
        }
        batch.clear();
        batch.shrink_to(2 * BATCH);
    }

    fn reopen(&mut self, what: &str) {
        let Self::File(file) = self else { return };
        if let Err(error) = file.reopen() {
            let path = file.path().display();
            tracing::error!(%error, %path, "{what}: cannot reopen: keeping the old file");
        }
    }
}
