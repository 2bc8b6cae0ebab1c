//! The dashboard as a browser gets it: page, assets, what the API tells it, and what it makes of hostile names.

use std::process::Command;

use super::support::{Gateway, get};

/// A router that is broken, and whose rule would be markup if the page took it for that.
const ROUTES: &str = "
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
    for asset in assets {
        let answer = get(address, "h", &format!("/dashboard/{asset}"));
        let media = match asset.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(media)), "{asset}");
        assert!(!answer.body.is_empty(), "{asset}");
    }
    assert_eq!(get(address, "h", "/dashboard/../Cargo.toml").status, 404);
}

#[test]
fn problems_come_once_with_the_place_where_they_stand() {
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
#[ignore = "needs Chromium"]
fn a_browser_shows_routers_and_takes_no_rule_for_markup() {
    let gateway = Gateway::serve(ROUTES);
    let routers = rendered(&gateway, "Routers");
    for text in ["shop", "@file", "Host(`shop.localhost`)", "&lt;img src=x onerror=document.title=1&gt;"] {
        assert!(routers.contains(text), "{text} is not in\n{routers}");
    }
    assert!(!routers.contains("<img src=\"x\"") && !routers.contains("<title>1</title>"), "{routers}");
    let problems = rendered(&gateway, "Problems");
    assert!(problems.contains("routes.yml:"), "{problems}");
    let cluster = rendered(&gateway, "Cluster");
    assert!(cluster.contains("This gateway is alone.") && cluster.contains("(this one)"), "{cluster}");
}

/// The page's elements after its script has run.
fn rendered(gateway: &Gateway, tab: &str) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}/dashboard/#{tab}", gateway.address("traefik")))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
