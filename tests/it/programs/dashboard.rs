//! The dashboard in a real browser.

use std::fmt::Write;
use std::path::Path;

use serde_json::json;

use crate::dashboard::ROUTES;
use crate::support::chromium::Chromium;
use crate::support::tls::certificate;
use crate::support::{Backend, Gateway};

const SHOP: &str = "
http:
  routers:
    shop: {rule: 'Host(`shop.example`)', service: weighted, middlewares: [login, limit], entryPoints: [web]}
    secure: {rule: 'Host(`shop.example`) && PathPrefix(`/pay`)', service: stable, tls: {}, entryPoints: [websecure]}
    broken: {rule: 'Host(`old.example`)', service: nowhere, entryPoints: [web]}
  middlewares:
    login: {basicAuth: {users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}
    limit: {rateLimit: {average: 10, burst: 20}}
  services:
    weighted: {weighted: {services: [{name: stable, weight: 9}, {name: canary, weight: 1}]}}
    stable: {loadBalancer: {servers: [{url: 'BACKEND'}, {url: 'http://127.0.0.1:1'}], healthCheck: {path: /, interval: 1s}}}
    canary: {loadBalancer: {servers: [{url: 'BACKEND'}]}}
tcp:
  routers: {db: {rule: 'HostSNI(`*`)', service: db, entryPoints: [db]}}
  services: {db: {loadBalancer: {servers: [{address: '127.0.0.1:5432'}]}}}
udp:
  routers: {dns: {service: dns, entryPoints: [dns]}}
  services: {dns: {loadBalancer: {servers: [{address: '127.0.0.1:5353'}]}}}
";

/// Starts a gateway with all kinds of objects.
fn shop(backend: &Backend) -> Gateway {
    let flags = [
        "--entryPoints.websecure.address=127.0.0.1:0",
        "--entryPoints.db.address=127.0.0.1:0",
        "--entryPoints.dns.address=127.0.0.1:0/udp",
    ];
    let own = certificate(&["shop.example"]);
    let tls =
        json!({"certificates": [{"certFile": own.cert.pem(), "keyFile": own.signing_key.serialize_pem()}]});
    Gateway::with(&flags, &format!("{}tls: {tls}\n", SHOP.replace("BACKEND", &backend.url())))
}

/// Opens a page, and waits until it is shown.
fn open(browser: &mut Chromium, base: &str, page: &str) {
    browser.open(&format!("{base}/dashboard/#{page}"));
    browser.until(&shown(page));
}

fn shown(page: &str) -> String {
    format!("document.getElementById('view')?.dataset.shown === '#{page}'")
}

fn text(browser: &mut Chromium) -> String {
    browser.evaluate("document.querySelector('main').innerText").as_str().unwrap().to_owned()
}

/// Checks what assistive technology needs on each page.
fn accessible(browser: &mut Chromium, page: &str) {
    for (what, expression) in [
        ("one h1", "document.querySelectorAll('h1').length === 1"),
        (
            "tables have captions",
            "[...document.querySelectorAll('table')].every((one) => one.caption?.textContent)",
        ),
        (
            "fields have labels",
            "[...document.querySelectorAll('main input, main select')].every((one) => one.labels.length)",
        ),
        (
            "links have text",
            "[...document.querySelectorAll('a')].every((one) => one.textContent.trim() || one.ariaLabel)",
        ),
        (
            "pictures have titles",
            "[...document.querySelectorAll('main svg')].every((one) => one.querySelector('title'))",
        ),
        (
            "identifiers are unique",
            "(() => { const all = [...document.querySelectorAll('[id]')].map((one) => one.id); return new Set(all).size === all.length; })()",
        ),
    ] {
        assert_eq!(browser.evaluate(expression), true, "{page}: {what}");
    }
}

#[test]
#[ignore = "needs Chromium"]
fn every_page_shows_its_data_without_complaints() {
    let backend = Backend::echo("a");
    let gateway = shop(&backend);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    for (page, expected) in [
        ("/", &["1 problem", "HTTP routers", "UDP services", "websecure", "File", "Access log"][..]),
        ("/http/routers", &["shop@file", "disabled", "does not exist", "Host(`shop.example`)"]),
        ("/http/services", &["weighted@file", "down", "http://127.0.0.1:1"]),
        ("/http/middlewares", &["login@file", "basicauth"]),
        ("/tcp/routers", &["db@file"]),
        ("/tcp/services", &["127.0.0.1:5432"]),
        ("/tcp/middlewares", &["No objects fit."]),
        ("/udp/routers", &["dns@file"]),
        ("/udp/services", &["127.0.0.1:5353"]),
        (
            "/http/routers/shop@file",
            &["routes.yml:4", "127.0.0.1:1", "login@file", "weight 9", "Middleware 2"],
        ),
        ("/http/routers/broken@file", &["does not exist", "Problem at", "nowhere@file"]),
        ("/http/services/weighted@file", &["weighted", "shop@file", "weight 1"]),
        ("/http/middlewares/limit@file", &["average", "10", "shop@file"]),
        ("/tcp/routers/db@file", &["HostSNI(`*`)", "127.0.0.1:5432"]),
        ("/udp/services/dns@file", &["dns@file", "127.0.0.1:5353"]),
        ("/entrypoints/websecure", &["secure@file", "respondingTimeouts"]),
        ("/providers/File", &["HTTP routers", "UDP services", "does not exist"]),
        ("/certificates", &["shop.example", "days left"]),
        ("/cluster", &["This gateway is alone.", "(this one)", "All serve the same configuration."]),
        ("/problems", &["broken@file", "routes.yml:"]),
        ("/nothing/here", &["This page does not exist."]),
    ] {
        open(&mut browser, &base, page);
        let text = text(&mut browser);
        for expected in expected {
            assert!(text.contains(expected), "{page}: {expected:?} is not in\n{text}");
        }
        accessible(&mut browser, page);
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{page}");
        browser.appear(360, 800, true);
        let too_wide = "document.documentElement.scrollWidth > innerWidth";
        assert_eq!(browser.evaluate(too_wide), false, "{page} is too wide for a telephone");
        browser.appear(1280, 800, false);
    }
    open(&mut browser, &base, "/certificates");
    browser.evaluate("document.querySelector('tbody a').click()");
    browser.until("document.querySelector('main').innerText.includes('Fingerprint')");
    let certificate = text(&mut browser);
    assert!(certificate.contains("shop.example") && certificate.contains("days left"), "{certificate}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // The parts of the picture are links.
    open(&mut browser, &base, "/http/routers/shop@file");
    browser.evaluate("document.querySelector('.picture a[href=\"#/http/services/canary@file\"]').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))");
    browser.until(&shown("/http/services/canary@file"));
}

#[test]
#[ignore = "needs Chromium"]
fn names_and_rules_are_text_and_old_addresses_lead_to_new_pages() {
    let gateway = Gateway::serve(ROUTES);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    for page in ["Routers", "Problems", "Cluster", "Overview", "Services", "Middlewares", "TCP%20and%20UDP"] {
        browser.open(&format!("{base}/dashboard/#{page}"));
        browser.until("document.getElementById('view')?.dataset.shown?.startsWith('#/') === true");
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{page}");
    }
    open(&mut browser, &base, "/http/routers");
    assert!(text(&mut browser).contains("<img src=x onerror=document.title=1>"));
    assert_eq!(browser.evaluate("document.querySelectorAll('main img').length"), 0);
    open(&mut browser, &base, "/http/routers/hostile@file");
    assert_eq!(browser.evaluate("document.title"), "HTTP router hostile@file · Tidegate");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // A name that does not exist is reported, and the console shows the response of the API.
    open(&mut browser, &base, "/http/routers/none@file");
    assert!(text(&mut browser).contains("router not found: none@file"));
}

#[test]
#[ignore = "needs Chromium"]
fn a_thousand_routers_are_searched_sorted_and_paged_by_the_address() {
    let mut routes =
        "http:\n  services: {a: {loadBalancer: {servers: [{url: 'http://127.0.0.1:1'}]}}}\n  routers:\n"
            .to_owned();
    for number in 0..1000 {
        writeln!(
            routes,
            "    r{number:04}: {{rule: 'Host(`h{number}.example`)', service: a, entryPoints: [web]}}"
        )
        .unwrap();
    }
    let gateway = Gateway::serve(&routes);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    let rows = "document.querySelectorAll('tbody tr').length";
    open(&mut browser, &base, "/http/routers?page=2");
    assert_eq!(browser.evaluate(rows), 50);
    browser.evaluate("document.getElementById('next').click()");
    browser.until("location.hash === '#/http/routers?page=3' && document.querySelector('.pager').innerText.includes('Page 3')");
    // Searching starts at the first page, and typing goes on while the list changes.
    browser.press("/", "/");
    assert_eq!(browser.evaluate("document.activeElement.id"), "search");
    for key in ["r", "0", "9", "9"] {
        browser.press(key, key);
    }
    browser.until("location.hash === '#/http/routers?search=r099' && document.querySelectorAll('tbody tr').length === 10");
    assert_eq!(browser.evaluate("document.activeElement.id + document.activeElement.value"), "searchr099");
    open(&mut browser, &base, "/http/routers?sortBy=name&direction=desc&search=%40file");
    assert_eq!(browser.evaluate("document.querySelector('tbody th').innerText"), "r0999@file");
    assert_eq!(
        browser.evaluate("document.querySelector('th[aria-sort=descending]').innerText.startsWith('Name')"),
        true
    );
    open(&mut browser, &base, "/http/services/a@file");
    assert!(text(&mut browser).contains("and 950 more"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn keys_reach_all_pages_behind_a_prefix() {
    let routes = "
http:
  routers:
    ops: {rule: 'PathPrefix(`/ops`)', service: api@internal, middlewares: [ops]}
  middlewares:
    ops: {stripPrefix: {prefixes: [/ops]}}
";
    let gateway = Gateway::serve(routes);
    let base = format!("http://{}/ops", gateway.web());
    let mut browser = Chromium::start();
    open(&mut browser, &base, "/");
    for (key, page) in [("r", "/http/routers"), ("s", "/http/services"), ("p", "/problems"), ("o", "/")] {
        browser.press("g", "g");
        browser.press(key, key);
        browser.until(&shown(page));
        assert_eq!(browser.evaluate("document.activeElement.id"), "heading", "{page}");
    }
    // The first element is the link that skips the navigation.
    browser.open(&format!("{base}/dashboard/#/problems"));
    browser.until(&shown("/problems"));
    browser.press("Tab", "");
    assert_eq!(browser.evaluate("document.activeElement.id"), "skip");
    browser.press("Enter", "\r");
    assert_eq!(browser.evaluate("document.activeElement.id"), "heading");
    assert_eq!(browser.evaluate("location.hash"), "#/problems");
    browser.press("?", "?");
    assert_eq!(browser.evaluate("document.getElementById('help').open"), true);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// Writes the pictures of docs/dashboard.md if `TIDEGATE_WRITE_DOCS` is set; else they must exist.
#[test]
#[ignore = "needs Chromium"]
fn pictures_for_the_docs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dashboard");
    let writes = std::env::var_os("TIDEGATE_WRITE_DOCS").is_some();
    let backend = Backend::echo("a");
    let gateway = shop(&backend);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    for (name, page, width, is_dark) in [
        ("overview", "/", 1100, false),
        ("routers", "/http/routers?search=%40file", 1100, true),
        ("router", "/http/routers/shop@file", 1600, false),
        ("narrow", "/http/services", 360, false),
    ] {
        browser.appear(width, 760, is_dark);
        open(&mut browser, &base, page);
        // The path of the file is that of a temporary folder.
        browser.evaluate("document.querySelector('.picture')?.previousSibling.scrollIntoView()");
        let file = folder.join(format!("{name}.png"));
        if writes {
            std::fs::create_dir_all(&folder).unwrap();
            browser.picture(&file);
        }
        assert!(file.exists(), "{}", file.display());
    }
}
