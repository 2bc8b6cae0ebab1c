//! Finds lines in a buffer that grows.

use std::ops::Range;

use super::error::{Error, ErrorKind};

/// Which line ends are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineEnds {
    /// CR LF only.
    Strict,
    /// Also LF alone, as some servers write it (RFC 9112 section 2.2).
    AlsoLf,
}

/// The lines of a head or of a trailer section. Each byte is searched once, however the bytes arrive.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Where the incomplete line starts.
    start: usize,
    /// The number of bytes in which no line end is left.
    searched: usize,
}

/// Returns the error of a line, which is its first bare carriage return if it has one. So it does not depend on the
/// pieces in which the line arrives.
#[cold]
pub(super) fn blame(error: Error, bytes: &[u8], line: Range<usize>) -> Error {
    let start = line.start;
    let at = memchr::memchr(b'\r', &bytes[line]);
    at.map_or(error, |at| Error::new(ErrorKind::LineEnd, start + at))
}

impl Lines {
    /// Returns the next line without its end; `None` if it is incomplete. `bytes` are those of the last call, with more
    /// after them.
    ///
    /// # Errors
    /// For a line feed without a carriage return, and in an incomplete line also for the reverse, as its peer may wait
    /// for a response.
    #[inline(always)]
    pub(super) fn next(&mut self, bytes: &[u8], ends: LineEnds) -> Result<Option<Range<usize>>, Error> {
        let rest = bytes.get(self.searched..).unwrap_or_default();
        let Some(at) = memchr::memchr(b'\n', rest) else {
            return self.check_incomplete(bytes).map(|()| None);
        };
        let (start, end) = (self.start, self.searched + at);
        self.start = end + 1;
        self.searched = end + 1;
        if end > start && bytes[end - 1] == b'\r' {
            return Ok(Some(start..end - 1));
        }
        match ends {
            LineEnds::AlsoLf => Ok(Some(start..end)),
            LineEnds::Strict => Err(Error::new(ErrorKind::LineEnd, end)),
        }
    }

    fn check_incomplete(&mut self, bytes: &[u8]) -> Result<(), Error> {
        // The last byte of the last call may have been a carriage return.
        let from = self.searched.saturating_sub(1).max(self.start);
        self.searched = bytes.len();
        let rest = bytes.get(from..).unwrap_or_default();
        match memchr::memchr(b'\r', rest).map(|at| from + at) {
            Some(at) if at + 1 < bytes.len() => Err(Error::new(ErrorKind::LineEnd, at)),
            _ => Ok(()),
        }
    }

    /// Takes all lines up to the end of one.
    pub(super) fn skip(&mut self, end: usize) {
        (self.start, self.searched) = (end, end);
    }

    /// Returns the number of bytes of the complete lines.
    pub(super) fn consumed(&self) -> usize {
        self.start
    }

    /// Returns true before the first byte.
    pub(super) fn is_at_start(&self) -> bool {
        self.searched == 0
    }
}
