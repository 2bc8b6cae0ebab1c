//! `tidegate check`: reads everything that the gateway would read, and prints what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidegate_config::formats::excerpt;
use tidegate_config::{Origin, Problem, Provided};
use tidegate_providers as providers;
use tokio::sync::mpsc;

use crate::gateway;
use crate::settings::Settings;

/// Longest time for a provider to deliver.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found.
pub(super) struct Findings {
    /// What is wrong, each once, in the order of the places.
    pub(super) problems: BTreeSet<Problem>,
    /// What was looked at, for people.
    pub(super) seen: Vec<String>,
}

/// Asks each provider once and compiles what they say, without serving anything.
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

/// Gives problems that only compiling could see the lines that they are about.
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
        // The lines of a template are not those of the text that was made from it.
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
    let end = tokio::time::Instant::now() + PATIENCE;
    while !waiting.is_empty() {
        let Ok(Some(update)) = tokio::time::timeout_at(end, incoming.recv()).await else { break };
        // A source that cannot be reached has said so in its state: that is an answer too.
        waiting.remove(&update.provider);
        states.insert(update.provider, update.state);
    }
    for provider in waiting {
        let message = format!("provider {provider} did not answer within {PATIENCE:?}");
        let problem = Problem { origin: Origin::Internal, object: None, message, excerpt: None };
        states.insert(provider, Arc::new(Provided { problems: vec![problem], ..Provided::default() }));
    }
    Ok(states)
}
