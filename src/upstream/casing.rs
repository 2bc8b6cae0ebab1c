//! Writes `Sec-WebSocket-Key` with its usual case, which some WebSocket servers require.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The spelling of the HTTP library.
const TITLE: &[u8] = b"\r\nSec-Websocket-";
/// Offset of the letter to capitalise.
const CAPITAL: usize = b"\r\nSec-Web".len();
/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// A stream to a server that corrects the names in the first head that is written, and nothing after it.
pub(super) struct WebSocketCase<S> {
    stream: S,
    /// Number of bytes of [`END`] at the end of the last write; all of them once the head is written.
    matched: usize,
}

impl<S> WebSocketCase<S> {
    /// Wraps a new stream.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, matched: 0 }
    }

    fn track_head(&mut self, written: &[u8]) {
        for byte in written {
            if self.matched == END.len() {
                return;
            }
            self.matched =
                if *byte == END[self.matched] { self.matched + 1 } else { usize::from(*byte == b'\r') };
        }
    }
}

/// Returns a copy of the bytes with the names in the head corrected.
fn corrected(data: &[u8]) -> Vec<u8> {
    let mut copy = data.to_vec();
    let end = memchr::memmem::find(data, END).unwrap_or(data.len());
    for at in memchr::memmem::find_iter(&data[..end], TITLE) {
        copy[at + CAPITAL] = b'S';
    }
    copy
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WebSocketCase<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.matched == END.len() {
            return Pin::new(&mut this.stream).poll_write(cx, data);
        }
        let polled = Pin::new(&mut this.stream).poll_write(cx, &corrected(data));
        if let Poll::Ready(Ok(length)) = polled {
            this.track_head(&data[..length]);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WebSocketCase<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn only_names_in_the_head_are_corrected() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let mut stream = WebSocketCase::new(ours);
        let sent =
            "GET / HTTP/1.1\r\nSec-Websocket-Key: \r\nX: Sec-Websocket-\r\nSec-Websocket-Version: 13\r\n\r\n";
        let right =
            "GET / HTTP/1.1\r\nSec-WebSocket-Key: \r\nX: Sec-Websocket-\r\nSec-WebSocket-Version: 13\r\n\r\n";
        for bytes in [sent, sent] {
            stream.write_all(bytes.as_bytes()).await.unwrap();
        }
        drop(stream);
        let mut seen = String::new();
        theirs.read_to_string(&mut seen).await.unwrap();
        assert_eq!(seen, format!("{right}{sent}"));
    }
}
