//! A request stream that has become a tunnel (RFC 9220): its data is the bytes of another protocol, both ways.

use bytes::BytesMut;
use tidegate_wire::http3::frame::{Event, Fault, code};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::answer::{Answer, Unwanted};
use super::upload::{Ending, Source, report};

/// Bytes that are read from the server's side at once, and that may wait between both.
pub(super) const BUFFER: usize = 16 * 1024;

/// Carries bytes between the client's stream and the other side until either ends.
pub(super) async fn carry(
    quic: &quinn::Connection,
    source: &mut Source,
    answer: &mut Answer,
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

/// From the client. Its end is the end of this direction only.
async fn upload(source: &mut Source, mut other: WriteHalf<DuplexStream>) -> Result<(), Ending> {
    loop {
        match std::future::poll_fn(|cx| source.poll_event(cx)).await? {
            Some(Event::Data(piece)) => {
                if other.write_all(&piece).await.is_err() {
                    // The server's side is gone: what it has said still goes to the client.
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

/// To the client, until the server's side ends.
async fn download(answer: &mut Answer, mut other: ReadHalf<DuplexStream>) -> Result<(), Unwanted> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(BUFFER);
        match other.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return answer.finish(),
            Ok(_) => answer.data(buffer.split().freeze()).await?,
        }
    }
}
