//! Tests of connections with a fake server.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Starts a server that handles one connection.
async fn server<F: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> Connector {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move { serve(listener.accept().await.expect("a connection").0).await });
    connector("endpoints", &address, None).expect("a valid endpoint")
}

/// Returns the reply to a command from a server that sends these parts of it, and closes the connection.
async fn reply(parts: Vec<Vec<u8>>) -> Result<Value, RedisError> {
    let connector = server(|mut stream| async move {
        let _ = stream.set_nodelay(true);
        let _ = stream.read(&mut [0; 256]).await;
        for part in parts {
            if stream.write_all(&part).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let secret = Secret::default();
    let login = Login { username: "", password: &secret, db: 0 };
    Connection::open(&connector, login).await?.query(&cmd("GET")).await
}

#[tokio::test]
async fn replies_are_decoded_once_complete() {
    let bytes = b"*4\r\n$3\r\nfoo\r\n:7\r\n$-1\r\n*1\r\n+OK\r\n";
    for length in 0..bytes.len() {
        assert!(reply(vec![bytes[..length].to_vec()]).await.is_err(), "{length}");
    }
    let inner = Value::Array(vec![Value::Okay]);
    let list = Value::Array(vec![Value::BulkString(b"foo".to_vec()), Value::Int(7), Value::Nil, inner]);
    let single = bytes.iter().map(|byte| vec![*byte]).collect();
    assert_eq!(reply(single).await.expect("a reply"), list);
    let error = reply(vec![b"-ERR no\r\n+".to_vec()]).await.unwrap_err();
    assert_eq!(error.to_string(), "GET: ERR no");
    for bad in
        ["?\r\n", ":x\r\n", "$99999999999\r\n", "*9999999\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", "\r\n"]
    {
        assert!(reply(vec![bad.into()]).await.is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn a_reply_that_is_too_large_is_not_kept() {
    let part = vec![b'x'; 1 << 20];
    let mut parts = vec![format!("${}\r\n", MAX_REPLY + 1).into_bytes()];
    parts.resize(100, part.clone());
    let error = reply(parts).await.unwrap_err();
    assert_eq!(error.to_string(), "the server has sent more than 64 MiB at once");
    // The limit holds for each reply.
    let connector = server(|mut stream| async move {
        while matches!(stream.read(&mut [0; 256]).await, Ok(length) if length > 0) {
            let head = format!("${}\r\n", part.len() * 40);
            if stream.write_all(head.as_bytes()).await.is_err() {
                return;
            }
            for _ in 0..40 {
                let _ = stream.write_all(&part).await;
            }
            let _ = stream.write_all(b"\r\n").await;
        }
    })
    .await;
    let secret = Secret::default();
    let login = Login { username: "", password: &secret, db: 0 };
    let mut connection = Connection::open(&connector, login).await.expect("a connection");
    for _ in 0..3 {
        let value: Vec<u8> = connection.query(&cmd("GET")).await.expect("a reply");
        assert_eq!(value.len(), 40 << 20);
    }
}

#[tokio::test]
async fn messages_that_nobody_reads_are_limited() {
    let (sent, all_sent) = tokio::sync::oneshot::channel();
    let connector = server(|mut stream| async move {
        let _ = stream.read(&mut [0; 256]).await;
        let confirmed = "*3\r\n$10\r\npsubscribe\r\n$1\r\np\r\n:1\r\n";
        let text = "x".repeat(4096);
        let message = format!("*4\r\n$8\r\npmessage\r\n$1\r\np\r\n$1\r\nc\r\n$4096\r\n{text}\r\n");
        let _ = stream.write_all(confirmed.as_bytes()).await;
        let _ = stream.write_all(message.as_bytes()).await;
        while stream.write_all(message.as_bytes()).await.is_ok() {}
        let _ = sent.send(());
    })
    .await;
    let secret = Secret::default();
    let login = Login { username: "", password: &secret, db: 0 };
    let mut messages = Subscription::open(&connector, login, &["p".into()]).await.expect("subscribed");
    assert_eq!(messages.next().await.expect("a message"), "c");
    all_sent.await.expect("the connection is closed");
    // As if they were read at once.
    while messages.messages.on_message().next().await.is_some() {}
    let error = messages.next().await.unwrap_err();
    assert_eq!(error.to_string(), "the server has sent more than 16 MiB at once");
}

#[tokio::test]
async fn a_server_that_accepts_no_data_is_given_up() {
    let connector = server(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let secret = Secret::default();
    let login = Login { username: "", password: &secret, db: 0 };
    let limit = Duration::from_millis(50);
    let opening = Connection::open_within(CONNECT_TIMEOUT, limit, &connector, login);
    let mut connection = opening.await.expect("a connection");
    // More than the buffers of the sockets hold.
    let error = connection.query::<()>(cmd("SET").arg(vec![0_u8; 32 << 20])).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot send within 50ms");
}

#[test]
fn no_bytes_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let byte = prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), any::<u8>()];
    let outcome = TestRunner::new(Config::default()).run(&prop::collection::vec(byte, 0..60), |bytes| {
        let _ = runtime.block_on(reply(vec![bytes]));
        Ok(())
    });
    outcome.expect("no panic");
}

#[test]
fn redirections_are_parsed() {
    let parse = |text: &str| match ::redis::parse_redis_value(format!("-{text}\r\n").as_bytes()) {
        Ok(Value::ServerError(error)) => redirection(&error),
        other => panic!("{other:?}"),
    };
    let slot = Slot::new(3999).expect("a slot");
    assert_eq!(parse("MOVED 3999 127.0.0.1:6381"), Some((slot, "127.0.0.1:6381".into())));
    for odd in ["MOVED", "MOVED x h:1", "MOVED 99999 h:1", "MOVED 1 :6379", "ASK 1"] {
        assert_eq!(parse(odd), None, "{odd}");
    }
}
