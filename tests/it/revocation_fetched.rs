//! Revocation lists from URLs: fetched in the background, and kept while their server fails.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use crate::revocation::{ask, routes};
use crate::support::backend::unused_address;
use crate::support::pki::{Authority, client};
use crate::support::{Backend, Gateway, eventually, get};

/// A server of one list, or of nothing.
fn server() -> (Backend, Arc<Mutex<Option<Vec<u8>>>>) {
    let list = Arc::new(Mutex::new(None::<Vec<u8>>));
    let shown = list.clone();
    let backend = Backend::with(move |_, stream| {
        let list = shown.lock().unwrap().clone();
        let (status, body) = match &list {
            Some(list) => ("200 OK", list.as_slice()),
            None => ("500 Internal Server Error", &b""[..]),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body].concat()).is_ok()
    });
    (backend, list)
}

#[test]
fn lists_are_fetched_and_the_last_good_one_is_kept() {
    let backend = Backend::echo("a");
    let (root, namesake) = (Authority::new("Root"), Authority::new("Root"));
    let (good, bad) = (client(&root.issue("good")), root.issue("bad"));
    let (lists, list) = server();
    let url = format!("{}/root.crl", lists.url());
    let options = format!("revocation: {{crlUrls: ['{url}'], crlRefreshInterval: 1s}}");
    let gateway =
        Gateway::with(&["--metrics.prometheus=true"], &routes(&backend.url(), &root.certificate(), &options));
    let web = gateway.web();
    let seen = || lists.seen().len();
    eventually("it was asked for", || seen() > 0);
    assert!(ask(web, &good).is_err(), "nobody is admitted before there is a list");
    let problems = || gateway.api("/api/problems").trim().to_owned();
    eventually("the problem is shown", || problems().contains("no list has been fetched yet"));
    let old = root.list_of(-30, 30).der().to_vec();
    *list.lock().unwrap() = Some(old.clone());
    eventually("the list is there", || ask(web, &good) == Ok(200));
    assert_eq!(problems(), "[]");
    assert_eq!(ask(web, &client(&bad)), Ok(200));
    root.revoke(bad.serial);
    *list.lock().unwrap() = Some(root.list_in_der());
    eventually("the revocation counts", || ask(web, &client(&bad)).is_err());
    assert_eq!(ask(web, &good), Ok(200));
    let metrics = get(gateway.address("traefik"), "h", "/metrics").text();
    let expires = metrics
        .lines()
        .find(|line| line.starts_with("tidegate_revocation_list_next_update_timestamp_seconds{"))
        .unwrap();
    assert!(expires.contains(&url), "{expires}");
    // An older list, one of another authority, an outage, nonsense, too much: the last good one stays.
    for (content, why) in [
        (Some(old), "issued before the last list"),
        (Some(namesake.list()), "the signature is not that of the issuer"),
        (None, "the server returned 500"),
        (Some(b"<html>".to_vec()), "invalid revocation list"),
        (Some(vec![0; (16 << 20) + 1]), "revocation list"),
    ] {
        *list.lock().unwrap() = content;
        eventually(why, || problems().contains(why) && problems().contains("the last list stays in use"));
        assert!(ask(web, &client(&bad)).is_err(), "{why}");
        assert_eq!(ask(web, &good), Ok(200), "{why}");
        *list.lock().unwrap() = Some(root.list());
        eventually("all is well again", || problems() == "[]");
    }
}

#[test]
fn without_a_server_the_policy_decides() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let own = client(&root.issue("own"));
    let url = format!("http://{}/", unused_address());
    for (policy, is_admitted) in [("deny", false), ("allow", true)] {
        let options = format!("revocation: {{crlUrls: ['{url}'], unknownStatus: {policy}}}");
        let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), &options));
        assert_eq!(ask(gateway.web(), &own) == Ok(200), is_admitted, "{policy}");
    }
}

#[test]
fn a_list_survives_changes_of_the_configuration() {
    let backend = Backend::echo("a");
    let root = Authority::new("Root");
    let own = client(&root.issue("own"));
    let (lists, list) = server();
    *list.lock().unwrap() = Some(root.list());
    let options = format!("revocation: {{crlUrls: ['{}']}}", lists.url());
    let gateway = Gateway::serve(&routes(&backend.url(), &root.certificate(), &options));
    eventually("the list is there", || ask(gateway.web(), &own) == Ok(200));
    assert_eq!(lists.seen().len(), 1);
    let before = gateway.generation();
    gateway.write(
        "routes.yml",
        &routes(
            &backend.url(),
            &root.certificate(),
            &format!("{options}, clientAuthType: VerifyClientCertIfGiven"),
        ),
    );
    eventually("the change is served", || gateway.generation() > before);
    assert_eq!(ask(gateway.web(), &own), Ok(200));
    assert_eq!(lists.seen().len(), 1, "it is not fetched again");
}
