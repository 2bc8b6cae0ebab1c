//! The access log where more than one server has a part in an answer: pages for errors, fallbacks, further attempts,
//! copies.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::backend::unused_address;
use crate::support::{Backend, Gateway, eventually, get};

/// The servers behind every case: one fails, one has the pages, one has none, one is fine, one does not listen.
pub struct World {
    bad: Backend,
    page: Backend,
    missing: Backend,
    good: Backend,
    dead: SocketAddr,
}

fn server(status: &'static str, name: &'static str) -> Backend {
    Backend::bytes(format!(
        "HTTP/1.1 {status}\r\nX-From: {name}\r\nContent-Length: {}\r\n\r\n{name}",
        name.len()
    ))
}

/// A router for each case, reached by the host of the same name: service, then middlewares from the outside in.
const ROUTERS: [(&str, &str, &str); 26] = [
    ("plain", "good", ""),
    ("unused", "good", "errors"),
    ("errors", "bad", "errors"),
    ("rewritten", "bad", "rewritten"),
    ("nested-page", "both", "nested"),
    ("page-missing", "bad", "missing"),
    ("page-dead", "bad", "dead"),
    ("page-none", "bad", "none"),
    ("server-dead", "dead", "errors"),
    ("server-none", "none", "errors"),
    ("refused", "good", "unauthorized,auth"),
    ("two-pages", "bad", "errors,missing"),
    ("compressed", "bad", "compress,errors"),
    ("retry", "bad", "retry"),
    ("retry-inside", "bad", "errors,retry"),
    ("retry-outside", "bad", "retry,errors"),
    ("retry-dead", "dead", "again"),
    ("buffering", "dead", "buffering"),
    ("weighted", "both", ""),
    ("mirror", "copied", ""),
    ("mirror-bad", "copying", ""),
    ("failover", "fails", ""),
    ("failover-last", "fails-again", ""),
    ("failover-errors", "fails-again", "errors"),
    ("breaker", "bad", "errors,breaker"),
    ("redirect", "good", "redirect"),
];

impl World {
    pub fn new() -> Self {
        Self {
            bad: server("503 Service Unavailable", "bad"),
            page: server("200 OK", "pages"),
            missing: server("404 Not Found", "nothing"),
            good: server("200 OK", "good"),
            dead: unused_address(),
        }
    }

    pub fn routes(&self) -> String {
        let mut text = String::from("http:\n  routers:\n");
        for (name, service, middlewares) in ROUTERS {
            text += &format!(
                "    {name}: {{rule: 'Host(`{name}`)', service: {service}, middlewares: [{middlewares}]}}\n"
            );
        }
        text += "    above: {rule: 'Host(`layer`) || Host(`layer-refused`)'}
    layer: {rule: 'Host(`layer`)', service: bad, middlewares: [errors], parentRefs: [above]}
    layer-refused: {rule: 'Host(`layer-refused`)', service: good, middlewares: [auth], parentRefs: [above]}
  services:\n";
        for (name, address) in [
            ("bad", self.bad.address),
            ("page", self.page.address),
            ("missing", self.missing.address),
            ("good", self.good.address),
            ("dead", self.dead),
        ] {
            text += &format!("    {name}: {{loadBalancer: {{servers: [{{url: 'http://{address}'}}]}}}}\n");
        }
        text += "    none: {loadBalancer: {servers: []}}
    both: {weighted: {services: [{name: bad, weight: 1}]}}
    pages: {weighted: {services: [{name: page, weight: 1}]}}
    copied: {mirroring: {service: good, mirrors: [{name: bad, percent: 100}]}}
    copying: {mirroring: {service: bad, mirrors: [{name: good, percent: 100}]}}
    fails: {failover: {service: bad, fallback: good, errors: {status: [500-599]}}}
    fails-again: {failover: {service: bad, fallback: dead, errors: {status: [500-599]}}}
  middlewares:
    errors: {errors: {status: [500-599], service: page, query: '/{status}'}}
    nested: {errors: {status: [500-599], service: pages, query: '/{status}'}}
    missing: {errors: {status: [500-599], service: missing, query: '/{status}'}}
    dead: {errors: {status: [500-599], service: dead, query: '/{status}'}}
    none: {errors: {status: [500-599], service: none, query: '/{status}'}}
    rewritten: {errors: {status: [500-599], service: page, query: '/{status}', statusRewrites: {'503': 418}}}
    unauthorized: {errors: {status: ['401'], service: page, query: '/{status}'}}
    auth: {basicAuth: {users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}
    compress: {compress: {minResponseBodyBytes: 1}}
    retry: {retry: {attempts: 2, status: ['503']}}
    again: {retry: {attempts: 2}}
    buffering: {buffering: {retryExpression: 'IsNetworkError() && Attempts() < 2'}}
    breaker: {circuitBreaker: {expression: 'ResponseCodeRatio(600, 700, 0, 600) > 0.9'}}
    redirect: {redirectRegex: {regex: '.*', replacement: 'https://other.test/'}}
";
        text
    }

    /// Which server an entry of the log names.
    pub fn name(&self, url: &Value) -> &'static str {
        let known = [
            (self.bad.url(), "bad"),
            (self.page.url(), "page"),
            (self.missing.url(), "missing"),
            (self.good.url(), "good"),
            (format!("http://{}", self.dead), "dead"),
        ];
        known.iter().find(|(known, _)| *url == **known).map_or("-", |(_, name)| *name)
    }
}

fn names() -> impl Iterator<Item = &'static str> {
    ROUTERS.iter().map(|(name, ..)| *name).chain(["layer", "layer-refused"])
}

pub fn flags(log: &std::path::Path) -> Vec<String> {
    vec![
        "--accessLog.format=json".to_owned(),
        format!("--accessLog.filePath={}", log.display()),
        "--accessLog.fields.headers.names.X-From=keep".to_owned(),
    ]
}

/// One request for each case; the lines in the same order.
pub fn lines(web: SocketAddr, log: &std::path::Path) -> Vec<Value> {
    let read = || -> Vec<Value> {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let before = read().len();
    for (number, name) in names().enumerate() {
        get(web, name, "/x");
        eventually("the line is written", || read().len() == before + number + 1);
    }
    read().split_off(before)
}

pub fn gateway(world: &World) -> (Gateway, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let flags = flags(&folder.path().join("log"));
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    (Gateway::with(&flags, &world.routes()), folder)
}

/// What a line says of origin, page and failed attempts, without lengths of time.
fn parts(world: &World, line: &Value) -> [Value; 3] {
    let text = |name: &str| line[name].as_str().unwrap_or("-").trim_end_matches("@file").to_owned();
    let server = |prefix: &str| {
        let (url, address) = (&line[format!("{prefix}URL")], &line[format!("{prefix}Addr")]);
        let bare = |url: &Value| url.as_str().map(|url| url.trim_start_matches("http://").to_owned());
        assert_eq!(bare(url).as_deref(), address.as_str(), "{line}");
        world.name(url)
    };
    let origin = json!([
        text("ServiceName"),
        server("Service"),
        line["OriginStatus"],
        line["OriginContentSize"],
        text("origin_X-From")
    ]);
    let page = match line.get("ErrorPageStatus") {
        None => Value::Null,
        Some(status) => json!([
            text("ErrorPageServiceName"),
            server("ErrorPageService"),
            status,
            line["ErrorPageContentSize"]
        ]),
    };
    let failed = line["FailedAttempts"].as_array().cloned().unwrap_or_default();
    let failed = failed.iter().map(|attempt| {
        assert!(attempt["OriginDuration"].as_u64() > Some(0), "{line}");
        json!([
            attempt["ServiceName"].as_str().unwrap().trim_end_matches("@file"),
            world.name(&attempt["ServiceURL"]),
            attempt["OriginStatus"]
        ])
    });
    [origin, page, failed.collect()]
}

#[test]
fn origin_fields_are_the_services_and_pages_have_their_own() {
    let world = World::new();
    let (gateway, folder) = gateway(&world);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let lines = lines(gateway.web(), &folder.path().join("log"));
    let bad = || json!(["bad", "bad", 503, 3, "bad"]);
    let good = || json!(["good", "good", 200, 4, "good"]);
    let page = || json!(["page", "page", 200, 5]);
    let no_server = || json!(["-", "-", 0, 0, "-"]);
    let failed = || json!(["bad", "bad", 503]);
    for (name, status, expected) in [
        ("plain", 200, [good(), Value::Null, json!([])]),
        ("unused", 200, [good(), Value::Null, json!([])]),
        ("errors", 503, [bad(), page(), json!([])]),
        ("rewritten", 418, [bad(), page(), json!([])]),
        ("nested-page", 503, [bad(), page(), json!([])]),
        ("page-missing", 503, [bad(), json!(["missing", "missing", 404, 7]), json!([])]),
        ("page-dead", 503, [bad(), json!(["dead", "dead", 502, 11]), json!([])]),
        ("page-none", 503, [bad(), json!(["none", "-", 503, 20]), json!([])]),
        ("server-dead", 502, [json!(["dead", "dead", 502, 11, "-"]), page(), json!([])]),
        ("server-none", 503, [json!(["none", "-", 0, 0, "-"]), page(), json!([])]),
        ("refused", 401, [no_server(), page(), json!([])]),
        ("two-pages", 503, [bad(), page(), json!([["missing", "missing", 404]])]),
        ("compressed", 503, [bad(), page(), json!([])]),
        ("retry", 503, [bad(), Value::Null, json!([failed()])]),
        ("retry-inside", 503, [bad(), page(), json!([failed()])]),
        ("retry-outside", 503, [bad(), page(), json!([failed()])]),
        (
            "retry-dead",
            502,
            [json!(["dead", "dead", 502, 11, "-"]), Value::Null, json!([["dead", "dead", 502]])],
        ),
        (
            "buffering",
            502,
            [json!(["dead", "dead", 502, 11, "-"]), Value::Null, json!([["dead", "dead", 502]])],
        ),
        ("weighted", 503, [bad(), Value::Null, json!([])]),
        ("mirror", 200, [good(), Value::Null, json!([])]),
        ("mirror-bad", 503, [bad(), Value::Null, json!([])]),
        ("failover", 200, [good(), Value::Null, json!([failed()])]),
        ("failover-last", 502, [json!(["dead", "dead", 502, 11, "-"]), Value::Null, json!([failed()])]),
        ("failover-errors", 502, [json!(["dead", "dead", 502, 11, "-"]), page(), json!([failed()])]),
        ("breaker", 503, [bad(), page(), json!([])]),
        ("redirect", 302, [no_server(), Value::Null, json!([])]),
        ("layer", 503, [bad(), page(), json!([])]),
        ("layer-refused", 401, [no_server(), Value::Null, json!([])]),
    ] {
        let line = lines.iter().find(|line| line["RequestHost"] == name).unwrap();
        assert!(line["RouterName"].as_str().unwrap().ends_with(&format!("{name}@file")), "{line}");
        assert_eq!(line["DownstreamStatus"], status, "{line}");
        assert_eq!(parts(&world, line), expected, "{name}");
        let times = ["Duration", "OriginDuration", "ErrorPageDuration", "Overhead"];
        let [all, origin, page, overhead] = times.map(|name| line[name].as_u64().unwrap_or(0));
        assert_eq!(origin > 0, line["ServiceURL"].is_string(), "{line}");
        assert_eq!(page > 0, line["ErrorPageServiceURL"].is_string(), "{line}");
        assert_eq!(all.saturating_sub(origin + page), overhead, "{line}");
    }
}

#[test]
fn filters_see_pages_and_failed_attempts() {
    let world = World::new();
    for (expression, expected) in [
        ("ErrorPageStatus >= 500", &["page-dead", "page-none"][..]),
        ("ErrorPageServiceName == `missing@file`", &["page-missing"]),
        ("FailedAttempts =~ `^bad@file http\\S+ 503$` && DownstreamStatus == 200", &["failover"]),
        ("OriginStatus == 503 && DownstreamStatus == 418 && ErrorPageDuration > 0s", &["rewritten"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut flags = flags(&log);
        flags.push(format!("--accessLog.filters.expression={expression} || Host(`plain`)"));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let gateway = Gateway::with(&flags, &world.routes());
        for name in names().filter(|name| *name != "plain").chain(["plain"]) {
            get(gateway.web(), name, "/x");
        }
        let text = || std::fs::read_to_string(&log).unwrap_or_default();
        eventually("the last line is written", || text().contains("\"plain@file\""));
        let hosts: Vec<Value> = text()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["RequestHost"].clone())
            .collect();
        assert_eq!(hosts, [expected, &["plain"]].concat(), "{expression}");
    }
}
