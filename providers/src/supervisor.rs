//! Keeps providers running: starts them, starts them again when they fail, and passes on what has changed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_config::{Origin, Problem, Provided};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::{Error, Provider, Update, Updates};

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause, so that a source that is back is seen within 15 seconds.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A provider that ran this long was well: its next failure starts again with the first pause.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// Starts a provider under a name, the part behind `@`, and keeps it running until the handle is dropped.
///
/// The first update comes in any case: the state, or an empty one that says why there is none (`ready: false`).
/// Must be called inside a tokio runtime.
pub fn start(name: impl Into<Arc<str>>, provider: Arc<dyn Provider>, updates: Updates) -> Handle {
    let name = name.into();
    let (reload, reloads) = watch::channel(());
    let output = Output { last: None, ready: false };
    let task = tokio::spawn(supervise(
        provider,
        Session { provider: name.clone(), updates, output: Arc::new(Mutex::new(output)), reloads },
    ));
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
    output: Arc<Mutex<Output>>,
    reloads: watch::Receiver<()>,
}

/// What went out last. It outlives the runs of a provider.
#[derive(Debug)]
struct Output {
    last: Option<Arc<Provided>>,
    ready: bool,
}

impl Session {
    /// The name of the instance.
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Delivers the whole state. One that equals the last is dropped.
    pub async fn deliver(&self, state: Provided) -> Result<(), Error> {
        self.send(state, true).await
    }

    /// Delivers a state whose source is not there. Until a state has been delivered the provider does not count as
    /// ready by it.
    pub async fn deliver_incomplete(&self, state: Provided) -> Result<(), Error> {
        let ready = self.output.lock().ready;
        self.send(state, ready).await
    }

    /// Says that the source cannot be read. When a state has been delivered it stays in force, and this is only
    /// logged; otherwise an empty one with the problem goes out, so that the gateway can tell why it is not ready.
    pub async fn unavailable(&self, problem: Problem) -> Result<(), Error> {
        if self.output.lock().ready {
            tracing::warn!(provider = &*self.provider, "{problem}");
            return Ok(());
        }
        // It becomes a problem of the configuration, which is logged once.
        self.send(Provided { problems: vec![problem], ..Provided::default() }, false).await
    }

    /// Resolves when the source is to be read again. For use in `select!`.
    pub async fn reload_asked(&mut self) {
        if self.reloads.changed().await.is_err() {
            // The handle is gone, and this task is about to be ended.
            std::future::pending::<()>().await;
        }
    }

    async fn send(&self, state: Provided, ready: bool) -> Result<(), Error> {
        let state = {
            let mut output = self.output.lock();
            if output.ready == ready && output.last.as_deref() == Some(&state) {
                return Ok(());
            }
            let state = Arc::new(state);
            output.ready = ready;
            output.last = Some(state.clone());
            state
        };
        let update = Update { provider: self.provider.clone(), state, ready };
        self.updates.send(update).await.map_err(|_| Error::Stopping)
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
}
