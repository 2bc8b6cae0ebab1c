//! Writes lines to a file or to standard output, on a separate thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

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
pub(super) struct Writer {
    queue: Option<SyncSender<Message>>,
    thread: Option<JoinHandle<()>>,
    lost: Arc<AtomicU64>,
}

impl Writer {
    /// Opens the file (standard output for an empty path) and starts the thread.
    pub(super) fn start(path: &str, buffering: usize) -> io::Result<Self> {
        let target = match path {
            "" => Target { path: None, out: Box::new(io::stdout()) },
            path => Target { path: Some(path.into()), out: Box::new(open(Path::new(path))?) },
        };
        let (queue, messages) = sync_channel(buffering.max(MIN_QUEUE));
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || target.run(&messages, &counter))?;
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

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Target {
    path: Option<PathBuf>,
    out: Box<dyn Write + Send>,
}

impl Target {
    /// Writes lines in batches until the queue is closed.
    fn run(mut self, messages: &Receiver<Message>, lost: &AtomicU64) {
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
                        self.write(&mut batch);
                        self.reopen();
                    }
                    Message::Flush(done) => {
                        self.write(&mut batch);
                        let _ = done.send(());
                    }
                }
                if batch.len() >= BATCH {
                    self.write(&mut batch);
                }
                next = messages.try_recv().ok();
            }
            self.write(&mut batch);
            let now = lost.load(Ordering::Relaxed);
            if now > reported {
                tracing::warn!(lines = now - reported, "access log: the disk is too slow: lines were lost");
                reported = now;
            }
        }
    }

    fn write(&mut self, batch: &mut Vec<u8>) {
        if batch.is_empty() {
            return;
        }
        if let Err(error) = self.out.write_all(batch).and_then(|()| self.out.flush()) {
            tracing::error!(%error, "access log: cannot write");
        }
        batch.clear();
        batch.shrink_to(2 * BATCH);
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open(path) {
            Ok(file) => self.out = Box::new(file),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "access log: cannot reopen: keeping the old file");
            }
        }
    }
}

/// Opens a log file for appending, readable by owner and group only, and creates its directory.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let made = directory.map_or(Ok(()), std::fs::create_dir_all);
    let file = made.and_then(|()| OpenOptions::new().append(true).create(true).mode(0o640).open(path));
    file.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}
