//! `api.middlewares`: one line that guards API and dashboard, whichever router leads to them.

use crate::support::keys::Key;
use crate::support::oidc::{self, Browser, HOST, StandIn};
use crate::support::{Gateway, eventually, get, get_with};

/// `a` with the password `test`.
const LOGIN: &str =
    "http: {middlewares: {login: {basicAuth: {users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}}}";
const ANN: &str = "Authorization: Basic YTp0ZXN0\r\n";

/// Everything that shows the configuration or its state.
const PATHS: [&str; 6] = [
    "/api/version",
    "/api/rawdata",
    "/api/http/consumers",
    "/dashboard/",
    "/dashboard/main.js",
    "/debug/vars",
];

fn guarded(middlewares: &str, routes: &str) -> Gateway {
    Gateway::with(&[&format!("--api.middlewares={middlewares}"), "--api.debug=true"], routes)
}

#[test]
fn a_login_guards_the_insecure_api() {
    let gateway = guarded("login@file", LOGIN);
    let traefik = gateway.address("traefik");
    for path in PATHS {
        assert_eq!(get(traefik, "h", path).status, 401, "{path}");
        assert_eq!(get_with(traefik, "h", path, ANN).status, 200, "{path}");
    }
    for path in ["/", "/dashboard"] {
        assert_eq!(get(traefik, "h", path).status, 401, "{path}");
        assert_eq!(get_with(traefik, "h", path, ANN).header("location"), Some("/dashboard/"), "{path}");
    }
    assert_eq!(get(traefik, "h", "/ping").status, 200, "it shows nothing");
}

#[test]
fn keys_addresses_and_groups_guard_it_as_well() {
    let key = Key::new();
    let routes = format!(
        "http:
  middlewares:
    keys: {{apiKey: {{}}}}
    ops: {{access: {{allow: 'Group(`ops`)'}}}}
    here: {{ipAllowList: {{sourceRange: [127.0.0.0/8]}}}}
    elsewhere: {{ipAllowList: {{sourceRange: [192.0.2.0/24]}}}}
    either: {{anyOf: {{middlewares: [elsewhere, keys]}}}}
  consumers:
{}",
        key.consumer("ann", "")
    );
    // The consumer is in the group `anns`.
    for (middlewares, open, with_key) in [
        ("keys@file", 401, 200),
        ("keys@file,ops@file", 401, 403),
        ("here@file", 200, 200),
        ("elsewhere@file", 403, 403),
        ("either@file", 401, 200),
    ] {
        let gateway = guarded(middlewares, &routes);
        let traefik = gateway.address("traefik");
        for path in PATHS {
            assert_eq!(get(traefik, "h", path).status, open, "{middlewares} {path}");
            assert_eq!(get_with(traefik, "h", path, &key.header()).status, with_key, "{middlewares} {path}");
        }
    }
}

#[test]
fn whatever_router_leads_to_the_api_is_guarded() {
    let routes = format!(
        "{}
  routers:
    api: {{rule: 'Host(`api.test`)', service: api@internal, entryPoints: [web]}}
    page: {{rule: 'Host(`page.test`)', service: dashboard@internal, entryPoints: [web]}}
    weighted: {{rule: 'Host(`weighted.test`)', service: weighted, entryPoints: [web]}}
    errors: {{rule: 'Host(`errors.test`)', service: noop@internal, middlewares: [errors], entryPoints: [web]}}
  services:
    weighted: {{weighted: {{services: [{{name: api@internal, weight: 1}}]}}}}
",
        LOGIN
            .replace("http: {middlewares: {", "http:\n  middlewares:\n    errors: {errors: {status: ['418'], service: api@internal, query: /api/rawdata}}\n    ")
            .replace("}}}}", "}}")
    );
    let gateway = guarded("login@file", &routes);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    for (host, path) in [("api.test", "/api/version"), ("weighted.test", "/api/version"), ("page.test", "/")]
    {
        assert_eq!(get(gateway.web(), host, path).status, 401, "{host}");
        assert_eq!(get_with(gateway.web(), host, path, ANN).status, 200, "{host}");
    }
    let page = get(gateway.web(), "errors.test", "/");
    assert!(page.status == 418 && !page.text().contains("routers"), "{} {}", page.status, page.text());
}

#[test]
fn it_fails_closed_while_the_middleware_is_missing_or_broken() {
    let gateway = guarded("login@file", "");
    let traefik = gateway.address("traefik");
    let is_closed = || PATHS.iter().all(|path| get_with(traefik, "h", path, ANN).status == 503);
    assert!(is_closed());
    assert_eq!(get(traefik, "h", "/ping").status, 200);
    let problems = gateway.problems().join("\n");
    assert!(problems.contains("middleware \"login@file\" does not exist"), "{problems}");
    // It comes, breaks and is lost again, without a restart.
    let opens = || PATHS.iter().all(|path| get_with(traefik, "h", path, ANN).status == 200);
    gateway.write("routes.yml", LOGIN);
    eventually("the login exists", opens);
    assert_eq!(get(traefik, "h", "/api/version").status, 401);
    gateway.write("routes.yml", &LOGIN.replace("{users", "{usersFile: /nowhere, users"));
    eventually("the login is broken", is_closed);
    gateway.write("routes.yml", LOGIN);
    eventually("the login is back", opens);
    gateway.write("routes.yml", "");
    eventually("the login is lost", is_closed);
}

#[test]
fn users_sign_in_with_a_provider_on_their_way_to_the_dashboard() {
    let (provider, key) = (StandIn::start(), Key::new());
    let routes = format!(
        "http:
  middlewares:
    login: {{oidc: {{{}}}}}
    keys: {{apiKey: {{}}}}
    either: {{anyOf: {{middlewares: [login, keys]}}}}
  consumers:
{}",
        oidc::options(&provider, ""),
        key.consumer("ann", "")
    );
    for (middleware, with_key) in [("login@file", 401), ("either@file", 200)] {
        let gateway = guarded(middleware, &routes);
        assert_eq!(gateway.problems(), Vec::<String>::new());
        let traefik = gateway.address("traefik");
        assert_eq!(get(traefik, HOST, "/api/version").status, 401);
        assert_eq!(get_with(traefik, HOST, "/api/version", &key.header()).status, with_key);
        let mut browser = Browser::new(traefik);
        let page = browser.sign_in(&provider, "/dashboard/");
        assert!(page.status == 200 && page.text().contains("main.js"), "{} {}", page.status, page.text());
        assert_eq!(browser.open("/api/version").status, 200);
    }
}

#[test]
fn a_base_path_has_no_effect_on_the_insecure_api() {
    let gateway = Gateway::with(&["--api.basePath=/gw", "--api.middlewares=login@file"], LOGIN);
    let traefik = gateway.address("traefik");
    assert_eq!(get_with(traefik, "h", "/api/version", ANN).status, 200);
    assert!(get_with(traefik, "h", "/dashboard/", ANN).text().contains("data-api=\"/api\""));
}

#[test]
fn a_name_without_a_provider_is_refused_at_the_start() {
    for name in ["login", "@file", "login@"] {
        let flags = ["--api=true".to_owned(), format!("--api.middlewares={name}")];
        let problems = tidegate::settings::load(&flags, &[]).expect_err("no provider is named");
        let text = format!("{problems:?}");
        assert!(text.contains("expected `name@provider`"), "{text}");
    }
}
