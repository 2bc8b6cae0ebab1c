//! A gateway is replaced by another while clients use it: over a port that both share, or a socket that outlives both.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::process::Process;
use crate::support::{Backend, Client, Gateway, eventually, free_port, pause_for};

/// What became of the requests of one client.
#[derive(Default)]
struct Tally {
    served: usize,
    failed: Vec<String>,
    slowest: Duration,
}

impl Tally {
    fn note(&mut self, outcome: Result<(), String>, begun: Instant) {
        match outcome {
            Ok(()) => self.served += 1,
            Err(error) => self.failed.push(error),
        }
        self.slowest = self.slowest.max(begun.elapsed());
    }
}

/// Clients that ask until they are stopped.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    clients: Vec<std::thread::JoinHandle<Tally>>,
}

impl Load {
    fn start(clients: impl IntoIterator<Item = Box<dyn FnMut() -> Result<(), String> + Send>>) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let run = |mut ask: Box<dyn FnMut() -> Result<(), String> + Send>| {
            let (stop, asked) = (stop.clone(), asked.clone());
            std::thread::spawn(move || {
                let mut tally = Tally::default();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    tally.note(ask(), begun);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                tally
            })
        };
        let clients = clients.into_iter().map(run).collect();
        Self { stop, asked, clients }
    }

    /// Waits until `more` further requests are over.
    fn pass(&self, more: usize) {
        let wanted = self.asked.load(Ordering::Relaxed) + more;
        eventually("requests are answered", || self.asked.load(Ordering::Relaxed) >= wanted);
    }

    fn end(self, what: &str) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            let tally = client.join().unwrap();
            all.served += tally.served;
            all.failed.extend(tally.failed);
            all.slowest = all.slowest.max(tally.slowest);
        }
        eprintln!("{what}: {} served, {} lost, slowest {:?}", all.served, all.failed.len(), all.slowest);
        all
    }
}

type Ask = Box<dyn FnMut() -> Result<(), String> + Send>;

/// A client with a connection for each request.
fn newcomer(address: SocketAddr) -> Ask {
    Box::new(move || {
        let ask = || {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        match ask() {
            Ok(answer) if answer.starts_with(b"HTTP/1.1 200 ") => Ok(()),
            Ok(answer) => Err(format!("answer: {}", answer.escape_ascii())),
            Err(error) => Err(error.to_string()),
        }
    })
}

/// A client that keeps its connection until it is asked to close it.
fn regular(address: SocketAddr) -> Ask {
    let mut kept: Option<Client> = None;
    Box::new(move || {
        let mut client = kept.take().unwrap_or_else(|| Client::connect(address));
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        let answer = client.read().map_err(|error| error.to_string())?;
        if answer.header("connection") != Some("close") {
            kept = Some(client);
        }
        if answer.status == 200 { Ok(()) } else { Err(format!("status {}", answer.status)) }
    })
}

fn clients(address: SocketAddr) -> Vec<Ask> {
    let newcomers = (0..4).map(|_| newcomer(address));
    newcomers.chain((0..2).map(|_| regular(address))).collect()
}

/// A gateway on ports that it shares.
fn sharing(port: u16, http: &Backend, udp: SocketAddr) -> Process {
    let routes = format!(
        "http:
  routers:
    plain: {{rule: 'PathPrefix(`/`)', service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
udp:
  routers:
    u: {{service: u, entryPoints: [dns]}}
  services:
    u: {{loadBalancer: {{servers: [{{address: '{udp}'}}]}}}}
",
        http.url()
    );
    let address = format!("--entryPoints.shared.address=127.0.0.1:{port}");
    let datagrams = format!("--entryPoints.dns.address=127.0.0.1:{}/udp", port + 1);
    let flags = [
        &*address,
        &*datagrams,
        "--entryPoints.shared.reusePort=true",
        "--entryPoints.dns.reusePort=true",
        "--entryPoints.dns.udp.timeout=300ms",
    ];
    Process::start(&flags, &routes)
}

/// A port for TCP, and one for UDP behind it.
fn free_ports() -> u16 {
    loop {
        let port = free_port();
        if UdpSocket::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

/// A server that answers each datagram with its name.
fn namer(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(name.as_bytes(), peer);
        }
    });
    address
}

#[test]
fn a_shared_port_is_handed_over_without_losing_a_request() {
    let (port, server, udp) = (free_ports(), Backend::echo("s"), namer("u"));
    let mut now = sharing(port, &server, udp);
    let load = Load::start(clients(now.address("shared")));
    for _ in 0..3 {
        load.pass(20);
        let next = sharing(port, &server, udp);
        now.end("TERM");
        now = next;
    }
    load.pass(20);
    let tally = load.end("a shared port, handed over three times");
    assert_eq!(tally.failed, [""; 0]);
}

#[test]
fn datagrams_go_to_the_process_that_stays() {
    let (port, server) = (free_ports(), Backend::echo("s"));
    let mut old = sharing(port, &server, namer("u"));
    let address = old.address("dns");
    let ask = move || -> Result<(), String> {
        // Each is a session of its own: there must not be too many at a time.
        pause_for(Duration::from_millis(5));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send_to(b"?", address).map_err(|error| error.to_string())?;
        socket.recv(&mut [0; 16]).map(drop).map_err(|error| error.to_string())
    };
    let load = Load::start((0..4).map(|_| Box::new(ask) as Ask));
    load.pass(40);
    let _new = sharing(port, &server, namer("u"));
    old.end("TERM");
    load.pass(40);
    let tally = load.end("datagrams, each of another client, handed over once");
    // What is under way when the socket is closed is lost, at most one datagram of each client.
    assert!(tally.failed.len() <= 4, "{:?}", tally.failed);
}

#[test]
fn a_supervisors_tcp_socket_outlives_the_gateway() {
    let server = Backend::echo("s");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // By the name of the entry point, as in Traefik, or else by the port.
    for (name, point) in [("passed", "127.0.0.1:1".to_owned()), ("web.socket", address.to_string())] {
        let start = || {
            let shell = format!(
                "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name} exec \"$0\" \"$@\" 3<&0 </dev/null"
            );
            let stdin = Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
            let point = format!("--entryPoints.passed.address={point}");
            Process::start_with(&shell, stdin, &[&point], &Gateway::one_service(&server.url()))
        };
        let mut now = start();
        assert_eq!(now.address("passed"), address);
        let load = Load::start(clients(address));
        for _ in 0..3 {
            now.end("TERM");
            // Nobody serves here: clients wait.
            now = start();
            load.pass(12);
        }
        let tally = load.end("a passed listener, three restarts");
        assert_eq!(tally.failed, [""; 0]);
    }
}

#[test]
fn a_supervisors_udp_socket_outlives_the_gateway() {
    let server = Backend::echo("s");
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let udp = namer("u");
    let start = || {
        let shell = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=dns exec \"$0\" \"$@\" 3<&0 </dev/null";
        let stdin = Stdio::from(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()));
        let routes = Gateway::one_service(&server.url())
            + &format!(
                "udp:\n  routers:\n    u: {{service: u, entryPoints: [dns]}}\n  services:\n    u: {{loadBalancer: {{servers: [{{address: '{udp}'}}]}}}}\n"
            );
        Process::start_with(shell, stdin, &["--entryPoints.dns.address=:1/udp"], &routes)
    };
    let mut now = start();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    for _ in 0..3 {
        client.send(b"?").unwrap();
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 1);
        now.end("TERM");
        client.send(b"in between").unwrap();
        now = start();
        assert_eq!(client.recv(&mut [0; 16]).unwrap(), 1, "what came in between is served");
    }
}

#[test]
fn a_socket_that_belongs_to_no_entry_point_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let shell = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=other exec \"$0\" \"$@\" 3<&0 </dev/null";
    let stdin = Stdio::from(std::os::fd::OwnedFd::from(listener));
    let process = Process::start_with(shell, stdin, &[], "http: {}");
    eventually("it is reported", || process.log().contains("ignoring a socket from LISTEN_FDS"));
}
