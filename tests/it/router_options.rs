//! Options of routers from outside: TLS, default rules, layers, observability, and the syntax of rules.

use serde_json::Value;
use tidegate_config::{Origin, formats};

use crate::support::{Backend, Gateway, eventually, get};

fn shown(gateway: &Gateway, router: &str) -> Value {
    serde_json::from_str(&gateway.api(&format!("/api/http/routers/{router}"))).unwrap()
}

#[test]
fn rules_of_syntax_v2_are_refused_and_the_v3_form_is_shown() {
    let backend = Backend::echo("a");
    let routes = format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, priority: 1}}
    hosts: {{rule: 'Host(`a.test`, `b.test`)', service: a}}
    headers: {{rule: 'Headers(`x`, `y`)', service: a}}
    named: {{rule: 'HostRegexp(`{{sub:[a-z]+}}.test`)', service: a}}
    path: {{rule: 'Path(`/{{id:[0-9]+}}`)', service: a}}
    syntax: {{rule: 'Path(`/v2`) && HostRegexp(`.*`)', ruleSyntax: v2, service: a}}
    same: {{rule: 'Path(`/v3`)', ruleSyntax: v3, service: a}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    );
    let gateway = Gateway::serve(&routes);
    for (router, form) in [
        ("hosts", "in v3 it is Host(`a.test`) || Host(`b.test`)"),
        ("headers", "in v3 it is Header(`name`, `value`)"),
        ("named", "like HostRegexp(`"),
        ("path", "like PathRegexp(`"),
        ("syntax", "ruleSyntax `v2`: the rule could mean something else in `v3`"),
    ] {
        let router = shown(&gateway, &format!("{router}@file"));
        assert_eq!(router["status"], "disabled");
        assert!(router["error"].to_string().contains(form), "{router}");
    }
    assert_eq!(get(gateway.web(), "h", "/v2").status, 503, "its rule can be read, and keeps its requests");
    assert_eq!(
        (get(gateway.web(), "h", "/v3").status, shown(&gateway, "same@file")["status"].clone()),
        (200, "enabled".into())
    );
}

#[test]
fn the_log_follows_the_switch_of_the_router_and_of_its_entry_point() {
    let backend = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let gateway = Gateway::with(
        &[
            "--accesslog=true",
            &format!("--accesslog.filepath={}", file.display()),
            "--entryPoints.quiet.address=127.0.0.1:0",
            "--entryPoints.quiet.observability.accessLogs=false",
        ],
        &format!(
            "http:
  routers:
    plain: {{rule: 'Path(`/plain`)', service: a, entryPoints: [web, quiet]}}
    off: {{rule: 'Path(`/off`)', service: a, entryPoints: [web, quiet], observability: {{accessLogs: false, metrics: false, traceVerbosity: detailed}}}}
    on: {{rule: 'Path(`/on`)', service: a, entryPoints: [web, quiet], observability: {{accessLogs: true}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
            backend.url()
        ),
    );
    for path in ["/plain", "/off", "/on"] {
        for entry_point in ["web", "quiet"] {
            assert_eq!(get(gateway.address(entry_point), "h", path).status, 200);
        }
    }
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the lines are written", || read().lines().count() >= 3);
    get(gateway.web(), "h", "/plain");
    eventually("the last line is written", || read().matches("/plain").count() == 2);
    assert!(read().matches("/on").count() == 2 && !read().contains("/off"), "{}", read());
    let options = &shown(&gateway, "off@file")["observability"];
    let expected = serde_json::json!({"accessLogs": false, "metrics": false, "tracing": true, "traceVerbosity": "detailed"});
    assert_eq!(*options, expected);
}

#[test]
fn children_have_the_middlewares_of_their_parents_and_no_options_of_roots() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    root: {{rule: 'PathPrefix(`/`)', middlewares: [who]}}
    admin: {{rule: 'Header(`X-Role`, `admin`)', service: a, parentRefs: [root], middlewares: [mark]}}
    timed: {{rule: 'Path(`/timed`)', service: a, parentRefs: [root], timeouts: {{request: 1s}}, skipMiddlewares: ['*']}}
  middlewares:
    who: {{headers: {{customRequestHeaders: {{X-Role: admin}}}}}}
    mark: {{headers: {{customRequestHeaders: {{X-Child: 'yes'}}}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        backend.url()
    ));
    assert_eq!(get(gateway.web(), "h", "/x").status, 200);
    let seen = backend.last();
    assert_eq!((seen.header("x-role"), seen.header("x-child")), (Some("admin"), Some("yes")));
    assert_eq!(shown(&gateway, "admin@file")["status"], "enabled");
    let errors = shown(&gateway, "timed@file")["error"].to_string();
    assert!(errors.contains("non-root router cannot have timeouts"), "{errors}");
    assert!(errors.contains("non-root router cannot have skipMiddlewares"), "{errors}");
}

#[test]
fn the_api_shows_options_of_ours_only_where_they_are_set() {
    let backend = Backend::echo("a");
    let routes = Gateway::one_service(&backend.url());
    let gateway = Gateway::with(
        &[
            "--entryPoints.slow.address=127.0.0.1:0",
            "--entryPoints.slow.transport.respondingTimeouts.minBodyRate=0",
        ],
        &routes,
    );
    assert!(!gateway.api("/api/entrypoints/web").contains("minBodyRate"));
    assert!(gateway.api("/api/entrypoints/slow").contains(r#""minBodyRate":0"#));
    let shown = gateway.api("/api/rawdata");
    for option in ["skipMiddlewares", "timeouts", "when"] {
        assert!(!shown.contains(option), "{shown}");
    }
}

#[test]
fn the_options_of_ours_are_the_same_in_all_forms() {
    let yaml = "http:
  routers:
    r:
      rule: Path(`/`)
      service: s
      skipMiddlewares: [a, b@file]
      timeouts: {request: 1h, requestBody: 1m, minBodyRate: 100, response: 30s, responseBody: 10s}
  middlewares:
    m: {addPrefix: {prefix: /x}, when: '!Path(`/y`)'}
";
    let toml = "[http.routers.r]
rule = 'Path(`/`)'
service = 's'
skipMiddlewares = ['a', 'b@file']
[http.routers.r.timeouts]
request = '1h'
requestBody = 60
minBodyRate = 100
response = '30s'
responseBody = '10s'
[http.middlewares.m]
when = '!Path(`/y`)'
[http.middlewares.m.addPrefix]
prefix = '/x'
";
    let read = |name: &str, text: &str| {
        let provided = tidegate_config::decode_config(&formats::read(name, text.as_bytes()).unwrap());
        assert_eq!(provided.problems, []);
        provided.config
    };
    let labels = [
        ("tidegate.http.routers.r.rule", "Path(`/`)"),
        ("tidegate.http.routers.r.service", "s"),
        ("traefik.http.routers.r.skipmiddlewares", "a, b@file"),
        ("tidegate.http.routers.r.timeouts.request", "1h"),
        ("tidegate.http.routers.r.timeouts.requestBody", "1m"),
        ("tidegate.http.routers.r.timeouts.minbodyrate", "100"),
        ("tidegate.http.routers.r.timeouts.response", "30s"),
        ("tidegate.http.routers.r.timeouts.responsebody", "10"),
        ("tidegate.http.middlewares.m.addprefix.prefix", "/x"),
        ("traefik.http.middlewares.m.when", "!Path(`/y`)"),
    ];
    let origin = |key: &str| Origin::Label { container: "c".into(), label: key.into() };
    let (node, problems) = formats::labels::read(labels, &["tidegate", "traefik"], origin);
    assert!(problems.is_empty(), "{problems:?}");
    let provided = tidegate_config::decode_config(&node);
    assert_eq!(provided.problems, []);
    assert_eq!(read("r.yml", yaml), provided.config);
    assert_eq!(read("r.toml", toml), provided.config);
    assert_eq!(provided.config.http.middlewares["m"].when, "!Path(`/y`)");
}
