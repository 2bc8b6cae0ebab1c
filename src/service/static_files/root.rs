//! Whether roots can be opened, found out without waiting for a disk or a network file system that hangs.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// How long a configuration waits for a root to be opened.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// Maximum number of roots that are being opened at once, each on a thread of its own.
const MAX_OPENING: usize = 16;

/// The roots of this process that are being opened: one that hangs is neither waited for nor opened again.
static OPENING: LazyLock<Opening> = LazyLock::new(Opening::default);

/// Why a root cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it did not respond within {MAX_WAIT:?}")]
    Hangs,
    #[error("too many other roots do not respond")]
    TooMany,
}

#[derive(Clone, Default)]
struct Opening(Arc<Mutex<HashSet<String>>>);

/// Checks whether a root can be opened by `open`, for a bounded time.
pub(super) fn check(
    root: &str,
    open: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<(), RootError> {
    OPENING.check(root, open, MAX_WAIT)
}

impl Opening {
    fn check(
        &self,
        root: &str,
        open: impl FnOnce() -> io::Result<()> + Send + 'static,
        max_wait: Duration,
    ) -> Result<(), RootError> {
        let mut opening = self.0.lock();
        if opening.contains(root) {
            return Err(RootError::Hangs);
        }
        if opening.len() >= MAX_OPENING {
            return Err(RootError::TooMany);
        }
        opening.insert(root.to_owned());
        drop(opening);
        let (sender, opened) = mpsc::channel();
        let place = Place { opening: self.clone(), root: root.to_owned() };
        thread::Builder::new().name("static root".to_owned()).spawn(move || {
            let result = open();
            drop(place);
            // Nobody may wait any longer.
            let _ = sender.send(result);
        })?;
        match opened.recv_timeout(max_wait) {
            Ok(result) => Ok(result?),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(RootError::Hangs),
            Err(error @ mpsc::RecvTimeoutError::Disconnected) => Err(io::Error::other(error).into()),
        }
    }
}

/// One of the roots that are being opened.
struct Place {
    opening: Opening,
    root: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.opening.0.lock().remove(&self.root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn roots_that_hang_are_bounded_in_time_and_number() {
        let opening = Opening::default();
        assert!(opening.check("a", || Ok(()), LONG).is_ok());
        let missing = opening.check("a", || Err(io::ErrorKind::NotFound.into()), LONG);
        assert!(matches!(missing, Err(RootError::Io(_))));
        let hung: Vec<_> = (0..MAX_OPENING)
            .map(|number| {
                let (release, blocked) = mpsc::channel::<()>();
                let wait = move || {
                    let _ = blocked.recv();
                    Ok(())
                };
                assert!(matches!(opening.check(&number.to_string(), wait, SHORT), Err(RootError::Hangs)));
                release
            })
            .collect();
        // It would wait for a minute.
        let again = opening.check("0", || panic!("it is opened once"), LONG);
        assert!(matches!(again, Err(RootError::Hangs)));
        assert!(matches!(opening.check("a", || Ok(()), LONG), Err(RootError::TooMany)));
        drop(hung);
        while !opening.0.lock().is_empty() {
            thread::yield_now();
        }
        assert!(opening.check("0", || Ok(()), LONG).is_ok());
        assert!(matches!(opening.check("0", || panic!("a fault"), LONG), Err(RootError::Io(_))));
        assert!(opening.0.lock().is_empty());
    }
}
