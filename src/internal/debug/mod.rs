//! `/debug`: profiles and the state of the process, as far as Traefik's `api.debug` has an equivalent.

mod cpu;
mod heap;
mod pprof;
mod runtime;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use serde_json::json;
use tidegate_core::{Body, BoxFuture, Reason, Response, reply};

pub use runtime::Runtimes;

/// Default time of a CPU profile in seconds, as in Go.
const DEFAULT_SECONDS: u64 = 30;
/// Maximum time of a CPU profile in seconds.
const MAX_SECONDS: u64 = 60;
/// What replaces the values of options, which may be secrets.
const REDACTED: &str = "REDACTED";

/// Profiles of Go that have no equivalent, and why.
const ABSENT: [(&str, &str); 6] = [
    ("allocs", "past allocations are not recorded: see heap"),
    ("block", "tasks do not block: see /debug/runtime"),
    ("goroutine", "stacks of tasks are not recorded: see /debug/runtime for their number"),
    ("mutex", "locks are not recorded"),
    ("threadcreate", "threads are created at the start: see /debug/runtime"),
    ("trace", "the scheduler is not traced: see /debug/runtime"),
];

/// Serves the debug endpoints.
pub(super) struct Debug {
    runtimes: Arc<Runtimes>,
    /// Whether a profile is being recorded.
    is_busy: Arc<AtomicBool>,
}

/// The one profile that is being recorded. Another one may begin when it is dropped.
struct Recording(Arc<AtomicBool>);

impl Drop for Recording {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Debug {
    /// Creates the endpoints.
    pub(super) fn new(runtimes: Arc<Runtimes>) -> Self {
        Self { runtimes, is_busy: Arc::default() }
    }

    /// Responds to a request for a path below `/debug/`.
    pub(super) fn answer(&self, path: &str, query: &str, method: &Method) -> BoxFuture<'static, Response> {
        let response = match path {
            // The tool asks for symbols by POST.
            "pprof/symbol" => text(StatusCode::OK, "num_symbols: 0\n".to_owned()),
            _ if method != Method::GET => reply::empty(StatusCode::METHOD_NOT_ALLOWED, Reason::OwnService),
            "vars" => json_body(&self.vars()),
            "runtime" => json_body(&self.runtimes.view()),
            "pprof/" | "pprof" => html(index()),
            "pprof/cmdline" => text(StatusCode::OK, command_line().join("\0")),
            "pprof/profile" => return self.profile(query),
            "pprof/heap" => return self.heap(),
            _ => match ABSENT.iter().find(|(name, _)| path.strip_prefix("pprof/") == Some(*name)) {
                Some((name, why)) => {
                    text(StatusCode::NOT_IMPLEMENTED, format!("no profile `{name}`: {why}\n"))
                }
                None => reply::not_found(Reason::OwnService),
            },
        };
        Box::pin(std::future::ready(response))
    }

    fn begin(&self) -> Option<Recording> {
        let was_busy = self.is_busy.swap(true, Ordering::Acquire);
        (!was_busy).then(|| Recording(self.is_busy.clone()))
    }

    /// Records where CPU time is spent. If the client leaves, another profile may begin.
    fn profile(&self, query: &str) -> BoxFuture<'static, Response> {
        let Some(seconds) = seconds(query) else {
            let message = format!("invalid seconds: expected a number from 1 to {MAX_SECONDS}\n");
            return Box::pin(std::future::ready(text(StatusCode::BAD_REQUEST, message)));
        };
        let Some(recording) = self.begin() else { return busy() };
        Box::pin(async move {
            let recorded = cpu::record(Duration::from_secs(seconds)).await;
            drop(recording);
            match recorded {
                Ok(profile) => attachment("profile", profile),
                Err(error) => text(error.status(), format!("{error}\n")),
            }
        })
    }

    /// Returns the sampled allocations that are in use.
    fn heap(&self) -> BoxFuture<'static, Response> {
        let Some(recording) = self.begin() else { return busy() };
        Box::pin(async move {
            // Moved along, as the thread continues when the client leaves.
            let dumped = tokio::task::spawn_blocking(move || {
                let dumped = heap::dump();
                drop(recording);
                dumped
            });
            match dumped.await {
                Ok(Ok(profile)) => attachment("heap", profile),
                Ok(Err(error)) => text(error.status(), format!("{error}\n")),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        })
    }

    /// Returns what Go publishes by `expvar`, as far as it exists.
    fn vars(&self) -> serde_json::Value {
        let resident = cpu::resident_bytes();
        json!({
            "Goroutines2": self.runtimes.tasks(),
            "cmdline": command_line(),
            "memstats": {"Sys": resident},
        })
    }
}

fn busy() -> BoxFuture<'static, Response> {
    let response = text(StatusCode::CONFLICT, "another profile is being recorded\n".to_owned());
    Box::pin(std::future::ready(response))
}

fn seconds(query: &str) -> Option<u64> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let given = pairs.find(|(name, _)| *name == "seconds").map(|(_, value)| value.parse().ok());
    given.unwrap_or(Some(DEFAULT_SECONDS)).filter(|seconds| (1..=MAX_SECONDS).contains(seconds))
}

/// Returns the program and its options without their values.
fn command_line() -> Vec<String> {
    redacted(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()))
}

fn redacted(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let redact = |(index, argument): (usize, String)| match argument.split_once('=') {
        _ if index == 0 => argument,
        Some((name, _)) if name.starts_with('-') => format!("{name}={REDACTED}"),
        None if argument.starts_with('-') => argument,
        _ => REDACTED.to_owned(),
    };
    arguments.enumerate().map(redact).collect()
}

fn index() -> String {
    let present = [
        ("cmdline", "the command line, without the values of options"),
        ("heap", "sampled allocations that are in use (jemalloc)"),
        ("profile", "CPU time by stack and thread, over ?seconds=30"),
        ("symbol", "for `pprof`: without symbols"),
    ];
    let item = |(name, what): &(&str, &str)| format!("<li><a href=\"{name}\">{name}</a>: {what}</li>\n");
    let present: String = present.iter().map(item).collect();
    let absent: String = ABSENT.iter().map(|(name, why)| format!("<li>{name}: {why}</li>\n")).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><title>/debug/pprof/</title>\n<h1>Profiles</h1>\n<ul>\n{present}</ul>\n\
         <h2>Not available</h2>\n<ul>\n{absent}</ul>\n<p>See also <a href=\"../vars\">vars</a> and \
         <a href=\"../runtime\">runtime</a>.</p></html>\n"
    )
}

fn with_type(status: StatusCode, body: Body, content_type: &'static str) -> Response {
    let mut response = Response::new(body).because(Reason::OwnService);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

fn text(status: StatusCode, text: String) -> Response {
    with_type(status, Body::full(text), "text/plain; charset=utf-8")
}

fn html(text: String) -> Response {
    with_type(StatusCode::OK, Body::full(text), "text/html; charset=utf-8")
}

fn json_body(value: &serde_json::Value) -> Response {
    with_type(StatusCode::OK, Body::full(format!("{value:#}\n")), "application/json; charset=utf-8")
}

fn attachment(name: &'static str, profile: Vec<u8>) -> Response {
    let mut response = with_type(StatusCode::OK, Body::full(profile), "application/octet-stream");
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{name}\""));
    if let Ok(disposition) = disposition {
        response.headers_mut().insert(CONTENT_DISPOSITION, disposition);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_options_are_not_shown() {
        let arguments = ["/bin/tidegate", "--a.token=x", "--b", "secret", "c=d", "-e"].map(str::to_owned);
        let shown = redacted(arguments.into_iter());
        assert_eq!(shown, ["/bin/tidegate", "--a.token=REDACTED", "--b", REDACTED, REDACTED, "-e"]);
    }

    #[test]
    fn the_time_of_a_profile_is_bounded() {
        for (query, expected) in [
            ("", Some(30)),
            ("seconds=5", Some(5)),
            ("x=1&seconds=60", Some(60)),
            ("seconds=61", None),
            ("seconds=0", None),
            ("seconds=-1", None),
            ("seconds=", None),
        ] {
            assert_eq!(seconds(query), expected, "{query}");
        }
    }
}
