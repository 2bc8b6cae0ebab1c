//! Quotas of plans: usage in the API, and gateways that are killed at any moment.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::keys::Key;
use crate::support::process::Process;
use crate::support::{Backend, Client, Gateway, eventually, get, get_with, pause_for};

/// Routes with the middleware `plan`, and the consumer `acme` with the plan `gold`.
fn routes(url: &str, file: &str, key: &Key, quota: &str) -> String {
    format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [keys, plan]}}
    other: {{rule: 'Path(`/other`)', priority: 99, service: a, middlewares: [keys, plan]}}
  middlewares:
    keys: {{apiKey: {{}}}}
    plan: {{plan: {{file: '{file}', usagePath: /usage}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
  plans:
    gold: {{quota: {{{quota}}}}}
  consumers:
    acme: {{plan: gold, credentials: {{apiKeys: [{{{key}}}]}}}}
"
    )
}

#[test]
fn routers_count_together_and_the_api_shows_the_usage() {
    let (backend, key) = (Backend::echo("a"), Key::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("usage.log").display().to_string();
    let gateway = Gateway::serve(&routes(&backend.url(), &file, &key, "limit: 3, period: month"));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let ask = |path: &str| get_with(gateway.web(), "h", path, &key.header());
    let codes: Vec<u16> = ["/", "/other", "/", "/other"].map(|path| ask(path).status).to_vec();
    assert_eq!(codes, [200, 200, 200, 429]);
    let limits: Value = serde_json::from_str(&gateway.api("/api/limits")).unwrap();
    let other = limits.as_array().unwrap().iter().find(|limit| limit["router"] == "other@file").unwrap();
    assert_eq!(
        json!([other["refused"], other["offenders"]]),
        json!([1, [{"key": "acme@file", "refused": 1}]])
    );
    let shown: Value = serde_json::from_str(&gateway.api("/api/usage?consumer=acme@file")).unwrap();
    assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
    let row = &shown[0];
    assert_eq!(
        json!([row["consumer"], row["plan"], row["unit"], row["used"], row["limit"]]),
        json!(["acme@file", "gold@file", "requests", 3, 3])
    );
    assert_eq!(gateway.api("/api/usage?consumer=other@file"), "[]\n");
    let api = format!("http://{}", gateway.address("traefik"));
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["usage", "--api", &api]).args(arguments).env_clear();
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let table = command(&["acme"]);
    let cells: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(cells[0], ["CONSUMER", "KEY", "PLAN", "USED", "LIMIT", "PERCENT", "UNIT", "UNTIL"]);
    assert_eq!(cells[1][..7], ["acme@file", "-", "gold@file", "3", "3", "100", "requests"]);
    assert_eq!((cells.len(), command(&["other"]).as_str()), (2, "no usage\n"));
    let csv = gateway.api("/api/usage?format=csv");
    assert_eq!(command(&["--csv"]).trim_end(), csv.trim_end());
    let shown: Value = serde_json::from_str(&command(&["acme@file", "--json"])).unwrap();
    assert_eq!(shown[0]["used"], 3);
    assert!(
        csv.starts_with("consumer,key,plan,unit,used,limit,start,end\r\nacme@file,,gold@file,requests,3,3,"),
        "{csv}"
    );
    let own: Value = serde_json::from_str(&ask("/usage").text()).unwrap();
    assert_eq!(json!([own["plan"], own["used"], own["limit"]]), json!(["gold", 3, 3]));
    assert_eq!(get(gateway.web(), "h", "/usage").status, 401);
    // Another plan keeps what was used.
    gateway.write("routes.yml", &routes(&backend.url(), &file, &key, "limit: 5, period: month"));
    eventually("the new limit counts", || ask("/").status == 200);
    assert_eq!([ask("/").status, ask("/").status], [200, 429]);
}

#[test]
fn an_undefined_or_wrong_plan_is_reported_at_its_place_and_closes() {
    let (backend, key) = (Backend::echo("a"), Key::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("usage.log").display().to_string();
    let routes = routes(&backend.url(), &file, &key, "limit: 3, period: month");
    for (wrong, problem) in [
        (routes.replace("acme: {plan: gold", "acme: {plan: glod"), "plan: `glod@file` is not defined"),
        (routes.replace("limit: 3", "limit: 0"), "quota.limit: expected a number from 1"),
    ] {
        let gateway = Gateway::serve(&wrong);
        assert_eq!(get_with(gateway.web(), "h", "/", &key.header()).status, 503);
        assert_eq!(crate::api_key::reason(&gateway), "consumer_broken");
        let problems = gateway.problems().join("\n");
        assert!(problems.contains(problem) && problems.contains("routes.yml:1"), "{problems}");
    }
    assert!(backend.seen().is_empty());
}

#[test]
fn limits_of_a_plan_apply_to_all_routers_and_are_shown() {
    let (backend, key) = (Backend::echo("a"), Key::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("usage.log").display().to_string();
    let limited = |burst: u32| {
        let limits = format!("limits: [{{name: rph, average: 1, period: 1h, burst: {burst}}}], quota");
        routes(&backend.url(), &file, &key, "limit: 9, period: month").replace("quota", &limits)
    };
    let gateway = Gateway::with(&["--metrics.prometheus.addRoutersLabels=true"], &limited(2));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let ask = |path: &str| get_with(gateway.web(), "h", path, &key.header());
    let codes: Vec<u16> = ["/", "/other", "/"].map(|path| ask(path).status).to_vec();
    assert_eq!(codes, [200, 200, 429]);
    let shown: Value = serde_json::from_str(&gateway.api("/api/usage")).unwrap();
    assert_eq!(shown[0]["used"], 2, "a refused request uses nothing of the quota");
    let shown: Value = serde_json::from_str(&gateway.api("/api/limits")).unwrap();
    let rows = shown.as_array().unwrap();
    let row = rows.iter().find(|row| row["plan"] == "gold@file").unwrap();
    assert_eq!(json!([row["type"], row["router"], row["sources"]]), json!(["plan", "", 1]));
    let policy = &row["policies"][0];
    assert_eq!(
        json!([policy["name"], policy["admitted"], policy["refused"], policy["offenders"][0]["key"]]),
        json!(["rph", 2, 1, "c=acme@file"])
    );
    let metrics = gateway.api("/metrics");
    let series = r#"tidegate_rate_limit_requests_total{outcome="refused",plan="gold@file",policy="rph"} 1"#;
    assert!(metrics.contains(series), "{metrics}");
    // A changed plan keeps what was used.
    gateway.write("routes.yml", &limited(3));
    eventually("the new limit counts", || ask("/").status == 200);
    assert_eq!(ask("/other").status, 429);
}

/// Asks until the connection is lost. Returns how many requests were answered with 200, with 429, and not at all.
fn ask_until_it_is_killed(address: std::net::SocketAddr, key: &Key, refused: &AtomicUsize) -> [usize; 2] {
    let request = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", key.header());
    let mut client = Client::patient(address, Duration::from_secs(30));
    let (mut admitted, mut lost) = (0, 0);
    loop {
        client.send(&request);
        match client.read() {
            Ok(answer) if answer.status == 200 => admitted += 1,
            Ok(answer) => {
                assert_eq!(answer.status, 429);
                refused.fetch_add(1, Ordering::Relaxed);
                pause_for(Duration::from_millis(1));
            }
            Err(_) => {
                lost += 1;
                return [admitted, lost];
            }
        }
    }
}

#[test]
fn quotas_are_exact_after_a_hundred_kills() {
    const LIMIT: usize = 4000;
    let (backend, key) = (Backend::echo("a"), Key::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("usage.log").display().to_string();
    let routes =
        routes(&backend.url(), &file, &key, &format!("limit: {LIMIT}, period: 8760h, anchor: firstUse"));
    let flags = ["--api.insecure=true", "--entryPoints.traefik.address=127.0.0.1:0"];
    let (mut admitted, mut lost, refused) = (0, 0, AtomicUsize::new(0));
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for kill in 0..100 {
        let mut process = Process::start(&flags, &routes);
        let (address, api) = (process.web(), process.address("traefik"));
        // A request makes it read the file. It is one of those that are counted.
        let first = get_with(address, "h", "/", &key.header()).status;
        admitted += usize::from(first == 200);
        let shown: Value = serde_json::from_str(&get(api, "h", "/api/usage").text()).unwrap();
        let used = usize::try_from(shown[0]["used"].as_u64().unwrap()).unwrap();
        let seen = backend.seen().len();
        assert!(
            seen <= used && used <= admitted + lost,
            "{kill}: {seen} seen, {used} used, {admitted} + {lost}"
        );
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let counts = std::thread::scope(|scope| {
            let asking: Vec<_> =
                (0..4).map(|_| scope.spawn(|| ask_until_it_is_killed(address, &key, &refused))).collect();
            pause_for(Duration::from_micros(random % 60_000));
            process.end("KILL");
            asking.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
        });
        admitted += counts.iter().map(|[admitted, _]| admitted).sum::<usize>();
        lost += counts.iter().map(|[_, lost]| lost).sum::<usize>();
        assert!(backend.seen().len() <= LIMIT, "{kill}");
    }
    // What is left is used up.
    let process = Process::start(&flags, &routes);
    let left = (0..)
        .map(|_| get_with(process.web(), "h", "/", &key.header()).status)
        .take_while(|code| *code == 200);
    admitted += left.count();
    let shown: Value =
        serde_json::from_str(&get(process.address("traefik"), "h", "/api/usage").text()).unwrap();
    let seen = backend.seen().len();
    eprintln!(
        "{admitted} answered, {lost} lost with the gateway, {seen} seen by the server, {} refused, {} used of {LIMIT}",
        refused.into_inner(),
        shown[0]["used"]
    );
    assert_eq!(shown[0]["used"], LIMIT);
    assert!(admitted <= seen && seen <= LIMIT && LIMIT <= admitted + lost, "{admitted}, {seen}, {lost}");
}
