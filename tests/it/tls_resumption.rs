//! Sessions that go on: over reloads they do, from one way of authenticating clients to another they never do.

use std::sync::Arc;

use crate::support::tls::{Own, Seen, ask, certificate, client_config};
use crate::support::{Backend, Gateway, eventually};
use crate::tls::routes;

/// Asks twice, so that the second time there is a session to go on with.
fn warm(gateway: &Gateway, config: &Arc<rustls::ClientConfig>) -> Seen {
    let first = ask(gateway.web(), config, "h.test", "h.test").unwrap();
    assert!(!first.resumed && first.status() == 200);
    let second = ask(gateway.web(), config, "h.test", "h.test").unwrap();
    assert_eq!(second.status(), 200);
    second
}

fn change(gateway: &Gateway, text: &str) {
    let before = gateway.generation();
    gateway.write("routes.yml", text);
    eventually("the change is served", || gateway.generation() > before);
}

fn clients(own: Option<&Own>) -> [Arc<rustls::ClientConfig>; 2] {
    let new = client_config(&[], own);
    let mut old = client_config(&[], own);
    let provider = old.crypto_provider().clone();
    let mut only_12 = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    only_12.dangerous().set_certificate_verifier(crate::support::tls::takes_all());
    only_12.client_auth_cert_resolver = old.client_auth_cert_resolver.clone();
    old = only_12;
    [Arc::new(new), Arc::new(old)]
}

#[test]
fn sessions_go_on_over_reloads() {
    let backend = Backend::echo("a");
    let gateway = Gateway::serve(&routes(&backend.url(), &[("h.test", "")], ""));
    let clients = clients(None);
    for config in &clients {
        assert!(warm(&gateway, config).resumed);
    }
    // Another router, and a certificate beside the others: everything about TLS is built anew.
    let own = certificate(&["other.test"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("c"), own.cert.pem()).unwrap();
    std::fs::write(folder.path().join("k"), own.signing_key.serialize_pem()).unwrap();
    let place = folder.path().display();
    let more = format!("tls: {{certificates: [{{certFile: '{place}/c', keyFile: '{place}/k'}}]}}\n");
    change(&gateway, &routes(&backend.url(), &[("h.test", ""), ("other.test", "")], &more));
    for config in &clients {
        assert!(ask(gateway.web(), config, "h.test", "h.test").unwrap().resumed);
    }
    let off = more.replace("tls: {", "tls: {options: {default: {disableSessionTickets: true}}, ");
    change(&gateway, &routes(&backend.url(), &[("h.test", "")], &off));
    for config in &clients {
        for _ in 0..2 {
            let seen = ask(gateway.web(), config, "h.test", "h.test").unwrap();
            assert!(seen.status() == 200 && !seen.resumed, "tickets are off");
        }
    }
}

#[test]
fn sessions_are_not_resumed_with_other_client_authentication() {
    let backend = Backend::echo("a");
    let friend = certificate(&["friend"]);
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, friend.cert.pem()).unwrap();
    let open = routes(&backend.url(), &[("h.test", "")], "");
    let mutual = routes(
        &backend.url(),
        &[("h.test", "mutual")],
        &format!("tls: {{options: {{mutual: {{clientAuth: {{caFiles: ['{}']}}}}}}}}\n", ca.display()),
    );
    let gateway = Gateway::serve(&open);
    let strangers = clients(None);
    for config in &strangers {
        assert!(warm(&gateway, config).resumed);
    }
    change(&gateway, &mutual);
    for config in &strangers {
        assert!(ask(gateway.web(), config, "h.test", "h.test").is_err(), "an old session lets nobody in");
    }
    let friends = clients(Some(&friend));
    for config in &friends {
        assert!(warm(&gateway, config).resumed);
    }
}

#[test]
fn a_replaced_authority_applies_at_once_even_to_sessions() {
    let backend = Backend::echo("a");
    let (before, after) = (certificate(&["before"]), certificate(&["after"]));
    let folder = tempfile::tempdir().unwrap();
    let put = |own: &Own| {
        std::fs::write(folder.path().join("new"), own.cert.pem()).unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join("ca.pem")).unwrap();
    };
    put(&before);
    let ca = folder.path().join("ca.pem").display().to_string();
    let gateway = Gateway::serve(&routes(
        &backend.url(),
        &[("h.test", "mutual")],
        &format!("tls: {{options: {{mutual: {{clientAuth: {{caFiles: ['{ca}']}}}}}}}}\n"),
    ));
    let (old_friends, new_friends) = (clients(Some(&before)), clients(Some(&after)));
    for config in &old_friends {
        assert!(warm(&gateway, config).resumed);
    }
    for config in &new_friends {
        assert!(ask(gateway.web(), config, "h.test", "h.test").is_err());
    }
    put(&after);
    eventually("the new authority counts", || {
        ask(gateway.web(), &new_friends[0], "h.test", "h.test").is_ok()
    });
    for config in &old_friends {
        assert!(ask(gateway.web(), config, "h.test", "h.test").is_err(), "an old session lets nobody in");
    }
    // A file that is no authority any more closes the host, and the next sound one opens it.
    std::fs::write(folder.path().join("ca.pem"), "nothing").unwrap();
    eventually("the mistake is told", || gateway.problems().iter().any(|problem| problem.contains("ca.pem")));
    put(&after);
    eventually("it is served again", || ask(gateway.web(), &new_friends[0], "h.test", "h.test").is_ok());
}
