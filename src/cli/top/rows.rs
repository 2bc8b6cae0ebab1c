//! What `tidegate top` shows: rows of numbers, in an order.

use std::cmp::Ordering;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::text::printable;

/// The order of rows. Numbers descend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[repr(u8)]
pub(super) enum Sort {
    /// Requests per second.
    Rate,
    /// Errors per second.
    Errors,
    /// The median of the response times.
    P50,
    /// The 99th percentile of the response times.
    P99,
    /// The name.
    Name,
}

impl Sort {
    /// All orders.
    pub(super) const ALL: [Self; 5] = [Self::Rate, Self::Errors, Self::P50, Self::P99, Self::Name];

    /// Returns the order with this number.
    pub(super) fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Rate)
    }

    /// Returns its name in the API.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Errors => "errors",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Name => "name",
        }
    }
}

/// A kind of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    EntryPoints,
    Routers,
    Services,
    Servers,
    Clients,
}

impl Kind {
    /// All kinds.
    pub(super) const ALL: [Self; 5] =
        [Self::EntryPoints, Self::Routers, Self::Services, Self::Servers, Self::Clients];

    /// Returns the key in the API.
    fn key(self) -> &'static str {
        match self {
            Self::EntryPoints => "entryPoints",
            Self::Routers => "routers",
            Self::Services => "services",
            Self::Servers => "servers",
            Self::Clients => "clients",
        }
    }

    /// Returns the title of a table.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::EntryPoints => "Entry points",
            Self::Routers => "Routers",
            Self::Services => "Services",
            Self::Servers => "Servers",
            Self::Clients => "Clients",
        }
    }
}

/// The numbers of one object.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    /// Requests per second of the last ten seconds and the last minute.
    rates: [f64; 2],
    /// Errors per second of the last ten seconds.
    errors: f64,
    /// Milliseconds.
    p50: Option<f64>,
    p99: Option<f64>,
}

/// The titles of the columns after the name.
pub(super) const COLUMNS: [&str; 6] = ["REQ/S", "1 MIN", "ERR/S", "ERR %", "P50", "P99"];
/// The width of these columns.
pub(super) const WIDTH: usize = 10;

impl Row {
    fn of(row: &Value) -> Self {
        let text = |key: &str| printable(row[key].as_str().unwrap_or(""));
        let number = |value: &Value| value.as_f64().unwrap_or_default();
        let rates = &row["requestsPerSecond"];
        let name = match row["url"].is_null() {
            true => text("name"),
            false => format!("{} {}", text("url"), text("service")),
        };
        Self {
            name,
            rates: [number(&rates["10s"]), number(&rates["1m"])],
            errors: number(&row["errorsPerSecond"]["10s"]),
            p50: row["p50Ms"].as_f64(),
            p99: row["p99Ms"].as_f64(),
        }
    }

    /// Returns the share of errors, from 0 to 1.
    pub(super) fn share_of_errors(&self) -> f64 {
        if self.rates[0] > 0.0 { self.errors / self.rates[0] } else { 0.0 }
    }

    /// Returns the cells of [`COLUMNS`].
    pub(super) fn cells(&self) -> [String; 6] {
        [
            rate(self.rates[0]),
            rate(self.rates[1]),
            rate(self.errors),
            format!("{:.1}", self.share_of_errors() * 100.0),
            time(self.p50),
            time(self.p99),
        ]
    }

    fn compare(&self, other: &Self, sort: Sort) -> Ordering {
        let descending = |of: fn(&Self) -> f64| of(other).total_cmp(&of(self));
        let order = match sort {
            Sort::Rate => descending(|row| row.rates[0]),
            Sort::Errors => descending(|row| row.errors),
            Sort::P50 => descending(|row| row.p50.unwrap_or(-1.0)),
            Sort::P99 => descending(|row| row.p99.unwrap_or(-1.0)),
            Sort::Name => Ordering::Equal,
        };
        order.then_with(|| self.name.cmp(&other.name))
    }
}

/// The rows of all kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Statistics {
    rows: Vec<(Kind, Vec<Row>)>,
    /// Number of requests that the gateway did not count.
    pub(super) lost: u64,
    /// Since when it has counted.
    since: Option<OffsetDateTime>,
}

impl Statistics {
    /// Returns true if requests have been counted for this long.
    pub(super) fn covers(&self, time: Duration) -> bool {
        self.since.is_none_or(|since| OffsetDateTime::now_utc() - since >= time)
    }

    /// Reads a response of `/api/statistics`.
    pub(super) fn of(statistics: &Value) -> Self {
        let rows =
            |kind: Kind| statistics[kind.key()].as_array().into_iter().flatten().map(Row::of).collect();
        Self {
            rows: Kind::ALL.iter().map(|kind| (*kind, rows(*kind))).collect(),
            lost: statistics["lost"].as_u64().unwrap_or_default(),
            since: statistics["countedSince"]
                .as_str()
                .and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok()),
        }
    }

    /// Sorts the rows of all kinds.
    pub(super) fn sort(&mut self, sort: Sort) {
        for (_, rows) in &mut self.rows {
            rows.sort_by(|one, other| one.compare(other, sort));
        }
    }

    /// Returns the rows of a kind.
    pub(super) fn rows(&self, kind: Kind) -> &[Row] {
        let found = self.rows.iter().find(|(known, _)| *known == kind);
        found.map_or(&[], |(_, rows)| rows)
    }

    /// Returns tables in plain text, without kinds that have no rows.
    pub(super) fn text(mut self, sort: Sort) -> String {
        self.sort(sort);
        let mut lines = Vec::new();
        for (kind, rows) in self.rows.iter().filter(|(_, rows)| !rows.is_empty()) {
            let title = kind.title().to_uppercase();
            let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(title.len());
            let line = |name: &str, cells: &[&str]| {
                let cells: String = cells.iter().map(|cell| format!("{cell:>WIDTH$}")).collect();
                format!("{name:<width$}{cells}")
            };
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.push(line(&title, &COLUMNS));
            lines.extend(rows.iter().map(|row| line(&row.name, &row.cells().each_ref().map(String::as_str))));
        }
        if self.lost > 0 {
            lines.extend([String::new(), format!("{} requests were not counted", self.lost)]);
        }
        lines.join("\n")
    }
}

fn rate(rate: f64) -> String {
    if rate >= 1000.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}

fn time(milliseconds: Option<f64>) -> String {
    match milliseconds {
        None => "-".to_owned(),
        Some(time) if time >= 10_000.0 => format!("{:.1}s", time / 1e3),
        Some(time) if time >= 100.0 => format!("{time:.0}ms"),
        Some(time) => format!("{time:.1}ms"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// Returns statistics with two routers, a server and a client.
    pub(in crate::cli::top) fn example() -> Statistics {
        let row = |name: &str, rate: f64, errors: f64, p50: f64| {
            json!({
                "name": name, "p50Ms": p50, "p99Ms": p50 * 10.0,
                "requestsPerSecond": {"10s": rate, "1m": rate / 2.0, "5m": 0},
                "errorsPerSecond": {"10s": errors, "1m": 0, "5m": 0},
            })
        };
        let mut server = row("", 12.5, 0.0, 1.5);
        server["service"] = "app@docker".into();
        server["url"] = "http://10.0.0.7".into();
        Statistics::of(&json!({
            "entryPoints": [row("web", 2012.5, 1.25, 3.5)],
            "routers": [row("app@docker", 12.5, 0.0, 1.5), row("api@file", 4.0, 1.0, 1200.0)],
            "servers": [server],
            "clients": [{"name": "192.0.2.7\u{1b}", "p50Ms": null, "p99Ms": null}],
            "lost": 3,
        }))
    }

    #[test]
    fn plain_text_has_a_table_per_kind() {
        let text = example().text(Sort::Errors);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ENTRY POINTS     REQ/S     1 MIN     ERR/S     ERR %       P50       P99");
        assert_eq!(lines[1], "web               2012      1006       1.2       0.1     3.5ms    35.0ms");
        assert_eq!(lines[4], "api@file         4.0       2.0       1.0      25.0    1200ms     12.0s");
        assert!(text.contains("\nhttp://10.0.0.7 app@docker      12.5"), "{text}");
        assert!(text.contains("\n192.0.2.7\u{fffd}       0.0") && text.contains("-\n"), "{text}");
        assert!(text.ends_with("\n\n3 requests were not counted") && !text.contains("SERVICES"), "{text}");
    }

    #[test]
    fn rows_have_the_order_of_the_user() {
        let first = |sort: Sort| {
            let mut statistics = example();
            statistics.sort(sort);
            statistics.rows(Kind::Routers)[0].name.clone()
        };
        let found = Sort::ALL.map(first);
        assert_eq!(found, ["app@docker", "api@file", "api@file", "api@file", "api@file"]);
        assert_eq!(Sort::ALL.map(|sort| Sort::of(sort as u8)), Sort::ALL);
    }
}
