//! `tidegate usage`: what consumers have used of their quotas.

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::client::{ApiArguments, ApiError};
use super::text::{printable, table};

#[derive(Args)]
pub(super) struct Usage {
    /// Name of a consumer, `NAME` or `NAME@PROVIDER`; all by default.
    consumer: Option<String>,
    #[command(flatten)]
    api: ApiArguments,
    /// Print CSV.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Usage {
    /// Returns the usage as a table, as CSV or in JSON.
    pub(super) fn run(&self) -> Result<String, ApiError> {
        let wanted = self.consumer.as_deref().map(|name| {
            let name = utf8_percent_encode(name, NON_ALPHANUMERIC);
            format!("consumer={name}&")
        });
        let wanted = wanted.unwrap_or_default();
        let client = self.api.client()?;
        if self.csv {
            let text = client.text(&format!("usage?{wanted}format=csv"))?;
            return Ok(text.trim_end().to_owned());
        }
        let usage = client.get(&format!("usage?{wanted}"))?;
        if self.json {
            return Ok(format!("{usage:#}"));
        }
        let rows: Vec<_> = usage.as_array().into_iter().flatten().map(row).collect();
        Ok(if rows.is_empty() { "no usage".to_owned() } else { table(&TITLES, &rows) })
    }
}

const TITLES: [&str; 8] = ["CONSUMER", "KEY", "PLAN", "USED", "LIMIT", "PERCENT", "UNIT", "UNTIL"];

fn row(used: &Value) -> [String; TITLES.len()] {
    let of = |key: &str| match &used[key] {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    };
    let percent = match (used["used"].as_u64(), used["limit"].as_u64()) {
        (Some(used), Some(limit)) if limit > 0 => (u128::from(used) * 100 / u128::from(limit)).to_string(),
        _ => "-".to_owned(),
    };
    [of("consumer"), of("key"), of("plan"), of("used"), of("limit"), percent, of("unit"), of("end")]
}
