//! `tidegate maintenance`: puts routers of a running gateway in maintenance.

use clap::{Args, Subcommand};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::client::{ApiArguments, ApiError};
use super::text::{printable, table};

/// What is escaped in a part of a path.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'@');

#[derive(Subcommand)]
pub(super) enum Maintenance {
    /// Put a router in maintenance: it answers 503 until it is switched off.
    On(On),
    /// End the maintenance of a router.
    Off(Off),
    /// List the routers in maintenance.
    List(List),
}

/// Which gateway.
#[derive(Args)]
struct Common {
    #[command(flatten)]
    api: ApiArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct On {
    /// The router: `name@provider`, or its name if only one router has it.
    router: String,
    /// When clients should come back, such as `10m`; 0 leaves the header out.
    #[arg(long, value_name = "DURATION")]
    retry_after: Option<String>,
    /// Address or range (CIDR) whose requests are served. May be repeated.
    #[arg(long, value_name = "CIDR")]
    allow: Vec<String>,
    /// How long the maintenance lasts, such as `2h`. By default until it is switched off.
    #[arg(long, value_name = "DURATION")]
    r#for: Option<String>,
    /// When the maintenance ends, such as `2030-01-31T12:00:00Z`.
    #[arg(long, value_name = "TIME", conflicts_with = "for")]
    until: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct Off {
    /// The router: `name@provider`, or its name if only one router has it.
    router: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct List {
    #[command(flatten)]
    common: Common,
}

impl Maintenance {
    /// Runs the command, and returns its output.
    pub(super) fn run(&self) -> Result<String, ApiError> {
        match self {
            Self::On(on) => on.run(),
            Self::Off(off) => off.run(),
            Self::List(list) => list.run(),
        }
    }
}

impl Common {
    fn text(&self, value: &Value, text: impl FnOnce(&Value) -> String) -> String {
        if self.json { format!("{value:#}") } else { text(value) }
    }
}

/// Returns the path of a router.
fn path(router: &str) -> String {
    format!("maintenance/{}", utf8_percent_encode(router, ESCAPED))
}

impl On {
    fn run(&self) -> Result<String, ApiError> {
        let mut request = json!({});
        let texts = [("retryAfter", &self.retry_after), ("for", &self.r#for), ("until", &self.until)];
        for (key, text) in texts {
            if let Some(text) = text {
                request[key] = text.as_str().into();
            }
        }
        if !self.allow.is_empty() {
            request["allow"] = self.allow.clone().into();
        }
        let switched = self.common.api.client()?.put(&path(&self.router), request.to_string())?;
        Ok(self.common.text(&switched, switched_text))
    }
}

impl Off {
    fn run(&self) -> Result<String, ApiError> {
        let switched = self.common.api.client()?.delete(&path(&self.router))?;
        Ok(self.common.text(&switched, switched_text))
    }
}

fn switched_text(switched: &Value) -> String {
    let router = printable(switched["router"].as_str().unwrap_or(""));
    let is_on = switched["switched"] == true;
    let mut text = match (is_on, switched["changed"] == true) {
        (true, _) => format!("{router} is in maintenance"),
        (false, true) => format!("{router} is no longer in maintenance"),
        (false, false) => format!("{router} was not in maintenance"),
    };
    if switched["active"] == false {
        text.push_str("\nnot active yet: the configuration is being compiled");
    }
    if let Some(members) = switched["cluster"]["members"].as_u64() {
        text.push_str(&format!("\nannounced to {members} other members of the cluster"));
    }
    match switched["problem"].as_str() {
        Some(problem) => text.push_str(&format!("\n{}", printable(problem))),
        None if is_on && switched["durable"] == false => {
            text.push_str("\na restart of the gateway ends it: providers.lastState.directory is not set");
        }
        None => {}
    }
    text
}

impl List {
    fn run(&self) -> Result<String, ApiError> {
        let all = self.common.api.client()?.get("maintenance")?;
        Ok(self.common.text(&all, |all| {
            let rows: Vec<_> = all.as_array().into_iter().flatten().map(row).collect();
            if rows.is_empty() { "no router is in maintenance".to_owned() } else { table(&COLUMNS, &rows) }
        }))
    }
}

const COLUMNS: [&str; 7] = ["ROUTER", "BY", "SINCE", "UNTIL", "STATUS", "RETRY", "ALLOW"];

fn row(one: &Value) -> [String; COLUMNS.len()] {
    let of = |key: &str| match &one[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    };
    let allow: Vec<&str> = one["allow"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let allow = if allow.is_empty() { "-".to_owned() } else { printable(&allow.join(",")) };
    let router = if one["exists"] == false { format!("{} (missing)", of("router")) } else { of("router") };
    let by = match (&one["by"], &one["source"]) {
        (Value::String(by), _) => printable(by),
        (_, source) => printable(source.as_str().unwrap_or("-")),
    };
    [router, by, of("since"), of("until"), of("status"), of("retryAfter"), allow]
}
