//! What became of the requests.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::process::Used;

/// Maximum number of distinct failures in the report.
const MAX_KINDS: usize = 8;

/// Counts of requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Latency of each request with a response, in microseconds.
    latencies: Vec<u32>,
    statuses: BTreeMap<u16, u64>,
    /// Bytes of bodies in both directions.
    bytes: u64,
    failures: BTreeMap<String, u64>,
    reconnects: u64,
}

impl Tally {
    /// Counts a response, its latency from the first byte sent to the last received, and the bytes of both bodies.
    pub(crate) fn count(&mut self, status: u16, latency: Duration, bytes: u64) {
        self.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        *self.statuses.entry(status).or_default() += 1;
        self.bytes += bytes;
    }

    /// Counts a request without a complete response.
    pub(crate) fn fail(&mut self, why: &str) {
        let why = if self.failures.len() < MAX_KINDS { why } else { "others" };
        *self.failures.entry(why.to_owned()).or_default() += 1;
    }

    /// Counts a connection opened again.
    pub(crate) fn count_reconnect(&mut self) {
        self.reconnects += 1;
    }

    /// Returns the number of responses.
    pub(crate) fn served(&self) -> usize {
        self.latencies.len()
    }

    /// Adds the counts of another.
    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.bytes += other.bytes;
        self.reconnects += other.reconnects;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        for (why, count) in other.failures {
            *self.failures.entry(why).or_default() += count;
        }
    }

    /// Returns what to print.
    pub(crate) fn report(mut self, elapsed: Duration, used: Option<Used>) -> String {
        self.latencies.sort_unstable();
        let (served, seconds) = (self.served(), elapsed.as_secs_f64());
        let mut text = String::new();
        let statuses: Vec<String> =
            self.statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        let _ = writeln!(text, "requests      {served} in {seconds:.2} s ({})", statuses.join(", "));
        let _ = writeln!(text, "requests/s    {:.0}", served as f64 / seconds);
        let _ = writeln!(text, "bodies MB/s   {:.1}", self.bytes as f64 / seconds / 1e6);
        let at = |part: f64| {
            let index = ((served as f64 * part) as usize).min(served.saturating_sub(1));
            self.latencies.get(index).map_or(0.0, |micros| f64::from(*micros) / 1e3)
        };
        let _ = writeln!(text, "latency ms    p50 {:.2}, p99 {:.2}, max {:.2}", at(0.5), at(0.99), at(1.0));
        let failed: u64 = self.failures.values().sum();
        let _ = writeln!(text, "failures      {failed}, connections opened again {}", self.reconnects);
        for (why, count) in &self.failures {
            let _ = writeln!(text, "  {count} × {why}");
        }
        if let Some(Used { user, system }) = used {
            let total = (user + system).as_secs_f64();
            let each = total * 1e6 / served.max(1) as f64;
            let _ = writeln!(
                text,
                "server CPU    {total:.2} s (user {:.2}, system {:.2}): {each:.1} µs/request, {:.2} cores",
                user.as_secs_f64(),
                system.as_secs_f64(),
                total / seconds
            );
            if self.bytes > 0 {
                let _ = writeln!(text, "server CPU/GB {:.2} s", total * 1e9 / self.bytes as f64);
            }
        }
        text
    }
}
