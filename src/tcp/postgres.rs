//! Requests TLS from a PostgreSQL server. As in Traefik, the client already has the answer.

use std::io;

use tidegate_wire::postgres::{AGREED, SSL_REQUEST};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Requests TLS from a server on behalf of a client.
pub(super) async fn request_tls<S: AsyncRead + AsyncWrite + Unpin>(server: &mut S) -> io::Result<()> {
    server.write_all(&SSL_REQUEST).await?;
    server.flush().await?;
    match server.read_u8().await? {
        AGREED => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the PostgreSQL server does not offer TLS")),
    }
}
