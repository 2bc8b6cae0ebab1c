//! Servers that stop and start again, and a constant load whose clients report everything that they see.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// HTTP/1.1 connections, each with one request at a time.
const HTTP1_CLIENTS: usize = 64;
/// HTTP/2 connections, each with as many requests as are due.
const HTTP2_CLIENTS: usize = 4;
/// One request in this many is for HTTP/2.
const HTTP2_SHARE: usize = 5;
/// The URLs that are asked for.
pub const URLS: usize = 20;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// How servers stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// They finish the requests that they have, as on SIGTERM.
    Graceful,
    /// Their connections break, as on SIGKILL.
    Abrupt,
}

/// Servers on fixed addresses, whose responses are fresh for a second.
pub struct Servers {
    runtime: Runtime,
    addresses: Vec<SocketAddr>,
    running: Vec<(watch::Sender<Option<Stop>>, tokio::task::JoinHandle<()>)>,
}

impl Servers {
    pub fn start(number: usize) -> Self {
        let addresses = (0..number).map(|_| super::backend::unused_address()).collect();
        let mut servers = Self { runtime: runtime(), addresses, running: Vec::new() };
        servers.start_again();
        servers
    }

    /// Returns their URLs as a list of the configuration.
    pub fn list(&self) -> String {
        let all: Vec<_> = self.addresses.iter().map(|one| format!("{{url: 'http://{one}'}}")).collect();
        format!("[{}]", all.join(", "))
    }

    pub fn start_again(&mut self) {
        assert!(self.running.is_empty());
        for address in &self.addresses {
            let listener = self.runtime.block_on(async { TcpListener::bind(address).await.unwrap() });
            let (stop, stopped) = watch::channel(None);
            self.running.push((stop, self.runtime.spawn(accept(listener, stopped))));
        }
    }

    /// Returns when no server listens and no connection is open.
    pub fn stop(&mut self, how: Stop) {
        for (stop, _) in &self.running {
            stop.send(Some(how)).unwrap();
        }
        for (_, task) in self.running.drain(..) {
            self.runtime.block_on(task).unwrap();
        }
    }
}

async fn accept(listener: TcpListener, mut stopped: watch::Receiver<Option<Stop>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                connections.spawn(serve(accepted.unwrap().0, stopped.clone()));
            }
            Ok(()) = stopped.changed() => break,
        }
    }
    drop(listener);
    if *stopped.borrow() == Some(Stop::Abrupt) {
        connections.abort_all();
    }
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, mut stopped: watch::Receiver<Option<Stop>>) {
    let service = service_fn(|_| async {
        // Long enough for requests to be with a server when it stops.
        super::pause_for_async(Duration::from_millis(2)).await;
        let response = Response::builder().header("Cache-Control", "max-age=1");
        response.body(Full::new(Bytes::from_static(b"from a server")))
    });
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = &mut connection => return,
        _ = stopped.changed() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// What a client has seen of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sight {
    /// The status, or the error of the connection.
    pub status: Result<u16, String>,
    /// The beginning of the body.
    pub body: String,
    /// How the cache has answered, without numbers.
    pub cache: String,
    pub retry_after: Option<String>,
}

/// Everything that clients have seen: how often, and the longest time from when the request was due.
#[derive(Clone, Debug, Default)]
pub struct Sights(pub BTreeMap<Sight, (usize, Duration)>);

impl Sights {
    /// Returns how many sights are like this.
    pub fn count(&self, is_like: impl Fn(&Sight) -> bool) -> usize {
        self.0.iter().filter(|(sight, _)| is_like(sight)).map(|(_, (number, _))| number).sum()
    }

    /// Returns a table in Markdown.
    pub fn table(&self) -> String {
        let mut text = "| status | body | Cache-Status | Retry-After | requests | slowest |\n|---|---|---|---|---:|---:|\n".to_owned();
        for (Sight { status, body, cache, retry_after }, (number, slowest)) in &self.0 {
            let status = status.as_ref().map_or_else(|error| format!("error: {error}"), u16::to_string);
            let after = retry_after.as_deref().unwrap_or("–");
            let cache = if cache.is_empty() { "–" } else { cache };
            let slowest = slowest.as_secs_f64();
            writeln!(text, "| {status} | {body} | {cache} | {after} | {number} | {slowest:.2} s |").unwrap();
        }
        text
    }
}

/// A request that is due.
struct Due {
    since: Instant,
    url: usize,
}

/// A constant load: requests are due at fixed times, whether or not earlier ones are answered. An HTTP/1.1 client that
/// waits sends those that became due meanwhile afterwards, and their time counts from when they were due.
pub struct Load {
    runtime: Runtime,
    sights: Arc<Mutex<Sights>>,
    end: watch::Sender<bool>,
    done: tokio::task::JoinHandle<()>,
}

impl Load {
    pub fn start(gateway: SocketAddr, per_second: u32) -> Self {
        let (runtime, sights) = (runtime(), Arc::<Mutex<Sights>>::default());
        let (end, ended) = watch::channel(false);
        let done = runtime.spawn(pace(gateway, per_second, sights.clone(), ended));
        Self { runtime, sights, end, done }
    }

    /// Returns what was seen until now.
    pub fn sights(&self) -> Sights {
        self.sights.lock().unwrap().clone()
    }

    /// Sends no more, waits for all responses, and returns what was seen.
    pub fn finish(self) -> Sights {
        self.end.send(true).unwrap();
        self.runtime.block_on(self.done).unwrap();
        let sights = self.sights.lock().unwrap();
        sights.clone()
    }
}

async fn pace(
    gateway: SocketAddr,
    per_second: u32,
    sights: Arc<Mutex<Sights>>,
    mut ended: watch::Receiver<bool>,
) {
    let mut tasks = JoinSet::new();
    let mut clients = |is_http2: bool, number: usize| -> Vec<_> {
        let client = |_| {
            let (due, dues) = mpsc::unbounded_channel();
            match is_http2 {
                true => tasks.spawn(http2_client(gateway, dues, sights.clone())),
                false => tasks.spawn(http1_client(gateway, dues, sights.clone())),
            };
            due
        };
        (0..number).map(client).collect()
    };
    let (http1, http2) = (clients(false, HTTP1_CLIENTS), clients(true, HTTP2_CLIENTS));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for number in 0_usize.. {
        let due = tokio::select! {
            tick = ticks.tick() => Due { since: tick.into_std(), url: number % URLS },
            _ = ended.changed() => break,
        };
        let (clients, number) =
            if number % HTTP2_SHARE == 0 { (&http2, number / HTTP2_SHARE) } else { (&http1, number) };
        clients[number % clients.len()].send(due).unwrap();
    }
    drop((http1, http2));
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

fn question(gateway: SocketAddr, url: usize) -> Request<Empty<Bytes>> {
    let request = Request::get(format!("http://{gateway}/{url}")).header("Host", gateway.to_string());
    request.header("Accept", "text/html").body(Empty::new()).unwrap()
}

fn record(sights: &Mutex<Sights>, due: Instant, sight: Sight) {
    let mut sights = sights.lock().unwrap();
    let (number, slowest) = sights.0.entry(sight).or_default();
    *number += 1;
    *slowest = (*slowest).max(due.elapsed());
}

async fn sight_of(answered: hyper::Result<Response<Incoming>>) -> Sight {
    let failed = |error: hyper::Error| Sight {
        status: Err(error.to_string()),
        body: String::new(),
        cache: String::new(),
        retry_after: None,
    };
    let (head, body) = match answered {
        Ok(response) => response.into_parts(),
        Err(error) => return failed(error),
    };
    let field = |name| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let body = match body.collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        Err(error) => return failed(error),
    };
    let status = field("cache-status").unwrap_or_default();
    let parts: Vec<&str> = status.split("; ").skip(1).collect();
    let is_stale = parts.iter().any(|part| part.starts_with("ttl=-"));
    let mut kept: Vec<&str> = parts.iter().copied().filter(|part| !part.starts_with("ttl=")).collect();
    kept.extend(is_stale.then_some("ttl<0"));
    let body = body.chars().take(40).collect();
    Sight {
        status: Ok(head.status.as_u16()),
        body,
        cache: kept.join("; "),
        retry_after: field("retry-after"),
    }
}

async fn http1_client(
    gateway: SocketAddr,
    mut dues: mpsc::UnboundedReceiver<Due>,
    sights: Arc<Mutex<Sights>>,
) {
    let mut kept = None;
    while let Some(due) = dues.recv().await {
        let mut sender: http1::SendRequest<Empty<Bytes>> = match kept.take() {
            Some(sender) => sender,
            None => {
                let stream = TcpStream::connect(gateway).await.unwrap();
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                sender
            }
        };
        let answered = match sender.ready().await {
            Ok(()) => {
                let mut request = question(gateway, due.url);
                *request.uri_mut() = request.uri().path().parse().unwrap();
                sender.send_request(request).await
            }
            Err(error) => Err(error),
        };
        let sight = sight_of(answered).await;
        // A connection that the gateway has closed is an error that the client sees.
        kept = sight.status.is_ok().then_some(sender);
        record(&sights, due.since, sight);
    }
}

async fn http2_client(
    gateway: SocketAddr,
    mut dues: mpsc::UnboundedReceiver<Due>,
    sights: Arc<Mutex<Sights>>,
) {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut requests = JoinSet::new();
    while let Some(due) = dues.recv().await {
        let (mut sender, sights) = (sender.clone(), sights.clone());
        requests.spawn(async move {
            let answered = sender.send_request(question(gateway, due.url)).await;
            record(&sights, due.since, sight_of(answered).await);
        });
    }
    while let Some(ended) = requests.join_next().await {
        ended.unwrap();
    }
}
