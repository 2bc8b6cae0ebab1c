//! `tidegate check`: reads everything that the gateway would read, and prints all problems.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::formats::excerpt;
use tidegate_config::{Origin, Problem, Provided};
use tidegate_providers as providers;
use tokio::sync::mpsc;

use crate::explain::failed_tests;
use crate::gateway;
use crate::settings::Settings;
use crate::snapshot::Snapshot;

/// Timeout for a provider to deliver.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a check.
pub(super) struct Findings {
    /// All problems, without duplicates, sorted by place.
    pub(super) problems: BTreeSet<Problem>,
    /// A summary of what was checked.
    pub(super) seen: Vec<String>,
}

/// Why a configuration cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// The runtime could not be started.
    #[error("cannot read the configuration: {0}")]
    Runtime(#[from] std::io::Error),
    /// A provider cannot be started.
    #[error(transparent)]
    Provider(#[from] gateway::StartError),
}

/// A configuration that is compiled, and not served.
pub(super) struct Compiled {
    pub(super) settings: Arc<Settings>,
    pub(super) snapshot: Arc<Snapshot>,
    states: BTreeMap<Arc<str>, Arc<Provided>>,
    /// Servers and stores of the snapshot refer to it.
    _runtime: tokio::runtime::Runtime,
}

/// Reads the state of each provider once and compiles them, without serving anything.
pub(super) fn compile(settings: Arc<Settings>) -> Result<Compiled, CheckError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let states = runtime.block_on(states(&settings))?;
    let snapshot = gateway::compile_once(&settings, states.clone(), runtime.handle());
    Ok(Compiled { settings, snapshot, states, _runtime: runtime })
}

/// Compiles a configuration and runs its tests.
pub(super) fn run(settings: Settings) -> Result<Findings, CheckError> {
    let compiled = compile(Arc::new(settings))?;
    let Compiled { settings, snapshot, states, .. } = &compiled;
    let mut seen: Vec<String> = states
        .iter()
        .map(|(provider, state)| {
            let http = &state.config.http;
            let counted = [
                (http.routers.len(), "router"),
                (http.services.len(), "service"),
                (http.middlewares.len(), "middleware"),
            ];
            format!("{provider}: {}", counted.map(|(number, what)| super::count(number, what)).join(", "))
        })
        .collect();
    seen.sort();
    let tests: Vec<_> = states.values().flat_map(|state| &state.tests).collect();
    let mut problems = snapshot.report.problems.clone();
    if !tests.is_empty() {
        let failed = failed_tests(snapshot, settings, tests.iter().copied());
        seen.push(format!("{}, {} failed", super::count(tests.len(), "test"), failed.len()));
        problems.extend(failed);
    }
    show_sources(&mut problems);
    Ok(Findings { problems: problems.into_iter().collect(), seen })
}

/// Adds excerpts to problems that only compiling could detect.
fn show_sources(problems: &mut [Problem]) {
    let paths: BTreeSet<Arc<str>> = problems
        .iter()
        .filter(|problem| problem.excerpt.is_none())
        .filter_map(|problem| match &problem.origin {
            Origin::File { path, .. } => Some(path.clone()),
            _ => None,
        })
        .collect();
    for path in paths {
        // The lines of a template differ from those of its output.
        if let Ok(text) = std::fs::read_to_string(&*path)
            && !text.contains("{{")
        {
            excerpt::fill(problems, &path, &text);
        }
    }
}

async fn states(settings: &Settings) -> Result<BTreeMap<Arc<str>, Arc<Provided>>, gateway::StartError> {
    let (updates, mut incoming) = mpsc::channel(64);
    let sources = gateway::sources(settings)?;
    let mut waiting: BTreeSet<Arc<str>> = sources.iter().map(|(instance, _)| instance.name.clone()).collect();
    let _handles: Vec<providers::Handle> = sources
        .into_iter()
        .map(|(instance, _)| providers::start(instance.name, instance.provider, updates.clone()))
        .collect();
    let mut states = BTreeMap::new();
    let end = tokio::time::Instant::now() + TIMEOUT;
    while !waiting.is_empty() {
        let Ok(Some(update)) = tokio::time::timeout_at(end, incoming.recv()).await else { break };
        // A source that is unavailable reports that in its state, which is a delivery too.
        waiting.remove(&update.provider);
        states.insert(update.provider, update.state);
    }
    for provider in waiting {
        let message = format!("provider {provider} did not deliver within {TIMEOUT:?}");
        let problem = Problem { origin: Origin::Internal, object: None, message, excerpt: None };
        states.insert(provider, Arc::new(Provided { problems: vec![problem], ..Provided::default() }));
    }
    Ok(states)
}
