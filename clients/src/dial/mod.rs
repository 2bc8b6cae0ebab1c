//! Opens TCP connections to hosts by name: the one place where names become addresses.
//!
//! An address may move to another host at any moment. So a connection is opened with an answer of the name servers that
//! is at most [`MAX_AGE`] old, and if establishing it took longer, the name must still have the address.

mod names;
mod order;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, OptionFuture};
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

use names::Names;
pub use names::{Answer, LookupError, MAX_AGE, lookup};

/// Head start of one address over the next (RFC 8305 section 5), and pause between look-ups while none answers.
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Connections that are given up because the name had lost their address when they were established.
const MAX_LOST: usize = 2;
/// An established connection whose address is missing in the next answer is only used when it took less than this,
/// and only after [`MAX_LOST`] others: some name servers answer each question with other addresses. The system sends
/// its first segment again after a second, and a stranger may be who hears that.
const QUICK: Duration = Duration::from_secs(1);
/// Addresses that are tried for one connection.
const MAX_TRIED: usize = 128;
/// Time for a look-up on behalf of a connection that exists.
const CONFIRM: Duration = Duration::from_millis(500);

/// A connection to a host.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: TcpStream,
    /// Its other end.
    pub peer: IpAddr,
    /// The answer that names it; `None` when the host is an address.
    pub answer: Option<Answer>,
}

/// The other end of a connection that was opened by name.
#[derive(Clone, Debug)]
pub struct Peer {
    name: Arc<str>,
    address: IpAddr,
}

impl Peer {
    /// Returns the other end of a connection to this host; `None` if the host is an address.
    pub fn new(host: &str, dialled: &Dialled) -> Option<Self> {
        dialled.answer.as_ref().map(|_| Self { name: host.into(), address: dialled.peer })
    }

    /// Waits until the name has lost the address, checking at this interval.
    pub async fn lost(&self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            if !self.is_current().await {
                return;
            }
        }
    }

    /// False if the name has lost the address. A failed look-up proves nothing: the other end of an established
    /// connection does not change.
    pub async fn is_current(&self) -> bool {
        match tokio::time::timeout(CONFIRM, lookup(&self.name, None)).await {
            Ok(Ok(answer)) => answer.addresses().contains(&self.address),
            Ok(Err(LookupError::NotFound { .. })) => false,
            Ok(Err(LookupError::Failed { .. })) | Err(_) => true,
        }
    }
}

/// Opens a connection to a name or an address.
pub async fn connect(host: &str, port: u16) -> io::Result<Dialled> {
    match host.parse() {
        Ok(address) => connect_address(address, port).await,
        Err(_) => connect_name(host, port).await,
    }
}

/// Opens a connection to an address.
pub async fn connect_address(address: IpAddr, port: u16) -> io::Result<Dialled> {
    let stream = TcpStream::connect(SocketAddr::new(address, port)).await?;
    Ok(Dialled { stream, peer: address, answer: None })
}

/// Opens a connection to a name. All of its addresses are tried, each with a head start over the next.
pub async fn connect_name(name: &str, port: u16) -> io::Result<Dialled> {
    dial(Names::system(), name, port).await
}

async fn dial(names: &Arc<Names>, name: &str, port: u16) -> io::Result<Dialled> {
    let answer = names.lookup(name, None).await?;
    let race = Race {
        names,
        name,
        port,
        waiting: answer.addresses().iter().copied().collect(),
        tried: Vec::new(),
        running: FuturesUnordered::new(),
        answer,
        lost: 0,
    };
    Box::pin(race.run()).await
}

/// Attempts to connect to the addresses of a name, as they are and as they become.
struct Race<'a> {
    names: &'a Arc<Names>,
    name: &'a str,
    port: u16,
    answer: Answer,
    waiting: VecDeque<IpAddr>,
    tried: Vec<IpAddr>,
    running: FuturesUnordered<Attempt>,
    /// Connections that were established to addresses that the name had lost by then.
    lost: usize,
}

struct Attempt {
    address: IpAddr,
    began: Instant,
    connect: BoxFuture<'static, io::Result<TcpStream>>,
}

impl Future for Attempt {
    type Output = (IpAddr, Instant, io::Result<TcpStream>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let attempt = self.get_mut();
        attempt.connect.as_mut().poll(cx).map(|outcome| (attempt.address, attempt.began, outcome))
    }
}

impl<'a> Race<'a> {
    async fn run(mut self) -> io::Result<Dialled> {
        let mut refresh: Option<BoxFuture<'a, Result<Answer, LookupError>>> = None;
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("`{}`: no address", self.name));
        loop {
            self.start_next();
            if self.running.is_empty() {
                // Whoever refused may not be the server any more.
                match self.look_again().await {
                    Ok(answer) => self.adopt(answer),
                    Err(error @ LookupError::NotFound { .. }) => return Err(error.into()),
                    Err(LookupError::Failed { .. }) => return Err(last),
                }
                if self.waiting.is_empty() || self.tried.len() >= MAX_TRIED {
                    return Err(last);
                }
                continue;
            }
            let exhausted = self.waiting.is_empty();
            tokio::select! {
                biased;
                Some((address, began, outcome)) = self.running.next() => match outcome {
                    Ok(stream) => if let Some(dialled) = self.confirm(address, began, stream).await? {
                        return Ok(dialled);
                    },
                    Err(error) => last = error,
                },
                Some(outcome) = OptionFuture::from(refresh.as_mut()) => {
                    refresh = None;
                    match outcome {
                        Ok(answer) => self.adopt(answer),
                        Err(error @ LookupError::NotFound { .. }) => return Err(error.into()),
                        Err(LookupError::Failed { .. }) => {}
                    }
                }
                () = tokio::time::sleep(NEXT_ADDRESS), if !exhausted || refresh.is_none() => {
                    if exhausted {
                        refresh = Some(self.look_again());
                    }
                }
            }
        }
    }

    fn look_again(&self) -> BoxFuture<'a, Result<Answer, LookupError>> {
        self.names.lookup(self.name, Some(self.answer.asked())).boxed()
    }

    fn start_next(&mut self) {
        let Some(address) = self.waiting.pop_front() else { return };
        self.tried.push(address);
        let connect = TcpStream::connect(SocketAddr::new(address, self.port)).boxed();
        self.running.push(Attempt { address, began: Instant::now(), connect });
    }

    /// Goes on with a newer answer: attempts at addresses that are missing in it are given up, new addresses are tried.
    fn adopt(&mut self, answer: Answer) {
        let addresses = answer.addresses();
        for attempt in std::mem::take(&mut self.running) {
            if addresses.contains(&attempt.address) {
                self.running.push(attempt);
            } else {
                self.tried.retain(|tried| *tried != attempt.address);
            }
        }
        self.waiting = addresses.iter().filter(|address| !self.tried.contains(address)).copied().collect();
        self.answer = answer;
    }

    /// Checks that the name still has the address of an established connection; `None` if it has not.
    async fn confirm(
        &mut self,
        peer: IpAddr,
        began: Instant,
        stream: TcpStream,
    ) -> io::Result<Option<Dialled>> {
        let established = Instant::now();
        if established.duration_since(self.answer.received()) > MAX_AGE {
            let after = established.checked_sub(MAX_AGE);
            let answer = self.names.lookup(self.name, after).await?;
            if !answer.addresses().contains(&peer) {
                let quick = established.duration_since(began) < QUICK;
                if self.lost < MAX_LOST || !quick {
                    self.lost += 1;
                    self.tried.retain(|tried| *tried != peer);
                    self.adopt(answer);
                    return Ok(None);
                }
            } else {
                self.answer = answer;
            }
        }
        Ok(Some(Dialled { stream, peer, answer: Some(self.answer.clone()) }))
    }
}
