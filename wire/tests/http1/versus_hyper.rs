//! The same bytes to the HTTP library's server and to this codec: what is accepted here, it accepts as the same requests.
//! What it accepts and this codec refuses has a rule.

use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tidegate_wire::http1::ErrorKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::corpus::{End, Message, Random, Verdict, connection, fields, verdict};

/// Returns the complete requests that the library's server sees, and whether it has refused what came after them.
fn served(runtime: &tokio::runtime::Runtime, bytes: &[u8]) -> (Vec<Message>, bool) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let messages = seen.clone();
    let service = service_fn(move |request: http::Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?;
            seen.lock().unwrap().push(Message {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                fields: fields(&head.headers),
                body: body.to_bytes().to_vec(),
            });
            let status = if head.method == http::Method::CONNECT { 501 } else { 200 };
            let response = http::Response::builder().status(status).body(Empty::<bytes::Bytes>::new());
            Ok::<_, hyper::Error>(response.unwrap())
        }
    });
    let refused = runtime.block_on(async {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let server = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(theirs), service);
        let client = async {
            let (mut read, mut write) = tokio::io::split(ours);
            let _ = write.write_all(bytes).await;
            let _ = write.shutdown().await;
            let mut answer = Vec::new();
            let _ = read.read_to_end(&mut answer).await;
        };
        tokio::join!(server, client).0.is_err()
    });
    let messages = std::mem::take(&mut *messages.lock().unwrap());
    (messages, refused)
}

/// The rule by which this codec refuses what the library accepts.
fn rule(kind: ErrorKind) -> Option<&'static str> {
    use ErrorKind::*;
    Some(match kind {
        LineEnd => "bare line feeds: other parsers read the lines in another way",
        NoHost => "HTTP/1.1 requires Host",
        RepeatedHost | Host => "a host that two parsers could read in two ways",
        ContentLength => "repeated lengths, and lengths with zeros before them",
        TwoLengths => "a length beside chunks, which the library drops",
        TransferEncoding => "other codings before or after chunked",
        Target | Fragment => "escapes and fragments, which the library keeps or drops",
        ChunkSize => "white space before the end of the line of a chunk size",
        Trailer => "trailers by the same rules as fields",
        _ => return None,
    })
}

#[test]
fn the_library_sees_the_same_requests() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut by_rule = std::collections::BTreeMap::new();
    let (mut same, mut refused_by_both, mut escaped_targets) = (0, 0, 0);
    for seed in 0..6_000 {
        let bytes = connection(&mut Random::new(seed));
        let shown = bytes.escape_ascii();
        let Verdict { messages, end } = verdict(&bytes, &[usize::MAX]);
        let (theirs, refused) = served(&runtime, &bytes);
        // The library refuses characters in targets that are escaped here.
        if theirs.len() < messages.len() && messages.iter().any(|message| message.target.contains('%')) {
            escaped_targets += 1;
            continue;
        }
        assert!(theirs.len() >= messages.len(), "{shown}: {messages:?}, the library {theirs:?}");
        for (ours, theirs) in messages.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{shown}");
        }
        match end {
            End::Refused(Some(kind)) if theirs.len() > messages.len() || !refused => {
                let rule = rule(kind).unwrap_or_else(|| panic!("no rule for {kind:?}: {shown}"));
                *by_rule.entry(rule).or_insert(0) += 1;
            }
            End::Refused(_) => refused_by_both += 1,
            _ => same += 1,
        }
    }
    let counts = [same, refused_by_both, escaped_targets];
    assert!(counts.iter().all(|count| *count > 100) && by_rule.len() > 7, "{counts:?} {by_rule:?}");
}
