//! A long run under a mixed load (`make soak`): requests of all kinds, clients that are slow or give up, routes that
//! change, and servers that are replaced, in this process and in containers. It fails if the gateway ends, if a request
//! fails for another reason than its client, if memory or descriptors grow, or if connections of clients that have gone
//! stay open.

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
mod containers;
mod gateway;
mod pattern;
mod servers;
mod tally;
#[path = "../it/support/tls.rs"]
mod tls;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clients::Load;
use connect::Failure;
use containers::Containers;
use gateway::{Gateway, Sample};
use servers::Server;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The length of the run in seconds, and the program, unless it is the one of this build.
const SECONDS: &str = "TIDEGATE_SOAK";
const PROGRAM: &str = "TIDEGATE_SOAK_BINARY";
/// Whether some servers are in containers: 1, 0, or if a Docker Engine answers.
const DOCKER: &str = "TIDEGATE_SOAK_DOCKER";
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
/// By how much the median of the last quarter may exceed that of the second one: a share of it, and KiB of memory, or
/// descriptors.
const MAX_GROWTH: f64 = 0.1;
const MEMORY_ALLOWANCE: usize = 4096;
const DESCRIPTOR_ALLOWANCE: usize = 20;
/// How much of the gateway's log is printed if the run fails.
const LOG_CHARACTERS: usize = 4000;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if std::env::args().nth(1).as_deref() == Some(containers::SERVE) {
        let has_ended = runtime.block_on(Server::run(containers::ADDRESS));
        return if has_ended.is_ok_and(|has_ended| has_ended) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let seconds =
        variable(SECONDS).map_or(DEFAULT_SECONDS, |text| text.parse().expect("a number of seconds"));
    let program = variable(PROGRAM).unwrap_or_else(|| env!("CARGO_BIN_EXE_tidegate").to_owned());
    let docker = variable(DOCKER).map(|text| text != "0");
    let run = run(&program, Duration::from_secs(seconds), docker);
    let problems = runtime.block_on(run).unwrap_or_else(|failure| vec![failure.to_string()]);
    for problem in &problems {
        println!("\nFAILED: {problem}");
    }
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Starts servers, and the gateway in front of them.
async fn start(
    program: &str,
    docker: Option<bool>,
) -> Result<(Vec<Server>, Option<Containers>, Gateway), Failure> {
    let mut servers = Vec::new();
    for _ in 0..SERVERS {
        servers.push(Server::start(servers::ADDRESS).await?);
    }
    let docker = match docker {
        Some(docker) => docker,
        None => containers::has_engine().await,
    };
    if !docker {
        let gateway = Gateway::start(program, &servers, &[]).await?;
        return Ok((servers, None, gateway));
    }
    let containers = Containers::start().await?;
    let gateway = Gateway::start(program, &servers, &containers::flags()).await?;
    Ok((servers, Some(containers), gateway))
}

/// Returns what has gone wrong.
async fn run(program: &str, time: Duration, docker: Option<bool>) -> Result<Vec<String>, Failure> {
    let (mut servers, containers, mut gateway) = start(program, docker).await?;
    let load = Load::new(gateway.entry_points, containers.is_some());
    let mut clients = load.start();
    tokio::time::sleep(WARM_UP).await;
    load.tally.take();
    let before = gateway.sample().await;
    tokio::time::sleep(CALIBRATION).await;
    let rate = load.pace(SHARE, CALIBRATION);
    println!("{program}, process {}: {rate:.0} requests per second for {} s", gateway.id(), time.as_secs());

    let mut problems = Vec::new();
    let (over, is_over) = oneshot::channel();
    let replacing = containers.map(|containers| tokio::spawn(containers.replace(is_over)));
    let begun = Instant::now();
    let samples = change(&mut gateway, &mut servers, time, &mut problems).await;
    load.stop();
    let _ = over.send(());
    // They serve until the last client has ended.
    let containers = match replacing {
        Some(replacing) => Some(replacing.await?),
        None => None,
    };
    while let Some(ended) = clients.join_next().await {
        ended?;
    }
    let counts = load.tally.take();
    let left = left(&gateway).await;

    println!("\n{}", tally::table(&counts));
    println!("{}", table(&samples, begun, time, before, left));
    println!(
        "{} changes of routes, {} of them with a new server.",
        gateway.changes,
        gateway.changes / REPLACEMENT
    );
    match containers {
        Some(containers) => {
            println!("{} containers replaced.", containers.replaced);
            problems.extend(containers.problem.clone());
        }
        None => println!("No containers, since no Docker Engine is used."),
    }
    match tally::failures(&counts) {
        0 => {}
        number => problems.push(format!("{number} requests failed")),
    }
    if gateway.ended().is_none() {
        let memory = growth("memory, KiB", MEMORY_ALLOWANCE, &samples, time, |sample| sample.memory);
        problems.extend(memory);
        let descriptors = growth("descriptors", DESCRIPTOR_ALLOWANCE, &samples, time, |one| one.descriptors);
        problems.extend(descriptors);
    }
    if left.connections > 0 {
        problems.push(format!("{} connections are open without clients", left.connections));
    }
    end(&mut gateway, &mut problems);
    Ok(problems)
}

/// Changes routes and replaces servers for this time, or until the gateway ends. Returns the samples.
async fn change(
    gateway: &mut Gateway,
    servers: &mut Vec<Server>,
    time: Duration,
    problems: &mut Vec<String>,
) -> Vec<Sample> {
    let (begun, mut samples) = (Instant::now(), Vec::new());
    let mut ending = JoinSet::new();
    let sample_interval = SAMPLE_INTERVAL.min(time / 20);
    let (mut next_sample, mut next_change) = (begun + sample_interval, begun + CHANGE_INTERVAL);
    while begun.elapsed() < time {
        tokio::time::sleep_until(next_sample.min(next_change).into()).await;
        if next_sample <= Instant::now() {
            samples.push(gateway.sample().await);
            next_sample += sample_interval;
        }
        if next_change <= Instant::now() {
            if let Err(failure) = exchange(gateway, servers, &mut ending).await {
                problems.push(failure.to_string());
                break;
            }
            next_change += CHANGE_INTERVAL;
        }
    }
    samples.push(gateway.sample().await);
    let stuck = ending.join_all().await.iter().filter(|ended| !**ended).count();
    if stuck > 0 {
        problems.push(format!("{stuck} servers that were replaced still had connections after a minute"));
    }
    samples
}

/// Changes the routes, and replaces a server with every third change.
async fn exchange(
    gateway: &mut Gateway,
    servers: &mut Vec<Server>,
    ending: &mut JoinSet<bool>,
) -> Result<(), Failure> {
    let mut old = None;
    if gateway.changes.is_multiple_of(REPLACEMENT) {
        servers.push(Server::start(servers::ADDRESS).await?);
        old = Some(servers.remove(0));
    }
    gateway.route(servers).await?;
    if let Some(old) = old {
        ending.spawn(old.stop());
    }
    Ok(())
}

/// Compares the medians of the second and the last quarter of the time. Returns what has grown by more than is allowed.
fn growth(
    name: &str,
    allowance: usize,
    samples: &[Sample],
    time: Duration,
    value: fn(&Sample) -> usize,
) -> Option<String> {
    let begun = samples.last()?.at - time;
    let median = |quarter: u32| {
        let (from, to) = (begun + time / 4 * (quarter - 1), begun + time / 4 * quarter);
        let within = samples.iter().filter(|sample| from <= sample.at && sample.at < to);
        let mut values: Vec<usize> = within.map(value).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    };
    let (Some(second), Some(last)) = (median(2), median(4)) else {
        return Some(format!("too few samples of {name}"));
    };
    let limit = (second as f64 * (1.0 + MAX_GROWTH)) as usize + allowance;
    println!(
        "Median of {name}: {second} in the second quarter, {last} in the last, at most {limit} allowed."
    );
    (last > limit).then(|| format!("{name} grew from {second} to {last}, and at most {limit} are allowed"))
}

/// Stops the gateway, and adds what is wrong with how it ended and with its log.
fn end(gateway: &mut Gateway, problems: &mut Vec<String>) {
    if let Some(how) = gateway.ended() {
        if !problems.contains(&how) {
            problems.push(how);
        }
    } else if !gateway.stop() {
        problems.push("the gateway failed on SIGTERM".to_owned());
    }
    let log = gateway.log();
    problems.extend(log.lines().filter(|line| line.contains("panicked")).map(str::to_owned));
    if !problems.is_empty() {
        let start = log.char_indices().rev().nth(LOG_CHARACTERS).map_or(0, |(at, _)| at);
        println!("\nThe end of the gateway's log:\n{}", &log[start..]);
    }
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
fn table(samples: &[Sample], begun: Instant, time: Duration, before: Sample, left: Sample) -> String {
    let at = |share: f64| {
        let when = begun + time.mul_f64(share);
        let distance = |sample: &&Sample| sample.at.max(when) - sample.at.min(when);
        *samples.iter().min_by_key(distance).unwrap()
    };
    let highest = *samples.iter().max_by_key(|sample| sample.memory).unwrap();
    let rows = [
        ("before", before),
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
