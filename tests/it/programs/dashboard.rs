//! The dashboard in a real browser.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::dashboard::ROUTES;
use crate::support::chromium::Chromium;
use crate::support::tls::certificate;
use crate::support::{Backend, Client, Gateway, eventually, get, pause_for};

const SHOP: &str = "
http:
  routers:
    shop: {rule: 'Host(`shop.example`)', service: weighted, middlewares: [login, limit], entryPoints: [web]}
    secure: {rule: 'Host(`shop.example`) && PathPrefix(`/pay`)', service: stable, tls: {}, entryPoints: [websecure]}
    broken: {rule: 'Host(`old.example`)', service: nowhere, entryPoints: [web]}
    open: {rule: 'Host(`open.example`)', service: canary, entryPoints: [web]}
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

/// Sends requests that a server, a middleware and the gateway respond to, and waits until the API shows them.
fn visit(gateway: &Gateway) {
    // Statistics may begin when they are asked for.
    gateway.api("/api/statistics");
    for _ in 0..5 {
        assert_eq!(get(gateway.web(), "open.example", "/hello").status, 200);
    }
    assert_eq!(get(gateway.web(), "shop.example", "/account").status, 401);
    assert_eq!(get(gateway.web(), "old.example", "/lost").status, 503);
    eventually("the requests are counted and kept", || {
        let (counted, kept) = (gateway.api("/api/statistics"), gateway.api("/api/requests"));
        counted.contains("broken@file") && counted.contains("open@file") && kept.contains("/lost")
    });
}

/// Opens a page, and waits until it is shown.
pub fn open(browser: &mut Chromium, base: &str, page: &str) {
    browser.open(&format!("{base}/dashboard/#{page}"));
    browser.until(&shown(page));
}

pub fn shown(page: &str) -> String {
    format!("document.getElementById('view')?.dataset.shown === '#{page}'")
}

/// Returns an expression that is true when the page contains a text.
pub fn says(text: &str) -> String {
    format!("document.querySelector('main').innerText.includes({text:?})")
}

/// Follows the first link that a selector finds.
fn follow(browser: &mut Chromium, selector: &str) {
    browser.evaluate(&format!("document.querySelector({selector:?}).dispatchEvent(new MouseEvent('click', {{bubbles: true, cancelable: true}}))"));
}

/// Makes the page believe that nobody sees it, or that somebody does again.
fn hide(browser: &mut Chromium, is_hidden: bool) {
    browser.evaluate(&format!("Object.defineProperty(document, 'hidden', {{value: {is_hidden}, configurable: true}}); document.dispatchEvent(new Event('visibilitychange'))"));
}

pub fn text(browser: &mut Chromium) -> String {
    browser.evaluate("document.querySelector('main').innerText").as_str().unwrap().to_owned()
}

/// Checks what assistive technology needs on each page.
pub fn accessible(browser: &mut Chromium, page: &str) {
    for (what, expression) in [
        ("one h1", "document.querySelectorAll('h1').length === 1"),
        (
            "tables have captions",
            "[...document.querySelectorAll('table')].every((one) => one.caption?.textContent)",
        ),
        (
            "fields have labels",
            "[...document.querySelectorAll('main input, main select, main textarea')].every((one) => one.labels.length)",
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
    visit(&gateway);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    for (page, expected) in [
        ("/", &["1 problem", "HTTP routers", "UDP services", "websecure", "File", "Access log"][..]),
        ("/", &["Traffic", "open@file", "canary@file", "per 10 seconds", "p99"]),
        ("/http/routers/open@file", &["Traffic", "p50", "Explain a request to this router"]),
        ("/http/services/canary@file", &["Traffic", "http://127.0.0.1:", "p99"]),
        ("/http/services/stable@file", &["No requests have been counted"]),
        ("/entrypoints/web", &["at most", "errors (status 500 or more)"]),
        (
            "/requests",
            &["GET open.example/hello", "503 router_broken", "401 unauthenticated", "7 shown", "Pause"],
        ),
        (
            "/requests?live=no&filter=status%20%3E%3D%20500",
            &["GET old.example/lost", "1 shown", "Paused", "Continue"],
        ),
        ("/requests?live=no&search=hello", &["5 shown"]),
        ("/explain", &["without sending it", "Client's address", "Headers, one per line"]),
        (
            "/explain?url=http%3A%2F%2Fopen.example%2Fhello&entryPoint=web",
            &[
                "A server of canary@file responds.",
                "no",
                "chosen",
                "next",
                "routes.yml:",
                "GET /hello for host open.example",
            ],
        ),
        (
            "/explain?url=https%3A%2F%2Fshop.example%2Fpay&entryPoint=websecure",
            &["secure@file", "(configured)", "days left", "127.0.0.1:1", "down"],
        ),
        (
            "/explain?url=http%3A%2F%2Fshop.example%2Fx&entryPoint=web",
            &[
                "The middleware login@file responds with 401, unauthenticated",
                "responds",
                "not reached",
                "rateLimit",
            ],
        ),
        (
            "/explain?url=http%3A%2F%2Fshop.example%2Fx&entryPoint=web&headers=Authorization%3A+Basic+YTp0ZXN0",
            &[
                "responds.",
                "of 20 tokens",
                "Services of weighted@file",
                "member",
                "canary@file",
                "next",
                "loadBalancer",
            ],
        ),
        (
            "/explain?url=http%3A%2F%2Fnone.example%2Fx&entryPoint=web",
            &[
                "The gateway responds with 404",
                "Host(`open.example`) (the host is `none.example`)",
                "none matches",
            ],
        ),
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
        ("/consumers", &["No consumers are defined."]),
        ("/sessions", &["No middleware has sessions"]),
        ("/caches", &["No router has a cache"]),
        ("/limits", &["No limit has refused anything.", "shop@file", "limit@file", "rateLimit"]),
        ("/problems", &["broken@file", "routes.yml:"]),
        ("/nothing/here", &["This page does not exist."]),
    ] {
        open(&mut browser, &base, page);
        if page == "/requests" {
            browser.until("document.getElementById('state').textContent === 'Live'");
        }
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
    let backend = Backend::echo("a");
    let gateway = shop(&backend);
    gateway.write(
        "ops.yml",
        "
http:
  routers:
    ops: {rule: 'PathPrefix(`/ops`)', service: api@internal, middlewares: [ops], entryPoints: [web]}
  middlewares:
    ops: {stripPrefix: {prefixes: [/ops]}}
",
    );
    eventually("the API is below the prefix", || get(gateway.web(), "h", "/ops/api/version").status == 200);
    visit(&gateway);
    let base = format!("http://{}/ops", gateway.web());
    let mut browser = Chromium::start();
    open(&mut browser, &base, "/");
    assert!(text(&mut browser).contains("open@file"));
    for (key, page) in [
        ("r", "/http/routers"),
        ("s", "/http/services"),
        ("q", "/requests"),
        ("x", "/explain"),
        ("u", "/consumers"),
        ("n", "/sessions"),
        ("t", "/limits"),
        ("a", "/caches"),
        ("p", "/problems"),
        ("o", "/"),
    ] {
        browser.press("g", "g");
        browser.press(key, key);
        browser.until(&shown(page));
        assert_eq!(browser.evaluate("document.activeElement.id"), "heading", "{page}");
    }
    open(&mut browser, &base, "/requests");
    browser.until("document.getElementById('state').textContent === 'Live'");
    get(gateway.web(), "open.example", "/later");
    browser.until("document.querySelector('tbody a').textContent === 'GET open.example/later'");
    follow(&mut browser, "tbody a");
    browser.until("document.querySelector('main').innerText.includes('Response began')");
    follow(&mut browser, "a[href^=\"#/explain\"]:not(nav a)");
    browser.until(&says("A server of canary@file responds."));
    assert_eq!(browser.complaints(), Vec::<String>::new());
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

#[test]
#[ignore = "needs Chromium"]
fn what_is_switched_off_is_explained() {
    let flags = ["--api.requests.size=0", "--api.statistics.maxObjects=0"];
    let gateway = Gateway::with(&flags, ROUTES);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    for (page, expected) in [
        ("/", "Statistics are off. To switch them on, set api.statistics.maxObjects to"),
        ("/http/routers/shop@file", "Statistics are off."),
        ("/http/services/a@file", "Statistics are off."),
        ("/entrypoints/web", "Statistics are off."),
        ("/requests", "api.requests.size and api.requests.maxMemory must be above 0"),
        ("/requests/2f", "api.requests.size and api.requests.maxMemory must be above 0"),
        ("/explain?url=http%3A%2F%2Fshop.localhost%2F&entryPoint=web", "shop@file"),
    ] {
        open(&mut browser, &base, page);
        let text = text(&mut browser);
        assert!(text.contains(expected), "{page}: {expected:?} is not in\n{text}");
        accessible(&mut browser, page);
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{page}");
    }
}

#[test]
#[ignore = "needs Chromium"]
fn the_overview_follows_traffic_while_it_is_visible() {
    let backend = Backend::echo("a");
    let gateway = shop(&backend);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    open(&mut browser, &base, "/");
    assert!(text(&mut browser).contains("No requests have been counted"));
    visit(&gateway);
    browser.until(&says("open@file"));
    let first = "[...document.querySelectorAll('table')].find((one) => one.caption.textContent === 'Traffic by router').querySelector('tbody a').textContent";
    assert_eq!(browser.evaluate(first), "open@file", "sorted by rate");
    let described = "document.querySelector('.plot').ariaLabel";
    assert_eq!(
        browser.evaluate(&format!("{described}.startsWith('web: 7 requests and 1 errors in 5 minutes')")),
        true
    );
    assert_eq!(browser.evaluate("document.querySelectorAll('.plot .failed').length > 0"), true);
    // Parts that stay the same are not replaced.
    browser.evaluate("window.cards = document.querySelector('.cards'); 0");
    visit(&gateway);
    browser.until(&format!("{described}.startsWith('web: 14 requests')"));
    assert_eq!(browser.evaluate("document.querySelector('.cards') === window.cards"), true);
    hide(&mut browser, true);
    visit(&gateway);
    // A page that was being loaded may still be shown; the next one would be after two seconds.
    pause_for(Duration::from_secs(3));
    assert_eq!(browser.evaluate(&format!("{described}.startsWith('web: 21 requests')")), false);
    hide(&mut browser, false);
    browser.until(&format!("{described}.startsWith('web: 21 requests')"));
    // Statistics that have only begun, and lack everything else.
    browser.evaluate("window.real = window.fetch; window.fetch = async (url, ...more) => String(url).includes('/api/statistics') ? new Response(JSON.stringify({countedSince: new Date().toISOString()})) : window.real(url, ...more); 0");
    browser.until(&format!("{} && {}", says("Counting since"), says("No requests have been counted")));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn requests_are_followed_filtered_and_paused() {
    let backend = Backend::echo("a");
    let gateway = shop(&backend);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    let live = "document.getElementById('state')?.textContent === 'Live'";
    let rows = "document.querySelectorAll('tbody tr').length";
    open(&mut browser, &base, "/requests");
    browser.until(live);
    assert!(text(&mut browser).contains("No requests fit."));
    for _ in 0..130 {
        get(gateway.web(), "open.example", "/hello");
    }
    browser.until(&format!("{rows} === 100"));
    // What exceeds the rate of the stream is counted.
    open(&mut browser, &base, "/requests?rate=1");
    browser.until(live);
    eventually("the page shows how many it missed", || {
        get(gateway.web(), "open.example", "/more");
        browser.evaluate("/100 shown, [0-9]+ missed/.test(document.getElementById('told').textContent)")
            == true
    });
    open(&mut browser, &base, "/requests");
    browser.until(live);
    // A filter is part of the address, and selects what follows.
    browser.evaluate("document.getElementById('filter').value = 'status >= 500'; document.getElementById('filter').dispatchEvent(new Event('change'))");
    browser
        .until(&format!("location.hash === '#/requests?filter=status+%3E%3D+500' && {rows} === 0 && {live}"));
    get(gateway.web(), "old.example", "/one");
    browser.until(&format!("{rows} === 1"));
    get(gateway.web(), "open.example", "/hello");
    // Focus stays on a row while others come.
    browser.evaluate("document.querySelector('tbody a').focus()");
    get(gateway.web(), "old.example", "/two");
    browser.until(&format!("{rows} === 2"));
    assert_eq!(browser.evaluate("document.activeElement.textContent"), "GET old.example/one");
    browser.evaluate("document.getElementById('pause').click()");
    browser.until(
        "document.getElementById('state').textContent === 'Paused' && location.hash.includes('live=no')",
    );
    get(gateway.web(), "old.example", "/three");
    eventually("the request is kept", || gateway.api("/api/requests").contains("/three"));
    // The table is drawn four times a second.
    pause_for(Duration::from_millis(600));
    assert_eq!(browser.evaluate(rows), 2);
    browser.evaluate("document.getElementById('pause').click()");
    browser.until(&format!("{rows} === 3 && {live} && !location.hash.includes('live')"));
    hide(&mut browser, true);
    get(gateway.web(), "old.example", "/four");
    eventually("the request is kept", || gateway.api("/api/requests").contains("/four"));
    pause_for(Duration::from_millis(600));
    assert_eq!(browser.evaluate(rows), 3);
    hide(&mut browser, false);
    browser.until(&format!("{rows} === 4 && {live}"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    follow(&mut browser, "tbody a");
    browser.until(&says("The router is broken."));
    // A mistake in the filter is shown beside it. The browser logs the status.
    open(&mut browser, &base, "/requests?filter=status%20%3E");
    assert_eq!(
        browser.evaluate("document.getElementById('wrong').textContent.includes('invalid filter')"),
        true
    );
    assert_eq!(browser.evaluate("document.getElementById('filter').value"), "status >");
    // With too many readers of the stream, the page loads the list.
    let readers: Vec<Client> = (0..16).map(|_| reader(&gateway)).collect();
    open(&mut browser, &base, "/requests?search=old.example");
    browser.until("document.getElementById('state').textContent.endsWith('Trying again.')");
    get(gateway.web(), "old.example", "/five");
    browser.until(&says("GET old.example/five"));
    drop(readers);
    browser.until(live);
}

/// Opens a stream of requests.
fn reader(gateway: &Gateway) -> Client {
    let mut client = Client::connect(gateway.address("traefik"));
    client.send("GET /api/requests/stream HTTP/1.1\r\nHost: h\r\n\r\n");
    let head = client.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    client
}

#[test]
#[ignore = "needs Chromium"]
fn a_question_is_asked_by_a_form_and_kept_in_the_address() {
    let backend = Backend::echo("a");
    let gateway = shop(&backend);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    open(&mut browser, &base, "/http/routers/shop@file");
    follow(&mut browser, "main a[href^=\"#/explain\"]");
    browser.until(&says("The middleware login@file responds with 401"));
    assert_eq!(browser.evaluate("document.getElementById('explain-url').value"), "http://shop.example/");
    assert_eq!(browser.evaluate("document.getElementById('explain-entry-point').value"), "web");
    browser.evaluate("document.getElementById('explain-headers').value = 'Authorization: Basic YTpi\\nHost: open.example'; document.getElementById('explain-method').value = 'POST'; document.getElementById('explain-from').value = '192.0.2.7'; document.getElementById('explain-url').focus()");
    browser.press("Enter", "\r");
    browser.until(&says("A server of canary@file responds."));
    assert!(text(&mut browser).contains("POST http://shop.example/ from 192.0.2.7"));
    let address = browser.evaluate("location.hash").as_str().unwrap().to_owned();
    assert!(address.contains("method=POST") && address.contains("from=192.0.2.7"), "{address}");
    // The address is enough to ask again, and the parts of the picture are links.
    open(&mut browser, &base, address.strip_prefix('#').unwrap());
    assert!(text(&mut browser).contains("A server of canary@file responds."));
    assert_eq!(
        browser.evaluate("document.getElementById('explain-headers').value.split('\\n')[1]"),
        "Host: open.example"
    );
    follow(&mut browser, ".picture a[href=\"#/http/services/canary@file\"]");
    browser.until(&shown("/http/services/canary@file"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // A mistake leaves the form as it was. The browser logs the status.
    for (page, expected) in [
        ("/explain?url=shop.example", "invalid URL"),
        ("/explain?url=http%3A%2F%2Fa.example%2F&entryPoint=none", "unknown entry point `none`"),
        ("/explain?url=http%3A%2F%2Fa.example%2F&headers=X", "invalid header"),
    ] {
        open(&mut browser, &base, page);
        let text = text(&mut browser);
        assert!(text.contains(expected) && text.contains("Client's address"), "{page}: {text}");
    }
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
    visit(&gateway);
    for (name, page, width, is_dark) in [
        ("overview", "/", 1100, false),
        ("requests", "/requests", 1100, false),
        ("explain", "/explain?url=http%3A%2F%2Fshop.example%2Faccount&entryPoint=web", 1100, true),
        ("routers", "/http/routers?search=%40file", 1100, true),
        ("router", "/http/routers/shop@file", 1600, false),
        ("narrow", "/http/services", 360, false),
    ] {
        browser.appear(width, 760, is_dark);
        open(&mut browser, &base, page);
        // The path of the file is that of a temporary folder.
        browser.evaluate("for (const one of document.querySelectorAll('code')) one.textContent = one.textContent.replace(/.*(?=routes.yml)/, '/etc/tidegate/')");
        browser.evaluate("(document.getElementById('question') ?? document.querySelector('.picture')?.previousSibling)?.scrollIntoView()");
        let file = folder.join(format!("{name}.png"));
        if writes {
            std::fs::create_dir_all(&folder).unwrap();
            browser.picture(&file);
        }
        assert!(file.exists(), "{}", file.display());
    }
}
