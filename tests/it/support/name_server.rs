//! A name server whose records a test can change, with a TTL of ten minutes like Docker's.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// TTL of records and of negative responses, in seconds.
const LIFETIME: u32 = 600;
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;

/// A running name server. Stops when dropped.
pub struct NameServer {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    names: Mutex<HashMap<String, Vec<IpAddr>>>,
    questions: AtomicUsize,
    fails: AtomicBool,
    is_silent: AtomicBool,
    stops: AtomicBool,
}

impl NameServer {
    /// Starts a name server without names.
    pub fn start(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let (address, state) = (socket.local_addr().unwrap(), Arc::<State>::default());
        let served = state.clone();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !served.stops.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer)
                    && !served.is_silent.load(Ordering::Relaxed)
                {
                    let _ = socket.send_to(&served.answer(&buffer[..length]), client);
                }
            }
        });
        Self { address, state }
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the addresses of a name; none means that it does not exist.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.state.names.lock().unwrap().insert(name.to_owned(), addresses);
    }

    /// Sets whether it responds with a failure.
    pub fn fail(&self, fails: bool) {
        self.state.fails.store(fails, Ordering::Relaxed);
    }

    /// Sets whether it drops all questions.
    pub fn silence(&self, is_silent: bool) {
        self.state.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// Returns the number of questions.
    pub fn questions(&self) -> usize {
        self.state.questions.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.state.stops.store(true, Ordering::Relaxed);
    }
}

impl State {
    fn answer(&self, question: &[u8]) -> Vec<u8> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let (mut name, mut at) = (String::new(), 12);
        while question[at] != 0 {
            let end = at + 1 + usize::from(question[at]);
            name += &String::from_utf8_lossy(&question[at + 1..end]).to_lowercase();
            name.push('.');
            at = end;
        }
        let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
        let known = self.names.lock().unwrap().get(name.trim_end_matches('.')).cloned().unwrap_or_default();
        let (code, records) = match (self.fails.load(Ordering::Relaxed), known.is_empty()) {
            (true, _) => (SERVER_FAILURE, Vec::new()),
            (false, true) => (NO_SUCH_NAME, Vec::new()),
            (false, false) => (NO_ERROR, known.iter().filter_map(|ip| record(*ip, kind)).collect()),
        };
        let denies = records.is_empty() && code != SERVER_FAILURE;
        let mut answer = question[..2].to_vec();
        answer.extend([0x81, 0x80 | code, 0, 1, 0, u8::try_from(records.len()).unwrap()]);
        answer.extend([0, u8::from(denies), 0, 0]);
        answer.extend(&question[12..at + 5]);
        answer.extend(records.into_iter().flatten());
        if denies {
            let numbers = [1, 600, 600, 600, LIFETIME].map(u32::to_be_bytes).concat();
            answer.extend(resource(6, &[&[0, 0][..], &numbers].concat()));
        }
        answer
    }
}

fn record(ip: IpAddr, kind: u16) -> Option<Vec<u8>> {
    match (ip, kind) {
        (IpAddr::V4(ip), 1) => Some(resource(1, &ip.octets())),
        (IpAddr::V6(ip), 28) => Some(resource(28, &ip.octets())),
        _ => None,
    }
}

/// Returns a record for the requested name.
fn resource(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    let head =
        [&[0xc0, 12][..], &kind.to_be_bytes(), &[0, 1], &LIFETIME.to_be_bytes(), &length.to_be_bytes()];
    [&head.concat()[..], data].concat()
}
