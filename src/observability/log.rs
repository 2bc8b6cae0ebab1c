//! The log of the process itself, in Traefik's formats.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_core::word::Word;
use time::OffsetDateTime;
use time::macros::format_description;
use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::log_event::{Fields, source};
use super::log_export::Export;
use super::log_file::{LogFile, Rotation};
use crate::settings::{self, LogFormat, LogLevel};

/// Prefix of the targets of our own crates.
const OWN_CRATES: &str = "tidegate";
/// Prefix of the targets of a library that logs whole responses of the Docker engine at DEBUG: with the
/// environment of all containers, and so with their passwords.
const INDISCREET: &str = "bollard";

/// The running log, which can reopen its file.
#[derive(Clone)]
pub struct ProcessLog {
    file: Option<Arc<Mutex<LogFile>>>,
    export: Option<Arc<Export>>,
}

impl ProcessLog {
    /// Starts logging. Fails if the level or the filter is invalid, the file cannot be opened, or logging has already
    /// started.
    pub fn start(settings: &settings::Log) -> io::Result<Self> {
        let level = settings.level.known().unwrap_or(LogLevel::Error);
        let targets = targets(level, &settings.filter)?;
        let json = settings.format.known() == Some(LogFormat::Json);
        let file = match settings.file_path.as_str() {
            "" => None,
            path => {
                let settings::Log { max_size, max_age, max_backups, compress, .. } = *settings;
                let rotation = Rotation::new(max_size, max_age, max_backups, compress);
                Some(Arc::new(Mutex::new(LogFile::open(path.as_ref(), rotation)?)))
            }
        };
        let colour = !json && !settings.no_color && file.is_none() && io::stdout().is_terminal();
        let shared = file.clone();
        let lines = tracing_subscriber::fmt::layer()
            .event_format(Format { json, colour })
            .with_writer(move || Out(shared.clone()));
        let export = settings.otlp.as_ref().map(Export::start).transpose()?.map(Arc::new);
        let with_callers = level_filter(level) >= LevelFilter::DEBUG;
        tracing_subscriber::registry()
            .with(targets)
            .with(lines)
            .with(export.as_ref().map(|export| export.layer(with_callers)))
            .try_init()
            .map_err(|error| io::Error::other(format!("log: {error}")))?;
        Ok(Self { file, export })
    }

    /// Sends what is waiting for the collector, for at most a second. Blocks.
    pub fn stop(&self) {
        if let Some(export) = &self.export {
            export.stop();
        }
    }

    /// Reopens the file after it was moved (`SIGUSR1`).
    pub fn reopen(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.lock().reopen())
    }
}

/// Returns what is logged: our own crates at `level`, others at INFO at most, and targets named in `filter`
/// (`h2=debug,rustls=trace`) at the given level. Nothing logs more of bollard than INFO.
pub(crate) fn targets(level: LogLevel, filter: &str) -> io::Result<Targets> {
    let level = level_filter(level);
    let others = level.min(LevelFilter::INFO);
    // The longest prefix of a target counts, so this one also limits a directive like `b=TRACE`.
    let mut targets =
        Targets::new().with_target(OWN_CRATES, level).with_target(INDISCREET, others).with_default(others);
    for directive in filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
        let invalid = || {
            let message = format!("invalid filter `{directive}`: expected `target=LEVEL`, like `h2=DEBUG`");
            io::Error::new(io::ErrorKind::InvalidInput, message)
        };
        let (target, level) = directive.split_once('=').ok_or_else(invalid)?;
        let level = Word::<LogLevel>::from(level.trim()).known().ok_or_else(invalid)?;
        if target.is_empty() {
            return Err(invalid());
        }
        let (target, level) = (target.trim(), level_filter(level));
        let level = if target.starts_with(INDISCREET) { level.min(LevelFilter::INFO) } else { level };
        targets = targets.with_target(target, level);
    }
    Ok(targets)
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Fatal | LogLevel::Panic => LevelFilter::ERROR,
    }
}

/// Writes to the file, or to standard output.
struct Out(Option<Arc<Mutex<LogFile>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Some(file) => file.lock().write(bytes),
            None => io::stdout().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &self.0 {
            Some(file) => file.lock().flush(),
            None => io::stdout().flush(),
        }
    }
}

struct Format {
    json: bool,
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let fields = Fields::of(event);
        let second = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
        let time = OffsetDateTime::now_utc().format(&second).unwrap_or_default();
        let metadata = event.metadata();
        if self.json {
            return writeln!(out, "{}", fields.json(metadata.level(), &time));
        }
        let (short, colour) = match *metadata.level() {
            Level::TRACE => ("TRC", 34),
            Level::DEBUG => ("DBG", 90),
            Level::INFO => ("INF", 32),
            Level::WARN => ("WRN", 33),
            Level::ERROR => ("ERR", 31),
        };
        match self.colour {
            true => write!(out, "\x1b[90m{time}\x1b[0m \x1b[{colour}m{short}\x1b[0m ")?,
            false => write!(out, "{time} {short} ")?,
        }
        if let (Some(file), Some(line)) = (metadata.file(), metadata.line()) {
            write!(out, "{}:{line} > ", source(file))?;
        }
        out.write_str(&one_line(&fields.message))?;
        for (name, value) in &fields.others {
            let text = value.as_str().map_or_else(|| value.to_string(), one_line);
            match text.contains([' ', '"', '=']) {
                true => write!(out, " {name}={}", serde_json::Value::from(text))?,
                false => write!(out, " {name}={text}")?,
            }
        }
        writeln!(out)
    }
}

/// Escapes control characters, which could start another line or control a terminal.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an event in one of the formats.
    fn written(json: bool, log: impl FnOnce()) -> String {
        let path = tempfile::NamedTempFile::new().unwrap();
        let out = Arc::new(Mutex::new(LogFile::open(path.path(), None).unwrap()));
        let subscriber = tracing_subscriber::fmt()
            .event_format(Format { json, colour: false })
            .with_writer(move || Out(Some(out.clone())))
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        std::fs::read_to_string(path.path()).unwrap()
    }

    #[test]
    fn the_common_format_is_one_line() {
        let text = written(false, || tracing::error!(router = "a b", code = 7, "bad\nthing"));
        let (head, tail) = text.split_once(" > ").unwrap();
        assert!(head.contains("Z ERR ") && head.contains("log.rs:"), "{head}");
        assert_eq!(tail, "bad\\nthing router=\"a b\" code=7\n");
    }

    #[test]
    fn json_has_level_time_and_message() {
        let text = written(true, || tracing::warn!(router = "r", "hello"));
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["router"]),
            (&"warn".into(), &"hello".into(), &"r".into())
        );
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn other_crates_are_limited_to_info_unless_named() {
        let shown = |filter: &str, target: &str, level: Level| {
            targets(LogLevel::Debug, filter).unwrap().would_enable(target, &level)
        };
        for own in ["tidegate::gateway", "tidegate_acme::order"] {
            assert!(shown("", own, Level::DEBUG) && !shown("", own, Level::TRACE));
        }
        assert!(shown("", "h2::codec", Level::INFO) && !shown("", "h2::codec", Level::DEBUG));
        assert!(shown("rustls=trace, h2=debug", "h2::codec", Level::DEBUG));
        assert!(!targets(LogLevel::Error, "").unwrap().would_enable("h2", &Level::WARN));
        for filter in ["h2", "h2=", "=debug", "h2=loud"] {
            assert!(
                targets(LogLevel::Info, filter).unwrap_err().to_string().contains("expected `target=LEVEL`")
            );
        }
    }

    #[test]
    fn no_filter_shows_what_the_docker_engine_responds() {
        for filter in
            ["", "bollard=TRACE", "bollard::docker=DEBUG", "b=TRACE,bollar=TRACE", "bollard::read=TRACE"]
        {
            let targets = targets(LogLevel::Trace, filter).unwrap();
            for target in ["bollard", "bollard::docker", "bollard::read", "bollard::uri", "bollard_stubs"] {
                assert!(!targets.would_enable(target, &Level::DEBUG), "{filter}: {target}");
                assert!(targets.would_enable(target, &Level::INFO), "{filter}: {target}");
            }
        }
    }

    #[test]
    fn paths_of_the_build_machine_are_not_shown() {
        for (path, shown) in [
            ("src/cli/run.rs", "src/cli/run.rs"),
            (
                "/home/x/.cargo/registry/src/index.crates.io-1/h2-0.4.20/src/codec/mod.rs",
                "h2-0.4.20/src/codec/mod.rs",
            ),
            ("/somewhere/build.rs", "build.rs"),
        ] {
            assert_eq!(source(path), shown);
        }
    }
}
