//! The CPU time of each thread, from `/proc`.
//!
//! Stacks are not sampled: a signal handler that walks them needs unsafe code, and the library for it (`pprof`) brings a
//! second version of `bitflags` and 17 crates. `perf record` samples a running gateway.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use super::pprof::Builder;

/// Nanoseconds per clock tick in `/proc` (`USER_HZ` is 100 on all architectures).
const TICK: i64 = 10_000_000;

/// CPU time of one thread in ticks.
#[derive(Clone, Copy, Default)]
struct Ticks {
    user: i64,
    system: i64,
}

/// Records for this long, and returns a profile with the time of each thread in user and system mode.
pub(super) async fn record(duration: Duration) -> Vec<u8> {
    let (begun, before) = (Instant::now(), threads());
    tokio::time::sleep(duration).await;
    let mut builder =
        Builder::new(&[("samples", "count"), ("cpu", "nanoseconds")], (("cpu", "nanoseconds"), TICK));
    for ((id, name), after) in threads() {
        let before = before.get(&(id, name.clone())).copied().unwrap_or_default();
        let thread = builder.named(&name);
        for (mode, ticks) in [("user", after.user - before.user), ("system", after.system - before.system)] {
            if ticks > 0 {
                let mode = builder.named(mode);
                builder.sample(vec![mode, thread], vec![ticks, ticks * TICK]);
            }
        }
    }
    builder.finish(begun.elapsed())
}

/// Returns the threads of this process by identifier and name.
fn threads() -> BTreeMap<(u32, String), Ticks> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let thread = |task: fs::DirEntry| {
        let id = task.file_name().to_str()?.parse().ok()?;
        let (name, ticks) = parse(&fs::read_to_string(task.path().join("stat")).ok()?)?;
        Some(((id, name), ticks))
    };
    tasks.filter_map(thread).collect()
}

/// Parses the name and the times of `/proc/self/task/*/stat` (proc_pid_stat(5)).
fn parse(stat: &str) -> Option<(String, Ticks)> {
    // The name may contain spaces and parentheses.
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let mut fields = after.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse().ok();
    Some((name, Ticks { user: next()?, system: next()? }))
}

/// Returns the resident memory in bytes; 0 if the system does not tell.
pub(super) fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_of_threads_are_read() {
        let (name, ticks) = parse("7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20").unwrap();
        assert_eq!((name.as_str(), ticks.user, ticks.system), ("a) b (c", 150, 50));
        assert!(parse("7 (a) S 1").is_none());
        assert!(!threads().is_empty());
    }
}
