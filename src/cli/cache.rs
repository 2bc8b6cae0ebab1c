//! `tidegate cache`: what caches of a running gateway hold, and how responses are removed.

use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::client::{ApiArguments, ApiError};
use super::text::{printable, table};

#[derive(Subcommand)]
pub(super) enum Cache {
    /// Print what each cache holds and has done.
    Stats(Stats),
    /// Print what is stored for a URL.
    Get(Get),
    /// Remove responses: of a URL, of all URLs that begin so, with a tag, or all.
    Purge(Purge),
}

/// Which gateway and cache.
#[derive(Args)]
struct Common {
    /// Qualified name of the middleware; all caches by default.
    #[arg(long, value_name = "NAME@PROVIDER")]
    middleware: Option<String>,
    #[command(flatten)]
    api: ApiArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(super) struct Stats {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(super) struct Get {
    /// The URL, such as `https://example.com/path?a=b`.
    url: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
#[group(id = "what", required = true, multiple = false, args = ["url", "prefix", "tag", "all"])]
pub(super) struct Purge {
    /// The URL, such as `https://example.com/path?a=b`.
    url: Option<String>,
    /// What URLs begin with, such as `https://example.com/images/`.
    #[arg(long, value_name = "URL")]
    prefix: Option<String>,
    /// A tag of `Cache-Tag` or `Surrogate-Key`.
    #[arg(long)]
    tag: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    common: Common,
}

impl Cache {
    /// Runs the command, and returns its output.
    pub(super) fn run(&self) -> Result<String, ApiError> {
        match self {
            Self::Stats(stats) => stats.run(),
            Self::Get(get) => get.run(),
            Self::Purge(purge) => purge.run(),
        }
    }
}

impl Common {
    /// The name of the cache as a parameter of a query.
    fn parameter(&self) -> String {
        let name = self.middleware.as_deref().map(|name| utf8_percent_encode(name, NON_ALPHANUMERIC));
        name.map(|name| format!("middleware={name}")).unwrap_or_default()
    }

    fn text(&self, value: &Value, rows: impl FnOnce(&Value) -> String) -> String {
        if self.json { format!("{value:#}") } else { rows(value) }
    }
}

impl Stats {
    fn run(&self) -> Result<String, ApiError> {
        let common = &self.common;
        let all = common.api.client()?.get(&format!("cache?{}", common.parameter()))?;
        Ok(common.text(&all, |all| {
            let all: Vec<&Value> = all.as_array().into_iter().flatten().collect();
            let rows: Vec<_> = all.iter().map(|cache| statistics_row(cache)).collect();
            if rows.is_empty() {
                return "no caches".to_owned();
            }
            let mut text = table(&STATISTICS, &rows);
            for (title, key) in [("Largest", "largest"), ("Hottest", "hottest")] {
                let objects: Vec<_> =
                    all.iter().flat_map(|cache| cache[key].as_array()).flatten().map(object_row).collect();
                if !objects.is_empty() {
                    text.push_str(&format!("\n\n{title}:\n{}", table(&OBJECTS, &objects)));
                }
            }
            text
        }))
    }
}

impl Get {
    fn run(&self) -> Result<String, ApiError> {
        let url = utf8_percent_encode(&self.url, NON_ALPHANUMERIC);
        let path = format!("cache/objects?url={url}&{}", self.common.parameter());
        let found = self.common.api.client()?.get(&path)?;
        Ok(self.common.text(&found, |found| {
            let rows: Vec<_> = found.as_array().into_iter().flatten().map(object_row).collect();
            if rows.is_empty() { "nothing is stored".to_owned() } else { table(&OBJECTS, &rows) }
        }))
    }
}

impl Purge {
    fn run(&self) -> Result<String, ApiError> {
        let mut request = match (&self.url, &self.prefix, &self.tag) {
            (Some(url), ..) => json!({"url": url}),
            (_, Some(prefix), _) => json!({"prefix": prefix}),
            (.., Some(tag)) => json!({"tag": tag}),
            _ => json!({"all": true}),
        };
        if let Some(middleware) = &self.common.middleware {
            request["middleware"] = middleware.as_str().into();
        }
        let purged = self.common.api.client()?.post("cache/purge", request.to_string())?;
        Ok(self.common.text(&purged, |purged| {
            let rows: Vec<_> = purged["purged"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, number)| [printable(name), number.to_string()])
                .collect();
            let mut text =
                if rows.is_empty() { "no caches".to_owned() } else { table(&["CACHE", "PURGED"], &rows) };
            if let Some(members) = purged["cluster"]["members"].as_u64() {
                text.push_str(&format!("\n\nannounced to {members} other members of the cluster"));
            }
            text
        }))
    }
}

const STATISTICS: [&str; 10] =
    ["CACHE", "TIER", "HITS", "STALE", "REVALIDATED", "MISSES", "BYPASS", "STORED", "OBJECTS", "BYTES"];
const OBJECTS: [&str; 5] = ["TIER", "BYTES", "USES", "TAGS", "KEY"];

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

fn statistics_row(cache: &Value) -> [String; STATISTICS.len()] {
    let requests = |outcome: &str| text_of(&cache["requests"][outcome]);
    let sum = |key: &str| {
        let numbers = ["memory", "disk"].iter().filter_map(|tier| cache[*tier][key].as_u64());
        let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
        numbers.join("+")
    };
    let tiers = if cache["disk"].is_object() { "memory+disk" } else { "memory" };
    [
        text_of(&cache["middleware"]),
        tiers.to_owned(),
        requests("hit"),
        requests("stale"),
        requests("revalidated"),
        requests("miss"),
        requests("bypass"),
        text_of(&cache["stored"]),
        sum("objects"),
        sum("bytes"),
    ]
}

fn object_row(object: &Value) -> [String; OBJECTS.len()] {
    let tags: Vec<&str> = object["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let tags = if tags.is_empty() { "-".to_owned() } else { printable(&tags.join(",")) };
    let of = |key: &str| text_of(&object[key]);
    [of("tier"), of("bytes"), of("uses"), tags, of("key")]
}
