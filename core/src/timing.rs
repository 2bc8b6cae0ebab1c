//! The time that each middleware of one request takes, recorded only for a request that asks for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Maximum number of stages recorded per request.
const MAX_RUNS: usize = 128;

/// The stages of a chain that a request went through.
#[derive(Debug, Default)]
pub struct Timing(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The innermost open run.
    current: Option<usize>,
    runs: Vec<Run>,
}

/// One stage that the request was passed to.
#[derive(Debug)]
struct Run {
    /// The name of the middleware; `None` for the end of a chain.
    name: Option<Arc<str>>,
    parent: Option<usize>,
    began: Instant,
    /// `None` while it is open.
    took: Option<Duration>,
}

/// A run that is open until it is dropped. Later runs are inside it.
#[derive(Debug)]
pub struct OpenRun {
    timing: Arc<Timing>,
    index: usize,
}

impl Timing {
    /// Begins a stage: a middleware by its name, or the end of a chain. Returns `None` if there are too many.
    pub(crate) fn begin(self: &Arc<Self>, name: Option<Arc<str>>) -> Option<OpenRun> {
        let mut state = self.0.lock();
        let index = state.runs.len();
        if index >= MAX_RUNS {
            return None;
        }
        let parent = state.current.replace(index);
        state.runs.push(Run { name, parent, began: Instant::now(), took: None });
        drop(state);
        Some(OpenRun { timing: self.clone(), index })
    }

    /// Returns the time that each middleware took itself, without what it passed the request on to, in the order in
    /// which they were first reached. Those that are still open are left out.
    pub fn middlewares(&self) -> Vec<(Arc<str>, Duration)> {
        let state = self.0.lock();
        let mut own: Vec<Duration> = state.runs.iter().map(|run| run.took.unwrap_or_default()).collect();
        for run in &state.runs {
            if let (Some(parent), Some(took)) = (run.parent, run.took) {
                own[parent] = own[parent].saturating_sub(took);
            }
        }
        let mut middlewares: Vec<(Arc<str>, Duration)> = Vec::new();
        for (run, own) in state.runs.iter().zip(own) {
            let Some(name) = run.name.as_ref().filter(|_| run.took.is_some()) else { continue };
            match middlewares.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += own,
                None => middlewares.push((name.clone(), own)),
            }
        }
        middlewares
    }
}

impl Drop for OpenRun {
    fn drop(&mut self) {
        let mut state = self.timing.0.lock();
        let Some(run) = state.runs.get_mut(self.index) else { return };
        run.took = Some(run.began.elapsed());
        let parent = run.parent;
        if state.current == Some(self.index) {
            state.current = parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_middleware_takes_the_time_between_its_run_and_those_inside() {
        let timing = Arc::new(Timing::default());
        let pause = Duration::from_millis(5);
        let outer = timing.begin(Some("outer".into()));
        for _ in 0..2 {
            // A retry passes the request on twice.
            let inner = timing.begin(Some("inner".into()));
            let end = timing.begin(None);
            std::thread::sleep(pause);
            drop(end);
            drop(inner);
        }
        assert_eq!(timing.middlewares().len(), 1, "the outer one is open");
        drop(outer);
        let found = timing.middlewares();
        assert_eq!(found.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["outer", "inner"]);
        assert!(found.iter().all(|(_, own)| *own < pause), "{found:?}");
    }

    #[test]
    fn the_number_of_runs_is_limited() {
        let timing = Arc::new(Timing::default());
        let runs: Vec<_> = (0..MAX_RUNS + 1).map(|_| timing.begin(None)).collect();
        assert!(runs[MAX_RUNS - 1].is_some() && runs[MAX_RUNS].is_none());
    }
}
