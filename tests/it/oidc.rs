//! The middleware `oidc`: logins at a stand-in for a provider, and what services learn.

use serde_json::json;

use crate::support::oidc::*;
use crate::support::tokens::reason;
use crate::support::{Backend, Gateway, eventually, get_with, pause_for, raw};

#[test]
fn users_sign_in_and_get_what_they_asked_for() {
    let guarded = Guarded::new(", forwardHeaders: {X-User: name}");
    let mut browser = guarded.browser();
    let location = browser.begin("/page?a=b");
    assert_eq!(reason(&guarded.gateway), "sign_in");
    let url = url::Url::parse(&location).unwrap();
    let query = |name: &str| url.query_pairs().find(|(own, _)| own == name).unwrap().1.into_owned();
    assert_eq!(query("scope"), "openid");
    assert_eq!(query("redirect_uri"), format!("http://{HOST}/oidc/callback"));
    assert!(query("state").len() >= 43 && query("nonce").len() >= 43);
    let name = browser.jar.keys().next().unwrap().clone();
    assert!(name.starts_with("__Host-tidegate-oidc-state-"), "{name}");
    let answer = browser.open(&guarded.provider.agree(&location));
    assert_eq!(answer.header("location"), Some("http://app.localhost/page?a=b"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let cookie = answer
        .headers
        .iter()
        .find(|(_, value)| value.starts_with("__Host-tidegate-oidc-") && !value.contains("state"))
        .unwrap();
    assert!(cookie.1.contains("; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=86400"), "{}", cookie.1);
    assert_eq!(browser.jar.len(), 1, "the login is over: {:?}", browser.jar.keys());
    let answer = browser.open("/page?a=b");
    assert_eq!(answer.status, 200);
    assert_eq!(guarded.service.last().header("x-user"), Some("Ann Example"));
    assert_eq!(guarded.service.last().target(), "/page?a=b");
}

#[test]
fn only_browsers_that_show_pages_are_redirected() {
    let guarded = Guarded::new("");
    for (method, headers) in [
        ("GET", "Accept: application/json\r\n"),
        ("GET", "Accept: */*\r\n"),
        ("GET", ""),
        ("GET", "Accept: text/html\r\nX-Requested-With: XMLHttpRequest\r\n"),
        ("GET", "Accept: text/html\r\nSec-Fetch-Mode: cors\r\n"),
        ("GET", "Accept: text/html\r\nSec-Fetch-Mode: no-cors\r\n"),
        (
            "GET",
            "Accept: text/html\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        ),
        ("POST", "Accept: text/html\r\nContent-Length: 0\r\n"),
        ("POST", "Content-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 0\r\n"),
        ("DELETE", "Accept: text/html\r\n"),
    ] {
        let answer = guarded.browser().send(method, "/", headers);
        assert_eq!(answer.status, 401, "{method} {headers}");
        assert_eq!(answer.header("set-cookie"), None);
        assert!(answer.header("www-authenticate").is_some());
        assert_eq!(reason(&guarded.gateway), "unauthenticated");
    }
    assert_eq!(guarded.browser().send("GET", "/", "Accept: text/html\r\n").status, 302);
    assert!(guarded.service.seen().is_empty());
}

#[test]
fn a_login_identifies_a_consumer() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let with = |consumer: &str| {
        let routes = routes(&options(&provider, ""), &service.url());
        let routes = routes.replace("service: a,", "service: a, access: 'Group(`partners`)',");
        assert!(routes.contains("access"), "{routes}");
        format!(
            "{routes}  consumers:\n    ann: {{groups: [partners], credentials: {{oidc: [{consumer}]}}}}\n"
        )
    };
    let own = format!("{{issuer: '{}', subject: ann}}", provider.url());
    let twice = format!("{own}, {own}");
    let other = "{issuer: 'https://other.test', subject: ann}";
    for (consumer, status) in [(own.as_str(), 200), (other, 403), (&twice, 503)] {
        let gateway = Gateway::serve(&with(consumer));
        let mut browser = Browser::new(gateway.web());
        browser.sign_in(&provider, "/");
        assert_eq!(browser.open("/").status, status, "{consumer}");
    }
}

#[test]
fn logins_can_be_disabled() {
    let guarded = Guarded::new(", disableLogin: true");
    assert_eq!(guarded.browser().open("/").status, 401);
    // Signing in elsewhere, with the same secrets.
    let gateway = Gateway::serve(&routes(&options(&guarded.provider, ""), &guarded.service.url()));
    let mut browser = Browser::new(gateway.web());
    browser.sign_in(&guarded.provider, "/");
    assert_eq!(browser.moved(guarded.gateway.web(), HOST).open("/").status, 200);
}

#[test]
fn one_login_serves_the_hosts_of_a_domain() {
    let redirect = ", redirectUrl: 'http://login.home.localhost/callback'";
    let guarded = Guarded::with(|provider| {
        options(provider, redirect).replace("session: {", "session: {domain: home.localhost, ")
    });
    let address = guarded.gateway.web();
    let mut wiki = Browser::at(address, "wiki.home.localhost");
    let location = wiki.begin("/page");
    let name = wiki.jar.keys().next().unwrap();
    assert!(name.starts_with("__Secure-tidegate-oidc-state"), "{name}");
    // The provider sends the browser to the host of the login, which has the cookies of the domain.
    let mut login = wiki.moved(address, "login.home.localhost");
    let answer = login.open(&guarded.provider.agree(&location));
    assert_eq!(answer.header("location"), Some("http://wiki.home.localhost/page"));
    assert!(answer.headers.iter().any(|(_, value)| value.contains("Domain=home.localhost")));
    for host in ["wiki.home.localhost", "photos.home.localhost", "home.localhost"] {
        assert_eq!(login.moved(address, host).open("/").status, 200, "{host}");
    }
    // Without the domain, only the host of the login can start one.
    let single = Guarded::new(redirect);
    let answer = Browser::at(single.gateway.web(), "wiki.home.localhost").open("/");
    assert!(answer.status == 400 && answer.text().contains("does not belong"));
    let mut login = Browser::at(single.gateway.web(), "login.home.localhost");
    assert_eq!(login.sign_in(&single.provider, "/").status, 200);
    // A host that does not get the cookies would never get in.
    let answer = Browser::at(address, "other.localhost").open("/");
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("does not belong"));
}

#[test]
fn users_choose_between_several_providers() {
    let (one, two) = (StandIn::start(), StandIn::start());
    let service = Backend::echo("a");
    let provider = |name: &str, title: &str, provider: &StandIn| {
        format!(
            "{{name: {name}, title: '{title}', issuer: '{}', clientId: '{CLIENT}', clientSecret: '{CLIENT_SECRET}'}}",
            provider.url()
        )
    };
    let options =
        format!("providers: [{}, {}]", provider("one", "The <One>", &one), provider("two", "Two", &two));
    let gateway = Gateway::serve(&routes(&options, &service.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let mut browser = Browser::new(gateway.web());
    let page = browser.open("/a?b=c");
    assert_eq!(page.status, 401);
    let text = page.text();
    assert!(text.contains("<html lang=\"en\">") && text.contains("<h1>Sign in</h1>"), "{text}");
    assert!(text.contains("The &lt;One&gt;"), "{text}");
    assert!(text.contains("href=\"http://app.localhost/a?b=c&amp;tidegate-login=two\""), "{text}");
    let location = browser.begin("/a?b=c&tidegate-login=two");
    assert!(location.starts_with(&two.url()), "{location}");
    let answer = browser.open(&two.agree(&location));
    assert_eq!(answer.header("location"), Some("http://app.localhost/a?b=c"));
    assert_eq!(browser.open("/").status, 200);
    // Unknown names show the choice again.
    assert_eq!(Browser::new(gateway.web()).open("/?tidegate-login=three").status, 401);
}

#[test]
fn a_bearer_token_or_a_session_on_one_router() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let issuer = crate::support::tokens::Issuer::start();
    let text = format!(
        "http:
  routers:
    all: {{rule: 'PathPrefix(`/`)', service: a, middlewares: [either]}}
  middlewares:
    either: {{anyOf: {{middlewares: [login, token]}}}}
    login: {{oidc: {{{}}}}}
    token: {{jwt: {{jwksUrl: '{}/keys', issuer: '{}', audience: [api]}}}}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        options(&provider, ", logoutUrl: /logout, backchannelLogoutUrl: /logged-out"),
        issuer.server.url(),
        crate::support::tokens::ISSUER,
        service.url()
    );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let bearer = format!("Authorization: Bearer {}\r\n", crate::support::tokens::token(&json!({})));
    assert_eq!(get_with(gateway.web(), HOST, "/", &bearer).status, 200);
    assert_eq!(get_with(gateway.web(), HOST, "/", "Authorization: Bearer a.b.c\r\n").status, 401);
    let mut browser = Browser::new(gateway.web());
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
    // A session that has ended, or of other claims, is not the service's business either.
    let mut both = browser.clone();
    let name = both.session();
    both.jar.insert(name, "ended".into());
    both.jar.insert("theme".into(), "dark".into());
    assert_eq!(both.send("GET", "/", &bearer).status, 200);
    assert_eq!(service.last().headers("cookie"), ["theme=dark"]);
    // What the login answers itself is not refused by the other, and has its body.
    let body = format!("logout_token={}", provider.logout_token(&json!({"sid": "sid1"})));
    let request = format!(
        "POST /logged-out HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(raw(gateway.web(), request).unwrap().status, 200);
    assert_eq!(browser.open("/").status, 302);
    assert_eq!(browser.open("/oidc/callback").status, 400);
}

#[test]
fn plain_oauth_works_with_the_claims_of_the_user() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let url = provider.url();
    provider.behaviour().user_info = json!({"id": 7, "login": "ann", "name": "Ann"});
    let options = format!(
        "preset: github, clientId: '{CLIENT}', clientSecret: '{CLIENT_SECRET}', authorizationEndpoint: '{url}/authorize', tokenEndpoint: '{url}/token', userInfoEndpoint: '{url}/me', forwardHeaders: {{X-User: login}}, claims: 'Equals(`login`, `ann`)'"
    );
    let gateway = Gateway::serve(&routes(&options, &service.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let mut browser = Browser::new(gateway.web());
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
    assert_eq!(service.last().header("x-user"), Some("ann"));
    provider.behaviour().user_info = json!({"id": 8, "login": "bob"});
    let mut browser = Browser::new(gateway.web());
    assert_eq!(browser.sign_in(&provider, "/").status, 403);
}

#[test]
fn claims_of_the_user_are_added_to_those_of_the_token() {
    let guarded = Guarded::new(", userInfo: true, forwardHeaders: {X-Email: email, X-Name: name}");
    guarded.provider.behaviour().user_info = json!({"sub": "ann", "email": "a@b.c", "name": "Other"});
    guarded.signed_in();
    let seen = guarded.service.last();
    assert_eq!((seen.header("x-email"), seen.header("x-name")), (Some("a@b.c"), Some("Ann Example")));
    // They must be of the same user.
    guarded.provider.behaviour().user_info = json!({"sub": "bob", "email": "a@b.c"});
    let mut browser = guarded.browser();
    let callback = guarded.provider.agree(&browser.begin("/"));
    assert_eq!(browser.open(&callback).status, 400);
}

#[test]
fn requests_that_change_something_need_the_csrf_header_if_it_is_configured() {
    let guarded = Guarded::new(", csrf: {}");
    let mut browser = guarded.signed_in();
    let token = browser.jar.iter().find(|(name, _)| name.contains("csrf")).unwrap().1.clone();
    assert_eq!(browser.send("GET", "/", "").status, 200);
    let post = |token: &str| format!("TraefikHub-Csrf-Token: {token}\r\nContent-Length: 0\r\n");
    assert_eq!(browser.send("POST", "/", &post(&token)).status, 200);
    assert_eq!(browser.send("POST", "/", "Content-Length: 0\r\n").status, 403);
    assert_eq!(browser.send("POST", "/", &post("wrong")).status, 403);
    let other = guarded.signed_in();
    let foreign = other.jar.iter().find(|(name, _)| name.contains("csrf")).unwrap().1;
    assert_eq!(browser.send("POST", "/", &post(foreign)).status, 403, "of another session");
}

#[test]
fn signing_in_requires_tls_unless_cookies_do_not() {
    let guarded = Guarded::new("");
    let answer = Browser::at(guarded.gateway.web(), "app.test").open("/");
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("requires HTTPS"));
    let guarded = Guarded::with(|provider| {
        options(provider, ", stateCookie: {secure: false}").replace("session: {", "session: {secure: false, ")
    });
    let mut browser = Browser::at(guarded.gateway.web(), "app.test");
    assert_eq!(browser.sign_in(&guarded.provider, "/").status, 200);
    assert!(browser.session().starts_with("tidegate-oidc-"), "{:?}", browser.jar.keys());
}

#[test]
fn denied_access_is_reported_without_details() {
    let guarded = Guarded::new("");
    let mut browser = guarded.browser();
    let location = browser.begin("/");
    let state = location.split("state=").nth(1).unwrap().split('&').next().unwrap();
    let answer = browser
        .open(&format!("/oidc/callback?state={state}&error=access_denied&error_description=%3Cscript%3E"));
    assert_eq!(answer.status, 403);
    assert!(
        answer.text().contains("denied access") && !answer.text().contains("script>"),
        "{}",
        answer.text()
    );
    assert!(browser.jar.is_empty());
}

#[test]
fn wrong_options_are_reported() {
    let service = Backend::echo("a");
    let base = "issuer: 'https://a.test', clientId: c";
    for (options, expected) in [
        ("clientId: c".to_owned(), "issuer: required"),
        ("issuer: 'https://a.test'".to_owned(), "clientId: required"),
        ("issuer: '/x', clientId: c".to_owned(), "issuer: invalid URL `/x`"),
        (format!("{base}, preset: okta"), "preset: "),
        (format!("{base}, pkce: false"), "pkce: cannot be switched off"),
        (format!("{base}, redirectUrl: '//evil'"), "redirectUrl: invalid URL `//evil`"),
        (
            format!("{base}, redirectUrl: 'https://b.test/c', session: {{domain: a.test}}"),
            "is not within session.domain",
        ),
        (format!("{base}, session: {{domain: .a.test}}"), "session.domain: `.a.test`"),
        (format!("{base}, session: {{secrets: [short]}}"), "a secret has 5 bytes"),
        (format!("{base}, session: {{sameSite: never}}"), "session.sameSite: "),
        (format!("{base}, session: {{sameSite: none, secure: false}}"), "`none` requires `secure`"),
        (format!("{base}, stateCookie: {{sameSite: strict}}"), "stateCookie.sameSite: browsers do not send"),
        (format!("{base}, session: {{name: 'a b'}}"), "session.name: invalid cookie name `a b`"),
        (format!("{base}, session: {{expiry: 0s}}"), "session.expiry: "),
        (format!("{base}, claims: 'Nothing(`a`)'"), "claims: "),
        (format!("{base}, forwardHeaders: {{'a b': c}}"), "forwardHeaders: invalid header name `a b`"),
        (
            format!("{base}, providers: [{{name: a, issuer: 'https://b.test', clientId: c}}]"),
            "providers: not possible with",
        ),
        (
            "providers: [{name: 'a/b', issuer: 'https://b.test', clientId: c}]".to_owned(),
            "providers[0].name: `a/b`",
        ),
        ("providers: [{name: a, issuer: 'https://b.test'}]".to_owned(), "providers `a`: clientId: required"),
        (
            format!("{base}, clientSecret: a, clientSecretFile: b"),
            "only one of clientSecret, clientSecretFile",
        ),
        (format!("{base}, csrf: {{headerName: 'a b'}}"), "csrf.headerName"),
        (format!("{base}, clientConfig: {{timeoutSeconds: 0}}"), "clientConfig.timeoutSeconds: 0"),
        (
            format!("{base}, session: {{store: {{redis: {{endpoints: []}}}}}}"),
            "session.store.redis.endpoints",
        ),
        (format!("{base}, leeway: 1h"), "leeway: "),
        (format!("{base}, authParams: {{state: a}}"), "authParams: `state` is set by the gateway"),
        (format!("{base}, session: {{path: a}}"), "session.path: invalid path `a`"),
    ] {
        let gateway = Gateway::serve(&routes(&options, &service.url()));
        let problems = gateway.problems();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{options}: {problems:?}");
        assert_eq!(Browser::new(gateway.web()).open("/").status, 503, "{options}");
    }
}

#[test]
fn the_example_works() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let text = std::fs::read_to_string(crate::docs::root().join("examples/home-lab/routes.yml")).unwrap();
    let text = text
        .replace("https://id.home.example.com", &provider.url())
        .replace("https://", "http://")
        .replace("home.example.com", "home.localhost")
        .replace("clientId: \"gateway\"", &format!("clientId: '{CLIENT}'"))
        .replace("the secret of the client", CLIENT_SECRET)
        .replace("http://192.168.1.10:3000", &service.url())
        .replace("http://192.168.1.11:2283", &service.url());
    let gateway = Gateway::with(&["--api=true"], &text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    provider.behaviour().claims = json!({"preferred_username": "ann"});
    let address = gateway.web();
    let mut wiki = Browser::at(address, "wiki.home.localhost");
    eventually("the provider is known", || {
        Browser::at(address, "wiki.home.localhost").open("/").status == 302
    });
    let location = wiki.begin("/page");
    assert!(location.contains("scope=openid+profile+email+groups"), "{location}");
    let mut login = wiki.moved(address, "login.home.localhost");
    let answer = login.open(&provider.agree(&location));
    assert_eq!(answer.header("location"), Some("http://wiki.home.localhost/page"));
    for host in ["wiki.home.localhost", "photos.home.localhost"] {
        assert_eq!(login.moved(address, host).open("/").status, 200, "{host}");
        let seen = service.last();
        assert_eq!(seen.header("remote-user"), Some("ann"));
        assert_eq!(seen.header("remote-groups"), Some("ops,dev"));
        assert_eq!(seen.header("remote-email"), Some("ann@example.com"));
    }
    assert_eq!(login.moved(address, "gateway.home.localhost").open("/api/version").status, 403);
    // An administrator.
    provider.behaviour().claims = json!({"preferred_username": "bob", "groups": ["admins"]});
    let mut browser = Browser::at(address, "login.home.localhost");
    browser.sign_in(&provider, "/");
    assert_eq!(browser.moved(address, "gateway.home.localhost").open("/api/version").status, 200);
    // A phone.
    let claims = json!({"iss": provider.url(), "aud": "photos", "sub": "phone", "exp": crate::support::tokens::now() + 60});
    let token = crate::support::tokens::signed_by(
        &crate::support::tokens::OWN,
        "RS256",
        &json!({"alg": "RS256", "kid": "rsa"}),
        &claims,
    );
    let bearer = format!("Authorization: Bearer {token}\r\nRemote-User: root\r\n");
    eventually("the phone gets in", || {
        get_with(address, "photos.home.localhost", "/", &bearer).status == 200
    });
    assert_eq!(service.last().header("remote-user"), None);
    assert_eq!(get_with(address, "wiki.home.localhost", "/", &bearer).status, 401);
}

#[test]
fn the_spelling_of_traefik_hub_is_read() {
    let guarded = Guarded::with(|provider| {
        format!(
            "issuer: '{}', redirectUrl: /callback, clientID: '{CLIENT}', clientSecret: '{CLIENT_SECRET}', session: {{name: custom, sliding: false, refresh: false, expiry: 10, sameSite: none, httpOnly: false, secure: true}}, stateCookie: {{name: state, maxAge: 10, sameSite: none, httpOnly: true, secure: true}}, forwardHeaders: {{Group: groups, Expires-At: exp}}, claims: 'Contains(`groups`, `ops`)', csrf: {{}}",
            provider.url()
        )
    });
    let mut browser = guarded.browser();
    let location = browser.begin("/");
    assert!(browser.jar.keys().all(|name| name.starts_with("__Host-state-")), "{:?}", browser.jar.keys());
    let answer = browser.open(&guarded.provider.agree(&location));
    let cookie = answer.headers.iter().find(|(_, value)| value.starts_with("__Host-custom=")).unwrap();
    assert!(cookie.1.ends_with("; Path=/; Secure; SameSite=None; Max-Age=10"), "{}", cookie.1);
    assert_eq!(browser.open("/").status, 200);
    let seen = guarded.service.last();
    assert_eq!(seen.header("group"), Some("ops,dev"));
    assert!(seen.header("expires-at").is_some());
}

#[test]
fn groups_and_names_are_known_to_what_follows() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let text = routes(&options(&provider, ", groupsClaim: realm.roles, usernameClaim: name"), &service.url())
        .replace("middlewares: [m]", "middlewares: [m, ops]")
        .replace(
            "  services:",
            "    ops: {headers: {customRequestHeaders: {X-Ops: 'yes'}}, when: 'Group(`ops`) && User(`Ann Example`)'}\n  services:",
        );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    provider.behaviour().claims = json!({"realm": {"roles": ["ops"]}});
    Browser::new(gateway.web()).sign_in(&provider, "/");
    assert_eq!(service.last().header("x-ops"), Some("yes"));
    provider.behaviour().claims = json!({"realm": {"roles": ["dev"]}});
    Browser::new(gateway.web()).sign_in(&provider, "/");
    assert_eq!(service.last().header("x-ops"), None);
    // A name that is configured is required.
    provider.behaviour().claims = json!({"name": null});
    let mut browser = Browser::new(gateway.web());
    let callback = provider.agree(&browser.begin("/"));
    assert!(browser.open(&callback).text().contains("does not name you"));
}

#[test]
fn a_part_of_a_site_can_be_public() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let text =
        routes(&options(&provider, ", forwardHeaders: {X-User: name}, session: {name: own}"), &service.url())
            .replace(&format!("session: {{secrets: ['{SECRET}']}}, "), "")
            .replace("    m: {", "    m: {when: '!PathPrefix(`/public`)', ");
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let mut browser = Browser::new(gateway.web());
    assert_eq!(browser.open("/public").status, 200);
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
    assert_eq!(browser.session(), "__Host-own");
    assert_eq!(service.last().header("x_user"), None, "what the client says of itself");
    // The callback is not public.
    assert_eq!(browser.open("/oidc/callback").status, 400);
}

#[test]
fn further_options_have_their_effect() {
    let guarded = Guarded::new(
        ", authParams: {prompt: login, ui: 'a b'}, discoveryParams: {v: '2'}, postLoginRedirectUrl: /welcome, backchannelLogoutUrl: /logged-out, backchannelLogoutSessionsRequired: true, stateCookie: {maxAge: 1s, path: /oidc}",
    );
    let mut browser = guarded.browser();
    let location = browser.begin("/page");
    assert!(location.contains("&prompt=login&ui=a+b"), "{location}");
    assert!(guarded.provider.server.seen()[0].target().ends_with("/openid-configuration?v=2"));
    let callback = guarded.provider.agree(&location);
    let answer = browser.clone().open(&callback);
    assert_eq!(answer.header("location"), Some("http://app.localhost/welcome"));
    // A log-out that names no session.
    let body = format!("logout_token={}", guarded.provider.logout_token(&json!({"sub": "ann"})));
    let request = format!(
        "POST /logged-out HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    assert_eq!(raw(guarded.gateway.web(), request).unwrap().status, 400);
    // A login takes a second at most.
    let mut late = guarded.browser();
    let callback = guarded.provider.agree(&late.begin("/"));
    pause_for(std::time::Duration::from_millis(1_001));
    assert!(late.open(&callback).text().contains("too old"));
}

#[test]
fn a_trusted_proxy_says_that_the_client_uses_tls() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let text = routes(&options(&provider, ""), &service.url());
    let gateway = Gateway::with(&["--entryPoints.web.forwardedHeaders.insecure=true"], &text);
    let page = format!("{PAGE}X-Forwarded-Proto: https\r\n");
    let mut browser = Browser::at(gateway.web(), "app.test");
    let answer = browser.send("GET", "/a", &page);
    let location = answer.header("location").unwrap();
    assert!(location.contains("redirect_uri=https%3A%2F%2Fapp.test%2Foidc%2Fcallback"), "{location}");
    let answer = browser.send("GET", &provider.agree(location), &page);
    assert_eq!(answer.header("location"), Some("https://app.test/a"));
    // Nobody else does.
    let gateway = Gateway::serve(&text);
    assert_eq!(Browser::at(gateway.web(), "app.test").send("GET", "/a", &page).status, 400);
}

#[test]
fn parts_of_a_site_share_a_session() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let options = options(&provider, ", session: {name: own}").replace(
        &format!("session: {{secrets: ['{SECRET}']}}, session: {{"),
        &format!("session: {{secrets: ['{SECRET}'], "),
    );
    let text = routes(&options, &service.url()).replace("[m]", "[n, m]");
    let other = format!(
        "    n: {{when: 'PathPrefix(`/n`)', oidc: {{{options}}}}}\n    m: {{when: '!PathPrefix(`/n`)', "
    );
    let gateway = Gateway::serve(&text.replace("    m: {", &other));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let mut browser = Browser::new(gateway.web());
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
    for path in ["/", "/n"] {
        assert_eq!(browser.open(path).status, 200, "{path}");
        assert_eq!(service.last().header("cookie"), None);
    }
}

#[test]
fn explain_says_what_would_happen() {
    let guarded = Guarded::new(", forwardHeaders: {X-User: name}");
    let request = format!("/api/explain?url=http://{HOST}/page&header=Accept:text/html");
    let text = guarded.gateway.api(&request);
    assert!(text.contains("starts a sign-in with default"), "{text}");
    assert!(guarded.service.seen().is_empty());
}
