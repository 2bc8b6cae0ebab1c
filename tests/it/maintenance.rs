//! Routers in maintenance: by option and by switch, over restarts, for operators only, and as clients see it.

use std::process::{Command, Output};

use serde_json::{Value, json};
use tidegate_config::{Origin, decode_config, formats};

use crate::support::process::Process;
use crate::support::{Answer, Backend, Gateway, eventually, get, get_with, raw};

/// `a` with the password `test`.
const LOGIN: &str = "    login: {basicAuth: {users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}";
const OPERATOR: &str = "Authorization: Basic YTp0ZXN0\r\nContent-Type: application/json\r\n";
const GUARDED: &str = "--api.middlewares=login@file";

/// Routes with these options of the router `r`, and these further middlewares.
fn routes(url: &str, options: &str, middlewares: &str) -> String {
    format!(
        "http:
  routers:
    r: {{rule: 'Host(`h`)', service: a{options}}}
    other: {{rule: 'Host(`other`)', service: a}}
  middlewares:
{LOGIN}
{middlewares}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
"
    )
}

fn send(gateway: &Gateway, method: &str, router: &str, headers: &str, body: &str) -> Answer {
    let target = if router.is_empty() { String::new() } else { format!("/{router}") };
    let request = format!(
        "{method} /api/maintenance{target} HTTP/1.1\r\nHost: gw\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    raw(gateway.address("traefik"), request).unwrap()
}

fn put(gateway: &Gateway, router: &str, body: &Value) -> Answer {
    send(gateway, "PUT", router, OPERATOR, &body.to_string())
}

fn delete(gateway: &Gateway, router: &str) -> Answer {
    send(gateway, "DELETE", router, OPERATOR, "")
}

fn list(gateway: &Gateway) -> Value {
    let answer = get_with(gateway.address("traefik"), "gw", "/api/maintenance", OPERATOR);
    assert_eq!(answer.status, 200);
    serde_json::from_str(&answer.text()).unwrap()
}

fn json_of(answer: &Answer) -> Value {
    serde_json::from_str(&answer.text()).unwrap_or_else(|_| panic!("{}", answer.text()))
}

/// The status and `Retry-After` of a response.
fn seen(gateway: &Gateway, host: &str) -> (u16, Option<String>) {
    let answer = get(gateway.web(), host, "/");
    (answer.status, answer.header("retry-after").map(str::to_owned))
}

#[test]
fn a_router_is_in_maintenance_by_its_option() {
    let backend = Backend::echo("a");
    for (options, expected) in [
        (", maintenance: true", (503, Some("300"))),
        (", maintenance: {}", (503, Some("300"))),
        (", maintenance: {retryAfter: 10m}", (503, Some("600"))),
        (", maintenance: {retryAfter: 0, status: 500}", (500, None)),
        (", maintenance: {allow: [192.0.2.1]}", (503, Some("300"))),
        (", maintenance: {allow: [192.0.2.1, 127.0.0.0/8]}", (200, None)),
        (", maintenance: {allow: [192.0.2.1], ipStrategy: {depth: 1}}", (503, Some("300"))),
        (", maintenance: false", (200, None)),
        (", maintenance: {enabled: false, retryAfter: 1m}", (200, None)),
    ] {
        let gateway = Gateway::serve(&routes(&backend.url(), options, ""));
        assert_eq!(gateway.problems(), [""; 0], "{options}");
        let (status, retry) = seen(&gateway, "h");
        assert_eq!((status, retry.as_deref()), expected, "{options}");
        assert_eq!(seen(&gateway, "other").0, 200, "{options}");
        let shown = gateway.api("/api/http/routers/r@file");
        let is_on = shown.contains("\"inMaintenance\":{\"source\":\"configuration\"");
        assert_eq!(is_on, !options.contains("alse"), "{shown}");
        assert_eq!(list(&gateway).as_array().unwrap().len(), usize::from(is_on), "{options}");
    }
    assert!(
        get(Gateway::serve(&routes(&backend.url(), ", maintenance: true", "")).web(), "h", "/")
            .text()
            .eq("Service Unavailable")
    );
}

#[test]
fn mistakes_break_the_router_and_are_reported() {
    let backend = Backend::echo("a");
    for (options, expected) in [
        ("{status: 200}", "maintenance.status: invalid status 200: expected 400 to 599"),
        ("{enabled: false, allow: [x]}", "maintenance.allow: invalid address or network `x`"),
        ("{ipStrategy: {ipv6Subnet: 200}}", "maintenance.ipStrategy: invalid IPv6 subnet 200"),
        ("{retryAfter: 800h}", "maintenance.retryAfter: 800h0m0s: expected up to 720h0m0s"),
        ("{retryAftr: 1m}", "unknown key: did you mean `retryAfter`?"),
        ("10m", "`10m` is given: expected options, or `true`"),
    ] {
        let routes = routes(&backend.url(), &format!(", maintenance: {options}"), "");
        let gateway = Gateway::serve(&routes);
        let problems = gateway.problems();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{options}: {problems:?}");
        assert_eq!(seen(&gateway, "h").0, 503, "{options}");
    }
    // TCP and UDP have no response that says when to come back.
    let tcp = "tcp: {routers: {t: {rule: 'HostSNI(`*`)', service: s, maintenance: true}}, services: {s: {}}}";
    let gateway = Gateway::serve(tcp);
    let problems = gateway.problems();
    assert!(
        problems.iter().any(|one| one.contains("tcp.routers.t.maintenance: unknown key")),
        "{problems:?}"
    );
}

#[test]
fn files_labels_and_keys_say_the_same() {
    let expected = |yaml: &str| {
        let text = format!("http: {{routers: {{r: {{rule: 'Host(`h`)', maintenance: {yaml}}}}}}}");
        decode_config(&formats::read("routes.yml", text.as_bytes()).unwrap()).config
    };
    for (yaml, pairs) in [
        ("true", &[("", "true")][..]),
        ("false", &[("", "false")]),
        ("{retryAfter: 10m}", &[(".retryafter", "10m")]),
        ("{retryAfter: 600}", &[("", "true"), (".retryafter", "600")]),
        (
            "{enabled: false, status: 500, allow: [10.0.0.0/8, 192.0.2.1], ipStrategy: {depth: 2}}",
            &[
                (".enabled", "false"),
                (".status", "500"),
                (".allow", "10.0.0.0/8, 192.0.2.1"),
                (".ipstrategy.depth", "2"),
            ],
        ),
    ] {
        let with = |start: &str, separator: &str| -> Vec<(String, String)> {
            let own = pairs.iter().map(|(key, value)| {
                (format!("{start}maintenance{}", key.replace('.', separator)), (*value).to_owned())
            });
            own.chain([(format!("{start}rule"), "Host(`h`)".to_owned())]).collect()
        };
        let labels = with("traefik.http.routers.r.", ".");
        let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let (node, problems) = formats::labels::read(labels, &["traefik"], |_| Origin::Internal);
        assert_eq!((problems, decode_config(&node).config), (Vec::new(), expected(yaml)), "labels: {yaml}");
        let keys = with("traefik/http/routers/r/", "/");
        let keys = keys.iter().map(|(key, value)| (key.as_str(), Ok(value.as_bytes())));
        let read = formats::keys::read(keys, &["traefik"]);
        assert_eq!(read.problems, []);
        assert_eq!(decode_config(&read.node).config, expected(yaml), "keys: {yaml}");
    }
}

#[test]
fn only_middlewares_that_shape_responses_apply_during_maintenance() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html.j2");
    std::fs::write(&page, "<p>back soon: {{ code }}").unwrap();
    let backend = Backend::echo("a");
    let middlewares = format!(
        "    mark: {{headers: {{customResponseHeaders: {{X-Mark: m}}}}}}
    own: {{errorPages: {{pages: {{maintenance: ['{}']}}}}}}
    both: {{chain: {{middlewares: [mark, own]}}}}
    cors: {{headers: {{accessControlAllowOriginList: ['*'], accessControlAllowMethods: [GET]}}}}",
        page.display()
    );
    let options = ", middlewares: [login, both, cors], maintenance: true";
    let flags = ["--entryPoints.web.http.errorPages.format=problem"];
    let routes_of = |options: &str| routes(&backend.url(), options, &middlewares);
    let gateway = Gateway::with(&flags, &routes_of(options));
    let answer = get_with(gateway.web(), "h", "/", "Origin: http://o.test\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (503, "<p>back soon: maintenance"));
    assert_eq!((answer.header("x-mark"), answer.header("retry-after")), (Some("m"), Some("300")));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("www-authenticate"), None, "nobody signs in to see it");
    // Who may pass needs to sign in as usual.
    gateway.write("routes.yml", &routes_of(&options.replace("true", "{allow: [127.0.0.1]}")));
    eventually("some may pass", || get(gateway.web(), "h", "/").status == 401);
    let answer = get_with(gateway.web(), "h", "/", OPERATOR);
    assert_eq!((answer.status, answer.header("x-backend")), (200, Some("a")));
    // Without a page of the router's own, that of the entry point.
    gateway.write("routes.yml", &routes_of(", middlewares: [login], maintenance: true"));
    eventually("the router has no page", || {
        let problem = get(gateway.web(), "h", "/").text();
        serde_json::from_str::<Value>(&problem).is_ok_and(|problem| problem["code"] == "maintenance")
    });
}

#[test]
fn broken_and_nested_routers_can_be_in_maintenance() {
    let backend = Backend::echo("a");
    let routes = format!(
        "http:
  routers:
    broken: {{rule: 'Host(`broken`)', service: missing, maintenance: true}}
    parent: {{rule: 'Host(`h`)'}}
    one: {{rule: 'Path(`/one`)', service: a, parentRefs: [parent], maintenance: true}}
    two: {{rule: 'Path(`/two`)', service: a, parentRefs: [parent]}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    );
    let gateway = Gateway::serve(&routes);
    assert_eq!(seen(&gateway, "broken"), (503, Some("300".into())));
    let status = |path: &str| get(gateway.web(), "h", path).status;
    assert_eq!((status("/one"), status("/two")), (503, 200));
}

#[test]
fn operators_switch_routers() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::echo("a");
    let audit = format!("--auditLog.filePath={}", folder.path().join("audit.log").display());
    let prepared = ", maintenance: {enabled: false, retryAfter: 20s}";
    let gateway = Gateway::with(&[GUARDED, &audit], &routes(&backend.url(), prepared, ""));
    assert_eq!(seen(&gateway, "h").0, 200);
    let switched = json_of(&put(&gateway, "r@file", &json!({})));
    let expected =
        json!({"router": "r@file", "switched": true, "changed": true, "active": true, "durable": false});
    assert_eq!(switched, expected);
    assert_eq!(seen(&gateway, "h"), (503, Some("20".into())), "with the options of the router");
    assert_eq!(seen(&gateway, "other").0, 200);
    let all = list(&gateway);
    assert_eq!(json!([all[0]["router"], all[0]["source"], all[0]["by"]]), json!(["r@file", "switch", "a"]));
    // It outlives configurations, without the router, too.
    gateway.write("routes.yml", &routes(&backend.url(), "", "").replace("    r: ", "    s: "));
    eventually("the router has gone", || seen(&gateway, "h").0 == 200);
    assert_eq!(list(&gateway)[0]["exists"], false);
    gateway.write("routes.yml", &routes(&backend.url(), "", ""));
    eventually("the router is back, and in maintenance", || seen(&gateway, "h") == (503, Some("300".into())));
    // A second switch replaces the first.
    let more = json!({"retryAfter": "1m", "allow": ["127.0.0.1"], "for": "1h"});
    assert_eq!(put(&gateway, "r", &more).status, 200);
    assert_eq!(seen(&gateway, "h"), (200, None), "the address may pass");
    assert_eq!(put(&gateway, "r", &json!({"for": "1h"})).status, 200);
    let (status, retry) = seen(&gateway, "h");
    let retry: u64 = retry.unwrap().parse().unwrap();
    assert!(status == 503 && (3500..=3600).contains(&retry), "until the end: {retry}");
    let off = json_of(&delete(&gateway, "r"));
    assert_eq!(json!([off["switched"], off["changed"], off["active"]]), json!([false, true, true]));
    assert_eq!(seen(&gateway, "h"), (200, None));
    assert_eq!(json_of(&delete(&gateway, "r"))["changed"], false);
    assert_eq!(list(&gateway), json!([]));
    let events = || -> Vec<(Value, Value)> {
        let audited = std::fs::read_to_string(folder.path().join("audit.log")).unwrap();
        let events = audited.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let events = events
            .filter(|event| event["event"].as_str().is_some_and(|name| name.starts_with("maintenance")));
        events.map(|event| (event["event"].clone(), json!([event["subject"], event["identity"]]))).collect()
    };
    eventually("all are audited", || events().len() == 4);
    let on = (json!("maintenance_on"), json!(["r@file", "a"]));
    assert_eq!(events(), [on.clone(), on.clone(), on, (json!("maintenance_off"), json!(["r@file", "a"]))]);
}

#[test]
fn a_switch_ends_by_itself() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(&[GUARDED], &routes(&backend.url(), "", ""));
    assert_eq!(put(&gateway, "r", &json!({"for": "2s"})).status, 200);
    assert_eq!(seen(&gateway, "h").0, 503);
    eventually("its time is over", || seen(&gateway, "h").0 == 200);
    assert_eq!(list(&gateway), json!([]));
}

#[test]
fn switching_is_protected() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(&[GUARDED], &routes(&backend.url(), "", ""));
    let send = |method: &str, router: &str, headers: &str, body: &str| {
        send(&gateway, method, router, headers, body).status
    };
    let json = "Content-Type: application/json\r\n";
    for method in ["PUT", "DELETE"] {
        assert_eq!(send(method, "r@file", json, "{}"), 401);
        assert_eq!(send(method, "r@file", &OPERATOR.replace(json, ""), "{}"), 415);
        assert_eq!(send(method, "r@file", &format!("{OPERATOR}Origin: https://evil\r\n"), "{}"), 403);
        assert_eq!(send(method, "r@file", &format!("{OPERATOR}Sec-Fetch-Site: cross-site\r\n"), "{}"), 403);
        assert_eq!(send(method, "", OPERATOR, "{}"), 405);
    }
    assert_eq!(send("POST", "r@file", OPERATOR, "{}"), 405);
    assert_eq!(send("GET", "r@file", OPERATOR, ""), 405);
    for invalid in [
        json!({"what": 1}),
        json!({"retryAfter": "soon"}),
        json!({"retryAfter": "1000h"}),
        json!({"allow": ["10.0.0.0/33"]}),
        json!({"allow": vec!["10.0.0.1"; 101]}),
        json!({"for": "0s"}),
        json!({"for": "9000h"}),
        json!({"until": "2020-01-01T00:00:00Z"}),
        json!({"until": "tomorrow"}),
        json!({"until": "2199-01-01T00:00:00Z", "for": "1h"}),
    ] {
        assert_eq!(put(&gateway, "r", &invalid).status, 400, "{invalid}");
    }
    assert_eq!(send("PUT", "r", OPERATOR, &"x".repeat(20_000)), 400);
    assert_eq!((seen(&gateway, "h").0, list(&gateway)), (200, json!([])));
    drop(gateway);
    let open = Gateway::serve(&routes(&backend.url(), "", ""));
    let answer = put(&open, "r@file", &json!({}));
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("switching maintenance requires an operator"), "{}", answer.text());
    assert_eq!(seen(&open, "h").0, 200);
}

#[test]
fn routers_are_found_by_name_and_others_are_refused() {
    let backend = Backend::echo("a");
    let url = backend.url();
    let routes = format!(
        "http:
  routers:
    whoami: {{rule: 'Host(`h`)', service: a}}
    fixed: {{rule: 'Host(`fixed`)', service: a, maintenance: true}}
    split: {{rule: 'Host(`split`)', service: a, entryPoints: [web, second]}}
    api: {{rule: 'PathPrefix(`/api`)', service: api@internal, entryPoints: [second]}}
  middlewares:
{LOGIN}
    mark: {{headers: {{customResponseHeaders: {{X-Mark: m}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}
tcp:
  routers:
    db: {{rule: 'HostSNI(`db`)', service: db, tls: {{passthrough: true}}}}
  services:
    db: {{loadBalancer: {{servers: [{{address: '127.0.0.1:1'}}]}}}}
"
    );
    let flags = [
        GUARDED,
        "--entryPoints.second.address=127.0.0.1:0",
        "--entryPoints.second.http.middlewares=mark@file",
    ];
    let gateway = Gateway::with(&flags, &routes);
    for (router, status, expected) in [
        ("whoam", 404, "router not found: whoam: did you mean whoami@file?"),
        ("whoami@docker", 404, "router not found: whoami@docker"),
        ("entirely-different", 404, "router not found: entirely-different"),
        ("db", 400, "db is a router of TCP: only HTTP routers can be in maintenance"),
        ("db@file", 400, "db@file is a router of TCP"),
        ("api@internal", 400, "api@internal belongs to the gateway itself"),
    ] {
        let answer = put(&gateway, router, &json!({}));
        let message = json_of(&answer)["message"].as_str().unwrap().to_owned();
        assert!(answer.status == status && message.starts_with(expected), "{router}: {message}");
    }
    let own = raw(
        gateway.address("second"),
        format!(
            "PUT /api/maintenance/api@file HTTP/1.1\r\nHost: gw\r\n{OPERATOR}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
        ),
    );
    let own = own.unwrap();
    assert_eq!(own.status, 409);
    assert!(own.text().contains("would lock you out"), "{}", own.text());
    let fixed = delete(&gateway, "fixed");
    assert_eq!(fixed.status, 409);
    assert!(fixed.text().contains("routes.yml:"), "where it is configured: {}", fixed.text());
    // Both parts of a router that was split by entry point.
    let part = put(&gateway, "second-split@file", &json!({}));
    assert_eq!((part.status, &json_of(&part)["router"]), (200, &json!("split@file")));
    let status = |point: &str| get(gateway.address(point), "split", "/").status;
    assert_eq!((status("web"), status("second")), (503, 503));
    let routers: Vec<Value> =
        list(&gateway).as_array().unwrap().iter().map(|one| one["router"].clone()).collect();
    assert_eq!(routers, ["fixed@file", "split@file"]);
    assert_eq!(delete(&gateway, "split").status, 200);
    assert_eq!((status("web"), status("second")), (200, 200));
    assert_eq!(put(&gateway, "whoami", &json!({})).status, 200);
    assert_eq!(seen(&gateway, "h").0, 503);
}

#[test]
fn switches_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::echo("a");
    let routes = routes(&backend.url(), "", "");
    let states = format!("--providers.lastState.directory={}", folder.path().join("states").display());
    let flags = ["--api.insecure=true", "--entryPoints.traefik.address=127.0.0.1:0", GUARDED, &states];
    let mut gateway = Process::start(&flags, &routes);
    let request = format!(
        "PUT /api/maintenance/r HTTP/1.1\r\nHost: gw\r\n{OPERATOR}Content-Length: 18\r\nConnection: close\r\n\r\n{{\"retryAfter\": 77}}"
    );
    let answer = raw(gateway.address("traefik"), request).unwrap();
    assert_eq!(json!([json_of(&answer)["durable"], json_of(&answer)["active"]]), json!([true, true]));
    gateway.end("KILL");
    let gateway = Process::start(&flags, &routes);
    let answer = get(gateway.web(), "h", "/");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("77")));
}

#[test]
fn explanations_say_that_a_router_is_in_maintenance() {
    let backend = Backend::echo("a");
    let options = ", middlewares: [login], maintenance: {allow: [192.0.2.7]}";
    let gateway = Gateway::with(&[GUARDED], &routes(&backend.url(), options, ""));
    let api = gateway.address("traefik");
    let explain = |more: &str| {
        let path = format!("/api/explain?entryPoint=web&url=http://h/{more}");
        json_of(&get_with(api, "gw", &path, OPERATOR))
    };
    let explained = explain("");
    let router = &explained["routing"][0]["router"];
    assert_eq!(router["maintenance"], json!({"source": "configuration", "allow": ["192.0.2.7"]}));
    let [gate, login] = [&router["middlewares"][0], &router["middlewares"][1]];
    assert_eq!(
        json!([gate["kind"], gate["verdict"], login["verdict"]]),
        json!(["maintenance", "responds", "notReached"])
    );
    let result = &explained["result"];
    assert_eq!(json!([result["origin"], result["certain"]]), json!(["gateway", true]));
    assert_eq!(
        json!([result["response"]["status"], result["response"]["reason"]]),
        json!([503, "maintenance"])
    );
    let passed = explain("&from=192.0.2.7");
    assert_eq!(passed["routing"][0]["router"]["middlewares"][0]["verdict"], "passes");
    assert_eq!(passed["result"]["response"]["reason"], "unauthenticated");
    // The same from the command, for a switch.
    gateway.write("routes.yml", &routes(&backend.url(), "", ""));
    eventually("it is open", || seen(&gateway, "h").0 == 200);
    let url = format!("http://{api}");
    let (_, out, _) = command(&["maintenance", "on", "r", "--for", "1h"], &url);
    assert!(out.starts_with("r@file is in maintenance\n"), "{out}");
    let (_, out, _) = command(&["explain", "http://h/", "--entry-point", "web"], &url);
    for part in [
        "               in maintenance by an operator until 20",
        "  middleware   maintenance (maintenance): responds with 503, maintenance: The router is in maintenance.",
        "  result       gateway responds with 503, maintenance",
    ] {
        assert!(out.contains(part), "{part:?} is missing:\n{out}");
    }
}

fn command(arguments: &[&str], api: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).args(["--api", api, "--user", "a:test"]).env_clear();
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn the_command_switches_and_lists() {
    let backend = Backend::echo("a");
    let gateway = Gateway::with(&[GUARDED], &routes(&backend.url(), "", ""));
    let api = format!("http://{}", gateway.address("traefik"));
    let run = |arguments: &[&str]| command(&[&["maintenance"], arguments].concat(), &api);
    assert_eq!(run(&["list"]), (0, "no router is in maintenance\n".into(), String::new()));
    let (code, out, _) =
        run(&["on", "r", "--retry-after", "10m", "--allow", "192.0.2.1", "--allow", "10.0.0.0/8"]);
    let expected = "r@file is in maintenance\na restart of the gateway ends it: providers.lastState.directory is not set\n";
    assert_eq!((code, out.as_str()), (0, expected));
    assert_eq!(seen(&gateway, "h"), (503, Some("600".into())));
    let (_, out, _) = run(&["list"]);
    let cells: Vec<&str> = out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        (&cells[..2], &cells[3..]),
        (&["r@file", "a"][..], &["-", "503", "10m0s", "192.0.2.1,10.0.0.0/8"][..])
    );
    let (_, out, _) = run(&["list", "--json"]);
    let listed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed[0]["retryAfter"], "10m0s");
    assert_eq!(run(&["off", "r@file"]).1, "r@file is no longer in maintenance\n");
    assert_eq!(run(&["off", "r@file"]).1, "r@file was not in maintenance\n");
    assert_eq!(seen(&gateway, "h").0, 200);
    let (code, _, err) = run(&["on", "oter"]);
    assert!(code == 1 && err.contains("router not found: oter: did you mean other@file?"), "{err}");
    let (code, _, err) = run(&["on", "r", "--for", "1h", "--until", "2030-01-01T00:00:00Z"]);
    assert!(code != 0 && err.contains("cannot be used with"), "{err}");
}
