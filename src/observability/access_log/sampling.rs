//! `accessLog.sampling`: logs a part of the requests, by rates that expressions determine.

use tidegate_core::Request;

use super::error::SamplingError;
use super::filter::Filter;
use super::line::Entry;
use super::modes::Modes;
use crate::settings::AccessLogSampling;

/// Maximum number of rules, as each may have its own matchers.
const MAX_RULES: usize = 32;
/// 2^64 divided by the golden ratio: its multiples are spread evenly.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The rates, checked.
pub(super) struct Sampling {
    rules: Vec<(Filter, Rate)>,
    otherwise: Rate,
}

/// A part of the requests: those whose position is below it.
#[derive(Clone, Copy)]
struct Rate(u128);

impl Rate {
    fn new(rate: f64, option: impl FnOnce() -> String) -> Result<Self, SamplingError> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(SamplingError::Rate { option: option(), rate });
        }
        // 2^64, so that a rate of 1 is above every position.
        Ok(Self((rate * 18_446_744_073_709_551_616.0) as u128))
    }

    fn takes(self, position: u64) -> bool {
        u128::from(position) < self.0
    }
}

impl Sampling {
    pub(super) fn new(settings: &AccessLogSampling) -> Result<Self, SamplingError> {
        if settings.rules.len() > MAX_RULES {
            return Err(SamplingError::TooMany(MAX_RULES));
        }
        let mut rules = Vec::new();
        for (place, rule) in settings.rules.iter().enumerate() {
            let filter = Filter::parse(&rule.expression)
                .map_err(|source| SamplingError::Expression { number: place, source })?;
            rules.push((filter, Rate::new(rule.rate, || format!("rules[{place}].rate"))?));
        }
        Ok(Self { rules, otherwise: Rate::new(settings.rate, || "rate".to_owned())? })
    }

    /// Returns true if an expression needs headers.
    pub(super) fn needs_headers(&self) -> bool {
        self.rules.iter().any(|(filter, _)| filter.needs_headers())
    }

    /// Evaluates the matchers of the expressions.
    pub(super) fn ask(&self, request: &Request) -> Box<[u64]> {
        self.rules.iter().map(|(filter, _)| filter.ask(request)).collect()
    }

    /// Returns true if the line should be written. `facts` are the results of the matchers.
    pub(super) fn keeps(&self, entry: &Entry<'_>, modes: &Modes, facts: &[u64]) -> bool {
        let matching =
            self.rules.iter().zip(facts).find(|((filter, _), facts)| filter.keeps(entry, modes, **facts));
        let rate = matching.map_or(self.otherwise, |((_, rate), _)| *rate);
        rate.takes(position(entry))
    }
}

/// Returns the position of a request between 0 and 2^64. It follows from its identifier, so that gateways in a row log
/// the same requests, and otherwise from its number, so that the lines are spread evenly.
fn position(entry: &Entry<'_>) -> u64 {
    match entry.exchange.request_id() {
        Some(id) => mixed(fnv1a(id.as_bytes())),
        None => entry.count.wrapping_mul(GOLDEN),
    }
}

/// Returns the FNV-1a hash, which is the same in every process and version.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Spreads similar hashes (the finalizer of MurmurHash3).
fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}
