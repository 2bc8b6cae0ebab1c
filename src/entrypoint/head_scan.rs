//! Looks over the raw head of an HTTP/1 request, for what the HTTP library no longer shows.
//!
//! The library resolves a `Content-Length` beside `Transfer-Encoding` silently, drops repeated lengths and fragments,
//! and takes a bare LF as a line end. Another parser in front of or behind us may decide otherwise, which is how
//! requests are smuggled (RFC 9112 sections 2.2, 6.3 and 11.2), so such a head is refused.

/// Why a head is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// It is not.
    #[default]
    Fine = 0,
    /// Its framing or line ends can be read in two ways.
    Ambiguous = 1,
    /// The target has a fragment.
    Fragment = 2,
}

impl Verdict {
    /// From its number, [`Verdict::Fine`] for unknown ones.
    pub fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Ambiguous,
            2 => Self::Fragment,
            _ => Self::Fine,
        }
    }
}

/// Longest part of a header line that matters: enough for `transfer-encoding:`.
const KEPT: usize = 18;

/// A scan over a head that may come in pieces.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// The beginning of the current line.
    line: [u8; KEPT],
    /// Length of the current line so far.
    length: usize,
    /// Last byte of the line so far.
    last: u8,
    /// Lines completed; the first is the request line.
    lines: usize,
    lengths: usize,
    codings: usize,
    bare: bool,
    fragment: bool,
}

impl HeadScan {
    /// True until the first byte of a head.
    pub fn is_empty(&self) -> bool {
        self.lines == 0 && self.length == 0
    }

    /// Looks at the next bytes. At the end of the head it answers how many of them belong to the head, and resets.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<(usize, Verdict)> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.part(rest);
                return None;
            };
            self.part(&rest[..end]);
            at += end + 1;
            if self.line_end() {
                let verdict = self.verdict();
                *self = Self::default();
                return Some((at, verdict));
            }
        }
        None
    }

    fn part(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.length < KEPT {
            let take = bytes.len().min(KEPT - self.length);
            self.line[self.length..self.length + take].copy_from_slice(&bytes[..take]);
        }
        if self.lines == 0 && memchr::memchr(b'#', bytes).is_some() {
            self.fragment = true;
        }
        self.length += bytes.len();
        self.last = bytes[bytes.len() - 1];
    }

    /// Takes a line as complete; true at the empty line that ends the head.
    fn line_end(&mut self) -> bool {
        let carriage = self.length > 0 && self.last == b'\r';
        let length = self.length - usize::from(carriage);
        self.length = 0;
        if length == 0 {
            // Empty lines before the request line are passed over (RFC 9112 section 2.2).
            self.bare |= self.lines > 0 && !carriage;
            return self.lines > 0;
        }
        self.bare |= !carriage;
        let line = &self.line[..length.min(KEPT)];
        if self.lines > 0 {
            self.lengths += usize::from(is_field(line, b"content-length"));
            self.codings += usize::from(is_field(line, b"transfer-encoding"));
        }
        self.lines += 1;
        false
    }

    fn verdict(&self) -> Verdict {
        if self.bare || self.lengths > 1 || self.codings > 1 || (self.lengths > 0 && self.codings > 0) {
            Verdict::Ambiguous
        } else if self.fragment {
            Verdict::Fragment
        } else {
            Verdict::Fine
        }
    }
}

fn is_field(line: &[u8], name: &[u8]) -> bool {
    line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name) && line[name.len()] == b':'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(head: &str) -> Option<(usize, Verdict)> {
        HeadScan::default().feed(head.as_bytes())
    }

    #[test]
    fn plain_heads_are_fine_and_end_where_they_end() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
        assert_eq!(scan(head), Some((head.len(), Verdict::Fine)));
        assert_eq!(scan(&format!("{head}abc")), Some((head.len(), Verdict::Fine)));
        assert_eq!(scan(&format!("\r\n{head}")), Some((head.len() + 2, Verdict::Fine)));
        assert_eq!(scan(&head[..head.len() - 1]), None);
    }

    #[test]
    fn double_meanings_are_found() {
        for lines in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "transfer-encoding: chunked\r\nCONTENT-LENGTH: 3\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "Host: a\nX: y\r\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\n{lines}\r\n");
            assert_eq!(scan(&head).map(|found| found.1), Some(Verdict::Ambiguous), "{head}");
        }
        assert_eq!(scan("GET / HTTP/1.1\r\nHost: a\r\n\n").map(|f| f.1), Some(Verdict::Ambiguous));
        assert_eq!(scan("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n").map(|f| f.1), Some(Verdict::Fragment));
        let harmless = "GET / HTTP/1.1\r\nContent-Length-Note: 1\r\nContent-Length: 1\r\nReferer: /#x\r\n\r\n";
        assert_eq!(scan(harmless).map(|f| f.1), Some(Verdict::Fine));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(head in "[A-Z]{3} /[a-z#]{0,4} HTTP/1.1\r?\n((Content-Length|Transfer-Encoding|Hos): [a-z0-9]{1,30}\r?\n){0,4}\r\nrest", cut in 0usize..60) {
            let whole = scan(&head);
            let bytes = head.as_bytes();
            let cut = cut.min(bytes.len());
            let mut pieces = HeadScan::default();
            let found = match pieces.feed(&bytes[..cut]) {
                Some(found) => Some(found),
                None => pieces.feed(&bytes[cut..]).map(|(at, verdict)| (at + cut, verdict)),
            };
            prop_assert_eq!(whole, found);
        }
    }
}
