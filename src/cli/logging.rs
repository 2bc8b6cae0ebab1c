//! The log of the process itself.

use std::fs::File;
use std::io::{IsTerminal, stdout};
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::settings::Log;

/// Starts the log. Libraries speak up only from warnings on, unless everything is asked for.
pub(super) fn start(options: &Log) -> Result<(), String> {
    let level = level(&options.level)?;
    let filter = match level {
        LevelFilter::TRACE => Targets::new().with_default(level),
        _ => Targets::new().with_default(level.min(LevelFilter::WARN)).with_target("tidegate", level),
    };
    let (writer, colours) = if options.file_path.is_empty() {
        (BoxMakeWriter::new(stdout), stdout().is_terminal() && !options.no_color)
    } else {
        let open = File::options().create(true).append(true).open(&options.file_path);
        let file = open.map_err(|error| format!("log.filePath: cannot open {}: {error}", options.file_path))?;
        (BoxMakeWriter::new(Arc::new(file)), false)
    };
    let layer = fmt::layer().with_writer(writer).with_ansi(colours).with_target(false);
    let layer = if options.format == "json" {
        layer.json().flatten_event(true).with_filter(filter).boxed()
    } else {
        layer.with_filter(filter).boxed()
    };
    tracing_subscriber::registry().with(layer).try_init().map_err(|error| error.to_string())
}

fn level(name: &str) -> Result<LevelFilter, String> {
    Ok(match name.to_ascii_uppercase().as_str() {
        "TRACE" => LevelFilter::TRACE,
        "DEBUG" => LevelFilter::DEBUG,
        "INFO" => LevelFilter::INFO,
        "WARN" => LevelFilter::WARN,
        "" | "ERROR" | "FATAL" | "PANIC" => LevelFilter::ERROR,
        _ => {
            return Err(format!(
                "log.level: `{name}` is no level: expected TRACE, DEBUG, INFO, WARN, ERROR, FATAL or PANIC"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_without_case() {
        assert_eq!(level("debug"), Ok(LevelFilter::DEBUG));
        assert_eq!(level("FATAL"), Ok(LevelFilter::ERROR));
        assert!(level("loud").unwrap_err().contains("`loud`"));
    }
}
