//! Providers that the library `dns-update` implements, under lego's names and with lego's variables.
//!
//! The library adds a value to the records of a name and removes it again, whatever the API of the provider is like.
//! What it leaves to us is here: which variables there are, that changes do not overlap, that they end in time, and
//! that messages show no secrets.

mod entry;
mod slots;
mod table_a_to_d;
mod table_e_to_m;
mod table_n_to_z;

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use dns_update::{DnsRecord, DnsRecordType, DnsUpdater};
use tidegate_clients::tls::TlsError;
use tidegate_core::BoxFuture;
use tokio::sync::Mutex;

use super::query::Resolvers;
use super::variables::Variables;
use super::{Patience, Provider, Record};
use crate::error::Error;
use entry::{Capacity, Connect, Given, Zone};
pub(super) use entry::{Entry, Tested, Variable};
use slots::Slots;

/// Timeout of a change, which is several requests.
const CHANGE: Duration = Duration::from_secs(300);
/// TTL of records of providers for which lego has no variable.
const DEFAULT_TTL: u32 = 120;
/// Default pause between two values of a name that holds one, in seconds.
pub(super) const SEQUENCE_INTERVAL: u64 = 60;
/// Labels of a host at a provider of dynamic names: `home.duckdns.org`.
const HOST_LABELS: usize = 3;

/// Serializes the changes at each provider: many read a set of records, or the whole zone, and write it back.
static CHANGES: LazyLock<HashMap<&'static str, Mutex<()>>> =
    LazyLock::new(|| entries().map(|entry| (entry.names[0], Mutex::default())).collect());

/// Claims to names that hold one value, of all resolvers.
static SLOTS: LazyLock<Slots> = LazyLock::new(Slots::default);

/// Returns all providers of the library.
pub(super) fn entries() -> impl Iterator<Item = &'static Entry> {
    [table_a_to_d::ENTRIES, table_e_to_m::ENTRIES, table_n_to_z::ENTRIES].into_iter().flatten()
}

/// Returns the provider with this name.
pub(super) fn find(name: &str) -> Option<&'static Entry> {
    entries().find(|entry| entry.names.contains(&name))
}

/// A provider of the library with the variables of a resolver.
pub(super) struct Library {
    entry: &'static Entry,
    given: Given,
    /// The client, unless it is created for each change.
    updater: Option<Box<DnsUpdater>>,
    /// The zone that a variable names.
    zone: Option<String>,
    ttl: u32,
    patience: Patience,
    /// Pause between two values of a name that holds one.
    pause: Duration,
    secrets: Vec<String>,
}

impl Library {
    /// Reads the variables of a provider.
    pub(super) fn new(entry: &'static Entry, variables: &Variables<'_>) -> Result<Self, Error> {
        let given = Given::read(entry, variables)?;
        let times = entry.times;
        let ttl = match times.ttl {
            0 => DEFAULT_TTL,
            default => variables.number(&borrowed(&entry.timed("TTL")), default)?,
        };
        if ttl < times.min_ttl {
            let name = entry.timed("TTL").remove(0);
            return Err(Error::local(format!(
                "{name}: {ttl} is too short: expected at least {}",
                times.min_ttl
            )));
        }
        let interval = variables.seconds(&borrowed(&entry.timed("POLLING_INTERVAL")), times.interval)?;
        let patience = Patience {
            timeout: variables.seconds(&borrowed(&entry.timed("PROPAGATION_TIMEOUT")), times.propagation)?,
            interval: interval.max(Duration::from_millis(100)),
        };
        let pause = match entry.values {
            Capacity::Several => Duration::ZERO,
            _ => variables.seconds(&borrowed(&entry.timed("SEQUENCE_INTERVAL")), SEQUENCE_INTERVAL)?,
        };
        let zone = match entry.zone {
            Zone::Named(name) => variables.first(&[name]).map(|zone| zone.trim_end_matches('.').to_owned()),
            _ => None,
        };
        let secrets = given.secrets();
        let updater = match entry.connect {
            Connect::Once(connect) => {
                require_roots()?;
                let created = connect(&given).map_err(|error| hidden(error, &secrets))?;
                Some(Box::new(created))
            }
            Connect::EachTime(_) => None,
        };
        Ok(Self { entry, given, updater, zone, ttl, patience, pause, secrets })
    }

    async fn updater(&self) -> Result<DnsUpdater, Error> {
        match (&self.updater, self.entry.connect) {
            (Some(updater), _) => Ok(DnsUpdater::clone(updater)),
            (None, Connect::Once(connect)) => {
                require_roots()?;
                connect(&self.given)
            }
            (None, Connect::EachTime(connect)) => {
                require_roots()?;
                connect(&self.given).await
            }
        }
    }

    /// Returns the zone of a record.
    async fn origin(&self, record: &Record, dns: &Resolvers) -> Result<String, Error> {
        let name = record.name.as_str();
        Ok(match self.entry.zone {
            Zone::Unused => String::new(),
            Zone::Host => name.strip_prefix("_acme-challenge.").unwrap_or(name).to_owned(),
            Zone::Labels(count) => last_labels(name, count).to_owned(),
            Zone::Authority | Zone::Named(_) => match &self.zone {
                Some(zone) => zone.clone(),
                None => dns.zone(name).await?,
            },
        })
    }

    /// Adds the value of a record, or removes it, and keeps all others.
    async fn change(&self, record: &Record, dns: &Resolvers, add: bool) -> Result<(), Error> {
        let origin = self.origin(record, dns).await?;
        let _one = match CHANGES.get(self.entry.names[0]) {
            Some(changes) => Some(changes.lock().await),
            None => None,
        };
        let value = || vec![DnsRecord::TXT(record.value.clone())];
        let quoted = self.entry.quotes.then(|| DnsRecord::TXT(format!("\"{}\"", record.value)));
        let (name, kind) = (record.name.as_str(), DnsRecordType::TXT);
        let change = async {
            let updater = self.updater().await?;
            // The library's futures are large.
            Box::pin(async {
                match (self.entry.values, add) {
                    (Capacity::Several, true) => {
                        updater.add_to_rrset(name, kind, self.ttl, value(), origin.as_str()).await
                    }
                    (Capacity::Several, false) => {
                        let values = value().into_iter().chain(quoted).collect();
                        updater.remove_from_rrset(name, kind, values, origin.as_str()).await
                    }
                    (_, true) => updater.set_rrset(name, kind, self.ttl, value(), origin.as_str()).await,
                    (_, false) => updater.set_rrset(name, kind, self.ttl, Vec::new(), origin.as_str()).await,
                }
            })
            .await
            .map_err(|error| self.explained(&error))
        };
        let done = tokio::time::timeout(CHANGE, change).await;
        done.unwrap_or_else(|_| Err(Error::dns(format!("not done after {CHANGE:?}"))))
            .map_err(|error| hidden(error, &self.secrets))
    }

    fn explained(&self, error: &dns_update::Error) -> Error {
        let required = self.entry.variables.iter().filter_map(|variable| match variable {
            Variable::Required(names) => Some(names[0]),
            _ => None,
        });
        match error {
            dns_update::Error::Unauthorized => {
                let names: Vec<&str> = required.collect();
                Error::dns(format!("the service refuses the credentials (401): {}", names.join(", ")))
            }
            _ => Error::dns(error.to_string()),
        }
    }

    /// Returns what claims to a name that holds one value are filed under.
    fn slot(&self, record: &Record) -> String {
        let host = match self.entry.values {
            Capacity::PerHost => last_labels(&record.name, HOST_LABELS),
            _ => record.name.as_str(),
        };
        format!("{} {host}", self.entry.names[0])
    }

    async fn set(&self, record: &Record, dns: &Resolvers) -> Result<(), Error> {
        if self.entry.values != Capacity::Several {
            let claimed = SLOTS.claim(&self.slot(record), record, self.pause + self.patience.timeout).await;
            claimed.map_err(|error| error.at(self.entry.title))?;
        }
        self.change(record, dns, true).await
    }

    async fn remove(&self, record: &Record, dns: &Resolvers) -> Result<(), Error> {
        if self.entry.values == Capacity::Several {
            return self.change(record, dns, false).await;
        }
        let slot = self.slot(record);
        // The value of another challenge stays.
        if !SLOTS.holds(&slot, record) {
            return Ok(());
        }
        let removed = self.change(record, dns, false).await;
        SLOTS.release(&slot, self.pause);
        removed
    }
}

impl Provider for Library {
    fn present<'a>(&'a self, record: &'a Record, dns: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.set(record, dns))
    }

    fn at_once(&self) -> usize {
        match self.entry.values {
            Capacity::Several => usize::MAX,
            Capacity::PerName | Capacity::PerHost => 1,
        }
    }

    fn clean_up<'a>(&'a self, record: &'a Record, dns: &'a Resolvers) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.remove(record, dns))
    }

    fn patience(&self) -> Patience {
        self.patience
    }
}

impl From<dns_update::Error> for Error {
    fn from(error: dns_update::Error) -> Self {
        Self::local(error.to_string())
    }
}

/// Fails without authorities to trust: the library's client panics then.
fn require_roots() -> Result<(), Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    match roots.is_empty() {
        true => Err(Error::local(TlsError::NoSystemRoots.to_string())),
        false => Ok(()),
    }
}

/// Replaces secrets in the message of an error: some providers expect them in the URL, and the library shows it.
fn hidden(mut error: Error, secrets: &[String]) -> Error {
    for secret in secrets {
        error.message = error.message.replace(secret.as_str(), "xxxx");
    }
    error
}

fn borrowed(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

/// Returns the last labels of a name.
fn last_labels(name: &str, count: usize) -> &str {
    name.rmatch_indices('.').nth(count - 1).map_or(name, |(at, _)| &name[at + 1..])
}

#[cfg(test)]
mod tests;
