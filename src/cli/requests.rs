//! `tidegate why` and `tidegate tail`: what happened to requests of a running gateway.

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::client::{ApiArguments, ApiError};
use super::text::printable;

#[derive(Args)]
pub(super) struct Why {
    /// Identifier of the request: that of the list, of `requestId`, or of its trace.
    id: String,
    #[command(flatten)]
    api: ApiArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Tail {
    /// Print only requests for which this expression holds, like `status >= 500 && host == "a.test"`.
    filter: Option<String>,
    #[command(flatten)]
    api: ApiArguments,
    /// Maximum number of requests that are printed per second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Exit after this many requests.
    #[arg(long)]
    count: Option<usize>,
    /// Print JSON, one request a line.
    #[arg(long)]
    json: bool,
}

impl Why {
    /// Returns what happened to the request.
    pub(super) fn run(&self) -> Result<String, ApiError> {
        let id = utf8_percent_encode(&self.id, NON_ALPHANUMERIC);
        let request = self.api.client()?.get(&format!("requests/{id}"))?;
        Ok(if self.json { format!("{request:#}") } else { explained(&request) })
    }
}

impl Tail {
    /// Prints requests as they end until the gateway stops.
    pub(super) fn run(&self, mut print: impl FnMut(&str)) -> Result<(), ApiError> {
        let filter = utf8_percent_encode(self.filter.as_deref().unwrap_or(""), NON_ALPHANUMERIC);
        let path = format!("requests/stream?rate={}&filter={filter}", self.rate);
        let mut printed = 0;
        self.api.client()?.lines(&path, |request| {
            let is_request = request["missed"].is_null();
            print(&match (self.json, is_request) {
                (true, _) => request.to_string(),
                (false, true) => line(request),
                (false, false) => format!("({} requests were left out)", request["missed"]),
            });
            printed += usize::from(is_request);
            self.count != Some(printed)
        })
    }
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or("")
}

/// Returns a request as one line.
fn line(request: &Value) -> String {
    let of = |key: &str| match &request[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    };
    format!(
        "{} {} {} {} {}{} {} {} {} {}ms",
        of("time"),
        of("id"),
        of("status"),
        of("method"),
        of("host"),
        of("path"),
        of("client"),
        of("origin"),
        of("reason"),
        of("durationMs")
    )
}

/// Explains a request.
fn explained(request: &Value) -> String {
    let of = |key: &str| printable(text(request, key));
    let mut lines = vec![
        format!("{} {}{} ({})", of("method"), of("host"), of("path"), of("protocol")),
        format!("  {} at {}", of("id"), of("time")),
        format!("  client       {}", of("client")),
        format!("  entry point  {}", of("entryPoint")),
    ];
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!("  {name:<13}{value}"));
        }
    };
    add("request ID", of("requestId"));
    add("trace", of("traceId"));
    add("identity", of("identity"));
    add("consumer", of("consumer"));
    let tls = &request["tls"];
    if tls.is_object() {
        let name = printable(text(tls, "serverName"));
        add("TLS", format!("{} {} for {name}", text(tls, "version"), text(tls, "cipher")));
    }
    let no_router = "none".to_owned();
    add("router", if of("router").is_empty() { no_router } else { of("router") });
    for middleware in request["middlewares"].as_array().into_iter().flatten() {
        let reached = if middleware["reached"] == true { "" } else { " (not reached)" };
        add("middleware", format!("{}{reached}", printable(text(middleware, "name"))));
    }
    let reached = if request["reachedService"] == true { "" } else { " (not reached)" };
    add("service", of("service") + if of("service").is_empty() { "" } else { reached });
    for attempt in request["attempts"].as_array().into_iter().flatten() {
        add("attempt", attempted(attempt));
    }
    for header in request["headers"].as_array().into_iter().flatten() {
        add("header", printable(header.as_str().unwrap_or("")));
    }
    add("status", request["status"].to_string());
    add("answered by", of("origin"));
    if !of("reason").is_empty() {
        add("reason", format!("{}: {}", of("reason"), of("description")));
    }
    add("aborted by", of("abortedBy"));
    add("bytes", format!("{} received, {} sent", request["receivedBytes"], request["sentBytes"]));
    for (name, value) in request["timings"].as_object().into_iter().flatten() {
        add(
            "time",
            format!("{value} ms {}", TIMES.iter().find(|(key, _)| key == name).map_or("", |(_, text)| text)),
        );
    }
    lines.join("\n")
}

/// Descriptions of times.
const TIMES: [(&str, &str); 5] = [
    ("connectionAgeMs", "from the start of the connection to the request"),
    ("routedMs", "until the router was found"),
    ("sentToServerMs", "until it was passed to a server"),
    ("responseStartedMs", "until the response began"),
    ("endedMs", "until it ended"),
];

fn attempted(attempt: &Value) -> String {
    let mut parts = vec![match text(attempt, "server") {
        "" => format!("{}: no usable server", text(attempt, "service")),
        server => format!("{} at {server}", text(attempt, "service")),
    }];
    let mut add = |key: &str, before: &str, after: &str| {
        if !attempt[key].is_null() {
            parts.push(format!("{before}{}{after}", attempt[key]));
        }
    };
    add("status", "status ", "");
    add("afterMs", "sent after ", " ms");
    add("connectMs", "new connection in ", " ms");
    add("tlsMs", "TLS handshake in ", " ms");
    add("tookMs", "took ", " ms");
    if attempt["replaced"] == true {
        parts.push("another response followed".to_owned());
    }
    parts.join(", ")
}
