//! Test servers: they record requests byte for byte, and send configured responses.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as received by a backend.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Request line and headers, without the empty line.
    pub head: String,
    /// The body, unchunked.
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Vec<String>,
}

impl Seen {
    /// Returns the request target.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or("")
    }

    /// Returns the method.
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or("")
    }

    /// Returns the first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).into_iter().next()
    }

    /// Returns all values of a header.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        self.head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }
}

/// A server on a free port. Stops when dropped.
pub struct Backend {
    /// Its address.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl Backend {
    /// Responds to every request with 200, its name in `X-Backend` and the request's head as the body.
    pub fn echo(name: &str) -> Self {
        Self::echo_on(TcpListener::bind("127.0.0.1:0").unwrap(), name)
    }

    /// Does so on an existing listener.
    pub fn echo_on(listener: TcpListener, name: &str) -> Self {
        let name = name.to_owned();
        Self::on(listener, move |seen, stream| {
            let body = &seen.head;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nX-Backend: {name}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let body = if seen.method() == "HEAD" { "" } else { body };
            stream.write_all(format!("{answer}{body}").as_bytes()).is_ok()
        })
    }

    /// Responds to every request with these bytes, and keeps the connection open.
    pub fn bytes(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::with(move |_, stream| stream.write_all(&answer).is_ok())
    }

    /// Responds to every request with these bytes, and closes the connection.
    pub fn closing(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::with(move |_, stream| {
            let _ = stream.write_all(&answer);
            false
        })
    }

    /// Responds with a function that returns whether to keep the connection.
    pub fn with(answer: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), answer)
    }

    /// Does so on an existing listener.
    pub fn on(
        listener: TcpListener,
        answer: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let connections = Arc::new(AtomicUsize::new(0));
        let (notes, stop, opened) = (seen.clone(), stopped.clone(), connections.clone());
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                opened.fetch_add(1, Ordering::SeqCst);
                let (notes, answer) = (notes.clone(), answer.clone());
                std::thread::spawn(move || serve(stream, &notes, answer.as_ref()));
            }
        });
        Self { address, seen, connections, stopped }
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Returns the requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns the last request. Panics without one.
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("no request reached the backend")
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// Returns an address without a listener.
pub fn unused_address() -> SocketAddr {
    ([127, 0, 0, 1], super::free_port()).into()
}

fn serve(
    mut stream: TcpStream,
    notes: &Mutex<Vec<Seen>>,
    answer: &(dyn Fn(&Seen, &mut TcpStream) -> bool + Send + Sync),
) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer) {
        notes.lock().unwrap().push(seen.clone());
        if !answer(&seen, &mut stream) {
            return;
        }
    }
}

/// Reads a request; `buffer` holds what was read beyond the last one.
pub fn read_request(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = fill_until(stream, buffer, |b| b.windows(4).position(|w| w == b"\r\n\r\n"))?;
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut seen = Seen { head, ..Seen::default() };
    if seen.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(stream, buffer)?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            if size == 0 {
                break;
            }
            fill_until(stream, buffer, |b| (b.len() >= size + 2).then_some(0))?;
            seen.body.extend(buffer.drain(..size));
            buffer.drain(..2);
        }
        loop {
            let line = read_line(stream, buffer)?;
            if line.is_empty() {
                break;
            }
            seen.trailers.push(line);
        }
    } else if let Some(length) = seen.header("content-length").and_then(|v| v.parse::<usize>().ok()) {
        fill_until(stream, buffer, |b| (b.len() >= length).then_some(0))?;
        seen.body = buffer.drain(..length).collect();
    }
    Some(seen)
}

fn read_line(stream: &mut impl Read, buffer: &mut Vec<u8>) -> Option<String> {
    let end = fill_until(stream, buffer, |b| b.windows(2).position(|w| w == b"\r\n"))?;
    let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 2);
    Some(line)
}

fn fill_until(
    stream: &mut impl Read,
    buffer: &mut Vec<u8>,
    found: impl Fn(&[u8]) -> Option<usize>,
) -> Option<usize> {
    loop {
        if let Some(at) = found(buffer) {
            return Some(at);
        }
        let mut chunk = [0; 16_384];
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Starts a backend that responds with 503 while `up` is false.
pub fn switchable(name: &'static str, up: &Arc<AtomicBool>) -> Backend {
    let up = up.clone();
    Backend::with(move |_, stream| {
        let status = if up.load(Ordering::SeqCst) { "200 OK" } else { "503 Service Unavailable" };
        let answer = format!("HTTP/1.1 {status}\r\nX-Backend: {name}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).is_ok()
    })
}

/// Returns the name of the backend that responds, or the status without one.
pub fn who(address: SocketAddr) -> String {
    let answer = super::get(address, "h", "/");
    answer.header("x-backend").map_or_else(|| answer.status.to_string(), str::to_owned)
}
