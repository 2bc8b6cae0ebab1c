//! Tunnels over request streams (RFC 9220): data frames carry another protocol in both directions.

use bytes::BytesMut;
use tidegate_wire::http3::frame::{Event, Fault, code};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::answer::{ResponseStream, Unwanted};
use super::upload::{Ending, Source, report};

/// Bytes per read from the server, and buffered in each direction.
pub(super) const BUFFER: usize = 16 * 1024;

/// Copies bytes between the client's stream and the server until either ends.
pub(super) async fn copy(
    quic: &quinn::Connection,
    source: &mut Source,
    answer: &mut ResponseStream,
    other: DuplexStream,
) -> Result<(), Unwanted> {
    let gone = answer.over();
    let (reading, writing) = tokio::io::split(other);
    let up = async {
        let ending = upload(source, writing).await;
        match ending {
            Ok(()) => std::future::pending().await,
            Err(Ending::Fault(fault)) => report(quic, source, fault),
            Err(Ending::Gone(_)) => {}
        }
    };
    tokio::select! {
        down = download(answer, reading) => down,
        () = up => Err(Unwanted),
        () = gone => Err(Unwanted),
    }
}

/// Copies bytes from the client. Its end closes only this direction.
async fn upload(source: &mut Source, mut other: WriteHalf<DuplexStream>) -> Result<(), Ending> {
    loop {
        match std::future::poll_fn(|cx| source.poll_event(cx)).await? {
            Some(Event::Data(piece)) => {
                if other.write_all(&piece).await.is_err() {
                    // The server has closed. Its remaining bytes are still sent to the client.
                    return Ok(());
                }
            }
            Some(Event::Block(_) | Event::TooLong) => {
                return Err(Fault::stream(code::MESSAGE_ERROR, "a tunnel has no trailers").into());
            }
            None => {
                let _ = other.shutdown().await;
                return Ok(());
            }
        }
    }
}

/// Copies bytes to the client until the server closes.
async fn download(answer: &mut ResponseStream, mut other: ReadHalf<DuplexStream>) -> Result<(), Unwanted> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(BUFFER);
        match other.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return answer.finish(),
            Ok(_) => answer.data(buffer.split().freeze()).await?,
        }
    }
}
