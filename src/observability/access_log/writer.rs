//! Writes lines to a file or to standard output, on a thread of its own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Lines that may wait for the disk when `bufferingSize` does not say more.
const LEAST_QUEUE: usize = 8192;
/// How much is written at once, in bytes.
const BATCH: usize = 64 * 1024;
/// How long a line may wait for others, to be written together with them. While the thread sleeps, requests need not wake
/// it.
const GATHER: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    Reopen,
    Flush(Sender<()>),
}

/// The queue to the writing thread, which ends when this is dropped and all lines are written.
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
        let (queue, messages) = sync_channel(buffering.max(LEAST_QUEUE));
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        let thread = std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || target.run(&messages, &counter))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), lost })
    }

    /// Hands over a line. When the queue is full the line is lost and counted: no request waits for the disk.
    pub(super) fn write(&self, line: Vec<u8>) {
        let sent = self.queue.as_ref().is_some_and(|queue| queue.try_send(Message::Line(line)).is_ok());
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn reopen(&self) {
        if let Some(queue) = &self.queue {
            // The thread ends only after the queue.
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
    /// Writes what comes, as much at once as there is, until the queue is closed.
    fn run(mut self, messages: &Receiver<Message>, lost: &AtomicU64) {
        let mut batch = Vec::new();
        let mut reported = 0;
        while let Ok(first) = messages.recv() {
            if matches!(first, Message::Line(_)) {
                std::thread::sleep(GATHER);
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
                tracing::warn!(lines = now - reported, "access log: lines were lost, the disk is too slow");
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
                tracing::error!(%error, path = %path.display(), "access log: cannot reopen, the old file stays");
            }
        }
    }
}

/// Opens a log file for appending, readable by the owner and the group only, and makes its directory.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let made = directory.map_or(Ok(()), std::fs::create_dir_all);
    let file = made.and_then(|()| OpenOptions::new().append(true).create(true).mode(0o640).open(path));
    file.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}
