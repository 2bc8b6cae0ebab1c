//! The pages of consumers, sessions, limits and caches in a real browser, behind a login.

use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::dashboard::{accessible, open, says, text};
use crate::support::chromium::Chromium;
use crate::support::keys::Key;
use crate::support::oidc::{Browser, CLIENT_SECRET, SECRET, StandIn, options};
use crate::support::{Backend, Gateway, eventually, get, get_with};

/// The hash of a key that was issued elsewhere.
const HASH: &str = "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC";
/// Browsers of this host keep secure cookies.
const HOST: &str = "app.localhost";

const OPERATOR: &str = "Authorization: Basic YTp0ZXN0\r\n";

/// A gateway with consumers, sessions, limits and caches, whose API needs the password `test` of `a`.
struct Guarded {
    gateway: Gateway,
    provider: StandIn,
    key: Key,
    _services: [Backend; 2],
    _folder: tempfile::TempDir,
}

impl Guarded {
    fn new(flags: &[&str]) -> Self {
        let (provider, service, key) = (StandIn::start(), Backend::echo("a"), Key::new());
        let pages = pages();
        let folder = tempfile::tempdir().unwrap();
        let usage = folder.path().join("usage.log");
        let routes = format!(
            "
http:
  routers:
    app: {{rule: 'Host(`{HOST}`)', service: a, middlewares: [sso], entryPoints: [web]}}
    api: {{rule: 'Host(`api.test`)', service: a, middlewares: [keys, quota], entryPoints: [web]}}
    open: {{rule: 'Host(`open.test`)', service: a, middlewares: [few, tenants], entryPoints: [web]}}
    shop: {{rule: 'Host(`shop.example`)', service: pages, middlewares: [keys, shop-cache], entryPoints: [web]}}
    site: {{rule: 'Host(`site.example`)', service: pages, middlewares: [site-cache], entryPoints: [web]}}
  middlewares:
    login: {{basicAuth: {{users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}}}
    sso: {{oidc: {{{}}}}}
    keys: {{apiKey: {{}}}}
    quota: {{plan: {{file: '{}'}}}}
    shop-cache: {{cache: {{}}}}
    site-cache: {{cache: {{maxObjectBytes: 200000, disk: {{path: '{}'}}}}}}
    few: {{rateLimit: {{average: 2, period: 1h, burst: 2}}}}
    tenants: {{rateLimit: {{policies: [{{name: tenants, average: 1, period: 1h, key: ['header(X-Tenant)'], mode: shadow}}]}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
    pages: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
  plans:
    gold: {{groups: [paying], quota: {{limit: 2, period: month}}}}
  consumers:
    acme:
      groups: [partners]
      labels: {{team: core}}
      plan: gold
      credentials:
        apiKeys:
        - {{{key}, label: production, expires: 2099-01-31, allowedCIDRs: [127.0.0.0/8], scopes: ['orders:read']}}
        - {{id: old1, sha256: {}, state: revoked}}
        - {{hash: '{HASH}'}}
        oidc: [{{issuer: '{}', subject: ann}}]
        certificates: [{{san: acme.example}}]
    wrong: {{plan: none}}
",
            options(&provider, ""),
            usage.display(),
            folder.path().join("cache").display(),
            service.url(),
            pages.url(),
            "0".repeat(64),
            provider.url(),
        );
        let gateway = Gateway::with(flags, &routes);
        for _ in 0..3 {
            get_with(gateway.web(), "api.test", "/", &key.header());
            get_with(gateway.web(), "open.test", "/", "X-Tenant: hunter2\r\n");
            get_with(gateway.web(), "shop.example", "/basket", &key.header());
        }
        Self { gateway, provider, key, _services: [service, pages], _folder: folder }
    }

    fn base(&self) -> String {
        format!("http://{}", self.gateway.address("traefik"))
    }

    fn signed_in(&self) -> Browser {
        let mut browser = Browser::at(self.gateway.web(), HOST);
        assert_eq!(browser.sign_in(&self.provider, "/").status, 200);
        browser
    }

    /// Everything that must not be shown.
    fn secrets(&self) -> Vec<String> {
        let own =
            [self.key.secret(), &self.key.sha256, HASH, SECRET, CLIENT_SECRET, "hunter2", "eyJ", "H6uskkkW"];
        own.map(str::to_owned).to_vec()
    }
}

/// A server whose responses have the size and tags that their paths say.
fn pages() -> Backend {
    Backend::with(|seen, stream| {
        let target = seen.target();
        let size = target.rsplit('/').next().and_then(|name| name.parse().ok()).unwrap_or(1200);
        let tag = target.split('/').nth(1).unwrap_or_default();
        let head = format!(
            "HTTP/1.1 200 OK\r\nCache-Control: public, max-age=600\r\nCache-Tag: {tag}\r\nContent-Length: {size}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; size])).is_ok()
    })
}

/// A browser of the operator.
fn operator() -> Chromium {
    let mut browser = Chromium::start();
    browser.call("Network.enable", json!({}));
    browser.call("Network.setExtraHTTPHeaders", json!({"headers": {"Authorization": "Basic YTp0ZXN0"}}));
    browser
}

/// Clicks on the first button with this text.
fn press(browser: &mut Chromium, within: &str, button: &str) {
    browser.evaluate(&format!(
        "[...document.querySelectorAll('{within} button')].find((one) => one.textContent === '{button}').click()"
    ));
}

#[test]
#[ignore = "needs Chromium"]
fn consumers_limits_and_sessions_are_shown_without_secrets() {
    let guarded = Guarded::new(&["--api.middlewares=login@file"]);
    let signed_in = guarded.signed_in();
    let base = guarded.base();
    assert_eq!(get(guarded.gateway.address("traefik"), "h", "/dashboard/").status, 401);
    let ready = || {
        let answer = get_with(guarded.gateway.address("traefik"), "h", "/api/cache", OPERATOR).text();
        answer.contains("\"ready\":true")
    };
    eventually("the disk is ready", ready);
    let mut secrets = guarded.secrets();
    secrets.extend(signed_in.jar.values().cloned());
    let mut browser = operator();
    for (page, expected) in [
        (
            "/consumers",
            &[
                "acme@file",
                "partners",
                "gold",
                "3 API keys",
                "1 login",
                "1 certificate",
                "wrong@file",
                "disabled",
            ][..],
        ),
        (
            "/consumers/acme@file",
            &[
                "routes.yml:",
                "team = core",
                "production",
                "active",
                "revoked",
                "issued elsewhere",
                "127.0.0.0/8",
                "orders:read",
                "none since the start",
                "sub = ann",
                "acme.example",
                "2 of 2 (100 %)",
                &guarded.key.id,
            ],
        ),
        ("/consumers?search=acm", &["1 shown"]),
        (
            "/limits",
            &[
                "Top offenders",
                "127.0.0.1",
                "few@file",
                "open@file",
                "acme@file",
                "quota@file",
                "tenants (shadow)",
                "rateLimit",
                "2 of 2 (100 %)",
            ],
        ),
        ("/caches", &["shop-cache@file", "66.7 %", "site-cache@file", "of 64.0 MiB", "✓ ready"]),
        (
            "/caches/shop-cache@file",
            &["http://shop.example/basket", "router shop@file, the client's identity", "bypass", "1.2 KiB"],
        ),
        ("/sessions", &["sso@file", "in the cookies of browsers", "ann", "acme@file", "End all", "Subject"]),
    ] {
        open(&mut browser, &base, page);
        let text = text(&mut browser);
        for expected in expected {
            assert!(text.contains(expected), "{page}: {expected:?} is not in\n{text}");
        }
        let page_source = browser.evaluate("document.documentElement.outerHTML");
        for secret in &secrets {
            assert!(!page_source.as_str().unwrap().contains(secret.as_str()), "{page}: {secret}");
        }
        accessible(&mut browser, page);
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{page}");
        browser.appear(360, 800, true);
        let too_wide = "document.documentElement.scrollWidth > innerWidth";
        assert_eq!(browser.evaluate(too_wide), false, "{page} is too wide for a telephone");
        browser.appear(1280, 800, false);
    }
    for path in
        ["/api/http/consumers", "/api/sessions", "/api/limits", "/api/cache", "/api/usage", "/api/http/plans"]
    {
        let answer = get_with(guarded.gateway.address("traefik"), "h", path, OPERATOR);
        assert_eq!(answer.status, 200, "{path}");
        for secret in &secrets {
            assert!(!answer.text().contains(secret.as_str()), "{path}: {secret}");
        }
    }
}

#[test]
#[ignore = "needs Chromium"]
fn a_button_ends_sessions_once_it_is_confirmed() {
    let guarded = Guarded::new(&["--api.middlewares=login@file"]);
    let (one, two) = (guarded.signed_in(), guarded.signed_in());
    let alive = || [&one, &two].map(|browser| browser.clone().open("/").status);
    let rows = |count: usize| format!("document.querySelectorAll('tbody tr').length === {count}");
    let mut browser = operator();
    open(&mut browser, &guarded.base(), "/sessions");
    browser.until(&rows(2));
    press(&mut browser, "tbody", "End");
    assert_eq!(
        browser.evaluate("document.getElementById('confirm').innerText.includes('End the session of ann')"),
        true
    );
    press(&mut browser, "#confirm", "Cancel");
    browser.until("document.getElementById('confirm') === null");
    assert_eq!(alive(), [200, 200]);
    // The latest is first.
    press(&mut browser, "tbody", "End");
    press(&mut browser, "#confirm", "End");
    browser.until("document.getElementById('confirm') === null");
    browser.until(&rows(1));
    assert_eq!(alive(), [200, 302]);
    press(&mut browser, "tbody", "End all");
    press(&mut browser, "#confirm", "End");
    browser.until(&says("None."));
    assert_eq!(alive(), [302, 302]);
    // A session that the page does not list ends by its subject.
    let hidden = guarded.signed_in();
    browser.evaluate("document.querySelector('#subject-0').value = 'ann'; document.querySelector('main form').requestSubmit()");
    assert_eq!(
        browser.evaluate("document.getElementById('confirm').innerText.includes('subject ann')"),
        true
    );
    press(&mut browser, "#confirm", "End");
    browser.until("document.getElementById('confirm') === null");
    assert_eq!(hidden.clone().open("/").status, 302);
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn a_cache_is_shown_and_purged_once_it_is_confirmed() {
    let guarded = Guarded::new(&["--api.middlewares=login@file"]);
    let api = guarded.gateway.address("traefik");
    let ask = |path: &str| get_with(guarded.gateway.web(), "site.example", path, "");
    let is_hit = |path: &str| ask(path).header("cache-status").unwrap().starts_with("tidegate; hit");
    let shown = |path: &str| get_with(api, "h", path, OPERATOR).text();
    eventually("the disk is ready", || shown("/api/cache").contains("\"ready\":true"));
    for path in ["/logos/300000", "/logos/5000", "/logos/5000", "/articles/7000", "/articles/9000"] {
        assert_eq!(ask(path).status, 200);
    }
    eventually("all are on disk", || {
        let cache: Value = serde_json::from_str(&shown("/api/cache?middleware=site-cache@file")).unwrap();
        cache[0]["disk"]["objects"] == 4
    });
    let mut browser = operator();
    open(&mut browser, &guarded.base(), "/caches/site-cache@file");
    let page = text(&mut browser);
    for expected in [
        "20.0 %",
        "4 of 100,000",
        "293.0 KiB",
        "http://site.example/logos/300000",
        "logos",
        "✓ ready",
        "Middleware site-cache@file",
    ] {
        assert!(page.contains(expected), "{expected:?} is not in\n{page}");
    }
    let described = "document.querySelector('.plot').ariaLabel";
    assert_eq!(
        browser.evaluate(described),
        "site-cache@file: 5 requests in 5 minutes, 1 of them answered by the store"
    );
    accessible(&mut browser, "/caches/site-cache@file");
    // The largest is first.
    press(&mut browser, "tbody", "Purge");
    press(&mut browser, "#confirm", "Cancel");
    browser.until("document.getElementById('confirm') === null");
    assert!(is_hit("/logos/300000"));
    press(&mut browser, "tbody", "Purge");
    press(&mut browser, "#confirm", "Purge");
    browser
        .until("document.querySelector('#confirm [role=status]')?.textContent === '1 response was removed.'");
    press(&mut browser, "#confirm", "Close");
    browser.until(&format!("!{}", says("http://site.example/logos/300000")));
    assert!(!is_hit("/logos/300000"));
    for (which, value, removed, kept) in [
        ("tag", "logos", "/logos/5000", "/articles/7000"),
        ("prefix", "http://site.example/articles/", "/articles/7000", "/logos/5000"),
    ] {
        assert!(is_hit(kept), "{which}");
        browser.evaluate(&format!("document.getElementById('purge-which').value = '{which}'; document.getElementById('purge-value').value = '{value}'; document.getElementById('purge').requestSubmit()"));
        press(&mut browser, "#confirm", "Purge");
        browser
            .until("document.querySelector('#confirm [role=status]')?.textContent.includes('were removed')");
        press(&mut browser, "#confirm", "Close");
        assert!(!is_hit(removed), "{which}");
    }
    // All caches, among them the one that an identity has a part of.
    open(&mut browser, &guarded.base(), "/caches");
    browser.evaluate("document.getElementById('purge-which').value = 'all'; document.getElementById('purge-which').dispatchEvent(new Event('change')); document.getElementById('purge').requestSubmit()");
    press(&mut browser, "#confirm", "Purge");
    browser.until("document.querySelector('#confirm [role=status]')?.textContent.includes('from 2 caches')");
    assert!(!shown("/api/cache").contains("basket"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn maintenance_of_a_router_is_switched_once_it_is_confirmed() {
    let guarded = Guarded::new(&["--api.middlewares=login@file"]);
    let seen = || {
        let answer = get_with(guarded.gateway.web(), "site.example", "/logos/5000", "");
        (answer.status, answer.header("retry-after").map(str::to_owned))
    };
    let page = "/http/routers/site@file";
    let mut browser = operator();
    open(&mut browser, &guarded.base(), page);
    accessible(&mut browser, page);
    press(&mut browser, "main", "Switch on");
    press(&mut browser, "#confirm", "Cancel");
    browser.until("document.getElementById('confirm') === null");
    assert_eq!(seen().0, 200);
    press(&mut browser, "main", "Switch on");
    accessible(&mut browser, page);
    let fill =
        |id: &str, value: &str| format!("document.getElementById('maintenance-{id}').value = '{value}'");
    browser.evaluate(&fill("allow", "10.0.0.0/33"));
    press(&mut browser, "#confirm", "Switch on");
    browser.until("document.querySelector('#confirm [role=alert]').innerText.includes('10.0.0.0/33')");
    assert_eq!(seen().0, 200);
    browser.evaluate(&fill("allow", "192.0.2.7, 10.0.0.0/8"));
    browser.evaluate(&fill("retry-after", "1m"));
    press(&mut browser, "#confirm", "Switch on");
    let told = "document.querySelector('#confirm [role=status]')?.textContent ?? ''";
    browser.until(&format!("({told}).startsWith('site@file is in maintenance. A restart')"));
    assert_eq!(seen(), (503, Some("60".to_owned())));
    press(&mut browser, "#confirm", "Close");
    browser.until(&says("switched by a at"));
    browser.until(&says("except for 192.0.2.7, 10.0.0.0/8"));
    accessible(&mut browser, page);
    press(&mut browser, "main", "Switch off");
    press(&mut browser, "#confirm", "Switch off");
    browser.until("document.getElementById('confirm') === null");
    browser.until(&format!("!{}", says("switched by a at")));
    assert_eq!(seen(), (200, None));
    // The refused switch is the only complaint of the browser.
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|one| one.contains("400")), "{complaints:?}");
    // The gateway's own routers, and those of other protocols, have no button.
    for page in ["/http/routers/dashboard@internal", "/http/services/a@file", "/http/middlewares/few@file"] {
        open(&mut browser, &guarded.base(), page);
        let buttons = "[...document.querySelectorAll('main button')].some((one) => one.textContent.startsWith('Switch'))";
        assert_eq!(browser.evaluate(buttons), false, "{page}");
    }
}

#[test]
#[ignore = "needs Chromium"]
fn without_a_login_in_front_the_button_says_what_is_missing() {
    let guarded = Guarded::new(&[]);
    let signed_in = guarded.signed_in();
    let mut browser = Chromium::start();
    open(&mut browser, &guarded.base(), "/sessions");
    press(&mut browser, "tbody", "End");
    press(&mut browser, "#confirm", "End");
    browser.until("document.querySelector('#confirm [role=alert]')?.innerText.includes('api.middlewares')");
    assert_eq!(signed_in.clone().open("/").status, 200);
}

#[test]
#[ignore = "needs Chromium"]
fn a_disk_that_fails_and_a_hostile_tag_are_shown_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("file");
    std::fs::write(&in_the_way, "").unwrap();
    let hostile = "<img/src=x/onerror=document.title=1>";
    let pages = Backend::bytes(format!(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nCache-Tag: {hostile}\r\nContent-Length: 2\r\n\r\nok"
    ));
    let gateway = Gateway::serve(&format!(
        "http:
  routers:
    site: {{rule: 'Host(`site.example`)', service: pages, middlewares: [cache], entryPoints: [web]}}
  middlewares:
    cache: {{cache: {{disk: {{path: '{}'}}}}}}
  services:
    pages: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        in_the_way.join("cache").display(),
        pages.url()
    ));
    eventually("the problem", || gateway.api("/api/problems").contains("cannot open"));
    assert_eq!(get(gateway.web(), "site.example", "/x").status, 200);
    let base = format!("http://{}", gateway.address("traefik"));
    let mut browser = Chromium::start();
    for (page, expected) in [
        ("/caches", &["cannot open", "0.0 %"][..]),
        ("/caches/cache@file", &["✕ cannot open", hostile, "router site@file"]),
        ("/problems", &["cannot open"]),
    ] {
        open(&mut browser, &base, page);
        let text = text(&mut browser);
        for expected in expected {
            assert!(text.contains(expected), "{page}: {expected:?} is not in\n{text}");
        }
        assert_eq!(browser.evaluate("document.querySelectorAll('main img').length"), 0);
        accessible(&mut browser, page);
        assert_eq!(browser.complaints(), Vec::<String>::new(), "{page}");
    }
    // Without a login, a purge says what is missing, and removes nothing.
    open(&mut browser, &base, "/caches/cache@file");
    press(&mut browser, "tbody", "Purge");
    press(&mut browser, "#confirm", "Purge");
    browser.until("document.querySelector('#confirm [role=alert]')?.innerText.includes('api.middlewares')");
    let again = get(gateway.web(), "site.example", "/x");
    assert!(again.header("cache-status").unwrap().starts_with("tidegate; hit"));
}

/// Writes the pictures of docs/dashboard.md if `TIDEGATE_WRITE_DOCS` is set; else they must exist.
#[test]
#[ignore = "needs Chromium"]
fn pictures_of_access_for_the_docs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dashboard");
    let guarded = Guarded::new(&["--api.middlewares=login@file"]);
    let _sessions = [guarded.signed_in(), guarded.signed_in()];
    for number in 0..120 {
        let path = ["/logos/5120", "/logos/300000", "/articles/7300", "/styles/48211"][number % 7 % 4];
        get_with(guarded.gateway.web(), "site.example", path, "");
    }
    let mut browser = operator();
    for (name, page, is_dark) in [
        ("consumer", "/consumers/acme@file", false),
        ("sessions", "/sessions", true),
        ("limits", "/limits", false),
        ("cache", "/caches/site-cache@file", false),
    ] {
        browser.appear(1280, 760, is_dark);
        open(&mut browser, &guarded.base(), page);
        browser.evaluate("for (const one of document.querySelectorAll('code')) one.textContent = one.textContent.replace(/.*(?=routes.yml)/, '/etc/tidegate/').replace(/^http:.*/, 'https://id.example.com')");
        let file = folder.join(format!("{name}.png"));
        if std::env::var_os("TIDEGATE_WRITE_DOCS").is_some() {
            browser.picture(&file);
        }
        assert!(file.exists(), "{}", file.display());
    }
}
