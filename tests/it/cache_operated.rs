//! The middleware `cache` with a disk: restarts, broken folders, changed limits; and what operators see and purge.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::{Answer, Backend, Gateway, eventually, get, get_with, raw};

/// `a` with the password `test`.
const LOGIN: &str = "    login: {basicAuth: {users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}";
pub const OPERATOR: &str = "Authorization: Basic YTp0ZXN0\r\n";
pub const JSON: &str = "Content-Type: application/json\r\n";
/// Larger than what the memory takes.
const LARGE: usize = 300_000;

/// A server whose responses begin with their number.
pub fn numbered() -> Backend {
    let count = AtomicUsize::new(0);
    Backend::with(move |seen, stream| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let mut body = format!("{number:04}").into_bytes();
        if seen.target() == "/large" {
            body.extend((0..LARGE).map(|at| (at / 7) as u8));
        }
        let tag = seen.target().trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nCache-Tag: {tag}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).is_ok()
    })
}

pub fn routes(url: &str, options: &str) -> String {
    format!(
        "http:
  routers:
    r: {{rule: 'Host(`h`)', service: a, middlewares: [cache]}}
  middlewares:
    cache: {{cache: {options}}}
{LOGIN}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
    )
}

pub fn with_disk(folder: &Path, more: &str) -> String {
    format!("{{maxObjectBytes: 200000, disk: {{path: '{}'{more}}}}}", folder.display())
}

/// What the API shows of a cache.
fn shown(api: SocketAddr) -> Value {
    let answer = get_with(api, "gw", "/api/cache", OPERATOR);
    let all: Value = serde_json::from_str(&answer.text()).unwrap();
    all[0].clone()
}

fn api(gateway: &Gateway) -> SocketAddr {
    gateway.address("traefik")
}

pub fn disk_is_ready(api: SocketAddr) {
    eventually("the disk is ready", || shown(api)["disk"]["ready"] == true);
}

pub fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").unwrap().starts_with("tidegate; hit")
}

pub fn purge(gateway: &Gateway, headers: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let request = format!(
        "POST /api/cache/purge HTTP/1.1\r\nHost: gw\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    raw(gateway.address("traefik"), request).unwrap()
}

#[test]
fn what_is_on_disk_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let backend = numbered();
    let routes = routes(&backend.url(), &with_disk(&folder.path().join("cache"), ""));
    let flags = ["--api.insecure=true", "--entryPoints.traefik.address=127.0.0.1:0"];
    let mut gateway = Process::start(&flags, &routes);
    let (web, api) = (gateway.web(), gateway.address("traefik"));
    disk_is_ready(api);
    let (small, large) = (get(web, "h", "/small"), get(web, "h", "/large"));
    assert_eq!((small.status, large.body.len()), (200, LARGE + 4));
    eventually("both are written", || shown(api)["disk"]["objects"] == 2);
    assert_eq!(shown(api)["memory"]["objects"], 1, "the large one is on disk only");
    let again = get(web, "h", "/large");
    assert!(is_hit(&again) && again.body == large.body);
    gateway.end("KILL");

    let gateway = Process::start(&flags, &routes);
    let (web, api) = (gateway.web(), gateway.address("traefik"));
    disk_is_ready(api);
    let stored = shown(api);
    let numbers = json!([stored["disk"]["recovered"], stored["memory"]["objects"]]);
    assert_eq!(numbers, json!([2, 0]), "{stored}");
    for _ in 0..2 {
        let (one, two) = (get(web, "h", "/small"), get(web, "h", "/large"));
        assert!(is_hit(&one) && is_hit(&two));
        assert!(one.body == small.body && two.body == large.body);
    }
    assert_eq!(shown(api)["memory"]["objects"], 1, "the small one is in memory again");
    let part = get_with(web, "h", "/large", "range: bytes=131070-131075\r\n");
    assert_eq!((part.status, &part.body[..]), (206, &large.body[131_070..=131_075]));
    assert_eq!(backend.seen().len(), 2);
}

#[test]
fn a_cache_takes_over_the_folder_of_one_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let backend = numbered();
    let routes = routes(&backend.url(), &with_disk(folder.path(), ""));
    let gateway = Gateway::serve(&routes);
    disk_is_ready(api(&gateway));
    let stored = get(gateway.web(), "h", "/x");
    eventually("it is written", || shown(api(&gateway))["disk"]["objects"] == 1);
    let renamed = routes.replace("[cache]", "[renamed]").replace("    cache: {", "    renamed: {");
    gateway.write("routes.yml", &renamed);
    eventually("the new cache", || shown(api(&gateway))["middleware"] == "renamed@file");
    disk_is_ready(api(&gateway));
    let again = get(gateway.web(), "h", "/x");
    assert!(is_hit(&again) && again.body == stored.body);
}

#[test]
fn a_gateway_that_has_stopped_leaves_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let backend = numbered();
    let routes = routes(&backend.url(), &with_disk(folder.path(), ""));
    let gateway = Gateway::serve(&routes);
    disk_is_ready(api(&gateway));
    let stored = get(gateway.web(), "h", "/large");
    gateway.shutdown();
    let next = Gateway::serve(&routes);
    disk_is_ready(api(&next));
    let again = get(next.web(), "h", "/large");
    assert!(is_hit(&again) && again.body == stored.body, "what waited for the disk is written");
}

#[test]
fn a_folder_that_cannot_be_opened_is_a_problem_until_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("file");
    std::fs::write(&in_the_way, "").unwrap();
    let backend = numbered();
    let gateway = Gateway::serve(&routes(&backend.url(), &with_disk(&in_the_way.join("cache"), "")));
    eventually("the problem", || {
        gateway.api("/api/problems").contains("middleware cache@file: cache: cannot open")
    });
    assert!(!is_hit(&get(gateway.web(), "h", "/x")) && is_hit(&get(gateway.web(), "h", "/x")));
    assert_eq!(shown(api(&gateway))["disk"]["ready"], false);
    std::fs::remove_file(&in_the_way).unwrap();
    disk_is_ready(api(&gateway));
    assert!(!gateway.api("/api/problems").contains("cannot open"));
    get(gateway.web(), "h", "/y");
    eventually("it is used", || shown(api(&gateway))["disk"]["objects"] == 1);
}

#[test]
fn a_disk_that_takes_no_more_is_reported_and_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let backend = numbered();
    let flags = ["--api.insecure=true", "--entryPoints.traefik.address=127.0.0.1:0"];
    // No file may have more than 200 KiB.
    let shell = "trap '' XFSZ; ulimit -f 400; exec \"$0\" \"$@\"";
    let routes = routes(&backend.url(), &with_disk(folder.path(), ""));
    let gateway = Process::start_by(shell, &flags, &routes);
    let (web, api) = (gateway.web(), gateway.address("traefik"));
    disk_is_ready(api);
    let problems = || get(api, "h", "/api/problems").text();
    for _ in 0..2 {
        let large = get(web, "h", "/large");
        assert_eq!((large.status, large.body.len(), is_hit(&large)), (200, LARGE + 4, false));
        eventually("the problem", || problems().contains("cache: cannot write"));
    }
    assert_eq!(get(web, "h", "/small").status, 200);
    assert!(is_hit(&get(web, "h", "/small")), "in memory");
    let number = AtomicUsize::new(0);
    eventually("writing begins again", || {
        get(web, "h", &format!("/{}", number.fetch_add(1, Ordering::Relaxed)));
        shown(api)["disk"]["objects"].as_u64().unwrap() > 0
    });
    assert!(!problems().contains("cannot write"), "{}", problems());
}

#[test]
fn two_caches_do_not_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let backend = numbered();
    let cache = with_disk(folder.path(), "");
    let routes = routes(&backend.url(), &cache)
        .replace("middlewares: [cache]}", "middlewares: [cache, other]}")
        .replace("  middlewares:\n", &format!("  middlewares:\n    other: {{cache: {cache}}}\n"));
    let gateway = Gateway::serve(&routes);
    eventually("the problem", || gateway.api("/api/problems").contains("is in use by another cache"));
    assert_eq!(get(gateway.web(), "h", "/x").status, 200);
}

#[test]
fn changed_limits_and_options_keep_what_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let backend = numbered();
    let gateway = Gateway::serve(&routes(&backend.url(), &with_disk(folder.path(), "")));
    disk_is_ready(api(&gateway));
    for number in 0..8 {
        get(gateway.web(), "h", &format!("/{number}"));
    }
    eventually("they are written", || shown(api(&gateway))["disk"]["objects"] == 8);
    let options = with_disk(folder.path(), ", maxBytes: 1000000").replace('{', "{maxBytes: 1000000, ");
    let options = options.replace("disk: {maxBytes: 1000000, ", "disk: {");
    gateway.write("routes.yml", &routes(&backend.url(), &options));
    eventually("the new limits", || {
        let stored = shown(api(&gateway));
        [&stored["memory"], &stored["disk"]].iter().all(|tier| tier["maxBytes"] == 1_000_000)
    });
    for number in 0..8 {
        assert!(is_hit(&get(gateway.web(), "h", &format!("/{number}"))), "{number}");
    }
    let stored = shown(api(&gateway));
    assert_eq!(json!([stored["disk"]["objects"], stored["disk"]["problem"]]), json!([8, null]));
    assert_eq!(backend.seen().len(), 8);
}

#[test]
fn operators_purge_by_url_prefix_and_tag() {
    let folder = tempfile::tempdir().unwrap();
    let backend = numbered();
    let audit = format!("--auditLog.filePath={}", folder.path().join("audit.log").display());
    let routes = routes(&backend.url(), &with_disk(&folder.path().join("cache"), ""));
    let gateway = Gateway::with(&["--api.middlewares=login@file", &audit], &routes);
    disk_is_ready(api(&gateway));
    let urls = ["/a/1", "/a/2", "/b/1", "/b/2", "/c"];
    let stored = || -> Vec<bool> { urls.iter().map(|url| is_hit(&get(gateway.web(), "h", url))).collect() };
    stored();
    eventually("they are written", || shown(api(&gateway))["disk"]["objects"] == 5);
    assert_eq!(stored(), [true; 5]);
    let signed_in = format!("{OPERATOR}{JSON}");
    let all = json!({"all": true});
    assert_eq!(purge(&gateway, JSON, &all).status, 401);
    assert_eq!(purge(&gateway, OPERATOR, &all).status, 415);
    assert_eq!(purge(&gateway, &format!("{signed_in}Origin: https://evil\r\n"), &all).status, 403);
    for invalid in [json!({}), json!({"url": "/a/1"}), json!({"all": true, "tag": "a"}), json!({"what": 1})] {
        assert_eq!(purge(&gateway, &signed_in, &invalid).status, 400, "{invalid}");
    }
    let unknown = json!({"all": true, "middleware": "other@file"});
    assert_eq!(purge(&gateway, &signed_in, &unknown).status, 404);
    assert_eq!(stored(), [true; 5]);
    for (which, expected, number) in [
        (json!({"url": "http://h/a/1"}), [false, true, true, true, true], 2),
        (json!({"prefix": "http://h/b/", "middleware": "cache@file"}), [true, true, false, false, true], 4),
        (json!({"tag": "a"}), [false, false, true, true, true], 4),
        (json!({"tag": "A"}), [true; 5], 0),
        (all, [false; 5], 10),
    ] {
        let answer = purge(&gateway, &signed_in, &which);
        assert_eq!(answer.text(), format!("{{\"purged\":{{\"cache@file\":{number}}}}}\n"), "{which}");
        assert_eq!(stored(), expected, "{which}");
        eventually("they are written again", || shown(api(&gateway))["disk"]["objects"] == 5);
    }
    let purges = || -> Vec<Value> {
        let audited = std::fs::read_to_string(folder.path().join("audit.log")).unwrap();
        // The last line may not be complete yet.
        let events = audited.lines().filter_map(|line| serde_json::from_str(line).ok());
        events.filter(|event: &Value| event["event"] == "cache_purged").collect()
    };
    eventually("all are audited", || purges().len() == 5);
    assert_eq!(json!([purges()[0]["subject"], purges()[0]["identity"]]), json!(["url http://h/a/1", "a"]));
}

#[test]
fn operators_see_what_is_stored_and_how_requests_ended() {
    let folder = tempfile::tempdir().unwrap();
    let backend = numbered();
    let routes = routes(&backend.url(), &with_disk(folder.path(), ""))
        .replace("middlewares: [cache]", "middlewares: [login, cache]");
    // The server's responses must be public to be stored for clients that log in.
    let public = Backend::with(|_, stream| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: public, max-age=600\r\nCache-Tag: a\r\nAge: 100\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(head.as_bytes()).is_ok()
    });
    let gateway = Gateway::serve(&routes.replace(&backend.url(), &public.url()));
    disk_is_ready(api(&gateway));
    for _ in 0..3 {
        assert_eq!(get_with(gateway.web(), "h", "/x", OPERATOR).status, 200);
    }
    eventually("it is written", || shown(api(&gateway))["disk"]["objects"] == 1);
    let stored = shown(api(&gateway));
    let counts = json!({"bypass": 0, "hit": 2, "miss": 1, "revalidated": 0, "stale": 0});
    let counted = json!({"requests": counts, "collapsed": 0});
    assert_eq!(stored["requests"], counts);
    assert_eq!(stored["recent"], json!({"1m": counted, "5m": counted}));
    let sum = |outcome: &str| -> u64 {
        let steps = stored["history"]["steps"].as_array().unwrap();
        steps.iter().map(|step| step["requests"][outcome].as_u64().unwrap()).sum()
    };
    assert_eq!((sum("hit"), sum("miss"), &stored["history"]["stepSeconds"]), (2, 1, &json!(10)));
    let hottest = stored["hottest"].as_array().unwrap();
    assert_eq!(hottest.len(), 2, "in memory and on disk");
    for object in hottest {
        assert_eq!(object["url"], "http://h/x");
        let key = object["key"].as_str().unwrap();
        assert!(key.contains("router r@file, the client's identity") && !key.contains("basicAuth"), "{key}");
        let (age, ttl) = (object["age"].as_i64().unwrap(), object["ttl"].as_i64().unwrap());
        assert!(age >= 100 && age + ttl == 600, "{object}");
    }
    let with = |query: &str| get(api(&gateway), "gw", &format!("/api/cache?{query}"));
    assert!(!with("limit=0").text().contains("hottest"));
    let one: Value = serde_json::from_str(&with("limit=1").text()).unwrap();
    assert_eq!(one[0]["largest"].as_array().unwrap().len(), 1);
    for wrong in ["limit=101", "limit=x", "limit=-1"] {
        assert_eq!(with(wrong).status, 400, "{wrong}");
    }
}

#[test]
fn purging_needs_an_api_with_a_login() {
    let backend = numbered();
    let gateway = Gateway::serve(&routes(&backend.url(), "{}"));
    get(gateway.web(), "h", "/x");
    let answer = purge(&gateway, JSON, &json!({"all": true}));
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("purging requires an operator"), "{}", answer.text());
    assert!(is_hit(&get(gateway.web(), "h", "/x")));
}

#[test]
fn the_command_shows_and_purges() {
    let backend = numbered();
    let gateway = Gateway::with(&["--api.middlewares=login@file"], &routes(&backend.url(), "{}"));
    for target in ["/x", "/x", "/y"] {
        get(gateway.web(), "h", target);
    }
    let api = format!("http://{}", gateway.address("traefik"));
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("cache").args(arguments).args(["--api", &api, "--user", "a:test"]).env_clear();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let cells = |text: &str, line: usize| -> Vec<String> {
        text.lines().nth(line).unwrap().split_whitespace().map(str::to_owned).collect()
    };
    let stats = run(&["stats"]);
    assert_eq!(cells(&stats, 1)[..9], ["cache@file", "memory", "1", "0", "0", "2", "0", "2", "2"], "{stats}");
    assert!(stats.contains("http://h/x, router r@file"), "{stats}");
    let found = run(&["get", "http://h/x"]);
    assert_eq!(cells(&found, 1)[..4], ["memory", "4", "1", "x"], "{found}");
    assert_eq!(cells(&run(&["purge", "http://h/x"]), 1), ["cache@file", "1"]);
    assert_eq!(run(&["get", "http://h/x"]), "nothing is stored\n");
    assert_eq!(run(&["purge", "--all", "--json"]), "{\n  \"purged\": {\n    \"cache@file\": 1\n  }\n}\n");
}

#[test]
fn metrics_and_predictions_say_what_the_cache_does() {
    let folder = tempfile::tempdir().unwrap();
    let backend = numbered();
    let routes = routes(&backend.url(), &with_disk(folder.path(), ""));
    let gateway = Gateway::with(&["--metrics.prometheus=true"], &routes);
    disk_is_ready(api(&gateway));
    let explained = || gateway.api("/api/explain?url=http://h/x");
    assert!(explained().contains("miss: nothing is stored"), "{}", explained());
    for _ in 0..3 {
        get(gateway.web(), "h", "/x");
    }
    raw(gateway.web(), "POST /y HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .unwrap();
    eventually("it is written", || shown(api(&gateway))["disk"]["objects"] == 1);
    let explained = explained();
    assert!(explained.contains("hit: answered from the cache"), "{explained}");
    assert!(explained.contains("key: http://h/x, router r@file"), "{explained}");
    let metrics = gateway.api("/metrics");
    for line in [
        "tidegate_cache_requests_total{middleware=\"cache@file\",outcome=\"bypass\"} 1",
        "tidegate_cache_requests_total{middleware=\"cache@file\",outcome=\"hit\"} 2",
        "tidegate_cache_requests_total{middleware=\"cache@file\",outcome=\"miss\"} 1",
        "tidegate_cache_collapsed_total{middleware=\"cache@file\"} 0",
        "tidegate_cache_stored_total{middleware=\"cache@file\"} 1",
        "tidegate_cache_objects{middleware=\"cache@file\",tier=\"disk\"} 1",
        "tidegate_cache_objects{middleware=\"cache@file\",tier=\"memory\"} 1",
        "tidegate_cache_evictions_total{middleware=\"cache@file\",tier=\"memory\"} 0",
        "tidegate_cache_disk_ready{middleware=\"cache@file\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line}\n{metrics}");
    }
}
