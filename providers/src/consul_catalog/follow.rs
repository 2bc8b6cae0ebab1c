//! Follows a catalog: decides which services to fetch again, and when.
//!
//! Services whose tags or failing checks have changed are fetched immediately. When the list of services
//! changes, the list of all checks is compared, which reveals new instances. For changes that no check
//! reveals (an instance without a check, another port), all services are then swept. Check lists and sweeps
//! use at most a fifth of the time each, so that a large catalog that changes constantly does not cause a
//! flood of requests.
//!
//! A large agent needs a while to build the list of services. So the checks may be compared before the list
//! arrives: if any check has changed, an agent also answers the query for checks in a state that no check is
//! in, without changes.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tidegate_clients::consul::{Agent, AgentError, Query, backed_off};
use tidegate_clients::http::escape;
use tidegate_config::{Origin, Problem};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::connect::{Identity, Leaf, Roots};
use super::derive::Deriver;
use super::model::{Digests, Entry, Instance, Names};
use super::news::{News, Watch, send_responses};
use super::services::Services;
use super::trust::{Complaints, Distrusted, Topic, Trust};
use crate::throttle::Throttle;
use crate::workload::Keeper;
use crate::{Error, Session};

/// Maximum number of concurrent requests for services.
const MAX_CONCURRENT: usize = 8;
/// Number of changed services to fetch before other news is handled.
const CHUNK: usize = 64;
const SWEEP_CHUNK: usize = 16;
/// Delay before a sweep, for the agent and the gateway to handle the change that caused it.
const SWEEP_DELAY: Duration = Duration::from_millis(500);
/// Rest after a sweep, a comparison of checks or a delivery, as a multiple of its duration. The latter two
/// may follow each other until `CREDIT` of rest is due.
const REST: u32 = 4;
const CREDIT: Duration = Duration::from_secs(2);
const MAX_REST: Duration = Duration::from_secs(10);
/// States in which instances may get no requests. Each has its own query: with many checks, an agent answers
/// a query for all of them twenty times more slowly.
const FAILING_STATES: [&str; 2] = ["critical", "warning"];
/// Path of the list of all checks.
const ALL_CHECKS: &str = "/v1/health/state/any";
/// Delay of the comparison after a response without changes, unless another query has news by then.
const EARLY_DELAY: Duration = Duration::from_millis(10);
const QUIET_PERIOD: Duration = Duration::from_millis(50);
/// Rest after an early comparison, as a multiple of its duration.
const REST_AFTER_EARLY: u32 = 19;
/// Interval after which all services are fetched again.
const RESYNC: Duration = Duration::from_secs(300);
/// First delay after services could not be read.
const FIRST_DELAY: Duration = Duration::from_millis(500);

/// Failure to read a whole catalog.
#[derive(Debug, thiserror::Error)]
enum CatalogError {
    /// The agent does not respond, or responds with an error.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent lists no services, which is not plausible.
    #[error(transparent)]
    Distrusted(#[from] Distrusted),
}

/// A run of the provider.
pub(super) struct Run {
    agent: Arc<Agent>,
    deriver: Arc<Deriver>,
    trust: Arc<Trust>,
    session: Session,
    services: Services,
    /// The failing checks, by index of the state.
    unwell: [Option<Digests>; FAILING_STATES.len()],
    /// The checks in any state.
    registered: Option<Digests>,
    /// The parts of the identity in Connect, if enabled.
    roots: Option<Roots>,
    leaf: Option<Leaf>,
    identity: Option<Identity>,
    names_seen: bool,
    delivered: bool,
    /// Services to fetch first.
    urgent: BTreeSet<Arc<str>>,
    look_wanted: bool,
    look_throttle: Throttle,
    /// When to compare checks, because an unknown check has changed.
    stirred: Option<Instant>,
    calm_at: Instant,
    early_throttle: Throttle,
    /// The indexes of the last comparison of checks and of the last list of services.
    looked: u64,
    listed: u64,
    sweep: VecDeque<Arc<str>>,
    sweep_wanted: bool,
    sweep_begun: Instant,
    sweep_after: Instant,
    /// Number of consecutive failures to read services.
    failures: u32,
    retry_after: Instant,
    changed: bool,
    deliver_throttle: Throttle,
    /// Number of consecutive implausible lists of services, and when to fetch the list again: as it does not
    /// change, the agent does not report when it becomes plausible.
    distrusted: u32,
    ask_anew: Option<Instant>,
    complaints: Complaints,
}

impl Run {
    pub(super) fn new(
        agent: Arc<Agent>,
        deriver: Arc<Deriver>,
        keeper: Arc<Mutex<Keeper>>,
        trust: Arc<Trust>,
        session: Session,
    ) -> Self {
        let now = Instant::now();
        Self {
            agent,
            services: Services::new(deriver.clone(), keeper),
            deriver,
            trust,
            session,
            unwell: [None, None],
            registered: None,
            roots: None,
            leaf: None,
            identity: None,
            names_seen: false,
            delivered: false,
            urgent: BTreeSet::new(),
            look_wanted: false,
            look_throttle: Throttle::new(REST, CREDIT),
            stirred: None,
            calm_at: now,
            early_throttle: Throttle::new(REST_AFTER_EARLY, CREDIT),
            looked: 0,
            listed: 0,
            sweep: VecDeque::new(),
            sweep_wanted: false,
            sweep_begun: now,
            sweep_after: now,
            failures: 0,
            retry_after: now,
            changed: true,
            deliver_throttle: Throttle::new(REST, CREDIT),
            distrusted: 0,
            ask_anew: None,
            complaints: Complaints::default(),
        }
    }

    pub(super) async fn run(self) -> Result<(), Error> {
        if self.deriver.options.watch { self.watch().await } else { self.poll().await }
    }

    /// Polls at `refreshInterval`. After the first success, failures change nothing.
    async fn poll(mut self) -> Result<(), Error> {
        let interval = Duration::from(self.deriver.options.refresh_interval);
        loop {
            let pause = match self.read_all().await {
                Ok(()) => {
                    self.failures = 0;
                    self.resolve_problem(Topic::Services).await?;
                    self.deliver().await?;
                    interval.mul_f64(0.95 + fastrand::f64() * 0.1)
                }
                Err(error) if !self.delivered => return Err(Error::source(error)),
                Err(error) => {
                    self.failures += 1;
                    self.report_problem(Topic::Services, &error).await?;
                    backed_off(FIRST_DELAY, self.failures).min(interval)
                }
            };
            let next = Instant::now() + pause;
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(next) => break,
                    () = self.session.reload_asked() => break,
                    () = self.services.expiry() => self.deliver().await?,
                }
            }
        }
    }

    async fn read_all(&mut self) -> Result<(), CatalogError> {
        if self.deriver.options.connect_aware {
            let [roots, leaf] = self.connect_paths();
            let roots = self.agent.ask(&roots, "").await?;
            let leaf = self.agent.ask(&leaf, "").await?;
            (self.roots, self.leaf) = (roots.value, leaf.value);
            self.update_identity();
        }
        let names = self.agent.ask::<Names>("/v1/catalog/services", &self.query(true)).await?;
        self.handle_names(names.value.unwrap_or_default(), names.index).await?;
        self.urgent = self.services.names().collect();
        while !self.urgent.is_empty() {
            self.fetch_urgent().await?;
        }
        Ok(())
    }

    async fn watch(mut self) -> Result<(), Error> {
        let mut watch = self.watchers();
        let connect = self.deriver.options.connect_aware;
        let unseen = |run: &Self| !run.names_seen || run.unwell.iter().any(Option::is_none);
        while unseen(&self) || (connect && self.identity.is_none()) {
            match watch.news.recv().await {
                Some(News::Failed(_, error)) => return Err(Error::source(error)),
                Some(news) => self.handle_news(news).await?,
                None => return Err(Error::Source("the watchers have stopped".into())),
            }
        }
        self.urgent = self.services.names().collect();
        while !self.urgent.is_empty() {
            self.fetch_urgent().await.map_err(Error::source)?;
        }
        self.sweep_wanted = false;
        self.deliver().await?;
        // The current checks, to compare with.
        self.look_wanted = true;
        let mut resync = Instant::now() + RESYNC.mul_f64(0.9 + fastrand::f64() * 0.2);
        loop {
            while let Ok(news) = watch.news.try_recv() {
                self.handle_news(news).await?;
            }
            let now = Instant::now();
            if now >= resync {
                self.sweep_wanted = true;
                resync = now + RESYNC.mul_f64(0.9 + fastrand::f64() * 0.2);
            }
            if self.ask_anew.is_some_and(|at| now >= at) {
                self.ask_anew = None;
                watch = self.watchers();
            }
            let worked = self.work(now).await?;
            if self.changed && Instant::now() >= self.deliver_throttle.next() {
                self.deliver().await?;
            }
            if worked {
                continue;
            }
            tokio::select! {
                news = watch.news.recv() => match news {
                    Some(news) => self.handle_news(news).await?,
                    None => return Err(Error::Source("the watchers have stopped".into())),
                },
                () = tokio::time::sleep_until(self.next_work().min(resync)) => {}
                () = self.services.expiry() => self.changed = true,
                () = self.session.reload_asked() => {
                    self.urgent = self.services.names().collect();
                }
            }
        }
    }

    fn watchers(&self) -> Watch {
        let (news, told) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        let (agent, news) = (|| self.agent.clone(), || news.clone());
        let names = Query::new("/v1/catalog/services", self.query(true));
        tasks.spawn(send_responses(agent(), names, news(), Topic::Names, News::Names));
        if self.deriver.options.connect_aware {
            let [roots, leaf] = self.connect_paths().map(|path| Query::new(path, ""));
            tasks.spawn(send_responses(agent(), roots, news(), Topic::Roots, |roots, _| News::Roots(roots)));
            tasks.spawn(send_responses(agent(), leaf, news(), Topic::Leaf, |leaf, _| News::Leaf(leaf)));
        }
        let unwell: [fn(Digests, u64) -> News; FAILING_STATES.len()] =
            [|checks, _| News::Unwell(0, checks), |checks, _| News::Unwell(1, checks)];
        for (number, (state, kind)) in FAILING_STATES.iter().zip(unwell).enumerate() {
            let query = Query::new(format!("/v1/health/state/{state}"), self.query(false));
            tasks.spawn(send_responses(agent(), query, news(), Topic::Unwell(number), kind));
        }
        Watch { news: told, _tasks: tasks }
    }

    /// Returns the paths of the roots and the gateway's certificate.
    fn connect_paths(&self) -> [String; 2] {
        let name = escape(&self.deriver.options.service_name);
        ["/v1/agent/connect/ca/roots".into(), format!("/v1/agent/connect/ca/leaf/{name}")]
    }

    /// Updates the identity and marks all Connect services to be derived again.
    fn update_identity(&mut self) {
        let (Some(roots), Some(leaf)) = (&self.roots, &self.leaf) else { return };
        let identity = Identity::new(roots, leaf);
        if identity.is_none() || identity == self.identity {
            return;
        }
        self.identity = identity;
        let earlier = self.session.delivered();
        self.changed |= self.services.secure(self.identity.as_ref(), &earlier);
    }

    /// Returns the query parameters. The agent's cache is used only if no newer data is expected.
    fn query(&self, cached: bool) -> String {
        let options = &self.deriver.options;
        let chosen = [
            (options.stale, "stale"),
            (options.require_consistent, "consistent"),
            (options.cache && cached && !options.require_consistent, "cached"),
        ];
        chosen.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect::<Vec<_>>().join("&")
    }

    async fn handle_news(&mut self, news: News) -> Result<(), Error> {
        let topic = match news {
            News::Failed(topic, error) => return self.report_problem(topic, &error).await,
            News::Names(names, index) => {
                if let Err(error) = self.handle_names(names, index).await {
                    if !self.names_seen {
                        return Err(Error::source(error));
                    }
                    self.distrusted += 1;
                    self.ask_anew = Some(Instant::now() + backed_off(FIRST_DELAY, self.distrusted));
                    return self.report_problem(Topic::Doubt, &error).await;
                }
                self.distrusted = 0;
                self.resolve_problem(Topic::Doubt).await?;
                Topic::Names
            }
            News::Unwell(state, digests) => {
                self.handle_failing(state, digests);
                Topic::Unwell(state)
            }
            News::Roots(roots) => {
                self.roots = Some(roots);
                self.update_identity();
                Topic::Roots
            }
            News::Leaf(leaf) => {
                self.leaf = Some(leaf);
                self.update_identity();
                Topic::Leaf
            }
        };
        self.resolve_problem(topic).await
    }

    async fn handle_names(&mut self, names: Names, index: u64) -> Result<(), Distrusted> {
        self.trust.check(&self.agent, &names).await?;
        self.names_seen = true;
        let (changed, has_lost) = self.services.list(names);
        self.changed |= has_lost;
        self.urgent.extend(changed);
        if !self.sweep_wanted {
            self.sweep_after = self.sweep_after.max(Instant::now() + SWEEP_DELAY);
        }
        if index < self.listed {
            // Consul was reinstalled.
            self.looked = 0;
        }
        self.listed = index;
        self.look_wanted |= index > self.looked;
        self.sweep_wanted = true;
        Ok(())
    }

    fn handle_failing(&mut self, state: usize, digests: Digests) {
        if let Some(before) = &self.unwell[state] {
            let (services, nodes) = before.differing(&digests);
            let now = Instant::now();
            if !services.is_empty() || !nodes.is_empty() {
                self.services.mark(&mut self.urgent, &services, &nodes);
                (self.stirred, self.calm_at) = (None, now + QUIET_PERIOD);
            } else if now >= self.calm_at {
                self.stirred.get_or_insert(now + EARLY_DELAY);
            }
        }
        self.unwell[state] = Some(digests);
    }

    /// Compares the list of checks: services whose checks differ have other instances.
    async fn compare_checks(&mut self) -> Result<(), AgentError> {
        let begun = Instant::now();
        let checks = self.agent.ask::<Digests>(ALL_CHECKS, &self.query(false)).await?;
        let registered = checks.value.unwrap_or_default();
        if let Some(before) = &self.registered {
            let (services, _) = before.differing(&registered);
            self.services.mark(&mut self.urgent, &services, &HashSet::new());
        }
        self.registered = Some(registered);
        self.looked = checks.index;
        (self.look_wanted, self.stirred) = (false, None);
        self.look_throttle.spent(begun.elapsed(), MAX_REST);
        Ok(())
    }

    /// Fetches part of what is due. Returns false if nothing is due.
    async fn work(&mut self, now: Instant) -> Result<bool, Error> {
        if now < self.retry_after {
            return Ok(false);
        }
        let outcome = if !self.urgent.is_empty() {
            self.fetch_urgent().await
        } else if self.look_wanted && now >= self.look_throttle.next() {
            self.compare_checks().await
        } else if self.may_look_early(now) {
            let looked = self.compare_checks().await;
            self.early_throttle.spent(now.elapsed(), MAX_REST);
            looked
        } else if self.begin_sweep(now) {
            self.fetch_sweep().await
        } else {
            return Ok(false);
        };
        match outcome {
            Ok(()) => {
                self.failures = 0;
                self.resolve_problem(Topic::Services).await?;
            }
            Err(error) => {
                self.failures += 1;
                self.retry_after = Instant::now() + backed_off(FIRST_DELAY, self.failures);
                self.report_problem(Topic::Services, &error).await?;
            }
        }
        Ok(true)
    }

    /// Returns true if an early comparison is due and affordable.
    fn may_look_early(&mut self, now: Instant) -> bool {
        let due = self.stirred.take_if(|at| now >= *at).is_some();
        due && now >= self.look_throttle.next().max(self.early_throttle.next())
    }

    /// Returns when [`Run::work`] has something to do again, unless there is news before.
    fn next_work(&self) -> Instant {
        let mut next = self.ask_anew.unwrap_or_else(|| Instant::now() + RESYNC);
        if self.changed {
            next = next.min(self.deliver_throttle.next());
        }
        if !self.urgent.is_empty() || !self.sweep.is_empty() {
            next = next.min(self.retry_after);
        } else if self.sweep_wanted {
            next = next.min(self.sweep_after.max(self.retry_after));
        }
        if let Some(at) = self.stirred {
            next = next.min(at);
        }
        if self.look_wanted {
            next = next.min(self.look_throttle.next().max(self.retry_after));
        }
        next
    }

    fn begin_sweep(&mut self, now: Instant) -> bool {
        if self.sweep.is_empty() && self.sweep_wanted && now >= self.sweep_after {
            self.sweep = self.services.names().collect();
            (self.sweep_wanted, self.sweep_begun) = (false, now);
        }
        !self.sweep.is_empty()
    }

    async fn fetch_urgent(&mut self) -> Result<(), AgentError> {
        let names: Vec<Arc<str>> = self.urgent.iter().take(CHUNK).cloned().collect();
        self.fetch(&names, false).await?;
        for name in &names {
            self.urgent.remove(name);
        }
        Ok(())
    }

    async fn fetch_sweep(&mut self) -> Result<(), AgentError> {
        let names: Vec<Arc<str>> = self.sweep.iter().take(SWEEP_CHUNK).cloned().collect();
        self.fetch(&names, true).await?;
        self.sweep.drain(..names.len());
        if self.sweep.is_empty() {
            self.sweep_after = Instant::now() + self.sweep_begun.elapsed() * REST;
        }
        Ok(())
    }

    /// Fetches these services and derives those that have changed. If one cannot be read, nothing changes.
    async fn fetch(&mut self, names: &[Arc<str>], cached: bool) -> Result<(), AgentError> {
        let query = self.query(cached);
        let known = names.iter().filter_map(|name| Some((name.clone(), self.services.connects(name)?)));
        let known: Vec<(Arc<str>, bool)> = known.collect();
        let questions = known.into_iter().map(|(name, connect)| {
            let (agent, query) = (self.agent.clone(), query.clone());
            async move {
                let kind = if connect { "connect" } else { "service" };
                let path = format!("/v1/health/{kind}/{}", escape(&name));
                (name, agent.ask::<Vec<Entry>>(&path, &query).await)
            }
        });
        let mut answers = stream::iter(questions).buffer_unordered(MAX_CONCURRENT);
        let mut read = Vec::with_capacity(names.len());
        while let Some((name, answer)) = answers.next().await {
            let entries = answer?.value.unwrap_or_default();
            read.push((name, entries.into_iter().map(Instance::new).collect::<Vec<_>>()));
        }
        drop(answers);
        // A Connect service may have lost only its proxies; then the agent still lists some checks.
        let has_lost = read.iter().any(|(name, instances)| self.services.has_lost_proxies(name, instances));
        let sees_checks = has_lost && {
            let checks = self.agent.ask::<Digests>(ALL_CHECKS, &self.query(false)).await?;
            checks.value.is_some_and(|checks| checks.count > 0)
        };
        let earlier = self.session.delivered();
        let identity = self.identity.as_ref();
        for (name, instances) in read {
            self.changed |= self.services.update(&name, instances, identity, &earlier, sees_checks);
        }
        Ok(())
    }

    async fn deliver(&mut self) -> Result<(), Error> {
        self.changed = false;
        let begun = Instant::now();
        let earlier = self.session.delivered();
        let state = self.services.configuration(&earlier);
        let first = !std::mem::replace(&mut self.delivered, true);
        if first || self.complaints.is_empty() {
            self.session.deliver(state).await?;
        } else {
            self.session.deliver_incomplete(state).await?;
        }
        self.deliver_throttle.spent(begun.elapsed(), MAX_REST);
        Ok(())
    }

    /// Reports a problem with the agent once, until it is resolved.
    async fn report_problem(&mut self, topic: Topic, error: &(impl Display + Sync)) -> Result<(), Error> {
        if !self.complaints.begin(topic) {
            return Ok(());
        }
        let message = format!("Consul at {}: {error}", self.agent.endpoint());
        let problem = Problem { origin: Origin::Internal, object: None, message, excerpt: None };
        self.session.unavailable(problem).await
    }

    /// Records that a problem, if any, is resolved.
    async fn resolve_problem(&mut self, topic: Topic) -> Result<(), Error> {
        if !self.complaints.end(topic) {
            return Ok(());
        }
        // Changes may have been missed.
        self.sweep_wanted |= topic != Topic::Services;
        if self.complaints.is_empty() { self.session.available().await } else { Ok(()) }
    }
}
