//! The client with servers that answer as they like.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tidegate_core::ldap::{LdapClient, LdapGroups, LdapOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::Client;
use super::ber::{self, Reader};

const BIND: u8 = 0x60;
const SEARCH: u8 = 0x63;
const EXTENDED: u8 = 0x77;

/// A request that a server received.
#[derive(Clone, Debug)]
struct Received {
    id: u32,
    tag: u8,
    content: Vec<u8>,
}

impl Received {
    /// The DN and the password of a bind.
    fn bind(&self) -> (String, Vec<u8>) {
        let mut reader = Reader::new(&self.content);
        reader.number(ber::INTEGER).unwrap();
        let dn = reader.expect(ber::OCTETS).unwrap();
        (String::from_utf8(dn.to_vec()).unwrap(), reader.expect(0x80).unwrap().to_vec())
    }
}

/// A server, and what it received.
struct Server {
    url: String,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<Mutex<usize>>,
}

impl Server {
    /// Starts a server that answers with what `answer` returns; `None` hangs.
    async fn start(answer: impl Fn(&Received) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("ldap://{}", listener.local_addr().unwrap());
        let server = Self { url, received: Arc::default(), connections: Arc::default() };
        let (received, connections, answer) =
            (server.received.clone(), server.connections.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                *connections.lock() += 1;
                let (received, answer) = (received.clone(), answer.clone());
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    loop {
                        if let Ok(Some((_, start, length))) = ber::header(&bytes)
                            && bytes.len() >= start + length
                        {
                            let rest = bytes.split_off(start + length);
                            let whole = std::mem::replace(&mut bytes, rest);
                            let mut reader = Reader::new(&whole).enter(ber::SEQUENCE).unwrap();
                            let id = reader.number(ber::INTEGER).unwrap();
                            let (tag, content) = reader.next().unwrap();
                            let request = Received { id, tag, content: content.to_vec() };
                            received.lock().push(request.clone());
                            if let Some(out) = answer(&request)
                                && stream.write_all(&out).await.is_err()
                            {
                                return;
                            }
                            continue;
                        }
                        match stream.read_buf(&mut bytes).await {
                            Ok(0) | Err(_) => return,
                            Ok(_) => {}
                        }
                    }
                });
            }
        });
        server
    }

    fn options(&self) -> LdapOptions {
        LdapOptions {
            url: self.url.clone(),
            start_tls: false,
            certificate_authority: String::new(),
            insecure_skip_verify: true,
            bind_dn: "cn=gateway".to_owned(),
            bind_password: "own".into(),
            base_dn: "dc=a".to_owned(),
            attribute: "cn".to_owned(),
            search_filter: "(uid=%s)".to_owned(),
            groups: LdapGroups::default(),
            pool_size: 2,
            pool_burst: 0,
            pool_ttl: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
        }
    }

    fn client(&self) -> Client {
        Client::new(&self.options(), Handle::current()).unwrap()
    }

    /// The DNs of all binds, except that of the gateway.
    fn binds(&self) -> Vec<String> {
        let received = self.received.lock();
        let binds = received.iter().filter(|request| request.tag == BIND).map(|request| request.bind().0);
        binds.filter(|dn| dn != "cn=gateway").collect()
    }
}

fn message(id: u32, tag: u8, content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    ber::nested(&mut out, ber::SEQUENCE, |out| {
        ber::put_number(out, ber::INTEGER, id);
        ber::nested(out, tag, content);
    });
    out
}

fn result(id: u32, tag: u8, code: u32) -> Vec<u8> {
    message(id, tag, |out| {
        ber::put_number(out, ber::ENUMERATED, code);
        ber::put(out, ber::OCTETS, b"");
        ber::put(out, ber::OCTETS, b"some text");
    })
}

fn entry(id: u32, dn: &str, uid: &str) -> Vec<u8> {
    message(id, 0x64, |out| {
        ber::put(out, ber::OCTETS, dn.as_bytes());
        ber::nested(out, ber::SEQUENCE, |out| {
            ber::nested(out, ber::SEQUENCE, |out| {
                ber::put(out, ber::OCTETS, b"UID");
                ber::nested(out, ber::SET, |out| ber::put(out, ber::OCTETS, uid.as_bytes()));
            });
        });
    })
}

/// Answers binds with success if the password is `right` or that of the gateway.
fn bound(request: &Received) -> Vec<u8> {
    let (_, password) = request.bind();
    result(request.id, 0x61, if password == b"right" || password == b"own" { 0 } else { 49 })
}

/// A server whose searches find entries with these DNs.
async fn with_entries(dns: &'static [&'static str], code: u32) -> Server {
    Server::start(move |request| match request.tag {
        BIND => Some(bound(request)),
        SEARCH => {
            let entries = dns.iter().flat_map(|dn| entry(request.id, dn, "Ann"));
            Some(entries.chain(result(request.id, 0x65, code)).collect())
        }
        _ => None,
    })
    .await
}

#[tokio::test]
async fn the_directory_decides_and_spells_the_name() {
    let server = with_entries(&["uid=Ann,dc=a"], 0).await;
    let client = server.client();
    let user = client.verify(" ann", b"right").await.unwrap().unwrap();
    assert_eq!((&*user.name, &*user.dn), ("Ann", "uid=Ann,dc=a"));
    assert_eq!(client.verify("ann", b"wrong").await, Ok(None));
    assert_eq!(client.verify("ann", b"right").await.unwrap().unwrap().name, "Ann");
    assert_eq!(*server.connections.lock(), 1, "the connection is used again");
}

#[tokio::test]
async fn an_empty_password_is_refused_without_asking_the_server() {
    let server = with_entries(&["uid=Ann,dc=a"], 0).await;
    let client = server.client();
    for (user, password) in [("ann", ""), ("", "right"), ("", "")] {
        assert_eq!(client.verify(user, password.as_bytes()).await, Ok(None));
    }
    assert_eq!(client.verify(&"a".repeat(super::MAX_USER + 1), b"right").await, Ok(None));
    assert_eq!(client.verify("ann", &[b'a'; super::MAX_PASSWORD + 1]).await, Ok(None));
    assert_eq!(*server.connections.lock(), 0);
}

#[tokio::test]
async fn names_cannot_change_the_filter_or_the_dn() {
    let server = with_entries(&[], 0).await;
    let client = server.client();
    let names = ["*)(uid=*", "ann\0", "\\2a", "a\\", "*", "ann)(|(uid=*", "x,ou=admins", "\u{2a}\u{ff0a}"];
    for name in names {
        assert_eq!(client.verify(name, b"right").await, Ok(None), "{name:?}");
        let received = server.received.lock();
        let search = received.iter().rfind(|request| request.tag == SEARCH).unwrap();
        let mut reader = Reader::new(&search.content);
        let mut filter = (0..7).map(|_| reader.next().unwrap()).last().unwrap();
        assert_eq!(filter.0, 0xa3, "one comparison");
        let mut parts = Reader::new(std::mem::take(&mut filter.1));
        assert_eq!(parts.expect(ber::OCTETS), Ok(&b"uid"[..]));
        assert_eq!(parts.expect(ber::OCTETS), Ok(name.as_bytes()), "as a value");
        assert!(parts.is_empty());
    }
    // In bind mode, names are part of a DN.
    let options = LdapOptions { search_filter: String::new(), ..server.options() };
    server.received.lock().clear();
    let client = Client::new(&options, Handle::current()).unwrap();
    for name in ["x,ou=admins", "a+b=c", "ann\0", "\\"] {
        let _ = client.verify(name, b"wrong").await;
    }
    assert_eq!(
        server.binds(),
        ["cn=x\\,ou\\=admins,dc=a", "cn=a\\+b\\=c,dc=a", "cn=ann\\00,dc=a", "cn=\\\\,dc=a"]
    );
}

#[tokio::test]
async fn exactly_one_entry_must_have_the_name() {
    // The last one is cut off by a limit of the server.
    let cases: [(&'static [&'static str], u32); 4] = [
        (&[], 0),
        (&["uid=a,dc=a", "uid=b,dc=a"], 4),
        (&["uid=a,dc=a", "uid=b,dc=a"], 0),
        (&["uid=a,dc=a"], 4),
    ];
    for (dns, code) in cases {
        let server = with_entries(dns, code).await;
        assert_eq!(server.client().verify("ann", b"right").await, Ok(None), "{dns:?}");
        let binds = server.binds();
        assert_eq!(binds.len(), 1, "as many messages as for a known user");
        assert!(!dns.iter().any(|dn| binds[0] == *dn), "no user's");
    }
}

#[tokio::test]
async fn an_entry_without_dn_does_not_bind_anonymously() {
    let server = with_entries(&[""], 0).await;
    assert_eq!(server.client().verify("ann", b"right").await, Ok(None));
    assert!(server.binds().iter().all(|dn| !dn.is_empty()));
}

#[tokio::test]
async fn referrals_are_not_followed() {
    let elsewhere = with_entries(&["uid=Ann,dc=a"], 0).await;
    let url = elsewhere.url.clone();
    let server = Server::start(move |request| match request.tag {
        BIND if request.bind().0 == "cn=gateway" => Some(result(request.id, 0x61, 0)),
        // The password is right elsewhere.
        BIND => Some(message(request.id, 0x61, |out| {
            ber::put_number(out, ber::ENUMERATED, 10);
            ber::put(out, ber::OCTETS, b"");
            ber::put(out, ber::OCTETS, b"");
            ber::nested(out, 0xa3, |out| ber::put(out, ber::OCTETS, url.as_bytes()));
        })),
        SEARCH => {
            let mut out = message(request.id, 0x73, |out| ber::put(out, ber::OCTETS, url.as_bytes()));
            // Names that begin with x are only elsewhere.
            if !request.content.windows(2).any(|bytes| bytes == b"xx") {
                out.extend(entry(request.id, "uid=Ann,dc=a", "Ann"));
            }
            out.extend(result(request.id, 0x65, 0));
            Some(out)
        }
        _ => None,
    })
    .await;
    let client = server.client();
    assert_eq!(client.verify("ann", b"right").await, Ok(None));
    assert_eq!(client.verify("xx", b"right").await, Ok(None));
    assert_eq!(*elsewhere.connections.lock(), 0);
}

#[tokio::test]
async fn answers_are_limited() {
    let huge = Server::start(|request| match request.tag {
        BIND => Some(bound(request)),
        _ => Some(b"\x30\x84\x7f\xff\xff\xff".to_vec()),
    })
    .await;
    let error = huge.client().verify("ann", b"right").await.unwrap_err();
    assert_eq!(error.reason, "the answer is larger than 1048576 bytes");
    let endless = Server::start(|request| match request.tag {
        BIND => Some(bound(request)),
        _ => Some((0..1000).flat_map(|_| entry(request.id, "uid=Ann,dc=a", "Ann")).collect()),
    })
    .await;
    assert_eq!(endless.client().verify("ann", b"right").await.unwrap_err().reason, "unexpected answer");
    let referring = Server::start(|request| match request.tag {
        BIND => Some(bound(request)),
        _ => Some((0..1000).flat_map(|_| message(request.id, 0x73, |_| {})).collect()),
    })
    .await;
    assert_eq!(referring.client().verify("ann", b"right").await.unwrap_err().reason, "unexpected answer");
    let other = Server::start(|_| Some(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())).await;
    assert!(other.client().verify("ann", b"right").await.is_err());
    let confused = Server::start(|request| Some(result(request.id + 1, 0x61, 0))).await;
    assert_eq!(confused.client().verify("ann", b"right").await.unwrap_err().reason, "unexpected answer");
}

#[tokio::test]
async fn a_hanging_server_is_given_up_and_then_fails_at_once() {
    let server = Server::start(|_| None).await;
    let options = LdapOptions { timeout: Duration::from_millis(400), ..server.options() };
    let client = Arc::new(Client::new(&options, Handle::current()).unwrap());
    let begun = Instant::now();
    let all = (0..50).map(|_| client.verify("ann", b"right"));
    for outcome in futures_util::future::join_all(all).await {
        outcome.unwrap_err();
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "nothing waits in line: {:?}", begun.elapsed());
    assert!(*server.connections.lock() <= 2, "no more connections than allowed");
    let again = client.verify("ann", b"right").await.unwrap_err();
    assert!(again.reason.ends_with("does not work"), "{again}");
    assert!(*server.connections.lock() <= 2, "and no further ones");
}

#[tokio::test]
async fn the_gateway_without_access_is_an_outage_and_not_a_wrong_password() {
    let server = Server::start(|request| Some(result(request.id, 0x61, 49))).await;
    let client = server.client();
    let error = client.verify("ann", b"right").await.unwrap_err();
    assert_eq!(error.reason, "the bind as bindDN failed: result 49: some text");
    client.verify("ann", b"right").await.unwrap_err();
    assert_eq!(server.received.lock().len(), 1, "its account is not locked by trying again");
}

#[tokio::test]
async fn no_password_is_sent_if_start_tls_is_refused_or_stripped() {
    let starting = |answer: fn(&Received) -> Vec<u8>| async move {
        let server = Server::start(move |request| match request.tag {
            EXTENDED => Some(answer(request)),
            _ => Some(bound(request)),
        })
        .await;
        let options = LdapOptions { start_tls: true, ..server.options() };
        let client = Client::new(&options, Handle::current()).unwrap();
        let error = client.verify("ann", b"right").await.unwrap_err();
        assert!(server.received.lock().iter().all(|request| request.tag == EXTENDED), "{error}");
        error.reason
    };
    assert_eq!(
        starting(|request| result(request.id, 0x78, 2)).await,
        "the server refuses StartTLS: result 2: some text"
    );
    // A success in plain text that is followed by another answer, as from an attacker in between.
    let injected = starting(|request| {
        let mut out = result(request.id, 0x78, 0);
        out.extend(result(request.id + 1, 0x61, 0));
        out
    });
    assert_eq!(injected.await, "unexpected answer");
    assert_eq!(starting(|request| result(request.id, 0x61, 0)).await, "unexpected answer");
    let plain = starting(|request| result(request.id, 0x78, 0));
    // The server continues in plain text, so the handshake never completes: what it gets is no LDAP.
    let _ = tokio::time::timeout(Duration::from_millis(300), plain).await;
}

#[tokio::test]
async fn a_lost_connection_is_replaced() {
    let server = Server::start(|request| match request.tag {
        BIND => Some(bound(request)),
        SEARCH => {
            let mut out = entry(request.id, "uid=Ann,dc=a", "Ann");
            out.extend(result(request.id, 0x65, 0));
            // A notice of disconnection after the first check.
            if request.id < 4 { Some(out) } else { Some(result(0, 0x78, 52)) }
        }
        _ => None,
    })
    .await;
    let client = server.client();
    for _ in 0..3 {
        assert!(client.verify("ann", b"right").await.unwrap().is_some());
    }
    assert_eq!(*server.connections.lock(), 3);
}

#[tokio::test]
async fn wrong_options_are_named() {
    let server = with_entries(&[], 0).await;
    let error = |options: LdapOptions| {
        Client::new(&options, Handle::current())
            .err()
            .map(|error| format!("{}: {}", error.option, error.message))
    };
    let options = server.options();
    assert_eq!(error(options.clone()), None);
    let with = |change: fn(&mut LdapOptions)| {
        let mut options = options.clone();
        change(&mut options);
        error(options).unwrap()
    };
    assert_eq!(
        with(|all| all.search_filter = "(uid=ann)".into()),
        "searchFilter: expected `%s`, which stands for the user"
    );
    assert!(
        with(|all| all.groups.search_filter = "(member=%s".into())
            .starts_with("groups.searchFilter: expected `)`")
    );
    assert!(
        with(|all| all.url = "http://a".into()).starts_with("url: `http://a`: `http://` is not supported")
    );
    assert!(with(|all| all.certificate_authority = "x".into()).starts_with("certificateAuthority: "));
    assert!(
        with(|all| (all.url, all.start_tls) = ("ldaps://a".into(), true))
            .starts_with("startTLS: not possible")
    );
    let exposed = |url: &str, start_tls| {
        let options = LdapOptions { url: url.into(), start_tls, ..server.options() };
        Client::new(&options, Handle::current()).unwrap().is_exposed()
    };
    assert!(exposed("ldap://directory", false));
    assert!(!exposed("ldap://directory", true) && !exposed("ldaps://directory", false));
    assert!(!exposed("ldap://127.0.0.1", false) && !exposed("ldap://localhost", false));
}
