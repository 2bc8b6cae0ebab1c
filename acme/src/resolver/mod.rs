//! One certificate resolver: compares wanted names with stored certificates, and orders what is missing.

mod outcome;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use instant_acme::CertificateIdentifier;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Hold;
use super::account::{self, Account};
use super::authority::Server;
use super::backoff::RetryState;
use super::challenge::Prover;
use super::client::Http;
use super::error::Error;
use super::handshakes::Configuration;
use super::managed::ManagedCertificate;
use super::names::{Wanted, names_of, refuse};
use super::on_demand::{Demand, OnDemand};
use super::order::{self, Issued, Request};
use super::renewal::{self, Suggestion};
use super::shared::{Row, Shared};
use super::storage::{Change, Storage, StoredAccount};
use crate::options::Acme;

/// Interval of checking the storage and planning again.
const TICK: Duration = Duration::from_secs(5);
/// Maximum number of concurrent jobs.
const MAX_JOBS: usize = 10;
/// Interval of retrying to store what could not be stored.
const STORE_AGAIN: Duration = Duration::from_secs(30);
/// Interval of asking whether an on-demand name is still allowed.
const ASK_AGAIN: time::Duration = time::Duration::hours(1);
/// Interval of warnings about a certificate that is about to expire.
const WARN_AGAIN: time::Duration = time::Duration::days(1);

/// What a resolver works with.
pub(super) struct Parts {
    pub(super) name: Arc<str>,
    pub(super) options: Arc<Acme>,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) prover: Arc<dyn Prover>,
    pub(super) shared: Arc<Shared>,
    pub(super) configuration: Arc<dyn Configuration>,
    pub(super) generation: watch::Receiver<u64>,
    /// Names that handshakes asked for.
    pub(super) demands: mpsc::Receiver<Demand>,
    /// Decides which of them are allowed, and keeps the queue open.
    pub(super) on_demand: Arc<OnDemand>,
    /// Keeps clients waiting until what is stored is served.
    pub(super) hold: Option<Hold>,
}

/// A resolver.
pub(super) struct Resolver {
    parts: Parts,
    wanted: Vec<Wanted>,
    /// The generation of the configuration that `wanted` is of.
    read: Option<u64>,
    demanded: BTreeSet<String>,
    asked: Asked,
    /// Certificates have changed since they were last served.
    dirty: bool,
    held: Vec<ManagedCertificate>,
    stored_account: Option<StoredAccount>,
    retry_state: RetryState,
    /// This gateway orders, and has read the retry state of its predecessor.
    leads: bool,
    authority: Authority,
    /// Failures in a row to reach the authority, and the reason of the last one.
    away: (u32, String),
    jobs: JoinSet<Done>,
    in_flight: HashSet<String>,
    /// Changes that could not be stored yet, and when to try again.
    unsaved: (Vec<Change>, Option<tokio::time::Instant>),
    /// Why the storage cannot be used; set until it has been read.
    unusable: Option<String>,
    /// Why the last read failed.
    unread: Option<String>,
    /// Problems with stored certificates.
    flaws: Vec<String>,
    told: HashSet<String>,
}

/// Wanted names, indexed.
#[derive(Default)]
struct Asked {
    names: HashSet<String>,
    /// The parents of the names.
    parents: HashSet<String>,
}

impl Asked {
    fn of<'a>(names: impl Iterator<Item = &'a String>) -> Self {
        let names: HashSet<String> = names.cloned().collect();
        let parents = names.iter().filter_map(|name| Some(name.split_once('.')?.1.to_owned())).collect();
        Self { names, parents }
    }

    /// True if a certificate for this name is useful.
    fn contains(&self, name: &str) -> bool {
        self.names.contains(name) || name.strip_prefix("*.").is_some_and(|base| self.parents.contains(base))
    }
}

/// The state of the connection with the authority.
enum Authority {
    /// To be opened, not before this time (seconds since 1970).
    Closed {
        next: u64,
        register: bool,
    },
    Opening,
    Open(Arc<Account>),
}

/// The outcome of a job.
enum Done {
    Opened(Result<(Account, Option<StoredAccount>), Error>),
    Ordered { names: Vec<String>, begun: u64, outcome: Result<Issued, Failure> },
    Suggested { id: CertificateIdentifier<'static>, outcome: Result<Option<Suggestion>, Error> },
    Allowed { name: String, allowed: bool },
}

/// An order that failed.
struct Failure {
    error: Error,
    /// The authority accepted the order, so it counts.
    placed: bool,
}

impl Resolver {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            wanted: Vec::new(),
            read: None,
            demanded: BTreeSet::new(),
            asked: Asked::default(),
            dirty: false,
            held: Vec::new(),
            stored_account: None,
            retry_state: RetryState::default(),
            leads: false,
            authority: Authority::Closed { next: 0, register: false },
            away: (0, String::new()),
            jobs: JoinSet::new(),
            in_flight: HashSet::new(),
            unsaved: (Vec::new(), None),
            unusable: Some("not read yet".to_owned()),
            unread: None,
            flaws: Vec::new(),
            told: HashSet::new(),
        }
    }

    /// Runs until the gateway stops.
    pub(super) async fn run(mut self) {
        let mut news = self.parts.storage.news();
        self.load().await;
        self.follow_leader().await;
        loop {
            let wake = self.plan().await;
            self.parts.hold = None;
            let told = async {
                let heard = match &mut news {
                    Some(news) => news.changed().await.is_ok(),
                    None => false,
                };
                if !heard {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                changed = self.parts.generation.changed() => if changed.is_err() { return },
                Some(done) = self.jobs.join_next() => {
                    self.take(done).await;
                    // One plan for all jobs that are done.
                    while let Some(done) = self.jobs.try_join_next() {
                        self.take(done).await;
                    }
                }
                Some(Demand(name)) = self.parts.demands.recv() => self.demand(name),
                () = told => {
                    // The storage works: retry at once.
                    self.unsaved.1 = None;
                    self.look_at_storage().await;
                }
                () = tokio::time::sleep(wake) => self.look_at_storage().await,
            }
        }
    }

    /// Reads the storage. Reports what cannot be used, once.
    pub(super) async fn load(&mut self) {
        let mut stored = match self.parts.storage.load(&self.parts.name).await {
            Ok(stored) => stored,
            Err(error) => {
                let message = error.message;
                if self.unread.as_ref() != Some(&message) {
                    tracing::error!(
                        resolver = %self.parts.name,
                        "The ACME resolver is skipped from the resolvers list because: {message}"
                    );
                }
                if self.unusable.is_some() {
                    let row = Row::of_resolver(&self.parts.name, message.clone());
                    self.parts.shared.tell(&self.parts.name, vec![row]);
                    self.unusable = Some(message.clone());
                }
                self.unread = Some(message);
                return;
            }
        };
        self.unread = None;
        self.flaws.clear();
        if self.unusable.take().is_some() {
            self.retry_state = self.parts.storage.retry_state(&self.parts.name).await;
        }
        self.unsaved.0.iter().for_each(|change| stored.apply(change.clone()));
        if self.stored_account.is_some() && self.stored_account != stored.account {
            // Another process changed it.
            self.authority = Authority::Closed { next: 0, register: false };
        }
        self.stored_account = stored.account;
        let (now, hours) = (OffsetDateTime::now_utc(), self.parts.options.certificates_duration);
        let mut held = Vec::new();
        for certificate in stored.certificates.unwrap_or_default() {
            if let Some(place) = self.held.iter().position(|old| old.stored == certificate) {
                held.push(self.held.swap_remove(place));
                continue;
            }
            let names = names_of(&certificate.domain).join(", ");
            match ManagedCertificate::read(certificate, hours, now) {
                Ok(read) => held.push(read),
                Err(error) => {
                    tracing::error!(resolver = %self.parts.name, %names, %error, "a stored certificate cannot be used");
                    self.flaws.push(format!("the stored certificate of {names} cannot be used: {error}"));
                }
            }
        }
        self.held = held;
        self.dirty = true;
    }

    async fn look_at_storage(&mut self) {
        self.follow_leader().await;
        let Parts { storage, name, .. } = &self.parts;
        let changed = self.unusable.is_some() || self.unread.is_some() || storage.is_changed(name).await;
        for main in storage.take_renewals(name).await {
            tracing::info!(resolver = %self.parts.name, name = %main, "renewal was asked for");
            // An operator asked for it, so earlier failures do not delay it.
            self.retry_state.succeed(std::slice::from_ref(&main));
            for held in self.held.iter_mut().filter(|held| held.facts.names.contains(&main)) {
                self.retry_state.succeed(&held.facts.names);
                held.renew_now = true;
                self.dirty = true;
            }
        }
        if changed {
            self.load().await;
        }
        self.store_again().await;
        self.warn_of_ends();
    }

    /// Adopts the shared retry state while another gateway orders, and when this one takes over.
    async fn follow_leader(&mut self) {
        let Parts { storage, name, .. } = &self.parts;
        let leads = storage.leads();
        if storage.is_shared() && !(leads && self.leads) {
            self.retry_state = storage.retry_state(name).await;
        }
        self.leads = leads;
    }

    /// Serves the certificates.
    fn serve(&self) {
        let wanted: Vec<&Wanted> = self.wanted.iter().filter(|wanted| wanted.default).collect();
        let is_default = |held: &ManagedCertificate| {
            wanted.iter().any(|wanted| wanted.names.first().is_some_and(|name| held.facts.covers(name)))
        };
        let offers = self.held.iter().map(|held| held.offer(is_default(held))).collect();
        self.parts.shared.offer(&self.parts.name, offers);
    }

    /// Starts what is due, and returns the time until more may be due.
    async fn plan(&mut self) -> Duration {
        if self.unusable.is_some() {
            return TICK;
        }
        self.read_wanted();
        if std::mem::take(&mut self.dirty) {
            self.serve();
        }
        self.ask_again(OffsetDateTime::now_utc());
        let (now, seconds) = (OffsetDateTime::now_utc(), now());
        let mut wake = TICK;
        let mut ready = Vec::new();
        let mut seen: HashSet<String> = self.in_flight.clone();
        let leads = self.leads && self.parts.storage.leads();
        let missing = self.missing(now);
        self.parts.storage.lacks(if leads { Vec::new() } else { missing.clone() });
        let others = if leads { self.others_miss(now) } else { Vec::new() };
        for names in missing.into_iter().chain(others) {
            let names: Vec<String> = names.into_iter().filter(|name| !seen.contains(name)).collect();
            let allowed = self.retry_state.allowed_at(&names, seconds);
            if names.is_empty() {
                continue;
            }
            if allowed > seconds {
                wake = wake.min(Duration::from_secs(allowed - seconds));
                continue;
            }
            seen.extend(names.iter().cloned());
            ready.push(names);
        }
        let looks = self.looks(now);
        if leads && (!ready.is_empty() || !looks.is_empty()) {
            match &self.authority {
                Authority::Open(account) => {
                    let account = account.clone();
                    self.order(&account, ready, seconds).await;
                    self.look(&account, looks);
                }
                Authority::Closed { next, .. } if *next > seconds => {
                    wake = wake.min(Duration::from_secs(next - seconds));
                }
                Authority::Closed { register, .. } => self.open(*register),
                Authority::Opening => {}
            }
        }
        self.tell(now);
        wake
    }

    /// Asks whether names that were obtained on demand are still allowed, when their certificates are to be renewed.
    fn ask_again(&mut self, now: OffsetDateTime) {
        if !self.parts.on_demand.is_on() {
            return;
        }
        for place in 0..self.held.len() {
            let held = &self.held[place];
            let is_open = held.asked.is_none_or(|at| now - at > ASK_AGAIN) && held.due(now) <= now;
            if !is_open || self.is_used(held) {
                continue;
            }
            let (name, on_demand) = (held.facts.names.join(","), self.parts.on_demand.clone());
            self.held[place].asked = Some(now);
            self.jobs.spawn(async move {
                let allowed = on_demand.is_still_allowed(&name).await;
                Done::Allowed { name, allowed }
            });
        }
    }

    /// Reads what the current configuration asks for.
    fn read_wanted(&mut self) {
        let Some((generation, wanted)) = self.parts.configuration.wanted(&self.parts.name, self.read) else {
            return;
        };
        self.read = Some(generation);
        if wanted == self.wanted {
            return;
        }
        self.wanted = wanted;
        let dns = self.parts.options.dns_challenge.is_some();
        let mut told = HashSet::new();
        for wanted in self.wanted.iter().filter(|wanted| !wanted.reported) {
            for message in wanted.names.iter().filter_map(|name| refuse(name, dns)) {
                if !self.told.contains(&message) {
                    tracing::error!(resolver = %self.parts.name, router = %wanted.by, "{message}");
                }
                told.insert(message);
            }
        }
        self.told = told;
        self.index();
        let asked = &self.asked;
        self.retry_state.prune(|name| asked.names.contains(name), now());
        // Which of them is the default may have changed.
        self.dirty = true;
    }

    fn demand(&mut self, name: String) {
        self.demanded.insert(name);
        self.index();
    }

    fn index(&mut self) {
        let names = self.wanted.iter().flat_map(|wanted| &wanted.names).chain(&self.demanded);
        self.asked = Asked::of(names);
    }

    /// Returns sets of names without a certificate, each for one order.
    fn missing(&self, now: OffsetDateTime) -> Vec<Vec<String>> {
        let is_missing = |name: &&String| {
            let configured = || {
                let certificate = self.parts.configuration.configured(name);
                certificate.is_some_and(|der| super::certificate::is_valid(&der, now))
            };
            self.is_missing(name, now) && !configured()
        };
        let sets = self.wanted.iter().map(|wanted| wanted.names.iter().filter(is_missing).cloned().collect());
        let demanded = self.demanded.iter().filter(is_missing).map(|name| vec![name.clone()]);
        sets.chain(demanded).filter(|names: &Vec<String>| !names.is_empty()).collect()
    }

    /// Returns the same for gateways that leave ordering to this one.
    fn others_miss(&self, now: OffsetDateTime) -> Vec<Vec<String>> {
        let others = self.parts.storage.others_lack().into_iter();
        let sets = others.map(|names| {
            names.into_iter().filter(|name| self.is_missing(name, now)).collect::<Vec<String>>()
        });
        sets.filter(|names| !names.is_empty()).collect()
    }

    fn is_missing(&self, name: &str, now: OffsetDateTime) -> bool {
        let dns = self.parts.options.dns_challenge.is_some();
        refuse(name, dns).is_none() && !self.parts.shared.is_fresh(name, now)
    }

    /// True if the certificate is for a name that is still wanted.
    fn is_used(&self, held: &ManagedCertificate) -> bool {
        held.facts.names.iter().any(|name| self.asked.contains(name))
    }

    /// Returns the certificates whose renewal information is due.
    fn looks(&self, now: OffsetDateTime) -> Vec<CertificateIdentifier<'static>> {
        let due = self.held.iter().filter(|held| held.renewal.next_look <= now && self.is_used(held));
        due.filter_map(|held| held.facts.id.clone()).collect()
    }

    fn open(&mut self, register: bool) {
        self.authority = Authority::Opening;
        let (options, stored) = (self.parts.options.clone(), self.stored_account.clone());
        self.jobs.spawn(async move {
            let opening = async {
                let authority = options.clone();
                let http = super::blocking(move || Http::for_authority(&authority)).await?;
                let server = Server::open(http, &options.ca_server).await?;
                account::open(&options, Arc::new(server), stored.as_ref(), register).await
            };
            Done::Opened(opening.await)
        });
    }

    fn look(&mut self, account: &Arc<Account>, ids: Vec<CertificateIdentifier<'static>>) {
        let now = OffsetDateTime::now_utc();
        let room = MAX_JOBS.saturating_sub(self.jobs.len());
        for id in ids.into_iter().take(room) {
            for held in self.held.iter_mut().filter(|held| held.facts.id.as_ref() == Some(&id)) {
                held.renewal.look_later(now);
            }
            let account = account.clone();
            self.jobs.spawn(async move {
                let outcome = renewal::suggestion(&account, &id).await;
                Done::Suggested { id, outcome }
            });
        }
    }

    /// Places orders, up to the maximum number of jobs. Records them first, so that they count even if the process is
    /// killed.
    async fn order(&mut self, account: &Arc<Account>, ready: Vec<Vec<String>>, begun: u64) {
        account.server.http.close_idle();
        let room = MAX_JOBS.saturating_sub(self.jobs.len());
        let now: Vec<Vec<String>> = ready.into_iter().take(room).collect();
        if now.is_empty() {
            return;
        }
        now.iter().for_each(|names| self.retry_state.begin(names, begun));
        if !self.keep_ledger().await && self.parts.storage.is_shared() {
            // Another gateway may order by now; nothing must be ordered twice.
            now.iter().for_each(|names| self.retry_state.was_not_placed(names, begun));
            return;
        }
        for names in now {
            tracing::info!(resolver = %self.parts.name, names = %names.join(", "), "ordering a certificate");
            self.in_flight.extend(names.iter().cloned());
            let replaced =
                self.held.iter().filter(|held| names.iter().any(|name| held.facts.names.contains(name)));
            let request = Request {
                replaces: replaced
                    .max_by_key(|held| held.facts.not_after)
                    .and_then(|held| held.facts.id.clone()),
                names: names.clone(),
                options: self.parts.options.clone(),
                prover: self.parts.prover.clone(),
            };
            let account = account.clone();
            self.jobs.spawn(async move {
                let outcome = match order::place(&account, &request).await {
                    Err(error) => Err(Failure { error, placed: false }),
                    Ok(placed) => order::fulfil(&account, &request, placed)
                        .await
                        .map_err(|error| Failure { error, placed: true }),
                };
                Done::Ordered { names, begun, outcome }
            });
        }
    }
}

/// Returns the seconds since 1970.
fn now() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0)
}
