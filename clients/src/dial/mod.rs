//! Opens TCP connections to hosts by name. All name resolution goes through this module.
//!
//! An address may be reassigned to another host at any time. So a connection is opened with a DNS answer that
//! is at most [`MAX_AGE`] old, and if connecting took longer, the name must still have the address.

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

/// Head start of one address over the next (RFC 8305 section 5), and delay between lookups while none
/// responds.
const HEAD_START: Duration = Duration::from_millis(250);
/// Maximum number of connections that are discarded because the name has lost their address.
const MAX_LOST: usize = 2;
/// After [`MAX_LOST`] discarded connections, one whose address is missing in the next answer is used if it
/// was established within this time, as some name servers answer each query with different addresses. After a
/// second, the system retransmits its first segment, which may reach another host.
const MAX_UNCONFIRMED: Duration = Duration::from_secs(1);
/// Maximum number of addresses tried for one connection.
const MAX_TRIED: usize = 128;
/// Timeout for a lookup to confirm an existing connection.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(500);

/// A connection to a host.
#[derive(Debug)]
pub struct Dialled {
    /// The connection.
    pub stream: TcpStream,
    /// The address of the peer.
    pub peer: IpAddr,
    /// The answer with the address; `None` if the host is an IP address.
    pub answer: Option<Answer>,
}

/// The peer of a connection that was opened by name.
#[derive(Clone, Debug)]
pub struct Peer {
    name: Arc<str>,
    address: IpAddr,
}

impl Peer {
    /// Returns the peer of a connection to this host; `None` if the host is an IP address.
    pub fn new(host: &str, dialled: &Dialled) -> Option<Self> {
        dialled.answer.as_ref().map(|_| Self { name: host.into(), address: dialled.peer })
    }

    /// Waits until the name loses the address, checking at this interval.
    pub async fn lost(&self, interval: Duration) {
        loop {
            tokio::time::sleep(interval).await;
            if !self.is_current().await {
                return;
            }
        }
    }

    /// Returns false if the name has lost the address. A failed lookup is inconclusive and counts as current.
    pub async fn is_current(&self) -> bool {
        match tokio::time::timeout(CONFIRM_TIMEOUT, lookup(&self.name, None)).await {
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

/// Opens a connection to a name. Tries all of its addresses, each with a head start over the next.
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

/// Concurrent attempts to connect to the addresses of a name, which may change meanwhile.
struct Race<'a> {
    names: &'a Arc<Names>,
    name: &'a str,
    port: u16,
    answer: Answer,
    waiting: VecDeque<IpAddr>,
    tried: Vec<IpAddr>,
    running: FuturesUnordered<Attempt>,
    /// Number of established connections to addresses that the name has lost.
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
                // The host that refused may no longer be the server.
                match self.lookup_again().await {
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
                () = tokio::time::sleep(HEAD_START), if !exhausted || refresh.is_none() => {
                    if exhausted {
                        refresh = Some(self.lookup_again());
                    }
                }
            }
        }
    }

    fn lookup_again(&self) -> BoxFuture<'a, Result<Answer, LookupError>> {
        self.names.lookup(self.name, Some(self.answer.asked())).boxed()
    }

    fn start_next(&mut self) {
        let Some(address) = self.waiting.pop_front() else { return };
        self.tried.push(address);
        let connect = TcpStream::connect(SocketAddr::new(address, self.port)).boxed();
        self.running.push(Attempt { address, began: Instant::now(), connect });
    }

    /// Continues with a newer answer: cancels attempts to addresses that are missing in it, and tries new
    /// ones.
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

    /// Checks that the name still has the address of an established connection; `None` if not.
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
                let quick = established.duration_since(began) < MAX_UNCONFIRMED;
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
