//! The stream of a connection that has changed to another protocol.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::entrypoint::conn_limit::OpenConnection;
use crate::entrypoint::prefixed::Prefixed;

/// The stream, starting with what the client has sent already. It counts as a connection until it is dropped.
pub(super) struct Upgraded<S> {
    stream: Prefixed<S>,
    _open: Option<OpenConnection>,
}

impl<S> Upgraded<S> {
    pub(super) fn new(first: &[u8], stream: S, open: Option<OpenConnection>) -> Self {
        Self { stream: Prefixed::new(first.to_vec(), stream), _open: open }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Upgraded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Upgraded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
