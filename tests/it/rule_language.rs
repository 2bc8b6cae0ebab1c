//! The one rule language beside routers: `when`, `anyOf`, `skipMiddlewares`, and filters of the access log.

use crate::support::{Backend, Gateway, eventually, get, get_with};

/// `ann`, `test`.
const LOGIN: &str = "basicAuth: {users: ['ann:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M='], headerField: X-User}";
const ANN: &str = "Authorization: Basic YW5uOnRlc3Q=\r\n";

fn serve(flags: &[&str], backend: &Backend, routers: &str, middlewares: &str) -> Gateway {
    let url = backend.url();
    Gateway::with(
        flags,
        &format!(
            "http:\n  routers:\n{routers}  middlewares:\n{middlewares}  services:\n    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n"
        ),
    )
}

#[test]
fn a_middleware_applies_when_its_rule_matches() {
    let backend = Backend::echo("a");
    let gateway = serve(
        &[],
        &backend,
        "    all: {rule: 'PathPrefix(`/`)', service: a, middlewares: [auth, far]}\n",
        &format!(
            "    auth: {{{LOGIN}, when: '!PathPrefix(`/public`)'}}\n    far: {{ipAllowList: {{sourceRange: [10.0.0.0/8]}}, when: '!ClientIP(`127.0.0.0/8`)'}}\n"
        ),
    );
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let web = gateway.web();
    assert_eq!(get(web, "h", "/private").status, 401);
    assert_eq!(get_with(web, "h", "/private", ANN).status, 200);
    assert_eq!(backend.last().header("x-user"), Some("ann"));
    assert_eq!(get_with(web, "h", "/public", "X-User: root\r\nx_user: root\r\n").status, 200);
    assert!(!backend.last().head.contains("root"), "who is not asked cannot say who he is");
    let shown: serde_json::Value =
        serde_json::from_str(&gateway.api("/api/http/middlewares/auth@file")).unwrap();
    assert_eq!((&shown["when"], &shown["type"]), (&"!PathPrefix(`/public`)".into(), &"basicauth".into()));
    assert!(!gateway.api("/api/rawdata").contains("\"when\":\"\""));
}

#[test]
fn a_mistake_in_a_condition_is_reported_and_admits_no_request() {
    let backend = Backend::echo("a");
    let gateway = serve(
        &[],
        &backend,
        "    all: {rule: 'PathPrefix(`/`)', service: a, middlewares: [auth]}\n",
        &format!("    auth:\n      {LOGIN}\n      when: PathPrefx(`/x`)\n"),
    );
    assert_eq!(get(gateway.web(), "h", "/").status, 503);
    let problems = gateway.problems();
    let told = problems.iter().find(|problem| problem.contains("middleware auth@file")).unwrap();
    assert!(
        told.contains("routes.yml:7")
            && told.contains("when: invalid rule \"PathPrefx(`/x`)\" at column 1: unknown matcher PathPrefx"),
        "{told}"
    );
    assert!(told.contains("did you mean PathPrefix?"), "{told}");
}

#[test]
fn an_address_or_a_password_admits_a_request() {
    let backend = Backend::echo("a");
    let gateway = serve(
        &["--entryPoints.web.forwardedHeaders.insecure=true"],
        &backend,
        "    all: {rule: 'PathPrefix(`/`)', service: a, middlewares: [door], priority: 1}\n    loop: {rule: 'Path(`/loop`)', service: a, middlewares: [one]}\n    odd: {rule: 'Path(`/odd`)', service: a, middlewares: [odd]}\n",
        &format!(
            "    home: {{ipAllowList: {{sourceRange: [10.0.0.0/8], ipStrategy: {{depth: 1}}}}}}
    login: {{{LOGIN}}}
    door: {{anyOf: {{middlewares: [home, login]}}}}
    one: {{anyOf: {{middlewares: [two, home]}}}}
    two: {{anyOf: {{middlewares: [one]}}}}
    odd: {{anyOf: {{middlewares: [home, limit]}}}}
    limit: {{inFlightReq: {{amount: 1}}}}
"
        ),
    );
    let web = gateway.web();
    let refused = get(web, "h", "/");
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Basic realm=\"traefik\"")));
    let far = "X-Forwarded-For: 9.9.9.9\r\n";
    assert_eq!(get_with(web, "h", "/", &format!("{far}{ANN}")).status, 200);
    assert_eq!(backend.last().header("x-user"), Some("ann"));
    assert_eq!(get_with(web, "h", "/", "X-Forwarded-For: 10.1.1.1\r\nX-User: root\r\n").status, 200);
    assert_eq!(backend.last().header("x-user"), None);
    for path in ["/loop", "/odd"] {
        assert_eq!(get(web, "h", path).status, 503, "{path}");
    }
    let problems = gateway.problems().join("\n");
    assert!(
        problems
            .contains("recursion detected in middleware:one@file->middleware:two@file->middleware:one@file"),
        "{problems}"
    );
    assert!(problems.contains("middleware \"limit@file\" does not decide who may pass"), "{problems}");
    let shown = gateway.api("/api/http/middlewares/door@file");
    assert!(shown.contains(r#""anyOf":{"middlewares":["home@file","login@file"]}"#), "{shown}");
}

#[test]
fn a_router_skips_middlewares_of_its_entry_point() {
    let backend = Backend::echo("a");
    let gateway = serve(
        &["--entryPoints.web.http.middlewares=auth@file,mark@file"],
        &backend,
        "    all: {rule: 'PathPrefix(`/`)', service: a}\n    open: {rule: 'PathPrefix(`/open`)', service: a, skipMiddlewares: [auth]}\n    bare: {rule: 'PathPrefix(`/bare`)', service: a, skipMiddlewares: ['*']}\n    typo: {rule: 'PathPrefix(`/typo`)', service: a, skipMiddlewares: [auht@file]}\n",
        &format!(
            "    auth: {{{LOGIN}}}\n    mark: {{headers: {{customRequestHeaders: {{X-Mark: 'yes'}}}}}}\n"
        ),
    );
    let web = gateway.web();
    assert_eq!((get(web, "h", "/").status, get(web, "h", "/typo").status), (401, 401));
    assert_eq!(get(web, "h", "/open").status, 200);
    assert_eq!(backend.last().header("x-mark"), Some("yes"));
    assert_eq!(get(web, "h", "/bare").status, 200);
    assert_eq!(backend.last().header("x-mark"), None);
    let shown: serde_json::Value = serde_json::from_str(&gateway.api("/api/http/routers/open@file")).unwrap();
    assert_eq!(shown["middlewares"], serde_json::json!(["mark@file"]));
    assert_eq!(shown["skipMiddlewares"], serde_json::json!(["auth"]));
    let problems = gateway.problems();
    assert!(problems.len() == 1 && problems[0].contains("did you mean `auth`?"), "{problems:?}");
}

#[test]
fn a_router_cannot_skip_required_middlewares() {
    let backend = Backend::echo("a");
    let gateway = serve(
        &[
            "--entryPoints.web.http.middlewares=auth@file,mark@file",
            "--entryPoints.web.http.requiredMiddlewares=auth",
        ],
        &backend,
        "    sly: {rule: 'PathPrefix(`/`)', service: a, skipMiddlewares: ['*']}\n",
        &format!(
            "    auth: {{{LOGIN}}}\n    mark: {{headers: {{customResponseHeaders: {{X-Mark: 'yes'}}}}}}\n"
        ),
    );
    assert_eq!(get(gateway.web(), "h", "/").status, 401);
    let shown: serde_json::Value = serde_json::from_str(&gateway.api("/api/http/routers/sly@file")).unwrap();
    assert_eq!(shown["middlewares"], serde_json::json!(["auth@file"]));
    assert_eq!(shown["status"], "warning");
    let problems = gateway.problems();
    assert!(problems.len() == 1 && problems[0].contains("cannot skip `auth@file`"), "{problems:?}");
}

#[test]
fn the_log_keeps_requests_that_match_its_expression() {
    let backend = Backend::echo("a");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let gateway = serve(
        &[
            "--accesslog=true",
            &format!("--accesslog.filepath={}", file.display()),
            "--accesslog.format=json",
            "--accesslog.filters.expression=(DownstreamStatus == 404 || RouterName == `all@file`) && !PathPrefix(`/health`)",
        ],
        &backend,
        "    all: {rule: 'Host(`h`)', service: a}\n    quiet: {rule: 'Host(`q`)', service: a, observability: {accessLogs: false}}\n",
        "    none: {chain: {middlewares: []}}\n",
    );
    for (host, path) in [("h", "/health"), ("other", "/health"), ("q", "/"), ("other", "/"), ("h", "/last")] {
        get(gateway.web(), host, path);
    }
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the last line is written", || read().contains("/last"));
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let seen: Vec<String> = read()
        .lines()
        .map(line)
        .map(|line| {
            format!("{}{}", line["RequestHost"].as_str().unwrap(), line["RequestPath"].as_str().unwrap())
        })
        .collect();
    assert_eq!(seen, ["other/", "h/last"]);
}

#[test]
fn an_invalid_filter_expression_prevents_the_start() {
    let flag = "--accesslog.filters.expression=DownstreamStats >= 500".to_owned();
    let problems = tidegate::settings::load(&["--accesslog=true".to_owned(), flag], &[]).err().unwrap();
    let told = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(
        told.contains(
            "column 1: DownstreamStats is not a field of the access log; did you mean DownstreamStatus?"
        ),
        "{told}"
    );
    assert!(told.contains("accesslog.filters.expression"), "{told}");
}
