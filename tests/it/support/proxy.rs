//! A TCP proxy between a program and its source: it can go silent like a cut line, refuse connections, and
//! records requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A proxy. Its connections stay open as long as both sides want.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    silent: AtomicBool,
    refusing: AtomicBool,
    /// Clients, to close open connections.
    open: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    /// The paths of requests, without their queries.
    requests: Mutex<Vec<String>>,
    /// The connection of each request, and whether it is dead.
    asked: Mutex<Vec<(String, Arc<AtomicBool>)>>,
}

impl Proxy {
    /// Starts a proxy in front of this address.
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared: Arc<Shared> = Arc::default();
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = of_thread.clone();
                if shared.refusing.load(Ordering::SeqCst) {
                    continue;
                }
                shared.open.lock().unwrap().push(client.try_clone().unwrap());
                shared.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serve(client, target, &shared));
            }
        });
        Self { address, shared }
    }

    /// From now on nothing passes, nothing is closed, and new connections are not forwarded. Existing ones
    /// stay dead after [`Proxy::mend`], as with a firewall that has lost their state.
    pub fn cut(&self) {
        self.shared.silent.store(true, Ordering::SeqCst);
    }

    /// Closes all connections and refuses new ones.
    pub fn refuse(&self) {
        self.shared.refusing.store(true, Ordering::SeqCst);
        self.shared.open.lock().unwrap().drain(..).for_each(|stream| {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        });
    }

    /// Forwards new connections again.
    pub fn mend(&self) {
        self.shared.refusing.store(false, Ordering::SeqCst);
        self.shared.silent.store(false, Ordering::SeqCst);
    }

    /// Silences connections on which this path was requested.
    pub fn freeze(&self, path: &str) {
        let asked = self.shared.asked.lock().unwrap();
        let found: Vec<_> = asked.iter().filter(|(asked, _)| asked == path).collect();
        assert!(!found.is_empty(), "{path} was not asked for");
        found.iter().for_each(|(_, dead)| dead.store(true, Ordering::SeqCst));
    }

    /// Returns the number of connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Returns the paths requested since the last call.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.requests.lock().unwrap())
    }
}

fn serve(client: TcpStream, target: SocketAddr, shared: &Arc<Shared>) {
    pass(client.try_clone().unwrap(), target, shared);
    // It is among those that are open: only this ends it.
    let _ = client.shutdown(std::net::Shutdown::Both);
}

fn pass(client: TcpStream, target: SocketAddr, shared: &Arc<Shared>) {
    let dead = Arc::new(AtomicBool::new(shared.silent.load(Ordering::SeqCst)));
    let Ok(server) = TcpStream::connect(target) else { return };
    let (from_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let (of_thread, dead_too) = (shared.clone(), dead.clone());
    let back = std::thread::spawn(move || copy(from_server, to_client, &of_thread, &dead_too, false));
    copy(client, server, shared, &dead, true);
    let _ = back.join();
}

/// Copies until the source ends. On a dead connection everything is discarded, including the end.
fn copy(mut from: TcpStream, mut to: TcpStream, shared: &Shared, dead: &Arc<AtomicBool>, count: bool) {
    let mut buffer = [0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if shared.silent.load(Ordering::SeqCst) {
            dead.store(true, Ordering::SeqCst);
        }
        if dead.load(Ordering::SeqCst) {
            if read == 0 {
                return;
            }
            continue;
        }
        if count {
            let text = String::from_utf8_lossy(&buffer[..read]);
            let lines = text.lines().filter(|line| line.ends_with(" HTTP/1.1"));
            let paths = lines.filter_map(|line| line.split(' ').nth(1)?.split('?').next().map(str::to_owned));
            let paths: Vec<String> = paths.collect();
            let asked = paths.iter().map(|path| (path.clone(), dead.clone()));
            shared.asked.lock().unwrap().extend(asked);
            shared.requests.lock().unwrap().extend(paths);
        }
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            let _ = to.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}
