//! Runs providers, restarts them after failures, and forwards changed states.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_config::{Origin, Problem, Provided};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::own_keys::OwnKeys;
use crate::{Error, Provider, Update, Updates};

/// First delay before a restart; doubled on each further failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// Maximum delay, so that a restored source is noticed within 15 seconds.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// After this run time, the delay is reset.
const RESET_AFTER: Duration = Duration::from_secs(30);
/// An outage of this duration is reported as a problem of the configuration; restarts of sources are shorter.
const REPORT_AFTER: Duration = Duration::from_secs(5);

/// Maximum number of reasons logged for one outage.
const MAX_LOGGED: usize = 8;

/// Starts a provider under a name, the part after `@`, and runs it until the handle is dropped.
///
/// There is always a first update: the state, or an empty one with the problem (`ready: false`).
///
/// # Panics
///
/// Panics outside of a Tokio runtime.
pub fn start(name: impl Into<Arc<str>>, provider: Arc<dyn Provider>, updates: Updates) -> Handle {
    start_beside(name, provider, updates, Arc::default())
}

/// Like [`start`], with the keys written by gateways, which are not configuration.
pub fn start_beside(
    name: impl Into<Arc<str>>,
    provider: Arc<dyn Provider>,
    updates: Updates,
    own_keys: Arc<OwnKeys>,
) -> Handle {
    let name = name.into();
    let (reload, reloads) = watch::channel(());
    let session = Session { provider: name.clone(), updates, shared: Arc::default(), reloads, own_keys };
    let task = tokio::spawn(async move {
        tokio::select! {
            () = supervise(provider, session.clone()) => {}
            () = report_outages(&session) => {}
        }
    });
    Handle { name, reload, task }
}

/// A running provider. Dropping it stops the provider.
#[derive(Debug)]
pub struct Handle {
    name: Arc<str>,
    reload: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Returns the name of the instance.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Makes the provider read its source again, for `SIGHUP`.
    pub fn reload(&self) {
        self.reload.send_replace(());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The interface of a running provider to the supervisor.
#[derive(Clone, Debug)]
pub struct Session {
    provider: Arc<str>,
    updates: Updates,
    shared: Arc<Shared>,
    reloads: watch::Receiver<()>,
    own_keys: Arc<OwnKeys>,
}

/// State that outlives the runs of a provider.
#[derive(Debug, Default)]
struct Shared {
    output: Mutex<Output>,
    /// Notified when an outage begins.
    outage: Notify,
}

/// The last update, and its parts.
#[derive(Debug, Default)]
struct Output {
    /// The last state delivered by the provider.
    state: Arc<Provided>,
    sent: Option<Arc<Provided>>,
    ready: bool,
    outage: Option<Outage>,
}

/// An outage of a source that has delivered a state.
#[derive(Debug)]
struct Outage {
    since: OffsetDateTime,
    begun: Instant,
    /// The last problem.
    problem: Problem,
    /// All logged problems, so that alternating reasons are logged once each.
    logged: Vec<Problem>,
    /// The problem reported for the configuration: one per outage, even if the reason changes.
    reported: Option<Problem>,
    /// Whether the source is available, but cannot be decoded.
    unreadable: bool,
}

impl Outage {
    fn report(&mut self, provider: &str) {
        let since = self.since.truncate_to_second().format(&Rfc3339).unwrap_or_default();
        let mut problem = self.problem.clone();
        problem.message +=
            &format!("; since {since} provider {provider} serves on with what it delivered last");
        self.reported = Some(problem);
    }
}

impl Session {
    /// Returns the keys written by gateways.
    pub(crate) fn own_keys(&self) -> &Arc<OwnKeys> {
        &self.own_keys
    }

    /// Returns the name of the instance.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Returns the last delivered state, possibly from an earlier run.
    pub fn delivered(&self) -> Arc<Provided> {
        self.shared.output.lock().state.clone()
    }

    /// Delivers the whole state. Unchanged states are dropped.
    pub async fn deliver(&self, state: Provided) -> Result<(), Error> {
        self.send(|output| {
            output.state = Arc::new(state);
            output.ready = true;
            self.end_outage(output);
        })
        .await
    }

    /// Delivers a state of a source that is partly or completely unavailable. It does not make the provider
    /// ready.
    pub async fn deliver_incomplete(&self, state: Provided) -> Result<(), Error> {
        self.send(|output| output.state = Arc::new(state)).await
    }

    /// Reports that the source is unavailable. The last delivered state stays in force, and the problem is
    /// added to it if the outage lasts. Without one, an empty state with the problem is sent, so that the
    /// gateway can report why it is not ready.
    pub async fn unavailable(&self, problem: Problem) -> Result<(), Error> {
        self.report_outage(problem, false).await
    }

    /// Reports that the source is available but cannot be decoded. Like [`Session::unavailable`], but
    /// reported immediately, as the problem will not go away without a change.
    pub async fn unreadable(&self, problem: Problem) -> Result<(), Error> {
        self.report_outage(problem, true).await
    }

    /// Reports that the source is available again and unchanged.
    pub async fn available(&self) -> Result<(), Error> {
        self.send(|output| self.end_outage(output)).await
    }

    /// Resolves when the source must be read again. Cancel-safe.
    pub async fn reload_asked(&mut self) {
        if self.reloads.changed().await.is_err() {
            // The handle was dropped, so this task is about to be aborted.
            std::future::pending::<()>().await;
        }
    }

    async fn report_outage(&self, problem: Problem, unreadable: bool) -> Result<(), Error> {
        self.send(|output| {
            if !output.ready {
                // The configuration logs its problems.
                output.state = Arc::new(Provided { problems: vec![problem], ..Provided::default() });
                return;
            }
            let outage = output.outage.get_or_insert_with(|| Outage {
                since: OffsetDateTime::now_utc(),
                begun: Instant::now(),
                problem: problem.clone(),
                logged: Vec::new(),
                reported: None,
                unreadable: false,
            });
            if !outage.logged.contains(&problem) && outage.logged.len() < MAX_LOGGED {
                tracing::warn!(provider = &*self.provider, "{problem}");
                outage.logged.push(problem.clone());
            }
            outage.problem = problem;
            if unreadable && !std::mem::replace(&mut outage.unreadable, true) {
                outage.report(&self.provider);
            }
            self.shared.outage.notify_one();
        })
        .await
    }

    fn end_outage(&self, output: &mut Output) {
        if let Some(outage) = output.outage.take() {
            let away = outage.begun.elapsed();
            tracing::info!(provider = &*self.provider, "the source is back, after {away:.1?}");
        }
    }

    /// Applies a change and sends the resulting state, unless it is unchanged.
    async fn send(&self, change: impl FnOnce(&mut Output)) -> Result<(), Error> {
        // Reserve a slot first, so that states are sent in the order in which they are built.
        let place = self.updates.reserve().await.map_err(|_| Error::Stopping)?;
        let mut output = self.shared.output.lock();
        let was_ready = output.ready;
        change(&mut output);
        let reported = output.outage.as_ref().and_then(|outage| outage.reported.clone());
        let state = match reported {
            Some(reported) => {
                let mut state = Provided::clone(&output.state);
                state.problems.push(reported);
                Arc::new(state)
            }
            None => output.state.clone(),
        };
        if was_ready == output.ready && output.sent.as_ref() == Some(&state) {
            return Ok(());
        }
        output.sent = Some(state.clone());
        place.send(Update { provider: self.provider.clone(), state, ready: output.ready });
        Ok(())
    }
}

/// Reports outages that last as problems of the configuration.
async fn report_outages(session: &Session) {
    loop {
        let due = session
            .shared
            .output
            .lock()
            .outage
            .as_ref()
            .and_then(|outage| outage.reported.is_none().then(|| outage.begun + REPORT_AFTER));
        let Some(due) = due else {
            session.shared.outage.notified().await;
            continue;
        };
        sleep_until(due).await;
        let reported = session.send(|output| {
            let lasting =
                output.outage.as_mut().filter(|outage| outage.begun + REPORT_AFTER <= Instant::now());
            if let Some(outage) = lasting
                && outage.reported.is_none()
            {
                outage.report(&session.provider);
            }
        });
        if reported.await.is_err() {
            return;
        }
    }
}

async fn supervise(provider: Arc<dyn Provider>, session: Session) {
    let name = session.provider.clone();
    let mut pause = FIRST_DELAY;
    loop {
        let started = Instant::now();
        let reason = match run_once(&provider, session.clone()).await {
            Ok(()) => {
                tracing::debug!(provider = &*name, "provider has finished");
                return;
            }
            Err(Error::Stopping) => return,
            Err(error) => error.to_string(),
        };
        if started.elapsed() >= RESET_AFTER {
            pause = FIRST_DELAY;
        }
        let wait = pause.mul_f64(0.75 + fastrand::f64() * 0.5);
        tracing::info!(provider = &*name, "retrying in {wait:.1?}");
        let message = format!("provider {name}: {reason}");
        let problem = Problem { origin: Origin::Internal, object: None, message, excerpt: None };
        if session.unavailable(problem).await.is_err() {
            return;
        }
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(MAX_DELAY);
    }
}

/// Runs the provider in a separate task, to catch panics.
async fn run_once(provider: &Arc<dyn Provider>, session: Session) -> Result<(), Error> {
    let provider = provider.clone();
    let mut task = AbortOnDrop(tokio::spawn(async move { provider.run(session).await }));
    match (&mut task.0).await {
        Ok(outcome) => outcome,
        Err(error) if error.is_panic() => Err(Error::Source("internal error: the provider panicked".into())),
        Err(_) => Err(Error::Stopping),
    }
}

struct AbortOnDrop(JoinHandle<Result<(), Error>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;
    use tidegate_config::router::Router;
    use tokio::sync::mpsc;

    use super::*;

    fn state(rule: &str) -> Provided {
        let mut state = Provided::default();
        state
            .config
            .http
            .routers
            .insert("r".into(), Arc::new(Router { rule: rule.into(), ..Router::default() }));
        state
    }

    struct Flaky(AtomicUsize);

    impl Provider for Flaky {
        fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
            async move {
                match self.0.fetch_add(1, Ordering::SeqCst) {
                    0 => Err(Error::Source("not there".into())),
                    1 => panic!("a defect"),
                    2 => {
                        session.deliver(state("a")).await?;
                        session.deliver(state("a")).await?;
                        Err(Error::Source("lost".into()))
                    }
                    _ => {
                        session.deliver(state("a")).await?;
                        session.deliver(state("b")).await?;
                        std::future::pending().await
                    }
                }
            }
            .boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn providers_restart_after_failures_and_unchanged_states_are_dropped() {
        let (sender, mut updates) = mpsc::channel(8);
        let handle = start("flaky", Arc::new(Flaky(AtomicUsize::new(0))), sender);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let update = updates.recv().await.expect("an update");
            assert_eq!(&*update.provider, "flaky");
            let rule = update.state.config.http.routers.get("r").map(|router| router.rule.clone());
            seen.push((update.ready, rule.unwrap_or_default(), update.state.problems.len()));
        }
        let expected = [(false, "", 1), (false, "", 1), (true, "a", 0), (true, "b", 0)];
        assert_eq!(seen, expected.map(|(ready, rule, problems)| (ready, rule.to_owned(), problems)));
        drop(handle);
        assert!(updates.recv().await.is_none(), "dropping the handle ends the provider");
    }

    struct Reported;

    impl Provider for Reported {
        fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
            let problem = |message: &str| Problem {
                origin: Origin::Internal,
                object: None,
                message: message.into(),
                excerpt: None,
            };
            async move {
                session.deliver(state("a")).await?;
                // A short outage is not reported.
                session.unavailable(problem("gone")).await?;
                tokio::time::sleep(REPORT_AFTER / 2).await;
                session.available().await?;
                // A long one is reported once, and delivering other states does not end it.
                for n in 0..9 {
                    session.unavailable(problem(&format!("gone {n}"))).await?;
                    tokio::time::sleep(REPORT_AFTER / 3).await;
                }
                session.deliver_incomplete(state("b")).await?;
                session.available().await?;
                for n in 0..3 {
                    session.unreadable(problem(&format!("nonsense {n}"))).await?;
                }
                session.deliver(state("b")).await?;
                std::future::pending().await
            }
            .boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn outages_that_last_are_reported_until_they_end() {
        let (sender, mut updates) = mpsc::channel(8);
        let _handle = start("told", Arc::new(Reported), sender);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let update = updates.recv().await.expect("an update");
            assert!(update.ready);
            let problems: Vec<String> = update.state.problems.iter().map(ToString::to_string).collect();
            seen.push((update.state.config.http.routers["r"].rule.clone(), problems.join("")));
        }
        let rules: Vec<&str> = seen.iter().map(|(rule, _)| rule.as_str()).collect();
        assert_eq!(rules, ["a", "a", "b", "b", "b", "b"]);
        let reported = |n: usize, what: &str| {
            seen[n].1.starts_with(&format!("internal: {what}; since ")) && seen[n].1.contains("provider told")
        };
        assert!(reported(1, "gone 2") || reported(1, "gone 3"), "{seen:?}");
        assert_eq!(seen[1].1, seen[2].1);
        assert!(reported(4, "nonsense 0"), "{seen:?}");
        assert!([0, 3, 5].iter().all(|n| seen[*n].1.is_empty()), "{seen:?}");
        assert!(tokio::time::timeout(REPORT_AFTER * 3, updates.recv()).await.is_err());
    }
}
