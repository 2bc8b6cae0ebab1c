//! Tests of names that change while dialling, with a fake name server.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::net::{TcpListener, TcpStream};

use super::names::{Names, uncached};
use super::{LookupError, MAX_AGE, dial};
use name_server::NameServer;

#[path = "../../../tests/it/support/name_server.rs"]
#[expect(unreachable_pub, reason = "the integration tests use it too")]
mod name_server;

fn names(server: &NameServer) -> Arc<Names> {
    let mut connection = ConnectionConfig::udp();
    connection.port = server.address().port();
    let servers = vec![NameServerConfig::new(server.address().ip(), true, vec![connection])];
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    uncached(builder.options_mut());
    Arc::new(Names::new(Some(builder.build().unwrap())))
}

/// Listens on the same port of several addresses.
async fn listeners<const N: usize>(addresses: [[u8; 4]; N]) -> ([TcpListener; N], u16) {
    'port: loop {
        let first = TcpListener::bind((Ipv4Addr::from(addresses[0]), 0)).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let mut all = vec![first];
        for address in &addresses[1..] {
            match TcpListener::bind((Ipv4Addr::from(*address), port)).await {
                Ok(listener) => all.push(listener),
                Err(_) => continue 'port,
            }
        }
        return (all.try_into().unwrap(), port);
    }
}

/// Fills the queue of a listener, so that further connections are neither accepted nor refused.
async fn silence(listener: TcpListener) -> impl Sized {
    let address = listener.local_addr().unwrap();
    // A second call of `listen` sets the length of the queue.
    socket2::SockRef::from(&listener).listen(0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(connected) =
        tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
    {
        waiting.push(connected.unwrap());
    }
    (listener, waiting)
}

async fn past_max_age() {
    tokio::time::sleep(MAX_AGE + Duration::from_millis(10)).await;
}

#[tokio::test]
async fn the_hosts_file_is_honoured() {
    let answer = super::lookup("localhost", None).await.unwrap();
    assert!(answer.addresses().iter().all(std::net::IpAddr::is_loopback));
}

#[tokio::test]
async fn a_connection_uses_a_recent_answer() {
    let server = NameServer::start("127.0.0.1:0");
    let (_listening, port) = listeners([[127, 0, 0, 1], [127, 0, 0, 2]]).await;
    let names = names(&server);
    server.set("api.test", &["127.0.0.1"]);
    for address in ["127.0.0.1", "127.0.0.2", "127.0.0.1"] {
        server.set("api.test", &[address]);
        past_max_age().await;
        assert_eq!(dial(&names, "api.test", port).await.unwrap().peer.to_string(), address);
    }
}

#[tokio::test]
async fn failures_are_not_cached() {
    let server = NameServer::start("127.0.0.1:0");
    let (_listening, port) = listeners([[127, 0, 0, 1]]).await;
    let names = names(&server);
    let error = names.lookup("api.test", None).await.unwrap_err();
    assert!(matches!(error, LookupError::NotFound { .. }), "{error}");
    server.set("api.test", &["127.0.0.1"]);
    past_max_age().await;
    dial(&names, "api.test", port).await.unwrap();
    server.fail(true);
    past_max_age().await;
    let error = names.lookup("api.test", None).await.unwrap_err();
    assert!(matches!(error, LookupError::Failed { .. }), "{error}");
    server.fail(false);
    past_max_age().await;
    dial(&names, "api.test", port).await.unwrap();
}

#[tokio::test]
async fn simultaneous_lookups_are_shared() {
    let server = NameServer::start("127.0.0.1:0");
    let names = names(&server);
    server.set("api.test", &["127.0.0.1"]);
    let asked = futures_util::future::join_all((0..50).map(|_| names.lookup("api.test", None))).await;
    let first = asked[0].as_ref().unwrap().asked();
    assert!(asked.iter().all(|answer| answer.as_ref().unwrap().asked() == first));
    // One per family.
    assert_eq!(server.questions(), 2);
    let newer = names.lookup("api.test", Some(first)).await.unwrap();
    assert!(newer.asked() > first);
}

#[tokio::test]
async fn a_lost_query_is_repeated() {
    let server = NameServer::start("127.0.0.1:0");
    let names = names(&server);
    server.set("api.test", &["127.0.0.1"]);
    server.silence(true);
    let begun = Instant::now();
    let found = async {
        tokio::time::sleep(MAX_AGE).await;
        server.silence(false);
    };
    let (answer, ()) = tokio::join!(names.lookup("api.test", None), found);
    answer.unwrap();
    // The resolver itself would retry after five seconds.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn all_addresses_are_tried() {
    let server = NameServer::start("127.0.0.1:0");
    let (_listening, port) = listeners([[127, 0, 0, 1]]).await;
    let refusing: Vec<String> = (2..22).map(|last| format!("127.0.0.{last}")).collect();
    let mut addresses: Vec<&str> = refusing.iter().map(String::as_str).collect();
    addresses.extend(["2001:db8::1", "127.0.0.1"]);
    server.set("many.test", &addresses);
    let dialled = dial(&names(&server), "many.test", port).await.unwrap();
    assert_eq!(SocketAddr::new(dialled.peer, port).to_string(), format!("127.0.0.1:{port}"));
}

#[tokio::test]
async fn a_refused_connection_causes_another_lookup() {
    let server = NameServer::start("127.0.0.1:0");
    let (_listening, port) = listeners([[127, 0, 0, 2]]).await;
    let names = names(&server);
    server.set("api.test", &["127.0.0.1"]);
    let old = names.lookup("api.test", None).await.unwrap();
    server.set("api.test", &["127.0.0.2"]);
    // The previous answer is recent enough to be shared.
    let dialled = dial(&names, "api.test", port).await.unwrap();
    assert_eq!(dialled.peer.to_string(), "127.0.0.2");
    assert!(dialled.answer.unwrap().asked() > old.asked());
}

#[tokio::test]
async fn a_connection_that_hangs_follows_the_name() {
    let server = NameServer::start("127.0.0.1:0");
    let ([_listening, silent], port) = listeners([[127, 0, 0, 1], [127, 0, 0, 2]]).await;
    let _silent = silence(silent).await;
    let names = names(&server);
    server.set("api.test", &["127.0.0.2"]);
    let started = Instant::now();
    let dialling = dial(&names, "api.test", port);
    let change = async {
        past_max_age().await;
        server.set("api.test", &["127.0.0.1"]);
    };
    let (dialled, ()) = tokio::join!(dialling, change);
    match dialled {
        Ok(dialled) => assert_eq!(dialled.peer.to_string(), "127.0.0.1"),
        Err(error) => panic!("after {:?}: {error}", started.elapsed()),
    }
    server.set("api.test", &["127.0.0.2"]);
    past_max_age().await;
    let change = async {
        past_max_age().await;
        server.set("api.test", &[]);
    };
    let (dialled, ()) = tokio::join!(dial(&names, "api.test", port), change);
    assert_eq!(dialled.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}
