//! Test helpers: a server that responds from a function, and a running provider.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tidegate_config::Provided;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::{Handle, Provider, Update, start};

/// Timeout for all waits in tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) query: HashMap<String, String>,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
}

/// Status, headers and body of a response.
pub(crate) type Reply = (u16, Vec<(&'static str, String)>, String);

type Answer = Arc<dyn Fn(Request) -> BoxFuture<'static, Reply> + Send + Sync>;

/// A minimal HTTP server.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
    /// Each change closes all connections.
    cut: watch::Sender<bool>,
}

impl Server {
    pub(crate) async fn start(
        answer: impl Fn(Request) -> BoxFuture<'static, Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("an address").port();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (cut, cuts) = watch::channel(false);
        let (seen, answer): (_, Answer) = (requests.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer, mut cuts) = (seen.clone(), answer.clone(), cuts.clone());
                if *cuts.borrow_and_update() {
                    continue;
                }
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(stream, seen, answer) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { port, requests, cut }
    }

    /// Closes all connections, and new ones immediately, until [`Server::mend`].
    pub(crate) fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub(crate) fn mend(&self) {
        self.cut.send_replace(false);
    }

    /// Returns the number of requests whose path starts with `path`.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests.lock().iter().filter(|request| request.path.starts_with(path)).count()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Request>>>, answer: Answer) {
    let mut buffer = Vec::new();
    loop {
        while !buffer.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let text = String::from_utf8_lossy(&buffer).into_owned();
        buffer.clear();
        let request = parse(&text);
        seen.lock().push(request.clone());
        let (status, headers, body) = answer(request).await;
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

fn parse(text: &str) -> Request {
    let mut lines = text.lines();
    let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or("").to_owned();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    Request {
        path: path.to_owned(),
        query: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
    }
}

/// A running provider.
pub(crate) struct Running {
    handle: Handle,
    pub(crate) updates: mpsc::Receiver<Update>,
}

impl Running {
    pub(crate) fn start(provider: impl Provider) -> Self {
        let (sender, updates) = mpsc::channel(16);
        Self { handle: start("test", Arc::new(provider), sender), updates }
    }

    /// Makes the provider read its source again.
    pub(crate) fn reload(&self) {
        self.handle.reload();
    }

    /// Returns the next update.
    pub(crate) async fn next(&mut self) -> Update {
        tokio::time::timeout(PATIENCE, self.updates.recv()).await.expect("in time").expect("running")
    }

    /// Waits for a state that matches a condition.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&Provided) -> bool) -> Arc<Provided> {
        let mut last = None;
        loop {
            match tokio::time::timeout(PATIENCE, self.updates.recv()).await {
                Ok(Some(update)) if wanted(&update.state) => return update.state,
                Ok(Some(update)) => last = Some(update),
                other => panic!("{other:?} after {last:?}"),
            }
        }
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Returns the URLs of the servers of an HTTP service.
pub(crate) fn urls(state: &Provided, service: &str) -> Vec<String> {
    let service = state.config.http.services.get(service);
    let balancer = service.and_then(|service| service.load_balancer.as_ref());
    balancer.map(|one| one.servers.iter().map(|server| server.url.clone()).collect()).unwrap_or_default()
}
