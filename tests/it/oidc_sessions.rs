//! The middleware `oidc`: how sessions last, are refreshed, are shared and end.

use serde_json::json;

use crate::support::oidc::*;
use crate::support::tokens::reason;
use crate::support::{Backend, Gateway, eventually};

#[test]
fn replicas_share_sessions_by_their_secrets_which_can_change() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let gateway = |secrets: &str| {
        let options = options(&provider, "").replace(&format!("'{SECRET}'"), secrets);
        Gateway::serve(&routes(&options, &service.url()))
    };
    let new = "fedcba9876543210fedcba9876543210";
    let (one, two) = (gateway(&format!("'{SECRET}'")), gateway(&format!("'{SECRET}'")));
    let mut browser = Browser::new(one.web());
    browser.sign_in(&provider, "/");
    assert_eq!(browser.moved(two.web(), HOST).open("/").status, 200);
    // A login that begins at one replica is completed at another.
    let mut started = Browser::new(one.web());
    let callback = provider.agree(&started.begin("/"));
    assert_eq!(started.moved(two.web(), HOST).open(&callback).status, 302);
    // The first secret encrypts, all decrypt.
    let (rotated, later) = (gateway(&format!("'{new}', '{SECRET}'")), gateway(&format!("'{new}'")));
    assert_eq!(browser.moved(rotated.web(), HOST).open("/").status, 200);
    assert_eq!(browser.moved(later.web(), HOST).open("/").status, 302);
    let mut fresh = Browser::new(rotated.web());
    fresh.sign_in(&provider, "/");
    assert_eq!(fresh.moved(later.web(), HOST).open("/").status, 200);
    assert_eq!(fresh.moved(one.web(), HOST).open("/").status, 302);
}

#[test]
fn a_generated_key_outlives_changes_of_the_options() {
    let without = |provider: &StandIn, more: &str| {
        options(provider, more).replace(&format!("session: {{secrets: ['{SECRET}']}}"), "session: {}")
    };
    let guarded = Guarded::with(|provider| without(provider, ""));
    let mut browser = guarded.signed_in();
    let generation = guarded.gateway.generation();
    let options = without(&guarded.provider, ", claims: 'Contains(`groups`, `ops`)'");
    guarded.gateway.write("routes.yml", &routes(&options, &guarded.service.url()));
    eventually("the options are applied", || guarded.gateway.generation() > generation);
    assert_eq!(browser.open("/").status, 200);
    // Another gateway has another key.
    let other = Gateway::serve(&routes(&without(&guarded.provider, ""), &guarded.service.url()));
    assert_eq!(browser.moved(other.web(), HOST).open("/").status, 302);
}

#[test]
fn sessions_end() {
    let guarded = Guarded::with(|provider| {
        options(provider, "").replace("session: {", "session: {expiry: 1s, sliding: false, refresh: false, ")
    });
    let mut browser = guarded.signed_in();
    eventually("the session ends", || browser.clone().open("/").status == 302);
    assert_eq!(browser.open("/").status, 302);
}

#[test]
fn tokens_are_refreshed_once_for_many_requests() {
    let guarded = Guarded::new(", forwardHeaders: {X-Groups: groups}");
    guarded.provider.behaviour().expires_in = 1;
    let browser = guarded.signed_in();
    let before = guarded.provider.behaviour().refreshes;
    guarded.provider.behaviour().claims = json!({"groups": ["new"]});
    guarded.provider.behaviour().expires_in = 300;
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let mut browser = browser.clone();
            std::thread::spawn(move || (browser.open("/").status, browser))
        })
        .collect();
    let mut jars = Vec::new();
    for thread in threads {
        let (status, browser) = thread.join().unwrap();
        assert_eq!(status, 200);
        jars.push(browser);
    }
    assert!(guarded.provider.behaviour().refreshes - before <= 1);
    // The refreshed session has the new claims, and is not refreshed again.
    let mut fresh = jars.pop().unwrap();
    assert_eq!(fresh.open("/").status, 200);
    assert_eq!(guarded.service.last().header("x-groups"), Some("new"));
    // The old cookie, which a browser sends until it has the new one, still counts.
    let mut old = browser;
    assert_eq!(old.open("/").status, 200);
    assert_eq!(guarded.provider.behaviour().refreshes, 2 - usize::from(before == 0));
}

#[test]
fn a_refused_refresh_ends_the_session_and_an_outage_does_not() {
    let guarded = Guarded::new("");
    guarded.provider.behaviour().expires_in = 1;
    let mut browser = guarded.signed_in();
    guarded.provider.behaviour().is_down = true;
    assert_eq!(browser.open("/").status, 200, "the session continues");
    assert_eq!(browser.open("/").status, 200);
    // A new login is not possible.
    let mut other = guarded.browser();
    eventually("logins are refused", || other.open("/").status == 503);
    assert_eq!(reason(&guarded.gateway), "authentication_unavailable");
    guarded.provider.behaviour().is_down = false;
    eventually("logins are possible", || other.open("/").status == 302);
    // The provider does not know the refresh token.
    let guarded = Guarded::new("");
    guarded.provider.behaviour().expires_in = 1;
    let mut browser = guarded.signed_in();
    let refused = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 25\r\n\r\n{\"error\":\"invalid_grant\"}";
    guarded.provider.behaviour().answers.insert("/token".into(), refused.to_vec());
    assert_eq!(browser.open("/").status, 302);
    assert!(browser.jar.keys().all(|name| name.contains("-state-")));
}

#[test]
fn logging_out_ends_the_session_here_and_at_the_provider() {
    let guarded = Guarded::new(", logoutUrl: /logout, postLogoutRedirectUrl: /bye");
    let mut browser = guarded.signed_in();
    let mut copy = browser.clone();
    let answer = browser.open("/logout");
    assert_eq!(answer.status, 302);
    let url = url::Url::parse(answer.header("location").unwrap()).unwrap();
    assert_eq!(url.path(), "/end");
    let query: std::collections::HashMap<_, _> = url.query_pairs().into_owned().collect();
    assert_eq!((&*query["a"], &*query["client_id"]), ("b", CLIENT));
    assert_eq!(query["post_logout_redirect_uri"], format!("http://{HOST}/bye"));
    assert_eq!(query["id_token_hint"].split('.').count(), 3);
    assert!(browser.jar.is_empty());
    // A copy of the cookie is worth nothing.
    assert_eq!(copy.open("/").status, 302);
    // Without a session there is nothing to end at the provider.
    let answer = browser.open("/logout");
    assert_eq!(answer.header("location"), Some("http://app.localhost/bye"));
}

#[test]
fn the_front_channel_ends_only_the_browsers_own_session() {
    let guarded = Guarded::new(", frontchannelLogoutUrl: /front");
    let mut browser = guarded.signed_in();
    let issuer = guarded.provider.url();
    // Anyone can send this.
    guarded.browser().open(&format!("/front?iss={issuer}&sid=sid1"));
    browser.open("/front?iss=https://evil.test&sid=sid1");
    browser.open(&format!("/front?iss={issuer}&sid=sid2"));
    assert_eq!(browser.open("/").status, 200);
    assert_eq!(browser.open(&format!("/front?iss={issuer}&sid=sid1")).status, 200);
    assert_eq!(browser.open("/").status, 302);
}

#[test]
fn secrets_come_from_watched_files() {
    let (provider, service) = (StandIn::start(), Backend::echo("a"));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(file("client"), format!("{CLIENT_SECRET}\n")).unwrap();
    std::fs::write(file("sessions"), format!("# the first one encrypts\n{SECRET}\n")).unwrap();
    let own = format!(
        "issuer: '{}', clientId: '{CLIENT}', clientSecretFile: '{}', session: {{secretsFile: '{}'}}",
        provider.url(),
        file("client"),
        file("sessions")
    );
    let gateway = Gateway::serve(&routes(&own, &service.url()));
    assert_eq!(gateway.problems(), Vec::<String>::new());
    let mut browser = Browser::new(gateway.web());
    assert_eq!(browser.sign_in(&provider, "/").status, 200);
    std::fs::write(file("sessions"), "fedcba9876543210fedcba9876543210\n").unwrap();
    eventually("the new secret counts", || browser.clone().open("/").status == 302);
    std::fs::write(file("sessions"), "\n").unwrap();
    eventually("a file without secrets is reported", || {
        gateway
            .problems()
            .iter()
            .any(|problem| problem.contains("session.secretsFile: the file has no secret"))
    });
    assert_eq!(browser.open("/").status, 503);
}
