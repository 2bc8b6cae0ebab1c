//! The list of keys.

use tidegate_config::consumer::ApiKey;
use tidegate_core::consumer::KeyState;

use super::super::text;
use super::store::Contents;
use super::{now, shown};

const TITLES: [&str; 8] =
    ["CONSUMER", "ID", "STATE", "EXPIRES", "NOT BEFORE", "SCOPES", "ADDRESSES", "LABEL"];

/// Returns the keys as a table, with nothing that is secret.
pub(super) fn table(contents: &Contents, consumer: Option<&str>) -> String {
    let chosen =
        contents.consumers.iter().filter(|(name, _)| consumer.is_none_or(|consumer| *name == consumer));
    let rows = chosen.flat_map(|(name, keys)| keys.iter().map(move |key| row(name, key)));
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() { "no keys".to_owned() } else { text::table(&TITLES, &rows) }
}

fn row(consumer: &str, key: &ApiKey) -> [String; TITLES.len()] {
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let time = |at: Option<_>| at.map_or_else(|| "-".to_owned(), shown);
    [
        consumer.to_owned(),
        or_none(key.id.clone()),
        state(key).to_owned(),
        time(key.expires),
        time(key.not_before),
        or_none(key.scopes.join(",")),
        or_none(key.allowed_cidrs.join(",")),
        or_none(key.label.clone()),
    ]
}

/// Returns what a request with the key would meet now.
fn state(key: &ApiKey) -> &'static str {
    let now = now();
    match key.state.meaning() {
        Err(_) => "invalid",
        Ok(Some(KeyState::Revoked)) => "revoked",
        Ok(_) if key.expires.is_some_and(|at| at.0 <= now) => "expired",
        Ok(_) if key.not_before.is_some_and(|at| at.0 > now) => "not yet",
        Ok(Some(KeyState::Grace)) => "grace",
        Ok(_) => "active",
    }
}
