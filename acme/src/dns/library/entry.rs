//! Entries of the table of providers, and the values of their variables.

use std::collections::BTreeMap;
use std::time::Duration;

use dns_update::DnsUpdater;
use tidegate_core::BoxFuture;

use super::super::variables::{Variables, missing};
use crate::error::Error;

/// Timeout of a request if lego has no variable for it.
const DEFAULT_REQUEST: Duration = Duration::from_secs(30);
/// Minimum length of a secret: shorter values occur in every text.
const MIN_SECRET: usize = 4;

/// A provider that the library implements.
pub(in super::super) struct Entry {
    /// Lego's names; the first is the current one.
    pub(in super::super) names: &'static [&'static str],
    /// The name of the service.
    pub(in super::super) title: &'static str,
    /// Prefixes of the variables with times: `HETZNER` for `HETZNER_TTL`.
    pub(in super::super) prefixes: &'static [&'static str],
    pub(in super::super) times: Times,
    pub(in super::super) variables: &'static [Variable],
    /// How the zone of a record is found.
    pub(super) zone: Zone,
    /// How many values a name may have.
    pub(super) values: Capacity,
    /// Whether the API may show texts in quotes, which the library does not expect: it would not find ours.
    pub(super) quotes: bool,
    pub(super) connect: Connect,
    /// How a change is tested.
    pub(in super::super) tested: Tested,
}

/// A variable of lego, with the names that are accepted for it.
pub(in super::super) enum Variable {
    /// Must be set.
    Required(&'static [&'static str]),
    /// May be set.
    Optional(&'static [&'static str]),
    /// Authenticates in a way that the library does not support: an error if the required variables are not set.
    Instead(&'static str),
    /// Changes something that the library cannot change: an error unless it has one of these values.
    Fixed(&'static str, &'static [&'static str]),
}

/// Defaults of the variables with times, in seconds.
#[derive(Clone, Copy)]
pub(in super::super) struct Times {
    /// Default TTL; zero if lego has no variable for it.
    pub(in super::super) ttl: u32,
    /// Minimum TTL.
    pub(in super::super) min_ttl: u32,
    pub(in super::super) propagation: u64,
    pub(in super::super) interval: u64,
    /// Timeout of a request; zero if lego has no variable for it.
    pub(in super::super) http: u64,
    /// Suffix of the variable for it.
    pub(in super::super) http_variable: &'static str,
}

/// How the zone of a record is found.
#[derive(Clone, Copy)]
pub(super) enum Zone {
    /// By its SOA record.
    Authority,
    /// As [`Self::Authority`], unless this variable names it.
    Named(&'static str),
    /// The name without `_acme-challenge.`.
    Host,
    /// The last labels of the name.
    Labels(usize),
    /// The provider finds it.
    Unused,
}

/// How many values a name may have at the same time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Capacity {
    Several,
    /// One.
    PerName,
    /// One for all names with the same last three labels.
    PerHost,
}

/// Creates the library's client.
#[derive(Clone, Copy)]
pub(super) enum Connect {
    /// Once.
    Once(fn(&Given) -> Result<DnsUpdater, Error>),
    /// For each change, with what the service has to be asked for first.
    EachTime(for<'a> fn(&'a Given) -> BoxFuture<'a, Result<DnsUpdater, Error>>),
}

/// How a provider is tested, beside its variables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Tested {
    /// Its client is created.
    Created,
    /// Certificates are obtained with a stand-in of its API.
    StandIn,
}

/// Creates an entry whose client needs nothing but the variables.
pub(super) const fn entry(
    names: &'static [&'static str],
    title: &'static str,
    prefixes: &'static [&'static str],
    times: Times,
    variables: &'static [Variable],
    connect: fn(&Given) -> Result<DnsUpdater, Error>,
) -> Entry {
    new(names, title, prefixes, times, variables, Connect::Once(connect))
}

/// Creates an entry whose client needs something that the service is asked for.
pub(super) const fn asking_entry(
    names: &'static [&'static str],
    title: &'static str,
    prefixes: &'static [&'static str],
    times: Times,
    variables: &'static [Variable],
    connect: for<'a> fn(&'a Given) -> BoxFuture<'a, Result<DnsUpdater, Error>>,
) -> Entry {
    new(names, title, prefixes, times, variables, Connect::EachTime(connect))
}

const fn new(
    names: &'static [&'static str],
    title: &'static str,
    prefixes: &'static [&'static str],
    times: Times,
    variables: &'static [Variable],
    connect: Connect,
) -> Entry {
    let (zone, values, quotes, tested) = (Zone::Authority, Capacity::Several, false, Tested::Created);
    Entry { names, title, prefixes, times, variables, zone, values, quotes, connect, tested }
}

impl Entry {
    /// Sets how the zone is found.
    pub(super) const fn zone(mut self, zone: Zone) -> Self {
        self.zone = zone;
        self
    }

    /// Sets how many values a name may have.
    pub(super) const fn values(mut self, values: Capacity) -> Self {
        self.values = values;
        self
    }

    /// Marks an entry whose API may show texts in quotes.
    pub(super) const fn with_quotes(mut self) -> Self {
        self.quotes = true;
        self
    }

    /// Marks an entry whose API has a stand-in in the tests.
    pub(super) const fn with_stand_in(mut self) -> Self {
        self.tested = Tested::StandIn;
        self
    }

    /// Returns the variables with times that have this suffix.
    pub(in super::super) fn timed(&self, suffix: &str) -> Vec<String> {
        self.prefixes.iter().map(|prefix| format!("{prefix}_{suffix}")).collect()
    }
}

/// Defaults for TTL, propagation, polling and requests, in seconds.
pub(super) const fn times(ttl: u32, propagation: u64, interval: u64, http: u64) -> Times {
    Times { ttl, min_ttl: 0, propagation, interval, http, http_variable: "HTTP_TIMEOUT" }
}

/// As [`times`], with a TTL that is the minimum, too.
pub(super) const fn at_least(ttl: u32, propagation: u64, interval: u64, http: u64) -> Times {
    Times { min_ttl: ttl, ..times(ttl, propagation, interval, http) }
}

/// The values of an entry's variables.
pub(super) struct Given {
    /// By the first name of each variable.
    values: BTreeMap<&'static str, String>,
    /// The timeout of a request.
    timeout: Duration,
}

impl Given {
    /// Reads the variables of an entry. The error names those that are missing or not supported.
    pub(super) fn read(entry: &Entry, variables: &Variables<'_>) -> Result<Self, Error> {
        let mut values = BTreeMap::new();
        let mut lacking: Vec<&[&str]> = Vec::new();
        let mut instead = Vec::new();
        for variable in entry.variables {
            match variable {
                Variable::Required(names) | Variable::Optional(names) => match variables.first(names) {
                    Some(value) => {
                        check_characters(names, &value)?;
                        values.insert(names[0], value);
                    }
                    None if matches!(variable, Variable::Required(_)) => lacking.push(names),
                    None => {}
                },
                Variable::Instead(name) => instead.extend(variables.first(&[name]).map(|_| *name)),
                Variable::Fixed(name, allowed) => check_fixed(name, allowed, variables)?,
            }
        }
        if !lacking.is_empty() {
            let mut error = missing(&lacking);
            if !instead.is_empty() {
                let names = instead.join(", ");
                error.message = format!("{names}: not supported for {}: {}", entry.names[0], error.message);
            }
            return Err(error);
        }
        let http = match entry.times.http {
            0 => DEFAULT_REQUEST,
            seconds => {
                let names = entry.timed(entry.times.http_variable);
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                variables.seconds(&names, seconds)?
            }
        };
        let timeout = if http.is_zero() { DEFAULT_REQUEST } else { http };
        Ok(Self { values, timeout })
    }

    /// Returns a value, or an empty text.
    pub(super) fn get(&self, name: &'static str) -> &str {
        self.optional(name).unwrap_or_default()
    }

    /// Returns a value if it is set.
    pub(super) fn optional(&self, name: &'static str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Returns a value as owned text if it is set.
    pub(super) fn owned(&self, name: &'static str) -> Option<String> {
        self.values.get(name).cloned()
    }

    /// Returns true for `true` and `1`.
    pub(super) fn is_true(&self, name: &'static str) -> bool {
        is_true(self.get(name))
    }

    /// Returns the timeout of a request.
    pub(super) fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }

    /// Returns what must not be shown: values of variables whose names say so, longest first.
    pub(super) fn secrets(&self) -> Vec<String> {
        let mut secrets = Vec::new();
        for (name, value) in self.values.iter().filter(|(name, _)| is_secret(name)) {
            secrets.push(value.clone());
            if name.ends_with("TOKENS") {
                secrets.extend(value.split([',', ':']).map(|part| part.trim().to_owned()));
            }
        }
        secrets.retain(|secret| secret.len() >= MIN_SECRET);
        let encoded = |secret: &String| url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let encoded: Vec<String> = secrets.iter().map(encoded).collect();
        secrets.extend(encoded);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        secrets
    }
}

/// Returns true for variables that hold secrets, and not the paths of files with them.
fn is_secret(name: &str) -> bool {
    let words = ["TOKEN", "KEY", "SECRET", "PASSWORD", "SERVICE_ACCOUNT", "PRIVKEY"];
    words.iter().any(|word| name.contains(word)) && !name.ends_with("_PATH")
}

/// Returns true for what Go parses as true.
fn is_true(value: &str) -> bool {
    matches!(value, "true" | "TRUE" | "True" | "1" | "t" | "T")
}

/// Values become headers, from which the library drops those with other characters.
fn check_characters(names: &[&str], value: &str) -> Result<(), Error> {
    // Keys in PEM and JSON are no headers.
    let is_document = value.contains("-----BEGIN") || value.trim_start().starts_with('{');
    match value.chars().any(|c| c.is_control()) && !is_document {
        true => Err(Error::local(format!(
            "{}: the value has a line break or another control character",
            names[0]
        ))),
        false => Ok(()),
    }
}

fn check_fixed(name: &str, allowed: &[&str], variables: &Variables<'_>) -> Result<(), Error> {
    let Some(value) = variables.first(&[name]) else { return Ok(()) };
    let value = value.trim_end_matches('/');
    if allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(value)) {
        return Ok(());
    }
    Err(Error::local(match allowed.first() {
        Some(default) => format!("{name}: `{value}` is not supported: expected `{default}`, or none"),
        None => format!("{name} is not supported: expected none"),
    }))
}
