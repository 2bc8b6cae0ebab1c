//! Keeps providers running: starts them, starts them again when they fail, and passes on what has changed.

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

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, so that a source that is back is seen within 15 seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A provider that ran this long was well: its next failure starts again with the first pause.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// A source that is away this long becomes a problem of the configuration: restarts of it are shorter.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// Most reasons that are logged for one outage.
const MOST_SAID: usize = 8;

/// Starts a provider under a name, the part behind `@`, and keeps it running until the handle is dropped.
///
/// The first update comes in any case: the state, or an empty one that says why there is none (`ready: false`).
/// Must be called inside a tokio runtime.
pub fn start(name: impl Into<Arc<str>>, provider: Arc<dyn Provider>, updates: Updates) -> Handle {
    start_beside(name, provider, updates, Arc::default())
}

/// Like [`start`], with the places where gateways write keys, which are not configuration.
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
            () = tell_outages(&session) => {}
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
    /// The name of the instance.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Makes the provider read its source again now, for `SIGHUP`.
    pub fn reload(&self) {
        self.reload.send_replace(());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a running provider is given.
#[derive(Clone, Debug)]
pub struct Session {
    provider: Arc<str>,
    updates: Updates,
    shared: Arc<Shared>,
    reloads: watch::Receiver<()>,
    own_keys: Arc<OwnKeys>,
}

/// What outlives the runs of a provider.
#[derive(Debug, Default)]
struct Shared {
    output: Mutex<Output>,
    /// An outage has begun.
    outage: Notify,
}

/// What went out last, and what it was made of.
#[derive(Debug, Default)]
struct Output {
    /// What the provider delivered last.
    state: Arc<Provided>,
    sent: Option<Arc<Provided>>,
    ready: bool,
    outage: Option<Outage>,
}

/// The time in which a source that has delivered is not there.
#[derive(Debug)]
struct Outage {
    since: OffsetDateTime,
    begun: Instant,
    /// What was said last.
    problem: Problem,
    /// All that was said, so that reasons that take turns are said once each.
    said: Vec<Problem>,
    /// What is told as a problem of the configuration: once, however the reason changes.
    told: Option<Problem>,
    /// The source is there, but makes no sense.
    unreadable: bool,
}

impl Outage {
    fn tell(&mut self, provider: &str) {
        let since = self.since.truncate_to_second().format(&Rfc3339).unwrap_or_default();
        let mut problem = self.problem.clone();
        problem.message +=
            &format!("; since {since} provider {provider} serves on with what it delivered last");
        self.told = Some(problem);
    }
}

impl Session {
    /// The keys that gateways write.
    pub(crate) fn own_keys(&self) -> &Arc<OwnKeys> {
        &self.own_keys
    }

    /// The name of the instance.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// What was delivered last, by an earlier run too.
    pub fn delivered(&self) -> Arc<Provided> {
        self.shared.output.lock().state.clone()
    }

    /// Delivers the whole state. One that equals the last is dropped.
    pub async fn deliver(&self, state: Provided) -> Result<(), Error> {
        self.send(|output| {
            output.state = Arc::new(state);
            output.ready = true;
            self.end_outage(output);
        })
        .await
    }

    /// Delivers a state whose source is not there, or not all of it. Until a state has been delivered the provider does
    /// not count as ready by it.
    pub async fn deliver_incomplete(&self, state: Provided) -> Result<(), Error> {
        self.send(|output| output.state = Arc::new(state)).await
    }

    /// Says that the source cannot be read. When a state has been delivered it stays in force, and this becomes a
    /// problem beside it when it lasts; otherwise an empty state with the problem goes out, so that the gateway can
    /// tell why it is not ready.
    pub async fn unavailable(&self, problem: Problem) -> Result<(), Error> {
        self.lost(problem, false).await
    }

    /// Says that the source is there, but that what it says cannot be read: as [`Session::unavailable`], but told at
    /// once, since it will not pass by itself.
    pub async fn unreadable(&self, problem: Problem) -> Result<(), Error> {
        self.lost(problem, true).await
    }

    /// Says that the source is there again, and that what was delivered last is what it says.
    pub async fn available(&self) -> Result<(), Error> {
        self.send(|output| self.end_outage(output)).await
    }

    /// Resolves when the source is to be read again. For use in `select!`.
    pub async fn reload_asked(&mut self) {
        if self.reloads.changed().await.is_err() {
            // The handle is gone, and this task is about to be ended.
            std::future::pending::<()>().await;
        }
    }

    async fn lost(&self, problem: Problem, unreadable: bool) -> Result<(), Error> {
        self.send(|output| {
            if !output.ready {
                // It becomes a problem of the configuration, which is logged once.
                output.state = Arc::new(Provided { problems: vec![problem], ..Provided::default() });
                return;
            }
            let outage = output.outage.get_or_insert_with(|| Outage {
                since: OffsetDateTime::now_utc(),
                begun: Instant::now(),
                problem: problem.clone(),
                said: Vec::new(),
                told: None,
                unreadable: false,
            });
            if !outage.said.contains(&problem) && outage.said.len() < MOST_SAID {
                tracing::warn!(provider = &*self.provider, "{problem}");
                outage.said.push(problem.clone());
            }
            outage.problem = problem;
            if unreadable && !std::mem::replace(&mut outage.unreadable, true) {
                outage.tell(&self.provider);
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

    /// Changes what is known and sends what comes of it, unless that is what was sent last.
    async fn send(&self, change: impl FnOnce(&mut Output)) -> Result<(), Error> {
        // The place in the queue comes first, so that states go out in the order in which they are made.
        let place = self.updates.reserve().await.map_err(|_| Error::Stopping)?;
        let mut output = self.shared.output.lock();
        let was_ready = output.ready;
        change(&mut output);
        let told = output.outage.as_ref().and_then(|outage| outage.told.clone());
        let state = match told {
            Some(told) => {
                let mut state = Provided::clone(&output.state);
                state.problems.push(told);
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

/// Makes outages that last problems of the configuration.
async fn tell_outages(session: &Session) {
    loop {
        let due = session
            .shared
            .output
            .lock()
            .outage
            .as_ref()
            .and_then(|outage| outage.told.is_none().then(|| outage.begun + TELL_AFTER));
        let Some(due) = due else {
            session.shared.outage.notified().await;
            continue;
        };
        sleep_until(due).await;
        let told = session.send(|output| {
            let lasting = output.outage.as_mut().filter(|outage| outage.begun + TELL_AFTER <= Instant::now());
            if let Some(outage) = lasting
                && outage.told.is_none()
            {
                outage.tell(&session.provider);
            }
        });
        if told.await.is_err() {
            return;
        }
    }
}

async fn supervise(provider: Arc<dyn Provider>, session: Session) {
    let name = session.provider.clone();
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let reason = match run_once(&provider, session.clone()).await {
            Ok(()) => {
                tracing::debug!(provider = &*name, "provider has nothing more to watch");
                return;
            }
            Err(Error::Stopping) => return,
            Err(error) => error.to_string(),
        };
        if started.elapsed() >= WELL_AFTER {
            pause = FIRST_PAUSE;
        }
        let wait = pause.mul_f64(0.75 + fastrand::f64() * 0.5);
        tracing::info!(provider = &*name, "trying again in {wait:.1?}");
        let message = format!("provider {name}: {reason}");
        let problem = Problem { origin: Origin::Internal, object: None, message, excerpt: None };
        if session.unavailable(problem).await.is_err() {
            return;
        }
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Runs it in a task of its own, so that a panic ends only that task.
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
    async fn failures_and_panics_are_survived_and_unchanged_states_dropped() {
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

    struct Told;

    impl Provider for Told {
        fn run(&self, session: Session) -> BoxFuture<'_, Result<(), Error>> {
            let problem = |message: &str| Problem {
                origin: Origin::Internal,
                object: None,
                message: message.into(),
                excerpt: None,
            };
            async move {
                session.deliver(state("a")).await?;
                // A short outage is nobody's business.
                session.unavailable(problem("gone")).await?;
                tokio::time::sleep(TELL_AFTER / 2).await;
                session.available().await?;
                // A long one is told once, and what is delivered meanwhile does not end it.
                for n in 0..9 {
                    session.unavailable(problem(&format!("gone {n}"))).await?;
                    tokio::time::sleep(TELL_AFTER / 3).await;
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
    async fn outages_that_last_are_problems_until_they_are_over() {
        let (sender, mut updates) = mpsc::channel(8);
        let _handle = start("told", Arc::new(Told), sender);
        let mut seen = Vec::new();
        for _ in 0..6 {
            let update = updates.recv().await.expect("an update");
            assert!(update.ready);
            let problems: Vec<String> = update.state.problems.iter().map(ToString::to_string).collect();
            seen.push((update.state.config.http.routers["r"].rule.clone(), problems.join("")));
        }
        let rules: Vec<&str> = seen.iter().map(|(rule, _)| rule.as_str()).collect();
        assert_eq!(rules, ["a", "a", "b", "b", "b", "b"]);
        let told = |n: usize, what: &str| {
            seen[n].1.starts_with(&format!("internal: {what}; since ")) && seen[n].1.contains("provider told")
        };
        assert!(told(1, "gone 2") || told(1, "gone 3"), "{seen:?}");
        assert_eq!(seen[1].1, seen[2].1);
        assert!(told(4, "nonsense 0"), "{seen:?}");
        assert!([0, 3, 5].iter().all(|n| seen[*n].1.is_empty()), "{seen:?}");
        assert!(tokio::time::timeout(TELL_AFTER * 3, updates.recv()).await.is_err());
    }
}
