//! UDP routers: sessions, turns, silence, reloads and the orderly end.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Gateway, eventually, pause_for};

/// A server that answers each datagram with its name and the datagram. It counts the addresses that it hears from.
struct Server {
    address: SocketAddr,
    peers: Arc<AtomicUsize>,
}

impl Server {
    fn new(name: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, peers) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (name, count) = (name.to_owned(), peers.clone());
        std::thread::spawn(move || {
            let mut known = std::collections::HashSet::new();
            let mut bytes = vec![0; 65_535];
            while let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                if known.insert(peer) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
                let answer = [format!("{name}:").as_bytes(), &bytes[..length]].concat();
                socket.send_to(&answer, peer).unwrap();
            }
        });
        Self { address, peers }
    }
}

struct Client(UdpSocket);

impl Client {
    fn new(gateway: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(gateway).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        Self(socket)
    }

    /// What is answered; empty when nothing is.
    fn ask(&self, text: &[u8]) -> Vec<u8> {
        self.0.send(text).unwrap();
        let mut bytes = vec![0; 65_535];
        match self.0.recv(&mut bytes) {
            Ok(length) => bytes[..length].to_vec(),
            Err(_) => Vec::new(),
        }
    }
}

fn gateway(flags: &[&str], services: &str) -> Gateway {
    let flags = [&["--entryPoints.dns.address=127.0.0.1:0/udp"], flags].concat();
    Gateway::with(&flags, &format!("udp:\n  routers:\n    r: {{service: s}}\n  services:\n{services}"))
}

fn balancer(name: &str, servers: &[SocketAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(|address| format!("{{address: '{address}'}}")).collect();
    format!("    {name}: {{loadBalancer: {{servers: [{}]}}}}\n", servers.join(", "))
}

#[test]
fn a_session_stays_with_its_server_and_sessions_take_turns() {
    let (a, b) = (Server::new("a"), Server::new("b"));
    let gateway = gateway(&[], &balancer("s", &[a.address, b.address]));
    assert_eq!(gateway.problems(), [""; 0]);
    let dns = gateway.address("dns");
    let clients: Vec<Client> = (0..6).map(|_| Client::new(dns)).collect();
    let mut count = [0, 0];
    for client in &clients {
        let first = client.ask(b"x");
        assert!(first == b"a:x" || first == b"b:x", "{first:?}");
        count[usize::from(first[0] == b'b')] += 1;
        for _ in 0..3 {
            assert_eq!(client.ask(b"x"), first);
        }
    }
    assert_eq!(count, [3, 3]);
    assert_eq!(a.peers.load(Ordering::SeqCst), 3);
    let large = vec![7; 60_000];
    assert_eq!(clients[0].ask(&large).len(), 60_002);
    let shown = gateway.api("/api/udp/routers/r@file");
    assert!(shown.contains("\"using\":[\"dns\"]") && shown.contains("\"status\":\"enabled\""), "{shown}");
}

#[test]
fn names_are_looked_up_and_weights_are_kept() {
    let (a, b) = (Server::new("a"), Server::new("b"));
    let named =
        format!("    a: {{loadBalancer: {{servers: [{{address: 'localhost:{}'}}]}}}}\n", a.address.port());
    let weighted = "    s: {weighted: {services: [{name: a, weight: 2}, {name: b}]}}\n";
    let gateway = gateway(&[], &format!("{weighted}{named}{}", balancer("b", &[b.address])));
    let answers: Vec<Vec<u8>> = (0..6).map(|_| Client::new(gateway.address("dns")).ask(b"x")).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == b"a:x").count(), 4, "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| *answer == b"b:x").count(), 2, "{answers:?}");
}

#[test]
fn silent_and_refused_sessions_end() {
    let a = Server::new("a");
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = gateway(&["--entryPoints.dns.udp.timeout=200ms"], &balancer("s", &[a.address, nobody]));
    let client = Client::new(gateway.address("dns"));
    assert_eq!(client.ask(b"x"), b"a:x");
    assert_eq!(client.ask(b"x"), b"a:x");
    // After silence it is a new session: the next server refuses, which ends it at once, and the third is good again.
    pause_for(Duration::from_millis(600));
    assert_eq!(client.ask(b"x"), b"");
    eventually("the refused session has ended", || client.ask(b"x") == b"a:x");
    assert!(a.peers.load(Ordering::SeqCst) >= 2);
}

#[test]
fn one_router_serves_an_entry_point_and_a_broken_one_drops() {
    let a = Server::new("a");
    let gateway = gateway(&[], &balancer("s", &[a.address]));
    let generation = gateway.generation();
    gateway.write("more.yml", "udp: {routers: {z: {entryPoints: [dns, web, nope], service: gone}}}");
    eventually("the second router is there", || gateway.generation() > generation);
    assert_eq!(Client::new(gateway.address("dns")).ask(b"x"), b"");
    let shown = gateway.api("/api/udp/routers/z@file");
    for expected in
        ["entryPoint \\\"web\\\" doesn't exist", "the UDP service \\\"gone@file\\\" does not exist"]
    {
        assert!(shown.contains(expected), "{shown}");
    }
    let shown = gateway.api("/api/udp/routers/r@file");
    assert!(shown.contains("router z@file receives its datagrams") && shown.contains("warning"), "{shown}");
    gateway.remove("more.yml");
    eventually("the first serves again", || Client::new(gateway.address("dns")).ask(b"x") == b"a:x");
}

#[test]
fn a_drain_waits_for_sessions() {
    let a = Server::new("a");
    let gateway = gateway(&["--entryPoints.dns.udp.timeout=1s"], &balancer("s", &[a.address]));
    let dns = gateway.address("dns");
    let client = Client::new(dns);
    assert_eq!(client.ask(b"x"), b"a:x");
    let stopping = std::thread::spawn(move || gateway.shutdown());
    eventually("no session begins any more", || {
        assert_eq!(client.ask(b"y"), b"a:y");
        Client::new(dns).ask(b"x").is_empty()
    });
    assert_eq!(client.ask(b"z"), b"a:z");
    assert!(!stopping.is_finished());
    stopping.join().unwrap();
}
