//! The storage in Consul that gateways share: one of them orders, all serve the certificates and present the
//! challenges.
//!
//! The leader, which orders, holds a lock in a session that ends unless it is renewed. Each of its writes is one
//! transaction on the condition that the lock is still held, so a late write changes nothing. `session` has the tasks,
//! `replica_cache` what is known, `migrate` what older versions wrote, `challenges` what is shown to the authority, and
//! `keys` the layout.

mod challenges;
mod keys;
mod migrate;
mod replica_cache;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_clients::consul::store::{
    Listing, MAX_BYTES, MAX_OPERATIONS, Operation, Options, Refusal, Store,
};
use tidegate_core::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::backoff::{Record, RetryState};
use super::certificate::Facts;
use super::challenge::Prover;
use super::cluster::{Leadership, Member};
use super::error::Error;
use super::file::FileStorage;
use super::managed::text;
use super::storage::{Change, Storage, Stored, StoredAccount, StoredCertificate};
use crate::options::Acme;
use challenges::{Looks, Remote, SharedProver};
pub use keys::places;
use keys::{Keys, read, write};
use replica_cache::{ReplicaCache, entry_of};
use session::Lease;

/// Timeout of the first read.
const FIRST_READING: Duration = Duration::from_secs(5);
/// Maximum size of the list of lacking names, in bytes; the rest follows once those have certificates.
const MAX_LACKING_BYTES: usize = 128 * 1024;

/// A storage in Consul, for one resolver.
#[derive(Clone)]
pub(crate) struct ConsulStorage(Arc<Inner>);

struct Inner {
    store: Store,
    keys: Keys,
    resolver: Arc<str>,
    /// The option `storage`.
    place: String,
    /// Machine and process: `machine:process`.
    node: String,
    since: String,
    cache: Option<FileStorage>,
    mirror: Mutex<ReplicaCache>,
    lease: Mutex<Lease>,
    /// Keys of older versions that could not be removed.
    kept: Mutex<BTreeSet<String>>,
    /// The retry state as the leader last wrote it.
    written: Mutex<BTreeMap<String, Record>>,
    /// Sets of names that this replica lacks.
    lacks: Mutex<Vec<Vec<String>>>,
    remote: Remote,
    news: watch::Sender<u64>,
    stir: Notify,
    look: Notify,
    looks: watch::Sender<Looks>,
    /// Current failures, by what they affect.
    troubles: Mutex<BTreeMap<&'static str, String>>,
    stopping: AtomicBool,
}

impl ConsulStorage {
    /// Creates the storage that these options name. Nothing is read yet.
    pub(super) fn new(
        options: &Acme,
        resolver: &str,
        prover: Option<Arc<dyn Prover>>,
    ) -> Result<Self, Error> {
        let (address, prefix) =
            options.consul_place().ok_or_else(|| Error::local("the storage is not in Consul"))?;
        let consul = &options.consul;
        let place = Options {
            address: address.to_owned(),
            token: consul.token.clone(),
            tls: consul.tls.clone(),
            datacenter: consul.datacenter.clone(),
        };
        let store = Store::new(&place).map_err(|error| Error::local(error.to_string()))?;
        let node = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Ok(Self(Arc::new(Inner {
            store,
            keys: Keys::new(prefix, resolver),
            resolver: Arc::from(resolver),
            place: options.storage.clone(),
            node: format!("{}:{}", node.trim(), std::process::id()),
            since: session::now(),
            cache: (!consul.cache.is_empty()).then(|| FileStorage::new(&consul.cache)),
            mirror: Mutex::default(),
            lease: Mutex::default(),
            kept: Mutex::default(),
            written: Mutex::default(),
            lacks: Mutex::default(),
            // DNS records need no presenting: everybody sees them.
            remote: Remote::new(prover.filter(|prover| prover.kind() != "dns-01")),
            news: watch::Sender::new(0),
            stir: Notify::new(),
            look: Notify::new(),
            looks: watch::Sender::new(Looks::default()),
            troubles: Mutex::default(),
            stopping: AtomicBool::new(false),
        })))
    }

    /// Starts to follow the store, and to lead when nobody else does.
    pub(super) fn start(&self, control: &Handle) {
        session::start(&self.0, control);
    }

    /// Hands the lead over to another gateway.
    pub(super) async fn stop(&self) {
        session::stop(&self.0).await;
    }

    /// Returns a prover that presents challenges at all replicas.
    pub(super) fn shared(&self, inner: Arc<dyn Prover>) -> Arc<dyn Prover> {
        match inner.kind() {
            "dns-01" => inner,
            _ => Arc::new(SharedProver { inner, storage: self.clone() }),
        }
    }

    /// Returns the leader and the members.
    pub(super) fn leadership(&self) -> Leadership {
        let inner = &self.0;
        let (own, leads) = {
            let lease = inner.lease.lock();
            (lease.id().map(str::to_owned), lease.leading().is_some())
        };
        let mirror = inner.mirror.lock();
        let live = mirror.live.as_ref();
        let leader = live.and_then(|live| live.leader.as_ref());
        let members = live.into_iter().flat_map(|live| &live.replicas).map(|(id, replica)| Member {
            id: id.clone(),
            node: replica.node.clone(),
            since: replica.since.clone(),
            leads: leader.is_some_and(|(session, _)| session == id),
            is_self: own.as_ref() == Some(id),
        });
        Leadership {
            resolver: inner.resolver.to_string(),
            storage: inner.place.clone(),
            leads,
            leader: leader.map(|(_, replica)| replica.node.clone()),
            since: leader.map(|(_, replica)| replica.since.clone()),
            members: members.collect(),
            error: inner.troubles.lock().values().next().cloned().unwrap_or_default(),
        }
    }

    /// Reads everything, outside of a gateway.
    pub(super) async fn read_by_hand(&self) -> Result<Stored, Error> {
        let inner = &self.0;
        let read = async {
            inner.read_all(true).await?;
            inner.adopt().await
        };
        read.await.map_err(|error: Error| error.at(&inner.place))?;
        Ok(inner.mirror.lock().stored("by hand"))
    }

    /// Asks for renewals outside of a gateway, and forgets earlier failures.
    pub(super) async fn renew_by_hand(&self, names: &[String]) -> Result<(), Error> {
        let inner = &self.0;
        let mut operations: Vec<Operation> =
            names.iter().take(MAX_OPERATIONS - 1).map(|name| delete(inner.keys.failure(name))).collect();
        let first = names.first().map_or("", String::as_str);
        operations.push(Operation::Set { key: inner.keys.renew(first), value: Vec::new() });
        inner.store.apply(&operations).await.map(|_| ()).map_err(error)
    }

    /// Changes data outside of a gateway.
    pub(super) async fn change_by_hand(&self, change: Change) -> Result<(), Error> {
        let (keys, mut old) = (&self.0.keys, Vec::new());
        let operations = match change {
            Change::Account(account) => {
                let listing = self.0.read(&keys.live()).await?;
                let index = entry_of(&listing, &keys.account()).map_or(0, |entry| entry.index);
                vec![Operation::Swap { key: keys.account(), value: write(&account)?, index }]
            }
            Change::Certificate { new, instead_of } => {
                old.extend(instead_of.iter().chain([&new.domain]).map(|domain| keys.certificate(domain)));
                self.0.replacing(&new, &instead_of)?
            }
            Change::Remove(domains) => {
                old.extend(domains.iter().map(|domain| keys.certificate(domain)));
                old.iter().cloned().map(delete).collect()
            }
        };
        self.0.store.apply(&operations).await.map_err(error)?;
        let old = self.0.mirror.lock().old_keys_of(&old);
        self.0.forget(&old).await;
        Ok(())
    }
}

impl Inner {
    /// Reads the keys below a prefix consistently, from the leader of Consul.
    async fn read(&self, prefix: &str) -> Result<Listing, Error> {
        Ok(self.store.read(prefix, true).await?)
    }

    /// Reads everything.
    async fn read_all(&self, consistent: bool) -> Result<(), Error> {
        let certificates = self.store.read(&self.keys.certificates(), consistent).await?;
        let live = self.store.read(&self.keys.live(), consistent).await?;
        {
            let mut mirror = self.mirror.lock();
            // The tasks that follow the store find out whether it is empty or has lost its data.
            if !certificates.entries.is_empty() || !mirror.has_certificates() {
                mirror.set_certificates(&certificates);
            }
        }
        self.take_live(&live).await;
        let failures = self.mirror.lock().live.as_ref().map(|live| live.failures.clone());
        *self.written.lock() = failures.unwrap_or_default();
        Ok(())
    }

    /// Runs a transaction on the condition that this gateway still leads, and returns the index of the change.
    async fn while_leading(&self, operations: impl FnOnce(&str) -> Vec<Operation>) -> Result<u64, Error> {
        let session = self.lease.lock().leading().map(str::to_owned);
        let session = session.ok_or_else(|| Error::local("another gateway orders now, or Consul is away"))?;
        let mut all = operations(&session);
        all.insert(0, Operation::CheckSession { key: self.keys.leader(), session });
        self.store.apply(&all).await.map_err(error)
    }

    /// Writes a certificate that replaces others.
    fn replacing(
        &self,
        new: &StoredCertificate,
        instead_of: &[crate::storage::Domain],
    ) -> Result<Vec<Operation>, Error> {
        let key = self.keys.certificate(&new.domain);
        let old: BTreeSet<String> = instead_of.iter().map(|domain| self.keys.certificate(domain)).collect();
        let old = old.into_iter().filter(|old| *old != key).take(MAX_OPERATIONS - 2).map(delete);
        let mut operations: Vec<Operation> = old.collect();
        operations.push(Operation::Set { key, value: write(new)? });
        Ok(operations)
    }

    async fn change(&self, change: Change) -> Result<(), Error> {
        if self.lease.lock().leading().is_none() {
            return self.change_late(change).await;
        }
        match change {
            Change::Account(account) => {
                let (key, value) = (self.keys.account(), write(&account)?);
                self.while_leading(|_| vec![Operation::Set { key, value }]).await?;
            }
            Change::Remove(domains) => {
                let gone: Vec<String> = domains.iter().map(|domain| self.keys.certificate(domain)).collect();
                let old = self.mirror.lock().old_keys_of(&gone);
                let index = self.while_leading(|_| gone.iter().cloned().map(delete).collect()).await?;
                self.mirror.lock().wrote(index, None, &gone);
                self.forget(&old).await;
            }
            Change::Certificate { new, instead_of } => {
                let operations = self.replacing(&new, &instead_of)?;
                let gone: Vec<String> =
                    instead_of.iter().map(|domain| self.keys.certificate(domain)).collect();
                let key = self.keys.certificate(&new.domain);
                let old = self.mirror.lock().old_keys_of(&[&gone[..], std::slice::from_ref(&key)].concat());
                let index = self.while_leading(|_| operations).await?;
                self.mirror.lock().wrote(index, Some((key, new)), &gone);
                self.forget(&old).await;
            }
        }
        Ok(())
    }

    /// Stores a certificate that was obtained while leading, unless a new leader has stored a newer one.
    async fn change_late(&self, change: Change) -> Result<(), Error> {
        let operation = match change {
            Change::Account(account) => {
                let value = write(&account)?;
                Operation::Swap { key: self.keys.account(), value, index: 0 }
            }
            Change::Certificate { new, .. } => {
                let key = self.keys.certificate(&new.domain);
                let listing = self.read(&key).await?;
                let known = entry_of(&listing, &key);
                let theirs = known.and_then(read::<StoredCertificate>).as_ref().and_then(end_of);
                if theirs.is_some() && theirs >= end_of(&new) {
                    return Ok(());
                }
                Operation::Swap { key, value: write(&new)?, index: known.map_or(0, |entry| entry.index) }
            }
            Change::Remove(_) => return Ok(()),
        };
        match self.store.apply(&[operation]).await {
            // Another gateway has written it, which counts.
            Ok(_) | Err(Refusal::Condition(_)) => Ok(()),
            Err(refusal) => Err(error(refusal)),
        }
    }

    /// Restores data that the store has lost, unless another gateway has. The account comes last, since its absence
    /// means that data is lost.
    async fn write_again(
        &self,
        certificates: Vec<(String, StoredCertificate)>,
        account: Option<StoredAccount>,
    ) -> Result<(), Error> {
        let mut lost = Vec::new();
        for (key, certificate) in certificates {
            lost.push(Operation::Swap { key, value: write(&certificate)?, index: 0 });
        }
        if let Some(account) = account {
            lost.push(Operation::Swap { key: self.keys.account(), value: write(&account)?, index: 0 });
        }
        for operation in lost {
            match self.store.apply(&[operation]).await {
                Ok(_) | Err(Refusal::Condition(_)) => {}
                Err(refusal) => return Err(error(refusal)),
            }
        }
        Ok(())
    }

    /// Writes the changes of the retry state.
    async fn keep_failures(&self, names: &BTreeMap<String, Record>) -> Result<(), Error> {
        let known = self.written.lock().clone();
        let mut changes = Vec::new();
        for (name, record) in names.iter().filter(|(name, record)| known.get(*name) != Some(record)) {
            let operation = Operation::Set { key: self.keys.failure(name), value: write(record)? };
            changes.push((name.clone(), Some(record.clone()), operation));
        }
        let gone = known.keys().filter(|name| !names.contains_key(*name));
        changes.extend(gone.map(|name| (name.clone(), None, delete(self.keys.failure(name)))));
        let mut rest = &changes[..];
        while !rest.is_empty() {
            let mut size = 0;
            let fits = rest.iter().take(MAX_OPERATIONS).take_while(|(_, _, operation)| {
                size += operation.size();
                size <= MAX_BYTES
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            self.while_leading(|_| now.iter().map(|(_, _, operation)| operation.clone()).collect()).await?;
            let mut written = self.written.lock();
            for (name, record, _) in now {
                match record {
                    Some(record) => written.insert(name.clone(), record.clone()),
                    None => written.remove(name),
                };
            }
            rest = later;
        }
        Ok(())
    }

    /// Wakes up the resolver.
    fn tell(&self) {
        self.news.send_modify(|count| *count += 1);
    }

    /// Records a failure, and logs it if it is new.
    fn failed(&self, what: &'static str, error: &dyn Display) {
        let mut troubles = self.troubles.lock();
        if troubles.is_empty() {
            tracing::error!(
                resolver = %self.resolver,
                storage = %self.place,
                "the shared storage is away; what there is keeps being served, nothing is ordered: {error}"
            );
        }
        troubles.insert(what, error.to_string());
    }

    fn worked(&self, what: &'static str) {
        let mut troubles = self.troubles.lock();
        if troubles.remove(what).is_some() && troubles.is_empty() {
            tracing::info!(resolver = %self.resolver, storage = %self.place, "the shared storage is back");
        }
    }

    /// Reads the copy on disk.
    async fn cached(&self, why: String) -> Result<Stored, Error> {
        let Some(cache) = self.cache.clone() else { return Err(Error::local(why)) };
        let resolver = self.resolver.clone();
        let read = super::blocking(move || {
            cache.read_existing().map(|mut whole| whole.remove(&*resolver).unwrap_or_default())
        });
        let stored = read.await.map_err(|error| error.at(&why))?;
        tracing::warn!(resolver = %self.resolver, "certificates are taken from the copy on disk: {why}");
        Ok(stored)
    }
}

impl Storage for ConsulStorage {
    fn load<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, Result<Stored, Error>> {
        Box::pin(async move {
            let inner = &self.0;
            if !inner.mirror.lock().is_complete() {
                let read = tokio::time::timeout(FIRST_READING, inner.read_all(false)).await;
                let late = |_| Err(Error::local(format!("no answer within {FIRST_READING:?}")));
                if let Err(error) = read.unwrap_or_else(late) {
                    inner.mirror.lock().overlooked(resolver);
                    return inner.cached(format!("{}: {error}", inner.place)).await;
                }
            }
            Ok(inner.mirror.lock().stored(resolver))
        })
    }

    fn change<'a>(&'a self, _: &'a str, change: Change) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.change(change))
    }

    fn retry_state<'a>(&'a self, _: &'a str) -> BoxFuture<'a, RetryState> {
        let names = match self.leads() {
            // It was read when the lock was acquired, and only this gateway changes it since.
            true => self.0.written.lock().clone(),
            false => self.0.mirror.lock().live.as_ref().map(|live| live.failures.clone()).unwrap_or_default(),
        };
        Box::pin(std::future::ready(RetryState { names, renew: Vec::new() }))
    }

    fn keep_ledger<'a>(
        &'a self,
        _: &'a str,
        retry_state: &'a RetryState,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.0.keep_failures(&retry_state.names))
    }

    fn take_renewals<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            let inner = &self.0;
            let asked = match &mut inner.mirror.lock().live {
                Some(live) if !live.renew.is_empty() => live.renew.clone(),
                _ => return Vec::new(),
            };
            let asked: Vec<String> = asked.into_iter().take(MAX_OPERATIONS).collect();
            let done = inner.while_leading(|_| asked.iter().map(|n| delete(inner.keys.renew(n))).collect());
            match done.await {
                Ok(_) => {
                    if let Some(live) = &mut inner.mirror.lock().live {
                        live.renew.retain(|name| !asked.contains(name));
                    }
                    asked
                }
                // The leader takes care of it.
                Err(_) => Vec::new(),
            }
        })
    }

    fn is_changed<'a>(&'a self, resolver: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(self.0.mirror.lock().is_changed(resolver)))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn leads(&self) -> bool {
        self.0.lease.lock().leading().is_some()
    }

    fn lacks(&self, sets: Vec<Vec<String>>) {
        let mut room = MAX_LACKING_BYTES;
        let fits = |names: &Vec<String>| {
            let size: usize = names.iter().map(|name| name.len() + 4).sum();
            room = room.saturating_sub(size);
            room > 0
        };
        let sets: Vec<Vec<String>> = sets.into_iter().take_while(fits).collect();
        let mut lacks = self.0.lacks.lock();
        if *lacks != sets {
            *lacks = sets;
            self.0.stir.notify_one();
        }
    }

    fn others_lack(&self) -> Vec<Vec<String>> {
        let own = self.0.lease.lock().id().map(str::to_owned);
        let mirror = self.0.mirror.lock();
        let replicas = mirror.live.iter().flat_map(|live| &live.replicas);
        let others = replicas.filter(|(id, _)| own.as_ref() != Some(id));
        others.flat_map(|(_, replica)| &replica.lacks).cloned().collect()
    }

    fn news(&self) -> Option<watch::Receiver<u64>> {
        Some(self.0.news.subscribe())
    }
}

fn delete(key: String) -> Operation {
    Operation::Delete { key }
}

fn error(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Condition(message) => {
            Error::local(format!("another gateway orders now, or has changed it: {message}"))
        }
        Refusal::Store(error) => Error::local(format!("Consul: {error}")),
    }
}

/// Returns when a certificate expires.
fn end_of(certificate: &StoredCertificate) -> Option<time::OffsetDateTime> {
    let chain = text(&certificate.certificate, "certificate").ok()?;
    Some(Facts::read(&chain).ok()?.not_after)
}
