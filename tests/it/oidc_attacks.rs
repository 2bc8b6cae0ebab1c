//! The middleware `oidc` under attack.

use serde_json::json;

use crate::support::oidc::*;
use crate::support::tokens::{FOREIGN, OWN, now, reason, signed_by};
use crate::support::{Backend, Gateway, eventually, raw};

#[test]
fn a_replayed_state_is_refused() {
    let guarded = Guarded::new("");
    let mut browser = guarded.browser();
    let location = browser.begin("/");
    // Somebody has copied the browser before the login is complete.
    let mut copy = browser.clone();
    let callback = guarded.provider.agree(&location);
    assert_eq!(browser.open(&callback).status, 302);
    let again = guarded.provider.agree(&location);
    let answer = copy.open(&again);
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("already complete"), "{}", answer.text());
    assert_eq!(reason(&guarded.gateway), "sign_in_refused");
    assert!(copy.jar.keys().all(|name| name.contains("-state-")), "no session");
}

#[test]
fn a_code_and_a_nonce_are_good_for_one_login() {
    let guarded = Guarded::new("");
    let mut browser = guarded.browser();
    let first = guarded.provider.agree(&browser.begin("/"));
    assert_eq!(browser.open(&first).status, 302);
    // The code of one login in another.
    let mut other = guarded.browser();
    let second = guarded.provider.agree(&other.begin("/"));
    let code = |callback: &str| callback.split(['=', '&']).nth(1).unwrap().to_owned();
    let answer = other.open(&second.replace(&code(&second), &code(&first)));
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("does not accept"), "{}", answer.text());
    // The ID token of one login in another.
    let mut other = guarded.browser();
    let callback = guarded.provider.agree(&other.begin("/"));
    guarded.provider.behaviour().claims = json!({"nonce": "of another login"});
    assert!(other.open(&callback).text().contains("token is invalid"));
    guarded.provider.behaviour().claims = json!({"nonce": null});
    let callback = guarded.provider.agree(&other.begin("/"));
    assert!(other.open(&callback).text().contains("token is invalid"));
    assert!(other.jar.is_empty(), "{:?}", other.jar);
}

#[test]
fn a_login_of_another_browser_is_refused() {
    // Login CSRF: the attacker sends the victim a link with the attacker's own code.
    let guarded = Guarded::new("");
    let mut attacker = guarded.browser();
    let callback = guarded.provider.agree(&attacker.begin("/"));
    let mut victim = guarded.browser();
    let answer = victim.open(&callback);
    assert_eq!((answer.status, victim.jar.len()), (400, 0));
    assert!(answer.text().contains("another browser"));
    // A login that the victim has begun does not change that.
    victim.begin("/");
    assert_eq!(victim.open(&callback).status, 400);
    // The attacker's cookie under the name of the victim's state, and the other way round.
    let attackers = attacker.jar.iter().next().unwrap();
    let mut tossed = guarded.browser();
    let location = tossed.begin("/");
    let name = tossed.jar.keys().next().unwrap().clone();
    tossed.jar.insert(name, attackers.1.clone());
    assert_eq!(tossed.open(&guarded.provider.agree(&location)).status, 400);
    // States and codes that occur twice, are missing, or are of another form.
    let mut browser = guarded.browser();
    let callback = guarded.provider.agree(&browser.begin("/"));
    for wrong in [
        format!("{callback}&state=x"),
        "/oidc/callback".to_owned(),
        "/oidc/callback?state=".to_owned(),
        "/oidc/callback?state=%C3%A9%C3%A9%C3%A9%C3%A9%C3%A9".to_owned(),
        format!("/oidc/callback?state={}", "a".repeat(5000)),
        callback.replace("code=", "x="),
    ] {
        assert_eq!(browser.clone().open(&wrong).status, 400, "{wrong}");
    }
}

#[test]
fn a_session_of_an_attacker_is_replaced_by_a_login() {
    let guarded = Guarded::new(", logoutUrl: /logout");
    let mut attacker = guarded.signed_in();
    let planted = attacker.clone();
    attacker.open("/logout");
    // The victim's browser has the attacker's cookie, which means nothing, and signs in with it.
    let mut victim = planted.clone();
    guarded.provider.behaviour().claims = json!({"sub": "victim"});
    assert_eq!(victim.sign_in(&guarded.provider, "/").status, 200);
    let name = planted.session();
    assert_ne!(victim.jar[&name], planted.jar[&name]);
    // What the attacker knows has not become a session.
    assert_eq!(planted.clone().open("/").status, 302);
    assert_eq!(victim.open("/").status, 200);
}

#[test]
fn a_cookie_of_another_router_is_refused() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let url = provider.url();
    let own = |client: &str, name: &str, more: &str| {
        format!(
            "{{oidc: {{issuer: '{url}', clientId: '{client}', clientSecret: '{CLIENT_SECRET}', session: {{name: {name}, secrets: ['{SECRET}']}}{more}}}}}"
        )
    };
    let text = format!(
        "http:
  routers:
    a: {{rule: 'Host(`app.localhost`)', service: a, middlewares: [a]}}
    b: {{rule: 'Host(`b.localhost`)', service: a, middlewares: [b]}}
    c: {{rule: 'Host(`c.localhost`)', service: a, middlewares: [c]}}
    d: {{rule: 'Host(`d.localhost`)', service: a, middlewares: [d]}}
  middlewares:
    a: {}
    b: {}
    c: {}
    d: {}
  services:
    a: {{loadBalancer: {{servers: [{{url: '{}'}}]}}}}
",
        own(CLIENT, "s", ""),
        own("another client", "s", ""),
        own(CLIENT, "t", ""),
        own(CLIENT, "s", ", claims: 'Contains(`groups`, `admin`)'"),
        service.url()
    );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let mut browser = Browser::new(gateway.web());
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
    // Another client of the provider.
    let mut other = browser.moved(gateway.web(), "b.localhost");
    assert_eq!(other.open("/").status, 302);
    // Another name: the value does not decrypt.
    let mut other = browser.moved(gateway.web(), "c.localhost");
    other.jar.insert("__Host-t".into(), browser.jar["__Host-s"].clone());
    assert_eq!(other.open("/").status, 302);
    // The same session, and other claims.
    let mut other = browser.moved(gateway.web(), "d.localhost");
    let answer = other.open("/");
    assert_eq!(answer.status, 403);
    assert_eq!(reason(&gateway), "forbidden");
    // A login's cookie is no session.
    let mut other = Browser::new(gateway.web());
    other.begin("/");
    let state = other.jar.values().next().unwrap().clone();
    other.jar.insert("__Host-s".into(), state);
    assert_eq!(other.open("/").status, 302);
}

#[test]
fn targets_after_a_login_stay_on_the_host() {
    let guarded = Guarded::new(", loginUrl: /login");
    let mut browser = guarded.browser();
    assert_eq!(browser.open("/").status, 401);
    for (path, expected) in [
        ("/login?return=/a%3Fb%3Dc", "/a?b=c"),
        ("/login", "/"),
        ("/login?return=//evil.test", "/"),
        ("/login?return=/%5Cevil.test", "/"),
        ("/login?return=%5C%5Cevil.test", "/"),
        ("/login?return=%2F%2Fevil.test", "/"),
        ("/login?return=%252F%252Fevil.test", "/"),
        ("/login?return=/%252Fevil.test", "/"),
        ("/login?return=/%25252Fevil.test", "/"),
        ("/login?return=https://evil.test", "/"),
        ("/login?return=https:evil.test", "/"),
        ("/login?return=javascript:alert(1)", "/"),
        ("/login?return=/%09/evil.test", "/"),
        ("/login?return=/%0d%0aSet-Cookie:a=b", "/"),
        ("/login?return=@evil.test", "/"),
        ("/login?return=.evil.test", "/"),
        ("/login?return=/a&return=/b", "/"),
    ] {
        let mut browser = guarded.browser();
        let callback = guarded.provider.agree(&browser.begin(path));
        let answer = browser.open(&callback);
        assert_eq!(answer.header("location").unwrap(), format!("http://{HOST}{expected}"), "{path}");
        // With a session there is nothing to do.
        let answer = browser.open(path);
        assert_eq!(answer.header("location").unwrap(), format!("http://{HOST}{expected}"), "{path}");
    }
}

#[test]
fn a_requested_target_stays_on_its_host() {
    let guarded = Guarded::new("");
    for path in ["//evil.test/a", "/a?b=c&d=//evil.test", "/%2F%2Fevil.test"] {
        let mut browser = guarded.browser();
        let answer = browser.open(path);
        if answer.status == 400 {
            continue;
        }
        let callback = guarded.provider.agree(answer.header("location").unwrap());
        let answer = browser.open(&callback);
        let target = answer.header("location").unwrap();
        assert!(target.starts_with(&format!("http://{HOST}/")), "{target}");
    }
    // Hosts that would become another one in a URL.
    for host in ["a@evil.test", "evil.test/", "evil.test?", "evil.test#", "evil.test\\"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{PAGE}Connection: close\r\n\r\n");
        let answer = raw(guarded.gateway.web(), request).unwrap();
        assert_eq!(answer.status, 400, "{host}");
        assert_eq!(answer.header("location"), None);
    }
}

#[test]
fn changed_and_truncated_cookies_are_no_sessions() {
    let guarded = Guarded::new("");
    guarded.provider.behaviour().claims = json!({"long": "x".repeat(2_500)});
    let browser = guarded.signed_in();
    assert!(browser.jar.len() >= 3, "{:?}", browser.jar.keys());
    let service = guarded.service.seen().len();
    for name in browser.jar.keys() {
        let value = &browser.jar[name];
        let middle = value.len() / 2;
        let flipped = if value.as_bytes()[middle] == b'A' { "B" } else { "A" };
        for wrong in [
            format!("{}{flipped}{}", &value[..middle], &value[middle + 1..]),
            value[..value.len() - 4].to_owned(),
            format!("{value}AAAA"),
            String::new(),
            "6.".to_owned(),
            "99.AAAA".to_owned(),
        ] {
            let mut copy = browser.clone();
            copy.jar.insert(name.clone(), wrong);
            assert_eq!(copy.open("/").status, 302);
        }
        let mut copy = browser.clone();
        copy.jar.remove(name);
        assert_eq!(copy.open("/").status, 302);
        // What is of no use is removed.
        let own = copy.jar.keys().filter(|name| !name.contains("-state-")).count();
        assert_eq!(own, 0, "{:?}", copy.jar.keys());
    }
    assert_eq!(guarded.service.seen().len(), service);
}

#[test]
fn oversize_sessions_are_refused() {
    let guarded = Guarded::new("");
    // Without the ID token it fits.
    guarded.provider.behaviour().claims = json!({"long": "x".repeat(9_000)});
    let browser = guarded.signed_in();
    assert!(browser.jar.values().map(String::len).sum::<usize>() < 20_000);
    guarded.provider.behaviour().claims = json!({"long": "x".repeat(20_000)});
    let mut browser = guarded.browser();
    let callback = guarded.provider.agree(&browser.begin("/"));
    let answer = browser.open(&callback);
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("too long") && browser.jar.is_empty(), "{}", answer.text());
}

#[test]
fn claims_cannot_inject_headers() {
    let guarded = Guarded::new(", forwardHeaders: {X-Name: name, X-Groups: groups}");
    for name in ["a\r\nX-Admin: 1", "a\nb", "a\u{0}b", "\u{85}", " a"] {
        guarded.provider.behaviour().claims = json!({ "name": name });
        let mut browser = guarded.browser();
        let callback = guarded.provider.agree(&browser.begin("/"));
        let answer = browser.open(&callback);
        assert!(answer.status == 400 && answer.text().contains("cannot be sent"), "{name:?}");
        assert!(browser.jar.is_empty());
    }
    // A group with a comma is not two groups.
    guarded.provider.behaviour().claims = json!({"groups": ["a,admin"]});
    let mut browser = guarded.browser();
    let callback = guarded.provider.agree(&browser.begin("/"));
    assert!(browser.open(&callback).text().contains("cannot be sent"));
    assert!(guarded.service.seen().is_empty());
}

#[test]
fn headers_of_clients_do_not_reach_the_service() {
    let guarded = Guarded::new(", forwardHeaders: {X-Forwarded-User: name, X-Missing: nothing}");
    let mut browser = guarded.signed_in();
    browser.jar.insert("theme".into(), "dark".into());
    let spoofed = "X-Forwarded-User: root\r\nX_Forwarded_User: root\r\nX.Forwarded.User: root\r\nx-forwarded_user: root\r\nX-Missing: 1\r\nX_Missing: 1\r\n";
    assert_eq!(browser.send("GET", "/", spoofed).status, 200);
    let seen = guarded.service.last();
    assert_eq!(seen.headers("x-forwarded-user"), ["Ann Example"]);
    assert!(!seen.head.contains("root") && !seen.head.to_lowercase().contains("missing"), "{}", seen.head);
    // The session is not the service's business.
    assert_eq!(seen.headers("cookie"), ["theme=dark"]);
}

#[test]
fn tokens_must_be_the_providers_own_and_for_this_client() {
    let guarded = Guarded::new("");
    let url = guarded.provider.url();
    let claims = |changes: serde_json::Value, nonce: &str| {
        let mut claims = json!({"iss": url, "aud": CLIENT, "sub": "ann", "iat": now(), "exp": now() + 300, "nonce": nonce});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let rs = json!({"alg": "RS256", "kid": "rsa"});
    type ByNonce<'a> = Box<dyn Fn(&str) -> String + 'a>;
    let cases: Vec<ByNonce<'_>> = vec![
        Box::new(|nonce| signed_by(&FOREIGN, "RS256", &rs, &claims(json!({}), nonce))),
        Box::new(|nonce| signed_by(&OWN, "RS256", &rs, &claims(json!({"aud": "other"}), nonce))),
        Box::new(|nonce| signed_by(&OWN, "RS256", &rs, &claims(json!({"iss": "https://evil.test"}), nonce))),
        Box::new(|nonce| signed_by(&OWN, "RS256", &rs, &claims(json!({"exp": now() - 60}), nonce))),
        Box::new(|nonce| signed_by(&OWN, "RS256", &rs, &claims(json!({"exp": null}), nonce))),
        Box::new(|nonce| signed_by(&OWN, "RS256", &rs, &claims(json!({"aud": [CLIENT, "other"]}), nonce))),
        Box::new(|nonce| signed_by(&OWN, "RS256", &rs, &claims(json!({"azp": "other"}), nonce))),
        Box::new(|nonce| signed_by(&OWN, "RS256", &rs, &claims(json!({"sub": ""}), nonce))),
        Box::new(|nonce| signed_by(&OWN, "HS256", &json!({"alg": "HS256"}), &claims(json!({}), nonce))),
        Box::new(|nonce| {
            let typ = json!({"alg": "RS256", "kid": "rsa", "typ": "logout+jwt"});
            signed_by(&OWN, "RS256", &typ, &claims(json!({}), nonce))
        }),
        Box::new(|nonce| {
            let message =
                crate::support::tokens::unsigned(&json!({"alg": "none"}), &claims(json!({}), nonce));
            format!("{message}.")
        }),
    ];
    for (index, token) in cases.iter().enumerate() {
        let mut browser = guarded.browser();
        let location = browser.begin("/");
        let nonce = url::Url::parse(&location).unwrap();
        let nonce = nonce.query_pairs().find(|(name, _)| name == "nonce").unwrap().1.into_owned();
        guarded.provider.behaviour().id_token = Some(token(&nonce));
        let answer = browser.open(&guarded.provider.agree(&location));
        assert_eq!(answer.status, 400, "{index}");
        assert!(answer.text().contains("token is invalid") && browser.jar.is_empty(), "{index}");
    }
}

#[test]
fn another_provider_cannot_answer() {
    let guarded = Guarded::new("");
    let mut browser = guarded.browser();
    let callback = guarded.provider.agree(&browser.begin("/"));
    let answer = browser.open(&format!("{callback}&iss=https://evil.test"));
    assert!(answer.status == 400 && answer.text().contains("another provider"));
    let callback = guarded.provider.agree(&browser.begin("/"));
    assert_eq!(browser.open(&format!("{callback}&iss={}", guarded.provider.url())).status, 302);
}

#[test]
fn bad_metadata_and_keys_do_no_harm() {
    let huge = || {
        let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n".to_vec();
        answer.resize(answer.len() + 10_485_760, b' ');
        answer
    };
    let text = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let other = r#"{"issuer": "https://evil.test", "authorization_endpoint": "https://evil.test/", "token_endpoint": "https://evil.test/", "jwks_uri": "https://evil.test/"}"#;
    for (path, answer) in [
        ("/keys", huge()),
        ("/keys", Vec::new()),
        ("/keys", text("{}").into_bytes()),
        ("/.well-known/openid-configuration", huge()),
        ("/.well-known/openid-configuration", Vec::new()),
        ("/.well-known/openid-configuration", text("[]").into_bytes()),
        ("/.well-known/openid-configuration", text(other).into_bytes()),
    ] {
        let (provider, service) = (StandIn::start(), Backend::echo("a"));
        let length = answer.len();
        provider.behaviour().answers.insert(path.to_owned(), answer);
        let options = options(&provider, ", clientConfig: {timeoutSeconds: 1}");
        let gateway = Gateway::serve(&routes(&options, &service.url()));
        let mut browser = Browser::new(gateway.web());
        let answer = browser.open("/");
        assert_eq!(answer.status, 503, "{path} of {length} bytes");
        assert_eq!(reason(&gateway), "authentication_unavailable");
        assert_eq!(answer.header("retry-after"), Some("5"));
        // When it recovers, so does the gateway.
        provider.behaviour().answers.clear();
        eventually("logins begin again", || browser.open("/").status == 302);
        assert_eq!(browser.sign_in(&provider, "/").status, 200);
    }
}

#[test]
fn logout_tokens_are_verified() {
    let guarded = Guarded::new(", backchannelLogoutUrl: /logged-out");
    let mut browser = guarded.signed_in();
    let post = |token: &str| {
        let body = format!("logout_token={token}");
        let request = format!(
            "POST /logged-out HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        raw(guarded.gateway.web(), request).unwrap()
    };
    let provider = &guarded.provider;
    let foreign = {
        let claims = json!({
            "iss": provider.url(), "aud": CLIENT, "iat": now(), "exp": now() + 60, "jti": "f", "sid": "sid1",
            "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
        });
        signed_by(&FOREIGN, "RS256", &json!({"alg": "RS256", "kid": "rsa", "typ": "logout+jwt"}), &claims)
    };
    for wrong in [
        foreign,
        provider.logout_token(&json!({"sid": "sid1", "aud": "other"})),
        provider.logout_token(&json!({"sid": "sid1", "iss": "https://evil.test"})),
        provider.logout_token(&json!({"sid": "sid1", "exp": now() - 60})),
        provider.logout_token(&json!({"sid": "sid1", "events": {}})),
        provider.logout_token(&json!({"sid": "sid1", "events": null})),
        provider.logout_token(&json!({"sid": "sid1", "nonce": "n"})),
        provider.logout_token(&json!({"sid": "sid1", "jti": null})),
        provider.logout_token(&json!({})),
        "a.b.c".to_owned(),
        String::new(),
    ] {
        let answer = post(&wrong);
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.text().contains("invalid_request"));
    }
    assert_eq!(browser.open("/").status, 200);
    // An ID token is no logout token.
    let token = provider.logout_token(&json!({"sid": "sid1"}));
    assert_eq!(post(&token).status, 200);
    assert_eq!(post(&token).status, 400, "it was used before");
    let mut copy = browser.clone();
    assert_eq!(browser.open("/").status, 302);
    // A copy of the cookie is worth nothing, and a new login is.
    assert_eq!(copy.open("/").status, 302);
    assert_eq!(browser.sign_in(provider, "/").status, 200);
    // Without `sid`, all sessions of the user end.
    assert_eq!(post(&provider.logout_token(&json!({"sub": "ann", "jti": "all"}))).status, 200);
    assert_eq!(browser.open("/").status, 302);
}

#[test]
fn logins_that_are_not_completed_do_not_pile_up() {
    let guarded = Guarded::new("");
    let mut browser = guarded.browser();
    for _ in 0..20 {
        browser.begin("/");
        assert!(browser.jar.len() <= 4);
    }
    assert_eq!(browser.sign_in(&guarded.provider, "/").status, 200);
}

#[test]
fn a_provider_that_fails_after_the_login_is_reported() {
    let guarded = Guarded::new("");
    let mut browser = guarded.browser();
    let callback = guarded.provider.agree(&browser.begin("/"));
    guarded
        .provider
        .behaviour()
        .answers
        .insert("/token".into(), b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec());
    let answer = browser.open(&callback);
    assert_eq!(answer.status, 503);
    assert_eq!(reason(&guarded.gateway), "authentication_unavailable");
}
