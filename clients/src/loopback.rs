//! Responses of our own as hyper's client returns them, for libraries that accept no other type.
//!
//! Only a connection creates hyper's [`Incoming`], so there is one in memory for each response.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::Request;
use http_body_util::{Empty, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

/// Size of the buffer in each direction, in bytes.
const BUFFER: usize = 64 << 10;

/// A failure of the connection in memory.
pub type Error = hyper::Error;
/// A response whose body is hyper's.
pub type Response = http::Response<Incoming>;

/// Returns a response (200) with this body.
pub async fn whole(body: Bytes) -> Result<Response, Error> {
    through_memory(Full::new(body)).await
}

/// Returns a response (200) whose body consists of the parts of a stream, each sent as it comes. Dropping the
/// response drops the stream.
pub async fn streamed(parts: impl Stream<Item = Bytes> + Send + 'static) -> Result<Response, Error> {
    through_memory(StreamBody::new(parts.map(|part| Ok::<_, Infallible>(Frame::data(part))))).await
}

async fn through_memory<B>(body: B) -> Result<Response, Error>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (near, far) = tokio::io::duplex(BUFFER);
    let body = Mutex::new(Some(body));
    let service = service_fn(move |_: Request<Incoming>| {
        let body = body.lock().take().ok_or("there is only one request");
        std::future::ready(body.map(http::Response::new))
    });
    // Each task ends when the other side closes its end: at the latest when the response is dropped.
    tokio::spawn(server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service));
    let (mut requests, connection) = client::conn::http1::handshake(TokioIo::new(near)).await?;
    tokio::spawn(connection);
    requests.send_request(Request::new(Empty::<Bytes>::new())).await
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn bodies_pass_unchanged() {
        for size in [0, 1, BUFFER, 3 * BUFFER + 1] {
            let body: Bytes = (0..size).map(|n| n.to_le_bytes()[0]).collect();
            let response = whole(body.clone()).await.expect("a response");
            assert_eq!(response.into_body().collect().await.expect("a body").to_bytes(), body, "{size}");
        }
    }

    #[tokio::test]
    async fn parts_arrive_as_they_are_sent_and_dropping_the_response_drops_the_stream() {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let parts = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let mut body = streamed(parts).await.expect("a response").into_body();
        for part in ["a", "bc"] {
            sender.send(part.into()).await.expect("taken");
            let frame = body.frame().await.expect("a part").expect("no error");
            assert_eq!(frame.into_data().ok(), Some(Bytes::from(part)));
        }
        drop(body);
        sender.closed().await;
    }
}
