//! Sends requests over HTTP/3 to any server, and prints requests and bytes per second, latencies, and what they cost
//! the server.
//!
//! `make load ARGS='127.0.0.1:443 --sni shop.test --path /x --connections 8 --streams 32 --seconds 10 --pid 4711'`.
//! Certificates are not verified. Each connection has a UDP socket of its own, as clients have.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod client;
mod process;
mod tally;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;

use client::{Connection, Job};
use process::CpuTime;
use tally::Tally;

/// Sends requests over HTTP/3.
#[derive(Parser)]
#[command(name = "load")]
struct Arguments {
    /// Address of the server, as host:port.
    address: String,
    /// Server name in the handshake, and authority of the requests.
    #[arg(long, default_value = "localhost")]
    sni: String,
    /// Path and query of the requests.
    #[arg(long, default_value = "/")]
    path: String,
    /// Number of connections, each with its own socket.
    #[arg(long, short, default_value_t = 8)]
    connections: usize,
    /// Number of requests at a time on each connection.
    #[arg(long, short, default_value_t = 16)]
    streams: usize,
    /// How long to send requests, in seconds.
    #[arg(long, default_value_t = 5.0, conflicts_with = "requests")]
    seconds: f64,
    /// How many requests to send, instead of for how long.
    #[arg(long, short = 'n')]
    requests: Option<u64>,
    /// Sends a body of this many bytes with POST. Bodies of responses are determined by the path.
    #[arg(long, default_value_t = 0)]
    upload: usize,
    /// Number of threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// A process whose CPU time is measured, with that of its children. May be repeated.
    #[arg(long)]
    pid: Vec<u32>,
    /// Ignored: `cargo bench` adds it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Decides whether another request is sent.
pub(crate) struct Budget {
    until: Option<Instant>,
    left: AtomicU64,
}

impl Budget {
    /// Takes one request out of the budget. Returns false if it is used up.
    pub(crate) fn take(&self) -> bool {
        match self.until {
            Some(until) => Instant::now() < until,
            None => self
                .left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_ok(),
        }
    }

    /// Gives back a request that was not sent.
    pub(crate) fn give_back(&self) {
        self.left.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let address = arguments.address.to_socket_addrs()?.next();
    let address: SocketAddr = address.ok_or_else(|| anyhow::anyhow!("unknown host"))?;
    let job = Arc::new(Job {
        address,
        sni: arguments.sni.clone(),
        uri: format!("https://{}{}", arguments.sni, arguments.path).parse()?,
        body: Bytes::from(vec![b'x'; arguments.upload]),
        streams: arguments.streams.max(1),
        config: client::configuration()?,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(arguments.threads.max(1))
        .enable_all()
        .build()?;
    runtime.block_on(run(&arguments, job))
}

/// Connects, sends requests, and prints what came of them.
async fn run(arguments: &Arguments, job: Arc<Job>) -> anyhow::Result<()> {
    let mut connections = Vec::new();
    for _ in 0..arguments.connections.max(1) {
        connections.push(Connection::open(&job).await?);
    }
    let cpu = CpuTime::read(&arguments.pid)?;
    let begun = Instant::now();
    let budget = Arc::new(Budget {
        until: arguments.requests.is_none().then(|| begun + Duration::from_secs_f64(arguments.seconds)),
        left: AtomicU64::new(arguments.requests.unwrap_or(0)),
    });
    let running: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::spawn(client::keep_sending(connection, job.clone(), budget.clone())))
        .collect();
    let mut all = Tally::default();
    for one in running {
        all.add(one.await?);
    }
    let elapsed = begun.elapsed();
    let used = CpuTime::read(&arguments.pid)?;
    print!("{}", all.report(elapsed, used.since(&cpu)));
    Ok(())
}
