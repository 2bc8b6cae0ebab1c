//! `tidegate explain`: what would happen to a request.

use std::fmt::Write as _;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::check;
use super::client::{ApiArguments, ApiError};
use super::text::printable;
use crate::explain::{Question, QuestionError, explain, header_line};
use crate::settings::Settings;

#[derive(Args)]
pub(super) struct Explain {
    /// The method, `GET` if it is left out, and the URL.
    #[arg(value_name = "[METHOD] URL", num_args = 1..=2, required = true)]
    request: Vec<String>,
    /// A header: `Name: value`. `Host` replaces that of the URL.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    from: String,
    /// The entry point; by default, the one with the port of the URL.
    #[arg(long, value_name = "NAME", default_value = "")]
    entry_point: String,
    #[command(flatten)]
    api: ApiArguments,
    /// Do not ask a running gateway: read settings, route files and labels, as `check` does.
    #[arg(long)]
    offline: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Settings for `--offline`, as for the gateway itself.
    #[arg(last = true, value_name = "--SETTING[=VALUE]", requires = "offline")]
    settings: Vec<String>,
}

/// Why a request cannot be explained.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExplainError {
    /// The request is invalid.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// The API did not answer.
    #[error("{}{}", .0, hint(.0))]
    Api(#[from] ApiError),
    /// The configuration cannot be read.
    #[error("{0}")]
    Configuration(#[from] check::CheckError),
}

fn hint(error: &ApiError) -> &'static str {
    match error {
        ApiError::Unreachable(..) => "; use --api to name another, or --offline to read the configuration",
        _ => "",
    }
}

impl Explain {
    /// Returns the settings of `--offline`; `None` to ask a running gateway.
    pub(super) fn settings(&self) -> Option<&[String]> {
        self.offline.then_some(&self.settings)
    }

    /// Asks a running gateway.
    pub(super) fn ask(&self) -> Result<String, ExplainError> {
        let question = self.question()?;
        let mut headers = serde_json::Map::new();
        for (name, value) in question.headers {
            let values = headers.entry(name).or_insert_with(|| json!([]));
            values.as_array_mut().into_iter().for_each(|values| values.push(value.clone().into()));
        }
        let body = json!({
            "method": question.method,
            "url": question.url,
            "from": question.from,
            "entryPoint": question.entry_point,
            "headers": headers,
        });
        let explanation = self.api.client()?.post("explain", body.to_string())?;
        Ok(self.shown(&explanation))
    }

    /// Explains by the configuration that a gateway with these settings would have.
    pub(super) fn read(&self, settings: Settings) -> Result<String, ExplainError> {
        let question = self.question()?;
        let read = check::compile(Arc::new(settings))?;
        let explanation = explain(&read.snapshot, &read.settings, &question)?;
        Ok(self.shown(&serde_json::to_value(&explanation).unwrap_or_default()))
    }

    fn question(&self) -> Result<Question, QuestionError> {
        let (method, url) = match &self.request[..] {
            [method, url] => (method.clone(), url.clone()),
            [url] => (String::new(), url.clone()),
            _ => (String::new(), String::new()),
        };
        Ok(Question {
            method,
            url,
            headers: self.headers.iter().map(|line| header_line(line)).collect::<Result<_, _>>()?,
            from: self.from.clone(),
            entry_point: self.entry_point.clone(),
        })
    }

    fn shown(&self, explanation: &Value) -> String {
        if self.json { format!("{explanation:#}") } else { explained(explanation) }
    }
}

/// Formats an explanation for a terminal.
fn explained(explanation: &Value) -> String {
    let mut out = Lines::default();
    let request = &explanation["request"];
    out.line(
        0,
        &format!("{} {} from {}", text(request, "method"), text(request, "url"), text(request, "from")),
    );
    let entry_point = &explanation["entryPoint"];
    let chosen = match text(entry_point, "chosenBy").as_str() {
        "guess" => " (a guess: no entry point has this port, --entry-point names one)",
        _ => "",
    };
    out.part(
        "entry point",
        &format!("{} {}{chosen}", text(entry_point, "name"), text(entry_point, "address")),
    );
    tls(&mut out, &explanation["tls"]);
    for level in list(explanation, "routing") {
        routing(&mut out, level);
    }
    if explanation["service"].is_object() {
        service(&mut out, &explanation["service"], 0);
    }
    let forwarded = &explanation["forwarded"];
    if forwarded.is_object() {
        let parts = ["method", "path", "host"].map(|key| text(forwarded, key));
        out.part("server gets", &format!("{} {} for host {}", parts[0], parts[1], parts[2]));
    }
    result(&mut out, &explanation["result"]);
    out.0.join("\n")
}

/// The lines of an explanation.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn line(&mut self, depth: usize, text: &str) {
        self.0.push(format!("{:width$}{text}", "", width = depth * 2));
    }

    /// Adds a line with a title.
    fn part(&mut self, title: &str, text: &str) {
        self.line(1, &format!("{title:<13}{text}"));
    }

    /// Adds a line below one with a title.
    fn detail(&mut self, depth: usize, text: &str) {
        self.0.push(format!("{:15}{:width$}{text}", "", "", width = depth * 2));
    }
}

fn text(object: &Value, key: &str) -> String {
    printable(object[key].as_str().unwrap_or(""))
}

fn list<'v>(object: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> {
    object[key].as_array().into_iter().flatten()
}

fn texts(object: &Value, key: &str) -> String {
    let all: Vec<String> = list(object, key).map(|one| printable(one.as_str().unwrap_or(""))).collect();
    all.join(", ")
}

fn tls(out: &mut Lines, tls: &Value) {
    if !tls.is_object() {
        return;
    }
    let mut options = format!("options {}", text(tls, "options"));
    if !text(tls, "optionsOrigin").is_empty() {
        let _ = write!(options, " ({})", text(tls, "optionsOrigin"));
    }
    match text(tls, "clientCertificate").as_str() {
        "required" => options.push_str(", the client needs a certificate"),
        "verified" => options.push_str(", a certificate of the client is verified"),
        _ => {}
    }
    out.part("TLS", &options);
    let certificate = &tls["certificate"];
    if certificate.is_object() {
        let names = texts(certificate, "names");
        let until = text(certificate, "notAfter");
        let source = text(certificate, "source");
        out.part("certificate", &format!("{names}, until {until}, {source}{}", at(certificate)));
    }
    for note in list(tls, "notes") {
        out.detail(0, &printable(note.as_str().unwrap_or("")));
    }
}

/// Returns where an object was written.
fn at(object: &Value) -> String {
    match text(object, "origin").as_str() {
        "" | "internal" => String::new(),
        origin => format!(" ({origin})"),
    }
}

fn routing(out: &mut Lines, level: &Value) {
    let mut title = "routers";
    for candidate in list(level, "candidates") {
        let name = text(candidate, "router");
        let why = match (&candidate["failed"], &candidate["chosen"]) {
            (Value::Null, Value::Bool(true)) => "chosen".to_owned(),
            (Value::Null, _) => "matches too".to_owned(),
            (failed, _) => format!("no: {} ({})", text(failed, "condition"), text(failed, "because")),
        };
        let priority = &candidate["priority"];
        out.part(title, &format!("{name} [{priority}] {why}{}", at(candidate)));
        title = "";
    }
    if let Some(omitted) = level["omitted"].as_u64() {
        out.part(title, &format!("and {omitted} more, none of which matches"));
    }
    let router = &level["router"];
    if !router.is_object() {
        out.part("router", "none matches");
        return;
    }
    out.part("router", &format!("{}{}", text(router, "name"), at(router)));
    kept(out, router, 0);
    maintenance(out, &router["maintenance"]);
    for error in list(router, "errors") {
        out.detail(0, &printable(error.as_str().unwrap_or("")));
    }
    for one in list(router, "middlewares") {
        middleware(out, one, 0);
    }
}

/// Says why an object that nothing defines still exists.
fn kept(out: &mut Lines, object: &Value, depth: usize) {
    if object["kept"].is_string() {
        out.detail(depth, &text(object, "kept"));
    }
}

fn maintenance(out: &mut Lines, maintenance: &Value) {
    if !maintenance.is_object() {
        return;
    }
    let by = match text(maintenance, "source").as_str() {
        "switch" => "by an operator",
        _ => "by its configuration",
    };
    let mut line = format!("in maintenance {by}");
    if maintenance["until"].is_string() {
        let _ = write!(line, " until {}", text(maintenance, "until"));
    }
    let allow = texts(maintenance, "allow");
    if !allow.is_empty() {
        let _ = write!(line, ", except for {allow}");
    }
    out.detail(0, &line);
}

fn middleware(out: &mut Lines, one: &Value, depth: usize) {
    let via = texts(one, "via");
    let via = if via.is_empty() { via } else { format!(" of {via}") };
    let verdict = match text(one, "verdict").as_str() {
        "passes" => "passes it on".to_owned(),
        "responds" => format!("responds with {}", answer(&one["response"])),
        "depends" => "known once it is sent".to_owned(),
        _ => "not reached".to_owned(),
    };
    let line = format!("{} ({}{via}): {verdict}{}", text(one, "name"), text(one, "kind"), at(one));
    match depth {
        0 => out.part("middleware", &line),
        _ => out.detail(depth - 1, &format!("middleware {line}")),
    }
    for note in list(one, "notes") {
        out.detail(depth, &printable(note.as_str().unwrap_or("")));
    }
    let changes = &one["changes"];
    for (key, what) in [("path", "path"), ("host", "host")] {
        let change = &changes[key];
        if change.is_object() {
            out.detail(depth, &format!("{what} {} becomes {}", text(change, "from"), text(change, "to")));
        }
    }
    for (key, what) in [
        ("requestHeaders", "sets request headers"),
        ("removedRequestHeaders", "removes request headers"),
        ("responseHeaders", "sets response headers"),
    ] {
        let names = texts(changes, key);
        if !names.is_empty() {
            out.detail(depth, &format!("{what} {names}"));
        }
    }
}

fn answer(response: &Value) -> String {
    let mut shown = response["status"].to_string();
    if !text(response, "location").is_empty() {
        let _ = write!(shown, " to {}", text(response, "location"));
    }
    if !text(response, "reason").is_empty() {
        let _ = write!(shown, ", {}: {}", text(response, "reason"), text(response, "description"));
    }
    shown
}

fn service(out: &mut Lines, service: &Value, depth: usize) {
    let line = format!("{} ({}){}", text(service, "name"), text(service, "kind"), at(service));
    match depth {
        0 => out.part("service", &line),
        _ => out.detail(depth - 1, &format!("service {line}")),
    }
    kept(out, service, depth);
    for one in list(service, "middlewares") {
        middleware(out, one, depth + 1);
    }
    for server in list(service, "servers") {
        let next = if server["next"] == true { ", next" } else { "" };
        let (url, state) = (text(server, "url"), text(server, "state"));
        let line =
            format!("{url} is {state}, weight {}, {} in flight{next}", server["weight"], server["inFlight"]);
        out.detail(depth, &line);
    }
    if let Some(omitted) = service["omitted"].as_u64() {
        out.detail(depth, &format!("and {omitted} more servers"));
    }
    match text(service, "choice").as_str() {
        "random" => out.detail(depth, "one of them, at random"),
        "none" => out.detail(depth, "none is usable"),
        _ => {}
    }
    let hold = &service["hold"];
    if hold.is_object() {
        let (wait, queue, waiting) = (text(hold, "maxWait"), &hold["maxQueue"], &hold["waiting"]);
        out.detail(depth, &format!("requests wait up to {wait} for one (hold), {waiting} of {queue} do"));
    }
    for child in list(service, "services") {
        let state = if child["up"] == true { "up" } else { "down" };
        let next = if child["next"] == true { ", next" } else { "" };
        out.detail(depth, &format!("{} {} is {state}{next}", text(child, "role"), text(child, "name")));
        if child["service"].is_object() {
            self::service(out, &child["service"], depth + 1);
        }
    }
}

fn result(out: &mut Lines, result: &Value) {
    let origin = text(result, "origin");
    let answered = match origin.as_str() {
        "server" => "a server responds".to_owned(),
        "handshake" => "the handshake fails".to_owned(),
        _ => match origin.split_once(':') {
            Some(("tcpRouter", name)) => format!("the TCP router {name} gets the connection"),
            _ => format!("{origin} responds"),
        },
    };
    let response = &result["response"];
    let with = if response.is_object() { format!(" with {}", answer(response)) } else { String::new() };
    out.part("result", &format!("{answered}{with}"));
    for revised in list(result, "revised") {
        out.detail(0, &printable(revised.as_str().unwrap_or("")));
    }
    if result["certain"] == false {
        out.detail(0, &format!("it depends on {}", texts(result, "dependsOn")));
    }
}
