//! Asks a PostgreSQL server for TLS: Traefik answers for the server, and asks it in turn.

use std::io;

use tidegate_wire::postgres::{AGREED, SSL_REQUEST};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Asks a server for TLS on behalf of a client who has the answer already.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(server: &mut S) -> io::Result<()> {
    server.write_all(&SSL_REQUEST).await?;
    server.flush().await?;
    match server.read_u8().await? {
        AGREED => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the PostgreSQL server does not offer TLS")),
    }
}
