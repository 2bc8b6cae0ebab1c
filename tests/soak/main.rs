//! A long run under a mixed load (`make soak`): requests of all kinds, clients that are slow or give up, routes that
//! change, and servers that are replaced. It fails if a request fails for another reason than its client, or if the
//! gateway keeps connections or descriptors of clients that have gone.

#![allow(
    unreachable_pub,
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program for people, with a part of the tests' support"
)]

mod clients;
mod connect;
mod gateway;
mod pattern;
mod servers;
mod tally;
#[path = "../it/support/tls.rs"]
mod tls;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clients::Load;
use gateway::{Gateway, Sample};
use servers::Server;

/// The length of the run in seconds, and the program, unless it is the one of this build.
const SECONDS: &str = "TIDEGATE_SOAK";
const PROGRAM: &str = "TIDEGATE_SOAK_BINARY";
const DEFAULT_SECONDS: u64 = 3600;
/// The share of the load that the gateway can take.
const SHARE: f64 = 0.7;
/// The time in which that is measured, after a time to warm up.
const CALIBRATION: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_secs(3);
/// The intervals of samples and of changes.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
const CHANGE_INTERVAL: Duration = Duration::from_secs(2);
/// Every third change replaces a server; the others change only routes.
const REPLACEMENT: u64 = 3;
const SERVERS: usize = 3;
/// How long connections of clients that have gone may stay open.
const MAX_CLOSE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let seconds =
        variable(SECONDS).map_or(DEFAULT_SECONDS, |text| text.parse().expect("a number of seconds"));
    let program = variable(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_tidegate").to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match runtime.block_on(run(&program, Duration::from_secs(seconds))) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn addresses(servers: &[Server]) -> Vec<SocketAddr> {
    servers.iter().map(|server| server.address).collect()
}

/// Returns whether nothing has failed.
async fn run(program: &str, time: Duration) -> bool {
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(Server::start().await);
    }
    let mut gateway = Gateway::start(program, &addresses(&servers)).await;
    let load = Load::new(gateway.web, gateway.secure);
    let mut clients = load.start();
    tokio::time::sleep(WARM_UP).await;
    load.tally.take();
    let idle = gateway.sample().await;
    tokio::time::sleep(CALIBRATION).await;
    let rate = load.pace(SHARE, CALIBRATION);
    println!("{program}: {rate:.0} requests per second for {} s", time.as_secs());

    let begun = Instant::now();
    let (samples, stuck) = change(&mut gateway, &mut servers, time).await;
    load.stop();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let counts = load.tally.take();
    let left = left(&gateway).await;

    println!("\n{}", tally::table(&counts));
    println!("{}", table(&samples, begun, time, idle, left));
    println!(
        "{} changes of routes, {} of them with a new server.",
        gateway.changes,
        gateway.changes / REPLACEMENT
    );
    let mut problems = Vec::new();
    match tally::failures(&counts) {
        0 => {}
        number => problems.push(format!("{number} requests failed")),
    }
    if stuck > 0 {
        problems.push(format!("{stuck} servers that were replaced still had connections after a minute"));
    }
    if left.connections > 0 {
        problems.push(format!("{} connections are open without clients", left.connections));
    }
    if !gateway.is_running() || !gateway.stop() {
        problems.push("the gateway has not ended as it should".to_owned());
    }
    let log = gateway.log();
    problems.extend(log.lines().filter(|line| line.contains("panicked")).map(str::to_owned));
    for problem in &problems {
        println!("\nFAILED: {problem}");
    }
    if !problems.is_empty() {
        let start = log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
        println!("\nThe end of its log:\n{}", &log[start..]);
    }
    problems.is_empty()
}

/// Changes routes and replaces servers for this time. Returns the samples, and how many servers did not end.
async fn change(gateway: &mut Gateway, servers: &mut Vec<Server>, time: Duration) -> (Vec<Sample>, usize) {
    let (begun, mut samples) = (Instant::now(), Vec::new());
    let mut ending = tokio::task::JoinSet::new();
    let sample_interval = SAMPLE_INTERVAL.min(time / 20);
    let (mut next_sample, mut next_change) = (begun + sample_interval, begun + CHANGE_INTERVAL);
    while begun.elapsed() < time {
        tokio::time::sleep_until(next_sample.min(next_change).into()).await;
        if next_sample <= Instant::now() {
            samples.push(gateway.sample().await);
            next_sample += sample_interval;
        }
        if next_change <= Instant::now() {
            let old = match gateway.changes % REPLACEMENT {
                0 => {
                    servers.push(Server::start().await);
                    Some(servers.remove(0))
                }
                _ => None,
            };
            gateway.route(&addresses(servers)).await;
            if let Some(old) = old {
                ending.spawn(old.stop());
            }
            next_change += CHANGE_INTERVAL;
        }
    }
    samples.push(gateway.sample().await);
    let ended = ending.join_all().await;
    (samples, ended.iter().filter(|ended| !**ended).count())
}

/// Returns what the gateway uses when its clients have gone.
async fn left(gateway: &Gateway) -> Sample {
    let begun = Instant::now();
    loop {
        let sample = gateway.sample().await;
        if sample.connections == 0 || begun.elapsed() > MAX_CLOSE {
            return sample;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Returns a table in Markdown of what the gateway used.
fn table(samples: &[Sample], begun: Instant, time: Duration, idle: Sample, left: Sample) -> String {
    let at = |share: f64| {
        let when = begun + time.mul_f64(share);
        let distance = |sample: &&Sample| sample.at.max(when) - sample.at.min(when);
        *samples.iter().min_by_key(distance).unwrap()
    };
    let highest = *samples.iter().max_by_key(|sample| sample.memory).unwrap();
    let rows = [
        ("before", idle),
        ("10 %", at(0.1)),
        ("50 %", at(0.5)),
        ("100 %", at(1.0)),
        ("most memory", highest),
        ("without clients", left),
    ];
    let mut text =
        "| at | memory, MiB | descriptors | threads | connections of clients |\n|---|---:|---:|---:|---:|\n"
            .to_owned();
    for (name, Sample { memory, descriptors, threads, connections, .. }) in rows {
        let memory = memory as f64 / 1024.0;
        text += &format!("| {name} | {memory:.1} | {descriptors} | {threads} | {connections} |\n");
    }
    text
}
