//! Metrics of the process, under the names that Prometheus' client libraries use.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::metric::{Metric, Type, Value, Writer};

/// Clock ticks per second in `/proc` (`USER_HZ`, the same on all architectures).
const TICKS: f64 = 100.0;

/// Writes the metrics of this process. Those that the system does not tell are missing.
pub(super) fn write(out: &mut dyn Writer) {
    let mut gauge = |name: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            let kind = if name.ends_with("_total") { Type::Counter } else { Type::Gauge };
            out.metric(Metric { kind, ..Metric::gauge(name, help) });
            out.series(&[], Value::Number(value));
        }
    };
    let stat = Stat::read();
    let stat = |field: fn(&Stat) -> f64| stat.as_ref().map(field);
    gauge(
        "process_cpu_seconds_total",
        "Seconds of CPU time, user and system.",
        stat(|stat| stat.cpu_seconds),
    );
    gauge("process_max_fds", "Maximum number of open file descriptors.", max_descriptors());
    gauge("process_open_fds", "Number of open file descriptors.", open_descriptors());
    gauge("process_resident_memory_bytes", "Resident memory in bytes.", stat(|stat| stat.resident));
    gauge("process_start_time_seconds", "When the process started, in Unix time.", start_time());
    gauge("process_threads", "Number of threads.", stat(|stat| stat.threads));
    gauge("process_virtual_memory_bytes", "Virtual memory in bytes.", stat(|stat| stat.virtual_memory));
}

/// Fields of `/proc/self/stat` (proc_pid_stat(5)).
struct Stat {
    cpu_seconds: f64,
    threads: f64,
    virtual_memory: f64,
    resident: f64,
    started: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The name of the program may contain spaces and parentheses.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number.checked_sub(3)?)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / TICKS,
            threads: field(20)?,
            started: field(22)? / TICKS,
            virtual_memory: field(23)?,
            resident: field(24)? * rustix::param::page_size() as f64,
        })
    }
}

fn start_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(boot + Stat::read()?.started)
}

fn open_descriptors() -> Option<f64> {
    // One of them is the folder itself.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn max_descriptors() -> Option<f64> {
    getrlimit(Resource::Nofile).current.map(|limit| limit as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_of_programs_are_skipped() {
        let text = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 12345 4096 2 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.cpu_seconds, stat.threads, stat.started), (2.0, 9.0, 123.45));
        assert_eq!((stat.virtual_memory, stat.resident > 4096.0), (4096.0, true));
        assert!(Stat::parse("7 (a) S 1").is_none());
    }
}
