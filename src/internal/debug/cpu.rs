//! Where the process spends CPU time: stacks that the system's timer for CPU time interrupts, by thread.

use std::fs;
use std::time::{Duration, Instant};

use ::pprof::{ProfilerGuard, ProfilerGuardBuilder};
use http::StatusCode;

use super::pprof::Builder;

/// Stacks per second of CPU time. Not a divisor of common intervals, so that work in step with them is seen, too.
const FREQUENCY: i32 = 99;
/// Nanoseconds of CPU time per stack.
const PERIOD: i64 = 1_000_000_000 / FREQUENCY as i64;
/// The innermost functions of each stack: those of the signal's handler.
const HANDLER: &str = "perf_signal_handler";

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub(super) enum CpuError {
    #[error("the timer for CPU time cannot be used: {0}")]
    Timer(#[from] ::pprof::Error),
    #[error("the profile cannot be written: {0}")]
    Failed(#[from] tokio::task::JoinError),
}

impl CpuError {
    /// Returns the status of the response.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::INTERNAL_SERVER_ERROR
    }
}

/// Records for this long, and returns a profile. There must be one call at a time. Dropping the future ends it.
pub(super) async fn record(duration: Duration) -> Result<Vec<u8>, CpuError> {
    let begun = Instant::now();
    // Reads the program, as finding the names of functions does.
    let start = || ProfilerGuardBuilder::default().frequency(FREQUENCY).build();
    let guard = tokio::task::spawn_blocking(start).await??;
    tokio::time::sleep(duration).await;
    Ok(tokio::task::spawn_blocking(move || convert(&guard, begun.elapsed())).await??)
}

/// Ends a recording and returns the profile.
fn convert(guard: &ProfilerGuard<'_>, took: Duration) -> Result<Vec<u8>, ::pprof::Error> {
    let report = guard.report().build_unresolved()?;
    let mut builder =
        Builder::new(&[("samples", "count"), ("cpu", "nanoseconds")], (("cpu", "nanoseconds"), PERIOD));
    builder.map_files(&fs::read_to_string("/proc/self/maps").unwrap_or_default());
    for (stack, count) in report.data {
        let thread = stack.thread_name.get(..stack.thread_name_length).unwrap_or_default();
        let thread = builder.named(&String::from_utf8_lossy(thread));
        let mut locations: Vec<u64> =
            stack.frames.iter().map(|frame| builder.return_address(frame.ip() as u64)).collect();
        let handler = locations.iter().rposition(|location| builder.is_named(*location, HANDLER));
        // Below the handler is the frame that the system enters it by.
        locations.drain(..handler.map_or(0, |handler| (handler + 2).min(locations.len())));
        locations.push(thread);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        builder.sample(locations, vec![count, count.saturating_mul(PERIOD)]);
    }
    Ok(builder.finish(took))
}

/// Returns the resident memory in bytes; 0 if the system does not tell.
pub(super) fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}
