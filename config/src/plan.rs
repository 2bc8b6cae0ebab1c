//! Plans: what consumers with the same contract have in common.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidegate_core::plan::{self, Anchor, Period, QuotaBucket, Unit};
use tidegate_core::values::Duration;
use tidegate_core::word::{Vocabulary, Word};
use tidegate_core::{BuildError, BuildErrors};
use tidegate_middlewares::rate_limit::policies::Policy;

/// Maximum length in bytes of names, groups and values, which may become headers.
const MAX_TEXT: usize = 1024;
/// Longest period, which keeps sums of times small.
const MAX_PERIOD: std::time::Duration = std::time::Duration::from_secs(10 * 366 * 24 * 3600);
/// Largest limit, which doubles count exactly.
const MAX_LIMIT: i64 = 1 << 50;

/// `http.plans.<name>`. Not in Traefik.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Plan {
    /// Groups that its consumers belong to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Labels of its consumers. Their own are preferred.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// How much each consumer may use in a period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// How fast each consumer may use something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Policy>,
}

/// A plan's `quota`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Quota {
    /// Number of units in a period.
    pub limit: i64,
    /// `day`, `week`, `month` or a duration.
    pub period: String,
    /// Where periods begin.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub anchor: Word<AnchorWord>,
    /// `UTC`, or an offset such as `+02:00`, for periods of the calendar.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub timezone: String,
    /// What is counted.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub unit: Word<UnitWord>,
    /// Who shares it.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub bucket: Word<BucketWord>,
}

/// The words of `anchor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnchorWord {
    /// Periods of the calendar.
    Calendar,
    /// From the first use.
    FirstUse,
}

impl Vocabulary for AnchorWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("calendar", Self::Calendar), ("firstUse", Self::FirstUse)];
}

/// The words of `unit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitWord(Unit);

impl Vocabulary for UnitWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("requests", Self(Unit::Requests)), ("bytes", Self(Unit::Bytes)), ("cost", Self(Unit::Cost))];
}

/// The words of `bucket`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketWord(QuotaBucket);

impl Vocabulary for BucketWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("consumer", Self(QuotaBucket::Consumer)), ("key", Self(QuotaBucket::Key))];
}

impl Plan {
    /// Returns the quota, if there is a valid one. [`Self::check`] has the mistakes.
    pub fn quota(&self) -> Option<plan::Quota> {
        self.quota.as_ref().and_then(|quota| quota.compile().ok())
    }

    /// Validates the options but `limits`, which have buckets and are compiled with them.
    ///
    /// # Errors
    ///
    /// All mistakes, by option.
    pub fn check(&self) -> Result<(), BuildError> {
        let mut errors = BuildErrors::default();
        for (at, group) in self.groups.iter().enumerate() {
            errors.extend(text_error(&format!("groups[{at}]"), group));
        }
        for (label, value) in &self.labels {
            errors.extend(text_error("labels", label));
            errors.extend(text_error(&format!("labels.{label}"), value));
        }
        let quota = self.quota.as_ref().map(Quota::compile).transpose();
        errors.check(quota.map_err(|error| error.map(|text| format!("quota.{text}"))));
        errors.finish()
    }
}

impl Quota {
    fn compile(&self) -> Result<plan::Quota, BuildError> {
        let mut errors = BuildErrors::default();
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            errors.add(format!("limit: expected a number from 1 to {MAX_LIMIT}"));
        }
        let period = errors.check(period(&self.period));
        let offset = errors.check(offset(&self.timezone));
        let word = |option: &str, error: tidegate_core::word::UnknownWord| {
            BuildError::new(format!("{option}: {error}"))
        };
        let anchor = errors.check(self.anchor.meaning().map_err(|error| word("anchor", error)));
        let unit = errors.check(self.unit.meaning().map_err(|error| word("unit", error)));
        let bucket = errors.check(self.bucket.meaning().map_err(|error| word("bucket", error)));
        let is_first_use = anchor.flatten() == Some(AnchorWord::FirstUse);
        if is_first_use && !self.timezone.is_empty() {
            errors.add("timezone: has no effect with `anchor: firstUse`".to_owned());
        }
        let made = period.zip(offset).map(|(period, offset)| plan::Quota {
            limit: u64::try_from(self.limit).unwrap_or(0),
            period,
            anchor: if is_first_use { Anchor::FirstUse } else { Anchor::Calendar(offset) },
            unit: unit.flatten().map_or(Unit::Requests, |word| word.0),
            bucket: bucket.flatten().map_or(QuotaBucket::Consumer, |word| word.0),
        });
        errors.made(made)
    }
}

fn period(text: &str) -> Result<Period, BuildError> {
    Ok(match text {
        "day" => Period::Day,
        "week" => Period::Week,
        "month" => Period::Month,
        other => {
            let invalid = || {
                let expected = "expected `day`, `week`, `month` or a duration of whole seconds such as `12h`";
                BuildError::new(format!("period: `{other}`: {expected}"))
            };
            let Duration(period) = other.parse().map_err(|_| invalid())?;
            if period.as_secs() == 0 || period.subsec_nanos() > 0 || period > MAX_PERIOD {
                return Err(invalid());
            }
            Period::Fixed(period)
        }
    })
}

/// Returns an offset in seconds.
fn offset(text: &str) -> Result<i32, BuildError> {
    let parse = || {
        let (sign, rest) = match text.strip_prefix('+') {
            Some(rest) => (1, rest),
            None => (-1, text.strip_prefix('-')?),
        };
        let (hours, minutes) = rest.split_once(':')?;
        let number = |text: &str, most: i32| {
            let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<i32>().ok().filter(|number| is_number && *number <= most)
        };
        Some(sign * (number(hours, 14)? * 3600 + number(minutes, 59)? * 60))
    };
    match text {
        "" | "UTC" => Ok(0),
        _ => parse().ok_or_else(|| {
            BuildError::new(format!("timezone: `{text}`: expected `UTC` or an offset such as `+02:00`"))
        }),
    }
}

/// Returns what is wrong with a text that may become part of a header.
pub(crate) fn text_error(path: &str, text: &str) -> Option<String> {
    match text {
        "" => Some(format!("{path}: is empty")),
        _ if text.len() > MAX_TEXT => Some(format!("{path}: longer than {MAX_TEXT} bytes")),
        _ if text.chars().any(char::is_control) => {
            Some(format!("{path}: control characters are not allowed"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(json: &str) -> Result<Option<plan::Quota>, BuildError> {
        let plan = serde_json::from_str::<Plan>(json).expect(json);
        plan.check().map(|()| plan.quota())
    }

    #[test]
    fn a_quota_is_read_with_its_defaults() {
        let plan =
            compile(r#"{"quota": {"limit": 10, "period": "month", "timezone": "-03:30"}}"#).expect("valid");
        let quota = plan.expect("a quota");
        assert_eq!((quota.limit, quota.period, quota.anchor), (10, Period::Month, Anchor::Calendar(-12_600)));
        assert_eq!((quota.unit, quota.bucket), (Unit::Requests, QuotaBucket::Consumer));
        let json = r#"{"quota": {"limit": 1, "period": "12h", "anchor": "firstUse", "unit": "bytes", "bucket": "key"}}"#;
        let quota = compile(json).expect("valid").expect("a quota");
        assert_eq!(quota.period, Period::Fixed(std::time::Duration::from_secs(43_200)));
        assert_eq!(
            (quota.anchor, quota.unit, quota.bucket),
            (Anchor::FirstUse, Unit::Bytes, QuotaBucket::Key)
        );
        assert!(compile("{}").expect("valid").is_none());
    }

    #[test]
    fn mistakes_are_named() {
        for (quota, expected) in [
            (r#"{"limit": 0, "period": "day"}"#, "quota.limit: expected a number from 1"),
            (r#"{"limit": 1, "period": "year"}"#, "quota.period: `year`: expected `day`"),
            (r#"{"limit": 1, "period": "0s"}"#, "quota.period: `0s`"),
            (r#"{"limit": 1, "period": "1500ms"}"#, "quota.period: `1500ms`"),
            (r#"{"limit": 1}"#, "quota.period: ``"),
            (r#"{"limit": 1, "period": "day", "timezone": "CET"}"#, "quota.timezone: `CET`: expected `UTC`"),
            (r#"{"limit": 1, "period": "day", "timezone": "+25:00"}"#, "quota.timezone: `+25:00`"),
            (r#"{"limit": 1, "period": "day", "unit": "hits"}"#, "quota.unit: `hits` is unknown"),
            (r#"{"limit": 1, "period": "day", "anchor": "x"}"#, "quota.anchor: `x` is unknown"),
            (r#"{"limit": 1, "period": "day", "bucket": "ip"}"#, "quota.bucket: `ip` is unknown"),
        ] {
            let error = compile(&format!(r#"{{"quota": {quota}}}"#)).expect_err(quota).to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
