//! The dashboard in a real browser.

use std::process::Command;

use crate::dashboard::ROUTES;
use crate::support::Gateway;

#[test]
#[ignore = "needs Chromium"]
fn a_browser_shows_routers_with_rules_escaped() {
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
