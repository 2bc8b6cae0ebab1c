//! CPU time of processes, from `/proc`.

use std::time::Duration;

use anyhow::Context;

/// CPU time of processes so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    user: u64,
    system: u64,
    /// Whether any process is measured.
    measured: bool,
}

/// User and system time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl CpuTime {
    /// Reads the time of these processes and of their children, such as the workers of NGINX.
    pub(crate) fn read(processes: &[u32]) -> anyhow::Result<Self> {
        let mut total = Self { user: 0, system: 0, measured: !processes.is_empty() };
        let mut left = processes.to_vec();
        while let Some(id) = left.pop() {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
            let stat = stat.with_context(|| format!("cannot read the time of process {id}"))?;
            // The name, in parentheses, may contain anything.
            let fields: Vec<&str> =
                stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
            let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
            total.user += ticks(11).context("no utime in stat")?;
            total.system += ticks(12).context("no stime in stat")?;
            let tasks = format!("/proc/{id}/task/{id}/children");
            let children = std::fs::read_to_string(tasks).unwrap_or_default();
            left.extend(children.split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        Ok(total)
    }

    /// Returns the time since `before`, if anything is measured.
    pub(crate) fn since(&self, before: &Self) -> Option<Used> {
        let second = rustix::param::clock_ticks_per_second().max(1);
        let time =
            |now: u64, then: u64| Duration::from_secs_f64(now.saturating_sub(then) as f64 / second as f64);
        self.measured
            .then(|| Used { user: time(self.user, before.user), system: time(self.system, before.system) })
    }
}
