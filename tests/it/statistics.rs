//! `/api/statistics`: rates, errors and times of the last minutes.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::backend::unused_address;
use crate::support::{Backend, Gateway, eventually, get, get_with};

fn routes(url: &str) -> String {
    let gone = unused_address();
    format!(
        "http:
  routers:
    ok: {{rule: 'PathPrefix(`/ok`)', service: a}}
    refused: {{rule: 'PathPrefix(`/refused`)', service: gone}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
    gone: {{loadBalancer: {{servers: [{{url: 'http://{gone}'}}]}}}}
"
    )
}

fn statistics(gateway: &Gateway, query: &str) -> Value {
    serde_json::from_str(&gateway.api(&format!("/api/statistics{query}"))).unwrap()
}

/// Returns the row with this name of one kind.
fn row<'a>(statistics: &'a Value, kind: &str, name: &str) -> &'a Value {
    let rows = statistics[kind].as_array().unwrap();
    let found = rows.iter().find(|row| row["name"] == name || row["url"] == name);
    found.unwrap_or(&Value::Null)
}

/// Returns a rate of a row.
fn rate(row: &Value, what: &str) -> f64 {
    row[what]["5m"].as_f64().unwrap_or_default()
}

#[test]
fn requests_are_counted_by_entry_point_router_service_server_and_client() {
    let backend = Backend::echo("a");
    let flags = ["--entryPoints.web.forwardedHeaders.insecure=true"];
    let gateway = Gateway::with(&flags, &routes(&backend.url()));
    // Requests are counted from the first question on.
    statistics(&gateway, "");
    for _ in 0..5 {
        get(gateway.web(), "h", "/ok");
    }
    get_with(gateway.web(), "h", "/refused", "x-forwarded-for: 203.0.113.9\r\n");
    get(gateway.web(), "h", "/nowhere");
    let mut found = Value::Null;
    eventually("all requests are counted", || {
        found = statistics(&gateway, "");
        let web = row(&found, "entryPoints", "web");
        let sum = |of: &str| web["history"][of].as_array().unwrap().iter().filter_map(Value::as_u64).sum();
        let (requests, errors): (u64, u64) = (sum("requests"), sum("errors"));
        (requests, errors) == (7, 1)
    });
    for (kind, name, fails) in [
        ("routers", "ok@file", false),
        ("routers", "refused@file", true),
        ("services", "a@file", false),
        ("services", "gone@file", true),
        ("servers", &backend.url(), false),
        ("clients", "127.0.0.1", false),
        ("clients", "203.0.113.9", true),
    ] {
        let row = row(&found, kind, name);
        let (requests, errors) = (rate(row, "requestsPerSecond"), rate(row, "errorsPerSecond"));
        assert!(requests > 0.0, "{kind} {name}: {found:#}");
        assert_eq!(errors, if fails { requests } else { 0.0 }, "{kind} {name}: {found:#}");
        let is_timed = !fails || kind == "routers" || kind == "clients";
        assert_eq!(row["p50Ms"].is_number() && row["p99Ms"].is_number(), is_timed, "{kind} {name}: {row}");
    }
    assert_eq!(row(&found, "servers", &backend.url())["service"], "a@file");
    assert_eq!((&found["lost"], found["routers"].as_array().unwrap().len()), (&0.into(), 2));
    let api = row(&found, "entryPoints", "traefik");
    assert_eq!(rate(api, "requestsPerSecond"), 0.0, "its own requests are left out");
}

#[test]
fn rows_are_sorted_and_limited() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes(&backend.url()));
    statistics(&gateway, "");
    for path in ["/ok", "/ok", "/ok", "/refused"] {
        get(gateway.web(), "h", path);
    }
    let names = |query: &str| -> Vec<String> {
        let found = statistics(&gateway, query);
        let rows = found["routers"].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    eventually("both are counted", || names("").len() == 2);
    assert_eq!(names("?sortBy=rate")[0], "ok@file");
    assert_eq!(names("?sortBy=errors")[0], "refused@file");
    assert_eq!(names("?sortBy=name&limit=1"), ["ok@file"]);
    assert_eq!(names("?name=ok%40file"), ["ok@file"]);
    let of_service = statistics(&gateway, "?name=a%40file");
    assert_eq!(row(&of_service, "servers", &backend.url())["service"], "a@file");
    let lengths =
        ["services", "servers", "routers", "clients"].map(|kind| of_service[kind].as_array().unwrap().len());
    assert_eq!(lengths, [1, 1, 0, 0]);
    for (query, message) in [
        ("sortBy=rat", "invalid sortBy `rat`: expected one of rate, errors, p50, p99, name"),
        ("limit=0", "invalid limit `0`: expected a number from 1 to 10000"),
    ] {
        let answer = get(gateway.address("traefik"), "h", &format!("/api/statistics?{query}"));
        assert!(answer.status == 400 && answer.text().contains(message), "{}", answer.text());
    }
}

#[test]
fn statistics_can_be_turned_off() {
    let gateway = Gateway::with(&["--api.statistics.maxObjects=0"], "http: {}\n");
    let answer = get(gateway.address("traefik"), "h", "/api/statistics");
    assert!(answer.status == 404 && answer.text().contains("api.statistics.maxObjects"), "{}", answer.text());
}

fn top(gateway: &Gateway, arguments: &[&str]) -> Output {
    let api = format!("http://{}", gateway.address("traefik"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("top").args(arguments).args(["--api", &api]).env_clear().output().unwrap()
}

#[test]
fn top_prints_tables_once() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes(&backend.url()));
    statistics(&gateway, "");
    for path in ["/ok", "/ok", "/refused"] {
        get(gateway.web(), "h", path);
    }
    let mut text = String::new();
    eventually("both routers are counted", || {
        let Output { status, stdout, stderr } = top(&gateway, &["--once", "--sort=errors"]);
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        text = String::from_utf8(stdout).unwrap();
        text.contains("ok@file") && text.contains("refused@file")
    });
    let place = |line: &str| text.find(line).unwrap_or_else(|| panic!("{line}: {text}"));
    assert!(text.starts_with("ENTRY POINTS") && place("\nweb ") < place("\nROUTERS "), "{text}");
    assert!(place("\nrefused@file ") < place("\nok@file "), "{text}");
    place(&format!("\n{} a@file ", backend.url()));
    place("\n127.0.0.1 ");
    let Output { stdout, .. } = top(&gateway, &["--once", "--limit=1"]);
    assert!(!String::from_utf8(stdout).unwrap().contains("refused@file"));
}

#[test]
fn top_says_why_there_is_nothing_to_see() {
    let gateway = Gateway::with(&["--api.statistics.maxObjects=0"], "http: {}\n");
    for (arguments, message) in [
        (&["--once"][..], "there are no statistics: `api.statistics.maxObjects` is 0"),
        (&[], "the output is not a terminal: use --once"),
    ] {
        let Output { status, stderr, .. } = top(&gateway, arguments);
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(!status.success() && stderr.contains(message), "{stderr}");
    }
}
