//! When a name may be retried, by what went wrong. Survives restarts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Error, Kind};

/// Seconds of a day.
const DAY: u64 = 24 * 3600;
/// Maximum number of failing orders for one name per day.
const MAX_ORDERS: usize = 5;
/// Pauses after failed orders, in seconds.
const AFTER_ORDERS: [u64; 4] = [60, 600, 6_000, DAY];
/// Pauses after failures without an order: the authority is unreachable, or the problem is local.
const WITHOUT_ORDER: [u64; 6] = [2, 4, 8, 16, 32, 45];
/// Pauses after rate limits.
const LIMITED: [u64; 4] = [600, 3_600, 4 * 3_600, DAY];

/// The failures of names, and renewals that operators asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RetryState {
    /// By name.
    pub(crate) names: BTreeMap<String, Record>,
    /// Certificates, by their first name, that are to be renewed now.
    pub(crate) renew: Vec<String>,
}

/// The failures of one name since its last success.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// When orders were placed, in seconds since 1970.
    pub(crate) attempts: Vec<u64>,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Earliest time of the next attempt, in seconds since 1970.
    pub(crate) next: u64,
    /// Why the last one failed.
    pub(crate) error: String,
    /// The kind of that failure.
    pub(crate) kind: String,
}

impl RetryState {
    /// Returns when an order for these names may be placed, in seconds since 1970.
    pub(crate) fn allowed_at(&self, names: &[String], now: u64) -> u64 {
        names
            .iter()
            .filter_map(|name| self.names.get(name))
            .map(|record| record.allowed_at(now))
            .max()
            .unwrap_or(0)
    }

    /// Records an order before it is placed.
    pub(crate) fn begin(&mut self, names: &[String], now: u64) {
        for name in names {
            let record = self.names.entry(name.clone()).or_default();
            record.attempts.retain(|at| now.saturating_sub(*at) < DAY);
            record.attempts.push(now);
        }
    }

    /// Records that an order was not placed after all.
    pub(crate) fn was_not_placed(&mut self, names: &[String], begun: u64) {
        for name in names {
            if let Some(record) = self.names.get_mut(name)
                && let Some(place) = record.attempts.iter().rposition(|at| *at == begun)
            {
                record.attempts.remove(place);
            }
        }
    }

    /// Records a failure of the names to blame, and returns the time of the next attempt.
    pub(crate) fn fail(&mut self, names: &[String], error: &Error, placed: bool, now: u64) -> u64 {
        let blamed: Vec<&String> = names.iter().filter(|name| is_blamed(error, name)).collect();
        let blamed = if blamed.is_empty() { names.iter().collect() } else { blamed };
        let mut latest = 0;
        for name in blamed {
            let record = self.names.entry(name.clone()).or_default();
            record.next = now + pause(error, placed, record.failures).as_secs();
            record.failures = record.failures.saturating_add(1);
            record.error = error.message.clone();
            error.kind.as_str().clone_into(&mut record.kind);
            latest = latest.max(record.allowed_at(now));
        }
        latest
    }

    /// Records a success.
    pub(crate) fn succeed(&mut self, names: &[String]) {
        for name in names {
            self.names.remove(name);
        }
    }

    /// Removes names that are no longer wanted and whose last attempt was more than a day ago.
    pub(crate) fn prune(&mut self, is_wanted: impl Fn(&str) -> bool, now: u64) {
        self.names.retain(|name, record| {
            is_wanted(name) || record.attempts.last().is_some_and(|at| now.saturating_sub(*at) < DAY)
        });
    }

    /// Returns why these names have no certificate.
    pub(crate) fn error_of(&self, names: &[String]) -> Option<&Record> {
        let failed = names.iter().filter_map(|name| self.names.get(name));
        failed.filter(|record| !record.error.is_empty()).max_by_key(|record| record.next)
    }
}

impl Record {
    fn allowed_at(&self, now: u64) -> u64 {
        let recent: Vec<u64> =
            self.attempts.iter().copied().filter(|at| now.saturating_sub(*at) < DAY).collect();
        // A clock that was set back must not block a name for longer than a day.
        let next = self.next.min(now + DAY + DAY / 10);
        match recent.len().checked_sub(MAX_ORDERS) {
            Some(surplus) => next.max(recent[surplus] + DAY),
            None => next,
        }
    }
}

fn is_blamed(error: &Error, name: &str) -> bool {
    error
        .names
        .iter()
        .any(|blamed| blamed == name || name.strip_prefix("*.").is_some_and(|base| base == blamed))
}

/// Returns how long to wait after a failure that follows `before` others.
pub(super) fn pause(error: &Error, placed: bool, before: u32) -> Duration {
    let at = |steps: &[u64]| steps[(before as usize).min(steps.len() - 1)];
    let seconds = match error.kind {
        Kind::RateLimited => match error.retry_after {
            Some(asked) => asked.as_secs().max(60),
            None => at(&LIMITED),
        },
        _ if placed => at(&AFTER_ORDERS),
        Kind::Refused => at(&AFTER_ORDERS),
        Kind::Network | Kind::Dns | Kind::Local => at(&WITHOUT_ORDER),
    };
    let asked = error.retry_after.map_or(0, |asked| asked.as_secs().min(DAY));
    // Jitter of a tenth, so that replicas and names do not retry all at once; never sooner than asked.
    let jitter = 0.9 + fastrand::f64() * 0.2;
    let jittered = if seconds >= DAY {
        seconds as f64 * (1.0 + fastrand::f64() * 0.05)
    } else {
        seconds as f64 * jitter
    };
    Duration::from_secs_f64(jittered.max(asked as f64).max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Orders within the first day for an error that comes every time.
    fn orders(error: &Error, placed: bool) -> usize {
        let (mut retry_state, mut now, names) = (RetryState::default(), 1_000_000, names(&["a.test"]));
        let mut count = 0;
        while now < 1_000_000 + DAY {
            retry_state.begin(&names, now);
            count += usize::from(placed);
            if !placed {
                retry_state.was_not_placed(&names, now);
            }
            // Simulates a crash.
            let text = serde_json::to_string(&retry_state).unwrap();
            retry_state = serde_json::from_str(&text).unwrap();
            retry_state.fail(&names, error, placed, now);
            now = retry_state.allowed_at(&names, now).max(now + 1);
        }
        count
    }

    #[test]
    fn a_name_that_fails_costs_few_orders_a_day() {
        for error in [Error::refused("no"), Error::dns("no"), Error::network("no"), Error::local("no")] {
            let count = orders(&error, true);
            assert!((3..=MAX_ORDERS).contains(&count), "{error}: {count}");
        }
    }

    #[test]
    fn kills_while_ordering_cost_few_orders_too() {
        let (mut retry_state, names) = (RetryState::default(), names(&["a.test"]));
        for _ in 0..MAX_ORDERS {
            assert!(retry_state.allowed_at(&names, 5000) <= 5000);
            retry_state.begin(&names, 5000);
        }
        assert_eq!(retry_state.allowed_at(&names, 5000), 5000 + DAY);
    }

    #[test]
    fn an_authority_that_is_away_is_asked_again_soon() {
        for before in 0..100 {
            let pause = pause(&Error::network("refused"), false, before);
            assert!(pause <= Duration::from_secs(50), "{pause:?}");
        }
        assert_eq!(orders(&Error::network("refused"), false), 0);
    }

    #[test]
    fn what_the_authority_asks_for_is_kept() {
        let mut limited = Error::new(Kind::RateLimited, "less");
        limited.retry_after = Some(Duration::from_secs(7200));
        assert!(pause(&limited, false, 0) >= Duration::from_secs(7200));
        limited.retry_after = None;
        assert!(pause(&limited, false, 0) >= Duration::from_secs(500));
    }

    #[test]
    fn only_the_names_that_failed_wait() {
        let mut retry_state = RetryState::default();
        let both = names(&["good.test", "bad.test"]);
        retry_state.begin(&both, 1000);
        retry_state.fail(&both, &Error::refused("no").of("bad.test"), true, 1000);
        assert!(retry_state.allowed_at(&names(&["good.test"]), 1000) <= 1000);
        assert!(retry_state.allowed_at(&both, 1000) > 1040);
        assert_eq!(retry_state.error_of(&both).unwrap().error, "no");
        retry_state.succeed(&both);
        assert_eq!(retry_state, RetryState::default());
    }
}
