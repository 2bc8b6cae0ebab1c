//! A client that sends exact bytes and reads what comes back.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A response as received.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Status.
    pub status: u16,
    /// Headers in order.
    pub headers: Vec<(String, String)>,
    /// Body, unchunked.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<String>,
    /// False if the connection ended before the body did.
    pub complete: bool,
}

impl Answer {
    /// Returns the first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to a gateway.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects, with a timeout of 20 s.
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// Uses an existing connection.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// Uses an existing connection with another timeout.
    pub fn patient(address: SocketAddr, patience: Duration) -> Self {
        let client = Self::connect(address);
        client.stream.set_read_timeout(Some(patience)).unwrap();
        client
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // A gateway that has refused already may have closed: what it answered is still to be read.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Reads one response, skipping informational ones.
    pub fn read(&mut self) -> io::Result<Answer> {
        self.read_for("GET")
    }

    /// Reads the response to a request of this method.
    pub fn read_for(&mut self, method: &str) -> io::Result<Answer> {
        loop {
            let answer = self.read_any(method)?;
            if !(100..200).contains(&answer.status) || answer.status == 101 {
                return Ok(answer);
            }
        }
    }

    /// Reads the head of a response, informational ones included, without its body.
    pub fn head(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                return Ok(String::from_utf8_lossy(&self.take(end + 4)?).into_owned());
            }
            self.fill()?;
        }
    }

    /// Reads exactly `length` bytes.
    pub fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill()?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Returns true if the gateway closes the connection without sending anything more.
    pub fn is_closed(&mut self) -> bool {
        loop {
            match self.fill() {
                Ok(()) => {
                    if !self.buffer.is_empty() {
                        return false;
                    }
                }
                Err(error) => {
                    return !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                }
            }
        }
    }

    /// Reads until the connection ends.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill().is_ok() {}
        std::mem::take(&mut self.buffer)
    }

    fn read_any(&mut self, method: &str) -> io::Result<Answer> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status line: {status_line:?}")))?;
        let mut answer = Answer { status, complete: true, ..Answer::default() };
        loop {
            let line = self.line()?;
            let Some((key, value)) = line.split_once(':') else { break };
            answer.headers.push((key.to_owned(), value.trim().to_owned()));
        }
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
            answer.complete = self.read_chunks(&mut answer).is_ok();
        } else if let Some(length) = answer.header("content-length").and_then(|v| v.parse::<usize>().ok()) {
            match self.take(length) {
                Ok(body) => answer.body = body,
                Err(_) => {
                    answer.body = std::mem::take(&mut self.buffer);
                    answer.complete = false;
                }
            }
        } else {
            answer.body = self.rest();
        }
        Ok(answer)
    }

    fn read_chunks(&mut self, answer: &mut Answer) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16);
            let size = size.map_err(|_| io::Error::other(format!("no chunk size: {line:?}")))?;
            if size == 0 {
                break;
            }
            let chunk = self.take(size)?;
            answer.body.extend(chunk);
            self.take(2)?;
        }
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            answer.trailers.push(line);
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16_384];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(())
            }
        }
    }
}

/// Sends exact bytes on a new connection and reads one response.
pub fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> io::Result<Answer> {
    let mut client = Client::connect(address);
    client.send(bytes);
    client.read()
}

/// Sends a GET request.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    get_with(address, host, path, "")
}

/// Sends a GET request with further header lines, each ended by CRLF.
pub fn get_with(address: SocketAddr, host: &str, path: &str, headers: &str) -> Answer {
    raw(address, format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n"))
        .unwrap()
}
