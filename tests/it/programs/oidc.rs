//! The middleware `oidc` with the certified `oidc-provider`, real browsers and a real Redis.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::chromium::Chromium;
use crate::support::oidc::{Browser, CLIENT, CLIENT_SECRET, HOST, SECRET, StandIn};
use crate::support::outside::{Redis, Running, program};
use crate::support::{Backend, Gateway, eventually, free_port, get, get_with};

/// The provider, which forgets everything when it is restarted.
pub(super) struct Provider {
    pub(super) port: u16,
    settings: Value,
    folder: tempfile::TempDir,
    running: Option<Running>,
}

impl Provider {
    pub(super) fn new() -> Self {
        Self {
            port: free_port(),
            settings: json!({"frontChannel": {}}),
            folder: tempfile::tempdir().unwrap(),
            running: None,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts it with these clients.
    pub(super) fn start(&mut self, clients: Value, lifetime: u64) {
        let front = self.settings["frontChannel"].take();
        self.settings =
            json!({"port": self.port, "clients": clients, "lifetime": lifetime, "frontChannel": front});
        self.run();
    }

    fn run(&mut self) {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/programs/openid-provider.mjs");
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/oidc-provider/node_modules");
        assert!(tools.is_dir(), "there is no oidc-provider: scripts/tool.sh installs it");
        std::fs::copy(own, self.folder.path().join("provider.mjs")).unwrap();
        let modules = self.folder.path().join("node_modules");
        if !modules.exists() {
            std::os::unix::fs::symlink(tools, modules).unwrap();
        }
        let mut command = Command::new(program("node"));
        command.arg("provider.mjs").env("SETTINGS", self.settings.to_string());
        self.running = Some(Running::start(&mut command, self.folder.path()));
        eventually("the provider listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    fn kill(&mut self) {
        self.running = None;
    }

    /// The number of grants of a type.
    fn count(&self, grant: &str) -> u64 {
        let text =
            get(([127, 0, 0, 1], self.port).into(), &format!("127.0.0.1:{}", self.port), "/counts").text();
        serde_json::from_str::<Value>(&text).unwrap()[grant].as_u64().unwrap_or(0)
    }
}

/// A client of the provider, with the callbacks of these origins.
fn client(id: &str, origins: &[String], more: &Value) -> Value {
    let all = |path: &str| origins.iter().map(|origin| format!("{origin}{path}")).collect::<Vec<_>>();
    let mut client = json!({
        "client_id": id, "client_secret": "secret", "grant_types": ["authorization_code", "refresh_token"],
        "redirect_uris": all("/oidc/callback"), "post_logout_redirect_uris": all("/bye"),
    });
    for (name, value) in more.as_object().unwrap() {
        client[name] = value.clone();
    }
    client
}

fn middleware(provider: &Provider, client: &str, session: &str, more: &str) -> String {
    format!(
        "{{oidc: {{issuer: '{}', clientId: {client}, clientSecret: secret, scopes: [openid, profile], forwardHeaders: {{X-User: sub, X-Groups: groups}}, session: {{secrets: ['{SECRET}']{session}}}{more}}}}}",
        provider.url()
    )
}

fn routes(routers: &str, middlewares: &[(&str, String)], url: &str) -> String {
    let middlewares: String =
        middlewares.iter().map(|(name, options)| format!("    {name}: {options}\n")).collect();
    format!(
        "http:\n  routers:\n{routers}  middlewares:\n{middlewares}  services:\n    a: {{loadBalancer: {{servers: [{{url: '{url}'}}]}}}}\n"
    )
}

/// Enters a name at the provider.
fn enter(browser: &mut Chromium, name: &str) {
    browser.arrives("document.querySelector('input[name=login]') !== null");
    browser.evaluate(&format!(
        "document.querySelector('input[name=login]').value = '{name}'; document.querySelector('input[name=password]').value = 'x'; document.querySelector('form').submit()"
    ));
}

fn shows(text: &str) -> String {
    format!("document.body?.innerText.includes({text:?})")
}

#[test]
#[ignore = "needs oidc-provider and Chromium"]
fn a_browser_signs_in_and_out_on_two_routers_and_two_replicas() {
    let mut provider = Provider::new();
    let service = Backend::echo("a");
    let text = routes(
        "    wiki: {rule: 'Host(`wiki.home.localhost`)', service: a, middlewares: [m]}\n    photos: {rule: 'Host(`photos.home.localhost`)', service: a, middlewares: [m]}\n",
        &[(
            "m",
            middleware(
                &provider,
                "one",
                ", domain: home.localhost",
                ", logoutUrl: /logout, postLogoutRedirectUrl: /bye",
            ),
        )],
        &service.url(),
    );
    let (one, two) = (Gateway::serve(&text), Gateway::serve(&text));
    let origin =
        |gateway: &Gateway, host: &str| format!("http://{host}.home.localhost:{}", gateway.web().port());
    let origins: Vec<String> = [&one, &two]
        .into_iter()
        .flat_map(|gateway| [origin(gateway, "wiki"), origin(gateway, "photos")])
        .collect();
    provider.start(json!([client("one", &origins, &json!({}))]), 300);
    let mut browser = Chromium::start();
    let wiki = origin(&one, "wiki");
    // The gateway has met no provider when it started.
    eventually("the provider is found", || {
        let page = "Accept: text/html\r\n";
        crate::support::get_with(one.web(), "wiki.home.localhost", "/", page).status == 302
    });
    browser.open(&format!("{wiki}/page?a=b"));
    enter(&mut browser, "ann");
    browser.arrives(&format!("location.href === '{wiki}/page?a=b' && {}", shows("X-User: ann")));
    assert!(browser.evaluate("document.body.innerText").as_str().unwrap().contains("X-Groups: ops"));
    assert_eq!(browser.evaluate("document.cookie"), "", "scripts do not see the session");
    // The other router, and the other replica, which has not seen this browser.
    for url in [origin(&one, "photos"), origin(&two, "wiki"), origin(&two, "photos")] {
        browser.open(&format!("{url}/other"));
        browser.arrives(&format!("location.href === '{url}/other' && {}", shows("X-User: ann")));
    }
    assert_eq!(provider.count("authorization_code"), 1, "one login for all");
    // Scripts of the page get a status, not a login page.
    let status = "fetch('/x', {headers: {'Accept': 'application/json'}}).then((answer) => answer.status)";
    assert_eq!(browser.evaluate(status), 200);
    browser.open(&format!("{wiki}/logout"));
    browser.arrives("document.querySelector('button[name=logout], button[value=yes]') !== null");
    browser.evaluate("document.querySelector('button[name=logout], button[value=yes]').click()");
    // `/bye` requires a session, too.
    browser.arrives("document.querySelector('input[name=login]') !== null");
    for gateway in [&one, &two] {
        browser.open(&format!("{}/", origin(gateway, "photos")));
        browser.arrives("document.querySelector('input[name=login]') !== null");
    }
}

#[test]
#[ignore = "needs oidc-provider and Chromium"]
fn a_log_out_at_one_client_ends_the_session_of_another_over_the_back_channel() {
    let mut provider = Provider::new();
    let service = Backend::echo("a");
    let text = routes(
        "    one: {rule: 'Host(`one.localhost`)', service: a, middlewares: [one]}\n    two: {rule: 'Host(`two.localhost`) || Path(`/two/logged-out`)', service: a, middlewares: [two]}\n",
        &[
            ("one", middleware(&provider, "one", "", ", logoutUrl: /logout")),
            ("two", middleware(&provider, "two", "", ", backchannelLogoutUrl: /two/logged-out")),
        ],
        &service.url(),
    );
    let gateway = Gateway::serve(&text);
    let port = gateway.web().port();
    let [one, two] = ["one", "two"].map(|host| format!("http://{host}.localhost:{port}"));
    let back = json!({
        "backchannel_logout_uri": format!("http://127.0.0.1:{port}/two/logged-out"),
        "backchannel_logout_session_required": true,
    });
    provider.start(
        json!([
            client("one", std::slice::from_ref(&one), &json!({})),
            client("two", std::slice::from_ref(&two), &back)
        ]),
        300,
    );
    let mut browser = Chromium::start();
    for host in ["one.localhost", "two.localhost"] {
        eventually("the provider is found", || {
            crate::support::get_with(gateway.web(), host, "/", "Accept: text/html\r\n").status == 302
        });
    }
    browser.open(&format!("{one}/"));
    enter(&mut browser, "ann");
    browser.arrives(&format!("location.href === '{one}/' && {}", shows("X-User: ann")));
    // At the other client, the provider knows the user already.
    browser.open(&format!("{two}/"));
    browser.arrives(&format!("location.href === '{two}/' && {}", shows("X-User: ann")));
    let status = "fetch('/x').then((answer) => answer.status)";
    assert_eq!(browser.evaluate(status), 200);
    browser.open(&format!("{one}/logout"));
    browser.arrives("document.querySelector('button[name=logout], button[value=yes]') !== null");
    browser.evaluate("document.querySelector('button[name=logout], button[value=yes]').click()");
    // The provider has told the other client.
    eventually("the provider has logged out", || gateway.api("/api/requests").contains("/two/logged-out"));
    browser.open(&format!("{two}/"));
    browser.arrives("document.querySelector('input[name=login]') !== null");
}

#[test]
#[ignore = "needs oidc-provider and Chromium"]
fn a_log_out_at_one_client_ends_the_session_of_another_in_a_frame() {
    let mut provider = Provider::new();
    let service = Backend::echo("a");
    // Different ports are one site, so the frame gets the cookie.
    let serve = |name: &str, more: &str| {
        let session = format!(", name: {name}, secure: false");
        let more = format!("{more}, stateCookie: {{secure: false}}");
        let middlewares = [("m", middleware(&provider, name, &session, &more))];
        let router = "    all: {rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}\n";
        let gateway = Gateway::serve(&routes(router, &middlewares, &service.url()));
        assert_eq!(gateway.problems(), Vec::<String>::new());
        let url = format!("http://{}", gateway.web());
        (gateway, url)
    };
    let (at_one, one) = serve("one", ", logoutUrl: /logout");
    let (at_two, two) = serve("two", ", frontchannelLogoutUrl: /logged-out");
    // The provider names the session in its tokens only for such clients. This URL leads nowhere.
    let names_session = json!({
        "backchannel_logout_uri": format!("{two}/"), "backchannel_logout_session_required": true,
    });
    provider.settings = json!({"frontChannel": {"two": format!("{two}/logged-out")}});
    provider.start(
        json!([
            client("one", std::slice::from_ref(&one), &json!({})),
            client("two", std::slice::from_ref(&two), &names_session)
        ]),
        300,
    );
    let mut browser = Chromium::start();
    for gateway in [&at_one, &at_two] {
        eventually("the provider is found", || {
            let page = "Accept: text/html\r\n";
            crate::support::get_with(gateway.web(), &gateway.web().to_string(), "/", page).status == 302
        });
    }
    browser.open(&format!("{one}/"));
    enter(&mut browser, "ann");
    browser.arrives(&format!("location.href === '{one}/' && {}", shows("X-User: ann")));
    browser.open(&format!("{two}/"));
    browser.arrives(&format!("location.href === '{two}/' && {}", shows("X-User: ann")));
    browser.open(&format!("{one}/logout"));
    browser.arrives("document.querySelector('button[name=logout]') !== null");
    browser.evaluate("document.querySelector('button[name=logout]').click()");
    browser.arrives(&shows("Bye"));
    eventually("the frame is loaded", || at_two.api("/api/requests").contains("/logged-out"));
    browser.open(&format!("{two}/"));
    browser.arrives("document.querySelector('input[name=login]') !== null");
}

#[test]
#[ignore = "needs oidc-provider and Chromium"]
fn sessions_are_refreshed_and_survive_an_outage_of_the_provider() {
    let mut provider = Provider::new();
    let service = Backend::echo("a");
    let text = routes(
        "    all: {rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}\n",
        &[("m", middleware(&provider, "one", "", "").replace("clientSecret: secret, ", ""))],
        &service.url(),
    );
    let gateway = Gateway::serve(&text);
    let own = format!("http://app.localhost:{}", gateway.web().port());
    // A public client has no secret.
    let public = json!({"token_endpoint_auth_method": "none", "client_secret": null});
    let mut public = client("one", std::slice::from_ref(&own), &public);
    public.as_object_mut().unwrap().remove("client_secret");
    provider.start(json!([public]), 1);
    let login = || crate::support::get_with(gateway.web(), HOST, "/", "Accept: text/html\r\n").status;
    eventually("the provider is found", || login() == 302);
    let mut browser = Chromium::start();
    browser.open(&format!("{own}/"));
    enter(&mut browser, "ann");
    browser.arrives(&format!("location.href === '{own}/' && {}", shows("X-User: ann")));
    // Access tokens live for a second.
    eventually("the tokens are refreshed", || {
        browser.open(&format!("{own}/again"));
        browser.arrives(&format!("location.href === '{own}/again' && {}", shows("X-User: ann")));
        provider.count("refresh_token") > 1
    });
    assert_eq!(provider.count("authorization_code"), 1);
    provider.kill();
    eventually("new logins are refused", || login() == 503);
    browser.open(&format!("{own}/still"));
    browser.arrives(&format!("location.href === '{own}/still' && {}", shows("X-User: ann")));
    let mut other = Chromium::start();
    other.open(&format!("{own}/"));
    other.arrives(&shows("the provider is unavailable"));
    provider.run();
    eventually("new logins are possible", || login() == 302);
    other.open(&format!("{own}/"));
    enter(&mut other, "bob");
    other.arrives(&format!("location.href === '{own}/' && {}", shows("X-User: bob")));
}

#[test]
#[ignore = "needs Chromium"]
fn the_choice_of_a_provider_can_be_made_with_the_keyboard() {
    let (one, two, service) = (StandIn::start(), StandIn::start(), Backend::echo("a"));
    let provider = |name: &str, provider: &StandIn| {
        format!("{{name: {name}, title: 'Provider {name}', issuer: '{}', clientId: c}}", provider.url())
    };
    let options = format!("{{oidc: {{providers: [{}, {}]}}}}", provider("one", &one), provider("two", &two));
    let text = routes(
        "    all: {rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}\n",
        &[("m", options)],
        &service.url(),
    );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let mut browser = Chromium::start();
    browser.open(&format!("http://app.localhost:{}/page?a=b", gateway.web().port()));
    browser.arrives("document.querySelectorAll('nav a').length === 2");
    for (what, expression) in [
        ("a language", "document.documentElement.lang === 'en'"),
        ("a title", "document.title === 'Sign in'"),
        ("one h1", "document.querySelectorAll('h1').length === 1"),
        ("one main", "document.querySelectorAll('main').length === 1"),
        ("a label", "document.querySelector('nav').getAttribute('aria-label') !== null"),
        (
            "names",
            "[...document.querySelectorAll('a')].every((one) => one.innerText.startsWith('Provider '))",
        ),
        (
            "large targets",
            "[...document.querySelectorAll('a')].every((one) => one.getBoundingClientRect().height >= 44)",
        ),
        ("no script", "document.scripts.length === 0"),
    ] {
        assert_eq!(browser.evaluate(expression), true, "{what}");
    }
    browser.press("Tab", "");
    browser.press("Tab", "");
    assert_eq!(browser.evaluate("document.activeElement.innerText"), "Provider two");
    browser.press("Enter", "\r");
    browser.arrives(&format!("location.href.startsWith('{}/authorize?')", two.url()));
}

/// Routes with sessions in Redis.
fn in_redis(provider: &StandIn, redis: &str, url: &str) -> String {
    let options = format!(
        "{{oidc: {{issuer: '{}', clientId: '{CLIENT}', clientSecret: '{CLIENT_SECRET}', logoutUrl: /logout, backchannelLogoutUrl: /logged-out, session: {{secrets: ['{SECRET}'], store: {{redis: {{endpoints: ['{redis}'], timeout: 20s}}}}}}}}}}",
        provider.url()
    );
    routes("    all: {rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}\n", &[("m", options)], url)
}

#[test]
#[ignore = "needs redis-server"]
fn sessions_in_redis_are_shared_by_replicas_and_end_on_all() {
    let redis = Redis::start(&[]);
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    // They are too long for cookies.
    provider.behaviour().claims = json!({"long": "x".repeat(30_000)});
    let text = in_redis(&provider, &redis.address.to_string(), &service.url());
    let (one, two) = (Gateway::serve(&text), Gateway::serve(&text));
    assert_eq!(one.problems(), Vec::<String>::new());
    let mut browser = Browser::new(one.web());
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
    assert!(browser.jar.values().map(String::len).sum::<usize>() < 1_000);
    let mut other = browser.moved(two.web(), HOST);
    assert_eq!(other.open("/").status, 200);
    // What is in Redis is encrypted, and expires.
    let keys = redis.command(&["KEYS", "tidegate:oidc:session:*"]);
    let key = keys.lines().last().unwrap().trim().to_owned();
    assert!(!redis.command(&["GET", &key]).contains("ann@"), "{key}");
    let left: i64 = redis.command(&["PTTL", &key]).trim().parse().unwrap();
    assert!((80_000_000..=86_400_000).contains(&left), "{left}");
    // Logging out at one replica ends the session on the other.
    assert_eq!(browser.open("/logout").status, 302);
    assert_eq!(other.clone().open("/").status, 302);
    // So does the back channel.
    let mut browser = Browser::new(one.web());
    browser.sign_in(&provider, "/");
    let mut other = browser.moved(two.web(), HOST);
    assert_eq!(other.open("/").status, 200);
    let body = format!("logout_token={}", provider.logout_token(&json!({"sid": "sid1"})));
    let request = format!(
        "POST /logged-out HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(crate::support::raw(two.web(), request).unwrap().status, 200);
    assert_eq!(browser.open("/").status, 302);
    assert_eq!(other.open("/").status, 302);
}

#[test]
#[ignore = "needs redis-server"]
fn an_operator_ends_sessions_in_redis_on_all_gateways() {
    let redis = Redis::start(&[]);
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let text = in_redis(&provider, &redis.address.to_string(), &service.url());
    let text = text.replace(
        "  middlewares:\n",
        "  middlewares:\n    login: {basicAuth: {users: ['a:$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/']}}\n",
    );
    let start = || Gateway::with(&["--api.middlewares=login@file"], &text);
    let (one, two) = (start(), start());
    let operator = "Authorization: Basic YTp0ZXN0\r\n";
    let sessions = |gateway: &Gateway| -> Value {
        let shown = get_with(gateway.address("traefik"), "gw", "/api/sessions", operator).text();
        serde_json::from_str::<Value>(&shown).unwrap()[0].clone()
    };
    let end = |gateway: &Gateway, what: Value| {
        let body = what.to_string();
        let request = format!(
            "POST /api/sessions/end HTTP/1.1\r\nHost: gw\r\n{operator}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        crate::support::raw(gateway.address("traefik"), request).unwrap().status
    };
    let mut browsers: Vec<Browser> = (0..3).map(|_| Browser::new(one.web())).collect();
    for browser in &mut browsers {
        assert_eq!(browser.sign_in(&provider, "/").status, 200);
    }
    // The other gateway, which has seen none of them, lists the same.
    let shown = sessions(&two);
    assert_eq!(shown, sessions(&one));
    assert_eq!(json!([shown["place"], shown["sessions"][0]["subject"]]), json!(["redis", "ann"]));
    let keys: Vec<&str> = shown["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys.len(), 3);
    assert_eq!(end(&two, json!({"middleware": "m@file", "session": keys[0]})), 200);
    assert_eq!(end(&one, json!({"middleware": "m@file", "session": keys[0]})), 404);
    let passes = |browsers: &[Browser]| -> usize {
        browsers.iter().filter(|browser| browser.moved(one.web(), HOST).open("/").status == 200).count()
    };
    assert_eq!((passes(&browsers), sessions(&one)["sessions"].as_array().unwrap().len()), (2, 2));
    assert_eq!(end(&two, json!({"middleware": "m@file", "subject": "ann"})), 200);
    assert_eq!((passes(&browsers), sessions(&one)["sessions"].as_array().unwrap().len()), (0, 0));
    assert_eq!(browsers[0].sign_in(&provider, "/").status, 200);
    assert_eq!(sessions(&two)["sessions"].as_array().unwrap().len(), 1);
    redis.command(&["FLUSHALL"]);
    assert_eq!(sessions(&two)["sessions"], json!([]));
}

#[test]
#[ignore = "needs redis-server"]
fn replicas_refresh_a_session_in_redis_once() {
    let redis = Redis::start(&[]);
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    provider.behaviour().expires_in = 1;
    let text = in_redis(&provider, &redis.address.to_string(), &service.url());
    let (one, two) = (Gateway::serve(&text), Gateway::serve(&text));
    let mut browser = Browser::new(one.web());
    let callback = provider.agree(&browser.begin("/"));
    assert_eq!(browser.open(&callback).status, 302);
    provider.behaviour().expires_in = 300;
    let threads: Vec<_> = (0..16)
        .map(|number| {
            let gateway = if number % 2 == 0 { &one } else { &two };
            let mut browser = browser.moved(gateway.web(), HOST);
            std::thread::spawn(move || browser.open("/").status)
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), 200);
    }
    assert_eq!(provider.behaviour().refreshes, 1);
}

#[test]
#[ignore = "needs redis-server"]
fn sessions_outlive_the_master_that_a_sentinel_names() {
    let mut master = Redis::start(&[]);
    let replica = Redis::start(&["--replicaof", "127.0.0.1", &master.address.port().to_string()]);
    let sentinel = master.sentinel();
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let text = in_redis(&provider, &sentinel.address.to_string(), &service.url())
        .replace("timeout: 20s", "timeout: 1s, sentinel: {masterSet: m}");
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let mut browser = Browser::new(gateway.web());
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
    eventually("the replica has the session", || replica.command(&["KEYS", "*"]).contains("oidc:session"));
    eventually("the sentinel knows the replica", || {
        sentinel.command(&["SENTINEL", "replicas", "m"]).contains(&replica.address.port().to_string())
    });
    master.kill();
    eventually("the replica is the master", || replica.is_master());
    eventually("the session counts", || browser.clone().open("/").status == 200);
    assert_eq!(browser.open("/logout").status, 302);
    assert_eq!(browser.open("/").status, 302);
    // Without the name of the master, nobody can sign in.
    let text = text.replace("masterSet: m", "masterSet: ''");
    let gateway = Gateway::serve(&text);
    let problem = "session.store.redis.sentinel.masterSet: is required";
    assert!(gateway.problems().iter().any(|found| found.contains(problem)), "{:?}", gateway.problems());
    assert_eq!(browser.moved(gateway.web(), HOST).open("/").status, 503);
}

#[test]
#[ignore = "needs redis-server"]
fn without_redis_no_session_counts_and_none_is_lost() {
    let mut redis = Redis::start(&[]);
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let text = in_redis(&provider, &redis.address.to_string(), &service.url()).replace("20s", "1s");
    let gateway = Gateway::serve(&text);
    let mut browser = Browser::new(gateway.web());
    browser.sign_in(&provider, "/");
    redis.kill();
    eventually("requests are refused", || browser.clone().open("/").status == 503);
    assert_eq!(crate::support::tokens::reason(&gateway), "authentication_unavailable");
    redis.run();
    // This Redis keeps nothing, so the user signs in again.
    eventually("logins begin", || browser.clone().open("/").status == 302);
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
}

#[test]
#[ignore = "needs oidc-provider"]
fn an_opaque_token_is_accepted_until_it_is_revoked() {
    let mut provider = Provider::new();
    let machine = |id: &str, secret: &str| {
        json!({
            "client_id": id, "client_secret": secret, "grant_types": ["client_credentials"], "redirect_uris": [],
            "response_types": [],
        })
    };
    provider.start(json!([machine("shop", "secret"), machine("gate way", "s+cr/t")]), 300);
    let url = provider.url();
    let service = Backend::echo("a");
    let options = format!(
        "{{oAuthIntrospection: {{clientConfig: {{url: '{url}/token/introspection', auth: {{kind: basic, secret: 'gate way:s+cr/t'}}}}, \
         issuer: '{url}', usernameClaim: client_id, forwardHeaders: {{X-Client: client_id}}, cacheTTL: 0}}}}"
    );
    let router = "    all: {rule: 'PathPrefix(`/`)', service: a, middlewares: [m]}\n";
    let gateway = Gateway::serve(&routes(router, &[("m", options)], &service.url()));
    let post = |path: &str, form: &str| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{0}\r\nAuthorization: Basic c2hvcDpzZWNyZXQ=\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {1}\r\nConnection: close\r\n\r\n{form}",
            provider.port,
            form.len()
        );
        crate::support::raw(([127, 0, 0, 1], provider.port).into(), request.as_bytes()).unwrap()
    };
    let answer = post("/token", "grant_type=client_credentials").text();
    let token = serde_json::from_str::<Value>(&answer).unwrap()["access_token"].as_str().unwrap().to_owned();
    assert!(!token.contains('.'), "an opaque token");
    let send = |token: &str| {
        let bearer = format!("Authorization: Bearer {token}\r\n");
        crate::support::get_with(gateway.web(), "h", "/", &bearer).status
    };
    assert_eq!(send(&token), 200);
    assert_eq!(service.last().header("x-client"), Some("shop"));
    assert_eq!(send(&format!("{token}x")), 401);
    assert_eq!(post("/token/revocation", &format!("token={token}")).status, 200);
    assert_eq!(send(&token), 401);
    provider.kill();
    assert_eq!(send("other"), 503);
}
