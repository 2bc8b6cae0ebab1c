//! `tidegate check`: reads everything that the gateway would read, and prints all problems.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::formats::excerpt;
use tidegate_config::{Origin, Problem, Provided};
use tidegate_providers as providers;
use tokio::sync::mpsc;

use crate::gateway;
use crate::settings::Settings;

/// Timeout for a provider to deliver.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The result of a check.
pub(super) struct Findings {
    /// All problems, without duplicates, sorted by place.
    pub(super) problems: BTreeSet<Problem>,
    /// A summary of what was checked.
    pub(super) seen: Vec<String>,
}

/// Reads the state of each provider once and compiles them, without serving anything.
pub(super) fn run(settings: Settings) -> Result<Findings, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let settings = Arc::new(settings);
    let states = runtime.block_on(states(&settings))?;
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
    let report = gateway::compile_once(&settings, states, runtime.handle());
    let mut problems = report.problems.clone();
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
