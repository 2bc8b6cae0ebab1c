//! The command line: reads the settings, runs the gateway or one of the commands.

mod cache;
mod certs;
mod check;
mod client;
mod demo;
mod explain;
mod healthcheck;
mod keys;
mod maintenance;
mod requests;
mod run;
mod text;
mod top;
mod usage;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tidegate_config::Problem;

use crate::observability::log::ProcessLog;
use crate::settings::{self, Settings};

/// The gateway that opens by itself when a container comes.
///
/// Without a command, it runs the gateway with the settings from a file, the environment and flags. Every
/// setting is a flag: `--entryPoints.web.address=:80`, `--providers.docker`, `--api.insecure=true`. They are
/// those of Traefik v3 and documented in docs/settings.md. `--strict` refuses to start with unsupported
/// settings.
#[derive(Parser)]
#[command(
    name = "tidegate",
    version,
    override_usage = "tidegate [--SETTING[=VALUE]]...\n       tidegate <COMMAND>"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the version.
    Version,
    /// Request /ping from a running gateway, with the settings it was started with. Exits with code 1 if it
    /// is unhealthy.
    Healthcheck(Flags),
    /// Read settings, route files and the labels of running containers, run the tests in them, and print every
    /// problem. Exits with code 1 if there is one.
    Check(Flags),
    /// List, renew, revoke, export and import certificates of certificate resolvers.
    #[command(subcommand)]
    Certs(certs::Certs),
    /// Create, list, rotate and revoke the API keys of consumers, in a file, Consul or Redis.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Print what happened to a recent request of a running gateway: which router and why, which middlewares,
    /// which servers, who responded and when.
    Why(requests::Why),
    /// Print what would happen to a request: which router and why, which middlewares, which server. It asks a
    /// running gateway, or with --offline reads the configuration.
    Explain(explain::Explain),
    /// Print the requests of a running gateway as they end.
    Tail(requests::Tail),
    /// Show the entry points, routers, servers and clients of a running gateway by rate, errors and response time.
    Top(top::Top),
    /// Print what consumers have used of their quotas, from a running gateway.
    Usage(usage::Usage),
    /// Show what caches of a running gateway hold, and purge responses.
    #[command(subcommand)]
    Cache(cache::Cache),
    /// Put routers of a running gateway in maintenance, end it, and list them.
    #[command(subcommand)]
    Maintenance(maintenance::Maintenance),
    /// Run a demo: two backends, route files, local HTTPS.
    Demo(Demo),
}

#[derive(Args)]
struct Flags {
    /// Settings, as for the gateway itself.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "--SETTING[=VALUE]")]
    settings: Vec<String>,
}

#[derive(Args)]
struct Demo {
    /// Folder of route files; created if it does not exist.
    #[arg(long, default_value = "tidegate-demo")]
    folder: PathBuf,
    /// Port for HTTP.
    #[arg(long, default_value_t = 8000)]
    http: u16,
    /// Port for HTTPS.
    #[arg(long, default_value_t = 8443)]
    https: u16,
    /// Port for API and dashboard.
    #[arg(long, default_value_t = 8080)]
    api: u16,
    #[command(subcommand)]
    part: Option<DemoPart>,
}

#[derive(Subcommand)]
enum DemoPart {
    /// Only a backend, which responds to every request with a report of it.
    Backend {
        /// Address to listen on: `[host]:port`.
        #[arg(long, default_value = ":80")]
        address: String,
        /// Name of the backend; the host name by default.
        #[arg(long)]
        name: Option<String>,
    },
}

/// Runs the command in the arguments of the process.
pub fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    // Compose files have `command: traefik --entryPoints…` for images whose entry point is a shell.
    if arguments.first().is_some_and(|first| is_program(first)) {
        arguments.remove(0);
    }
    // Settings are flags that no parser knows in advance: without a command, all arguments are settings.
    let is_command = arguments.first().is_some_and(|first| {
        !first.starts_with('-') || ["-h", "--help", "-V", "--version"].contains(&first.as_str())
    });
    if !is_command {
        return serve(&arguments);
    }
    match Cli::parse_from(std::iter::once("tidegate".to_owned()).chain(arguments)).command {
        Command::Version => tell(&format!("Version:      {}", env!("CARGO_PKG_VERSION")), ExitCode::SUCCESS),
        Command::Healthcheck(flags) => healthcheck(&flags.settings),
        Command::Check(flags) => check(&flags.settings),
        Command::Certs(certs) => match load(certs.settings()) {
            Ok(loaded) => match certs.run(&loaded.settings) {
                Ok(text) => tell(&text, ExitCode::SUCCESS),
                Err(error) => refuse([(error.to_string(), None)]),
            },
            Err(problems) => refuse_all(&problems),
        },
        Command::Keys(keys) => match keys.run() {
            Ok(said) => {
                let code =
                    if said.out.is_empty() { ExitCode::SUCCESS } else { tell(&said.out, ExitCode::SUCCESS) };
                note(&said.note);
                code
            }
            Err(error) => refuse([(error.to_string(), None)]),
        },
        Command::Why(why) => match why.run() {
            Ok(text) => tell(&text, ExitCode::SUCCESS),
            Err(error) => refuse([(error.to_string(), None)]),
        },
        Command::Explain(explain) => run_explain(&explain),
        Command::Tail(tail) => match tail.run(|line| _ = tell(line, ExitCode::SUCCESS)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse([(error.to_string(), None)]),
        },
        Command::Top(top) => match top.run() {
            Ok(text) => text.map_or(ExitCode::SUCCESS, |text| tell(&text, ExitCode::SUCCESS)),
            Err(error) => refuse([(error.to_string(), None)]),
        },
        Command::Usage(usage) => match usage.run() {
            Ok(text) => tell(&text, ExitCode::SUCCESS),
            Err(error) => refuse([(error.to_string(), None)]),
        },
        Command::Cache(cache) => match cache.run() {
            Ok(text) => tell(&text, ExitCode::SUCCESS),
            Err(error) => refuse([(error.to_string(), None)]),
        },
        Command::Maintenance(maintenance) => match maintenance.run() {
            Ok(text) => tell(&text, ExitCode::SUCCESS),
            Err(error) => refuse([(error.to_string(), None)]),
        },
        Command::Demo(options) => match run_demo(options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse([(format!("{error:#}"), None)]),
        },
    }
}

fn run_explain(explain: &explain::Explain) -> ExitCode {
    let explained = match explain.settings().map(load) {
        None => explain.ask(),
        Some(Ok(loaded)) => explain.read(loaded.settings),
        Some(Err(problems)) => return refuse_all(&problems),
    };
    match explained {
        Ok(text) => tell(&text, ExitCode::SUCCESS),
        Err(error) => refuse([(error.to_string(), None)]),
    }
}

/// Returns true for the name of the program, with or without a folder.
fn is_program(argument: &str) -> bool {
    let name = Path::new(argument).file_name().and_then(|name| name.to_str());
    matches!(name, Some("traefik" | "tidegate"))
}

fn serve(flags: &[String]) -> ExitCode {
    let loaded = match load(flags) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse_all(&problems),
    };
    let log = match ProcessLog::start(&loaded.settings.log) {
        Ok(log) => log,
        Err(error) => return refuse([(error.to_string(), None)]),
    };
    let code = match run::run(loaded.settings, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            refuse([(error.to_string(), None)])
        }
    };
    log.stop();
    code
}

fn healthcheck(flags: &[String]) -> ExitCode {
    match load(flags).map(|loaded| healthcheck::check(&loaded.settings)) {
        Ok(Ok(line)) => tell(&line, ExitCode::SUCCESS),
        Ok(Err(error)) => tell(&error.to_string(), ExitCode::FAILURE),
        Err(problems) => refuse_all(&problems),
    }
}

fn check(flags: &[String]) -> ExitCode {
    let loaded = match load(flags) {
        Ok(loaded) => loaded,
        Err(problems) => return refuse_all(&problems),
    };
    let file = loaded
        .file
        .as_ref()
        .map_or("no settings file".to_owned(), |path| format!("settings: {}", path.display()));
    match check::run(loaded.settings) {
        Ok(found) => {
            let mut text = file;
            for line in &found.seen {
                text.push_str(&format!("\n{line}"));
            }
            let problems = &found.problems;
            for problem in problems {
                text.push_str(&format!("\n\n{}", shown(problem)));
            }
            let total =
                if problems.is_empty() { "no problems".to_owned() } else { count(problems.len(), "problem") };
            text.push_str(&format!("\n\n{total}"));
            tell(&text, if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => refuse([(error.to_string(), None)]),
    }
}

/// Formats as `1 router` or `2 routers`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn shown(problem: &Problem) -> String {
    match &problem.excerpt {
        Some(excerpt) => format!("{problem}\n{}", snippet(excerpt)),
        None => problem.to_string(),
    }
}

/// Returns the lines of an excerpt without its headline, which repeats the problem.
fn snippet(excerpt: &str) -> &str {
    let start = excerpt.find("-->").and_then(|arrow| excerpt[..arrow].rfind('\n'));
    start.map_or(excerpt, |newline| &excerpt[newline + 1..]).trim_end()
}

fn load(flags: &[String]) -> Result<settings::Loaded, Vec<Problem>> {
    let variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    settings::load(flags, &variables)
}

fn run_demo(options: Demo) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(DemoPart::Backend { address, name }) = options.part {
        let address = if address.starts_with(':') { format!("[::]{address}") } else { address };
        let name = name
            .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
            .unwrap_or_else(|| "backend".into());
        return runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(&address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            demo::backend(listener, name.trim().to_owned()).await;
            Ok(())
        });
    }
    let ports = demo::Ports { http: options.http, https: options.https, api: options.api };
    demo::check_ports(ports)?;
    let mut backends: [SocketAddr; 2] = [([127, 0, 0, 1], 0).into(); 2];
    for (number, address) in backends.iter_mut().enumerate() {
        let listener = runtime.block_on(tokio::net::TcpListener::bind(*address))?;
        *address = listener.local_addr()?;
        runtime.spawn(demo::backend(listener, format!("backend {}", number + 1)));
    }
    let flags = demo::prepare(&options.folder, backends, ports)?;
    // The demo uses only its own flags, regardless of other settings on this machine.
    let loaded = settings::load(&flags, &[("TIDEGATE_CONFIGFILE".to_owned(), String::new())]);
    let loaded: Settings = loaded.map_err(|problems| anyhow::anyhow!("{}", problems[0]))?.settings;
    let log = ProcessLog::start(&loaded.log)?;
    tell(&demo::guide(&options.folder, ports), ExitCode::SUCCESS);
    run::run(loaded, &log).map_err(|error| anyhow::anyhow!("{error}"))
}

fn refuse_all(problems: &[Problem]) -> ExitCode {
    refuse(problems.iter().map(|problem| (problem.to_string(), problem.excerpt.clone())))
}

#[expect(clippy::print_stdout, reason = "the answer of a command")]
fn tell(text: &str, code: ExitCode) -> ExitCode {
    println!("{text}");
    code
}

#[expect(
    clippy::print_stderr,
    reason = "the log is not running yet, or the person at the terminal does not see it"
)]
fn refuse(errors: impl IntoIterator<Item = (String, Option<String>)>) -> ExitCode {
    for (error, excerpt) in errors {
        eprintln!("tidegate: {error}");
        if let Some(excerpt) = excerpt {
            eprintln!("{}", snippet(&excerpt));
        }
    }
    ExitCode::FAILURE
}

/// Tells the person at the terminal something that is not the answer of a command.
#[expect(clippy::print_stderr, reason = "standard output is for programs")]
fn note(text: &str) {
    if !text.is_empty() {
        eprintln!("{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
