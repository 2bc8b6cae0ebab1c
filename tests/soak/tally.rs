//! What became of the requests, by kind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use super::clients::Kind;

/// How many different failures are kept per kind.
const MAX_FAILURES: usize = 20;

/// How a request ended.
pub enum Outcome {
    /// As expected, with every byte.
    Complete,
    /// The client has given up, as it was meant to.
    Aborted,
    /// Otherwise.
    Failed(String),
}

/// The requests of one kind.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Completed.
    pub complete: u64,
    /// Given up by the client.
    pub aborted: u64,
    /// Failed for another reason than the client's.
    pub failed: u64,
    /// How often each failure occurred.
    failures: BTreeMap<String, u64>,
}

/// The requests of all kinds.
#[derive(Default)]
pub struct Tally(Mutex<BTreeMap<Kind, Counts>>);

impl Tally {
    /// Counts a request.
    pub fn record(&self, kind: Kind, outcome: Outcome) {
        let mut all = self.0.lock().unwrap();
        let counts = all.entry(kind).or_default();
        match outcome {
            Outcome::Complete => counts.complete += 1,
            Outcome::Aborted => counts.aborted += 1,
            Outcome::Failed(why) => {
                counts.failed += 1;
                let number = counts.failures.len();
                let why = if number < MAX_FAILURES { why } else { "others".to_owned() };
                *counts.failures.entry(why).or_default() += 1;
            }
        }
    }

    /// Returns what was counted, and starts again.
    pub fn take(&self) -> BTreeMap<Kind, Counts> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Returns a table in Markdown, and a list of failures.
pub fn table(all: &BTreeMap<Kind, Counts>) -> String {
    let mut text =
        "| requests | complete | given up by the client | failed otherwise |\n|---|---:|---:|---:|\n"
            .to_owned();
    let mut sum = Counts::default();
    for (kind, counts) in all {
        let Counts { complete, aborted, failed, .. } = counts;
        writeln!(text, "| {} | {complete} | {aborted} | {failed} |", kind.name()).unwrap();
        sum.complete += complete;
        sum.aborted += aborted;
        sum.failed += failed;
    }
    writeln!(text, "| all | {} | {} | {} |", sum.complete, sum.aborted, sum.failed).unwrap();
    for (kind, counts) in all {
        for (why, number) in &counts.failures {
            writeln!(text, "\n- {}: {number} times {why}", kind.name()).unwrap();
        }
    }
    text
}

/// Returns the number of failures for which the client is not the reason.
pub fn failures(all: &BTreeMap<Kind, Counts>) -> u64 {
    all.values().map(|counts| counts.failed).sum()
}
