//! The command line: reads the settings, runs the gateway, and answers signals.

mod run;

use std::process::ExitCode;

use crate::observability::log::ProcessLog;
use crate::settings;

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let loaded = match settings::load(&arguments, &variables) {
        Ok(loaded) => loaded,
        Err(problems) => {
            return refuse(problems.iter().map(|problem| (problem.to_string(), problem.excerpt.clone())));
        }
    };
    let log = match ProcessLog::start(&loaded.settings.log) {
        Ok(log) => log,
        Err(error) => return refuse([(error.to_string(), None)]),
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match run::run(loaded.settings, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            refuse([(error.to_string(), None)])
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the log is not running yet, or the person at the terminal does not see it"
)]
fn refuse(errors: impl IntoIterator<Item = (String, Option<String>)>) -> ExitCode {
    for (error, excerpt) in errors {
        eprintln!("tidegate: {error}");
        if let Some(excerpt) = excerpt {
            eprintln!("{excerpt}");
        }
    }
    ExitCode::FAILURE
}
