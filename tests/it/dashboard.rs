//! The dashboard as a browser gets it: page, assets, what the API tells it, and what it makes of hostile names.

use crate::support::{Gateway, get, get_with};

/// A router that is broken, and whose rule would be markup if the page took it for that.
pub const ROUTES: &str = "
http:
  routers:
    shop:
      rule: Host(`shop.localhost`)
      service: a
    hostile:
      rule: PathPrefix(`/<img src=x onerror=document.title=1>`)
      service: nowhere
  services:
    a: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}
";

#[test]
fn the_page_and_everything_it_names_is_served() {
    let gateway = Gateway::serve(ROUTES);
    let address = gateway.address("traefik");
    let root = get(address, "h", "/");
    assert_eq!((root.status, root.header("location")), (301, Some("http://h/dashboard/")));
    let page = get(address, "h", "/dashboard/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap_or("").to_owned();
    assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let text = page.text();
    let mut assets = Vec::new();
    for attribute in ["href=\"", "src=\""] {
        assets.extend(text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()));
    }
    assets.retain(|asset| !asset.starts_with('#'));
    assert!(assets.len() >= 3, "{assets:?}");
    let mut assets: Vec<String> = assets.into_iter().map(str::to_owned).collect();
    for next in 0.. {
        let Some(asset) = assets.get(next).cloned() else { break };
        let answer = get(address, "h", &format!("/dashboard/{asset}"));
        let media = match asset.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(media)), "{asset}");
        assert!(!answer.body.is_empty(), "{asset}");
        let text = answer.text();
        let imports = text.split("from \"./").skip(1).filter_map(|rest| rest.split('"').next());
        let new: Vec<String> = imports.map(str::to_owned).filter(|name| !assets.contains(name)).collect();
        assets.extend(new);
    }
    assert!(assets.len() > 10, "{assets:?}");
    assert_eq!(get(address, "h", "/dashboard/../Cargo.toml").status, 404);
}

#[test]
fn behind_stripped_prefixes_the_dashboard_uses_its_api() {
    let routes = "
http:
  routers:
    ops: {rule: 'PathPrefix(`/ops`)', service: api@internal, middlewares: [ops]}
    deep: {rule: 'PathPrefix(`/a/b c`)', service: api@internal, middlewares: [a, b]}
    any: {rule: 'PathPrefix(`/any`)', service: api@internal, middlewares: [any]}
    page: {rule: 'PathPrefix(`/tools/dashboard`)', service: dashboard@internal, middlewares: [page]}
    api: {rule: 'PathPrefix(`/tools/api`)', service: api@internal, middlewares: [tools]}
  middlewares:
    ops: {stripPrefix: {prefixes: [/ops]}}
    a: {stripPrefix: {prefixes: [/a/]}}
    b: {stripPrefix: {prefixes: ['/b c']}}
    any: {stripPrefixRegex: {regex: ['^/any/[0-9]+']}}
    page: {stripPrefix: {prefixes: [/tools/dashboard]}}
    tools: {stripPrefix: {prefixes: [/tools]}}
";
    let gateway = Gateway::with(&["--entryPoints.web.forwardedHeaders.insecure=true"], routes);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let web = gateway.web();
    let api_of = |path: &str, headers: &str| {
        let page = get_with(web, "h", path, headers);
        assert_eq!(page.status, 200, "{path}");
        page.text().split("data-api=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    for (page, headers, api) in [
        ("/ops/dashboard/", "", "/ops/api"),
        ("/a/b%20c/dashboard/", "", "/a/b%20c/api"),
        ("/any/42/dashboard/", "", "/any/42/api"),
        ("/tools/dashboard/", "", "/tools/api"),
    ] {
        assert_eq!(api_of(page, headers), api);
        let overview = get(web, "h", &format!("{api}/overview"));
        assert!(overview.status == 200 && overview.text().contains("\"routers\""), "{api}");
    }
    let outer = |value: &str| api_of("/ops/dashboard/", &format!("X-Forwarded-Prefix: {value}\r\n"));
    assert_eq!(outer("/outer/"), "/outer/ops/api");
    assert_eq!(outer("/one, /two"), "/one/two/ops/api");
    assert_eq!(outer("/\"><script>"), "/%22%3E%3Cscript%3E/ops/api");
    for other_host in ["//evil.example", "https://evil.example", "evil"] {
        assert_eq!(outer(other_host), "/api", "{other_host}");
    }
    assert_eq!(get(web, "h", "/ops/").header("location"), Some("/ops/dashboard/"));
    assert_eq!(get(web, "h", "/a/b%20c/").header("location"), Some("/a/b%20c/dashboard/"));
}

#[test]
fn problems_are_reported_once_with_their_place() {
    // With TLS on one of two entry points there are two copies of each router.
    let flags = ["--entryPoints.websecure.address=127.0.0.1:0", "--entryPoints.websecure.http.tls=true"];
    let gateway = Gateway::with(&flags, ROUTES);
    assert!(gateway.api("/api/http/routers").contains("websecure-hostile@file"));
    let problems: serde_json::Value = serde_json::from_str(&gateway.api("/api/problems")).unwrap();
    let [problem] = problems.as_array().unwrap().as_slice() else {
        panic!("expected one problem: {problems}")
    };
    assert_eq!(problem["name"], "hostile@file");
    assert_eq!(problem["kind"], "router");
    assert!(problem["message"].as_str().unwrap().contains("nowhere"), "{problem}");
    let origin = problem["origin"].as_str().unwrap();
    assert!(origin.contains("routes.yml:") && !origin.ends_with(':'), "{origin}");
}

#[test]
fn objects_have_origins() {
    let flags = ["--entryPoints.websecure.address=127.0.0.1:0", "--entryPoints.websecure.http.tls=true"];
    let gateway = Gateway::with(&flags, ROUTES);
    let origin = |name: &str| gateway.api(&format!("/api/origins/http/{name}"));
    assert!(
        origin("routers/shop@file").trim_end().ends_with("routes.yml:4\"}"),
        "{}",
        origin("routers/shop@file")
    );
    // A copy for an entry point was written where its router was.
    assert_eq!(origin("routers/websecure-shop@file"), origin("routers/shop@file"));
    assert!(origin("services/a@file").contains("routes.yml:11"), "{}", origin("services/a@file"));
    assert_eq!(origin("routers/api@internal").trim_end(), r#"{"origin":"internal"}"#);
    let address = gateway.address("traefik");
    for (path, status) in
        [("http/routers/none@file", 404), ("http/routers", 404), ("http/nothing/a@file", 404)]
    {
        assert_eq!(get(address, "h", &format!("/api/origins/{path}")).status, status, "{path}");
    }
}
