//! What the middleware `cache` keeps from other clients: pages of accounts, responses to clients that log in, cookies.

use crate::cache_poisoning::{is_hit, routes, server, start};
use crate::support::client::Answer;
use crate::support::keys::Key;
use crate::support::oidc::{Browser, StandIn, options as oidc_options};
use crate::support::{Gateway, get, get_with};

#[test]
fn private_pages_under_names_of_files_are_not_stored() {
    // A framework that takes anything behind `/account` for it, and sets no `Cache-Control`.
    let backend = server(|seen, number| {
        let who = seen.header("cookie").unwrap_or("nobody");
        ("200 OK\r\nContent-Type: text/css\r\n".to_owned(), format!("{number} {who}"))
    });
    let gateway = start(&backend);
    for target in [
        "/account/x.css",
        "/account;x.css",
        "/account%2Fx.css",
        "/account%00.css",
        "/account%0Ax.css",
        "/account%23/x.css",
        "/account%3Fx.css",
        "/static/..%2faccount",
        "/account/x.js?v=1",
        "/account/.avif",
        "/account//x.css",
    ] {
        get_with(gateway.web(), "h", target, "Cookie: session=victim\r\n");
        assert!(!get(gateway.web(), "h", target).text().contains("victim"), "{target}");
    }
}

#[test]
fn consumers_share_nothing_with_others() {
    let backend = server(|seen, number| {
        let who = seen.header("x-user").unwrap_or("nobody");
        ("200 OK\r\nCache-Control: public, max-age=60\r\n".to_owned(), format!("{number} {who}"))
    });
    let (ann, bob) = (Key::new(), Key::new());
    let text = format!(
        "{}  consumers:\n{}{}",
        routes(&backend.url(), "{}")
            .replace("middlewares: [cache]", "middlewares: [key, cache]")
            .replace("  services:", "    key: {apiKey: {}}\n  services:"),
        ann.consumer("ann", ""),
        bob.consumer("bob", "")
    );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let ask = |key: &Key| get_with(gateway.web(), "h", "/x", &key.header());
    let (first, second) = (ask(&ann), ask(&bob));
    assert_ne!(first.text(), second.text());
    assert_eq!((ask(&ann).text(), ask(&bob).text()), (first.text(), second.text()));
    assert_eq!(get(gateway.web(), "h", "/x").status, 401);
}

#[test]
fn users_who_sign_in_share_nothing() {
    let provider = StandIn::start();
    let backend = server(|_, number| {
        ("200 OK\r\nCache-Control: public, max-age=60\r\n".to_owned(), number.to_string())
    });
    let text =
        routes(&backend.url(), "{}").replace("middlewares: [cache]", "middlewares: [login, cache]").replace(
            "  services:",
            &format!("    login: {{oidc: {{{}}}}}\n  services:", oidc_options(&provider, "")),
        );
    let gateway = Gateway::serve(&text);
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let signed_in = |subject: &str| {
        provider.behaviour().claims["sub"] = subject.into();
        let mut browser = Browser::new(gateway.web());
        assert_eq!(browser.sign_in(&provider, "/x").status, 200);
        browser
    };
    let (mut ann, mut bob) = (signed_in("ann"), signed_in("bob"));
    let (first, second) = (ann.open("/x").text(), bob.open("/x").text());
    assert_ne!(first, second);
    assert_eq!((ann.open("/x").text(), bob.open("/x").text()), (first, second));
}

#[test]
fn a_cache_in_front_of_a_login_does_not_pass_it_by() {
    let backend = server(|_, number| {
        ("200 OK\r\nCache-Control: public, max-age=60\r\n".to_owned(), format!("{number} evil"))
    });
    let ann = Key::new();
    let text = format!(
        "{}  consumers:\n{}",
        routes(&backend.url(), "{}")
            .replace("middlewares: [cache]", "middlewares: [cache, key]")
            .replace("  services:", "    key: {apiKey: {}}\n  services:"),
        ann.consumer("ann", "")
    );
    let gateway = Gateway::serve(&text);
    let answer = get_with(gateway.web(), "h", "/x", &ann.header());
    assert_eq!(answer.header("cache-status"), Some("tidegate; fwd=uri-miss; detail=identity"));
    assert_eq!(get(gateway.web(), "h", "/x").status, 401, "strangers are still refused");
    assert_eq!(
        get_with(gateway.web(), "h", "/x", &ann.header()).status,
        200,
        "and the refusal is not stored"
    );
}

#[test]
fn cookies_of_servers_are_sent_to_one_client() {
    let backend = server(|seen, number| {
        // With the response, with a 304 for it, or as the older field.
        let conditional = seen.header("if-none-match").is_some();
        let status = if conditional { "304 X" } else { "200 OK" };
        let cookie = match seen.target() {
            "/old" => "Set-Cookie2: session=evil\r\n",
            "/later" if !conditional => "",
            _ => "Set-Cookie: session=evil\r\n",
        };
        (format!("{status}\r\nCache-Control: max-age=60\r\nETag: \"1\"\r\n{cookie}"), number.to_string())
    });
    let gateway = start(&backend);
    let has_cookie = |answer: &Answer| answer.header("set-cookie").or(answer.header("set-cookie2")).is_some();
    for target in ["/first", "/old"] {
        assert!(has_cookie(&get(gateway.web(), "h", target)));
        assert!(!is_hit(&get(gateway.web(), "h", target)), "{target}");
    }
    get(gateway.web(), "h", "/later");
    let validated = get_with(gateway.web(), "h", "/later", "Cache-Control: no-cache\r\n");
    assert!(has_cookie(&validated), "for whom it is");
    assert!(!is_hit(&get(gateway.web(), "h", "/later")));
}
