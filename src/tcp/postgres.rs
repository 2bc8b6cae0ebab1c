//! PostgreSQL's way to TLS: the client asks for it in plain text, and begins the handshake when it is told yes.
//!
//! Source: PostgreSQL's protocol, "SSL Session Encryption"; Traefik answers for the server and asks it in turn.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a client sends that wants TLS: its length, and the code 80877103.
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// The answer yes.
pub const YES: u8 = b'S';

/// Asks a server for TLS on behalf of a client who has been told yes already.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(server: &mut S) -> io::Result<()> {
    server.write_all(&SSL_REQUEST).await?;
    server.flush().await?;
    match server.read_u8().await? {
        YES => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the PostgreSQL server does not offer TLS")),
    }
}
